"""How fast the map of a pixel is, beside dense attention matrices; the maps are composed in maps.py."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from benchmarks.samples import side_by_side
from ccnet_lab.explore.maps import Step, attention_map, dense_weights
from ccnet_lab.explore.teaching import dense_from_weights

GRIDS = (
    (64, 64),
    (64, 128),
    (128, 256),
)  # cells: 512 x 512, 512 x 1024 and 1024 x 2048 pixels at stride 8
CALLS = 5  # of ours in a round, timed together: right after a dense matrix the caches hold nothing of what a click needs
LARGEST_DENSE = 64 * 64  # cells: a dense matrix of more is not built


class MapTiming(NamedTuple):
    """Seconds of one pixel's map, queries and keys given: median and spread as in `Times`; None where no dense matrix was built."""

    grid: tuple[int, int]
    recurrence: int
    median: float
    spread: float
    dense_median: float | None
    dense_spread: float | None
    difference: float | None

    @property
    def ratio(self) -> float | None:
        """How many times faster than by dense matrices."""
        return None if self.dense_median is None else self.dense_median / self.median


@torch.inference_mode()
def time_maps(
    grid: tuple[int, int], repeats: int, device: torch.device, query_channels: int = 64
) -> list[MapTiming]:
    """R = 1, 2, 3 on a grid (h, w) with random queries and keys, a pixel off the centre; `difference` is the largest of the two maps."""
    height, width = grid
    i, j = height // 3, width // 4
    generator = torch.Generator().manual_seed(0)
    tensors = [
        torch.randn(height, width, query_channels, generator=generator).mul(0.3).to(device)
        for _ in range(6)
    ]
    steps = [Step(query, key) for query, key in zip(tensors[::2], tensors[1::2], strict=True)]
    found = []
    for recurrence in (1, 2, 3):
        used = steps[:recurrence]
        forms: dict[str, Callable[[], Tensor]] = {"ours": partial(_repeatedly, used, i, j)}
        if height * width <= LARGEST_DENSE:
            forms["dense"] = partial(dense_map, used, i, j)
        times = side_by_side(forms, repeats, device, warm_up=3)
        median, spread = times["ours"].median / CALLS, times["ours"].spread
        difference = (
            float((forms["ours"]() - forms["dense"]()).abs().max()) if "dense" in forms else None
        )
        dense_median, dense_spread = times.get("dense", (None, None))
        found.append(
            MapTiming(grid, recurrence, median, spread, dense_median, dense_spread, difference)
        )
    return found


def _repeatedly(steps: list[Step], i: int, j: int) -> Tensor:
    for _ in range(CALLS):
        found = attention_map(steps, i, j)
    return found


def dense_map(steps: list[Step], i: int, j: int) -> Tensor:
    """`attention_map` written plainly: every step's (hw, hw) matrix is filled, and the pixel's one-hot row goes through them in turn."""
    height, width = steps[0].key.shape[:2]
    row = steps[0].key.new_zeros(height * width)
    row[i * width + j] = 1
    for step in reversed(steps):
        row = row @ dense_matrix(step)
    return row.view(height, width)


def dense_matrix(step: Step) -> Tensor:
    """A step's attention matrix, (hw, hw): every cell's weights over its cross in a row of zeros."""
    return dense_from_weights(dense_weights(step)[None])[0]
