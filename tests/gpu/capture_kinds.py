"""One graph for each kind of kernel and node that torch produces. Argument: folder."""

from __future__ import annotations

import collections
import json
import sys
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from foundryc.cuda.recording import CudaRecording
from foundryc.write import write_bundle


def kinds(x, image, weight, filters, side):
    """Name -> function of registered tensors; each returns one tensor."""
    import triton
    import triton.language as tl

    configs = [triton.Config({"BLOCK": b}, num_warps=w) for b, w in ((256, 2), (512, 4), (1024, 8))]

    @triton.autotune(configs=configs, key=["n"])
    @triton.jit
    def scale(source, target, n, BLOCK: tl.constexpr):
        at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
        values = tl.load(source + at, mask=at < n)
        tl.store(target + at, values * 3 + 1, mask=at < n)

    def handwritten():
        out = torch.empty_like(x)
        scale[lambda meta: (triton.cdiv(x.numel(), meta["BLOCK"]),)](x, out, x.numel())
        return out

    fused = torch.compile(lambda a: torch.softmax(a * 2 + 1, -1).cumsum(-1))
    tuned = torch.compile(
        lambda a: (F.layer_norm(a, a.shape[-1:]) * a.sigmoid()).sum(0),
        mode="max-autotune-no-cudagraphs",
    )
    jitted = torch.cuda.jiterator._create_jit_fn(
        "template <typename T> T bend(T a) { return a * a + T(0.5); }"
    )

    def forked():
        main = torch.cuda.current_stream()
        side.wait_stream(main)
        with torch.cuda.stream(side):
            left = x @ weight
        right = x.sin()
        main.wait_stream(side)
        return left.float().sum(-1) + right.float().sum(-1)

    def copied():
        out = torch.zeros_like(x)
        out[: x.shape[0] // 2].copy_(x[: x.shape[0] // 2])
        return out

    heads = x.view(1, x.shape[0], 16, -1).transpose(1, 2)
    return {
        "convolution": lambda: F.conv2d(image, filters, padding=1),
        "matmul_float32": lambda: x.float() @ weight.float(),
        "attention": lambda: F.scaled_dot_product_attention(heads, heads, heads, is_causal=True),
        "sort": lambda: torch.sort(x.float(), -1).values,
        "topk": lambda: torch.topk(x.float(), 8).values,
        "fft": lambda: torch.fft.fft(x.float()).abs(),
        "inductor": lambda: fused(x),
        "inductor_tuned": lambda: tuned(x),
        "triton": handwritten,
        "nvrtc": lambda: jitted(x.float()),
        "forked": forked,
        "memset_memcpy": copied,
    }


def main() -> None:
    folder = Path(sys.argv[1])
    r = CudaRecording()
    generator = torch.Generator().manual_seed(3)

    def random(*shape):
        return torch.randn(*shape, generator=generator).to(torch.bfloat16)

    x = r.register("x", random(256, 1024), "input")
    image = r.register("image", random(4, 64, 32, 32), "input")
    weight = r.register("weight", random(1024, 512), "weight")
    filters = r.register("filters", random(64, 64, 3, 3), "weight")
    errors, seconds = {}, {}
    expected: dict[str, np.ndarray] = {}
    with torch.inference_mode():
        functions = kinds(x, image, weight, filters, torch.cuda.Stream())
        kept = {}
        for name, function in functions.items():
            started = time.perf_counter()
            try:
                with r.warm_up():
                    function()
                    function()
                torch.cuda.synchronize()
                with r.graph(name) as g:
                    kept[name] = function()
                    g.output("out", kept[name])
            except Exception as error:
                errors[name] = f"{type(error).__name__}: {error}"[:600]
            seconds[name] = time.perf_counter() - started
    for graph in r.graphs:
        repeats = []
        for _ in range(3):
            graph.replay()
            torch.cuda.synchronize()
            repeats.append(kept[graph.name].contiguous().view(torch.uint8).cpu().numpy())
        errors[graph.name] = errors.get(graph.name, "")
        expected[graph.name] = repeats[0]
        if not all((other == repeats[0]).all() for other in repeats):
            errors[graph.name] += "torch's own replay differs from run to run"
    np.savez(folder / "expected_kinds.npz", **expected)
    try:
        capture = r.capture(False)
        write_bundle(folder / "kinds.fdy", capture, "kinds", {}, {})
    except Exception as error:
        errors["save"] = f"{type(error).__name__}: {error}"[:600]
    modules = r.harvest.modules()
    report = {
        "errors": {k: v for k, v in errors.items() if v},
        "seconds": seconds,
        "variables": [variable.name for variable in capture.variables],
        "modules": len(modules),
        "loaded_by": collections.Counter(m.call or "none seen" for m in modules),
        "node_kinds": {
            g.name: dict(collections.Counter(int(k) for k in g.table.columns["kind"]))
            for g in r.graphs
        },
        "edge_types": {
            g.name: dict(collections.Counter(int(k) for k in g.table.columns["edge_type"]))
            for g in r.graphs
        },
        "initial": {hex(a): d.size for a, d in r.initial.items()},
    }
    (folder / "kinds.json").write_text(json.dumps(report, indent=1))
    print(json.dumps(report))


main()
