"""Interleaved timings of the attention's forms on this machine; the forms themselves are in attention.py."""

import statistics
import time
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from ccnet_lab.model.attention import criss_cross_attention, criss_cross_attention_plain

SHAPES = ((1, 512, 64, 64), (1, 512, 97, 97), (1, 512, 64, 128), (2, 512, 64, 64))  # (B, C, H, W)


class Timing(NamedTuple):
    """Medians over the repeats, in seconds, of the plain and the fast form on the same tensors, and their ratios."""

    shape: tuple[int, ...]
    layout: str
    plain_forward: float
    fast_forward: float
    plain_total: float
    fast_total: float

    @property
    def forward_ratio(self) -> float:
        """How many times faster the fast form's forward pass is."""
        return self.plain_forward / self.fast_forward

    @property
    def total_ratio(self) -> float:
        """How many times faster the fast form's forward and backward pass is."""
        return self.plain_total / self.fast_total


def time_attention(shape: tuple[int, ...], channels_last: bool, repeats: int = 15, query_channels: int = 64) -> Timing:
    """Time both forms in turn, float32, on `shape` (B, C, H, W); the first three rounds are not counted."""
    batch, channels, height, width = shape
    layout = torch.channels_last if channels_last else torch.contiguous_format
    generator = torch.Generator().manual_seed(0)

    def tensor(c: int) -> Tensor:
        return torch.randn(batch, c, height, width, generator=generator).mul(0.5).to(memory_format=layout).requires_grad_()

    inputs = (tensor(query_channels), tensor(query_channels), tensor(channels))
    seed = tensor(channels).detach()
    forms: dict[str, Callable[..., Tensor]] = {"plain": criss_cross_attention_plain, "fast": criss_cross_attention}
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in forms}
    for _ in range(repeats + 3):
        for name, form in forms.items():
            start = time.perf_counter()
            out = form(*inputs)
            middle = time.perf_counter()
            torch.autograd.grad(out, inputs, seed)
            found[name].append((middle - start, time.perf_counter() - start))
            del out
    medians = {name: [statistics.median(column) for column in zip(*times[3:], strict=True)] for name, times in found.items()}
    (plain_forward, plain_total), (fast_forward, fast_total) = medians["plain"], medians["fast"]
    name = "channels-last" if channels_last else "contiguous"
    return Timing(shape, name, plain_forward, fast_forward, plain_total, fast_total)
