"""Two numbers on attention maps against what geometry alone would give: same-class share and query dependence. Maps are made in maps.py.

Criss-cross attention reaches its own row and column over more paths than other cells, so even a network that knows nothing, whose features
are the same everywhere, has maps that are not flat for R >= 2. That map, `maps.uniform_map`, is what both numbers are held against.
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

    label: int  # the class the pixel is taken for, at the R the model was trained with
    share: float  # of the map's mass, on the cells taken for that class
    chance: float  # the share that features which are the same everywhere would put there


@dataclass(frozen=True)
class QueryDependence:
    """How far what a pixel looks at depends on the pixel. N pixels."""

    value: float  # 0 where all pixels look at the same place, 1 where each looks somewhere else; the mean over the pairs below
    cells: NDArray[np.int64]  # (N, 2) i, j of the pixels' cells
    distances: NDArray[
        np.float64
    ]  # (N, N) between the maps of two pixels; NaN for pairs that are not compared


def same_class(view: View, x: int, y: int, recurrence: int | None = None) -> SameClass:
    """The share of pixel (x, y)'s map on its own class, and the share by chance.

    Chance is the mass of `maps.uniform_map` on the class: for R = 1 the class's share of the reachable cells (the cross); for R >= 2 the
    same with each cell weighted by the paths that lead to it, so that features which tell nothing apart have exactly chance for every R.
    Classes are those at the R the model was trained with, as shown, so that numbers for several R can be compared. Raises as `View.cell`.
    """
    recurrence = view.recurrence if recurrence is None else recurrence
    weights = view.attention(x, y, recurrence)
    flat = (
        maps.uniform_map(view.grid, *view.cell(x, y), recurrence).numpy() if recurrence else weights
    )
    label = int(view.labels[y, x])
    own = view.cell_labels() == label
    return SameClass(label, float(weights[own].sum()), float(flat[own].sum()))


def beacon(view: View) -> NDArray[np.bool_] | None:
    """(H, W): the beacon's pixels in a generated scene, told by its colour; None for other pictures and models that know no beacons."""
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
    """Compare the maps of a lattice of pixels: do all look at the same place, or each somewhere else?

    Each map is divided by `maps.uniform_map`, which leaves what the network prefers beyond geometry. Two pixels are compared on the cells
    both can reach, where each of the two is scaled to sum 1; their distance is half the sum of the differences (total variation). For
    R = 1 only pixels of one row or one column are compared, on that row or column: other crosses meet in two cells. For R = 1 scores that
    depend on the key alone give 0: there the softmax is the same for both. For R >= 2 they give little, but not 0, as the paths differ.

    Args:
        view: an image as a model sees it.
        recurrence: R; None for the one the model was trained with. grid: rows and columns of the lattice; fewer on smaller maps.
            Raises `ValueError` for either below 1.
    """
    recurrence = view.recurrence if recurrence is None else recurrence
    for name, value in (("recurrence", recurrence), ("grid", grid)):
        if value < 1:
            raise ValueError(f"{name} is {value}; expected 1 or more")
    steps = view.steps(recurrence)
    lines = [((np.arange(n := min(grid, side)) + 0.5) * side / n).astype(int) for side in view.grid]
    cells = np.stack(np.meshgrid(*lines, indexing="ij"), axis=-1).reshape(-1, 2)
    flat = np.stack(
        [maps.uniform_map(view.grid, i, j, recurrence).flatten() for i, j in cells]
    )  # (N, h * w)
    found = np.stack([maps.attention_map(steps, i, j).flatten().cpu() for i, j in cells])
    reach = flat > 0
    preferred = np.divide(found, flat, out=np.zeros_like(found), where=reach)
    distances = np.full((len(cells), len(cells)), np.nan)
    for a, (i, j) in enumerate(cells):
        for b in range(a):
            if recurrence > 1 or i == cells[b, 0] or j == cells[b, 1]:
                both = reach[a] & reach[b]
                first, second = preferred[a, both], preferred[b, both]
                if first.any() and second.any():  # float32 has no weights below 1e-45
                    distances[a, b] = distances[b, a] = (
                        np.abs(first / first.sum() - second / second.sum()).sum() / 2
                    )
    known = distances[~np.isnan(distances)]
    return QueryDependence(float(known.mean()) if known.size else 0.0, cells, distances)


def first_pixel(view: View) -> tuple[int, int]:
    """A pixel worth showing first: in a beacon scene a disc pixel as far from the beacon's cross as there is; else the image's middle."""
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
