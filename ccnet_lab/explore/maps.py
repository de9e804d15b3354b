"""Attention maps of single pixels, composed over the recurrences without building a dense matrix. Tensors in, tensors out.

A step's attention is a sparse (hw, hw) matrix A_s whose row p spreads over p's cross. What pixel p takes from where after R steps is row p
of A_R ... A_1: its one-hot row, carried backwards through the steps. After one step the row lives on a cross, and the cells of a cross
share one column and one row of keys, so the second step costs two passes over the keys. Only from the third step on is every cell's
attention needed. A map is (h, w); a pixel is its cell (i, j), row first.
"""

from math import comb
from typing import NamedTuple

import torch
from torch import Tensor

from ccnet_lab.model.attention import criss_cross_weights


class Step(NamedTuple):
    """Queries and keys of one criss-cross step, each (h, w, d)."""

    query: Tensor
    key: Tensor


class Split(NamedTuple):
    """A pixel's output after R steps as an exact sum.

    Attributes:
        parts: (R + 1, C); row l came by l hops, gamma ** l, the value projections and their bias included; row 0 is what stayed.
        maps: (R + 1, h, w); the attention paths of each hop count, summed over the C(R, l) choices of steps; row l sums to C(R, l).
    """

    parts: Tensor
    maps: Tensor


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
        cross = dense_weights(step)  # (h, w, h + w)
        column = torch.einsum("yxk,kx->yx", cross[..., :height], weights)
        weights = column + torch.einsum("yxk,yk->yx", cross[..., height:], weights)
    return weights


def split_output(steps: list[Step], start: Tensor, gamma: Tensor, weight: Tensor, bias: Tensor, i: int, j: int) -> Split:
    """Take a pixel's output after the steps x_s = x_(s-1) + gamma * A_s (W x_(s-1) + b) apart by the number of hops.

    x_R[p] = sum over l of gamma^l * (W^l * sum over q of w_l[p, q] * x_0[q] + C(R, l) * W^(l-1) * b), w_l summing the ordered products
    of l of the R attention matrices. Exact, as every row of an attention matrix sums to 1.

    Args:
        steps: the R steps, first step first.
        start: x_0, (C, h, w).
        gamma, weight, bias: the attention's residual weight, and its value projection (C, C) and (C,).
    """
    recurrence = len(steps)
    maps = [_one_hot(steps, i, j)] + [torch.zeros_like(start[0]) for _ in steps]
    for done, step in enumerate(reversed(steps)):
        for hops in range(done + 1, 0, -1):  # from many to few, so that each map is read before it grows
            maps[hops] = maps[hops] + _pull(maps[hops - 1], step, i, j, hops - 1)
    parts = []
    for hops, weights in enumerate(maps):
        part = torch.einsum("yx,cyx->c", weights, start)
        for level in range(hops):
            part = weight @ part + (comb(recurrence, hops) * bias if level == 0 else 0)
        parts.append(gamma**hops * part)
    return Split(torch.stack(parts), torch.stack(maps))


def dense_weights(step: Step) -> Tensor:
    """Every cell's attention over its cross: (h, w, h + w)."""
    return criss_cross_weights(step.query.permute(2, 0, 1)[None], step.key.permute(2, 0, 1)[None])[0]


def on_cross_share(weights: Tensor, i: int, j: int) -> float:
    """The share of a map's mass that lies in row i or column j."""
    total = weights.sum()
    return float((weights[i].sum() + weights[:, j].sum() - weights[i, j]) / total)


def class_shares(weights: Tensor, labels: Tensor, num_classes: int) -> tuple[Tensor, Tensor]:
    """(K,) share of a map's mass, and (K,) share of the cells, per class of `labels` (h, w)."""
    mass = torch.zeros(num_classes, dtype=weights.dtype).index_add_(0, labels.flatten().cpu().long(), weights.flatten().cpu())
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
        scores = torch.cat([step.key[:, j] @ step.query[i, j], step.key[i] @ step.query[i, j]])  # (h + w,)
        scores[i] = float("-inf")
        entries = weights[i, j] * torch.softmax(scores, dim=0)
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
    cross = dense_weights(step)  # (h, w, h + w)
    return torch.einsum("yx,yxk->kx", weights, cross[..., :height]) + torch.einsum("yx,yxk->yk", weights, cross[..., height:])


def _cross_cells(step: Step, i: int, j: int) -> tuple[Tensor, Tensor]:
    """Attention of the cells of column j, (h, h + w), and of row i, (w, h + w)."""
    query, key = step
    height = key.shape[0]
    of_column = torch.cat([query[:, j] @ key[:, j].T, torch.einsum("yd,yxd->yx", query[:, j], key)], dim=1)
    of_column[:, :height].fill_diagonal_(float("-inf"))
    of_row = torch.cat([torch.einsum("xd,yxd->xy", query[i], key), query[i] @ key[i].T], dim=1)
    of_row[:, i] = float("-inf")
    return torch.softmax(of_column, dim=1), torch.softmax(of_row, dim=1)
