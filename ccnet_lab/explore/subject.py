"""What maps are of: a pixel, a region or all cells of a class, as viewer.js names them."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from ccnet_lab.errors import ImageError
from ccnet_lab.explore import maps
from ccnet_lab.explore.explorer import Floats, View
from ccnet_lab.explore.measures import beacon_cells


@dataclass(frozen=True)
class Subject:
    """Some cells of a view.

    Attributes:
        name: such as "pixel (3, 4)". looks: such as "what pixel (3, 4) looks at".
        cells: (h, w). cell: (i, j) of a pixel's cell; None for many cells.
        box: (left, top, right, bottom) of the cells in image pixels; None for a class.
    """

    name: str
    looks: str
    cells: NDArray[np.bool_]
    cell: tuple[int, int] | None = None
    box: tuple[float, float, float, float] | None = None

    @torch.inference_mode()
    def maps(self, view: View, recurrences: Sequence[int], kind: str = "attention") -> list[Floats]:
        """For each R the (mean) map (h, w): "attention", or "listeners"."""
        if kind not in ("attention", "listeners"):
            raise ValueError(f"kind is {kind!r}; expected 'attention' or 'listeners'")
        if self.cell is not None:  # sooner than the mean of one
            find = maps.listeners_map if kind == "listeners" else maps.attention_map
            found = [find(view.steps(r), *self.cell) for r in recurrences]
        else:
            cells = torch.as_tensor(self.cells, device=view.explorer.device)
            found = [maps.mean_map(view.steps(r), cells, kind) for r in recurrences]
        return [np.asarray(weights.cpu().float()) for weights in found]


def subject_of(
    view: View,
    x: int,
    y: int,
    region: tuple[int, int, int, int] | None = None,
    label: int | None = None,
) -> Subject:
    """A class's cells where there is a `label`, else those of a `region`, else pixel (x, y)'s.

    Arguments and errors as `View.figure`.
    """
    if label is not None:
        return _class(view, label)
    if region is not None:
        if len(region) != 4:
            raise ImageError(f"region is {region!r}; expected left, top, right and bottom")
        return _region(view, *region)
    i, j = view.cell(x, y)
    cells = np.zeros(view.grid, bool)
    cells[i, j] = True
    name = f"pixel ({x}, {y})"
    return Subject(name, f"what {name} looks at", cells, (i, j), view.box(i, j))


def _region(view: View, left: int, top: int, right: int, bottom: int) -> Subject:
    """The cells under a rectangle of pixels, whichever of its corners come first."""
    rows, columns = zip(view.cell(left, top), view.cell(right, bottom), strict=True)
    first, last = (min(rows), min(columns)), (max(rows), max(columns))
    cells = np.zeros(view.grid, bool)
    cells[first[0] : last[0] + 1, first[1] : last[1] + 1] = True
    name = f"a region of {last[1] - first[1] + 1} × {last[0] - first[0] + 1} cells"
    box = (*view.box(*first)[:2], *view.box(*last)[2:])
    return Subject(name, f"what {name} looks at", cells, box=box)


def _class(view: View, label: int) -> Subject:
    names = list(view.explorer.class_names)
    if beacon_cells(view) is not None:  # it is of no class of discs
        names.append("the beacon")
    if label not in range(len(names)):
        raise ImageError(f"label is {label!r}; expected a class's id, 0 to {len(names) - 1}")
    cells = cell_classes(view) == label
    if not cells.any():
        raise ImageError(f"{names[label]} is nowhere the largest in a cell; choose another class")
    name = f"all {cells.sum()} cells of {names[label]}"
    return Subject(name, f"what {name} look at", cells)


def cell_classes(view: View) -> NDArray[np.uint8]:
    """(h, w) class ids of the cells; K, one beyond the classes, for the beacon's."""
    labels, beacon = view.cell_labels(), beacon_cells(view)
    return (
        labels if beacon is None else np.where(beacon, np.uint8(len(view.explorer.palette)), labels)
    )
