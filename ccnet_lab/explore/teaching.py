"""Criss-cross attention in plain, dense form, for the notebooks; the op is in model/attention.py.

Dense matrices are (HW, HW): row p holds what pixel p takes from every pixel, pixels counted row by
row. `dense.view(H, W, H, W)[i, j]` is the map of pixel (i, j). They grow with the fourth power of
the side, so they are for maps of some hundred cells.
"""

import torch
from torch import Tensor

from ccnet_lab.model.attention import CrissCrossAttention, criss_cross_weights
from ccnet_lab.model.costs import (  # noqa: F401  for notebooks
    criss_cross_bytes,
    criss_cross_flops,
    non_local_bytes,
    non_local_flops,
)


def toy_features(channels: int, height: int, width: int, seed: int = 0) -> Tensor:
    """(1, C, H, W) float64 standard normal numbers; the same seed gives the same features."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(1, channels, height, width, generator=generator, dtype=torch.float64)


def cross_matrix(height: int, width: int) -> Tensor:
    """(HW, HW) int64: 1 where two pixels share a row or a column; H + W - 1 ones in every row."""
    row, column = torch.arange(height * width) // width, torch.arange(height * width) % width
    return ((row[:, None] == row) | (column[:, None] == column)).long()


def walks(height: int, width: int, i: int, j: int, hops: int) -> Tensor:
    """(H, W) int64: the ways from pixel (i, j) to each pixel in `hops` hops, staying included.

    One hop gives the cross of (i, j). Raises `IndexError` where (i, j) lies outside the map.
    """
    if not (0 <= i < height and 0 <= j < width):
        raise IndexError(f"pixel ({i}, {j}) lies outside the {height} x {width} map")
    found = torch.zeros(height * width, dtype=torch.long)
    found[i * width + j] = 1
    for _ in range(hops):
        found = found @ cross_matrix(height, width)
    return found.view(height, width)


def dense_attention(query: Tensor, key: Tensor, counts: Tensor | None = None) -> Tensor:
    """Full attention with a mask: (B, d, H, W) twice -> (B, HW, HW), rows sum to 1.

    Pixel q counts counts[p, q] times for pixel p: n times its exp(score) in the softmax, which is
    log(n) added to its score, or -inf for 0. None stands for `cross_matrix`, which makes this
    criss-cross attention. Scores are not scaled.
    """
    counts = cross_matrix(*query.shape[2:]) if counts is None else counts
    scores = query.flatten(2).mT @ key.flatten(2)  # (B, HW, HW)
    return torch.softmax(scores + counts.to(scores).log(), dim=-1)


def dense_from_weights(weights: Tensor) -> Tensor:
    """`criss_cross_weights` (B, H, W, H + W), column entries first, as dense (B, HW, HW)."""
    batch, height, width, _ = weights.shape
    dense = weights.new_zeros(batch, height, width, height, width)
    column, row = weights[..., :height], weights[..., height:]
    dense.diagonal(dim1=2, dim2=4).add_(column.transpose(2, 3))  # (B, H, H, W): of one column
    dense.diagonal(dim1=1, dim2=3).add_(row.permute(0, 2, 3, 1))  # (B, W, W, H): of one row
    return dense.view(batch, height * width, height * width)


@torch.no_grad()
def dense_steps(step: CrissCrossAttention, x: Tensor, recurrence: int = 2) -> list[Tensor]:
    """A_1, ..., A_R, each (HW, HW), of features x (1, C, H, W) through R steps of one module."""
    found = []
    for _ in range(recurrence):
        query, key, _ = step.project(x)
        found.append(dense_from_weights(criss_cross_weights(query, key))[0])
        x = step(x)
    return found
