"""What happens to a picture between its file and the network: the recipe's training transforms, fitting, normalising.

Reading files is in images.py, datasets.py and cache.py. Every random choice comes from a NumPy generator that is handed in, so that a
sample depends on its seed alone, in whatever worker it is made.
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

MEAN = (123.675, 116.28, 103.53)  # RGB, of ImageNet; SSSegmentation's recipe
STD = (58.395, 57.12, 57.375)
SCALES = (0.5, 2.0)  # of the random resize
CROP_TRIES, LARGEST_CLASS = (
    10,
    0.75,
)  # a crop is drawn anew while one class covers this share of its labelled pixels
BRIGHTNESS, CONTRAST, SATURATION, HUE = (
    32,
    (0.5, 1.5),
    (0.5, 1.5),
    18,
)  # each with probability 0.5; a hue of 180 is the full circle

cv2.setNumThreads(
    1
)  # samples are made in several processes side by side; threads in each would only be in each other's way


class Crop(NamedTuple):
    """A training sample: pixels (H, W, 3) uint8 RGB; labels (H, W) uint8; inside, the (top, bottom, left, right) of what is no padding."""

    pixels: NDArray[np.uint8]
    labels: NDArray[np.uint8]
    inside: tuple[int, int, int, int]


def fitted_size(height: int, width: int, long: float, short: float) -> tuple[int, int]:
    """(height, width) scaled by min(long / longer side, short / shorter side), rounded, at least 1: the recipe's resize."""
    factor = min(long / max(height, width), short / min(height, width))
    return max(1, int(height * factor + 0.5)), max(1, int(width * factor + 0.5))


def fit(image: NDArray[np.uint8], long: float, short: float) -> NDArray[np.uint8]:
    """(H, W, 3) uint8 resized to `fitted_size`, as the recipe evaluates; the image itself where the size is already that."""
    return resize(image, *fitted_size(image.shape[0], image.shape[1], long, short))


def resize(image: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
    """(H, W, 3) uint8 resized by OpenCV's `INTER_LINEAR`, without smoothing where it reduces.

    Other libraries' bilinear differs by a grey level on one value in five, which changes labels.
    """
    if image.shape[:2] == (height, width):
        return image
    return np.asarray(cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR))


def normalise(images: NDArray[np.uint8] | Tensor) -> Tensor:
    """(..., H, W, 3) uint8 RGB -> (..., 3, H, W) float32 with the recipe's mean and standard deviation, channels-last in memory."""
    tensor = torch.tensor(images) if isinstance(images, np.ndarray) else images
    return (
        (tensor.float() - tensor.new_tensor(MEAN, dtype=torch.float))
        / tensor.new_tensor(STD, dtype=torch.float)
    ).movedim(-1, -3)


def normalise_crops(images: Tensor, inside: Tensor) -> Tensor:
    """(B, H, W, 3) uint8 RGB -> (B, 3, H, W) float32, channels-last in memory, on the same device; nothing waits for a GPU.

    `inside` (B, 4): top, bottom, left, right of what is no padding. The padding becomes 0 as in the recipe, which pads afterwards.
    """
    mean, std = _mean_and_std(images.device)
    top, bottom, left, right = inside.view(-1, 4, 1).unbind(1)  # (B, 1) each
    rows, columns = (torch.arange(length, device=images.device) for length in images.shape[1:3])
    above_or_below, beside = (
        (rows < top) | (rows >= bottom),
        (columns < left) | (columns >= right),
    )  # (B, H), (B, W)
    outside = above_or_below[:, :, None] | beside[:, None]  # (B, H, W)
    normalised: Tensor = ((images.float() - mean) / std).masked_fill_(outside[..., None], 0)
    return normalised.movedim(-1, 1)


@cache
def _mean_and_std(device: torch.device) -> Tensor:
    """(2, 3). Kept, as the copy from the host would make a GPU wait at every step."""
    return torch.tensor([MEAN, STD], device=device)


def augment(
    image: NDArray[np.uint8],
    labels: NDArray[np.uint8],
    rng: np.random.Generator,
    crop: tuple[int, int],
    resize: tuple[int, int],
) -> Crop:
    """The recipe's training transforms: random scale, crop, flip, colours, pad; `normalise_crops` is left to the training's device.

    Args:
        image: (H, W, 3) uint8 RGB; of it and the labels only what the crop needs is touched, so that they may be memory-mapped files.
        labels: (H, W) uint8 class ids, `IGNORE` where unlabelled.
        rng: every random choice comes from it.
        crop: (height, width) of the result, pixels.
        resize: (long, short) sides the image is fitted into at scale 1.

    Returns:
        `crop` pixels, 0 where padded, and their labels, `IGNORE` where padded. The labels are those of resizing the whole image and then
        cropping, the pixels but for one grey level before the colours are changed.

    Source: SSSegmentation's CCNet configurations and its data pipeline; benchmarks/samples.py has its order written plainly.
    """
    size = random_size(labels.shape[0], labels.shape[1], rng, resize)
    (top, left, height, width), labels = choose_crop(labels, size, rng, crop)
    image = resized_crop(image, size, (top, left, height, width))
    if rng.random() < 0.5:
        image, labels = cv2.flip(image, 1), cv2.flip(labels, 1)
    above, before = (crop[0] - height) // 2, (crop[1] - width) // 2
    margins = (above, crop[0] - height - above, before, crop[1] - width - before)
    pixels = cv2.copyMakeBorder(distort_colours(image, rng), *margins, cv2.BORDER_CONSTANT, value=0)
    labels = cv2.copyMakeBorder(labels, *margins, cv2.BORDER_CONSTANT, value=IGNORE)
    return Crop(pixels, labels, (above, above + height, before, before + width))


def random_size(
    height: int, width: int, rng: np.random.Generator, resize: tuple[int, int]
) -> tuple[int, int]:
    """(height, width) fitted into `resize` (long, short) times a factor drawn from `SCALES`, whole pixels as in the recipe."""
    scale = rng.uniform(*SCALES)
    return fitted_size(height, width, int(resize[0] * scale), int(resize[1] * scale))


def choose_crop(
    labels: NDArray[np.uint8],
    size: tuple[int, int],
    rng: np.random.Generator,
    crop: tuple[int, int],
) -> tuple[tuple[int, int, int, int], NDArray[np.uint8]]:
    """A crop of the labels (H, W) resized to `size` in which no class covers too much, if ten tries find one.

    Returns (top, left, height, width) in pixels of `size`, and the crop's labels (height, width).
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
    """(new,) which of `old` pixels each is after OpenCV's resize to the nearest."""
    return np.asarray(
        cv2.resize(
            np.arange(old, dtype=np.float32)[None], (new, 1), interpolation=cv2.INTER_NEAREST
        )[0],
        np.intp,
    )


def resized_crop(
    image: NDArray[np.uint8], size: tuple[int, int], crop: tuple[int, int, int, int]
) -> NDArray[np.uint8]:
    """The crop (top, left, height, width) of (H, W, 3) resized bilinearly to `size`, of which only the crop is computed."""
    top, left, height, width = crop
    down, across = image.shape[0] / size[0], image.shape[1] / size[1]
    y, x = (
        (top + 0.5) * down - 0.5,
        (left + 0.5) * across - 0.5,
    )  # where the crop's first pixel lies in the image
    first, before = max(0, int(y)), max(0, int(x))
    part = image[first : ceil(y + height * down) + 1, before : ceil(x + width * across) + 1]
    matrix = np.array([[across, 0, x - before], [0, down, y - first]])
    rgba = cv2.cvtColor(
        part, cv2.COLOR_RGB2RGBA
    )  # OpenCV warps four channels in less than half the time of three
    bilinear = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    warped = cv2.warpAffine(
        rgba, matrix, (width, height), flags=bilinear, borderMode=cv2.BORDER_REPLICATE
    )
    return np.asarray(cv2.cvtColor(warped, cv2.COLOR_RGBA2RGB))


def distort_colours(image: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
    """Brightness, contrast, saturation and hue of (H, W, 3) uint8 RGB, each changed with probability 0.5, contrast first or last.

    By look-up tables, which give what the recipe's arithmetic gives; saturation and hue in OpenCV's HSV.
    """
    contrast_first = rng.random() < 0.5
    brighten, contrast, saturate, turn = rng.random(4) < 0.5
    shift, factor, saturation = (
        rng.uniform(-BRIGHTNESS, BRIGHTNESS),
        rng.uniform(*CONTRAST),
        rng.uniform(*SATURATION),
    )
    hue = rng.integers(-HUE, HUE)
    levels = before = np.arange(256, dtype=np.float32)
    if brighten:
        before = _levels(before + shift)
    if contrast and contrast_first:
        before = _levels(before * factor)
    if before is not levels:
        image = cv2.LUT(image, before.astype(np.uint8))
    tables = [(levels, _levels(levels * saturation), levels)] if saturate else []
    tables += [((levels + hue) % 180, levels, levels)] if turn else []
    for table in tables:  # both in one turn would be up to 5 grey levels from the recipe, which cuts to 8 bits in between
        hsv = cv2.LUT(
            cv2.cvtColor(image, cv2.COLOR_RGB2HSV), np.stack(table, -1)[None].astype(np.uint8)
        )
        image = cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)
    if contrast and not contrast_first:
        image = cv2.LUT(image, _levels(levels * factor).astype(np.uint8))
    return image


def _levels(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Cut to 8 bits as the recipe does: towards 0."""
    return np.asarray(np.floor(values.clip(0, 255)))
