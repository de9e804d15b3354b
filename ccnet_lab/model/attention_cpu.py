"""Criss-cross attention with its residual on a CPU, as blocked matrix products.

attention.py decides when it runs and has the plain form. Batched products run over the rows and
the columns of channels-last images. Only query, key, value and one number per pixel are kept for
the backward pass, which recomputes the weights: the forward pass forms no tensor of all weights,
the backward pass twice half of one.

Shapes of one image: query and key (H, W, d), value and residual (H, W, C). The scores of a few
lines at a time along themselves are (lines, length, length).
"""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

_BLOCK = 2**22  # values of a block, 16 MiB of float32; 2**17 to 2**20 were slower (measured)


class CrissCross(torch.autograd.Function):
    """`criss_cross_rows` outside compiled programs: less overhead, and its products are counted."""

    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> Tensor:
        """The first result of `criss_cross_rows`."""
        found = _rows_forward(*inputs)
        _save(ctx, inputs, found)
        return found[0]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """As that of the compiled operator."""
        return _gradients(ctx, _rows_backward(grad, *ctx.saved_tensors), grad)


def _rows_forward(
    query: Tensor, key: Tensor, value: Tensor, residual: Tensor | None, gamma: Tensor | None
) -> tuple[Tensor, Tensor]:
    """The step residual + gamma * attention, or the attention alone where both are None.

    Query and key are (B, H, W, d), value and residual (B, H, W, C), the last axis dense; gamma ().
    Gives (B, H, W, C), and the share of each pixel's attention on its column (B, H, W, 1).
    """
    out, share = _empty_results(value)
    factor = 1.0 if gamma is None else float(gamma.detach())
    residuals: Iterable[Tensor | None] = [None] * len(value) if residual is None else residual
    factors = [factor] * len(value)
    with torch.autocast("cpu", enabled=False):
        for image in zip(query, key, value, residuals, out, share, factors, strict=True):
            _forward(*image)
    return out, share


def _rows_backward(
    grad: Tensor, query: Tensor, key: Tensor, value: Tensor, gamma: Tensor | None, share: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of query, key, value and gamma."""
    grad = grad if grad.stride(3) == 1 else grad.contiguous()
    d_query, d_key, d_value = (t.new_empty(t.shape) for t in (query, key, value))
    inner = torch.empty_like(share)  # per pixel: gradient times output before gamma
    factor = 1.0 if gamma is None else float(gamma.detach())
    gradients = d_query, d_key, d_value, inner, [factor] * len(value)
    with torch.autocast("cpu", enabled=False):
        for image in zip(query, key, value, grad, share, *gradients, strict=True):
            _backward(*image)
    d_gamma = inner.sum(dtype=torch.float64).to(value.dtype)
    return d_query.mul_(factor), d_key.mul_(factor), d_value, d_gamma


def _empty_results(value: Tensor) -> tuple[Tensor, Tensor]:
    return value.new_empty(value.shape), value.new_empty(*value.shape[:3], 1)


criss_cross_rows = torch.library.custom_op(
    "ccnet_lab::criss_cross_rows", _rows_forward, mutates_args=()
)
criss_cross_rows_backward = torch.library.custom_op(
    "ccnet_lab::criss_cross_rows_backward", _rows_backward, mutates_args=()
)


criss_cross_rows.register_fake(lambda query, key, value, *_: _empty_results(value))
criss_cross_rows_backward.register_fake(
    lambda grad, *inputs: (*(t.new_empty(t.shape) for t in inputs[:3]), grad.new_empty(()))
)


def _save(ctx: Any, inputs: tuple[Tensor | None, ...], output: tuple[Tensor, Tensor]) -> None:
    query, key, value, _, gamma = inputs
    ctx.save_for_backward(query, key, value, gamma, output[1])


def _gradients(ctx: Any, found: tuple[Tensor, ...], grad: Tensor) -> tuple[Tensor | None, ...]:
    """Gradients of the five inputs; the result's is the residual's."""
    *projections, d_gamma = found
    _, _, _, residual, gamma = ctx.needs_input_grad
    return *projections, grad if residual else None, d_gamma if gamma else None


torch.library.register_autograd(
    criss_cross_rows,
    lambda ctx, grad, _: _gradients(ctx, criss_cross_rows_backward(grad, *ctx.saved_tensors), grad),
    setup_context=_save,
)


def _forward(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    residual: Tensor | None,
    out: Tensor,
    share: Tensor,
    factor: float,
) -> None:
    """One image: a softmax along columns, then along rows, weighted by their sums."""
    q_c, k_c, v_c, out_c, share_c = (_columns(t) for t in (q, k, v, out, share))
    for x in _blocks(v_c):
        p, share_c[x] = _softmax(_column_scores(q_c[x], k_c[x]))
        out_c[x] = torch.bmm(p, v_c[x])
    for y in _blocks(v):
        p, log_sum = _softmax(torch.bmm(q[y], k[y].mT))
        w = share[y].sub_(log_sum).sigmoid_()  # (n, W, 1)
        o = out[y]
        if residual is None:
            o.mul_(w)
        else:
            torch.addcmul(residual[y], o, w, value=factor, out=o)
        # In place; FlopCounterMode counts it, which it does not baddbmm_.
        torch.baddbmm(o, p.mul_(1 - w), v[y], alpha=factor, out=o)


def _backward(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    g: Tensor,
    share: Tensor,
    d_q: Tensor,
    d_k: Tensor,
    d_v: Tensor,
    inner: Tensor,
    factor: float,
) -> None:
    """Gradients of one image, those of query and key not yet times `factor`.

    With weights P and their gradients G = g v^T, the gradients of the scores are P * (G - inner),
    where inner sums P * G over column and row.
    """
    q_c, k_c, v_c, g_c, share_c, d_v_c, inner_c = (
        _columns(t) for t in (q, k, v, g, share, d_v, inner)
    )
    height, width = v.shape[:2]
    weights, gradients = v.new_empty(2, width, height, height)  # along columns, needed again
    for x in _blocks(v_c):
        s = _column_scores(q_c[x], k_c[x], out=weights[x])
        p = torch.softmax(s, -1, out=s).mul_(share_c[x])
        torch.mul(torch.bmm(p.mT, g_c[x]), factor, out=d_v_c[x])
        inner_c[x] = (torch.bmm(g_c[x], v_c[x].mT, out=gradients[x]) * p).sum(-1, keepdim=True)
    for y in _blocks(v):
        p = torch.bmm(q[y], k[y].mT)
        torch.softmax(p, -1, out=p).mul_(1 - share[y])
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


def _softmax(scores: Tensor) -> tuple[Tensor, Tensor]:
    """Softmax over the last axis, in place, and the log-sum-exp (..., 1).

    The sum follows from the largest weight; torch.exp is much slower on some processors.
    """
    largest = scores.amax(-1, keepdim=True)
    p = torch.softmax(scores, -1, out=scores)
    return p, largest - p.amax(-1, keepdim=True).log_()


def _column_scores(query: Tensor, key: Tensor, out: Tensor | None = None) -> Tensor:
    """(n, H, d) twice -> (n, H, H), a pixel's own so low that it gets no weight.

    The lowest finite number, not -inf: a column may consist of one pixel.
    """
    s = torch.bmm(query, key.mT, out=out)
    s.diagonal(dim1=1, dim2=2).fill_(torch.finfo(s.dtype).min)
    return s


def _columns(rows: Tensor) -> Tensor:
    """(H, W, c) -> (W, H, c)."""
    return rows.transpose(0, 1)


def _blocks(lines: Tensor) -> list[slice]:
    """Slices of the first axis of (lines, length, C) that hold about `_BLOCK` values."""
    step = max(1, _BLOCK // (lines.shape[1] * lines.shape[2]))
    return [slice(start, start + step) for start in range(0, len(lines), step)]
