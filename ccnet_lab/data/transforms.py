"""What happens to a picture between its file and the network: the recipe's training transforms, fitting, normalising.

Reading files is in images.py and datasets.py. Every random choice comes from a NumPy generator that is handed in, so that a sample depends
on its seed alone, in whatever worker it is made.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as F

from ccnet_lab.data.catalog import IGNORE

MEAN = (123.675, 116.28, 103.53)  # RGB, of ImageNet; SSSegmentation's recipe
STD = (58.395, 57.12, 57.375)
SCALES = (0.5, 2.0)  # of the random resize
CROP_TRIES, LARGEST_CLASS = 10, 0.75  # a crop is drawn anew while one class covers this share of its labelled pixels
BRIGHTNESS, CONTRAST, SATURATION, HUE = 32, (0.5, 1.5), (0.5, 1.5), 18 / 180  # each with probability 0.5; a hue of 1 is the full circle


def fitted_size(height: int, width: int, long: float, short: float) -> tuple[int, int]:
    """(height, width) scaled by min(long / longer side, short / shorter side), rounded, at least 1: the recipe's resize."""
    factor = min(long / max(height, width), short / min(height, width))
    return max(1, int(height * factor + 0.5)), max(1, int(width * factor + 0.5))


def fit(image: NDArray[np.uint8], long: int, short: int) -> NDArray[np.uint8]:
    """(H, W, 3) resized bilinearly to `fitted_size`; the image itself where the size is already that."""
    height, width = fitted_size(image.shape[0], image.shape[1], long, short)
    if (height, width) == image.shape[:2]:
        return image
    # Pillow smooths before it reduces, so that large photographs don't alias; where it enlarges it is the recipe's plain bilinear.
    return np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR))


def normalise(images: NDArray[np.uint8] | Tensor) -> Tensor:
    """(..., H, W, 3) uint8 RGB -> (..., 3, H, W) float32 with the recipe's mean and standard deviation, channels-last in memory."""
    tensor = torch.tensor(images) if isinstance(images, np.ndarray) else images
    return ((tensor.float() - tensor.new_tensor(MEAN, dtype=torch.float)) / tensor.new_tensor(STD, dtype=torch.float)).movedim(-1, -3)


def augment(
    image: NDArray[np.uint8], labels: NDArray[np.uint8], rng: np.random.Generator, crop: tuple[int, int], resize: tuple[int, int]
) -> tuple[Tensor, Tensor]:
    """The recipe's training transforms, in its order: random scale, crop, flip, colours, normalise, pad.

    Args:
        image: (H, W, 3) uint8 RGB.
        labels: (H, W) uint8 class ids, `IGNORE` where unlabelled.
        rng: every random choice comes from it.
        crop: (height, width) of the result, pixels.
        resize: (long, short) sides the image is fitted into at scale 1.

    Returns:
        image (3, height, width) float32, normalised, 0 where padded; labels (height, width) uint8, `IGNORE` where padded.

    Source: SSSegmentation's CCNet configurations and its data pipeline.
    """
    size = random_size(labels.shape[0], labels.shape[1], rng, resize)
    labels = F.resize(torch.from_numpy(labels)[None], list(size), InterpolationMode.NEAREST)[0].numpy()
    top, left, height, width = choose_crop(labels, rng, crop)
    image, labels = resized_crop(image, size, (top, left, height, width)), labels[top : top + height, left : left + width]
    if rng.random() < 0.5:
        image, labels = image[:, ::-1], labels[:, ::-1]
    above, before = (crop[0] - height) // 2, (crop[1] - width) // 2
    inside = np.s_[above : above + height, before : before + width]
    pixels, target = torch.zeros(3, *crop), np.full(crop, IGNORE, np.uint8)
    target[inside] = labels
    filled = pixels[:, inside[0], inside[1]]
    filled.copy_(torch.from_numpy(distort_colours(np.ascontiguousarray(image), rng)).permute(2, 0, 1))
    F.normalize(filled, list(MEAN), list(STD), inplace=True)
    return pixels, torch.from_numpy(target)


def random_size(height: int, width: int, rng: np.random.Generator, resize: tuple[int, int]) -> tuple[int, int]:
    """(height, width) fitted into `resize` (long, short) times a factor drawn from `SCALES`."""
    scale = rng.uniform(*SCALES)
    return fitted_size(height, width, resize[0] * scale, resize[1] * scale)


def resized_crop(image: NDArray[np.uint8], size: tuple[int, int], crop: tuple[int, int, int, int]) -> NDArray[np.uint8]:
    """The crop (top, left, height, width) of (H, W, 3) resized to `size`; where that enlarges, only the crop is computed."""
    top, left, height, width = crop
    if size[0] < image.shape[0] or size[1] < image.shape[1]:  # Pillow would smooth here
        return resize(image, *size)[top : top + height, left : left + width]
    down, across = image.shape[0] / size[0], image.shape[1] / size[1]
    box = (left * across, top * down, (left + width) * across, (top + height) * down)
    return np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR, box))


def choose_crop(labels: NDArray[np.uint8], rng: np.random.Generator, crop: tuple[int, int]) -> tuple[int, int, int, int]:
    """(top, left, height, width) of a crop of (H, W) labels in which no class covers too much, if ten tries find one."""
    height, width = min(crop[0], labels.shape[0]), min(crop[1], labels.shape[1])
    top = left = 0
    for _ in range(CROP_TRIES):
        top = int(rng.integers(labels.shape[0] - height + 1))
        left = int(rng.integers(labels.shape[1] - width + 1))
        counts = np.bincount(labels[top : top + height, left : left + width].ravel(), minlength=IGNORE + 1)[:IGNORE]
        if np.count_nonzero(counts) > 1 and counts.max() < LARGEST_CLASS * counts.sum():
            break
    return top, left, height, width


def distort_colours(image: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
    """Brightness, contrast, saturation and hue of (H, W, 3) uint8 RGB, each changed with probability 0.5, contrast first or last.

    Saturation and hue are changed in HSV, which Pillow stores in 8 bits as the recipe's OpenCV does; the other two by look-up table.
    """
    contrast_first = rng.random() < 0.5
    brighten, contrast, saturate, turn = rng.random(4) < 0.5
    shift, factor, saturation = rng.uniform(-BRIGHTNESS, BRIGHTNESS), rng.uniform(*CONTRAST), rng.uniform(*SATURATION)
    hue = rng.uniform(-HUE, HUE)
    levels = np.arange(256, dtype=np.float64)
    contrasted, before, after = _levels(levels * factor), None, None
    if contrast:
        before, after = (contrasted, None) if contrast_first else (None, contrasted)
    if brighten:
        shifted = _levels(levels + shift)
        before = shifted if before is None else before[shifted]
    picture = Image.fromarray(image)
    picture = picture if before is None else picture.point([*before] * 3)
    if saturate or turn:
        hues = (np.arange(256) + round(hue * 256) * bool(turn)) % 256  # around the colour circle
        saturations = _levels(levels * saturation) if saturate else np.arange(256)
        picture = picture.convert("HSV").point([*hues, *saturations, *range(256)]).convert("RGB")
    return np.array(picture if after is None else picture.point([*after] * 3))


def resize(image: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
    """(H, W, 3) resized by plain bilinear interpolation without smoothing, as the recipe evaluates."""
    if image.shape[:2] == (height, width):
        return image
    pixels = torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)
    resized: NDArray[np.uint8] = F.resize(pixels, [height, width], InterpolationMode.BILINEAR, antialias=False).permute(1, 2, 0).numpy()
    return resized


def _levels(values: NDArray[np.float64]) -> NDArray[np.uint8]:
    return values.round().clip(0, 255).astype(np.uint8)
