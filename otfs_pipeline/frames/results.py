"""The sink of results: files of bits and LLRs, counted bit errors, symbols to plot."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from foundryrt.atomic import AtomicFile
from foundryrt.errors import FoundryError
from otfs_pipeline.frames.condition import OUTPUTS, Conditions, Fit
from otfs_pipeline.frames.source import Frame
from otfs_pipeline.options import Options
from otfs_pipeline.settings import Settings

PLOTTED_SYMBOLS = 20_000

Observer = Callable[[Frame, Mapping[str, np.ndarray], dict[str, Any]], None]
"""Is shown each frame, the receiver's outputs, and the entry of `Conditions`."""


@dataclass
class BitErrors:
    """Bits that were compared with those that were sent, and how many differed."""

    bits: int = 0
    wrong: int = 0

    def count(self, sent: np.ndarray, received: np.ndarray) -> int | None:
        """How many bits differ; None where it is not known what was `sent`."""
        if not sent.size:
            return None
        wrong = int(np.count_nonzero(sent != received))
        self.bits += sent.size
        self.wrong += wrong
        return wrong

    @property
    def rate(self) -> float | None:
        """None where nothing was compared."""
        return self.wrong / self.bits if self.bits else None


@dataclass
class CodingTally:
    """What the decoder's CRCs said, and bit errors before it where the payload is known."""

    frames: int = 0
    frame_errors: int = 0
    blocks: int = 0
    block_errors: int = 0
    uncoded: BitErrors = field(default_factory=BitErrors)

    def take(self, sent: np.ndarray, outputs: Mapping[str, np.ndarray]) -> int | None:
        """Count a frame; `sent` are its coded bits, empty where they are not known.

        Gives the bit errors before the decoder.
        """
        self.frames += 1
        self.frame_errors += int(outputs["frame_error"])
        self.blocks += outputs["block_errors"].size
        self.block_errors += int(np.count_nonzero(outputs["block_errors"]))
        return self.uncoded.count(sent, outputs["bits"].reshape(-1))


class Results:
    """Takes the outputs of each frame; the files appear at `commit`, or not at all.

    bits file: each frame's payload, decoded where frames are coded, eight bits a byte, first bit
    highest, padded with zeros to a whole byte. llr file: each frame's LLRs, float32, little-endian,
    positive for 0. frame log: each frame's entry of `conditions`, a line each. `tells`: the
    receiver says how frames were, which those of older bundles do not.
    """

    def __init__(
        self,
        options: Options,
        settings: Settings,
        watch: Observer | None = None,
        tells: bool = True,
    ) -> None:
        self.frames = 0
        self.conditions = Conditions(settings) if options.frame_log or watch else None
        self.fit = self.conditions.fit if self.conditions else Fit(settings) if tells else None
        self._watch = watch
        self.payload = BitErrors()
        self.coding = CodingTally() if settings.transport_block else None
        self.symbols = np.empty(0, np.complex64)
        self._plotted = bool(options.constellation)
        self._files: dict[str, AtomicFile] = {}
        with ExitStack() as undo:
            for name, path in (
                ("bits", options.bits_out), ("llr", options.llr_out), ("log", options.frame_log),
            ):  # fmt: skip
                if path:
                    self._files[name] = undo.enter_context(_open(path))
            self._undo = undo.pop_all()

    @property
    def outputs(self) -> tuple[str, ...]:
        """The receiver's outputs that are needed, with the one that `stream.receive` checks."""
        decoded = ("payload", "block_errors", "frame_error") if self.coding else ()
        stored = ("llr",) if "llr" in self._files else ()
        fit = Fit.OUTPUTS if self.fit else ()
        told = (*fit, *(OUTPUTS if self.conditions else ()))
        return tuple(dict.fromkeys(("bits", "variance", *decoded, *stored, *told, *self.lazy)))

    @property
    def lazy(self) -> tuple[str, ...]:
        """Those of them that are needed of some frames only."""
        return ("symbols",) if self._plotted or self._watch else ()

    def take(self, frame: Frame, outputs: Mapping[str, np.ndarray]) -> None:
        """Results of one frame; FoundryError where a file cannot be written."""
        bits = outputs["payload" if self.coding else "bits"].reshape(-1)
        self.frames += frame.bits.size > 0
        errors = {"bit_errors": self.payload.count(frame.bits, bits)}
        if self.coding:
            errors["uncoded_bit_errors"] = self.coding.take(frame.coded, outputs)
        if self.conditions:
            entry = self.conditions.take(frame, outputs, errors)
            if "log" in self._files:
                line = json.dumps(entry, allow_nan=False) + "\n"
                self._append("log", np.frombuffer(line.encode(), np.uint8))
            if self._watch:
                self._watch(frame, outputs, entry)
        elif self.fit:
            self.fit.take(outputs)
        if "bits" in self._files:
            self._append("bits", np.packbits(bits))
        if "llr" in self._files:
            self._append("llr", outputs["llr"].astype("<f4", copy=False))
        if self._plotted and self.symbols.size < PLOTTED_SYMBOLS:
            both = np.concatenate([self.symbols, outputs["symbols"]])
            self.symbols = both[:PLOTTED_SYMBOLS]

    def _append(self, name: str, values: np.ndarray) -> None:
        out = self._files[name]
        try:
            out.file.write(np.ascontiguousarray(values).data)
        except OSError as error:
            raise FoundryError(f"{out.path}: {error.strerror}") from error

    def commit(self) -> None:
        """Put the files in their places."""
        for out in self._files.values():
            try:
                out.commit()
            except OSError as error:
                raise FoundryError(f"{out.path}: {error.strerror}") from error

    def __enter__(self) -> Results:
        return self

    def __exit__(self, *_: object) -> None:
        self._undo.close()


def _open(path: str) -> AtomicFile:
    try:
        return AtomicFile(Path(path))
    except OSError as error:
        raise FoundryError(f"{path}: {error.strerror}") from error
