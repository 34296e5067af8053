"""`foundryc capture --workload parse`: the passes of a target and a draft model as graphs."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from foundryrt.console import note
from foundryrt.errors import UsageError
from parse_runtime.capture.files import inputs
from parse_runtime.capture.fit import fitted
from parse_runtime.capture.settings import Settings
from parse_runtime.signature.passes import ModelSignature
from parse_runtime.text.chat import Chat
from parse_runtime.weights.eagle3 import open_head
from parse_runtime.weights.quantized import FP8
from parse_runtime.weights.source import Model, open_model

if TYPE_CHECKING:
    from foundryc.ranks import Ranks
    from foundryc.recorder import Recorder
    from parse_runtime.capture.parameters import Register
    from parse_runtime.capture.passes import Compile, Passes
    from parse_runtime.models.config import ModelConfig
    from parse_runtime.models.loose import LooseRule

_UNIT, _LARGEST = 256, 16 << 20
"""Bytes that an exchange counts in, and the most that a rank sends in one: memory for twice as many
of each rank is on every one."""

__all__ = ["Settings", "build", "fitted", "inputs", "record"]


def record(recorder: Recorder, settings: Settings) -> None:
    """Register both models' weights and caches, and record every pass once."""
    # Imported late: a capture's options and its key do not need torch.
    import torch

    from parse_runtime.capture.passes import record_graphs

    if settings.kv_most and recorder.target == "host":
        raise UsageError("kv-most: on host the caches keep the size of the capture")
    target, draft = _models(settings)
    words = _words(target, settings)
    if recorder.target == "cuda":
        _refuse_old_gpu(target, draft)
    ranks = None
    if settings.tp > 1:
        ranks = recorder.ranks(settings.tp, _exchanged(settings, target.config))
    _warn_of_no_end(settings, target, draft)
    recorder.attach("tokenizer.json", target.text.tokenizer.quick_json().encode())
    recorder.attach("chat.json", _json(target.text.chat))
    if not _same_tokens(target, draft):
        recorder.attach("draft.tokenizer.json", draft.text.tokenizer.quick_json().encode())
        recorder.attach("draft.chat.json", _json(draft.text.chat))
    with torch.inference_mode():
        models = build(recorder.register, settings, target, draft, words, recorder.compiled, ranks)
        graphs = [graph for passes in models for graph in passes.graphs()]
        if recorder.target == "cuda":
            with recorder.warm_up():
                for _, run in graphs:
                    run()
        record_graphs(recorder, graphs)


def _models(settings: Settings) -> tuple[Model, Model]:
    """Target and draft model, one object where they are the same; UsageError if they don't fit.

    Of several ranks the target is one's.
    """
    target = open_model(settings.model)
    if settings.chat_template:
        chat = _chat(target, settings.chat_template)
        target = replace(target, text=replace(target.text, chat=chat))
    draft = open_model(settings.draft) if settings.draft else target
    for model in (target, draft):
        if settings.max_len > model.config.max_positions:
            raise UsageError(
                f"max-len {settings.max_len} exceeds the model's {model.config.max_positions} "
                f"positions: give --max-len {model.config.max_positions} or less"
            )
    parameters = (*target.parameters, *draft.parameters)
    if settings.fp8_activations and not any(p.dtype == FP8 for p in parameters):
        raise UsageError(
            "fp8-activations: no weights of the model are in FP8; leave the option out, or take a "
            "checkpoint in FP8"
        )
    tree = settings.sizes().tree
    if tree and 0 < target.config.window <= tree.depth:
        raise UsageError(
            f"eagle-depth {tree.depth}: the model's sliding window of {target.config.window} "
            "tokens must be longer"
        )
    if not _same_tokens(target, draft):
        if settings.speculate:
            raise UsageError(
                f"speculate draft: the tokenizer of {settings.draft} is not that of "
                f"{settings.model}"
            )
    elif target.config.vocab != draft.config.vocab:
        # Each would read beyond its table at the other's padding, which stands for no token.
        shared = min(target.config.vocab, draft.config.vocab)
        target, draft = target.narrowed(shared), draft.narrowed(shared)
    if settings.tp == 1:
        return target, draft
    part = target.sharded(settings.tp)
    return part, part if draft is target else draft


def _refuse_old_gpu(*models: Model) -> None:
    """UsageError where weights are in FP8, which the GPU knows nothing of."""
    import torch

    if any(model.config.scale_block for model in models):
        capability = torch.cuda.get_device_capability()
        if capability < (8, 9):
            raise UsageError(
                "model: weights in FP8 need a GPU of compute capability 8.9 (Ada, Hopper) or more; "
                f"this one has {'.'.join(map(str, capability))}; take the unquantized weights"
            )


def _exchanged(settings: Settings, config: ModelConfig) -> int:
    """Bytes that a rank sends at a time: the rows of any pass, up to a bound for long ones."""
    sizes = settings.sizes()
    steps = sizes.batches[-1] * (sizes.tree.rows if sizes.tree else 1)
    rows = max(steps, *sizes.prefill, *(length for length, *_ in (*sizes.verify, *sizes.shared)))
    rows = max([rows, *(size.rows + size.batch for size in sizes.mixed)])
    size = rows * config.hidden * (4 if settings.dtype == "float32" else 2)
    return min(-(-size // _UNIT) * _UNIT, _LARGEST)


def _warn_of_no_end(settings: Settings, target: Model, draft: Model) -> None:
    """A warning on stderr for each model whose answers no token ends."""
    for name, model in {settings.model: target, settings.draft or settings.model: draft}.items():
        if not model.text.chat.stops:
            note(
                f"warning: {name}: no token ends an answer (no eos_token is known), so answers "
                "go on to --max-new-tokens"
            )


def _same_tokens(target: Model, draft: Model) -> bool:
    """Whether both models read and write the same ids."""
    return target.text.tokenizer.same_tokens(draft.text.tokenizer)


def _words(target: Model, settings: Settings) -> tuple[int, int]:
    """Ids of the judge's yes and no; UsageError where the judge cannot be asked, but is to be."""
    try:
        return _verdicts(target, settings)
    except UsageError as error:
        if settings.max_rounds:
            raise UsageError(f"{error}; --max-rounds 0 needs no judge") from None
        # Requests that ask for a verdict are refused (engine/prompts.py), so any ids will do.
        note(f"warning: only max_rounds 0 is possible with this bundle: {error}")
        return 0, 0


def _verdicts(target: Model, settings: Settings) -> tuple[int, int]:
    tokenizer = target.text.tokenizer
    suffix = tokenizer.encode(target.text.chat.judge_suffix("", settings.judge_prompt))
    if len(suffix) > max(length for length, _ in settings.sizes().verify):
        raise UsageError(f"verify {settings.verify}: no room for the judge's {len(suffix)} tokens")
    return tokenizer.verdicts(settings.yes, settings.no)


def build(
    register: Register,
    settings: Settings,
    target: Model,
    draft: Model,
    words: tuple[int, int],
    compiled: Compile = lambda layer: layer,
    ranks: Ranks | None = None,
    rank: int = 0,
) -> list[Passes]:
    """The target's and the draft's passes; one model's weights are registered once.

    With `ranks` the target is one's (`Model.sharded`), with the weights of `rank`. A capture has
    those of rank 0, as which its bundle is proved. A draft model of its own is not shared.
    """
    import torch

    from parse_runtime.capture.parameters import load_parameters
    from parse_runtime.capture.passes import Passes

    sizes = settings.sizes()
    weights = load_parameters("target", target.parameters, settings.dtype, register, rank)
    head = None
    if settings.eagle:
        config, recipes = open_head(settings.eagle, target.config)
        head = config, load_parameters("eagle", recipes, settings.dtype, register)
    likelihood = None
    if sizes.scored and _same_tokens(target, draft):
        found = ModelSignature("draft", sizes).likelihood
        likelihood = register(found.name, torch.tensor(found.initial), found.role)
    passes = Passes(
        "target", target.config, weights, sizes, register, words, compiled, head,
        loose=_loose_rule(settings), draft_likelihood=likelihood, asked=settings.evidence_share,
        run_ahead=settings.run_ahead,
        digits=target.text.tokenizer.digits if sizes.scored else (), ranks=ranks,
        fp8_activations=settings.fp8_activations,
    )  # fmt: skip
    if draft is not target:
        weights = load_parameters("draft", draft.parameters, settings.dtype, register)
    drafting = replace(sizes, verify=(), shared=(), scored=(), mixed=(), tree=None)
    drafts = Passes(
        "draft", draft.config, weights, drafting, register, compiled=compiled,
        likelihood=likelihood, run_ahead=settings.run_ahead,
        ranks=ranks if draft is target else None, fp8_activations=settings.fp8_activations,
    )  # fmt: skip
    return [passes, drafts]


def _json(chat: Chat) -> bytes:
    return json.dumps(chat.to_dict(), indent=1, sort_keys=True).encode()


def _chat(model: Model, template: str) -> Chat:
    try:
        text = Path(template).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else error
        raise UsageError(f"--chat-template {template}: cannot be read: {why}") from error
    return replace(model.text.chat, template=text, tool_template="")


def _loose_rule(settings: Settings) -> LooseRule | None:
    """Of the extend passes."""
    from parse_runtime.models.loose import LooseRule

    return LooseRule(settings.fly_window, settings.fly_entropy) if settings.fly_window else None
