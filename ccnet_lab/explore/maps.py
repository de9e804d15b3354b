"""Attention maps of single pixels, composed over the recurrences without building a dense matrix. Tensors in, tensors out.

A step's attention is a sparse (hw, hw) matrix A_s whose row p spreads over p's cross. What pixel p takes from where after R steps is row p
of A_R ... A_1: its one-hot row, carried backwards through the steps. After one step the row lives on a cross, and the cells of a cross
share one column and one row of keys, so the second step costs two passes over the keys. Only from the third step on is every cell's
attention needed; it is computed a few rows at a time and never kept. A map is (h, w); a pixel is its cell (i, j), row first.
"""

from collections.abc import Iterator
from math import comb
from typing import NamedTuple

import torch
from torch import Tensor

from ccnet_lab.model.attention import criss_cross_weights

CELLS = (
    2**13
)  # cells whose attention is computed at once: 12 MiB on a 128 x 256 map; fresh memory for all costs more than the arithmetic


class Step(NamedTuple):
    """Queries and keys of one criss-cross step, each (h, w, d)."""

    query: Tensor
    key: Tensor


class Split(NamedTuple):
    """A pixel's output after R steps as an exact sum."""

    parts: Tensor  # (R + 1, C); row l came by l hops, gamma ** l, the value projections and their bias included; row 0 is what stayed
    maps: Tensor  # (R + 1, h, w); the attention paths of each hop count, summed over the C(R, l) choices of steps; row l sums to C(R, l)


def attention_map(steps: list[Step], i: int, j: int) -> Tensor:
    """Row (i, j) of A_R ... A_1 for the given R >= 1 steps, first step first: (h, w), sums to 1."""
    weights = _one_hot(steps, i, j)
    for hops, step in enumerate(reversed(steps)):
        weights = _pull(weights, step, i, j, hops)
    return weights


def uniform_map(size: tuple[int, int], i: int, j: int, recurrence: int) -> Tensor:
    """The map (h, w) of features that are the same everywhere: geometry alone. It is 0 where R steps do not reach, and only there."""
    flat = torch.zeros(*size, 1)
    return attention_map([Step(flat, flat)] * recurrence, i, j)


def listeners_map(steps: list[Step], i: int, j: int) -> Tensor:
    """Column (i, j) of A_R ... A_1: how much every pixel takes from (i, j); (h, w), its sum is free."""
    first = steps[0]
    of_column, of_row = _cross_cells(first, i, j)  # (h, h + w), (w, h + w)
    height = first.key.shape[0]
    weights = first.key.new_zeros(first.key.shape[:2])
    weights[:, j] = of_column[:, i]
    weights[i] = of_row[:, height + j]
    for step in steps[1:]:
        taken = torch.empty_like(weights)
        for rows in _row_blocks(step):
            cross = block_weights(*_block(step, rows, slice(None)))  # (n, w, h + w)
            column = (cross[..., :height].transpose(0, 1) @ weights.T[..., None])[..., 0].T
            taken[rows] = column + (cross[..., height:] @ weights[rows, :, None])[..., 0]
        weights = taken
    return weights


def split_output(
    steps: list[Step], start: Tensor, gamma: Tensor, weight: Tensor, bias: Tensor, i: int, j: int
) -> Split:
    """Take a pixel's output after the steps x_s = x_(s-1) + gamma * A_s (W x_(s-1) + b) apart by the number of hops.

    x_R[p] = sum over l of gamma^l * (W^l * sum over q of w_l[p, q] * x_0[q] + C(R, l) * W^(l-1) * b), w_l summing the ordered products
    of l of the R attention matrices. Exact, as every row of an attention matrix sums to 1.

    Args:
        steps: the R steps, first step first. start: x_0, (C, h, w).
        gamma, weight, bias: the attention's residual weight, and its value projection (C, C) and (C,).
    """
    maps = [_one_hot(steps, i, j)] + [torch.zeros_like(start[0]) for _ in steps]
    for done, step in enumerate(reversed(steps)):
        for hops in range(
            done + 1, 0, -1
        ):  # from many to few, so that each map is read before it grows
            maps[hops] = maps[hops] + _pull(maps[hops - 1], step, i, j, hops - 1)
    parts = []
    for hops, weights in enumerate(maps):
        part = torch.einsum("yx,cyx->c", weights, start)
        for level in range(hops):
            part = weight @ part + (comb(len(steps), hops) * bias if level == 0 else 0)
        parts.append(gamma**hops * part)
    return Split(torch.stack(parts), torch.stack(maps))


def dense_weights(step: Step) -> Tensor:
    """Every cell's attention over its cross: (h, w, h + w)."""
    return criss_cross_weights(step.query.permute(2, 0, 1)[None], step.key.permute(2, 0, 1)[None])[
        0
    ]


@torch.no_grad()
def block_weights(query: Tensor, rows: Tensor, columns: Tensor, first: int) -> Tensor:
    """Attention of a block of n x m cells: (n, m, h + w), column entries first, as `criss_cross_weights` but without gradients.

    Args:
        query: (n, m, d), of the block's cells. first: the row of the map that is the block's first.
        rows, columns: (n, w, d) and (h, m, d), keys of the whole rows and of the whole columns they lie in.
    """
    height = len(columns)
    weights = query.new_empty(*query.shape[:2], height + rows.shape[1])
    weights[..., :height] = torch.bmm(query.transpose(0, 1), columns.permute(1, 2, 0)).transpose(
        0, 1
    )  # (m, n, d) @ (m, d, h)
    weights[..., :height].diagonal(first, 0, 2).fill_(float("-inf"))
    weights[..., height:] = torch.bmm(query, rows.mT)  # (n, m, d) @ (n, d, w)
    return torch.softmax(weights, dim=-1, out=weights)


def on_cross_share(weights: Tensor, i: int, j: int) -> float:
    """The share of a map's mass that lies in row i or column j."""
    return float((weights[i].sum() + weights[:, j].sum() - weights[i, j]) / weights.sum())


def class_shares(weights: Tensor, labels: Tensor, num_classes: int) -> tuple[Tensor, Tensor]:
    """(K,) share of a map's mass, and (K,) share of the cells, per class of `labels` (h, w)."""
    mass = torch.zeros(num_classes, dtype=weights.dtype).index_add_(
        0, labels.flatten().cpu().long(), weights.flatten().cpu()
    )
    cells = torch.bincount(labels.flatten().cpu().long(), minlength=num_classes).to(weights.dtype)
    return mass / mass.sum(), cells / labels.numel()


def clip(weights: Tensor, threshold: float) -> Tensor:
    """The clipped map of the paper's figures: the threshold where the map exceeds it."""
    return weights.clamp(max=threshold)


def _one_hot(steps: list[Step], i: int, j: int) -> Tensor:
    key = steps[0].key
    height, width = key.shape[:2]
    if not (0 <= i < height and 0 <= j < width):
        raise IndexError(f"cell ({i}, {j}) lies outside the {height} x {width} feature map")
    weights = key.new_zeros(height, width)
    weights[i, j] = 1
    return weights


def _pull(weights: Tensor, step: Step, i: int, j: int, hops: int) -> Tensor:
    """The row vector `weights` times the step's attention matrix; after `hops` steps from (i, j) its support is known."""
    height = step.key.shape[0]
    if hops == 0:  # the pixel alone
        entries = (
            weights[i, j] * block_weights(*_block(step, slice(i, i + 1), slice(j, j + 1)))[0, 0]
        )  # (h + w,)
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
    across, down = torch.empty_like(weights), weights.new_zeros(weights.shape[1], 1, height)
    for rows in _row_blocks(step):
        query, of_rows, of_columns, first = _block(step, rows, slice(None))
        column = torch.bmm(
            query.transpose(0, 1), of_columns.permute(1, 2, 0)
        )  # scores (w, n, h); their exponentials below
        column.diagonal(first, 1, 2).fill_(float("-inf"))
        row = torch.bmm(query, of_rows.mT)  # (n, w, w)
        top = torch.maximum(column.amax(-1).T, row.amax(-1))  # (n, w)
        column.sub_(top.T[..., None]).exp_()
        row.sub_(top[..., None]).exp_()
        share = weights[rows] / (
            column.sum(-1).T + row.sum(-1)
        )  # so that the attention itself need not be divided by its sum
        across[rows] = (share[:, None] @ row)[:, 0]
        down += share.T[:, None] @ column
    return across + down[:, 0].T


def _row_blocks(step: Step) -> Iterator[slice]:
    """All rows, so many at a time that they hold about `CELLS` cells."""
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
