"""The sampler on the host beside transformers' processors, the graphs' draws and real passes."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))
from parse_models import VOCAB, eager, quiet, save, save_head
from transformers.generation import logits_process as hf

from parse_runtime.capture.record import Settings
from parse_runtime.engine.batch import Sampling
from parse_runtime.engine.request import Request
from parse_runtime.engine.rules import Rules
from parse_runtime.engine.scheduler import Scheduler
from parse_runtime.kernels.sample import gumbel as graph_gumbel
from parse_runtime.kernels.sample import sample
from parse_runtime.sampling import processors
from parse_runtime.sampling.noise import gumbel
from parse_runtime.sampling.processing import Processing
from parse_runtime.sampling.sampler import Sampler
from parse_runtime.text.grammar import Grammars
from parse_runtime.text.spelling import Spelling
from parse_runtime.text.tokenizer import Tokenizer
from parse_runtime.text.translation import SameTokens
from tests.unit.parse_fakes import Heard

SIZE = 500


def rows(seed: int, count: int = 20) -> np.ndarray:  # type: ignore[type-arg]
    return np.random.default_rng(seed).normal(scale=3, size=(count, SIZE)).astype(np.float32)


def same(ours: np.ndarray, theirs: torch.Tensor) -> None:  # type: ignore[type-arg]
    assert np.array_equal(np.isinf(ours), np.isinf(theirs.numpy()))
    assert np.allclose(ours, theirs.numpy(), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("seed", range(5))
def test_processors_are_those_of_transformers(seed: int) -> None:
    scores = rows(seed, 1)
    ids = np.random.default_rng(seed).integers(0, SIZE, (1, 30))
    seen, inputs = np.unique(ids), torch.from_numpy(ids)
    for k in (1, 7, SIZE - 1):
        ours = scores[0].copy()
        processors.keep_top_k(ours, k)
        same(ours[None], hf.TopKLogitsWarper(k)(inputs, torch.from_numpy(scores)))
    for p in (0.05, 0.5, 0.9, 0.999):
        ours = scores[0].copy()
        processors.keep_nucleus(ours, p)
        same(ours[None], hf.TopPLogitsWarper(p)(inputs, torch.from_numpy(scores)))
    for p in (0.01, 0.3, 1.0):
        ours = scores[0].copy()
        processors.keep_min_p(ours, p)
        same(ours[None], hf.MinPLogitsWarper(p)(inputs, torch.from_numpy(scores)))
    for penalty in (0.5, 1.3):
        ours = scores[0].copy()
        processors.penalize_repetition(ours, seen, penalty)
        same(
            ours[None],
            hf.RepetitionPenaltyLogitsProcessor(penalty)(inputs, torch.from_numpy(scores.copy())),
        )
    assert np.allclose(
        processors.log_softmax(scores[0]), torch.from_numpy(scores[0]).log_softmax(-1), atol=1e-5
    )


def test_all_fields_together_are_transformers_list_of_processors() -> None:
    """What may be drawn, by ours and by theirs in the order of transformers' `generate`."""
    prompt, stops = [3, 4, 5, 5], [7, 9]
    fields = Processing(
        repetition_penalty=1.4, logit_bias={11: 4.0, 12: -6.0}, min_tokens=3, top_k=40, min_p=0.02
    )
    made = Sampler(fields, 0.7, 0.9, 1, prompt, stops)
    theirs = hf.LogitsProcessorList(
        [
            hf.SequenceBiasLogitsProcessor([[[i], b] for i, b in fields.logit_bias.items()]),
            hf.RepetitionPenaltyLogitsProcessor(1.4),
            hf.MinNewTokensLengthLogitsProcessor(len(prompt), 3, stops, device="cpu"),
            hf.TemperatureLogitsWarper(0.7),
            hf.TopKLogitsWarper(40),
            hf.TopPLogitsWarper(0.9),
            hf.MinPLogitsWarper(0.02),
        ]
    )
    ids = list(prompt)
    for position, row in enumerate(rows(9, 12)):
        row[stops] += 5
        expected = theirs(torch.tensor([ids]), torch.from_numpy(row[None].copy()))[0].numpy()
        draws = {made.choose(row, 100 * position + i) for i in range(300)}
        assert draws <= set(np.flatnonzero(np.isfinite(expected)))
        likely = np.exp(expected - expected.max())
        assert set(np.flatnonzero(likely / likely.sum() > 0.05)) <= draws
        token = int(expected.argmax())
        made.advance(token)
        ids.append(token)


def test_the_noise_and_the_draw_are_those_of_the_graphs() -> None:
    seeds = [0, 1, (1 << 63) - 1, 0x123456789ABCDEF]
    ids = np.arange(SIZE)
    for seed in seeds:
        theirs = graph_gumbel(torch.tensor([seed]), torch.tensor([77]), SIZE)[0]
        assert np.allclose(gumbel(seed, 77, ids), theirs, rtol=1e-5, atol=1e-6)
    many = rows(2, 200)
    for temperature, top_p in ((0.0, 1.0), (0.8, 1.0), (1.3, 0.7)):
        positions = torch.arange(200)
        theirs = sample(
            torch.from_numpy(many), torch.full((200,), temperature), torch.full((200,), top_p),
            torch.full((200,), seeds[2]), positions,
        )  # fmt: skip
        made = Sampler(Processing(), temperature, top_p, seeds[2], [1], [0])
        assert [made.choose(row, i) for i, row in enumerate(many)] == theirs.tolist()


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sampling")
    save(folder / "target", "llama")
    quiet(folder / "target", 0.3)
    save_head(folder / "head", folder / "target", good=True)
    return folder


def asked(number: int, temperature: float, processing: Processing, rounds: int = 0) -> Request:
    prompt = [65 + number, 66, 67 + number]
    return Request(
        prompt=prompt, draft_prompt=prompt, suffix=[1, 2], stops=frozenset({260}),
        translation=SameTokens(frozenset({260})), cuts=lambda draft: [len(draft)],
        max_new_tokens=16, rules=Rules(max_rounds=rounds, stride=4),
        sampling=Sampling(temperature, 0.9, number), processing=processing,
    )  # fmt: skip


def answers(scheduler: Scheduler, requests: Sequence[Request]) -> list[Heard]:
    heard = [Heard() for _ in requests]
    for one, listener in zip(requests, heard, strict=True):
        scheduler.submit(one, listener)
    while scheduler.step():
        pass
    assert all(listener.error is None for listener in heard), heard
    return heard


@pytest.mark.parametrize("drafts", ["plain", "eagle", "speculate", "bfloat16"])
def test_what_changes_nothing_gives_the_graphs_own_tokens(models: Path, drafts: str) -> None:
    """Beside others in one batch, whichever way those are answered."""
    settings = Settings(
        model=str(models / "target"), max_len=64, slots=3, prefill="8,32", verify="32x2",
        eagle=str(models / "head") if drafts == "eagle" else "",
        speculate="draft" if drafts == "speculate" else "",
        dtype="bfloat16" if drafts == "bfloat16" else "float32",
    )  # fmt: skip
    _, target, draft, _ = eager(settings)
    scheduler = Scheduler(target, draft)
    neutral = Processing(logprobs=0)
    for temperature in (0.0, 0.8):
        graphs = answers(scheduler, [asked(i, temperature, Processing()) for i in range(3)])
        mixed = [
            asked(0, temperature, neutral),
            asked(1, temperature, Processing()),
            asked(2, temperature, neutral),
            asked(3, temperature, Processing(top_k=3, presence_penalty=1.5), rounds=1),
            asked(4, temperature, Processing(), rounds=1),
        ]
        together = answers(scheduler, mixed)
        assert [h.said for h in together[:3]] == [h.said for h in graphs]
        for one, heard in zip(mixed, together, strict=True):
            assert answers(scheduler, [one])[0].said == heard.said
        assert together[3].said != answers(
            scheduler, [replace(mixed[3], processing=Processing(), rules=Rules(max_rounds=0))]
        )[0].said  # fmt: skip


def test_bytes_of_tokens_are_those_of_llguidance(models: Path) -> None:
    llguidance = pytest.importorskip("llguidance", reason="pip install 'foundry-graphs[grammar]'")
    text = (models / "target" / "tokenizer.json").read_text()
    fallback = (
        '{"version": "1.0", "added_tokens": [{"id": 0, "content": "<s>", "special": true, '
        '"single_word": false, "lstrip": false, "rstrip": false, "normalized": false}], '
        '"normalizer": {"type": "Replace", "pattern": {"String": " "}, "content": "\\u2581"}, '
        '"pre_tokenizer": null, "post_processor": null, "truncation": null, "padding": null, '
        '"decoder": {"type": "Sequence", "decoders": [{"type": "Replace", "pattern": '
        '{"String": "\\u2581"}, "content": " "}, {"type": "ByteFallback"}, {"type": "Fuse"}]}, '
        '"model": {"type": "BPE", "byte_fallback": true, "vocab": {"<s>": 0, "\\u2581the": 1, '
        '"<0xE2>": 2, "\\u00e9": 3, "a": 4}, "merges": []}}'
    )
    for json_text in (text, fallback):
        tokenizer = Tokenizer.from_json(json_text)
        spelling, oracle = Spelling(tokenizer), llguidance.LLTokenizer(json_text)
        special = [t for t in range(tokenizer.size) if oracle.is_special_token(t)]
        for token in range(tokenizer.size):
            if token not in special:
                assert spelling.data(token) == oracle.decode_bytes([token]), token
        named = tokenizer.piece(special[-1])
        assert named and spelling.data(special[-1]).decode() == spelling.text(special[-1]) == named
        assert spelling.data(VOCAB + 100) == b""
    assert Spelling(Tokenizer.from_json(fallback)).text(2) == "bytes:\\xe2"


def test_a_schema_bounds_white_space(models: Path) -> None:
    pytest.importorskip("llguidance", reason="pip install 'foundry-graphs[grammar]'")
    tokenizer = Tokenizer.from_json((models / "target" / "tokenizer.json").read_text())
    matcher = Grammars(tokenizer, [260]).json({"type": "object"}).start()
    made = Sampler(Processing(logit_bias={tokenizer.single(" "): 50}), 0, 1, 0, [1], [260])
    matcher.advance(tokenizer.single("{"))
    space = tokenizer.single(" ")
    count = 0
    while matcher.allowed(VOCAB)[space]:
        matcher.advance(made.choose(np.zeros(VOCAB, np.float32), 0))
        count += 1
    assert 0 < count <= 40 and not matcher.ended
