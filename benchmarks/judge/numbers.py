"""What whole drafts' verdicts would gain from evidence of the drafted numbers apart.

Verify passes do not have it: it is tried on gathered drafts alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from benchmarks.judge.lines import Line
from parse_runtime.calibration.collect import Samples
from parse_runtime.calibration.fit import (
    Numbers,
    auc_interval,
    best_penalty,
    cross_validated,
)
from parse_runtime.text.tokenizer import Tokenizer


def of_numbers(line: Line, tokenizer: Tokenizer) -> list[float]:
    """Log-likelihood, its least, entropy and disagreements of tokens that are digits."""
    drafted = line["draft"]["tokens"]
    rows = [i for i, t in enumerate(drafted) if tokenizer.decode([t]).strip().isdigit()]
    own = [line["log_likelihood"][i] for i in rows]
    unlike = sum(drafted[i] != line["choices"][i] for i in rows)
    return [sum(own), min(own, default=0.0), sum(line["entropy"][i] for i in rows), unlike]


def tried(lines: Sequence[Line], samples: Samples, tokenizer: Tokenizer) -> dict[str, Any]:
    """AUC of whole drafts by all evidence, without and with that of numbers; cross-validated."""
    whole = samples.whole
    plain, right, groups = samples.evidence[whole], samples.right[whole], samples.groups[whole]
    more = np.asarray([of_numbers(line, tokenizer) for line in lines])

    def area(x: Numbers) -> dict[str, float | int]:
        penalty = best_penalty(x, right, groups)
        scores = cross_validated(x, right, groups, penalty, np.ones_like(right))
        return auc_interval(scores, right, groups)

    return {"without": area(plain), "with": area(np.column_stack((plain, more)))}
