"""Criss-cross attention as a pair of Triton kernels that never write the weights to memory.

attention.py decides when they run. Each kernel works on one line (a column or a row) of one image
and is launched twice: over the columns, whose results are stored, then over the rows, which add
theirs. Forward, the two are merged through their log-sum-exps; backward, the weights are recomputed
from the merged one. No two programs write to the same place: the same input gives the same bits.

Shapes: P = B * H * W pixels, image by image and row by row; d query channels, C value channels.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

INTERPRETED = bool(triton.knobs.runtime.interpret)  # TRITON_INTERPRET=1: the kernels on a CPU
# float32 is right, too, but compiles to code without matrix units that spills its registers.
DTYPES = (torch.bfloat16, torch.float16)
MOST_QUERY_CHANNELS = 64  # 128 would take more than the 99 KB of shared memory of many GPUs
MOST_CHANNELS = 1024
LONGEST = 1024  # H and W
LONGEST_BACKWARD = 128  # with gradients, where a program holds the weights of a whole line
# By the longest line that a tile is for: pixels of a line, channels, warps, pipeline stages.
Tile = tuple[int, int, int, int]
FORWARD: dict[int, Tile] = {64: (64, 128, 4, 2), LONGEST: (128, 64, 8, 2)}
BACKWARD: dict[int, Tile] = {64: (64, 64, 4, 2), LONGEST_BACKWARD: (128, 32, 8, 3)}


def takes(query: Tensor, key: Tensor, value: Tensor) -> bool:
    """Whether the kernels run these (B, d, H, W), (B, d, H, W) and (B, C, H, W)."""
    able = value.is_cuda and torch.cuda.get_device_capability(value.device) >= (8, 0)
    learns = torch.is_grad_enabled() and any(t.requires_grad for t in (query, key, value))
    return (
        (INTERPRETED or able)
        and query.device == key.device == value.device
        and query.dtype == key.dtype == value.dtype
        and value.dtype in DTYPES
        and max(value.shape[2:]) <= (LONGEST_BACKWARD if learns else LONGEST)
        and query.shape[1] <= MOST_QUERY_CHANNELS
        and value.shape[1] <= MOST_CHANNELS
    )


def criss_cross_triton(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """`criss_cross_attention` of tensors that `takes` accepts: (B, C, H, W), channels-last."""
    batch, channels, height, width = value.shape
    out: Tensor = criss_cross_pixels(_pixels(query), _pixels(key), _pixels(value), height, width)[0]
    return out.view(batch, height, width, channels).permute(0, 3, 1, 2)


@torch.library.custom_op("ccnet_lab::criss_cross_pixels", mutates_args=())
def criss_cross_pixels(
    query: Tensor, key: Tensor, value: Tensor, height: int, width: int
) -> tuple[Tensor, Tensor]:
    """The forward kernels, for query and key (P, d) and value (P, C), rows any distance apart.

    Gives the result (P, C), in the value's dtype, and the scores' log-sum-exp (P,), float32.
    """
    (pixels, d), channels = query.shape, value.shape[1]
    out = value.new_empty(pixels, channels)
    column_lse, lse = (value.new_empty(pixels, dtype=torch.float32) for _ in range(2))
    tensors = query, key, value, out, column_lse, lse
    strides = [t.stride(0) for t in (query, key, value)]
    for column, length, lines in ((True, height, width), (False, width, height)):
        tile = _tile(FORWARD, length, channels, d)
        blocks = triton.cdiv(length, tile["block"])
        programs = blocks * triton.cdiv(channels, tile["c_block"])
        _forward[programs, lines, pixels // (height * width)](
            *tensors, *strides, height, width, column=column, blocks=blocks, **tile
        )
    return out, lse


@torch.library.custom_op("ccnet_lab::criss_cross_pixels_backward", mutates_args=())
def criss_cross_pixels_backward(
    grad: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    out: Tensor,
    lse: Tensor,
    height: int,
    width: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of query (P, d), key (P, d) and value (P, C) from `grad` (P, C)."""
    (pixels, d), channels = query.shape, value.shape[1]
    grad = grad.contiguous()
    d_query, d_key, d_value = (t.new_empty(t.shape) for t in (query, key, value))
    delta = torch.empty_like(lse)
    tensors = query, key, value, out, lse, grad, delta, d_query, d_key, d_value
    strides = [t.stride(0) for t in (query, key, value)]
    for column, length, lines in ((True, height, width), (False, width, height)):
        _backward[lines, pixels // (height * width)](
            *tensors, *strides, height, width, column=column, **_tile(BACKWARD, length, channels, d)
        )
    return d_query, d_key, d_value


@triton.jit
def _line(number, image, height, width, column: tl.constexpr):
    """A line's first pixel, the distance to its next one, and its length."""
    start = image.to(tl.int64) * height * width
    if column:
        return start + number, width, height
    return start + number * width, 1, width


@triton.jit
def _load(source, pixels, step, channels, mask):
    return tl.load(source + pixels[:, None] * step + channels[None, :], mask, 0.0)


@triton.jit
def _scores(a, b, i, j, counts, column: tl.constexpr):
    """Products of the pixels i and j of a line; -inf where one does not count."""
    scores = tl.dot(a, tl.trans(b), input_precision="ieee")
    if column:
        counts = counts & (i[:, None] != j[None, :])
    return tl.where(counts, scores, float("-inf"))


@triton.jit
def _attend(scores, v, top, total, mean):
    """The running maximum, sum of weights and weighted sum of values, with a block of keys more."""
    higher = tl.maximum(top, tl.max(scores, 1))
    # A pixel alone on its column has no entry there.
    level = tl.where(higher == float("-inf"), 0.0, higher)
    weights = tl.exp(scores - level[:, None])
    shrink = tl.exp(top - level)
    total = total * shrink + tl.sum(weights, 1)
    mean = mean * shrink[:, None] + tl.dot(weights.to(v.dtype), v, input_precision="ieee")
    return higher, total, mean


@triton.jit
def _forward(
    query,
    key,
    value,
    out,
    column_lse,
    lse,
    q_step,
    k_step,
    v_step,
    height,
    width,
    d: tl.constexpr,
    channels: tl.constexpr,
    column: tl.constexpr,
    blocks: tl.constexpr,
    block: tl.constexpr,
    d_block: tl.constexpr,
    c_block: tl.constexpr,
):
    """Softmax along one line for a block of its queries and a block of the channels.

    Keys come block by block. A row's program merges its result with its columns'.
    """
    first, step, length = _line(tl.program_id(1), tl.program_id(2), height, width, column)
    c_blocks: tl.constexpr = tl.cdiv(channels, c_block)
    i = tl.program_id(0) // c_blocks * block + tl.arange(0, block)
    c = tl.program_id(0) % c_blocks * c_block + tl.arange(0, c_block)
    f = tl.arange(0, d_block)
    here, queries = first + i * step, i < length
    q = _load(query, here, q_step, f, queries[:, None] & (f < d)[None, :])  # (block, d)
    top = tl.full((block,), float("-inf"), tl.float32)
    total = tl.zeros((block,), tl.float32)
    mean = tl.zeros((block, c_block), tl.float32)
    for number in range(blocks):
        j = number * block + tl.arange(0, block)
        there, keys = first + j * step, j < length
        k = _load(key, there, k_step, f, keys[:, None] & (f < d)[None, :])  # (block, d)
        v = _load(value, there, v_step, c, keys[:, None] & (c < channels)[None, :])
        scores = _scores(q, k, i, j, keys[None, :], column)  # (queries, keys)
        top, total, mean = _attend(scores, v, top, total, mean)
    total = tl.where(total > 0, total, 1.0)
    mean = mean / total[:, None]
    own = top + tl.log(total)  # -inf where there is no entry
    to = out + here[:, None] * channels + c[None, :]
    inside = queries[:, None] & (c < channels)[None, :]
    first_channels = queries & (tl.program_id(0) % c_blocks == 0)
    if column:
        tl.store(column_lse + here, own, first_channels)
    else:
        other = tl.load(column_lse + here, queries, float("-inf"))
        level = tl.maximum(own, other)  # finite: a pixel is on its own row
        merged = level + tl.log(tl.exp(own - level) + tl.exp(other - level))
        stored = tl.load(to, inside, 0.0).to(tl.float32)
        mean = mean * tl.exp(own - merged)[:, None] + stored * tl.exp(other - merged)[:, None]
        tl.store(lse + here, merged, first_channels)
    tl.store(to, mean.to(out.dtype.element_ty), inside)


@triton.jit
def _store(to, values, mask, adds: tl.constexpr):
    if adds:
        values += tl.load(to, mask, 0.0).to(tl.float32)
    tl.store(to, values.to(to.dtype.element_ty), mask)


@triton.jit
def _backward(
    query,
    key,
    value,
    out,
    lse,
    grad,
    delta,
    d_query,
    d_key,
    d_value,
    q_step,
    k_step,
    v_step,
    height,
    width,
    d: tl.constexpr,
    channels: tl.constexpr,
    column: tl.constexpr,
    block: tl.constexpr,
    d_block: tl.constexpr,
    c_block: tl.constexpr,
):
    """All gradients along one line, held whole, keys down and queries across.

    A row's program adds to what the columns' programs stored.
    """
    first, step, length = _line(tl.program_id(0), tl.program_id(1), height, width, column)
    i, f = tl.arange(0, block), tl.arange(0, d_block)
    pixel, inside = first + i * step, i < length
    features = inside[:, None] & (f < d)[None, :]
    q = _load(query, pixel, q_step, f, features)  # (block, d)
    k = _load(key, pixel, k_step, f, features)
    scores = _scores(k, q, i, i, inside[:, None] & inside[None, :], column)  # (keys, queries)
    weights = tl.exp(scores - tl.load(lse + pixel, inside, float("inf"))[None, :])
    small = weights.to(value.dtype.element_ty)
    d_weights = tl.zeros((block, block), tl.float32)
    inner = tl.zeros((block,), tl.float32)  # sum over channels of grad * out, per query
    for begin in range(0, channels, c_block):
        c = begin + tl.arange(0, c_block)
        there = inside[:, None] & (c < channels)[None, :]
        at = pixel[:, None] * channels + c[None, :]
        g = tl.load(grad + at, there, 0.0)  # (block, c_block)
        v = _load(value, pixel, v_step, c, there)
        d_weights += tl.dot(v, tl.trans(g), input_precision="ieee")
        if column:
            inner += tl.sum(g.to(tl.float32) * tl.load(out + at, there, 0.0).to(tl.float32), 1)
        dv = tl.dot(small, g, input_precision="ieee")
        _store(d_value + at, dv, there, not column)
    if column:
        tl.store(delta + pixel, inner, inside)
    else:
        inner = tl.load(delta + pixel, inside, 0.0)
    d_scores = (weights * (d_weights - inner[None, :])).to(q.dtype)
    at = pixel[:, None] * d + f[None, :]
    _store(d_key + at, tl.dot(d_scores, q, input_precision="ieee"), features, not column)
    dq = tl.dot(tl.trans(d_scores), k, input_precision="ieee")
    _store(d_query + at, dq, features, not column)


def _pixels(image: Tensor) -> Tensor:
    """(B, c, H, W) -> (P, c), the last axis dense; a view of channels-last tensors."""
    rows = image.permute(0, 2, 3, 1)
    rows = rows if rows.stride(3) == 1 else rows.contiguous()
    return rows.reshape(-1, image.shape[1])


def _block(size: int) -> int:
    """The power of two, at least 16, that holds `size`."""
    return int(max(16, triton.next_power_of_2(size)))


def _tile(tiles: dict[int, Tile], length: int, channels: int, d: int) -> dict[str, int]:
    """The sizes for lines of this length, no wider than needed."""
    tile = next(tile for longest, tile in tiles.items() if length <= longest)
    block, c_block, warps, stages = tile
    return {
        "d": d,
        "channels": channels,
        "block": min(block, _block(length)),
        "d_block": _block(d),
        "c_block": min(c_block, _block(channels)),
        "num_warps": warps,
        "num_stages": stages,
    }


criss_cross_pixels.register_fake(
    lambda query, key, value, height, width: (
        value.new_empty(value.shape),
        value.new_empty(value.shape[:1], dtype=torch.float32),
    )
)
criss_cross_pixels_backward.register_fake(
    lambda grad, query, key, value, *_: tuple(t.new_empty(t.shape) for t in (query, key, value))
)


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    query, key, value, ctx.height, ctx.width = inputs
    ctx.save_for_backward(query, key, value, *output)
    ctx.mark_non_differentiable(output[1])


def _gradients(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
    found = criss_cross_pixels_backward(grad, *ctx.saved_tensors, ctx.height, ctx.width)
    return *found, None, None


criss_cross_pixels.register_autograd(_gradients, setup_context=_save)
