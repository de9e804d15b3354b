"""The three generated data sets of the miniatures, written in the layouts of their big siblings.

The scenes are drawn in objects.py, rooms.py and streets.py; data/datasets.py reads the files.
"""

import json
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ccnet_lab.data.catalog import Dataset, get_dataset
from ccnet_lab.data.generated import objects, rooms, streets
from ccnet_lab.errors import DataError
from ccnet_lab.files import write_text

SEED = 2026  # of the data that the committed results were trained on
MARK = "miniature.json"  # in the data root: what was generated there
PART = f"{MARK}.writing"  # left by a generation that was killed at once
VERSION = 1  # of the generators; another one makes other files
CITIES = ("arden", "brook", "cliff", "dale")
Scene = tuple[NDArray[np.uint8], NDArray[np.uint8]]  # pixels (H, W, 3), ids (H, W)


class World(NamedTuple):
    """How the scenes of a data set are made, and which classes they were made for."""

    make: Callable[[np.random.Generator], Scene]
    long_range: tuple[str, ...]  # classes that only something elsewhere in the picture tells
    cues: tuple[str, ...]  # what tells them, in their order
    thin: tuple[str, ...]  # classes two or three pixels thick


WORLDS = {
    "voc_mini": World(objects.make_objects, objects.LONG_RANGE, objects.CUES, objects.THIN),
    "ade20k_mini": World(rooms.make_room, rooms.LONG_RANGE, rooms.CUES, rooms.THIN),
    "cityscapes_mini": World(streets.make_street, streets.LONG_RANGE, streets.CUES, streets.THIN),
}


def make_scene(key: str, seed: int, split: str, number: int) -> Scene:
    """The pixels and mask ids of one scene of the data set `key`."""
    part = 0 if split == get_dataset(key).train_split else 1
    return WORLDS[key].make(np.random.default_rng([seed, [*WORLDS].index(key), part, number]))


def generate(
    root: Path, seed: int = SEED, progress: Callable[[int, int], object] | None = None
) -> None:
    """Write the three data sets below `root`, or what is missing of them.

    `progress` is called with how many scenes are there, and of how many.

    Raises:
        DataError: `root` holds something else, or another seed's data, or cannot be written.
    """
    if _begin(root, seed):
        return
    missing = [scene for scene in _scenes(root) if not all(path.exists() for path in scene[3:])]
    total = sum(get_dataset(key).train_images + get_dataset(key).val_images for key in WORLDS)
    done = total - len(missing)
    workers = min(os.cpu_count() or 1, 8)
    try:
        with ProcessPoolExecutor(workers, get_context("spawn")) as pool:
            write = partial(_write, seed=seed)
            for _ in pool.map(write, missing, chunksize=20):
                done += 1
                if progress is not None:
                    progress(done, total)
        for key in WORLDS:
            _write_lists(root, get_dataset(key))
    except OSError as error:
        remedy = "free some room or choose another --data, then call again"
        raise DataError(f"{root} cannot be written: {error}; {remedy}") from None
    _mark(root, seed, complete=True)


def _begin(root: Path, seed: int) -> bool:
    """Whether everything is there already; refuses a folder that holds something else."""
    try:
        found = json.loads((root / MARK).read_text(encoding="utf-8"))
        what = found["seed"], found["version"]
    except FileNotFoundError:
        if root.exists() and (not root.is_dir() or any(p.name != PART for p in root.iterdir())):
            remedy = "give --data a folder of its own, which need not exist yet"
            raise DataError(f"{root} holds other files than the miniatures'; {remedy}") from None
        root.mkdir(parents=True, exist_ok=True)
        _mark(root, seed, complete=False)
        return False
    except (OSError, ValueError, KeyError, TypeError) as error:
        remedy = "delete the folder, or give another --data"
        raise DataError(f"{root / MARK} cannot be read: {error}; {remedy}") from None
    if what != (seed, VERSION):
        here = f"seed {what[0]}, version {what[1]}"
        wanted = f"seed {seed}, version {VERSION}"
        remedy = "delete the folder, or give another --data"
        raise DataError(f"{root} holds the miniatures of {here}, not of {wanted}; {remedy}")
    return bool(found.get("complete"))


def _mark(root: Path, seed: int, complete: bool) -> None:
    what: dict[str, Any] = {"seed": seed, "version": VERSION, "complete": complete}
    what["note"] = "data sets generated for train_all.py --miniature; nothing here is a photograph"
    write_text(root / MARK, json.dumps(what, indent=1) + "\n", DataError)


def _scenes(root: Path) -> Iterator[tuple[str, str, int, Path, Path]]:
    """Key, split, number, picture and mask of every scene."""
    for key in WORLDS:
        data = get_dataset(key)
        splits = ((data.train_split, data.train_images), (data.val_split, data.val_images))
        for split, count in splits:
            for number in range(count):
                yield key, split, number, *_paths(root / data.root, data, split, number)


def _paths(folder: Path, data: Dataset, split: str, number: int) -> tuple[Path, Path]:
    """Where a scene's picture and mask belong."""
    if data.layout == "voc":
        name = f"{'2026' if split == data.train_split else '2027'}_{number:06d}"
        kind = "SegmentationClassAug" if split == data.train_split else "SegmentationClass"
        return folder / "JPEGImages" / f"{name}.jpg", folder / kind / f"{name}.png"
    if data.layout == "ade20k":
        name = f"ADE_{'train' if split == data.train_split else 'val'}_{number + 1:08d}"
        image = folder / "images" / split / f"{name}.jpg"
        return image, folder / "annotations" / split / f"{name}.png"
    city = CITIES[number % 3] if split == data.train_split else CITIES[3]
    name = f"{city}_{number:06d}_000019"
    image = folder / "leftImg8bit" / split / city / f"{name}_leftImg8bit.png"
    return image, folder / "gtFine" / split / city / f"{name}_gtFine_labelIds.png"


def _write(scene: tuple[str, str, int, Path, Path], seed: int) -> None:
    """Draw a scene and write its two files, each whole or not at all."""
    key, split, number, image, mask = scene
    pixels, ids = make_scene(key, seed, split, number)
    data = get_dataset(key)
    drawn = Image.fromarray(ids)
    if data.layout == "voc":  # palette PNGs, as VOC's
        drawn.putpalette([value for rgb in data.palette for value in rgb])
    for picture, path in ((Image.fromarray(pixels), image), (drawn, mask)):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}")
        options = {"quality": 95, "subsampling": 0} if path.suffix == ".jpg" else {}
        kind = "JPEG" if path.suffix == ".jpg" else "PNG"
        picture.save(temporary, kind, **options)
        os.replace(temporary, path)


def _write_lists(root: Path, data: Dataset) -> None:
    """VOC's lists of names."""
    if data.layout != "voc":
        return
    folder = root / data.root
    splits = ((data.train_split, data.train_images), (data.val_split, data.val_images))
    for split, count in splits:
        names = [_paths(folder, data, split, number)[0].stem for number in range(count)]
        path = folder / "ImageSets" / "Segmentation" / f"{split}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, "\n".join(names) + "\n", DataError)
