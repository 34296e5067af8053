"""Settings of `foundryc capture --workload parse`, and the sizes of passes they ask for."""

from __future__ import annotations

from dataclasses import dataclass, field

from foundryrt.errors import UsageError
from parse_runtime.engine.judge import PROMPT
from parse_runtime.engine.rules import Rules
from parse_runtime.signature.sizes import DTYPES, Shapes, Tree

_TREE_ROWS = 63
"""Ancestors are bits of one int64."""


def _help(text: str) -> dict[str, str]:
    return {"help": text}


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What is captured, and the defaults that a run starts from (docs/parse.md)."""

    model: str = field(metadata=_help("folder, .gguf file, or smollm2"))
    draft: str = field(default="", metadata=_help("as --model; empty: the target drafts itself"))
    max_len: int = field(default=512, metadata=_help("tokens of prompt and answer"))
    slots: int = field(default=1, metadata=_help("sequences at a time"))
    decode: str = field(
        default="", metadata=_help("batches of decode passes; empty: 1,2,4,... up to the slots")
    )
    prefill: str = field(default="32,128", metadata=_help("lengths of prefill passes"))
    verify: str = field(default="128x4,384x8", metadata=_help("ROWSxCUTS of verify passes"))
    eagle: str = field(default="", metadata=_help("folder of an EAGLE-3 head of the target"))
    speculate: str = field(
        default="", metadata=_help("draft: the draft model also drafts single tokens")
    )
    eagle_depth: int = field(
        default=4, metadata=_help("tokens drafted ahead, by the head or the draft model")
    )
    eagle_width: int = field(default=1, metadata=_help("nodes on each level of a head's drafts"))
    dtype: str = field(default="float32", metadata=_help("float32 or bfloat16"))
    judge_prompt: str = field(default=PROMPT, metadata=_help("the question to the judge"))
    yes: str = field(default="Yes", metadata=_help("the judge's word for valid, one token"))
    no: str = field(default="No", metadata=_help("and for invalid"))
    threshold: float = field(default=0.5, metadata=_help("least verdict that accepts"))
    cut_at: str = field(default="stride", metadata=_help("stride, or sentence ends"))
    stride: int = field(default=16, metadata=_help("least tokens between cuts"))
    selection: str = field(
        default="first-failure", metadata=_help("first-failure or longest-accepted")
    )
    two_stage: bool = field(default=False, metadata=_help("judge the whole draft first"))
    max_rounds: int = field(default=1, metadata=_help("drafts an answer"))
    resume_tokens: int = field(default=16, metadata=_help("target tokens between rounds"))
    chat_template: str = field(default="", metadata=_help("Jinja file to use for the model's own"))

    def __post_init__(self) -> None:
        Rules.of(vars(self))
        if self.dtype not in DTYPES:
            raise UsageError(f"dtype {self.dtype!r}: one of {', '.join(DTYPES)}")
        if self.speculate not in ("", "draft"):
            raise UsageError(f"speculate {self.speculate!r}: draft, or nothing")
        if self.speculate and self.eagle:
            raise UsageError("speculate and eagle: one drafter of tokens is enough")
        for name in ("max_len", "slots", "eagle_depth", "eagle_width"):
            if getattr(self, name) < 1:
                raise UsageError(f"{name.replace('_', '-')}: at least 1 is needed")
        shapes = self.shapes()
        if max(shapes.batches) > self.slots:
            raise UsageError(f"decode {self.decode!r}: batches up to slots, {self.slots}")
        if shapes.tree and shapes.tree.rows > _TREE_ROWS:
            raise UsageError(
                f"eagle-depth {self.eagle_depth} and eagle-width {self.eagle_width} give "
                f"{shapes.tree.rows} rows; at most {_TREE_ROWS} are possible"
            )
        if not shapes.prefill or max(shapes.prefill) > self.max_len:
            raise UsageError(f"prefill {self.prefill!r}: lengths up to max-len {self.max_len}")

    def shapes(self) -> Shapes:
        """Static sizes of the target's passes; UsageError where a list cannot be read."""
        try:
            prefill = sorted({int(part) for part in self.prefill.split(",")})
            pairs = sorted({_pair(part) for part in self.verify.split(",")})
            decode = sorted({int(part) for part in self.decode.split(",") if part})
        except ValueError:
            raise UsageError(
                f"prefill {self.prefill!r} must look like 32,128, verify {self.verify!r} like "
                f"128x4,384x8, and decode {self.decode!r} like 1,4,8 or nothing"
            ) from None
        if min(*prefill, *decode, *(number for pair in pairs for number in pair)) < 1:
            raise UsageError("prefill, verify and decode: sizes must be at least 1")
        width = self.eagle_width if self.eagle else 1
        return Shapes(
            max_len=self.max_len,
            slots=self.slots,
            prefill=tuple(prefill),
            verify=tuple(pairs),
            decode=tuple(decode),
            tree=Tree(self.eagle_depth, width) if self.eagle or self.speculate else None,
        )


def _pair(text: str) -> tuple[int, int]:
    rows, cuts = text.split("x")
    return int(rows), int(cuts)
