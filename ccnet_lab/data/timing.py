"""How fast training samples are made on one core, from files of the real sizes made for it; the transforms are in transforms.py."""

import statistics
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image

from ccnet_lab.configs import get_config
from ccnet_lab.data.catalog import get_dataset
from ccnet_lab.data.datasets import Pair, Split
from ccnet_lab.data.transforms import augment

NEEDED = {"voc": 239, "cityscapes": 119}  # images/s that D8 at 40 % of an H200's peak eats
CORES = 16  # of such a machine
_SIZES = {"voc": (375, 500, ".jpg"), "cityscapes": (1024, 2048, ".png")}  # height, width, format


class DataTiming(NamedTuple):
    """Medians in seconds of one core's time per image; images_per_second follows; needed: by one of `CORES` cores."""

    dataset: str
    file_bytes: int
    read: float
    transform: float
    needed: float

    @property
    def images_per_second(self) -> float:
        """On one core."""
        return 1 / (self.read + self.transform)


def time_samples(key: str, folder: Path, images: int = 6, repeats: int = 8) -> DataTiming:
    """Read and transform `images` made-up files of VOC's or Cityscapes' size and format; process time, one thread."""
    config, split = get_config(f"ccnet_resnet50os8_{key}"), _make_files(key, folder, images)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    read, transform = [], []
    try:
        for round_ in range(repeats + 1):
            for index in range(images):
                start = time.process_time()
                sample = split.read(index)
                middle = time.process_time()
                augment(sample.image, sample.labels, np.random.default_rng([round_, index]), config.crop_size, config.resize)
                if round_:  # the first warms up
                    read.append(middle - start)
                    transform.append(time.process_time() - middle)
    finally:
        torch.set_num_threads(threads)
    # the transforms' cost varies with what is drawn, so their mean counts
    size = int(statistics.mean(pair.image.stat().st_size for pair in split.pairs))
    return DataTiming(key, size, statistics.median(read), statistics.mean(transform), NEEDED[key] / CORES)


def _make_files(key: str, folder: Path, images: int) -> Split:
    """Pictures with about the detail, and so the file size, of photographs, and masks of large regions."""
    height, width, ending = _SIZES[key]
    dataset, rng = get_dataset(key), np.random.default_rng(0)
    ids = np.array(dataset.label_ids or range(dataset.num_classes), np.uint8)
    pairs = []
    for index in range(images):
        coarse = [Image.fromarray(rng.integers(0, 256, (height // k, width // k, 3), np.uint8)) for k in (125, 25, 8)]
        layers = [np.asarray(layer.resize((width, height), Image.Resampling.BICUBIC), np.float32) for layer in coarse]
        image = 0.6 * layers[0] + 0.25 * layers[1] + 0.15 * layers[2] + rng.normal(0, 0.6 if ending == ".png" else 4, (height, width, 1))
        regions = Image.fromarray(ids[rng.integers(0, len(ids), (height // 60, width // 60))]).resize(
            (width, height), Image.Resampling.NEAREST
        )
        pair = Pair(f"{key}{index}", folder / f"{key}{index}{ending}", folder / f"{key}{index}_mask.png")
        Image.fromarray(image.clip(0, 255).astype(np.uint8)).save(pair.image, quality=92)
        regions.save(pair.mask)
        pairs.append(pair)
    return Split(dataset, "made up", tuple(pairs))
