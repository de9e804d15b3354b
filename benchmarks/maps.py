"""How fast the map of a pixel is, beside dense attention matrices; see explore/maps.py."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from benchmarks.timing import side_by_side
from ccnet_lab.explore.maps import Step, attention_map, dense_weights
from ccnet_lab.explore.teaching import dense_from_weights

# Cells: 512 x 512, 512 x 1024 and 1024 x 2048 pixels at stride 8.
GRIDS = ((64, 64), (64, 128), (128, 256))
CALLS = 5  # of ours, timed together: a dense matrix before it empties the caches, a click does not
LARGEST_DENSE = 64 * 64  # cells; a larger dense matrix is not built


class MapTiming(NamedTuple):
    """Seconds of one pixel's map from queries and keys, as in `Times`.

    The last three are None where no dense matrix was built.
    """

    grid: tuple[int, int]
    recurrence: int
    median: float
    spread: float
    dense_median: float | None
    dense_spread: float | None
    difference: float | None  # the largest of the two maps

    @property
    def ratio(self) -> float | None:
        """How many times faster than by dense matrices."""
        return None if self.dense_median is None else self.dense_median / self.median


@torch.inference_mode()
def time_maps(
    grid: tuple[int, int], repeats: int, device: torch.device, query_channels: int = 64
) -> list[MapTiming]:
    """R = 1, 2, 3 on a grid (h, w) with random queries and keys, for a pixel off the centre."""
    height, width = grid
    i, j = height // 3, width // 4
    generator = torch.Generator().manual_seed(0)

    def features() -> Tensor:
        random = torch.randn(height, width, query_channels, generator=generator)
        return random.mul(0.3).to(device)

    steps = [Step(features(), features()) for _ in range(3)]
    found = []
    for recurrence in (1, 2, 3):
        used = steps[:recurrence]
        forms: dict[str, Callable[[], Tensor]] = {"ours": partial(_repeatedly, used, i, j)}
        if height * width <= LARGEST_DENSE:
            forms["dense"] = partial(dense_map, used, i, j)
        times = side_by_side(forms, repeats, device, warm_up=3)
        median, spread = times["ours"].median / CALLS, times["ours"].spread
        dense: tuple[float | None, ...] = (None, None, None)
        if "dense" in forms:
            dense = *times["dense"], float((forms["ours"]() - forms["dense"]()).abs().max())
        found.append(MapTiming(grid, recurrence, median, spread, *dense))
    return found


def _repeatedly(steps: list[Step], i: int, j: int) -> Tensor:
    for _ in range(CALLS):
        found = attention_map(steps, i, j)
    return found


def dense_map(steps: list[Step], i: int, j: int) -> Tensor:
    """`attention_map` written plainly: a one-hot row times every step's (hw, hw) matrix."""
    height, width = steps[0].key.shape[:2]
    row = steps[0].key.new_zeros(height * width)
    row[i * width + j] = 1
    for step in reversed(steps):
        row = row @ dense_matrix(step)
    return row.view(height, width)


def dense_matrix(step: Step) -> Tensor:
    """A step's attention matrix (hw, hw): each cell's weights over its cross, else zero."""
    return dense_from_weights(dense_weights(step)[None])[0]
