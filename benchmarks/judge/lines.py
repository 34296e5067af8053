"""Gathered drafts (`gather.py`) as the samples that verdicts are fitted to."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.judge.humaneval import is_right
from parse_runtime.calibration.collect import Draft, Samples
from parse_runtime.kernels.evidence import summed
from parse_runtime.signature.evidence import SCOPES, STATISTICS, UNLIKELY, Evidence
from parse_runtime.text.tokenizer import Tokenizer

Line = dict[str, Any]


def read(file: Path) -> list[Line]:
    """The lines of a file, as they were asked for."""
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def evidence(line: Line, tokenizer: Tokenizer) -> Evidence:
    """As the verify pass of a bundle gives it."""
    drafted = np.asarray(line["draft"]["tokens"])
    count, cuts = len(drafted), line["cuts"]
    own = np.asarray(line["log_likelihood"])
    each = np.stack(
        (
            np.ones(count), drafted != line["choices"][:count], np.exp(own) < UNLIKELY, own,
            line["entropy"], line["draft_log_likelihood"], own,
        ), 1,
    )  # fmt: skip
    segments = torch.from_numpy(np.searchsorted(cuts, np.arange(1, count + 1)))
    numbers = [tokenizer.decode([token]).strip().isdecimal() for token in drafted.tolist()]
    counted = summed(
        torch.from_numpy(each.astype(np.float32)), torch.tensor(numbers), segments,
        torch.zeros(len(SCOPES), len(STATISTICS)), len(cuts),
    )  # fmt: skip
    odds = np.asarray(line["log_odds"], np.float32)
    return np.column_stack((odds, counted.numpy()))


def texts(line: Line, tokenizer: Tokenizer) -> dict[int, str]:
    """What PARSE answers by each cut that it may keep, 0 for none.

    Where nothing unlike what the target would have chosen is between two cuts, it goes on alike.
    """
    drafted, cuts = line["draft"]["tokens"], line["cuts"]
    behind = {int(cut): part["tokens"] for cut, part in line["behind"].items()}
    found = {0: tokenizer.decode(behind[0]), len(drafted): tokenizer.decode(drafted)}
    unlike = [a != b for a, b in zip(drafted, line["choices"], strict=False)]
    for i, cut in reversed(list(enumerate(cuts[:-1]))):
        if cut in behind:
            found[cut] = tokenizer.decode(drafted[:cut] + behind[cut])
        else:
            found[cut] = found[cuts[i + 1] if any(unlike[:cut]) else 0]
    return found


def samples(lines: list[Line], tokenizer: Tokenizer) -> Samples:
    """All cuts of all drafts, each labelled."""
    drafts = []
    for line in lines:
        found = texts(line, tokenizer)
        own = found.pop(0)
        right = {cut: is_right(text, line["answer"], own) for cut, text in found.items()}
        drafts.append(
            Draft(
                line["cuts"], evidence(line, tokenizer), right, is_right(own, line["answer"], own)
            )
        )
    return Samples(drafts)
