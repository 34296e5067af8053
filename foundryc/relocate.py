"""A bundle that may lie anywhere: three captures compared, and what they give proved elsewhere."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from foundryc.capture import Capture
from foundryc.compare import compare, growths, unclear
from foundryc.compare.alike import differences
from foundryc.elsewhere import Elsewhere
from foundryrt.atomic import place
from foundryrt.errors import FoundryError

if TYPE_CHECKING:
    from foundryc.cuda.recording import CudaRecording


def write_proved(
    path: Path,
    write: Callable[[Path, Capture], None],
    recording: CudaRecording,
    capture: Capture,
    elsewhere: Elsewhere,
    progress: Callable[[str], None],
) -> None:
    """`write` what the captures agree on to `path`, once it has run elsewhere with equal results.

    FoundryError where they do not agree, or with the node whose result is another one there.
    """
    from foundryc.cuda.bisect import first_to_differ
    from foundryc.cuda.proof import REMEDY, Unproved

    progress("comparing with other captures")
    again, moved = elsewhere.again(), elsewhere.moved()
    if any(differences(capture, again)):
        # It ran before the others and filled compilers' caches. Memory in which kernels were tuned
        # for that is in its arena alone.
        progress("capturing once more, with compilers' caches filled")
        again = elsewhere.rerun_first()
    compared = compare(capture, again, moved)
    if compared.growing:
        progress("capturing with more rows")
        more = elsewhere.grown, elsewhere.between
        growing = growths(capture, again, moved, more, progress)
        compared = replace(compared, growing=growing)
    rehearsal = recording.rehearse(capture)
    regions = [replace(r, written=r.name in rehearsal.written) for r in compared.regions]
    unproved = elsewhere.folder / path.name
    left_out = rehearsal.left_out(compared.tensors)
    write(unproved, replace(compared, regions=regions, unproved=left_out))
    progress("running it at another place")
    try:
        recording.prove(unproved, rehearsal)
    except Unproved as error:
        graph = recording.graphs[error.graph]
        node = first_to_differ(unproved, capture, error.graph, graph, progress)
        doubts = unclear(capture, again, moved)
        doubts.sort(key=lambda doubt: not doubt.startswith(f"{node.title}: "))
        noise = f"; taken for noise was, of {len(doubts)}: {doubts[0]}" if doubts else ""
        raise FoundryError(f"{error}; {node.text}{noise}; {REMEDY}, and report this") from None
    os.replace(unproved, place(path))
