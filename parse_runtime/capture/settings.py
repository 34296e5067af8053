"""Settings of `foundryc capture --workload parse`, and the sizes of passes they ask for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from foundryrt.errors import UsageError
from foundryrt.options import option
from parse_runtime.engine.rules import Rules
from parse_runtime.signature.evidence import scored_tokens
from parse_runtime.signature.plan import ALIGNMENT
from parse_runtime.signature.sizes import DTYPES, PassSizes, SharedSize, mixed_sizes, prompts_of
from parse_runtime.signature.tree import DraftTree

_T = TypeVar("_T")
_TREE_ROWS = 63
"""Ancestors are bits of one int64."""


@dataclass(frozen=True, kw_only=True)
class _Recorded:
    """What the graphs are made of."""

    model: str = option(..., "folder, .gguf file, org/name in the hub cache, or smollm2")
    draft: str = option("", "as --model; empty: the target drafts itself")
    max_len: int = option(512, "tokens of prompt and answer")
    slots: int = option(1, "sequences at a time")
    kv_tokens: int = option(0, "tokens of all sequences together; 0: slots x max-len")
    kv_most: int = option(
        0, "tokens that a session may give the caches room for (cuda); 0: as many as kv-tokens"
    )
    tp: int = option(1, "ranks, each with a GPU, that share the target model")
    run_ahead: bool = option(True, "decode steps begin before the host has read the last one's")
    decode: str = option("", "batches of decode passes; empty: 1,2,..64,96,128,.. and the slots")
    prefill: str = option("32,128", "rows of prefill passes; multiples of 32 take several prompts")
    mixed: str = option(
        "", "batches of decode steps that go beside prompts, in passes as prefill has; empty: none"
    )  # fmt: skip
    verify: str = option(
        "128x4,384x8", "ROWSxCUTS of verify passes, ROWSxCUTSxDRAFTS of those that up to so many "
        "drafts share"
    )  # fmt: skip
    evidence: str = option(
        "", "drafted tokens that verify passes take evidence of, as 64,128; empty: up to cuts x "
        "stride; 0: none"
    )  # fmt: skip
    evidence_share: float = option(
        0.5, "share of these that the target is asked about, those that the draft model is least "
        "sure of; the others count as the draft model says"
    )  # fmt: skip
    eagle: str = option("", "folder of an EAGLE-3 head of the target")
    speculate: str = option("", "draft: the draft model also drafts single tokens")
    eagle_depth: int = option(4, "tokens drafted ahead, by the head or the draft model")
    eagle_width: int = option(1, "nodes on each level of a head's drafts")
    fly_window: int = option(0, "drafted tokens that must agree behind another; 0: exact")
    fly_entropy: float = option(0.3, "share of the largest entropy from which another may stay")
    dtype: str = option("float32", "float32 or bfloat16")
    fp8_activations: bool = option(
        False, "prefill and verify passes round rows to FP8 for products with weights in FP8"
    )
    yes: str = option("Yes", "the judge's word for valid, one token")
    no: str = option("No", "and for invalid")
    chat_template: str = option("", "Jinja file to use for the model's own")


@dataclass(frozen=True, kw_only=True)
class Settings(Rules, _Recorded):
    """What is captured, and the rules that a run starts from (docs/parse.md)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.dtype not in DTYPES:
            raise UsageError(f"dtype {self.dtype!r}: one of {', '.join(DTYPES)}")
        if self.speculate not in ("", "draft"):
            raise UsageError(f"speculate {self.speculate!r}: draft, or nothing")
        if self.speculate and self.eagle:
            raise UsageError("speculate and eagle: one drafter of tokens is enough")
        for name in ("max_len", "slots", "tp", "eagle_depth", "eagle_width"):
            if getattr(self, name) < 1:
                raise UsageError(f"{name.replace('_', '-')}: at least 1 is needed")
        if self.kv_tokens and self.kv_tokens < self.max_len:
            raise UsageError(
                f"kv-tokens {self.kv_tokens}: less than one sequence of max-len {self.max_len}"
            )
        self._check_most()
        if not self.judge_prompt:
            raise UsageError("judge-prompt: the judge needs a question")
        if not 0 < self.evidence_share <= 1:
            raise UsageError(f"evidence-share {self.evidence_share}: above 0 and up to 1 is needed")
        self._check_loose()
        sizes = self.sizes()
        if max(sizes.batches) > self.slots:
            raise UsageError(f"decode {self.decode!r}: batches up to slots, {self.slots}")
        self._check_mixed(sizes)
        if sizes.tree and sizes.tree.rows > _TREE_ROWS:
            raise UsageError(
                f"eagle-depth {self.eagle_depth} and eagle-width {self.eagle_width} give "
                f"{sizes.tree.rows} rows; at most {_TREE_ROWS} are possible"
            )
        if max(sizes.prefill) > self.slots * self.max_len:
            raise UsageError(
                f"prefill {self.prefill!r}: the slots have {self.slots * self.max_len} tokens: "
                "give --prefill with passes of no more rows"
            )

    def _check_most(self) -> None:
        least = self.kv_tokens or self.slots * self.max_len
        if self.kv_most and self.kv_most < least:
            raise UsageError(f"kv-most {self.kv_most}: less than the capture's own {least} tokens")
        if self.kv_most and self.tp > 1:
            raise UsageError("kv-most: ranks keep the blocks of the capture; give --kv-tokens")

    def _check_mixed(self, sizes: PassSizes) -> None:
        if not (batches := _numbers(self.mixed)):
            return
        if max(batches) > self.slots:
            raise UsageError(f"mixed {self.mixed!r}: batches up to slots, {self.slots}")
        if {size.batch for size in sizes.mixed} != set(batches):
            raise UsageError(
                f"mixed {self.mixed!r}: each needs a prefill pass of {ALIGNMENT} rows more, not "
                f"only {self.prefill}"
            )
        if sizes.tree:
            raise UsageError(
                f"mixed {self.mixed!r}: where single tokens are drafted, steps are extend passes, "
                "which go with no prompts; leave out --eagle and --speculate, or --mixed"
            )
        if self.fp8_activations:
            raise UsageError(
                f"mixed {self.mixed!r}: a step's rows are never in FP8, those of prompts are: "
                "leave out --fp8-activations, or --mixed"
            )
        if not self.run_ahead:
            raise UsageError(f"mixed {self.mixed!r}: these steps run ahead: leave --run-ahead on")

    def _check_loose(self) -> None:
        if self.fly_window < 0 or not 0 <= self.fly_entropy <= 1:
            raise UsageError("fly-window and fly-entropy: a number of tokens, and a share")
        if not self.fly_window:
            return
        if self.eagle_width > 1 or not (self.eagle or self.speculate):
            raise UsageError("fly-window: needs --speculate draft, or --eagle with --eagle-width 1")
        if self.fly_window >= self.eagle_depth:
            raise UsageError(
                f"fly-window {self.fly_window}: needs an eagle-depth above it, not "
                f"{self.eagle_depth}"
            )

    def sizes(self) -> PassSizes:
        """Static sizes of the target's passes; UsageError where a list cannot be read."""
        prefill = _read("prefill", self.prefill, "write rows, such as 32,128", _numbers)
        if not prefill:
            raise UsageError("prefill '': at least one size is needed, such as 32,128")
        verify, shared = _read(
            "verify", self.verify, "write ROWSxCUTS, such as 128x4,384x8 or 128x4,256x4x3, at "
            "least one of them without drafts, and with more rows than cuts", _verify_sizes
        )  # fmt: skip
        batches = "write numbers of sequences, such as 1,4,8, or nothing"
        decode = _read("decode", self.decode, batches, _numbers)
        mixed = _read("mixed", self.mixed, batches, _numbers)
        scored = _read(
            "evidence", self.evidence, "write a number for each verify of one draft, or nothing",
            lambda asked: scored_tokens(verify, self.stride, asked),
        )  # fmt: skip
        possible = {cuts for _, cuts in verify}
        for rows, cuts, drafts in shared:
            if rows % ALIGNMENT or drafts < 2 or cuts not in possible:
                raise UsageError(
                    f"verify {rows}x{cuts}x{drafts}: drafts share passes of multiples of "
                    f"{ALIGNMENT} rows, 2 drafts at least, and as many cuts as a pass of one draft "
                    f"has: {', '.join(map(str, sorted(possible)))}"
                )
        width = self.eagle_width if self.eagle else 1
        return PassSizes(
            max_len=self.max_len,
            slots=self.slots,
            kv_tokens=self.kv_tokens,
            kv_most=self.kv_most,
            prefill=tuple(prefill),
            prompts=tuple(prompts_of(rows, self.slots) for rows in prefill),
            mixed=mixed_sizes(prefill, mixed, self.slots),
            verify=tuple(verify),
            shared=_for_slots(shared, self.slots),
            scored=scored,
            decode=tuple(decode),
            tree=DraftTree(self.eagle_depth, width) if self.eagle or self.speculate else None,
        )


def _read(name: str, text: str, form: str, read: Callable[[str], _T]) -> _T:
    """What a list of sizes says; UsageError, with its form, where it cannot be read."""
    try:
        return read(text)
    except ValueError:
        raise UsageError(f"{name} {text!r}: {form}; sizes are at least 1") from None


def _numbers(text: str) -> list[int]:
    """Ascending; ValueError for what is no list of sizes."""
    found = sorted({int(part) for part in text.split(",") if part})
    if found and found[0] < 1:
        raise ValueError(found[0])
    return found


def _verify_sizes(text: str) -> tuple[list[tuple[int, int]], list[SharedSize]]:
    """Of passes of one draft, and of several; ValueError for others, or none of the first."""
    single, shared = set(), set()
    for part in text.split(","):
        rows, cuts, *several = map(int, part.split("x"))
        if not 0 < cuts < rows:
            raise ValueError(part)
        if several:
            [drafts] = several
            shared.add(SharedSize(rows, cuts, drafts))
        else:
            single.add((rows, cuts))
    if not single:
        raise ValueError("no pass of one draft")
    return sorted(single), sorted(shared)


def _for_slots(shared: list[SharedSize], slots: int) -> tuple[SharedSize, ...]:
    """Without the drafts that there can never be, and the passes of which one is left."""
    most = [
        size._replace(drafts=min(size.drafts, slots, size.rows // ALIGNMENT)) for size in shared
    ]
    return tuple(sorted({size for size in most if size.drafts > 1}))
