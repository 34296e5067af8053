"""`foundryc capture --workload parse`: the passes of a target and a draft model as graphs."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from foundryrt.errors import UsageError
from parse_runtime.inputs import inputs
from parse_runtime.judge import PROMPT
from parse_runtime.rules import Rules
from parse_runtime.shapes import DTYPES, Shapes, Tree
from parse_runtime.text.chat import Chat
from parse_runtime.weights.eagle3 import open_head
from parse_runtime.weights.source import Model, open_model

if TYPE_CHECKING:
    from parse_runtime.passes import Passes

__all__ = ["Settings", "build", "inputs", "record"]


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


def record(recorder: Any, settings: Settings) -> None:
    """Register both models' weights and caches, and record every pass once."""
    # Imported late: a capture's options and its key do not need torch.
    import torch

    target = open_model(settings.model)
    draft = open_model(settings.draft) if settings.draft else target
    tokenizer = target.text.tokenizer
    unlike = draft.text.tokenizer.fingerprint != tokenizer.fingerprint
    if unlike and settings.speculate:
        raise UsageError(
            f"speculate draft: the tokenizer of {settings.draft} is not that of {settings.model}"
        )
    for model in (target, draft):
        if settings.max_len > model.config.max_positions:
            raise UsageError(
                f"max-len {settings.max_len} exceeds the model's {model.config.max_positions}"
            )
    chat = _chat(target, settings)
    suffix = tokenizer.encode(chat.judge_suffix("", settings.judge_prompt))
    if len(suffix) > max(length for length, _ in settings.shapes().verify):
        raise UsageError(f"verify {settings.verify}: no room for the judge's {len(suffix)} tokens")
    recorder.attach("tokenizer.json", target.text.tokenizer_json.encode())
    recorder.attach("chat.json", _json(chat))
    if unlike:
        recorder.attach("draft.tokenizer.json", draft.text.tokenizer_json.encode())
        recorder.attach("draft.chat.json", _json(draft.text.chat))
    words = (tokenizer.single(settings.yes), tokenizer.single(settings.no))
    with torch.inference_mode():
        graphs = [
            graph
            for passes in build(
                recorder.register, settings, target, draft, words, recorder.compiled
            )
            for graph in passes.graphs()
        ]
        if recorder.target == "cuda":
            with recorder.warm_up():
                for _, _, run in graphs:
                    run()
        for name, key, run in graphs:
            with recorder.graph(name, **key) as graph:
                for output, tensor in run().items():
                    graph.output(output, tensor)


def build(
    register: Any,
    settings: Settings,
    target: Model,
    draft: Model,
    words: tuple[int, int],
    compiled: Any = lambda function: function,
) -> list[Passes]:
    """The target's and the draft's passes; one model's weights are registered once."""
    from parse_runtime.passes import Passes, load_parameters

    shapes = settings.shapes()
    weights = load_parameters("target", target.parameters, settings.dtype, register)
    head = None
    if settings.eagle:
        config, recipes = open_head(settings.eagle, target.config)
        head = config, load_parameters("eagle", recipes, settings.dtype, register)
    passes = Passes("target", target.config, weights, shapes, register, words, compiled, head)
    if draft is not target:
        weights = load_parameters("draft", draft.parameters, settings.dtype, register)
    drafting = replace(shapes, verify=(), tree=None)
    return [passes, Passes("draft", draft.config, weights, drafting, register, compiled=compiled)]


def _json(chat: Chat) -> bytes:
    return json.dumps(chat.to_dict(), indent=1, sort_keys=True).encode()


def _chat(model: Model, settings: Settings) -> Chat:
    if not settings.chat_template:
        return model.text.chat
    try:
        template = Path(settings.chat_template).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"chat-template {settings.chat_template}: {error}") from error
    return replace(model.text.chat, template=template)
