"""Criss-cross attention: the plain form, the choice of a faster one, and the module.

The faster forms are in attention_cpu.py and attention_cuda.py. Shapes: B batch, d query channels,
C value channels, H rows and W columns of the feature map. A pixel's attention has H + W entries:
its column from top to bottom, then its row from left to right. The pixel itself lies on both; its
column entry is masked out, so that H + W - 1 entries share the softmax. Scores are not scaled by
1 / sqrt(d).

Source: Huang et al., "CCNet: Criss-Cross Attention for Semantic Segmentation", TPAMI 2020, section
3.2.
"""

import os
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from importlib.util import find_spec
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ccnet_lab.model.attention_cpu import CrissCross, criss_cross_rows

# On CUDA: "plain", or "triton" for the kernels of attention_cuda.py where they take the tensors.
FORM = os.environ.get("CCNET_LAB_ATTENTION", "plain")
_TRITON = find_spec("triton") is not None
_SMALL = 2**16  # values per image below which the CPU form is slower on a batch (measured)


def criss_cross_weights(query: Tensor, key: Tensor) -> Tensor:
    """Each pixel's attention over its column and its row.

    Args:
        query, key: (B, d, H, W), any float dtype; half precision is widened to float32.

    Returns:
        (B, H, W, H + W): column entries, then row entries; they sum to 1, and a pixel's own
        column entry is 0.
    """
    _check(query, key)
    query, key = _widen(query), _widen(key)
    with _full_precision(query.device.type):
        column = torch.einsum("bdyx,bdkx->byxk", query, key)  # (B, H, W, H)
        row = torch.einsum("bdyx,bdyk->byxk", query, key)  # (B, H, W, W)
        y = torch.arange(query.shape[2], device=query.device)  # ONNX Runtime has no boolean eye
        column = column.masked_fill(y[:, None, None] == y, float("-inf"))  # mask (H, 1, H)
        return torch.softmax(torch.cat([column, row], dim=-1), dim=-1)  # (B, H, W, H + W)


def criss_cross_attention_plain(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """`criss_cross_attention` as the paper writes it; the faster forms are tested against it."""
    _check(query, key, value)
    height = query.shape[2]
    weights = criss_cross_weights(query, key)  # (B, H, W, H + W)
    with _full_precision(query.device.type):
        wide = _widen(value)
        out = torch.einsum("byxk,bckx->bcyx", weights[..., :height], wide)
        out = out + torch.einsum("byxk,bcyk->bcyx", weights[..., height:], wide)
    return _formatted(out.to(value.dtype), like=value)  # (B, C, H, W)


def criss_cross_attention(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Every pixel's weighted mean of the values on its column and its row.

    `chosen_form` says which form runs.

    Args:
        query, key: (B, d, H, W), any float dtype, any memory format, CPU or CUDA.
        value: (B, C, H, W), on the same device.

    Returns:
        (B, C, H, W) in the value's dtype and memory format.

    Raises:
        ValueError: the shapes do not belong together.
    """
    _check(query, key, value)
    form = chosen_form(query, key, value)
    if form == "triton":
        from ccnet_lab.model.attention_cuda import criss_cross_triton

        return _formatted(criss_cross_triton(query, key, value), like=value)
    if form == "plain":
        return criss_cross_attention_plain(query, key, value)
    return _on_cpu(query, key, value)


def criss_cross_residual(
    x: Tensor, gamma: Tensor, query: Tensor, key: Tensor, value: Tensor
) -> Tensor:
    """One step x + gamma * attention, (B, C, H, W) as x; the rest as `criss_cross_attention`.

    On a CPU the attention is not kept for gamma's gradient.
    """
    _check(query, key, value)
    if chosen_form(query, key, value) != "cpu" or x.shape != value.shape:
        return x + gamma * criss_cross_attention(query, key, value)
    return _on_cpu(query, key, value, x, gamma)


torch.fx.wrap("criss_cross_residual")  # torch.fx.symbolic_trace knows no sizes: record the call


class CrissCrossAttention(nn.Module):
    """One step x + gamma * attention(x); apply it R times for recurrent criss-cross attention.

    Args:
        channels: C of input and output.
        query_channels: d of queries and keys.
        gamma: initial residual weight; 0 in the published networks, where an untrained step
            changes nothing.
    """

    def __init__(self, channels: int, query_channels: int, gamma: float = 0.0) -> None:
        super().__init__()
        self.query = nn.Conv2d(channels, query_channels, 1)
        self.key = nn.Conv2d(channels, query_channels, 1)
        self.value = nn.Conv2d(channels, channels, 1)
        self.gamma = nn.Parameter(torch.tensor(float(gamma)))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        return self.residual(x, *self.project(x))

    def residual(self, x: Tensor, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """One step from features and their projections: (B, C, H, W)."""
        return criss_cross_residual(x, self.gamma, query, key, value)

    def project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Query and key (B, d, H, W) and value (B, C, H, W), by a single convolution."""
        parts = (self.query, self.key, self.value)
        weight = torch.cat([part.weight for part in parts])
        bias = torch.cat([part.bias for part in parts if part.bias is not None])
        d = self.query.out_channels
        query, key, value = F.conv2d(x, weight, bias).split([d, d, self.value.out_channels], dim=1)
        return query, key, value


def chosen_form(query: Tensor, key: Tensor, value: Tensor) -> str:
    """The form for these tensors: "plain", "cpu" or, where `FORM` asks for it, "triton".

    "plain" runs for small batches, on other devices, and under any tracer or transform but
    torch.compile, so that every step is recorded.
    """
    if traced() or type(value) not in (Tensor, nn.Parameter) or value.numel() == 0:
        return "plain"  # where sizes may be unknown
    if FORM == "triton" and _TRITON:
        from ccnet_lab.model.attention_cuda import takes

        if takes(query, key, value):
            return "triton"
    small = len(value) > 1 and value[0].numel() < _SMALL
    return "plain" if small or value.device.type != "cpu" else "cpu"


def _on_cpu(
    query: Tensor, key: Tensor, value: Tensor, x: Tensor | None = None, gamma: Tensor | None = None
) -> Tensor:
    inputs = *(_rows(t) for t in (query, key, value)), x if x is None else _rows(x), gamma
    compiling = torch.compiler.is_compiling()
    rows = criss_cross_rows(*inputs)[0] if compiling else CrissCross.apply(*inputs)  # (B, H, W, C)
    dtype = value.dtype if x is None else torch.promote_types(x.dtype, value.dtype)
    return _formatted(rows.permute(0, 3, 1, 2).to(dtype), like=value)


def _rows(image: Tensor) -> Tensor:
    """(B, c, H, W) -> (B, H, W, c), float32 at least, the last axis dense."""
    rows = _widen(image.permute(0, 2, 3, 1))
    return rows if rows.stride(3) == 1 else rows.contiguous()


def _formatted(image: Tensor, like: Tensor) -> Tensor:
    """(B, c, H, W) in the memory format of `like`: channels-last or contiguous."""
    if traced():
        return image
    channels_last = like.stride(1) == 1 and not like.is_contiguous()
    return image.contiguous(
        memory_format=torch.channels_last if channels_last else torch.contiguous_format
    )


def _constant_to_dynamo(function: Callable[[], bool]) -> Callable[[], bool]:
    """As `torch.compiler.assume_constant_result`, which imports all of dynamo, a second."""
    function._dynamo_marked_constant = True  # type: ignore[attr-defined]
    return function


@_constant_to_dynamo
def traced() -> bool:
    """Whether torch.export, torch.jit.trace, torch.onnx, make_fx or torch.func runs."""
    if _exporting() or torch._C._get_tracing_state() is not None:
        return True
    if torch._C._functorch.peek_interpreter_stack() is not None:
        return True
    proxies = sys.modules.get("torch.fx.experimental.proxy_tensor")  # a second to import
    return proxies is not None and proxies.get_proxy_mode() is not None


@_constant_to_dynamo
def _exporting() -> bool:
    """`is_exporting` in a function, since dynamo takes it for true."""
    return torch.compiler.is_exporting()


def _full_precision(device_type: str) -> AbstractContextManager[Any]:
    """Autocast off; exports and meta have none."""
    if _exporting() or device_type == "meta":
        return nullcontext()
    return torch.autocast(device_type, enabled=False)


def _widen(tensor: Tensor) -> Tensor:
    """Half precision to float32: scores beyond 65,504 overflow float16, bfloat16 keeps 8 bits."""
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor


def _check(query: Tensor, key: Tensor, value: Tensor | None = None) -> None:
    if query.ndim != 4 or query.shape != key.shape:
        raise ValueError(
            f"query {tuple(query.shape)} and key {tuple(key.shape)} must have one shape "
            "(B, d, H, W); project both from the same features"
        )
    if value is None:
        return
    if value.ndim != 4 or (value.shape[0], *value.shape[2:]) != (query.shape[0], *query.shape[2:]):
        raise ValueError(
            f"value {tuple(value.shape)} must be (B, C, H, W) with the query's batch and size "
            f"{(query.shape[0], *query.shape[2:])}"
        )
