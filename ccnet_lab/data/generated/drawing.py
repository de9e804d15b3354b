"""A canvas for generated scenes: shapes with textures, and the label of every pixel.

It is drawn at several times the size, so that edges are smooth. The scenes are in objects.py,
rooms.py and streets.py.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

cv2.setNumThreads(1)  # scenes are drawn in several processes, which threads would only slow down

FINE = 3  # drawn pixels per pixel of the scene, in both directions
Colour = tuple[float, float, float]  # RGB, 0..255
Pixels = NDArray[np.uint8]
Floats = NDArray[np.float64]
Texture = Callable[[Floats, Floats], Floats]  # (h, 1) y and (1, w) x -> (h, w, 3)
Points = Sequence[tuple[float, float]]  # (x, y) in pixels of the scene


@dataclass(frozen=True)
class Shape:
    """Some pixels of the fine canvas: a mask (h, w), and where its first pixel is."""

    top: int
    left: int
    mask: NDArray[np.bool_]

    @property
    def box(self) -> tuple[slice, slice]:
        """The rows and columns it lies in."""
        rows, columns = self.mask.shape
        return slice(self.top, self.top + rows), slice(self.left, self.left + columns)


class Canvas:
    """A scene being drawn. Places and sizes are in pixels of the scene."""

    def __init__(self, height: int, width: int, rng: np.random.Generator) -> None:
        self.size, self.rng = (height, width), rng
        self.pixels = np.zeros((height * FINE, width * FINE, 3), np.uint8)
        self.labels = np.zeros((height * FINE, width * FINE), np.uint8)

    def paint(self, label: int | None, shape: Shape, look: Colour | Texture) -> None:
        """Give a shape its colour, and its label unless that is None."""
        box, rows, columns = shape.box, *shape.mask.shape
        if callable(look):
            y = np.arange(shape.top, shape.top + rows)[:, None] / FINE
            x = np.arange(shape.left, shape.left + columns)[None] / FINE
            colours = look(y, x).clip(0, 255).astype(np.uint8)[shape.mask]
        else:
            colours = np.clip(look, 0, 255).astype(np.uint8)
        self.pixels[box][shape.mask] = colours
        if label is not None:
            self.labels[box][shape.mask] = label

    def darken(self, shape: Shape, factor: float) -> None:
        """Make what is there darker, as a shadow does."""
        part = self.pixels[shape.box]
        part[shape.mask] = (part[shape.mask] * factor).astype(np.uint8)

    def covered(self, shape: Shape) -> int:
        """How many fine pixels of a shape have another label than 0."""
        return int(np.count_nonzero(self.labels[shape.box][shape.mask]))

    def polygon(self, points: Points) -> Shape:
        """A polygon."""
        return self._draw(points, 1, lambda mask, at: cv2.fillPoly(mask, [at], 1))

    def box(self, left: float, top: float, right: float, bottom: float) -> Shape:
        """An upright rectangle."""
        return self.polygon([(left, top), (right, top), (right, bottom), (left, bottom)])

    def ellipse(self, x: float, y: float, wide: float, high: float, hole: float = 0.0) -> Shape:
        """An ellipse around (x, y) with these half axes, and a hole of a share of them."""

        def draw(mask: Pixels, at: NDArray[np.int32]) -> None:
            centre = (int(at[0, 0] + at[1, 0]) // 2, int(at[0, 1] + at[1, 1]) // 2)
            for part, value in ((1.0, 1), (hole, 0)):
                axes = (round(part * wide * FINE), round(part * high * FINE))
                if part:
                    cv2.ellipse(mask, centre, axes, 0, 0, 360, value, cv2.FILLED)

        return self._draw([(x - wide, y - high), (x + wide, y + high)], 2, draw)

    def line(self, points: Points, thickness: float) -> Shape:
        """A line through the points."""
        thick = max(1, round(thickness * FINE))

        def draw(mask: Pixels, at: NDArray[np.int32]) -> None:
            cv2.polylines(mask, [at], False, 1, thick)

        return self._draw(points, thick + 1, draw)

    def _draw(
        self, points: Points, margin: int, draw: Callable[[Pixels, NDArray[np.int32]], object]
    ) -> Shape:
        """What `draw` draws on a mask around the points, as far as it is on the canvas."""
        at = np.rint(np.asarray(points, np.float64) * FINE).astype(np.int32)  # (N, 2) x, y
        (left, top), (right, bottom) = at.min(0) - margin, at.max(0) + margin + 1
        mask = np.zeros((bottom - top, right - left), np.uint8)
        draw(mask, (at - (left, top)).astype(np.int32))
        height, width = self.labels.shape
        rows = slice(max(0, -top), max(0, height - top))
        columns = slice(max(0, -left), max(0, width - left))
        return Shape(max(0, int(top)), max(0, int(left)), mask[rows, columns] > 0)

    def finish(self, noise: float = 4.0) -> tuple[Pixels, Pixels]:
        """The scene's pixels (H, W, 3), with noise of so many grey levels, and labels (H, W)."""
        height, width = self.size
        blocks = self.pixels.reshape(height, FINE, width, FINE, 3)
        pixels = blocks.sum((1, 3), dtype=np.uint32) / np.float32(FINE**2)
        pixels += self.rng.standard_normal(pixels.shape, np.float32) * np.float32(noise)
        centre = np.s_[FINE // 2 :: FINE, FINE // 2 :: FINE]
        labels = np.ascontiguousarray(self.labels[centre])
        return np.rint(pixels.clip(0, 255)).astype(np.uint8), labels


def stripes(one: Colour, other: Colour, period: float, angle: float) -> Texture:
    """Two colours in turns of a `period` in pixels, at an `angle` in radians."""
    across, down = 2 * np.cos(angle) / period, 2 * np.sin(angle) / period
    return lambda y, x: _either(one, other, np.floor(x * across + y * down) % 2 == 0)


def checks(one: Colour, other: Colour, side: float) -> Texture:
    """Two colours in squares of a `side` in pixels."""
    return lambda y, x: _either(one, other, (np.floor(y / side) + np.floor(x / side)) % 2 == 0)


def slope(one: Colour, other: Colour, top: float, bottom: float) -> Texture:
    """From one colour at the height `top` to another at `bottom`."""
    first, last = np.array(one), np.array(other)

    def look(y: Floats, x: Floats) -> Floats:
        share = ((y - top) / (bottom - top)).clip(0, 1)[..., None] + 0 * x[..., None]
        return np.asarray(first * (1 - share) + last * share)

    return look


def _either(one: Colour, other: Colour, first: NDArray[np.bool_]) -> Floats:
    return np.where(first[..., None], np.array(one), np.array(other))


def colour(rng: np.random.Generator, low: int = 60, high: int = 220) -> Colour:
    """A random colour."""
    red, green, blue = rng.uniform(low, high, 3)
    return red, green, blue


def tinted(rng: np.random.Generator, base: Colour, spread: float = 22.0) -> Colour:
    """A random colour near another one."""
    red, green, blue = (float(np.clip(v + rng.normal(0, spread), 10, 245)) for v in base)
    return red, green, blue


def shaded(base: Colour, factor: float) -> Colour:
    """A colour made darker or brighter."""
    red, green, blue = (min(255.0, value * factor) for value in base)
    return red, green, blue


def apart(
    rng: np.random.Generator,
    count: int,
    radii: tuple[float, float],
    size: tuple[int, int],
    gap: float,
) -> list[tuple[float, float, float]]:
    """Up to `count` discs (x, y, radius) on a canvas of `size` (H, W), `gap` apart."""
    (height, width), placed = size, list[tuple[float, float, float]]()
    for _ in range(count):
        for _ in range(40):
            r = float(rng.uniform(*radii))
            x, y = (
                float(rng.uniform(r + 1, width - r - 1)),
                float(rng.uniform(r + 1, height - r - 1)),
            )
            if all((x - u) ** 2 + (y - v) ** 2 > (r + s + gap) ** 2 for u, v, s in placed):
                placed.append((x, y, r))
                break
    return placed
