"""How fast training samples are made on one core, beside the recipe's order in OpenCV.

The transforms that are timed are in data/transforms.py.
"""

import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image

from benchmarks.timing import summary
from ccnet_lab.configs import get_config
from ccnet_lab.data.cache import build_cache, read_pair
from ccnet_lab.data.catalog import IGNORE, get_dataset
from ccnet_lab.data.datasets import Pair, Sample, Split, label_table
from ccnet_lab.data.transforms import (
    BRIGHTNESS,
    CONTRAST,
    CROP_TRIES,
    HUE,
    LARGEST_CLASS,
    MEAN,
    SATURATION,
    STD,
    augment,
    random_size,
)

# Images/s that the fastest configuration, R-50-D16, takes at 40 % of an H200's peak.
NEEDED = {"voc": 830, "cityscapes": 415}
CORES = 16  # of such a machine
# Of the made-up files: height, width, format, noise and the largest class's share. They have about
# the bytes of real ones, and take about as many tries per crop.
_KINDS = {"voc": (375, 500, ".jpg", 12.0, 0.77), "cityscapes": (1024, 2048, ".png", 0.6, 0.72)}


class DataTiming(NamedTuple):
    """Seconds per image on one core, medians over rounds of the rounds' means."""

    dataset: str
    source: str  # what ours read: "files" or their "cache"
    file_bytes: int
    read: float
    transform: float
    spread: float  # of a round's seconds per image, as in `Times`
    recipe_read: float  # the recipe's order, from the files
    recipe_transform: float
    recipe_spread: float
    tool: str  # what the recipe's order was done with
    needed: float  # images/s of one of `CORES` cores

    @property
    def images_per_second(self) -> float:
        """On one core."""
        return 1 / (self.read + self.transform)

    @property
    def ratio(self) -> float:
        """How many times faster than the recipe's order."""
        return (self.recipe_read + self.recipe_transform) * self.images_per_second


def time_samples(key: str, folder: Path, images: int = 6, repeats: int = 8) -> list[DataTiming]:
    """Read and transform made-up files of VOC's or Cityscapes' size; process time, one thread.

    Ours, ours from the cache and the recipe's order take turns, file by file, with the same draws
    of scale, crop, flip and colours. The files lie in the system's file cache.
    """
    config, split = get_config(f"ccnet_resnet50os8_{key}"), make_files(key, folder, images)
    build_cache(split, say=lambda _: None)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    forms: dict[str, tuple[Callable[[int], Sample], Callable[..., object]]] = {
        "recipe": (lambda index: recipe_read(split, index), recipe_augment),
        "files": (split.read, augment),
        "cache": (lambda index: read_pair(split, index), augment),
    }
    rounds = {form: np.zeros((repeats + 1, 2)) for form in forms}
    try:
        for round_ in range(repeats + 1):
            for index in range(images):
                for form, (read, transform) in forms.items():
                    start = time.process_time()
                    sample = read(index)
                    middle = time.process_time()
                    rng = np.random.default_rng([round_, index])
                    transform(sample.image, sample.labels, rng, config.crop_size, config.resize)
                    end = time.process_time()
                    rounds[form][round_] += np.array([middle - start, end - middle]) / images
    finally:
        torch.set_num_threads(threads)
    counted = {form: seconds[1:] for form, seconds in rounds.items()}  # the first one warms up
    medians = {form: np.median(seconds, 0).tolist() for form, seconds in counted.items()}
    spreads = {form: summary(seconds.sum(1).tolist()).spread for form, seconds in counted.items()}
    tool = f"OpenCV {cv2.__version__}"
    recipe = (*medians.pop("recipe"), spreads["recipe"], tool, NEEDED[key] / CORES)
    size = int(statistics.mean(pair.image.stat().st_size for pair in split.pairs))
    return [
        DataTiming(key, form, size, read, transform, spreads[form], *recipe)
        for form, (read, transform) in medians.items()
    ]


def recipe_read(split: Split, index: int) -> Sample:
    """`Split.read` as the recipe reads, with grey masks only."""
    pair = split.pairs[index]
    image: NDArray[np.uint8] = cv2.cvtColor(cv2.imread(str(pair.image)), cv2.COLOR_BGR2RGB)
    table = label_table(split.dataset).astype(np.uint8)
    return Sample(pair.name, image, table[cv2.imread(str(pair.mask), cv2.IMREAD_GRAYSCALE)])


def recipe_augment(
    image: NDArray[np.uint8],
    labels: NDArray[np.uint8],
    rng: np.random.Generator,
    crop: tuple[int, int],
    resize: tuple[int, int],
) -> tuple[torch.Tensor, torch.Tensor]:
    """`augment` and `normalise_crops` written plainly in the recipe's order.

    Resize the whole, crop, flip, colours, normalise, pad.

    Source: the order of SSSegmentation's CCNet configurations.
    """
    size = random_size(labels.shape[0], labels.shape[1], rng, resize)
    image = cv2.resize(image, size[::-1], interpolation=cv2.INTER_LINEAR)
    labels = cv2.resize(labels, size[::-1], interpolation=cv2.INTER_NEAREST)
    height, width = min(crop[0], size[0]), min(crop[1], size[1])
    for _ in range(CROP_TRIES):
        top, left = int(rng.integers(size[0] - height + 1)), int(rng.integers(size[1] - width + 1))
        part = labels[top : top + height, left : left + width]
        present, counts = np.unique(part, return_counts=True)
        counts = counts[present != IGNORE]
        if len(counts) > 1 and counts.max() < LARGEST_CLASS * counts.sum():
            break
    image, labels = image[top : top + height, left : left + width], part
    if rng.random() < 0.5:
        image, labels = image[:, ::-1], labels[:, ::-1]
    pixels = _recipe_colours(np.ascontiguousarray(image), rng).astype(np.float32)
    pixels = cv2.multiply(cv2.subtract(pixels, (*MEAN, 0)), (*(1 / std for std in STD), 0))
    above, before = (crop[0] - height) // 2, (crop[1] - width) // 2
    margins = (before, crop[1] - width - before, above, crop[0] - height - above)
    images = F.pad(torch.from_numpy(pixels.transpose(2, 0, 1).copy()), margins)
    return images, F.pad(torch.from_numpy(labels.copy()), margins, value=IGNORE)


def _recipe_colours(image: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
    """Each change in float32, then back to 8 bits; draws in the order of `distort_colours`."""
    contrast_first = rng.random() < 0.5
    brighten, contrast, saturate, turn = rng.random(4) < 0.5
    shift, factor = rng.uniform(-BRIGHTNESS, BRIGHTNESS), rng.uniform(*CONTRAST)
    saturation = rng.uniform(*SATURATION)
    hue = rng.integers(-HUE, HUE)
    if brighten:
        image = _linear(image, 1, shift)
    if contrast and contrast_first:
        image = _linear(image, factor, 0)
    if saturate:
        image = cv2.cvtColor(image, cv2.COLOR_RGB2HSV)
        image[..., 1] = _linear(image[..., 1], saturation, 0)
        image = cv2.cvtColor(image, cv2.COLOR_HSV2RGB)
    if turn:
        image = cv2.cvtColor(image, cv2.COLOR_RGB2HSV)
        image[..., 0] = (image[..., 0].astype(int) + hue) % 180
        image = cv2.cvtColor(image, cv2.COLOR_HSV2RGB)
    return _linear(image, factor, 0) if contrast and not contrast_first else image


def _linear(values: NDArray[np.uint8], factor: float, shift: float) -> NDArray[np.uint8]:
    return (values.astype(np.float32) * factor + shift).clip(0, 255).astype(np.uint8)


def make_files(key: str, folder: Path, images: int) -> Split:
    """Pictures with about a photograph's detail and file size, and masks of large regions."""
    height, width, ending, noise, share = _KINDS[key]
    dataset, rng = get_dataset(key), np.random.default_rng(0)
    ids = np.array(dataset.label_ids or range(dataset.num_classes), np.uint8)

    def layer(cells: int) -> NDArray[np.float32]:
        coarse = rng.integers(0, 256, (height // cells, width // cells, 3), np.uint8)
        smooth = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
        return np.asarray(smooth, np.float32)

    pairs = []
    for index in range(images):
        image = 0.6 * layer(125) + 0.25 * layer(25) + 0.15 * layer(8)
        image = image + rng.normal(0, noise, (height, width, 1))
        regions = ids[rng.integers(0, len(ids), (height // 60, width // 60))]
        regions[rng.random(regions.shape) < share] = ids[0]
        mask = Image.fromarray(regions).resize((width, height), Image.Resampling.NEAREST)
        name = f"{key}{index}"
        pair = Pair(name, folder / f"{name}{ending}", folder / f"{name}_mask.png")
        Image.fromarray(image.clip(0, 255).astype(np.uint8)).save(pair.image, quality=92)
        mask.save(pair.mask)
        pairs.append(pair)
    return Split(dataset, "made up", tuple(pairs), folder / "cache")
