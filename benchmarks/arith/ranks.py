"""The trained pair on several ranks beside one: which answers differ, and where they part.

Each number of ranks answers the same problems by each method, in a process of its own.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any

from typer import BadParameter, Option

from benchmarks.arith import bundles
from benchmarks.arith.evaluate import Target
from benchmarks.arith.methods import METHODS
from benchmarks.device import cpu, gpu
from benchmarks.parallel.run import gpus_of, side_by_side
from benchmarks.report import RESULTS, Output, Report, chosen, say, today
from benchmarks.start.cold import process

COMPARED = ("target", "target+eagle3", "parse", "parse+eagle3")
DTYPES = ("float32", "bfloat16")
LIMIT = 180.0
"""Seconds of a process."""


def run(
    ranks: Annotated[int, Option(help="Processes, one a GPU.")] = 2,
    target: Annotated[Target, Option(help="Where they run.")] = Target.CUDA,
    devices: Annotated[str, Option(help="GPUs, as 0,1 of those that are visible.")] = "",
    dtypes: Annotated[str, Option(help="Of the weights.")] = ",".join(DTYPES),
    problems: Annotated[int, Option(help="That each method answers.")] = 256,
    concurrent: Annotated[int, Option(help="Answers at a time.")] = 16,
    seed: Annotated[int, Option(help="Of the problems.")] = 1000,
    output: Output = RESULTS / "tp.json",
) -> None:
    """Answer the arithmetic pair's problems on one rank and on several, and compare the answers."""
    on_host = target is Target.HOST
    if ranks < 2:
        raise BadParameter(f"{ranks}: two at least", param_hint="--ranks")
    gpus = "" if on_host else gpus_of(ranks, devices)
    report = Report(output, {
        "date": today(), "device": cpu() if on_host else gpu(), "devices": gpus, "seed": seed,
    })  # fmt: skip
    with tempfile.TemporaryDirectory() as name:
        for dtype in chosen(dtypes, DTYPES, "--dtypes"):
            worlds = (1, ranks)
            paths = side_by_side([
                partial(
                    bundles.capture, Path(name) / f"{dtype}.{world}", bundles.WEIGHTS,
                    target.value, dtype, concurrent, 5, 1, {"pair", "eagle3"}, world,
                )
                for world in worlds
            ])  # fmt: skip
            say(f"{dtype}: captured")
            answered: list[dict[str, Any]] = []
            for world, own in zip(worlds, paths, strict=True):
                used = gpus if world > 1 else gpus.split(",")[0]
                answered.append({})
                for kind, path in own.items():
                    methods = [name for name in COMPARED if METHODS[name].bundle == kind]
                    command = (
                        sys.executable, "-m", "benchmarks.arith.answers", path, world, used,
                        problems, concurrent, seed, ",".join(methods),
                    )  # fmt: skip
                    answered[-1] |= process(*command, limit=LIMIT)[0]
                say(f"{dtype}, {world} ranks: answered")
            found = {method: compared(method, *answered) for method in COMPARED}
            for method, one in found.items():
                say(f"{dtype} {method}: {one['equal']} of {one['problems']} equal")
            report.save(f"pair_{dtype}_{ranks}", {"concurrent": concurrent, "methods": found})


def compared(method: str, one: dict[str, Any], several: dict[str, Any]) -> dict[str, Any]:
    """A method's answers by one rank and by several; of those that differ, where they part."""
    both = one[method], several[method]
    differing = []
    pairs = zip(*(each["answers"] for each in both), strict=True)
    for problem, (first, second) in enumerate(pairs):
        if first["text"] == second["text"]:
            continue
        alone = [each["target"]["answers"][problem] for each in (one, several)]
        differing.append({"problem": problem, **parting(first, second, alone)})
    problems = len(both[0]["answers"])
    return {
        "problems": problems,
        "equal": problems - len(differing),
        "differing": differing,
        "right": [each["right"] for each in both],
        "tokens_per_second": [each["tokens_per_second"] for each in both],
    }


def parting(
    first: dict[str, Any], second: dict[str, Any], alone: Sequence[dict[str, Any]]
) -> dict[str, Any]:
    """Where two answers part: a verdict that the threshold lies between, or a token.

    Of the token, by how much it was likelier than the next one to each (`margins`, natural
    logarithms), as far as the target `alone` has written the same until there.
    """
    for turn, verdicts in enumerate(zip(first["verdicts"], second["verdicts"], strict=False)):
        for (length, own), (other, theirs) in zip(*verdicts, strict=False):
            if length != other:
                break
            if (own >= first["threshold"]) != (theirs >= second["threshold"]):
                return {"round": turn, "length": length, "verdicts": [own, theirs]}
    texts = first["text"], second["text"]
    unlike = (at for at, (a, b) in enumerate(zip(*texts, strict=False)) if a != b)
    at = next(unlike, min(map(len, texts)))
    margins = []
    for answer in alone:
        before = [margin for offset, margin in answer["margins"] if offset <= at]
        if before and answer["text"][:at] == first["text"][:at]:
            margins.append(before[-1])
    return {"character": at, "margins": margins}
