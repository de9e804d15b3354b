"""Beacons: generated scenes whose labels need long-range context, for the embedded demo. Training on them is in training/demo.py.

Six grey discs lie on a dark ground. Somewhere a small square, the beacon, shines in one of four colours, and its colour is the class of
every disc. A disc's own pixels say nothing about its class, so a network whose reach is local can only guess. With one criss-cross step
a disc sees the beacon if they share a row or a column; with two steps it always does.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ccnet_lab.data.catalog import get_dataset

SIZE = 96  # pixels, both sides
DISCS = 6
RADII = (4, 7)  # pixels, both included
BEACON = 6  # pixels, both sides
APART = (
    4  # pixels kept free between any two things, so that no feature cell sees a disc and the beacon
)


@dataclass(frozen=True)
class Scene:
    """One scene: its picture, its labels, and where things lie in it, in pixels."""

    image: NDArray[np.uint8]  # (96, 96, 3) RGB
    labels: NDArray[
        np.uint8
    ]  # (96, 96); 0 background (the beacon too), 1..4 disc by the beacon's colour
    beacon: tuple[int, int]  # (y, x) of the beacon's top left pixel
    discs: NDArray[np.int64]  # (6, 3) y, x, radius of each disc


def make_scene(seed: int) -> Scene:
    """The scene of a seed; the same seed gives the same scene."""
    rng = np.random.default_rng(seed)
    colour = int(rng.integers(1, 5))
    boxes = _place(rng)  # (7, 3): y, x, half a side; the beacon first
    y, x = np.arange(SIZE, dtype=np.float32)[:, None], np.arange(SIZE, dtype=np.float32)
    waves = np.sin(y / rng.uniform(9, 20) + rng.uniform(0, 6)) * np.sin(
        x / rng.uniform(9, 20) + rng.uniform(0, 6)
    )
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


def on_cross(scene: Scene, stride: int = 4, receptive_field: int = 7) -> NDArray[np.bool_]:
    """(96, 96): which pixels see the beacon within one criss-cross step.

    A feature cell sees the beacon itself if the beacon reaches into its receptive field; a pixel is on the cross if its cell shares a row
    or a column with such a cell.
    """
    cells = np.arange(SIZE) // stride
    reach = receptive_field // 2
    sees = [
        (cells * stride + reach >= start) & (cells * stride - reach < start + BEACON)
        for start in scene.beacon
    ]
    return sees[0][:, None] | sees[1][None, :]


def out_of_reach(scene: Scene, stride: int = 4, receptive_field: int = 7) -> NDArray[np.bool_]:
    """(96, 96): pixels whose prediction cannot depend on the beacon with R = 1, not even through the upsampling of the logits."""
    near = on_cross(scene, stride, receptive_field)
    for axis in (0, 1):
        near = (
            near | np.roll(near, stride, axis) | np.roll(near, -stride, axis)
        )  # wraps at the border: errs on the safe side
    return ~near


def _place(rng: np.random.Generator) -> NDArray[np.int64]:
    """(7, 3) y, x, half side of the beacon and the discs, kept apart; drawn anew until all fit."""
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
