"""Rows in FP8: bounds of their rounding, products in float64, the passes that round them."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parent))
from kernel_script import kernel_report
from parse_command import capture
from parse_models import GREEDY, eager, logits, require_smollm2, save
from parse_ranks import on_ranks
from quantized_cases import exact, exact_rows, quantize, rows_like
from quantized_models import KINDS, RowsInFp8, exact_logits, save_fp8
from test_parse_fp8 import CUTS, SUFFIX, TOKENS, error, passes, settings

from foundryrt.errors import UsageError
from foundryrt.session import Session
from parse_runtime.capture.eager import EagerSession
from parse_runtime.capture.parameters import load_parameters
from parse_runtime.engine.batch import Batch
from parse_runtime.graphs.loading import open_models
from parse_runtime.kernels.activations import fp8_activations, rounded
from parse_runtime.kernels.experts import experts
from parse_runtime.kernels.linear import linear, linear_parts
from parse_runtime.kernels.quantized import BLOCK
from parse_runtime.kernels.swiglu import linear_swiglu, swiglu
from parse_runtime.models.cache import Cache
from parse_runtime.models.decoder import Rows, forward
from parse_runtime.models.decoder import logits as all_logits
from parse_runtime.signature.plan import causal
from parse_runtime.signature.sizes import BLOCK as CACHE_BLOCK
from parse_runtime.weights.source import open_model

ROUNDING, UNDERFLOW, FLOAT32 = 2.0**-4, 2.0**-10, 2.0**-22
"""e4m3 has 4 bits: half of the last. Below 2**-6 it counts in 2**-9, of which half is lost."""
ROOT = Path(__file__).parents[2]
DECODED = (13, 14, 15)
"""Rows that `passes` decodes; it computes the others in a prefill and a verification."""


def bound(x: Tensor, scale: Tensor) -> Tensor:
    """How far rows in FP8 may be from x, in float64."""
    return torch.maximum(x.double().abs() * ROUNDING, scale * UNDERFLOW) * (1 + FLOAT32)


@st.composite
def rows(draw: st.DrawFn) -> Tensor:
    """Rows [T, K] of magnitudes from 1e-35 to 1e35, some of them zero, with outliers."""
    torch.manual_seed(draw(st.integers(0, 1 << 16)))
    count, k = draw(st.integers(1, 5)), draw(st.integers(1, 300))
    x = torch.randn(count, k) * 10.0 ** torch.randint(-3, 3, (count, 1))
    x = x * 10.0 ** draw(st.integers(-30, 30))
    x[torch.rand(count, k) < draw(st.sampled_from([0.0, 0.05]))] *= 1000
    x[torch.rand(count, k) < draw(st.sampled_from([0.0, 0.5, 1.0]))] = 0
    return x.to(draw(st.sampled_from([torch.float32, torch.bfloat16])))


@given(x=rows())
def test_rows_are_off_by_the_rounding_of_e4m3(x: Tensor) -> None:
    found, (_, scale) = rounded(x), exact_rows(x)
    assert found.dtype == torch.float32
    assert ((found.double() - x.double()).abs() <= bound(x, scale)).all()
    assert (found[x == 0] == 0).all()
    for group in range(0, x.shape[1], BLOCK):  # the largest of each is kept
        largest = x[:, group : group + BLOCK].float().abs().amax(1)
        kept = found[:, group : group + BLOCK].abs().amax(1)
        torch.testing.assert_close(kept, largest, rtol=FLOAT32, atol=1e-33)


@hypothesis_settings(max_examples=40)
@given(x=rows(), n=st.integers(1, 200), biased=st.booleans())
def test_products_are_off_by_that_of_their_rows(x: Tensor, n: int, biased: bool) -> None:
    """Against the float64 product of the rows as they were, with weights dequantized."""
    weight, bias = quantize(torch.randn(n, x.shape[1])), torch.randn(n) if biased else None
    wide, (_, scale) = exact(weight), exact_rows(x)
    product = x.double() @ wide.T + (bias.double() if bias is not None else 0)
    summed = x.double().abs() @ wide.abs().T + product.abs()
    allowed = bound(x, scale) @ wide.abs().T + summed * x.shape[1] * FLOAT32 + 1e-30
    if x.dtype == torch.bfloat16:
        allowed += (product.abs() + allowed) * 2.0**-8
    with fp8_activations(True):
        found, [parts] = linear(x, weight, bias), linear_parts(x, weight, bias)
    assert found.dtype == x.dtype and torch.equal(found, parts)
    assert ((found.double() - product).abs() <= allowed).all()


def test_gates_and_experts_multiply_rows_in_fp8() -> None:
    for count in (1, 70):
        x, gates = torch.randn(count, 200), quantize(torch.randn(512, 200) * 0.1)
        down = quantize(torch.randn(200, 256) * 0.1)
        with fp8_activations(True):
            gated = linear_swiglu(x, gates, True)
            found = linear(linear_swiglu(x, gates), down)
            one = torch.ones(1, 200)
            stacked = [type(w)(w.values[None], w.scale[None]) for w in (gates, down)]
            mixed = experts(x, one, *stacked, 1, True)
        expected = swiglu(exact_rows(x)[0] @ exact(gates).T, True)
        torch.testing.assert_close(gated.double(), expected, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(mixed, found)


def test_rows_that_are_not_finite_stay_so_and_alone() -> None:
    x, weight = rows_like(6, 200)[-1], quantize(torch.randn(30, 200))
    broken = ~x.isfinite().all(1)
    with fp8_activations(True):
        found, others = linear(x, weight), linear(x.nan_to_num(), weight)
    assert broken.any() and found[broken].isnan().all()
    assert torch.equal(found[~broken], others[~broken])


def test_rows_meet_plain_weights_as_they_are() -> None:
    x, weight, gates = torch.randn(3, 200), torch.randn(10, 200), torch.randn(20, 200)
    with fp8_activations(True):
        found = linear(x, weight), linear_parts(x, weight), linear_swiglu(x, gates)
    assert torch.equal(found[0], linear(x, weight))
    assert torch.equal(found[1], linear_parts(x, weight))
    assert torch.equal(found[2], linear_swiglu(x, gates))


def test_compiled_code_is_of_one_setting() -> None:
    x, weight = torch.randn(3, 200), quantize(torch.randn(256, 200))
    compiled = torch.compile(linear, backend="eager", dynamic=False)
    for on in (False, True, False):
        with fp8_activations(on):
            assert torch.equal(compiled(x, weight), linear(x, weight))


def test_interpreted_kernels_near_float64() -> None:
    report = kernel_report("block_scaled_interpreted.py", interpreted=True)
    assert report["quantized_rows"] == report["normed_rows"] == report["varied"] == 0
    assert report["nonfinite"] == [True, True]
    for name, distance in report["products"].items():
        assert distance < 2e-6, name
    for name, distance in report["mixture"].items():
        # Gates and values that differ in their last bits may be rounded to other FP8 numbers.
        assert distance < 1e-3, name


@pytest.mark.parametrize("world", [1, 2])
@pytest.mark.parametrize("kind", KINDS)
def test_prefill_passes_round_rows(kind: str, world: int, tmp_path: Path) -> None:
    with RowsInFp8(save_fp8(tmp_path, kind)) as mode:
        wanted = exact_logits(mode.oracle, TOKENS[:13])[-1]
    given = settings(tmp_path, fp8_activations=True)

    def found(ranks: Any = None) -> np.ndarray:
        return logits(eager(given, ranks=ranks)[1], TOKENS[:13])

    for own in [found()] if world == 1 else on_ranks(world, found):
        # A sum on the other side of a rounding's edge may show, not that rows were kept.
        assert error(own, wanted) < 1e-3
    assert error(exact_logits(mode.oracle, TOKENS[:13])[-1], wanted) > 1e-2


def expected(oracle: torch.nn.Module) -> np.ndarray:
    """What `passes` gives where prefill and verification round rows, in float64."""
    with RowsInFp8(oracle, DECODED):
        judged = [exact_logits(oracle, TOKENS[:cut] + SUFFIX)[-1] for cut in CUTS]
    steps = []
    for count in range(len(DECODED) + 1):
        with RowsInFp8(oracle, DECODED[:count]):
            steps.append(exact_logits(oracle, TOKENS[: 13 + count])[-1])
    return np.stack([*steps, *judged])


def test_verify_passes_round_rows_and_decode_passes_do_not(tmp_path: Path) -> None:
    wanted = expected(save_fp8(tmp_path, "qwen3"))
    found = passes(*eager(settings(tmp_path, fp8_activations=True))[:2])
    errors = [error(*pair) for pair in zip(found, wanted, strict=True)]
    assert np.median(errors) < 1e-5 and max(errors) < 1e-3


def test_a_bundle_rounds_as_the_passes_do_and_says_so(tmp_path: Path) -> None:
    save_fp8(tmp_path / "model", "qwen3_moe")
    given, path = settings(tmp_path / "model", fp8_activations=True), tmp_path / "model.fdy"
    capture(given, path)
    with Session.open(path) as session:
        assert session.settings["fp8_activations"] is True
        found = passes(session, open_models(session)[0])
    np.testing.assert_array_equal(found, passes(*eager(given)[:2]))


def test_rows_in_fp8_change_real_answers_less_than_weights_do() -> None:
    """SmolLM2's next tokens in a text, in nats: its weights in FP8, and then its rows, too."""
    require_smollm2()
    model, count = open_model("smollm2"), 256
    tokens = model.text.tokenizer.encode((ROOT / "LICENSE").read_text())[:count]
    plain = load_parameters("target", model.parameters, "float32", EagerSession().register)
    fp8 = dict(plain)
    for name, weight in plain.items():
        if name.endswith(("qkv", "o", "gate_up", "down")):
            made = quantize(weight)
            fp8 |= {name: made.values, f"{name}_scale": made.scale}
    c, blocks = model.config, count // CACHE_BLOCK + 1
    rows = Rows.of(torch.from_numpy(causal(tokens, 0, count, count)), torch.zeros(1).long())

    def found(parameters: dict[str, Tensor], on: bool) -> Tensor:
        empty = torch.zeros(blocks, c.layers, 2, CACHE_BLOCK, c.kv_heads, c.head_dim)
        cache = Cache(empty, torch.arange(blocks, dtype=torch.int32)[None])
        with torch.inference_mode(), fp8_activations(on):
            frequencies = torch.tensor(c.inverse_frequencies())
            hidden, _ = forward(parameters, c, frequencies, rows, cache, count + 1)
            return all_logits(parameters, hidden).log_softmax(-1)

    def apart(one: Tensor, other: Tensor) -> float:
        return float((one.exp() * (one - other)).sum(-1).mean())

    exactly, weights, both = found(plain, False), found(fp8, False), found(fp8, True)
    print(f"weights {apart(exactly, weights):.4f}, rows {apart(weights, both):.4f}")
    assert 1e-4 < apart(weights, both) < apart(exactly, weights) < 0.05


def test_decode_passes_do_not_depend_on_the_setting(tmp_path: Path) -> None:
    save_fp8(tmp_path, "qwen3_moe")
    found, caches = [], []
    for on in (True, False):
        session, target = eager(settings(tmp_path, fp8_activations=on))[:2]
        target.prefill(0, TOKENS[:13], 0, GREEDY)
        cache = session.tensors["target.cache"]
        caches.append(cache.clone())
        cache.copy_(caches[0])
        target.decode(Batch([0], [TOKENS[13]], [13], [GREEDY]))
        found.append(session.graph("target.decode", batch=1).read("logits"))
    np.testing.assert_array_equal(*found)
    assert not torch.equal(*caches)


def test_drafted_tokens_are_those_that_decoding_gives(tmp_path: Path) -> None:
    save_fp8(tmp_path, "qwen3")
    given = {"fp8_activations": True, "draft": str(tmp_path), "max_len": 128}
    plain = eager(settings(tmp_path, **given))[1]
    drafted = eager(settings(tmp_path, speculate="draft", **given))[1]
    sequences, made = [], 0
    for target in (plain, drafted):
        sequence = [*TOKENS, target.prefill(0, TOKENS, 0, GREEDY)]
        while len(sequence) < 100:
            last = Batch([0], sequence[-1:], [len(sequence) - 1], [GREEDY])
            if target is plain:
                sequence += target.decode(last)
            else:
                sequence += target.extend(last)[0]
                made += 1
        sequences.append(sequence[:100])
    assert sequences[0] == sequences[1] and made < 60


def test_a_model_without_fp8_is_refused(tmp_path: Path) -> None:
    save(tmp_path, "llama")
    with pytest.raises(UsageError, match=r"fp8-activations: no weights .* are in FP8"):
        capture(settings(tmp_path, fp8_activations=True), tmp_path / "model.fdy")
    assert not (tmp_path / "model.fdy").exists()
