"""Data sets on disk: which files make up a split, and reading its pairs of image and labels.

Facts about the published data sets are in catalog.py; folders of your own are read in own.py.
"""

import os
import zlib
from collections import ChainMap
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ccnet_lab.data.catalog import Dataset
from ccnet_lab.data.decoders import decode
from ccnet_lab.data.images import Pixels, read_image
from ccnet_lab.data.masks import label_table, read_labels
from ccnet_lab.data.own import find_own, open_own
from ccnet_lab.data.pairs import PICTURES, Pair, existing, index, read_names
from ccnet_lab.errors import DataError, ImageError, MissingFileError

__all__ = ["Pair", "Sample", "Split", "describe", "label_table", "locate"]
__all__ += ["open_own", "open_split", "read_labels"]

_RGB8 = bytes([8, 2])  # a PNG's bits per channel and its colour type


class Sample(NamedTuple):
    """An image and its labels."""

    name: str
    image: Pixels  # (H, W, 3) RGB
    labels: Pixels  # (H, W) class ids or `IGNORE`


@dataclass(frozen=True)
class Split:
    """The files of one split, in a fixed order."""

    dataset: Dataset
    name: str
    pairs: tuple[Pair, ...]
    cache: Path | None = None  # the folder of decoded pairs, which may not exist; see cache.py

    def __len__(self) -> int:
        return len(self.pairs)

    def read(self, index: int) -> Sample:
        """Image and labels of pair `index`.

        Raises `DataError` if a file is missing or damaged, the sizes differ or an id is unknown.
        """
        pair = self.pairs[index]
        if not pair.mask.exists() and not pair.image.exists():
            raise DataError(f"there is no image {pair.image}, nor its mask {pair.mask}")
        labels = read_labels(pair.mask, self.dataset)
        image = _read_photograph(pair.image, self.dataset, labels.shape)
        if image.shape[:2] != labels.shape:
            (h, w), (height, width) = image.shape[:2], labels.shape
            what = f"{pair.image} is {w} x {h} pixels and its mask {pair.mask} {width} x {height}"
            raise DataError(f"{what}; make the sizes equal or take the pair out")
        return Sample(pair.name, image, labels)


def open_split(dataset: Dataset, root: str | Path, split: str | None = None) -> Split:
    """The files of a split below the data root.

    Args:
        dataset: a row of the catalog, or `open_own(folder)`.
        root: the folder that holds `VOCdevkit/`, `ADEChallengeData2016/`, `cityscapes/`,
            `camvid/`; ignored for your own data.
        split: None for the training split; else `trainaug`, `train`, `val` for VOC, `training`,
            `validation` for ADE20K, `train`, `val`, `trainval`, `test` for CamVid, or `train`,
            `val`.

    Raises:
        DataError: the folder, the list or files are missing, or the split is empty.
    """
    if not dataset.root:
        raise DataError(f"{dataset.title} has no files; data/generated/beacons.py generates it")
    folder = locate(dataset, root)
    if not folder.is_dir():
        raise DataError(_missing(dataset, Path(root), folder))
    split = split or dataset.train_split
    pairs = _FINDERS.get(dataset.layout or dataset.key, find_own)(folder, split)
    if not pairs:
        raise DataError(f"the split {split!r} of {dataset.title} at {folder} is empty")
    return Split(dataset, split, tuple(pairs), folder / "cache" / split)


def _missing(dataset: Dataset, root: Path, folder: Path) -> str:
    if dataset.classes:
        what = f"the folder of your data set {dataset.title} is no longer at {folder}"
        return f"{what}; give its new place, as in --own FOLDER"
    around = [*sorted(root.glob("*")), *folder.resolve().parents]
    meant = next((path for path in around if os.path.isdir(path / dataset.root)), None)
    asked = f", was --data {meant} meant? " if meant else ". "
    if dataset.layout:
        command = f"python scripts/train_all.py --miniature --data {root}"
        return f"there is no {dataset.title} at {folder}; `{command}` generates it"
    return (
        f"there is no {dataset.title} at {folder}; --data names the folder above {dataset.root}"
        f"{asked}`python scripts/prepare_data.py {dataset.key} --data {meant or root}` downloads "
        "it or says how to get it"
    )


def locate(dataset: Dataset, root: str | Path) -> Path:
    """The data set's folder below the data root, in upper or lower case, or where it belongs.

    An absolute `dataset.root`, of your own data, is the folder.
    """
    for names in (dataset.root, *dataset.other_roots):
        folder = Path(root)
        for name in Path(names).parts:
            below = [path for path in sorted(folder.glob("*")) if path.is_dir()]
            alike = [path for path in below if path.name.lower() == name.lower()]
            exact = folder / name
            folder = exact if exact.is_dir() or not alike else alike[0]
        if folder.is_dir():
            return folder
    return Path(root) / dataset.root


def _read_photograph(path: Path, dataset: Dataset, size: tuple[int, ...]) -> Pixels:
    """(H, W, 3) as `read_image` reads it; not turned by EXIF where only that fits the mask.

    Your own data is read as the eye sees it, the published data sets as published.
    """
    as_published = not dataset.classes
    try:
        image = _decoded(path) if as_published else None
        if image is None or image.shape[:2] != size:
            image = read_image(path, as_published)
        if image.shape[:2] != size:
            stored = read_image(path, as_published, turned=False)
            return stored if stored.shape[:2] == size else image
        return image
    except (FileNotFoundError, MissingFileError):
        raise DataError(f"there is no image {path}") from None
    except ImageError as error:
        raise DataError(f"{path.parent}/{error}") from None


def _decoded(path: Path) -> Pixels | None:
    """(H, W, 3) of a JPEG or PNG by a fast decoder; None if it can't.

    A plain PNG goes to imagecodecs where that is installed: the same pixels in a third of the time.
    """
    with suppress(RuntimeError, OSError):  # a damaged file
        data = np.fromfile(path, np.uint8)
        if (image := _plain_png(data.tobytes())) is not None:
            return image
        found = decode(data, rgb=True)
        if found is not None and found.dtype == np.uint8:
            return found
    return None


def _plain_png(data: bytes) -> Pixels | None:
    """(H, W, 3) of a PNG of 8 bits in RGB, neither turned nor transparent; None of any other."""
    if not data.startswith(b"\x89PNG\r\n\x1a\n") or data[24:26] != _RGB8:
        return None
    if b"eXIf" in data or b"tRNS" in data or not find_spec("imagecodecs"):
        return None
    import imagecodecs

    try:
        image: Pixels = imagecodecs.png_decode(data)
    except Exception:  # damaged: others say in what way
        return None
    return image if image.ndim == 3 and image.shape[2] == 3 else None


# Finders: (folder of the data set, split) -> pairs.


def _find_voc(folder: Path, split: str) -> list[Pair]:
    spellings = ("trainaug", "train_aug") if split in ("trainaug", "train_aug") else (split,)
    lists = [folder / "ImageSets" / "Segmentation" / f"{name}.txt" for name in spellings]
    names = read_names(
        lists, "`python scripts/prepare_data.py voc --data ROOT` builds trainaug.txt"
    )
    # VOC's own masks first: converters put SBD's coarser ones of val, too, into the second folder
    places = [folder / name for name in ("SegmentationClass", "SegmentationClassAug", "cls")]
    masks = ChainMap(*(index(place, (*PICTURES, ".mat")) for place in places))
    photographs = folder / "JPEGImages"
    images = index(photographs)
    return [
        Pair(n, images.get(n, photographs / f"{n}.jpg"), masks.get(n, places[0] / f"{n}.png"))
        for n in names
    ]


def _find_ade20k(folder: Path, split: str) -> list[Pair]:
    return _of_one_name((folder / "images" / split, folder / "annotations" / split))


def _find_cityscapes(folder: Path, split: str) -> list[Pair]:
    found = []
    for image in sorted(existing(folder / "leftImg8bit" / split).glob("*/*_leftImg8bit.png")):
        name = image.name.removesuffix("_leftImg8bit.png")
        mask = folder / "gtFine" / split / image.parent.name / f"{name}_gtFine_labelIds.png"
        train_ids = mask.with_name(f"{name}_gtFine_labelTrainIds.png")
        mask = train_ids if train_ids.exists() and not mask.exists() else mask
        found.append(Pair(name, image, mask))
    return found


def _find_camvid(folder: Path, split: str) -> list[Pair]:
    parts = ("train", "val") if split == "trainval" else (split,)
    return _of_one_name(*((folder / part, folder / f"{part}annot") for part in parts))


def _of_one_name(*folders: tuple[Path, Path]) -> list[Pair]:
    """The pairs in folders of images and of masks."""
    return [
        Pair(name, image, masks / f"{name}.png")
        for images, masks in folders
        for name, image in index(existing(images)).items()
    ]


_FINDERS: dict[str, Callable[[Path, str], list[Pair]]] = {
    "voc": _find_voc, "ade20k": _find_ade20k, "cityscapes": _find_cityscapes,
    "camvid": _find_camvid,
}  # fmt: skip


def describe(split: Split) -> dict[str, Any]:
    """What a protocol records of the images: data set, split, count, a checksum of the names."""
    names = "\n".join(pair.name for pair in split.pairs)
    return {
        "dataset": split.dataset.key,
        "split": split.name,
        "images": len(split),
        "names_crc32": f"{zlib.crc32(names.encode()):08x}",
    }
