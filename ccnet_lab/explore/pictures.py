"""Arrays in, RGB arrays out, in milliseconds: what the app shows after a click. Figures with axes and captions are in figures.py."""

import io
from collections.abc import Sequence

import numpy as np
from matplotlib import colormaps
from numpy.typing import NDArray
from PIL import Image

Rgb = NDArray[np.uint8]
COLOURS = "inferno"  # perceptually uniform, dark to light, readable with any colour vision
_SCALE = (colormaps[COLOURS](np.arange(256))[:, :3] * 255 + 0.5).astype(np.uint8)  # (256, 3)


def shown_size(height: int, width: int, longest: int = 640, least: int = 24) -> tuple[int, int]:
    """(height, width) in which a picture is shown: its longer side `longest`, no side under `least` so that it can be clicked."""
    factor = longest / max(height, width)
    return max(least, round(height * factor)), max(least, round(width * factor))


def resized(image: Rgb, size: tuple[int, int]) -> Rgb:
    """(H, W, 3) to (height, width): sharp pixels where a small picture grows, smooth otherwise."""
    grows = size[0] >= 3 * image.shape[0] or size[1] >= 3 * image.shape[1]
    how = Image.Resampling.NEAREST if grows else Image.Resampling.BILINEAR
    return np.asarray(Image.fromarray(image).resize((size[1], size[0]), how, reducing_gap=2.0))


def label_picture(labels: NDArray[np.uint8], palette: Sequence[tuple[int, int, int]], size: tuple[int, int]) -> Rgb:
    """(H, W) class ids in their colours, shown at (height, width)."""
    ids = Image.fromarray(labels).resize((size[1], size[0]), Image.Resampling.NEAREST)
    return np.asarray(palette, np.uint8)[np.asarray(ids)]


def blend(below: Rgb, above: Rgb, opacity: float) -> Rgb:
    """`above` over `below`, opacity clamped to 0..1."""
    share = min(max(opacity, 0.0), 1.0)
    return (below * np.float32(1 - share) + above * np.float32(share) + np.float32(0.5)).astype(np.uint8)


def heat(weights: NDArray[np.floating], top: float, size: tuple[int, int]) -> Rgb:
    """A map (h, w) in colours from 0 to `top`, everything above clipped; every cell a sharp rectangle of (height, width)."""
    levels = np.clip(weights * (255 / max(top, 1e-30)), 0, 255).astype(np.uint8)
    cells = Image.fromarray(levels).resize((size[1], size[0]), Image.Resampling.NEAREST)
    return _SCALE[np.asarray(cells)]


def clip_level(maps: Sequence[NDArray[np.floating]], amount: float) -> float:
    """The one top of the colour scale for several maps: their largest weight at amount 0, falling to a thousandth of it at 1."""
    peak = max(float(weights.max()) for weights in maps)
    return peak * 10.0 ** (-3 * min(max(amount, 0.0), 1.0))


def marked(picture: Rgb, box: Sequence[float], cross: tuple[float, float] | None = None) -> Rgb:
    """A copy with a rectangle (left, top, right, bottom), white on black so that it shows on anything, and a small cross at (x, y)."""
    out = picture.copy()
    height, width = out.shape[:2]
    left, top = (int(np.clip(v, 0, limit - 1)) for v, limit in ((box[0], width), (box[1], height)))
    right, bottom = (int(np.clip(np.ceil(v) - 1, 0, limit - 1)) for v, limit in ((box[2], width), (box[3], height)))
    for grow, colour in ((3, 0), (2, 255), (1, 255), (0, 0)):
        t, b, l, r = max(top - grow, 0), min(bottom + grow, height - 1), max(left - grow, 0), min(right + grow, width - 1)
        out[t, l : r + 1] = out[b, l : r + 1] = colour
        out[t : b + 1, l] = out[t : b + 1, r] = colour
    if cross is not None:
        x, y = (int(np.clip(v, 0, limit - 1)) for v, limit in zip(cross, (width, height), strict=True))
        for reach, thick, colour in ((7, 1, 0), (6, 0, 255)):
            out[max(y - thick, 0) : y + thick + 1, max(x - reach, 0) : x + reach + 1] = colour
            out[max(y - reach, 0) : y + reach + 1, max(x - thick, 0) : x + thick + 1] = colour
    return out


def png(picture: Rgb) -> bytes:
    """The picture as a PNG file, lossless and quick rather than small."""
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "PNG", compress_level=1)
    return file.getvalue()
