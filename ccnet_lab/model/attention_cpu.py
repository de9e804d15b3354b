"""Criss-cross attention with its residual as matrix products on a CPU, blocked; attention.py decides when it runs and has the plain form.

Batched products over the rows and over the columns of channels-last images. Only query, key, value and two numbers per pixel are kept; the
backward pass recomputes the weights. No tensor of all weights is formed in the forward pass, half of one twice in the backward pass.

Shapes, of one image: query and key (H, W, d), value and residual (H, W, C). A few lines at a time, S = (lines, length, length) are the
scores of their pixels along them.
"""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

_BLOCK = 2**22  # values of a block, 16 MiB of float32; with 2**17 to 2**20 it was slower (measured)


class CrissCross(torch.autograd.Function):
    """residual + gamma * attention, (B, H, W, C), from (B, H, W, d) twice and (B, H, W, C) twice, whose last axes are dense."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, residual: Tensor | None, gamma: Tensor | None) -> Tensor:
        """Without a residual, the attention itself."""
        out = value.new_empty(value.shape)
        top, scale = value.new_empty(2, *value.shape[:3], 1)  # of each pixel: its largest score, and 1 over its sum of exponentials
        ctx.factor = 1.0 if gamma is None else float(gamma.detach())
        rest: Iterable[Tensor | None] = [None] * len(value) if residual is None else residual
        for image in zip(query, key, value, rest, out, top, scale, [ctx.factor] * len(value), strict=True):
            _forward(*image)
        ctx.save_for_backward(query, key, value, top, scale)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """The result's gradient is the residual's; gamma's is the sum of what each pixel's softmax needs anyway."""
        query, key, value, top, scale = ctx.saved_tensors
        rows = grad if grad.stride(3) == 1 else grad.contiguous()
        d_query, d_key, d_value = (t.new_empty(t.shape) for t in (query, key, value))
        inner = torch.empty_like(top)  # of each pixel: the product of its output, before gamma, with its gradient
        with torch.autocast("cpu", enabled=False):  # whoever calls backward within it
            for image in zip(query, key, value, rows, top, scale, d_query, d_key, d_value, inner, [ctx.factor] * len(value), strict=True):
                _backward(*image)
        d_gamma = inner.sum(dtype=torch.float64).to(value.dtype) if ctx.needs_input_grad[4] else None
        return d_query.mul_(ctx.factor), d_key.mul_(ctx.factor), d_value, grad if ctx.needs_input_grad[3] else None, d_gamma


def _forward(q: Tensor, k: Tensor, v: Tensor, rest: Tensor | None, out: Tensor, top: Tensor, scale: Tensor, factor: float) -> None:
    """One image: columns first, not yet divided by the sum; then rows, whose larger maxima and sums scale what the columns gave."""
    q_c, k_c, v_c, out_c, top_c, scale_c = (_columns(t) for t in (q, k, v, out, top, scale))
    for x in _blocks(v_c):
        s = _column_scores(q_c[x], k_c[x])
        largest = s.amax(-1, keepdim=True)  # (n, H, 1)
        s.sub_(largest).exp_()
        out_c[x] = torch.bmm(s, v_c[x])
        top_c[x], scale_c[x] = largest, s.sum(-1, keepdim=True)
    for y in _blocks(v):
        s = torch.bmm(q[y], k[y].mT)
        largest = torch.maximum(s.amax(-1, keepdim=True), top[y])  # (n, W, 1)
        s.sub_(largest).exp_()
        shrink = torch.exp(top[y] - largest)
        share = 1 / (s.sum(-1, keepdim=True) + shrink * scale[y])
        top[y], scale[y] = largest, share
        shrink.mul_(share).mul_(factor)
        o = out[y]
        if rest is None:
            o.mul_(shrink)
        else:
            torch.addcmul(rest[y], o, shrink, out=o)
        torch.baddbmm(o, s.mul_(share), v[y], alpha=factor, out=o)  # in place, and unlike baddbmm_ known to the counter of operations


def _backward(
    q: Tensor, k: Tensor, v: Tensor, g: Tensor, top: Tensor, scale: Tensor,
    d_q: Tensor, d_k: Tensor, d_v: Tensor, inner: Tensor, factor: float,
) -> None:  # fmt: skip
    """Gradients of one image, those of query and key not yet times `factor`.

    With weights P and their gradients G = g v^T, those of the scores are P * (G - inner), where inner sums P * G over column and row.
    """
    q_c, k_c, v_c, g_c, top_c, scale_c, d_v_c, inner_c = (_columns(t) for t in (q, k, v, g, top, scale, d_v, inner))
    height, width = v.shape[:2]
    weights, gradients = v.new_empty(2, width, height, height)  # along columns, wanted again when the rows are known
    for x in _blocks(v_c):
        p = _column_scores(q_c[x], k_c[x], out=weights[x]).sub_(top_c[x]).exp_().mul_(scale_c[x])
        torch.mul(torch.bmm(p.mT, g_c[x]), factor, out=d_v_c[x])
        inner_c[x] = (torch.bmm(g_c[x], v_c[x].mT, out=gradients[x]) * p).sum(-1, keepdim=True)
    for y in _blocks(v):
        p = torch.bmm(q[y], k[y].mT).sub_(top[y]).exp_().mul_(scale[y])
        d = d_v[y]
        torch.baddbmm(d, p.mT, g[y], alpha=factor, out=d)
        d_s = torch.bmm(g[y], v[y].mT).mul_(p)
        inner[y] += d_s.sum(-1, keepdim=True)
        d_s.addcmul_(p, inner[y], value=-1)
        torch.bmm(d_s, k[y], out=d_q[y])
        torch.bmm(d_s.mT, q[y], out=d_k[y])
    gradients.sub_(inner_c).mul_(weights)
    _columns(d_q).add_(torch.bmm(gradients, k_c))
    _columns(d_k).add_(torch.bmm(gradients.mT, q_c))


def _column_scores(query: Tensor, key: Tensor, out: Tensor | None = None) -> Tensor:
    """(n, H, d) twice -> (n, H, H); a pixel's own is the lowest number, which gets no weight; finite, for a column of one pixel."""
    s = torch.bmm(query, key.mT, out=out)
    s.diagonal(dim1=1, dim2=2).fill_(torch.finfo(s.dtype).min)
    return s


def _columns(rows: Tensor) -> Tensor:
    """(H, W, c) -> (W, H, c), a view."""
    return rows.transpose(0, 1)


def _blocks(lines: Tensor) -> list[slice]:
    """Slices of the first axis of (lines, length, C) that hold about `_BLOCK` values."""
    step = max(1, _BLOCK // (lines.shape[1] * lines.shape[2]))
    return [slice(start, start + step) for start in range(0, len(lines), step)]
