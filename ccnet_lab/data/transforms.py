"""From picture to network input: the recipe's augmentation, fitting and normalising.

Files are read in images.py, datasets.py and cache.py. Every random choice comes from the NumPy
generator that is passed in, so a sample depends on its seed alone, in whatever worker it is made.
"""

from functools import cache
from math import ceil
from typing import NamedTuple

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ccnet_lab.data.catalog import IGNORE

Pixels = NDArray[np.uint8]
Size = tuple[int, int]  # height, width

MEAN = (123.675, 116.28, 103.53)  # RGB, of ImageNet; SSSegmentation's recipe
STD = (58.395, 57.12, 57.375)
SCALES = (0.5, 2.0)  # of the random resize
# A crop is drawn again while one class covers more than this share of its labelled pixels.
CROP_TRIES, LARGEST_CLASS = 10, 0.75
# Each is applied with probability 0.5; a hue of 180 is the full circle.
BRIGHTNESS, CONTRAST, SATURATION, HUE = 32, (0.5, 1.5), (0.5, 1.5), 18

cv2.setNumThreads(1)  # samples are made in several processes, which threads would only slow down


class Crop(NamedTuple):
    """A training sample."""

    pixels: Pixels  # (H, W, 3) RGB
    labels: Pixels  # (H, W)
    inside: tuple[int, int, int, int]  # top, bottom, left, right of what is not padding


def fitted_size(height: int, width: int, long: float, short: float) -> Size:
    """The recipe's resize: scaled by min(long / longer side, short / shorter side), rounded."""
    factor = min(long / max(height, width), short / min(height, width))
    return max(1, int(height * factor + 0.5)), max(1, int(width * factor + 0.5))


def fit(image: Pixels, long: float, short: float) -> Pixels:
    """(H, W, 3) resized to `fitted_size`, as the recipe evaluates."""
    return resize(image, *fitted_size(image.shape[0], image.shape[1], long, short))


def resize(image: Pixels, height: int, width: int) -> Pixels:
    """(H, W, 3) resized by OpenCV's `INTER_LINEAR`, without smoothing when it reduces.

    Other libraries' bilinear differs by a grey level on one value in five, which changes labels.
    """
    if image.shape[:2] == (height, width):
        return image
    return np.asarray(cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR))


def normalise(images: Pixels | Tensor) -> Tensor:
    """(..., H, W, 3) uint8 RGB -> (..., 3, H, W) float32, channels-last in memory."""
    tensor = torch.tensor(images) if isinstance(images, np.ndarray) else images
    mean, std = (tensor.new_tensor(values, dtype=torch.float) for values in (MEAN, STD))
    return ((tensor.float() - mean) / std).movedim(-1, -3)


def normalise_crops(images: Tensor, inside: Tensor) -> Tensor:
    """(B, H, W, 3) uint8 -> (B, 3, H, W) float32, channels-last; never makes a GPU wait.

    `inside` (B, 4) is that of each `Crop`; padding becomes 0, as in the recipe.
    """
    mean, std = _mean_and_std(images.device)
    top, bottom, left, right = inside.view(-1, 4, 1).unbind(1)  # (B, 1) each
    rows, columns = (torch.arange(length, device=images.device) for length in images.shape[1:3])
    above_or_below = (rows < top) | (rows >= bottom)  # (B, H)
    beside = (columns < left) | (columns >= right)  # (B, W)
    outside = above_or_below[:, :, None] | beside[:, None]  # (B, H, W)
    normalised: Tensor = ((images.float() - mean) / std).masked_fill_(outside[..., None], 0)
    return normalised.movedim(-1, 1)


@cache
def _mean_and_std(device: torch.device) -> Tensor:
    """(2, 3), kept because the copy from the host would make a GPU wait at every step."""
    return torch.tensor([MEAN, STD], device=device)


def augment(
    image: Pixels, labels: Pixels, rng: np.random.Generator, crop: Size, resize: Size
) -> Crop:
    """The recipe's training transforms: random scale, crop, flip, colours, padding.

    Args:
        image, labels: (H, W, 3) uint8 RGB and (H, W) class ids; of memory-mapped ones only what the
            crop needs is touched.
        rng: every random choice comes from it.
        crop: (height, width) of the result.
        resize: (long, short) sides the image is fitted into at scale 1.

    Returns:
        Pixels, 0 where padded, and labels, `IGNORE` where padded. The labels are those of resizing
        the whole image and then cropping; so are the pixels, within one grey level, before colours.

    Source: SSSegmentation's CCNet configurations and its data pipeline; benchmarks/samples.py has
    its order written plainly.
    """
    size = random_size(labels.shape[0], labels.shape[1], rng, resize)
    box, labels = choose_crop(labels, size, rng, crop)
    image, (height, width) = resized_crop(image, size, box), box[2:]
    if rng.random() < 0.5:
        image, labels = cv2.flip(image, 1), cv2.flip(labels, 1)
    above, before = (crop[0] - height) // 2, (crop[1] - width) // 2
    margins = (above, crop[0] - height - above, before, crop[1] - width - before)
    pixels = cv2.copyMakeBorder(distort_colours(image, rng), *margins, cv2.BORDER_CONSTANT, value=0)
    labels = cv2.copyMakeBorder(labels, *margins, cv2.BORDER_CONSTANT, value=IGNORE)
    return Crop(pixels, labels, (above, above + height, before, before + width))


def random_size(height: int, width: int, rng: np.random.Generator, resize: Size) -> Size:
    """(height, width) fitted into `resize` (long, short) times a factor drawn from `SCALES`."""
    scale = rng.uniform(*SCALES)
    return fitted_size(height, width, int(resize[0] * scale), int(resize[1] * scale))


def choose_crop(
    labels: Pixels, size: Size, rng: np.random.Generator, crop: Size
) -> tuple[tuple[int, int, int, int], Pixels]:
    """A crop of the labels (H, W) resized to `size` where, if possible, no class covers too much.

    Returns its (top, left, height, width) in pixels of `size`, and its labels.
    """
    height, width = min(crop[0], size[0]), min(crop[1], size[1])
    rows, columns = (_nearest(old, new) for old, new in zip(labels.shape, size, strict=True))
    for _ in range(CROP_TRIES):
        top, left = int(rng.integers(size[0] - height + 1)), int(rng.integers(size[1] - width + 1))
        part = labels[rows[top : top + height]].take(columns[left : left + width], axis=1)
        counts = cv2.calcHist([part], [0], None, [IGNORE], [0, IGNORE])  # of the classes
        if np.count_nonzero(counts) > 1 and counts.max() < LARGEST_CLASS * counts.sum():
            break
    return (top, left, height, width), part


def _nearest(old: int, new: int) -> NDArray[np.intp]:
    """(new,) the index of the `old` pixel that OpenCV's nearest resize puts at each place."""
    row = np.arange(old, dtype=np.float32)[None]
    return np.asarray(cv2.resize(row, (new, 1), interpolation=cv2.INTER_NEAREST)[0], np.intp)


def resized_crop(image: Pixels, size: Size, crop: tuple[int, int, int, int]) -> Pixels:
    """Only the crop (top, left, height, width) of (H, W, 3) resized bilinearly to `size`."""
    top, left, height, width = crop
    down, across = image.shape[0] / size[0], image.shape[1] / size[1]
    y, x = (top + 0.5) * down - 0.5, (left + 0.5) * across - 0.5  # the crop's first pixel
    first, before = max(0, int(y)), max(0, int(x))
    part = image[first : ceil(y + height * down) + 1, before : ceil(x + width * across) + 1]
    matrix = np.array([[across, 0, x - before], [0, down, y - first]])
    rgba = cv2.cvtColor(part, cv2.COLOR_RGB2RGBA)  # warped in less than half the time of RGB
    how = {"flags": cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP, "borderMode": cv2.BORDER_REPLICATE}
    warped = cv2.warpAffine(rgba, matrix, (width, height), **how)
    return np.asarray(cv2.cvtColor(warped, cv2.COLOR_RGBA2RGB))


def distort_colours(image: Pixels, rng: np.random.Generator) -> Pixels:
    """Brightness, contrast, saturation, hue of (H, W, 3), each changed with probability 0.5.

    Contrast comes first or last. Look-up tables give what the recipe's arithmetic gives.
    """
    contrast_first = rng.random() < 0.5
    brighten, contrast, saturate, turn = rng.random(4) < 0.5
    shift, factor = rng.uniform(-BRIGHTNESS, BRIGHTNESS), rng.uniform(*CONTRAST)
    saturation, hue = rng.uniform(*SATURATION), rng.integers(-HUE, HUE)
    levels = np.arange(256, dtype=np.float32)
    before = _levels(levels + shift) if brighten else levels
    if contrast and contrast_first:
        before = _levels(before * factor)
    image = cv2.LUT(image, before.astype(np.uint8))
    tables = [(levels, _levels(levels * saturation), levels)] if saturate else []
    tables += [((levels + hue) % 180, levels, levels)] if turn else []
    for table in tables:  # one after the other, as the recipe cuts to 8 bits in between
        hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV)
        hsv = cv2.LUT(hsv, np.stack(table, -1)[None].astype(np.uint8))
        image = cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)
    if contrast and not contrast_first:
        image = cv2.LUT(image, _levels(levels * factor).astype(np.uint8))
    return image


def _levels(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Cut to 8 bits as the recipe does: towards 0."""
    return np.asarray(np.floor(values.clip(0, 255)))
