"""What a calibration found about a pair of models: how a bundle stores it and goes by it."""

from __future__ import annotations

from typing import Any

import msgspec

from foundryrt.errors import FoundryError
from parse_runtime.signature.evidence import EVIDENCE, Score

FILE = "calibration.json"
"""Its name among a bundle's files."""
SEPARATES = 0.75
"""Area under the ROC curve of whole drafts from which verdicts are worth going by."""
NOT_SEPARATED = (
    "verdicts do not tell this pair's right drafts from wrong ones (area under the ROC curve below "
    f"{SEPARATES}): answers are not drafted whole unless --max-rounds asks for it"
)


class Calibration(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A fit of verdicts, and what it holds for."""

    weights: dict[str, float]
    """Of prefixes, by the names of `EVIDENCE`; what is missing does not count."""
    offset: float
    whole_weights: dict[str, float] = {}
    """Of whole drafts; empty where they are judged as prefixes are."""
    whole_offset: float = 0.0
    judge_prompt: str
    """The question that was asked; empty for none."""
    threshold: float
    """From which a verdict accepts."""
    auc: float
    """Of whole drafts, cross-validated."""
    models: str
    """`Session.weights_digest` of the bundle that it was fitted on."""
    report: dict[str, Any] = {}
    """What else was found; for people."""

    @property
    def score(self) -> Score:
        """As verify passes take it."""
        whole = _score(self.whole_weights, self.whole_offset) if self.whole_weights else None
        return _score(self.weights, self.offset, whole)

    @property
    def separates(self) -> bool:
        """Whether verdicts tell right drafts from wrong ones."""
        return self.auc >= SEPARATES

    @property
    def rules(self) -> dict[str, Any]:
        """Settings in place of the captured ones; without verdicts no answer is drafted whole."""
        found: dict[str, Any] = {"judge_prompt": self.judge_prompt, "threshold": self.threshold}
        return found if self.separates else {**found, "max_rounds": 0}

    def packed(self) -> bytes:
        """As a bundle stores it."""
        return msgspec.json.format(msgspec.json.encode(self), indent=1)

    @staticmethod
    def read(data: bytes, models: str) -> Calibration:
        """FoundryError where it cannot be read, or was fitted on models other than `models`."""
        try:
            found = msgspec.json.decode(data, type=Calibration)
            unknown = sorted({*found.weights, *found.whole_weights} - set(EVIDENCE))
            if unknown:
                raise ValueError(f"no evidence is called {unknown[0]!r}")
        except (ValueError, RecursionError) as error:
            raise FoundryError(
                f"the bundle's {FILE} cannot be read: {error}; run foundryc calibrate again"
            ) from None
        if found.models != models:
            raise FoundryError(
                f"the bundle's {FILE} is of other models: run foundryc calibrate again"
            )
        return found


def _score(weights: dict[str, float], offset: float, whole: Score | None = None) -> Score:
    return Score(tuple(weights.get(name, 0.0) for name in EVIDENCE), offset, whole)
