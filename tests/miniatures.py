"""Run folders as `train_all.py --miniature` leaves them, made up in seconds, effects built in."""

from dataclasses import replace
from itertools import product

import numpy as np

from ccnet_lab.configs import MINIATURES
from ccnet_lab.data.catalog import get_dataset
from ccnet_lab.data.generated.worlds import WORLDS
from ccnet_lab.evaluation.metrics import Confusions, scores
from ccnet_lab.evaluation.protocol import published_protocol
from ccnet_lab.evaluation.reach import Reach
from ccnet_lab.runs import Run

IMAGES = 120
DEEPER, FINER = (
    0.02,
    0.15,
)  # share of the pixels that depth 101 finds more, stride 8 in thin classes
LONG_RANGE = {0: -0.25, 1: -0.12, 2: 0.0, 3: 0.0}  # by R, in the long-range classes


def configurations(dataset):
    """The seven of a data set: four of the twelve, and R-50-D8 with R = 0, 1, 3."""
    four = [config for config in MINIATURES.values() if config.dataset == dataset]
    return four + [replace(four[0], recurrence=r) for r in (0, 1, 3)]


def pixels_of(dataset):
    """(120, K) true pixels of each class in each made-up image, the same for all trainings."""
    classes = get_dataset(dataset).num_classes
    rng = np.random.default_rng([*WORLDS].index(dataset))
    there = rng.random((IMAGES, classes)) < np.linspace(0.95, 0.35, classes)
    there[:, 0] = True
    size = np.geomspace(4000, 120, classes) * rng.lognormal(0, 0.6, (IMAGES, classes))
    return np.rint(there * size).astype(np.int64)


def share_found(config, luck):
    """(K,) share of each class's pixels that are found; `luck` (K,) is the training's."""
    names, world = get_dataset(config.dataset).class_names, WORLDS[config.dataset]
    share = np.linspace(0.95, 0.7, len(names)) + luck + DEEPER * (config.depth == 101)
    thin, far = ([names.index(name) for name in part] for part in (world.thin, world.long_range))
    share[thin] -= 0.0 if config.output_stride == 8 else FINER
    share[far] += LONG_RANGE[config.recurrence]
    return share


def confusions_of(config, seed, spread=0.012):
    """Confusion matrices of a training: what is not found is taken for the next class."""
    pixels = pixels_of(config.dataset)
    count, classes = pixels.shape
    number = [*MINIATURES].index(replace(config, recurrence=2).name)
    rng = np.random.default_rng([number, config.recurrence, seed])
    hard = np.random.default_rng(classes).normal(0, 0.05, pixels.shape)  # of the image
    share = share_found(config, rng.normal(0, spread, classes)) + hard
    share += rng.normal(0, 0.02, pixels.shape)
    right = np.rint(share.clip(0, 1) * pixels).astype(np.int64)
    own = np.arange(classes)
    counts = np.stack([right, pixels - right], axis=-1).reshape(count, -1)
    cells = np.stack([own * classes + own, own * classes + (own + 1) % classes], axis=-1).ravel()
    parts = [(cells[row > 0], row[row > 0]) for row in counts]
    return Confusions.collect([f"val {n}" for n in range(count)], classes, parts)


def reach_of(config, seed):
    """Right pixels of the long-range classes: with R = 1 on the cross alone, with more off it."""
    on = 90 if config.recurrence else 33
    off = 85 if config.recurrence > 1 else 34
    counts = (np.full(IMAGES, count) for count in (100, on + seed, 200, 2 * (off - seed)))
    return Reach(*counts)


def write(folder, config, seed, confusions=None, **changes):
    """One run; `changes` are of the protocol."""
    run = Run.create(folder / f"seed{seed}" / config.name, config)
    kept = confusions or confusions_of(config, seed)
    kept.save(run.confusions)
    found = scores(kept.total())
    if (config.depth, config.output_stride) == (50, 8):
        reach_of(config, seed).save(run.reach)
    names = get_dataset(config.dataset).class_names
    protocol = replace(published_protocol(config), **{"names_crc32": "1", **changes})
    run.write_training({"seed": seed, "steps": None, "weights": "none", "total_steps": 1600})
    run.write_scores(
        {
            "miou": found.miou,
            "miou_interval": [found.miou - 0.01, found.miou + 0.01],
            "pixel_accuracy": found.pixel_accuracy,
            "per_class_iou": dict(zip(names, map(float, found.iou), strict=True)),
            "protocol": protocol.to_dict(),
        }
    )
    run.log({"step": 1600, "epoch": 8, "loss": 0.4, "lr": 0.001, "images_per_second": 20.0})
    return run


def fabricate(folder, seeds=(0, 1, 2), datasets=tuple(WORLDS)):
    """All runs below `folder`, 63 of them by default; gives the folder."""
    for seed, dataset in product(seeds, datasets):
        for config in configurations(dataset):
            write(folder, config, seed)
    return folder
