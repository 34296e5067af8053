"""`foundryc calibrate` of a parse bundle: verdicts fitted to its pair of models."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import msgspec

from foundryrt.console import write
from foundryrt.errors import UsageError
from foundryrt.options import option
from foundryrt.progress import progress_bar
from foundryrt.protocols import SessionLike
from parse_runtime.calibration import questions
from parse_runtime.calibration.answers import Question
from parse_runtime.calibration.calibrate import best, calibrated
from parse_runtime.calibration.collect import collect
from parse_runtime.engine.calibration import FILE, NOT_SEPARATED, Calibration
from parse_runtime.graphs.loading import load


@dataclass(frozen=True, kw_only=True)
class Calibrating:
    """What the pair is calibrated with."""

    questions: int = option(100, "how many of the questions that ship")
    input: str = option("", 'JSON lines {"prompt": ..., "answer": ...} in their place')
    seed: int = option(0, "of the questions that ship")
    max_new_tokens: int = option(96, "longest answer in tokens")
    judge_prompt: str | None = option(
        None, "the question to the judge; empty: none; by default the captured one, if it tells"
    )
    false_accepts: float = option(0.05, "share of wrong drafts that may be kept whole")

    def __post_init__(self) -> None:
        if self.questions < 10:
            raise UsageError(f"questions {self.questions}: at least 10 are needed")
        if not 0 <= self.false_accepts < 1:
            raise UsageError(f"false-accepts {self.false_accepts}: a share is needed")
        if self.max_new_tokens < 1:
            raise UsageError(f"max-new-tokens {self.max_new_tokens}: at least 1 is needed")


class _Line(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One question of a file; without an answer the target's own counts as right."""

    prompt: str
    answer: str = ""


def calibrate(
    session: SessionLike, options: Calibrating, json: bool
) -> tuple[dict[str, bytes], dict[str, object]]:
    """The files to put into the bundle, and what was found; printed unless `json`."""
    loaded = load(session, calibrated=False)
    asked = (
        _read(options.input) if options.input else questions.make(options.questions, options.seed)
    )
    rules, fit = loaded.rules, best
    if options.judge_prompt is not None:
        rules, fit = replace(rules, judge_prompt=options.judge_prompt), calibrated
    samples = collect(loaded, asked, rules, options.max_new_tokens, progress_bar)
    found = fit(samples, rules, session.weights_digest, options.false_accepts)
    report = {"separates": found.separates, **msgspec.to_builtins(found)}
    if not json:
        write(_text(found))
    return {FILE: found.packed()}, report


def _read(place: str) -> list[Question]:
    """The questions of a file; UsageError names a line that is none."""
    try:
        lines = Path(place).read_bytes().splitlines()
    except OSError as error:
        raise UsageError(f"{place}: {error.strerror}") from None
    found = []
    for number, line in enumerate(lines, start=1):
        if line.strip():
            try:
                one = msgspec.json.decode(line, type=_Line)
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
                raise UsageError(f"{place} line {number}: {error}") from None
            found.append(Question(one.prompt, one.answer))
    if not found:
        raise UsageError(f"{place}: no questions")
    return found


def _text(found: Calibration) -> str:
    r = found.report

    def area(name: str, part: str) -> str:
        if (value := r[name].get(part)) is None:
            return "unknown"
        return f"{value['value']:.2f} ({value['low']:.2f} to {value['high']:.2f})"

    def rate(name: str) -> str:
        value = r[name]
        if not value["count"]:
            return "none"
        return (
            f"{100 * value['share']:.1f} % ({100 * value['low']:.1f} to {100 * value['high']:.1f})"
        )

    lines = [
        f"{r['drafts']} drafts and {r['prefixes']} prefixes; right: target {rate('target_right')},"
        f" draft {rate('draft_right')}",
        f"area under the ROC curve: whole drafts {area('auc', 'drafts')}, "
        f"prefixes {area('auc', 'prefixes')}",
    ]
    lines += [
        f"... {what}: {area(name, 'drafts')}, {area(name, 'prefixes')}"
        for name, what in (
            ("auc_of_the_judge_alone", "of the judge's answer alone"),
            ("auc_without_the_judge", "without it"), ("auc_with_the_judge", "with it"),
        )
        if name in r
    ]  # fmt: skip
    if "auc_with_the_judge" in r:
        lines.append("the judge's answer adds nothing to the rest: it is not asked")
    lines += [
        f"at threshold {found.threshold:.3f}: false accepts {rate('false_accept')}, "
        f"false rejects {rate('false_reject')}",
        f"drafts kept whole: of wrong ones {rate('wrong_kept_whole')}, "
        f"of right ones {rate('right_kept_whole')}",
    ]
    if not found.separates:
        lines.append(NOT_SEPARATED)
    return "".join(f"{line}\n" for line in lines)
