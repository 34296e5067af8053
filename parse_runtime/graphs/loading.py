"""The models and the text files of an open parse bundle."""

from __future__ import annotations

import json
from dataclasses import dataclass
from weakref import WeakValueDictionary

from foundryrt.console import note
from foundryrt.errors import FoundryError, UsageError
from foundryrt.protocols import FilesLike, GraphsLike, SessionLike
from parse_runtime.engine.calibration import FILE, NOT_SEPARATED, Calibration
from parse_runtime.engine.prompts import Prompts, TextFormat
from parse_runtime.engine.rules import Rules
from parse_runtime.graphs.decoder import GraphDecoder
from parse_runtime.graphs.proposer import DraftProposer
from parse_runtime.graphs.target import GraphTarget
from parse_runtime.signature.evidence import scored_tokens
from parse_runtime.signature.passes import ModelSignature
from parse_runtime.signature.sizes import MixedSize, PassSizes, SharedSize
from parse_runtime.signature.tree import DraftTree
from parse_runtime.text.chat import Chat
from parse_runtime.text.tokenizer import Tokenizer
from parse_runtime.text.translation import Retokenization, SameTokens, TokenTranslation

_tokenizers: WeakValueDictionary[bytes, Tokenizer] = WeakValueDictionary()
"""Those in use, by the digest of the file that they were read from."""
UNLIKE = ("retokenize", "refuse")
UNLIKE_OPTION = (UNLIKE[0], "or refuse a pair whose tokenizers differ")
"""Default and help of the commands' option."""


@dataclass(frozen=True)
class Loaded:
    """A bundle, ready to answer."""

    target: GraphTarget
    draft: GraphDecoder
    prompts: Prompts
    rules: Rules
    """As the bundle was captured and calibrated."""
    captured: Rules
    """As it was captured."""


def load(
    session: SessionLike, unlike_tokenizers: str = "retokenize", calibrated: bool = True
) -> Loaded:
    """UsageError where the models' tokenizers differ and that is to be refused.

    `calibrated`: go by the bundle's calibration, where it has one.
    """
    if unlike_tokenizers not in UNLIKE:
        raise UsageError(f"unlike-tokenizers {unlike_tokenizers!r}: one of {', '.join(UNLIKE)}")
    target, draft = texts(session)
    captured, calibration = Rules.of(session.settings), None
    rules = captured
    if calibrated and FILE in session.files:
        calibration = Calibration.read(session.file(FILE), session.weights_digest)
        rules = rules.changed(calibration.rules)
        if not calibration.separates:
            _say_how_it_serves(session)
    return Loaded(
        *open_models(session),
        Prompts(
            target,
            draft,
            translation(target, draft, unlike_tokenizers),
            calibration,
            (session.settings["yes"], session.settings["no"]),
        ),
        rules,
        captured,
    )


def texts(bundle: FilesLike) -> tuple[TextFormat, TextFormat]:
    """Tokenizers and chat templates of target and draft, which may be the same."""
    target = _text_format(bundle, "")
    # A bundle of one tokenizer has it once.
    several = "draft.tokenizer.json" in bundle.files
    return target, _text_format(bundle, "draft.") if several else target


def _say_how_it_serves(session: GraphsLike) -> None:
    """A warning that the pair's verdicts are not gone by."""
    settings = session.settings
    if settings["eagle"] or settings["speculate"]:
        how = "the target answers, with exact speculation"
    else:
        how = "the target answers alone; capture with --speculate draft for exact speculation"
    note(f"warning: {NOT_SEPARATED}; {how}")


def open_models(session: GraphsLike) -> tuple[GraphTarget, GraphDecoder]:
    """Target and draft model of a bundle."""
    settings = session.settings
    # Bundles of before 2026-11-30 have no such setting: their passes leave plans as they are.
    run_ahead = settings.get("run_ahead", False)
    drafting = ModelSignature("draft", _sizes(session, "draft"), run_ahead=run_ahead)
    drafter = GraphDecoder(session, drafting)
    signature = ModelSignature(
        "target", _sizes(session, "target"), bool(settings["eagle"]), run_ahead
    )
    speculates = settings["speculate"] == "draft"
    proposer = DraftProposer(drafter, settings["eagle_depth"]) if speculates else None
    return GraphTarget(session, signature, proposer), drafter


def _sizes(session: GraphsLike, model: str) -> PassSizes:
    """Those that a bundle has passes for."""
    settings = session.settings

    def sizes(name: str, *keys: str) -> list[tuple[int, ...]]:
        found = (key for graph, key in session.graphs if graph == f"{model}.{name}")
        return sorted(tuple(int(key[part]) for part in keys) for key in found)

    if 0 < (settings.get("kv_tokens") or 0) < settings["max_len"]:
        raise FoundryError("the bundle's caches do not hold one sequence: capture it again")
    prefill = sorted(
        (int(key["len"]), int(key.get("prompts", 0)))
        for graph, key in session.graphs
        if graph == f"{model}.prefill"
    )
    mixed = sizes("mixed", "batch", "len", "prompts")
    width = settings["eagle_width"] if settings["eagle"] else 1
    judging = sorted(
        (int(key["len"]), int(key["cuts"]), int(key.get("drafts", 1)))
        for graph, key in session.graphs
        if graph == f"{model}.verify"
    )
    verify = tuple((length, cuts) for length, cuts, drafts in judging if drafts == 1)
    # Bundles of before 2026-11-29 have no such settings, and no evidence or other evidence.
    asked = settings["evidence"] if "evidence_share" in settings else "0"
    scored = scored_tokens(verify, settings["stride"], asked) if verify else ()
    found = PassSizes(
        max_len=settings["max_len"],
        slots=settings["slots"],
        prefill=tuple(length for length, _ in prefill),
        prompts=tuple(count for _, count in prefill if count),
        kv_tokens=settings.get("kv_tokens"),
        mixed=tuple(MixedSize(rows, prompts, batch) for batch, rows, prompts in mixed),
        verify=verify,
        shared=tuple(SharedSize(*size) for size in judging if size[2] > 1),
        scored=scored,
        decode=tuple(batch for (batch,) in sizes("decode", "batch")),
        tree=DraftTree(settings["eagle_depth"], width) if sizes("extend", "len") else None,
    )
    caches = (f"{model}.cache", f"{model}.eagle.cache")
    blocks = min((session.rows[name] for name in caches if name in session.rows), default=0)
    return found.holding(blocks) if blocks else found


def translation(target: TextFormat, draft: TextFormat, unlike_tokenizers: str) -> TokenTranslation:
    """How tokens go between two models; a warning on stderr where text has to be re-tokenized."""
    stops = frozenset(draft.chat.stops)
    if target.tokenizer.same_tokens(draft.tokenizer):
        return SameTokens(stops)
    if unlike_tokenizers == "refuse":
        raise UsageError(
            "the draft model's tokenizer is not the target's: take a draft model of the same "
            "family, or --unlike-tokenizers retokenize"
        )
    note("warning: the draft model's tokenizer is not the target's: drafts are re-tokenized")
    return Retokenization(target.tokenizer, draft.tokenizer, stops)


def _text_format(bundle: FilesLike, prefix: str) -> TextFormat:
    name = f"{prefix}tokenizer.json"
    try:
        tokenizer = _tokenizer(bundle, name)
        name = f"{prefix}chat.json"
        return TextFormat(tokenizer, Chat.from_dict(json.loads(bundle.file(name))))
    except (ValueError, LookupError, TypeError, OverflowError, RecursionError) as error:
        raise FoundryError(f"the bundle's {name} cannot be read: {error}") from error


def _tokenizer(bundle: FilesLike, name: str) -> Tokenizer:
    """A server may open bundles of one tokenizer, and reading it keeps other threads waiting."""
    digest = bundle.file_digest(name)
    tokenizer = _tokenizers.get(digest)
    if tokenizer is None:
        tokenizer = _tokenizers[digest] = Tokenizer.from_json(bundle.file(name).decode())
    return tokenizer
