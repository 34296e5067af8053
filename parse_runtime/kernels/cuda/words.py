"""Tiles of a weight in FP8 for up to 16 rows, read as words of four values.

The tensor cores' instruction for few rows, `mma`, adds up 16 columns of K at a time, and so does
`wgmma`, which is for many. Each finds the same sum of the same 16. But a thread wants to read a
word at once, and so has columns of two sixteens in what it gives one `mma`. Here the halves of
words change places, in registers, so that each `mma` has a sixteen as it lies in memory: a row has
the bits that `wgmma` gives it among many.
"""

from __future__ import annotations

import triton
import triton.language as tl

from parse_runtime.kernels.cuda.chain import COMPILED
from parse_runtime.kernels.cuda.early import append

WORD = tl.constexpr(4)
"""Columns."""
_BF16 = tl.constexpr((tl.bfloat16,) * 4)


@triton.jit
def words_product(w_row, x_row, there, tile, DEPTH: tl.constexpr):
    """A tile [C, DEPTH] of a weight in float8_e4m3fn times bfloat16 rows [R, DEPTH] transposed.

    Two warps, else the compiler takes `wgmma`, for which nothing is to change places.
    """
    at = tile * (DEPTH // WORD) + tl.arange(0, DEPTH // WORD)[None, :]
    weights = w_row.to(tl.pointer_type(tl.int32), bitcast=True) + at
    w0, w1, w2, w3 = _converted(tl.load(weights, eviction_policy="evict_first"))
    rows = x_row.to(tl.pointer_type(tl.int64), bitcast=True) + at
    x0, x1, x2, x3 = _parted(tl.load(rows, there, other=0))
    x = placed(x0, x1, x2, x3)
    return tl.dot(placed(w0, w1, w2, w3), x.T, input_precision="ieee")


@triton.jit
def _converted(word):
    """The four values of each word, by way of float32: an instruction converts two."""
    if not COMPILED:
        return _values(word, 8, tl.int8, tl.float8e4nv)
    return tl.inline_asm_elementwise(
        """{
        .reg .b16 low, high, x, y;
        .reg .b32 pair;
        .reg .f32 a, b;
        mov.b32 {low, high}, $4;
        cvt.rn.f16x2.e4m3x2 pair, low;
        mov.b32 {x, y}, pair;
        cvt.f32.f16 a, x;
        cvt.f32.f16 b, y;
        cvt.rn.bf16x2.f32 pair, b, a;
        mov.b32 {$0, $1}, pair;
        cvt.rn.f16x2.e4m3x2 pair, high;
        mov.b32 {x, y}, pair;
        cvt.f32.f16 a, x;
        cvt.f32.f16 b, y;
        cvt.rn.bf16x2.f32 pair, b, a;
        mov.b32 {$2, $3}, pair;
        }""",
        "=h,=h,=h,=h,r", [word], dtype=_BF16, is_pure=True, pack=1,
    )  # fmt: skip


@triton.jit
def _parted(word):
    """The four values of each word."""
    if not COMPILED:
        return _values(word, 16, tl.int16, tl.bfloat16)
    return tl.inline_asm_elementwise(
        "mov.b64 {$0, $1, $2, $3}, $4;", "=h,=h,=h,=h,l", [word], dtype=_BF16, is_pure=True, pack=1
    )


@triton.jit
def _values(word, bits: tl.constexpr, short: tl.constexpr, dtype: tl.constexpr):
    """For the interpreter, which cannot multiply in bfloat16. Compiled, shifts cost too much."""
    values = ()
    for number in tl.static_range(WORD):
        value = (word >> number * bits).to(short).to(dtype, bitcast=True)
        values = append(values, value.to(tl.float32))
    return values


@triton.jit
def placed(first, second, third, fourth):
    """[N, 4 * W] of the values of words [N, W], the halves of words in their new places."""
    count: tl.constexpr = first.shape[0]
    words: tl.constexpr = first.shape[1]
    values = tl.join(tl.join(first, second), tl.join(third, fourth))
    # Of 32 columns: sixteens, words of one, values of a half, halves.
    apart = values.reshape(count, words // 8, 2, 4, 2, 2)
    # One `mma` takes the first halves of 8 places, another one the second ones.
    return apart.permute(0, 1, 5, 3, 2, 4).reshape(count, words * WORD)
