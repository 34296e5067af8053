"""Models in FP8: every pass against transformers in float64, alone, on ranks, and as bundles."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))
from parse_command import capture
from parse_models import GREEDY, VOCAB, eager, logits, save
from parse_ranks import on_bundle, on_ranks
from quantized_models import KINDS, PLAIN, exact_logits, save_fp8

from foundryrt.bundle.reader import Bundle
from foundryrt.errors import UsageError
from foundryrt.session import Session
from parse_runtime.capture.record import Settings, _refuse_old_gpu
from parse_runtime.engine.batch import Batch
from parse_runtime.engine.protocols import Verification
from parse_runtime.graphs.loading import open_models
from parse_runtime.graphs.target import GraphTarget
from parse_runtime.kernels.quantized import BLOCK
from parse_runtime.weights.source import open_model

TOKENS = np.random.default_rng(1).integers(0, VOCAB, 30).tolist()
CUTS, SUFFIX = [20, 26, 30], [7, 8, 9]


def settings(folder: Path, **changes: Any) -> Settings:
    values = {"max_len": 64, "prefill": "4,16", "verify": "48x4", "judge_prompt": "ok?"}
    return Settings(model=str(folder), yes="y", no="n", **{**values, **changes})


def passes(session: Any, target: GraphTarget) -> np.ndarray:
    """Logits of a prefill, of three decode steps and of a verification: [7, vocab]."""
    found = [logits(target, TOKENS[:13])]
    for position in range(13, 16):
        target.decode(Batch([0], [TOKENS[position]], [position], [GREEDY]))
        found.append(session.graph("target.decode", batch=1).read("logits")[0])
    target.verify(0, Verification(TOKENS[16:], 16, CUTS, SUFFIX))
    judged = session.graph("target.verify", len=48, cuts=4).read("logits")
    return np.stack([*found, *judged[: len(CUTS)]])


def expected(oracle: torch.nn.Module) -> np.ndarray:
    """The same in float64."""
    steps = exact_logits(oracle, TOKENS[:16])[12:]
    return np.stack([*steps, *(exact_logits(oracle, TOKENS[:c] + SUFFIX)[-1] for c in CUTS)])


def error(found: np.ndarray, wanted: np.ndarray) -> float:
    return float(np.abs(found - wanted).max() / np.abs(wanted).max())


@pytest.mark.parametrize("world", [1, 2, 4])
@pytest.mark.parametrize("kind", KINDS)
def test_logits_agree_with_exact_weights(kind: str, world: int, tmp_path: Path) -> None:
    wanted = expected(save_fp8(tmp_path, kind))
    given = settings(tmp_path)
    if world == 1:
        found = [passes(*eager(given)[:2])]
    else:
        found = on_ranks(world, lambda ranks: passes(*eager(given, ranks=ranks)[:2]))
    for own in found:
        assert error(own, wanted) < 1e-5
        np.testing.assert_array_equal(own, found[0])


def test_scales_may_be_stored_in_bfloat16(tmp_path: Path) -> None:
    wanted = expected(save_fp8(tmp_path, "qwen3", torch.bfloat16))
    assert error(passes(*eager(settings(tmp_path))[:2]), wanted) < 1e-5


def test_passes_in_bfloat16(tmp_path: Path) -> None:
    wanted = expected(save_fp8(tmp_path, "qwen3_moe"))
    session, target = eager(settings(tmp_path, dtype="bfloat16"))[:2]
    target.prefill(0, TOKENS[:4], 0, GREEDY)
    assert session.graph("target.prefill", len=4, prompts=1).read("token").shape == (1,)
    target.verify(0, Verification(TOKENS[4:], 4, CUTS, SUFFIX))
    judged = session.graph("target.verify", len=48, cuts=4).read("logits")
    assert error(judged[: len(CUTS)], wanted[-len(CUTS) :]) < 0.1
    assert session.tensors["target.layers.0.qkv"].dtype == torch.float8_e4m3fn


@pytest.mark.parametrize("world", [1, 2])
def test_a_bundle_keeps_weights_in_fp8(world: int, tmp_path: Path) -> None:
    wanted = expected(save_fp8(tmp_path / "model", "qwen3_moe"))
    path = tmp_path / "model.fdy"
    capture(settings(tmp_path / "model", tp=world), path)

    def answered(session: Session) -> np.ndarray:
        return passes(session, open_models(session)[0])

    if world == 1:
        with Session.open(path) as session:
            found = [answered(session)]
    else:
        found = on_bundle(path, world, answered)
    for own in found:
        assert error(own, wanted) < 1e-5
        np.testing.assert_array_equal(own, found[0])
    with Bundle.open(path) as bundle:
        tensors = {t.name.removeprefix("target.layers."): t for t in bundle.manifest.tensors}
    for name in ("0.qkv", "0.o", "0.experts_gate_up", "0.experts_down", "1.gate_up"):
        values, scale = tensors[name], tensors[f"{name}_scale"]
        assert (values.dtype, scale.dtype) == ("float8_e4m3fn", "float32")
        rows, columns = (-(-size // BLOCK) for size in values.shape[-2:])
        assert scale.shape == (*values.shape[:-2], rows, columns)
    assert "1.down_scale" not in tensors and tensors["1.down"].dtype == "float32"


@pytest.mark.parametrize(("capability", "good"), [((8, 0), False), ((8, 9), True), ((9, 0), True)])
def test_a_gpu_without_fp8_is_named(
    capability: tuple[int, int], good: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_fp8(tmp_path / "fp8", "qwen3")
    save(tmp_path / "plain", "llama")
    quantized, plain = (open_model(str(tmp_path / name)) for name in ("fp8", "plain"))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: capability)
    _refuse_old_gpu(plain, plain)
    if good:
        _refuse_old_gpu(plain, quantized)
        return
    with pytest.raises(UsageError, match=r"capability 8\.9 .* this one has 8\.0"):
        _refuse_old_gpu(plain, quantized)


def test_blocks_are_those_that_kernels_have(tmp_path: Path) -> None:
    save_fp8(tmp_path, "qwen3")
    model = open_model(str(tmp_path))
    assert model.config.scale_block == BLOCK
    quantized = [part.stored.name for p in model.parameters if p.dtype for part in p.slices]
    assert len(quantized) == 2 * (7 + 7) - 2 and not any(PLAIN in name for name in quantized)
