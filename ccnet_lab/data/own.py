"""Your own data: folders as people and labelling tools make them -> a `Dataset`, splits, pairs.

Class files are read in class_files.py; a picture finds its mask in pairs.py.
"""

import re
import zlib
from collections import defaultdict
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from ccnet_lab.data.catalog import Dataset, register
from ccnet_lab.data.class_files import CLASS_FILES, read_classes
from ccnet_lab.data.images import open_picture
from ccnet_lab.data.pairs import ENDINGS, Candidate, Files, Pair, Part, gather, listed
from ccnet_lab.errors import DataError, printable

SPLITS = {  # names of folders and lists, in lower case -> split
    "train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val",
    "test": "test", "testing": "test",
}  # fmt: skip
EXPECTED = (
    "a data set of your own is a folder with images/, masks/ and classes.json, or an export of "
    "CVAT or Datumaro (Segmentation mask, CamVid, Cityscapes or KITTI), Roboflow (Semantic "
    "Segmentation Masks), labelme2voc or Supervisely"
)
_POLYGONS = (  # what tools write instead of masks
    "annotations/*.json", "*/_annotations.coco.json", "annotations.xml", "data.yaml", "*.json",
)  # fmt: skip


@dataclass(frozen=True)
class Layout:
    """Where your own data has its files."""

    folder: Path
    classes: Path  # the file of the class names
    parts: list[Part]
    lists: Path  # the folder of <split>.txt
    partial: bool = False  # whether pictures without a mask are left out: the tool writes none


def open_own(folder: str | Path) -> Dataset:
    """Register your own data: images/, masks/ and classes.json, or an export of a labelling tool.

    `classes.json` is a list of class names, or an object with `names` and optionally `palette`
    ([r, g, b] each), `ids` (each class's id in the masks; its position otherwise) and `ignore_id`
    (one id or a list; 255 is always ignored). The data set's key is the folder's name. Exports are
    read as they are: those of CVAT, Datumaro, Roboflow, labelme2voc and Supervisely.

    Raises:
        DataError: a part of the folder is missing or unreadable.
    """
    folder = Path(folder).resolve()
    classes = read_classes(layout_of(folder).classes)
    key = re.sub(r"[^a-z0-9]+", "", folder.name.lower()) or "own"
    colours = ["#{:02x}{:02x}{:02x}".format(*colour) for colour in classes.colours]
    dataset = Dataset(
        key,
        printable(folder.name),
        str(folder),
        train_images=0,
        val_images=0,
        label_ids=classes.ids or tuple(range(len(colours))),
        ignored_ids=classes.ignored,
        classes=tuple(zip(colours, classes.names, strict=True)),
        coloured=classes.coloured,
    )
    return register(dataset)


def layout_of(folder: Path) -> Layout:
    """Which of the known layouts a folder has; `DataError` names what is missing."""
    if not folder.is_dir():
        raise DataError(f"{folder} is missing; {EXPECTED}")
    images, masks, pictures = (folder / name for name in ("images", "masks", "JPEGImages"))
    voc = [
        folder / name
        for name in ("SegmentationClassPNG", "SegmentationClass", "SegmentationClassAug")
        if any(path.suffix.lower() in ENDINGS for path in (folder / name).rglob("*"))
    ]
    inside, lists, partial = [folder], folder, False
    if images.is_dir() and masks.is_dir():
        parts = _plain(images, masks)
    elif voc and pictures.is_dir():
        parts, partial = [Part(pictures, voc[0])], True
        lists = folder / "ImageSets" / "Segmentation"
    elif voc:
        remedy = "export it again with the pictures, or put them there"
        raise DataError(f"{folder} has {voc[0].name}/ but no JPEGImages/; {remedy}")
    elif parts := _benchmarks(folder):
        partial = True
    elif parts := _split_folders(folder):
        inside += [path for part in parts for path in (part.images, part.images.parent)]
    elif not (parts := _supervisely(folder)):
        _refuse_what_has_no_masks(folder)
        deeper = [path.parent for name in CLASS_FILES for path in folder.glob(f"*/{name}")]
        meant = f"; was {deeper[0]} meant?" if deeper else ""
        raise DataError(f"{masks if images.is_dir() else images} is missing; {EXPECTED}{meant}")
    return Layout(folder, _classes(inside), parts, lists, partial)


def _classes(folders: list[Path]) -> Path:
    files = [folder / name for folder in folders for name in CLASS_FILES]
    if found := next((file for file in files if file.is_file()), None):
        return found
    raise DataError(f"{files[0]} is missing; {EXPECTED}")


def _split(folder: Path) -> str:
    return SPLITS.get(folder.name.lower(), "")


def _folders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("*") if path.is_dir())


def _first(folder: Path, *names: str) -> Path | None:
    """The first of these folders that exists."""
    return next((folder / name for name in names if (folder / name).is_dir()), None)


def _plain(images: Path, masks: Path) -> list[Part]:
    """images/ and masks/, and the folders in them that are named as splits."""
    named = [path for path in _folders(images) if _split(path)]
    parts = [Part(path, _first(masks, path.name) or masks, _split(path)) for path in named]
    return [*parts, Part(images, masks, without=tuple(path.name for path in named))]


def _benchmarks(folder: Path) -> list[Part]:
    """Exports in the layouts of CamVid, KITTI and Cityscapes."""
    camvid, kitti, cityscapes = list[Part](), list[Part](), list[Part]()
    for path in _folders(folder):
        if masks := _first(folder, f"{path.name}annot"):
            camvid.append(Part(path, masks, _split(path)))
        masks, images = _first(path, "semantic_rgb", "semantic"), _first(path, "image_2")
        if masks and images:
            kitti.append(Part(images, masks, _split(path)))
    for path in _folders(_first(folder, "leftImg8bit") or folder / "imgsFine" / "leftImg8bit"):
        if masks := _first(folder / "gtFine", path.name):
            suffixes = ("_leftImg8bit", "_gtFine_labelIds")
            cityscapes.append(Part(path, masks, _split(path), suffixes=suffixes))
    return camvid or kitti or cityscapes


def _split_folders(folder: Path) -> list[Part]:
    """train/, valid/, test/: with images/ and masks/, or pictures beside their `_mask.png`."""
    parts = []
    for path in filter(_split, _folders(folder)):
        if (path / "images").is_dir() and (path / "masks").is_dir():
            parts.append(Part(path / "images", path / "masks", _split(path)))
        elif (path / "_classes.csv").is_file() or any(path.glob("*_mask.png")):
            parts.append(Part(path, path, _split(path)))
    if not parts and (folder / "_classes.csv").is_file() and any(folder.glob("*_mask.png")):
        parts.append(Part(folder, folder, without=("cache",)))
    return parts


def _supervisely(folder: Path) -> list[Part]:
    """img/ with masks_machine/ or masks_human/, in the folder or in each of its data sets."""
    if not any((folder / name).is_file() for name in CLASS_FILES):  # any folder, maybe a large one
        return []
    homes = [path.parent for path in sorted(folder.rglob("img")) if path.is_dir()]
    parts = []
    for home in homes:
        masks = _first(home, "masks_machine", "masks_human")
        if masks is None:
            remedy = "export the project again with machine masks"
            raise DataError(f"{home} has img/ but no masks_machine/; {remedy}")
        if masks.name == "masks_human":
            _refuse_overlays(masks, home / "img")
        split = _split(home) if home != folder else ""
        prefix = f"{home.relative_to(folder).as_posix()}/" if len(homes) > 1 and not split else ""
        parts.append(Part(home / "img", masks, split, prefix))
    return parts


def _refuse_overlays(masks: Path, images: Path) -> None:
    """Supervisely's human masks are mostly the picture beside itself, painted over."""
    mask, widths = min(masks.glob("*.png"), default=masks), (0, 1)
    for image in images.glob("*"):
        if image.stem == mask.stem and image.suffix.lower() in ENDINGS:
            damaged = suppress(OSError, ValueError, SyntaxError)
            with damaged, open_picture(mask) as drawn, open_picture(image) as picture:
                widths = drawn.width, picture.width
    if widths[0] == 2 * widths[1]:
        what = f"{masks} holds pictures beside painted pictures, not labels"
        raise DataError(f"{what}; export again with machine masks")


def _refuse_what_has_no_masks(folder: Path) -> None:
    """Say how to get masks from exports of polygons, and of Label Studio's brush."""
    brush = [*folder.glob("task-*-annotation-*.png"), *folder.glob("masks/task-*-annotation-*.png")]
    if brush:
        raise DataError(
            f"{folder} holds Label Studio's masks, one for each label and without the names of "
            f"their pictures ({brush[0].name}); put the labels of a picture into one mask of its "
            "name, which Label Studio's JSON export has"
        )
    found = [p for pattern in _POLYGONS for p in folder.glob(pattern) if p.name not in CLASS_FILES]
    if found and not (folder / "masks").is_dir():
        raise DataError(
            f"{folder} holds {found[0].name}, polygons as of COCO, Datumaro, CVAT or YOLO, no "
            "masks; export it again as Segmentation mask or Semantic Segmentation Masks, or "
            "convert it: pip install 'datumaro[cli]', then "
            "datum convert -i FOLDER -f voc_segmentation -- --save-media"
        )


# Splits


@dataclass
class Splits:
    """The pairs of every split, and what was found about the lists."""

    layout: Layout
    files: Files
    pairs: dict[str, list[Pair]]
    repeated: dict[str, list[str]]  # split -> names that its list has twice
    faults: dict[str, DataError]  # split -> why its list cannot be read
    left_out: list[Path]  # pictures without masks, in layouts where that is usual


def find_own(folder: Path, split: str) -> list[Pair]:
    """The pairs of a split: those in its folder, else in its list `<split>.txt`, else the rest.

    Without lists one picture in five is for val, chosen by name, so that others may come or go.
    Lists of other names, such as `default.txt`, say which pictures there are.

    Raises:
        DataError: there is no such split, or nothing is in it.
    """
    splits = divide(folder)
    if split in splits.faults:
        raise splits.faults[split]
    if split not in splits.pairs:
        known = f"{' and '.join(splits.pairs)}, or those for which there is a <split>.txt"
        raise DataError(f"{folder} has no split {split!r}; it has {known}")
    return splits.pairs[split] or _refuse_empty(splits, split)


def _refuse_empty(splits: Splits, split: str) -> list[Pair]:
    folder, part, files = splits.layout.folder, splits.layout.parts[0], splits.files
    if not files.items:
        masks = f"{len(files.alone):,} masks and no picture for any" if files.alone else ""
        endings = ", ".join(sorted({path.suffix for path in files.strange})[:5])
        others = f" but {len(files.strange):,} files of other kinds ({endings})"
        found = f"{masks or 'no pictures'}{others if files.strange else ''}"
        raise DataError(f"{part.images} holds {found}; expected files such as a.jpg or a.tif")
    total = f"{len(files.items):,} pictures"
    if len(splits.left_out) == len(files.items):
        remedy = "names must be alike"
        raise DataError(f"none of the {total} of {folder} has a mask in {part.masks}; {remedy}")
    used = ", ".join(name for name, pairs in splits.pairs.items() if pairs)
    why = f"since all its {total} are in {used}; write {split}.txt"
    raise DataError(f"the split {split!r} of {folder.name} is empty, {why}")


def divide(folder: Path) -> Splits:
    """Put every picture of a data set into its split."""
    layout = layout_of(folder)
    files = gather(layout.parts)
    chosen, lists = defaultdict[str, list[Candidate]](list), defaultdict[str, list[Path]](list)
    repeated, faults, others = dict[str, list[str]](), dict[str, DataError](), list[Path]()
    for item in files.items:
        if item.part.split:
            chosen[item.part.split].append(item)
    for path in sorted(layout.lists.glob("*.txt")):
        if split := SPLITS.get(path.stem.lower()):
            lists[split].append(path)
        elif path.stem.lower() != "trainval":
            others.append(path)
    for split, paths in lists.items():
        if split not in chosen:
            try:
                path = min(paths, key=lambda path: path.stem != split)  # exact first
                chosen[split], repeated[split] = listed(path, files.items, folder, layout.parts)
            except DataError as error:
                chosen[split], faults[split] = [], error
        if len(paths) > 1:
            both = " and ".join(map(str, paths))
            faults[split] = DataError(f"{both} both list {split}; keep one of them")
    pool = [item for item in files.items if not item.part.split]
    # Where other text files may lie, beside the pictures, only <split>.txt is a list.
    if others and layout.lists != layout.folder and not {"train", "val"} & {*lists}:
        found = [listed(path, pool, folder, layout.parts)[0] for path in others]
        pool = list(dict.fromkeys(chain(*found)))
    left_out = []
    if layout.partial:
        left_out = [item.image for item in pool if item.mask is None]
        pool = [item for item in pool if item.mask]
        for split, items in chosen.items():
            chosen[split] = [item for item in items if item.mask]
    _complete(chosen, pool, "train" in lists)
    order = sorted(chosen, key=lambda split: ({"train": 0, "val": 1}.get(split, 2), split))
    pairs = {split: [item.pair for item in chosen[split]] for split in order}
    return Splits(layout, files, pairs, repeated, faults, left_out)


def _complete(
    chosen: dict[str, list[Candidate]], pool: list[Candidate], train_listed: bool
) -> None:
    """Add train or val where neither a folder nor a list says what they are."""
    taken = {item.image for items in chosen.values() for item in items}
    rest = [item for item in pool if item.image not in taken]
    missing = [split for split in ("train", "val") if split not in chosen]
    if missing == ["val"] and not rest and not train_listed:  # a folder train/ and no other
        rest, missing = chosen.pop("train"), ["train", "val"]
    if len(missing) == 1:
        chosen[missing[0]] = rest
    elif missing:
        sums = {item.image: zlib.crc32(item.name.encode()) for item in rest}
        fifth = {image for image, number in sums.items() if number % 5 == 0}
        if len(fifth) in (0, len(rest)) and len(rest) > 1:  # possible with a few pictures
            fifth = {min(sums, key=sums.__getitem__)}
        chosen["val"] = [item for item in rest if item.image in fifth]
        chosen["train"] = [item for item in rest if item.image not in fifth]
