"""Beacons: generated scenes whose labels need long-range context, for the embedded demo.

Six grey discs lie on a dark ground. Somewhere a small square, the beacon, shines in one of four
colours, which is the class of every disc. A disc's own pixels say nothing about its class. With one
criss-cross step a disc sees the beacon if they share a row or a column; with two it always does.
Training is in training/demo.py.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ccnet_lab.data.catalog import get_dataset

SIZE = 96  # pixels, both sides
DISCS = 6
RADII = (4, 7)  # pixels, both included
BEACON = 6  # pixels, both sides
STRIDE, RECEPTIVE_FIELD = 4, 7  # pixels, of the demo's backbone
APART = 4  # pixels between any two things, so that no feature cell sees a disc and the beacon


@dataclass(frozen=True)
class Scene:
    """One scene; places are in pixels."""

    image: NDArray[np.uint8]  # (96, 96, 3) RGB
    labels: NDArray[np.uint8]  # (96, 96); 0 background and beacon, 1..4 disc by beacon colour
    beacon: tuple[int, int]  # (y, x) of the beacon's top left pixel
    discs: NDArray[np.int64]  # (6, 3) y, x, radius of each disc


def make_scene(seed: int) -> Scene:
    """The scene of a seed."""
    rng = np.random.default_rng(seed)
    colour = int(rng.integers(1, 5))
    boxes = _place(rng)  # (7, 3): y, x, half a side; the beacon first
    y, x = np.arange(SIZE, dtype=np.float32)[:, None], np.arange(SIZE, dtype=np.float32)
    down = np.sin(y / rng.uniform(9, 20) + rng.uniform(0, 6))
    waves = down * np.sin(x / rng.uniform(9, 20) + rng.uniform(0, 6))
    image = (26 + 10 * waves)[..., None] * np.array([1.0, 1.05, 1.3], np.float32)  # (96, 96, 3)
    labels = np.zeros((SIZE, SIZE), np.uint8)
    for cy, cx, radius in boxes[1:]:
        box = np.s_[cy - radius : cy + radius + 1, cx - radius : cx + radius + 1]
        inside = (y[box[0]] - cy) ** 2 + (x[box[1]] - cx) ** 2 <= radius**2
        image[box][inside] = rng.uniform(140, 190)
        labels[box][inside] = colour
    top, left = int(boxes[0, 0]) - BEACON // 2, int(boxes[0, 1]) - BEACON // 2
    image[top : top + BEACON, left : left + BEACON] = get_dataset("beacons").palette[colour]
    image += 4 * rng.standard_normal(image.shape, np.float32)
    return Scene(image.clip(0, 255).astype(np.uint8), labels, (top, left), boxes[1:])


def make_scenes(seeds: range) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Images (N, 96, 96, 3) and labels (N, 96, 96) of many seeds."""
    scenes = [make_scene(seed) for seed in seeds]
    return np.stack([scene.image for scene in scenes]), np.stack([scene.labels for scene in scenes])


def on_cross(scene: Scene) -> NDArray[np.bool_]:
    """(96, 96): which pixels see the beacon within one criss-cross step.

    Those whose feature cell shares a row or a column with a cell whose receptive field the beacon
    reaches into.
    """
    cells, reach = np.arange(SIZE) // STRIDE * STRIDE, RECEPTIVE_FIELD // 2
    rows, columns = (
        (cells + reach >= start) & (cells - reach < start + BEACON) for start in scene.beacon
    )
    return rows[:, None] | columns


def out_of_reach(scene: Scene) -> NDArray[np.bool_]:
    """(96, 96): pixels that cannot depend on the beacon with R = 1, even after upsampling."""
    near = on_cross(scene)
    for axis in (0, 1):  # rolling wraps at the border, which errs on the safe side
        near = near | np.roll(near, STRIDE, axis) | np.roll(near, -STRIDE, axis)
    return ~near


def _place(rng: np.random.Generator) -> NDArray[np.int64]:
    """(7, 3) y, x, half side of the beacon and the discs, kept apart; drawn again until all fit."""
    while True:
        half = np.concatenate([[BEACON // 2], rng.integers(RADII[0], RADII[1] + 1, DISCS)])
        placed: list[tuple[int, int, int]] = []
        for size in half:
            for _ in range(50):
                y, x = rng.integers(size + 1, SIZE - size - 1, 2)
                if all(max(abs(y - v), abs(x - u)) > size + s + APART for v, u, s in placed):
                    placed.append((int(y), int(x), int(size)))
                    break
        if len(placed) == len(half):
            return np.array(placed)
