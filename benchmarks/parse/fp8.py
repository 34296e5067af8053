"""Products with weights in FP8 for passes of many rows: rows in bfloat16, and in FP8, too.

Qwen3-14B's four matrices, and the experts that one of 8 ranks has of Qwen3-235B-A22B. Beside them
are the same products with weights in bfloat16, and in FP8 by our kernels where the library's is
used; `tiles` has those of other tiles, `passes` prefill passes of some layers. Times are medians
over replays of a CUDA graph that reads more weights than the second-level cache holds. Errors are
relative, of the whole result: of matrices to float64 with the weights dequantized, of experts to
those with rows in bfloat16.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from typing import Annotated, Any

import torch
import torch.nn.functional as F
from torch import Tensor
from typer import Option

from benchmarks.parse.fp8_passes import prefills
from benchmarks.parse.linear import MATRICES, normal, random_fp8, replayed
from benchmarks.parse.models import CONFIGS, random_parameters
from benchmarks.report import RESULTS, Output, Report, chosen, say
from parse_runtime.kernels.activations import fp8_activations
from parse_runtime.kernels.cuda import block_scaled
from parse_runtime.kernels.cuda import experts as grouped
from parse_runtime.kernels.experts import experts
from parse_runtime.kernels.quantized import Quantized, plain
from parse_runtime.kernels.swiglu import linear_swiglu, swiglu

NAMES = ("qkv", "o", "gate_up", "down")
COUNTS = (32, 64, 128, 256, 512, 1024, 2048)
TILES = [
    block_scaled.Tiles(*sizes)
    for sizes in (
        (64, 64, 4, 4), (64, 64, 4, 6), (64, 128, 4, 3), (64, 128, 4, 4), (64, 128, 4, 6),
        (64, 128, 8, 4), (128, 64, 4, 4), (128, 128, 8, 3), (128, 128, 8, 4), (128, 128, 8, 5),
        (64, 256, 8, 3),
    )
]  # fmt: skip
"""Those of more columns than a block are for gates and values, which are of two blocks."""
EXPERT_TILES = [
    grouped.Tiles(*sizes)
    for sizes in (
        (16, 32, 64, 128, 4), (32, 64, 128, 128, 3), (64, 64, 128, 64, 3), (64, 64, 128, 128, 3),
        (64, 64, 128, 128, 4), (64, 32, 64, 128, 4), (128, 64, 128, 128, 3),
    )
]  # fmt: skip
TRIED = (64, 128, 512, 2048)
RANKS, EXPERTS, TOP, HIDDEN, WIDTH = 8, 128, 8, 4096, 1536
LAYERS = 8
"""Of 40 in passes: what a pass takes per layer is the same."""
PARTS = ("matrices", "experts", "passes", "tiles", "expert_tiles")


def distance(found: Tensor, expected: Tensor) -> float:
    return float((found.double() - expected.double()).norm() / expected.double().norm())


def ways(name: str) -> dict[str, Callable[[Tensor, Any], Tensor]]:
    """Of a matrix: what is timed, of rows and a weight in FP8, for `bf16` one in bfloat16."""
    gated = name == "gate_up"
    product = linear_swiglu if gated else MATRICES[name][2]
    end = swiglu if gated else (lambda y: y)

    def in_fp8(x: Tensor, weight: Quantized) -> Tensor:
        with fp8_activations(True):
            return product(x, weight)

    def ours(x: Tensor, weight: Quantized) -> Tensor:
        """As `in_fp8`, never by the library."""
        tiles = block_scaled.choose(x.shape[0], weight.values.shape[0])
        function = block_scaled.block_scaled_swiglu if gated else block_scaled.block_scaled
        return function(x, weight, tiles=tiles)

    return {
        "weights": product, "fp8": in_fp8, "bf16": lambda x, w: end(F.linear(x, w)),
        "triton": ours,
        "quantize": lambda x, w: block_scaled.quantize_rows(x).values,
    }  # fmt: skip


def copies(name: str) -> list[Quantized]:
    n, k = MATRICES[name][:2]
    return [random_fp8(n, k) for _ in range(max(2, (1 << 29) // (n * k)))]


def matrices() -> Iterator[dict[str, Any]]:
    """By matrix and rows: microseconds, and relative errors."""
    for name in NAMES:
        weights = copies(name)
        rounded = [plain(weight, torch.bfloat16) for weight in weights]
        exact = plain(weights[0], torch.float32).double()
        for count in COUNTS:
            x = normal(count, MATRICES[name][1])
            product = x.double() @ exact.t()
            expected = swiglu_exact(product) if name == "gate_up" else product
            row: dict[str, Any] = {"matrix": name, "rows": count}
            for label, way in ways(name).items():
                given = rounded if label == "bf16" else weights
                seconds = replayed(lambda x=x, w=way, ws=given: [w(x, each) for each in ws])
                row[f"us_{label}"] = seconds / len(given) * 1e6
                if label != "quantize":
                    found = way(x, given[0]).float()
                    found = found.sum(0) if found.dim() == 3 else found
                    row[f"error_{label}"] = distance(found, expected)
            yield row


def swiglu_exact(product: Tensor) -> Tensor:
    gate, up = product.chunk(2, dim=-1)
    return F.silu(gate) * up


def tiles() -> Iterator[dict[str, Any]]:
    """By matrix, rows and tiles: microseconds, the quantization of rows included."""
    for name in NAMES:
        weights = copies(name)
        gated = name == "gate_up"
        product = block_scaled.block_scaled_swiglu if gated else block_scaled.block_scaled
        for count in TRIED:
            x = normal(count, MATRICES[name][1])
            row: dict[str, Any] = {"matrix": name, "rows": count}
            for each in TILES if gated else TILES[:-1]:
                seconds = replayed(
                    lambda x=x, f=product, t=each, ws=weights: [f(x, w, tiles=t) for w in ws]
                )
                label = f"{each.rows}x{each.columns} warps {each.warps} stages {each.stages}"
                row[label] = seconds / len(weights) * 1e6
            yield row


def expert_weights() -> tuple[Tensor, Quantized, Quantized, Tensor]:
    own = EXPERTS // RANKS
    router = normal(EXPERTS, HIDDEN, std=0.02)
    first = torch.zeros(1, dtype=torch.int64, device="cuda")
    return router, random_fp8(own, 2 * WIDTH, HIDDEN), random_fp8(own, HIDDEN, WIDTH), first


def mixtures() -> Iterator[dict[str, Any]]:
    """By rows: microseconds of one rank's experts, and relative errors."""
    router, gate_up, down, first = expert_weights()
    plains = [
        torch.stack([plain(Quantized(v, s), torch.bfloat16) for v, s in zip(*both, strict=True)])
        for both in ((gate_up.values, gate_up.scale), (down.values, down.scale))
    ]
    for count in COUNTS:
        x = normal(count, HIDDEN)
        row: dict[str, Any] = {"rows": count}
        found = {}
        for label, fp8, given in (
            ("weights", False, (gate_up, down)), ("fp8", True, (gate_up, down)),
            ("bf16", False, tuple(plains)),
        ):  # fmt: skip

            def call(x: Tensor = x, given: Any = given) -> Tensor:
                return experts(x, router, *given, TOP, True, first)

            with fp8_activations(fp8):
                row[f"us_{label}"] = replayed(call) * 1e6
                found[label] = call()
        for label in ("fp8", "bf16"):
            row[f"error_{label}"] = distance(found[label], found["weights"])
        yield row


def expert_tiles() -> Iterator[dict[str, Any]]:
    """By rows and tiles: microseconds with rows in FP8."""
    router, gate_up, down, first = expert_weights()
    for count in TRIED:
        x = normal(count, HIDDEN)
        row: dict[str, Any] = {"rows": count}
        for each in EXPERT_TILES:

            def call(x: Tensor = x, each: grouped.Tiles = each) -> Tensor:
                return grouped.experts(x, router, gate_up, down, TOP, True, first, each)

            with fp8_activations(True):
                label = f"{each.rows}x{each.gates},{each.columns}x{each.depth} {each.stages}"
                row[label] = replayed(call) * 1e6
        yield row


def passes() -> Iterator[dict[str, Any]]:
    """Prefill passes of some layers of Qwen3-14B's geometry."""
    config = replace(CONFIGS["qwen3-14b"], layers=LAYERS)
    model = config, random_parameters(config, "cuda")
    yield from prefills(model, "cuda", COUNTS, ("bf16", "weights", "fp8"))


MEASURED = dict(zip(PARTS, (matrices, mixtures, passes, tiles, expert_tiles), strict=True))


def run(
    parts: Annotated[str, Option(help=f"some of {','.join(PARTS)}")] = ",".join(PARTS),
    output: Output = RESULTS / "parse_fp8.json",
) -> None:
    """Measure products with weights in FP8, with rows in bfloat16 and in FP8."""
    about = {
        "device": torch.cuda.get_device_name(), "torch": torch.__version__,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }  # fmt: skip
    report = Report(output, about)
    torch.manual_seed(0)
    with torch.inference_mode():
        for part in chosen(parts, PARTS, "--parts"):
            rows = []
            for row in MEASURED[part]():
                rows.append(row)
                say(f"{part}: {row}")
                report.save(part, {"rows": rows})
