"""What single operators take on trust: how their arguments must fit, and what must be in them.

An operator without an entry checks its arguments itself, as far as tests/host/fuzz_operators.py
can tell. Operators that left their tensors and have no entry are not on the list.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from foundryrt.host import exchange, zak
from foundryrt.host.overlap import is_disjoint

Arguments = Mapping[str, Any]
"""An operator's arguments by name, defaults included."""
Check = Callable[[Arguments], bool]


def _given(a: Arguments, *names: str) -> list[Tensor]:
    return [a[name] for name in names if a[name] is not None]


def _same_shapes(*names: str) -> Check:
    return lambda a: len({t.shape for t in _given(a, *names)}) == 1


def _is_plain(*names: str) -> Check:
    """Tensors that do not overlap themselves, for algorithms that move elements."""
    return lambda a: all(is_disjoint(t) for t in _given(a, *names))


def _batch_norm(a: Arguments) -> bool:
    x = a["input"]
    running = [a.get("running_mean"), a.get("running_var")]
    if x.dim() < 2 or (running[0] is None) != (running[1] is None):
        return False
    if not a.get("training", True) and running[0] is None:
        return False
    given = [t for t in (a["weight"], a["bias"], *running) if t is not None]
    outs = [t for n, t in a.items() if n.startswith("save_")]
    one_type = {t.dtype for t in given} <= {x.dtype, torch.float32}
    out = a.get("out", x)
    return (
        one_type
        and out.shape == x.shape
        and out.dtype == x.dtype
        and all(t.shape == (x.shape[1],) for t in given)
        and all(t.shape in ((x.shape[1],), (0,)) for t in outs)
    )


def _fourier(a: Arguments) -> bool:
    x, dims = a["self"], a["dim"]
    if len(set(dims)) != len(dims) or not all(0 <= dim < x.dim() for dim in dims):
        return False
    return all(x.shape[dim] > 0 for dim in dims) and a.get("last_dim_size", 1) > 0


def _half_spectrum(a: Arguments) -> bool:
    if not _fourier(a) or not a["dim"]:
        return False
    return bool(a["self"].shape[a["dim"][-1]] == a["last_dim_size"] // 2 + 1)


def _bag(a: Arguments) -> bool:
    weight, indices, offsets, scale = (
        a[name] for name in ("weight", "indices", "offsets", "per_sample_weights")
    )
    whole = {torch.int32, torch.int64}
    return (
        weight.dim() == 2
        and weight.is_floating_point()
        and indices.dim() == offsets.dim() == 1
        and indices.dtype == offsets.dtype
        and indices.dtype in whole
        and offsets.numel() > 0
        and all(t.is_contiguous() for t in (indices, offsets))
        and a["mode"] in (0, 1, 2)
        and (
            scale is None
            or (
                scale.shape == indices.shape
                and scale.dtype == weight.dtype
                and scale.is_contiguous()
                and a["mode"] == 0
            )
        )
    )


def _within(t: Tensor, end: int, also: int | None = None) -> bool:
    """Whether every number of an index tensor is in [0, end), or is `also`."""
    fits = (t >= 0) & (t < end)
    return bool((fits if also is None else fits | (t == also)).all())


def _bag_contents(a: Arguments) -> bool:
    indices, offsets = a["indices"], a["offsets"]
    if not _within(indices, a["weight"].shape[0]):
        return False
    rising = bool((offsets[1:] >= offsets[:-1]).all())
    return rising and int(offsets[0]) == 0 and int(offsets[-1]) <= indices.numel()


def _attention(a: Arguments) -> bool:
    q, k, v, mask = a["query"], a["key"], a["value"], a["attn_mask"]
    if any(t.dim() != 4 or t.numel() == 0 or t.dtype != q.dtype for t in (q, k, v)):
        return False
    (b, h, n, e), m = q.shape, k.shape[2]
    if k.shape != v.shape or k.shape[0] != b or k.shape[3] != e or h % k.shape[1]:
        return False
    if mask is None:
        return True
    wanted = (b, h, n, m)[4 - mask.dim() :]
    return mask.dim() in (2, 4) and all(
        s in (1, w) for s, w in zip(mask.shape, wanted, strict=True)
    )


def _weight_norm(a: Arguments) -> bool:
    v, g, dim = a["v"], a["g"], a["dim"]
    return (
        v.dim() > 0
        and dim in (0, v.dim() - 1)
        and g.dtype == v.dtype
        and g.numel() == v.shape[dim]
        and v.is_contiguous()
        and g.is_contiguous()
    )


def _heads(a: Arguments) -> bool:
    heads, width = a.get("num_heads", a.get("num_head")), a["embed_dim"]
    return bool(heads > 0 and width > 0 and width % heads == 0)


def _resize(a: Arguments) -> bool:
    """The scales of an antialiased interpolation, which its output size must be the result of."""
    x = a["self"]
    if x.dim() != 4 or len(a["output_size"]) != 2 or x.numel() == 0:
        return False
    scales = (a["scales_h"], a["scales_w"])
    return a["align_corners"] or all(
        scale is None or (0 < scale < 2**20 and out == int(size * scale))
        for size, out, scale in zip(x.shape[2:], a["output_size"], scales, strict=True)
    )


def _unpacked(a: Arguments) -> bool:
    lu, pivots = a["LU_data"], a["LU_pivots"]
    return lu.dim() >= 2 and tuple(pivots.shape) == (*lu.shape[:-2], min(lu.shape[-2:]))


def _lstm(a: Arguments) -> bool:
    x, hidden = a["input"], a["hidden_size"]
    weights = [a[f"weight{i}"] for i in range(4)]
    if x.dim() != 3 or hidden < 1 or x.numel() == 0 or a["mode"] != 2 or a["num_layers"] < 1:
        return False
    batch = x.shape[0 if a["batch_first"] else 1]
    shapes = [(4 * hidden, x.shape[2]), (4 * hidden, hidden), (4 * hidden,), (4 * hidden,)]
    states = (a["hx_"], a["cx_"])
    used = 4 if a["has_biases"] else 2
    return (
        not a["batch_sizes"]
        and not a["train"]
        and all(t.dtype == x.dtype for t in (*weights, *states))
        and [tuple(w.shape) for w in weights][:used] == shapes[:used]
        and all(tuple(t.shape) in ((batch, hidden), (1, batch, hidden)) for t in states)
    )


def _layer_norm_backward(a: Arguments) -> bool:
    x, normalized = a["input"], a["normalized_shape"]
    outer = x.shape[: x.dim() - len(normalized)]
    means = {tuple(a[name].shape) for name in ("mean", "rstd")}
    return (
        len(normalized) <= x.dim()
        and list(x.shape[len(outer) :]) == normalized
        and a["grad_out"].shape == x.shape
        and means == {(*outer, *(1 for _ in normalized))}
        and all(list(t.shape) == normalized for t in _given(a, "weight", "bias"))
    )


def _embedding_backward(a: Arguments) -> bool:
    grad, indices = a["grad_output"], a["indices"]
    return (
        grad.dim() == indices.dim() + 1
        and grad.shape[:-1] == indices.shape
        and grad.numel() > 0
        and 0 < a["num_weights"] < 2**31
        and indices.dtype in (torch.int32, torch.int64)
    )


def _nll_backward(a: Arguments) -> bool:
    x, target, grad = a["self"], a["target"], a["grad_output"]
    out, weight = a.get("grad_input", x), a["weight"]
    return (
        x.dim() in (1, 2)
        and target.shape == x.shape[:-1]
        and target.dtype == torch.int64
        and a["reduction"] in (0, 1, 2)
        and grad.shape == (target.shape if a["reduction"] == 0 else ())
        and a["total_weight"].numel() == 1
        and {t.dtype for t in (grad, a["total_weight"])} == {x.dtype}
        and (out.shape, out.dtype) == (x.shape, x.dtype)
        and (weight is None or (weight.shape, weight.dtype) == (x.shape[-1:], x.dtype))
    )


CHECKS: dict[str, Check] = {
    "_batch_norm_with_update": _batch_norm,
    "_native_batch_norm_legit": _batch_norm,
    "_native_batch_norm_legit_no_training": _batch_norm,
    "native_batch_norm": _batch_norm,
    "_fft_c2c": _fourier,
    "_fft_c2r": _half_spectrum,
    "_fft_r2c": _fourier,
    "_embedding_bag": _bag,
    "_embedding_bag_forward_only": _bag,
    "_scaled_dot_product_flash_attention_for_cpu": _attention,
    "_native_multi_head_attention": _heads,
    "_transformer_encoder_layer_fwd": _heads,
    "_upsample_bilinear2d_aa": _resize,
    "_upsample_bicubic2d_aa": _resize,
    "_weight_norm_interface": _weight_norm,
    "lu_unpack": _unpacked,
    "mkldnn_rnn_layer": _lstm,
    "_pdist_forward": lambda a: a["self"].dim() == 2 and a["self"].is_contiguous(),
    "median": _is_plain("self"),
    "nanmedian": _is_plain("self"),
    "kthvalue": _is_plain("self"),
    "_softmax_backward_data": _same_shapes("grad_output", "output"),
    "_log_softmax_backward_data": _same_shapes("grad_output", "output"),
    "native_layer_norm_backward": _layer_norm_backward,
    "embedding_dense_backward": _embedding_backward,
    "nll_loss_backward": _nll_backward,
    **zak.CHECKS,
    **exchange.CHECKS,
}

CONTENTS: dict[str, Check] = {
    "_embedding_bag": _bag_contents,
    "_embedding_bag_forward_only": _bag_contents,
    "embedding_dense_backward": lambda a: _within(a["indices"], a["num_weights"]),
    "nll_loss_backward": lambda a: _within(a["target"], a["self"].shape[-1], a["ignore_index"]),
}
