"""Criss-cross attention as a pair of Triton kernels that never write the weights; attention.py decides when they run.

Both kernels work on one line (a column or a row) of one image at a time and are launched twice: first over the columns, whose results are
stored, then over the rows, which add theirs. Forward, the two branches are merged through their log-sum-exps; backward, the weights are
recomputed from the merged one. A program alone owns what it writes, so nothing is atomic and the same input gives the same bits.

Shapes: P = B * H * W pixels, image by image and row by row; d query channels, C value channels.
"""

from typing import Any

import torch
import triton  # type: ignore[import-untyped]
import triton.language as tl  # type: ignore[import-untyped]
from torch import Tensor

INTERPRETED = bool(
    triton.knobs.runtime.interpret
)  # TRITON_INTERPRET=1: the kernels' arithmetic on a CPU
DTYPES = (
    torch.bfloat16,
    torch.float16,
)  # float32 is right, too, but compiles to code without matrix units that spills its registers
MOST_QUERY_CHANNELS = 64  # with 128 the backward tile would need more than the 99 KB of shared memory that many GPUs have
MOST_CHANNELS = 1024
LONGEST = 1024  # H and W
LONGEST_BACKWARD = (
    128  # H and W where gradients are wanted: one program holds the weights of a whole line
)
Tile = tuple[int, int, int, int]  # pixels of a line and channels at a time, warps, pipeline stages
FORWARD: dict[int, Tile] = {
    64: (64, 128, 4, 2),
    LONGEST: (128, 64, 8, 2),
}  # by the longest line a tile is for
BACKWARD: dict[int, Tile] = {64: (64, 64, 4, 2), LONGEST_BACKWARD: (128, 32, 8, 3)}


def takes(query: Tensor, key: Tensor, value: Tensor) -> bool:
    """Whether the kernels run these (B, d, H, W), (B, d, H, W) and (B, C, H, W) of one batch; gradients bound H and W more tightly."""
    if not (
        INTERPRETED or (value.is_cuda and torch.cuda.get_device_capability(value.device) >= (8, 0))
    ):
        return False
    if not (
        query.device == key.device == value.device
        and query.dtype == key.dtype == value.dtype
        and value.dtype in DTYPES
    ):
        return False
    learns = torch.is_grad_enabled() and (
        query.requires_grad or key.requires_grad or value.requires_grad
    )
    longest = LONGEST_BACKWARD if learns else LONGEST
    return (
        max(value.shape[2:]) <= longest
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
    """The forward kernels.

    Args:
        query, key: (P, d), rows any distance apart.
        value: (P, C), likewise.
        height, width: H and W of each image.

    Returns:
        The result (P, C), in the value's dtype, and the log of each pixel's sum of exponentiated scores (P,), float32.
    """
    (pixels, d), channels = query.shape, value.shape[1]
    out = value.new_empty(pixels, channels)
    column_lse, lse = (
        torch.empty(pixels, dtype=torch.float32, device=value.device) for _ in range(2)
    )
    for column, length, lines in ((True, height, width), (False, width, height)):
        block, c_block, warps, stages = _tile(FORWARD, length, channels)
        grid = (
            triton.cdiv(length, block) * triton.cdiv(channels, c_block),
            lines,
            pixels // (height * width),
        )
        _forward[grid](
            query, key, value, out, column_lse, lse, query.stride(0), key.stride(0), value.stride(0), height, width,
            d=d, channels=channels, column=column, blocks=triton.cdiv(length, block), block=block, d_block=_block(d), c_block=c_block,
            num_warps=warps, num_stages=stages,
        )  # fmt: skip
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
    """The backward kernels: gradients of query (P, d), key (P, d) and value (P, C) from `grad` (P, C) and what the forward pass gave."""
    (pixels, d), channels = query.shape, value.shape[1]
    grad = grad.contiguous()
    d_query, d_key, d_value = (t.new_empty(t.shape) for t in (query, key, value))
    delta = torch.empty_like(lse)
    for column, length, lines in ((True, height, width), (False, width, height)):
        block, c_block, warps, stages = _tile(BACKWARD, length, channels)
        _backward[lines, pixels // (height * width)](
            query, key, value, out, lse, grad, delta, d_query, d_key, d_value, query.stride(0), key.stride(0), value.stride(0),
            height, width, d=d, channels=channels, column=column, block=block, d_block=_block(d), c_block=c_block,
            num_warps=warps, num_stages=stages,
        )  # fmt: skip
    return d_query, d_key, d_value


@triton.jit  # type: ignore[untyped-decorator]
def _line(number, image, height, width, column: tl.constexpr):  # type: ignore[no-untyped-def]
    """A line's first pixel, the distance to its next one, and its length."""
    start = image.to(tl.int64) * height * width
    if column:
        return start + number, width, height
    return start + number * width, 1, width


@triton.jit  # type: ignore[untyped-decorator]
def _forward(  # type: ignore[no-untyped-def]
    query, key, value, out, column_lse, lse, q_step, k_step, v_step, height, width, d: tl.constexpr, channels: tl.constexpr,
    column: tl.constexpr, blocks: tl.constexpr, block: tl.constexpr, d_block: tl.constexpr, c_block: tl.constexpr,
):  # fmt: skip
    """Softmax along one line for a block of its queries and of the channels, over blocks of keys; a row's program adds its column's."""
    first, step, length = _line(tl.program_id(1), tl.program_id(2), height, width, column)
    c_blocks: tl.constexpr = tl.cdiv(channels, c_block)
    i = tl.program_id(0) // c_blocks * block + tl.arange(0, block)
    c = tl.program_id(0) % c_blocks * c_block + tl.arange(0, c_block)
    f = tl.arange(0, d_block)
    here = first + i * step
    q = tl.load(
        query + here[:, None] * q_step + f[None, :], (i < length)[:, None] & (f < d)[None, :], 0.0
    )  # (block, d)
    top = tl.full((block,), float("-inf"), tl.float32)
    total = tl.zeros((block,), tl.float32)
    mean = tl.zeros((block, c_block), tl.float32)
    for number in range(blocks):
        j = number * block + tl.arange(0, block)
        there = first + j * step
        k = tl.load(
            key + there[:, None] * k_step + f[None, :],
            (j < length)[:, None] & (f < d)[None, :],
            0.0,
        )  # (block, d)
        v = tl.load(
            value + there[:, None] * v_step + c[None, :],
            (j < length)[:, None] & (c < channels)[None, :],
            0.0,
        )  # (block, c_block)
        scores = tl.dot(q, tl.trans(k), input_precision="ieee")  # (queries, keys)
        counts = (j < length)[None, :]
        if column:
            counts = counts & (i[:, None] != j[None, :])
        scores = tl.where(counts, scores, float("-inf"))
        higher = tl.maximum(top, tl.max(scores, 1))
        level = tl.where(
            higher == float("-inf"), 0.0, higher
        )  # a pixel alone on its column has no entry there
        weights = tl.exp(scores - level[:, None])
        shrink = tl.exp(top - level)
        total = total * shrink + tl.sum(weights, 1)
        mean = mean * shrink[:, None] + tl.dot(weights.to(v.dtype), v, input_precision="ieee")
        top = higher
    some = total > 0
    total = tl.where(some, total, 1.0)
    mean = mean / total[:, None]
    own = top + tl.log(total)  # -inf where there is no entry
    to = out + here[:, None] * channels + c[None, :]
    inside = (i < length)[:, None] & (c < channels)[None, :]
    first_channels = (i < length) & (tl.program_id(0) % c_blocks == 0)
    if column:
        tl.store(column_lse + here, own, first_channels)
        tl.store(to, mean.to(out.dtype.element_ty), inside)
    else:
        other = tl.load(column_lse + here, i < length, float("-inf"))
        level = tl.maximum(own, other)  # finite: a pixel is on its own row
        merged = level + tl.log(tl.exp(own - level) + tl.exp(other - level))
        mean = (
            mean * tl.exp(own - merged)[:, None]
            + tl.load(to, inside, 0.0).to(tl.float32) * tl.exp(other - merged)[:, None]
        )
        tl.store(lse + here, merged, first_channels)
        tl.store(to, mean.to(out.dtype.element_ty), inside)


@triton.jit  # type: ignore[untyped-decorator]
def _backward(  # type: ignore[no-untyped-def]
    query, key, value, out, lse, grad, delta, d_query, d_key, d_value, q_step, k_step, v_step, height, width,
    d: tl.constexpr, channels: tl.constexpr, column: tl.constexpr, block: tl.constexpr, d_block: tl.constexpr, c_block: tl.constexpr,
):  # fmt: skip
    """All gradients along one line, held whole, keys down and queries across; a row's program adds to what the column's stored."""
    first, step, length = _line(tl.program_id(0), tl.program_id(1), height, width, column)
    i = tl.arange(0, block)
    f = tl.arange(0, d_block)
    inside = i < length
    pixel = first + i * step
    features = inside[:, None] & (f < d)[None, :]
    q = tl.load(query + pixel[:, None] * q_step + f[None, :], features, 0.0)  # (block, d)
    k = tl.load(key + pixel[:, None] * k_step + f[None, :], features, 0.0)
    scores = tl.dot(k, tl.trans(q), input_precision="ieee")  # (keys, queries)
    counts = inside[:, None] & inside[None, :]
    if column:
        counts = counts & (i[:, None] != i[None, :])
    weights = tl.where(
        counts, tl.exp(scores - tl.load(lse + pixel, inside, float("inf"))[None, :]), 0.0
    )
    small = weights.to(value.dtype.element_ty)
    d_weights = tl.zeros((block, block), tl.float32)
    inner = tl.zeros((block,), tl.float32)  # sum over channels of grad * out, per query
    for begin in range(0, channels, c_block):
        c = begin + tl.arange(0, c_block)
        there = inside[:, None] & (c < channels)[None, :]
        at = pixel[:, None] * channels + c[None, :]
        g = tl.load(grad + at, there, 0.0)  # (block, c_block)
        v = tl.load(value + pixel[:, None] * v_step + c[None, :], there, 0.0)
        d_weights += tl.dot(v, tl.trans(g), input_precision="ieee")
        dv = tl.dot(small, g, input_precision="ieee")
        if column:
            inner += tl.sum(g.to(tl.float32) * tl.load(out + at, there, 0.0).to(tl.float32), 1)
        else:
            dv += tl.load(d_value + at, there, 0.0).to(tl.float32)
        tl.store(d_value + at, dv.to(d_value.dtype.element_ty), there)
    if column:
        tl.store(delta + pixel, inner, inside)
    else:
        inner = tl.load(delta + pixel, inside, 0.0)
    d_scores = (weights * (d_weights - inner[None, :])).to(q.dtype)
    dk = tl.dot(d_scores, q, input_precision="ieee")
    dq = tl.dot(tl.trans(d_scores), k, input_precision="ieee")
    at = pixel[:, None] * d + f[None, :]
    if not column:
        dk += tl.load(d_key + at, features, 0.0).to(tl.float32)
        dq += tl.load(d_query + at, features, 0.0).to(tl.float32)
    tl.store(d_key + at, dk.to(d_key.dtype.element_ty), features)
    tl.store(d_query + at, dq.to(d_query.dtype.element_ty), features)


def _pixels(image: Tensor) -> Tensor:
    """(B, c, H, W) -> (P, c) with the channels side by side: a view of a channels-last tensor or of some of its channels, else a copy."""
    rows = image.permute(0, 2, 3, 1)
    rows = rows if rows.stride(3) == 1 else rows.contiguous()
    return rows.reshape(-1, image.shape[1])


def _block(size: int) -> int:
    """The power of two, at least 16, that holds `size`."""
    return int(max(16, triton.next_power_of_2(size)))


def _tile(tiles: dict[int, Tile], length: int, channels: int) -> Tile:
    """The tile for lines of this length, no wider than needed."""
    block, c_block, warps, stages = next(
        tile for longest, tile in tiles.items() if length <= longest
    )
    return min(block, _block(length)), min(c_block, _block(channels)), warps, stages


@criss_cross_pixels.register_fake
def _(query: Tensor, key: Tensor, value: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
    return value.new_empty(value.shape), value.new_empty(value.shape[:1], dtype=torch.float32)


@criss_cross_pixels_backward.register_fake
def _(
    grad: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    out: Tensor,
    lse: Tensor,
    height: int,
    width: int,
) -> tuple[Tensor, Tensor, Tensor]:
    return query.new_empty(query.shape), key.new_empty(key.shape), value.new_empty(value.shape)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    query, key, value, ctx.height, ctx.width = inputs
    ctx.save_for_backward(query, key, value, *output)
    ctx.mark_non_differentiable(output[1])


def _gradients(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
    return (
        *criss_cross_pixels_backward(grad, *ctx.saved_tensors, ctx.height, ctx.width),
        None,
        None,
    )


criss_cross_pixels.register_autograd(_gradients, setup_context=_keep)
