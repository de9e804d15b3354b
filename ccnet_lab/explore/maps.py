"""Attention maps of single pixels over R recurrences; their plain, dense form is in teaching.py.

A step's attention is a sparse (hw, hw) matrix A_s whose row p spreads over p's cross. What pixel p
takes from where after R steps is row p of A_R ... A_1: its one-hot row, carried backwards through
the steps. After one step the row lives on a cross, whose cells share one column and one row of
keys, so the second step costs two passes over the keys. Only from the third step on is every
cell's attention needed; it is computed a few rows at a time and never kept. A map is (h, w); a
pixel is its cell (i, j), row first.
"""

from collections.abc import Iterator
from math import comb
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ccnet_lab.model.attention import criss_cross_weights

# Cells whose attention is computed at once: 12 MiB on a 128 x 256 map. Fresh memory for all of
# them would cost more than the arithmetic.
CELLS = 2**13


class Step(NamedTuple):
    """Queries and keys of one criss-cross step, each (h, w, d)."""

    query: Tensor
    key: Tensor


class CrossSplit(NamedTuple):
    """A pixel's output after R steps as an exact sum."""

    # (R + 1, C): row l came by l hops, with gamma ** l, value projections and bias; row 0 stayed
    parts: Tensor
    # (R + 1, h, w): the paths of l hops, summed over the choices of steps; row l sums to C(R, l)
    maps: Tensor


def attention_map(steps: list[Step], i: int, j: int) -> Tensor:
    """Row (i, j) of A_R ... A_1 for the given R >= 1 steps, first step first: (h, w), sums to 1."""
    weights = _one_hot(steps, i, j)
    for hops, step in enumerate(reversed(steps)):
        weights = _pull(weights, step, i, j, hops)
    return weights


def uniform_map(size: tuple[int, int], i: int, j: int, recurrence: int) -> NDArray[np.float64]:
    """The map (h, w) of features that are the same everywhere: 0 where R steps do not reach.

    Then A = (S + T - I) / n with n = h + w - 1, where S and T have a 1 for pixels of the same row
    and of the same column. As S S = w S, T T = h T and S T = J (all ones), every power of A is
    (a I + b S + c T + d J) / n^R: four whole numbers per step.
    """
    height, width = size
    a, b, c, d = 1, 0, 0, 0
    n = height + width - 1
    for _ in range(recurrence):
        a, b, c, d = -a, a + (width - 1) * b, a + (height - 1) * c, b + c + n * d
    weights = np.full(size, d / n**recurrence)
    weights[i] = (b + d) / n**recurrence
    weights[:, j] = (c + d) / n**recurrence
    weights[i, j] = (a + b + c + d) / n**recurrence
    return weights


def listeners_map(steps: list[Step], i: int, j: int) -> Tensor:
    """Column (i, j) of A_R ... A_1: how much every pixel takes from (i, j); (h, w), any sum."""
    first = steps[0]
    of_column, of_row = _cross_cells(first, i, j)  # (h, h + w), (w, h + w)
    height = first.key.shape[0]
    weights = first.key.new_zeros(first.key.shape[:2])
    weights[:, j] = of_column[:, i]
    weights[i] = of_row[:, height + j]
    for step in steps[1:]:
        weights = _gather(weights, step)
    return weights


def mean_map(steps: list[Step], cells: Tensor, kind: str = "attention") -> Tensor:
    """The mean of the maps of some cells, a mask (h, w) of one or more: (h, w).

    `kind` is "attention", whose mean sums to 1, or "listeners".
    """
    weights = cells.to(steps[0].key) / cells.sum()
    if kind == "listeners":
        for step in steps:
            weights = _gather(weights, step)
    else:
        for step in reversed(steps):
            weights = _pull_all(weights, step)
    return weights


def split_output(
    steps: list[Step], start: Tensor, gamma: Tensor, weight: Tensor, bias: Tensor, i: int, j: int
) -> CrossSplit:
    """Split a pixel's output after x_s = x_(s-1) + gamma * A_s (W x_(s-1) + b) by number of hops.

    x_R[p] = sum over l of gamma^l * (W^l * sum over q of w_l[p, q] * x_0[q]
    + C(R, l) * W^(l-1) * b), where w_l sums the ordered products of l of the R attention matrices.
    Exact, as every row of an attention matrix sums to 1.

    Args:
        steps: the R steps, first step first. start: x_0, (C, h, w).
        gamma, weight, bias: the residual weight, and the value projection (C, C) and (C,).
    """
    maps = [_one_hot(steps, i, j)] + [torch.zeros_like(start[0]) for _ in steps]
    for done, step in enumerate(reversed(steps)):
        for hops in range(done + 1, 0, -1):  # downwards: each map is read before it grows
            maps[hops] = maps[hops] + _pull(maps[hops - 1], step, i, j, hops - 1)
    parts = []
    for hops, weights in enumerate(maps):
        part = torch.einsum("yx,cyx->c", weights, start)
        for level in range(hops):
            part = weight @ part + (comb(len(steps), hops) * bias if level == 0 else 0)
        parts.append(gamma**hops * part)
    return CrossSplit(torch.stack(parts), torch.stack(maps))


def dense_weights(step: Step) -> Tensor:
    """Every cell's attention over its cross: (h, w, h + w)."""
    query, key = (part.permute(2, 0, 1)[None] for part in step)
    return criss_cross_weights(query, key)[0]


@torch.no_grad()
def block_weights(query: Tensor, rows: Tensor, columns: Tensor, first: int) -> Tensor:
    """Attention of a block of n x m cells: (n, m, h + w), column entries first, no gradients.

    Args:
        query: (n, m, d), of the block's cells. first: the row of the map where the block starts.
        rows, columns: (n, w, d) and (h, m, d), keys of the whole rows and columns they lie in.
    """
    height = len(columns)
    weights = query.new_empty(*query.shape[:2], height + rows.shape[1])
    down = torch.bmm(query.transpose(0, 1), columns.permute(1, 2, 0))  # (m, n, d) @ (m, d, h)
    weights[..., :height] = down.transpose(0, 1)
    weights[..., :height].diagonal(first, 0, 2).fill_(float("-inf"))
    weights[..., height:] = torch.bmm(query, rows.mT)  # (n, m, d) @ (n, d, w)
    return torch.softmax(weights, dim=-1, out=weights)


def on_cross_share(weights: Tensor, i: int, j: int) -> float:
    """The share of a map's mass that lies in row i or column j."""
    return float((weights[i].sum() + weights[:, j].sum() - weights[i, j]) / weights.sum())


def class_shares(weights: Tensor, labels: Tensor, num_classes: int) -> tuple[Tensor, Tensor]:
    """(K,) share of a map's mass, and (K,) share of the cells, per class of `labels` (h, w)."""
    ids = labels.flatten().cpu().long()
    mass = torch.zeros(num_classes, dtype=weights.dtype)
    mass.index_add_(0, ids, weights.flatten().cpu())
    cells = torch.bincount(ids, minlength=num_classes).to(weights.dtype)
    return mass / mass.sum(), cells / labels.numel()


def _one_hot(steps: list[Step], i: int, j: int) -> Tensor:
    key = steps[0].key
    height, width = key.shape[:2]
    if not (0 <= i < height and 0 <= j < width):
        raise IndexError(f"cell ({i}, {j}) lies outside the {height} x {width} feature map")
    weights = key.new_zeros(height, width)
    weights[i, j] = 1
    return weights


def _pull(weights: Tensor, step: Step, i: int, j: int, hops: int) -> Tensor:
    """The row vector `weights`, `hops` steps away from (i, j), times the step's attention."""
    height = step.key.shape[0]
    if hops == 0:  # the pixel alone
        cross = block_weights(*_block(step, slice(i, i + 1), slice(j, j + 1)))[0, 0]  # (h + w,)
        entries = weights[i, j] * cross
        out = torch.zeros_like(weights)
        out[:, j] = entries[:height]
        out[i] += entries[height:]
        return out
    if hops == 1:  # the pixel's cross
        of_column, of_row = _cross_cells(step, i, j)
        column, row = weights[:, j], weights[i].clone()
        row[j] = 0  # the pixel itself is in the column already
        out = column[:, None] * of_column[:, height:] + (row[:, None] * of_row[:, :height]).T
        out[:, j] += column @ of_column[:, :height]
        out[i] += row @ of_row[:, height:]
        return out
    return _pull_all(weights, step)


def _pull_all(weights: Tensor, step: Step) -> Tensor:
    """The row vector `weights` times the step's attention."""
    height = step.key.shape[0]
    across, down = torch.empty_like(weights), weights.new_zeros(weights.shape[1], 1, height)
    for rows in _row_blocks(step):
        query, of_rows, of_columns, first = _block(step, rows, slice(None))
        # Scores (w, n, h) and (n, w, w), then their exponentials.
        column = torch.bmm(query.transpose(0, 1), of_columns.permute(1, 2, 0))
        column.diagonal(first, 1, 2).fill_(float("-inf"))
        row = torch.bmm(query, of_rows.mT)
        top = torch.maximum(column.amax(-1).T, row.amax(-1))  # (n, w)
        column.sub_(top.T[..., None]).exp_()
        row.sub_(top[..., None]).exp_()
        # The weights are divided by the softmax's sum, not the attention, which is larger.
        share = weights[rows] / (column.sum(-1).T + row.sum(-1))
        across[rows] = (share[:, None] @ row)[:, 0]
        down += share.T[:, None] @ column
    return across + down[:, 0].T


def _gather(weights: Tensor, step: Step) -> Tensor:
    """The step's attention times the column vector `weights`."""
    height, taken = step.key.shape[0], torch.empty_like(weights)
    for rows in _row_blocks(step):
        cross = block_weights(*_block(step, rows, slice(None)))  # (n, w, h + w)
        column = (cross[..., :height].transpose(0, 1) @ weights.T[..., None])[..., 0].T
        taken[rows] = column + (cross[..., height:] @ weights[rows, :, None])[..., 0]
    return taken


def _row_blocks(step: Step) -> Iterator[slice]:
    """All rows, about `CELLS` cells at a time."""
    height, width = step.key.shape[:2]
    count = max(1, CELLS // width)
    for first in range(0, height, count):
        yield slice(first, min(first + count, height))


def _cross_cells(step: Step, i: int, j: int) -> tuple[Tensor, Tensor]:
    """Attention of the cells of column j, (h, h + w), and of row i, (w, h + w)."""
    height, width = step.key.shape[:2]
    of_column = block_weights(*_block(step, slice(0, height), slice(j, j + 1)))
    return of_column[:, 0], block_weights(*_block(step, slice(i, i + 1), slice(0, width)))[0]


def _block(step: Step, rows: slice, columns: slice) -> tuple[Tensor, Tensor, Tensor, int]:
    """What `block_weights` takes for the cells of some rows and columns."""
    query, key = step
    return query[rows, columns], key[rows], key[:, columns], rows.start
