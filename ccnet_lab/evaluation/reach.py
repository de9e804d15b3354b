"""Whether classes that only something far away tells are found: on its cross, and off it.

For the miniatures' long-range classes, see data/generated/worlds.py; scores are in evaluate.py.
"""

import json
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from ccnet_lab.configs import Config
from ccnet_lab.data.catalog import get_dataset
from ccnet_lab.data.datasets import Split
from ccnet_lab.data.generated.worlds import WORLDS
from ccnet_lab.device import arithmetic
from ccnet_lab.errors import RunError
from ccnet_lab.evaluation.predict import load, predict
from ccnet_lab.evaluation.protocol import plan
from ccnet_lab.files import write_text
from ccnet_lab.model.ccnet import CCNet

CELL = 8  # pixels of the fitted image: of the finer of the two output strides, for all networks


class Reach(NamedTuple):
    """Pixels (N images,) of the long-range classes, and how many of them are right."""

    on: NDArray[np.int64]  # on the cross of what tells their class
    on_right: NDArray[np.int64]
    off: NDArray[np.int64]
    off_right: NDArray[np.int64]

    def shares(self) -> tuple[float, float]:
        """The shares that are right on the cross and off it."""
        on, off = (max(1, int(part.sum())) for part in (self.on, self.off))
        return float(self.on_right.sum()) / on, float(self.off_right.sum()) / off

    def save(self, path: Path) -> None:
        """Write the counts as JSON; raises `RunError` where that fails."""
        counts = {name: part.tolist() for name, part in self._asdict().items()}
        write_text(path, json.dumps(counts) + "\n", RunError)

    @classmethod
    def read(cls, path: Path) -> "Reach":
        """What `save` wrote; raises `RunError` for anything else."""
        try:
            counts = json.loads(path.read_text("utf-8"))
            found = cls(*(np.array(counts[name], np.int64) for name in cls._fields))
        except (
            OSError,
            ValueError,
            LookupError,
            TypeError,
            OverflowError,
            RecursionError,
        ) as error:
            raise RunError(f"{path} cannot be read: {error}; delete it to measure anew") from None
        there = np.concatenate([found.on - found.on_right, found.off - found.off_right, *found])
        if {part.shape for part in found} != {found.on.shape[:1]} or (there < 0).any():
            raise RunError(f"{path} holds no counts of pixels; delete it to measure anew")
        return found


def on_cross(cue: NDArray[np.bool_], cells: tuple[int, int]) -> NDArray[np.bool_]:
    """(H, W): which pixels share a row or a column of cells with a pixel of `cue` (H, W).

    `cells` is the grid (h, w).
    """
    (height, width), (h, w) = cue.shape, cells
    rows, columns = np.arange(height) * h // height, np.arange(width) * w // width
    y, x = np.nonzero(cue)
    beside, above = np.isin(rows, rows[y]), np.isin(columns, columns[x])
    return beside[:, None] | above


def measure_reach(model: CCNet, split: Split, config: Config) -> Reach:
    """How far a model sees on a split of a miniature's data set, as its scores are measured."""
    world, names = WORLDS[config.dataset], get_dataset(config.dataset).class_names
    far = [names.index(name) for name in world.long_range]
    cues = [names.index(name) for name in world.cues]
    protocol, device = plan(split, config), torch.device("cpu")
    model.eval().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    counts = []
    with arithmetic(device, protocol.precision), closing(load(split, protocol, 0)) as items:
        for item in items:
            labels, found = item.labels.numpy(), predict(model, item, protocol, device)
            h, w = (-(-side // CELL) for side in item.pixels.shape[:2])
            there, right = np.isin(labels, far), labels == found
            on = on_cross(np.isin(labels, cues), (h, w))
            parts = (there & on, there & on & right, there & ~on, there & ~on & right)
            counts.append([int(np.count_nonzero(part)) for part in parts])
    return Reach(*np.array(counts, np.int64).reshape(-1, 4).T)
