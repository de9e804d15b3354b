"""Numbers on attention maps against what geometry alone gives; the maps are made in maps.py.

Criss-cross attention reaches its own row and column over more paths than other cells, so even
features that are the same everywhere give maps that are not flat for R >= 2. Same-class share and
query dependence are both compared with that map, `maps.uniform_map`.
"""

from dataclasses import dataclass

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
    chance: float  # the share that features which are the same everywhere would put there


@dataclass(frozen=True)
class QueryDependence:
    """How far what a pixel looks at depends on the pixel. N pixels."""

    value: float  # mean distance: 0 where all look at the same place, 1 where each looks elsewhere
    cells: NDArray[np.int64]  # (N, 2) i, j of the pixels' cells
    distances: NDArray[np.float64]  # (N, N) between two pixels' maps; NaN for pairs not compared


def same_class(
    view: View,
    x: int,
    y: int,
    recurrence: int | None = None,
    weights: NDArray[np.float32] | None = None,
) -> SameClass:
    """The share of pixel (x, y)'s map on its own class, and the share by chance.

    Chance is the mass of `maps.uniform_map` on the class: for R = 1 the class's share of the
    cross; for R >= 2 each cell is weighted by the paths that lead to it. Classes are those
    predicted at the R the model was trained with, so that numbers for several R can be compared.

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
def query_dependence(view: View, recurrence: int | None = None, grid: int = 8) -> QueryDependence:
    """Compare the maps of a lattice of pixels: do all look at the same place, or each elsewhere?

    Each map is divided by `maps.uniform_map`, which leaves what the network prefers beyond
    geometry. Two pixels are compared on the cells both can reach, each map scaled to sum 1 there;
    their distance is half the sum of the differences (total variation). For R = 1 only pixels of
    one row or column are compared, on that row or column: other crosses meet in two cells. Scores
    that depend on the key alone give 0 for R = 1, where the softmax is the same for both, and
    little, but not 0, for R >= 2, as the paths differ.

    Args:
        view: an image as a model sees it.
        recurrence: R, 1 or more; None for the one the model was trained with.
        grid: rows and columns of the lattice, 1 or more; fewer on smaller maps.

    Raises:
        ValueError: either is below 1.
    """
    recurrence = view.recurrence if recurrence is None else recurrence
    for name, value in (("recurrence", recurrence), ("grid", grid)):
        if value < 1:
            raise ValueError(f"{name} is {value}; expected 1 or more")
    steps = view.steps(recurrence)
    lines = [((np.arange(n := min(grid, side)) + 0.5) * side / n).astype(int) for side in view.grid]
    cells = np.stack(np.meshgrid(*lines, indexing="ij"), axis=-1).reshape(-1, 2)
    flat = np.stack([maps.uniform_map(view.grid, i, j, recurrence).ravel() for i, j in cells])
    found = np.stack([maps.attention_map(steps, i, j).flatten().cpu() for i, j in cells])
    reach = flat > 0  # (N, h * w)
    preferred = np.divide(found, flat, out=np.zeros_like(flat), where=reach)
    distances = np.full((len(cells), len(cells)), np.nan)
    for a, (i, j) in enumerate(cells):
        for b in range(a):
            if recurrence > 1 or i == cells[b, 0] or j == cells[b, 1]:
                both = reach[a] & reach[b]
                first, second = preferred[a, both], preferred[b, both]
                if first.any() and second.any():  # float32 has no weights below 1e-45
                    gap = np.abs(first / first.sum() - second / second.sum()).sum() / 2
                    distances[a, b] = distances[b, a] = gap
    known = distances[~np.isnan(distances)]
    return QueryDependence(float(known.mean()) if known.size else 0.0, cells, distances)


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
