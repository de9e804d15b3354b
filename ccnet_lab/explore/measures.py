"""Numbers on attention maps against what geometry alone gives; the maps are made in maps.py.

Criss-cross attention reaches its own row and column over more paths than other cells, so even
features that are the same everywhere give maps that are not flat for R >= 2. Same-class share and
query dependence are both compared with that map, `maps.uniform_map`.
"""

from dataclasses import dataclass
from itertools import combinations, product

import numpy as np
import torch
from numpy.typing import NDArray

from ccnet_lab.data.generated.beacons import BEACON, SIZE
from ccnet_lab.explore import maps
from ccnet_lab.explore.explorer import View


@dataclass(frozen=True)
class SameClass:
    """How much of a map lies on the pixel's own class."""

    label: int  # the class predicted for the pixel at the R the model was trained with
    share: float  # of the map's mass, on the cells of that class
    chance: float  # the share of `maps.uniform_map` there


def same_class(
    view: View,
    x: int,
    y: int,
    recurrence: int | None = None,
    weights: NDArray[np.float32] | None = None,
) -> SameClass:
    """The share of pixel (x, y)'s map on its own class, and the share by chance.

    By chance is what `maps.uniform_map` gives: for R = 1 the class's share of the cross; for
    R >= 2 each cell is weighted by the paths that lead to it.

    Args:
        view, x, y: an image as a model sees it, and the pixel. Raises as `View.cell`.
        recurrence: R; None for the one the model was trained with.
        weights: that pixel's map at that R, where the caller has it already.
    """
    recurrence = view.recurrence if recurrence is None else recurrence
    flat = maps.uniform_map(view.grid, *view.cell(x, y), recurrence)
    weights = view.attention(x, y, recurrence) if weights is None else weights
    label = int(view.labels[y, x])
    own = view.cell_labels() == label
    return SameClass(label, float(weights[own].sum()), float(flat[own].sum()))


def beacon(view: View) -> NDArray[np.bool_] | None:
    """(H, W): the beacon's pixels in a generated scene, found by colour; None for other images."""
    if view.explorer.config.dataset != "beacons" or view.size != (SIZE, SIZE):
        return None
    colourful: NDArray[np.bool_] = view.image.max(axis=2).astype(int) - view.image.min(axis=2) > 60
    return colourful if 0 < colourful.sum() <= 2 * BEACON**2 else None


def beacon_cells(view: View) -> NDArray[np.bool_] | None:
    """(h, w): the cells that the beacon reaches into; None as `beacon`."""
    found = beacon(view)
    if found is None:
        return None
    cells = np.zeros(view.grid, np.bool_)
    for y, x in np.argwhere(found).tolist():
        cells[view.cell(x, y)] = True
    return cells


@torch.inference_mode()
def query_dependence(view: View, recurrence: int | None = None, grid: int = 8) -> float:
    """How far what pixels look at depends on them: 0 all look at one place, 1 each elsewhere.

    That is the mean distance between the maps of a lattice of pixels. Each map is divided by
    `maps.uniform_map`, which leaves what the network prefers beyond geometry. Two pixels are
    compared on the cells both can reach, each map scaled to sum 1 there; their distance is half
    the sum of the differences (total variation). For R = 1 only pixels of one row or column are
    compared, on that row or column: other crosses meet in two cells. Scores that depend on the
    key alone give 0 for R = 1, and little for R >= 2, as the paths differ.

    Args:
        view: an image as a model sees it.
        recurrence: R, 1 or more; None for the one the model was trained with.
        grid: rows and columns of the lattice, 1 or more; fewer on smaller maps.

    Raises `ValueError` where either is below 1.
    """
    recurrence = view.recurrence if recurrence is None else recurrence
    for name, value in (("recurrence", recurrence), ("grid", grid)):
        if value < 1:
            raise ValueError(f"{name} is {value}; expected 1 or more")
    steps = view.steps(recurrence)
    lines = [((np.arange(n := min(grid, side)) + 0.5) * side / n).astype(int) for side in view.grid]
    cells = [(int(i), int(j)) for i, j in product(*lines)]
    flat = np.stack([maps.uniform_map(view.grid, *cell, recurrence).ravel() for cell in cells])
    found = np.stack([maps.attention_map(steps, *cell).flatten().cpu() for cell in cells])
    reach = flat > 0  # (N, h * w)
    preferred = np.divide(found, flat, out=np.zeros_like(flat), where=reach)
    distances = []
    for (a, (i, j)), (b, (k, m)) in combinations(enumerate(cells), 2):
        if recurrence > 1 or i == k or j == m:
            both = reach[a] & reach[b]
            first, second = preferred[a, both], preferred[b, both]
            if first.any() and second.any():  # float32 has no weights below 1e-45
                gap = np.abs(first / first.sum() - second / second.sum())
                distances.append(gap.sum() / 2)
    return float(np.mean(distances)) if distances else 0.0


def first_pixel(view: View) -> tuple[int, int]:
    """A pixel worth showing first: the disc pixel furthest from a beacon's cross, or the middle."""
    height, width = view.size
    if (colourful := beacon(view)) is not None:
        darkest = view.image.min(axis=2)
        discs = (view.labels > 0) & ~colourful & (darkest > 110)
        for axis, shift in ((0, 3), (0, -3), (1, 3), (1, -3)):  # well inside its disc
            discs = discs & np.roll(discs, shift, axis)
        if discs.any():
            candidates = np.argwhere(discs)
            distances = np.abs(candidates - np.argwhere(colourful).mean(axis=0)).min(axis=1)
            y, x = candidates[distances.argmax()].tolist()
            return x, y
    return width // 2, height // 2
