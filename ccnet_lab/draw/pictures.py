"""RGB arrays made in milliseconds, for the app; figures with axes are in figures.py."""

import io
import zlib
from base64 import b64decode
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Rgb = NDArray[np.uint8]
COLOURS = "inferno"  # perceptually uniform, dark to light, readable with any colour vision
# The changes of the changes of its 256 colours: matplotlib takes a sixth of a second to import.
_CHANGES = (
    "eNp9UYsSgCAIG3f9/x93dPEQJqXiUkxgA6J4DSrIES61CY27F2JvnwMcHbSxiYAwWw41soQ03d7Q/1wvJTW3H533"
    "YNtit3C5EBXKjMtcJ1s0OUvILBdd/syCJY98P+YAW6DpKE2Cnlw3hNN2PVA6+Dmj7Lf/vaJuLVazwaPqho0t0c+G"
    "SAPzlXolQTS9uBqnB418zgg="
)
SCALE = np.frombuffer(zlib.decompress(b64decode(_CHANGES)), np.uint8).reshape(3, 256)
SCALE = SCALE.cumsum(1, dtype=np.uint8).cumsum(1, dtype=np.uint8).T  # (256, 3)
_SHARP = Image.Resampling.NEAREST


def shown_size(height: int, width: int, longest: int, most: int = 4) -> tuple[int, int]:
    """(height, width): the longer side is `longest`, at most `most` times the other, to be seen."""
    factor, least = longest / max(height, width), longest // most
    return max(least, round(height * factor)), max(least, round(width * factor))


def resized(image: Rgb, size: tuple[int, int]) -> Rgb:
    """(H, W, 3) to (height, width): sharp pixels where a small picture grows, smooth otherwise."""
    grows = size[0] >= 3 * image.shape[0] or size[1] >= 3 * image.shape[1]
    how = _SHARP if grows else Image.Resampling.BILINEAR
    return np.asarray(Image.fromarray(image).resize(size[::-1], how, reducing_gap=2.0))


def label_ids(labels: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    """(H, W) class ids as they are shown at (height, width)."""
    return np.asarray(Image.fromarray(labels).resize(size[::-1], _SHARP))


def label_picture(
    labels: NDArray[np.uint8], palette: Sequence[tuple[int, int, int]], size: tuple[int, int]
) -> Rgb:
    """(H, W) class ids in their colours, shown at (height, width)."""
    ids = Image.fromarray(label_ids(labels, size))
    ids.putpalette(np.asarray(palette, np.uint8).tobytes())
    return np.asarray(ids.convert("RGB"))


def blend(below: Rgb, above: Rgb, opacity: float) -> Rgb:
    """`above` over `below`, opacity clamped to 0..1."""
    opacity = min(max(opacity, 0.0), 1.0)
    return np.asarray(Image.blend(Image.fromarray(below), Image.fromarray(above), opacity))


def grey(image: Rgb) -> Rgb:
    """The same picture without colour, (H, W, 3)."""
    return np.asarray(Image.fromarray(image).convert("L").convert("RGB"))


def heat(weights: NDArray[np.floating], top: float, size: tuple[int, ...]) -> Rgb:
    """A map (h, w) in colours from 0 to `top`, clipped above; each cell a sharp rectangle."""
    cells = Image.fromarray(np.clip(weights * (255 / max(top, 1e-30)), 0, 255).astype(np.uint8))
    cells.putpalette(SCALE.tobytes())
    return np.asarray(cells.convert("RGB").resize((size[1], size[0]), _SHARP))


def clip_level(maps: Sequence[NDArray[np.floating]], amount: float) -> float:
    """The top of the maps' one colour scale: their peak at amount 0, a thousandth of it at 1."""
    peak = max(float(weights.max()) for weights in maps)
    return peak * float(10.0 ** (-3 * min(max(amount, 0.0), 1.0)))


def png(picture: Rgb) -> bytes:
    """The picture as a PNG file, lossless and quick rather than small."""
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "PNG", compress_level=1)
    return file.getvalue()


def reduced_png(png: bytes) -> bytes:
    """A PNG file with at most 256 colours, small patches kept: a third of its size."""
    image = Image.open(io.BytesIO(png)).convert("RGB")
    file = io.BytesIO()
    few = image.quantize(256, Image.Quantize.MAXCOVERAGE, kmeans=1, dither=Image.Dither.NONE)
    few.save(file, "PNG", optimize=True)
    return file.getvalue()
