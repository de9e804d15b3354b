"""Data sets of one's own: folders as people and labelling tools make them -> a `Dataset` and pairs. Class files are class_files.py's."""

import re
import zlib
from collections import Counter
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from ccnet_lab.data.catalog import Dataset, register
from ccnet_lab.data.class_files import CLASS_FILES, read_classes
from ccnet_lab.data.images import open_picture
from ccnet_lab.data.pairs import ENDINGS, Files, Item, Pair, Part, find, gather, read_lines
from ccnet_lab.errors import DataError

SPLITS = {  # as folders and lists are called, in lower case
    "train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val", "test": "test", "testing": "test",
}  # fmt: skip
EXPECTED = "a data set of your own is a folder with images/, masks/ and classes.json"
OTHERS = (
    "or an export of CVAT or Datumaro (Segmentation mask, CamVid, Cityscapes or KITTI), Roboflow (Semantic Segmentation Masks), "
    "labelme2voc or Supervisely"
)
POLYGONS = {  # what tools write instead of masks
    "annotations/*.json": "annotations in JSON (COCO, Datumaro)", "*/_annotations.coco.json": "COCO's JSON",
    "annotations.xml": "CVAT's polygons", "data.yaml": "YOLO's polygons", "*.json": "annotations in JSON",
}  # fmt: skip
VOC_MASKS = ("SegmentationClassPNG", "SegmentationClass", "SegmentationClassAug")


@dataclass(frozen=True)
class Layout:
    """Where a data set of one's own has its files."""

    folder: Path
    classes: Path  # the file of the class names
    parts: tuple[Part, ...]
    lists: Path  # the folder of <split>.txt
    partial: bool = False  # whether the tool writes no mask for a picture without labels, which is left out then


def open_own(folder: str | Path) -> Dataset:
    """Read the classes of a data set of one's own and register it: images/, masks/ and classes.json, or what a labelling tool exports.

    `classes.json` is a list of class names, or an object with `names` and, as wanted, `palette` ([r, g, b] each), `ids` (the mask's id of
    each class; their positions otherwise) and `ignore_id` (one id or a list; 255 is always ignored). Its key is the folder's name.
    As they are taken exports of CVAT and Datumaro (layouts of VOC, CamVid, Cityscapes and KITTI; `labelmap.txt`, `label_colors.txt` or
    `dataset_meta.json`), Roboflow (`_classes.csv`), labelme2voc (`class_names.txt`) and Supervisely (`meta.json`).

    Raises:
        DataError: a part of the folder is missing or unreadable.
    """
    folder = Path(folder).resolve()
    layout = layout_of(folder)
    classes = read_classes(layout.classes)
    key = re.sub(r"[^a-z0-9]+", "", folder.name.lower()) or "own"
    rows = tuple(
        ("#{:02x}{:02x}{:02x}".format(*colour), name)
        for colour, name in zip(classes.colours, classes.names, strict=True)
    )
    ids = classes.ids or tuple(range(len(rows)))
    return register(
        Dataset(
            key,
            folder.name,
            str(folder),
            0,
            0,
            ids,
            classes.ignored,
            classes=rows,
            coloured=classes.coloured,
        )
    )


def layout_of(folder: Path) -> Layout:
    """Which of the known layouts a folder has; `DataError` names what is missing."""
    if not folder.is_dir():
        raise DataError(f"{folder} is missing; {EXPECTED}, {OTHERS}")
    images, masks = folder / "images", folder / "masks"
    voc = next(
        (
            folder / name
            for name in VOC_MASKS
            if (folder / name).is_dir() and _has_pictures(folder / name)
        ),
        None,
    )
    if images.is_dir() and masks.is_dir():
        return Layout(folder, _classes(folder), _plain(images, masks), folder)
    if voc and (folder / "JPEGImages").is_dir():
        lists = folder / "ImageSets" / "Segmentation"
        return Layout(
            folder, _classes(folder), (Part(folder / "JPEGImages", voc),), lists, partial=True
        )
    if voc:
        raise DataError(
            f"{folder} has {voc.name}/ but no JPEGImages/; export it again with the pictures, or put them there"
        )
    if parts := _benchmarks(folder):
        return Layout(folder, _classes(folder), parts, folder, partial=True)
    if parts := _split_folders(folder):
        return Layout(
            folder,
            _classes(
                folder, *(part.images for part in parts), *(part.images.parent for part in parts)
            ),
            parts,
            folder,
        )
    if parts := _supervisely(folder):
        return Layout(folder, _classes(folder), parts, folder)
    _refuse_what_holds_no_masks(folder)
    missing = masks if images.is_dir() else images
    inside = [
        path for name in CLASS_FILES for path in folder.glob(f"*/{name}")
    ]  # unpacked into a folder of its own
    meant = f"; was {inside[0].parent} meant?" if inside else ""
    raise DataError(f"{missing} is missing; {EXPECTED}, {OTHERS}{meant}")


def _classes(*folders: Path) -> Path:
    """The first class file in these folders."""
    found = (
        folder / name for folder in folders for name in CLASS_FILES if (folder / name).is_file()
    )
    if path := next(found, None):
        return path
    raise DataError(f"{folders[0] / 'classes.json'} is missing; {EXPECTED}, {OTHERS}")


def _plain(images: Path, masks: Path) -> tuple[Part, ...]:
    """images/ and masks/, and of them the folders that are called as splits are."""
    own = sorted(path for path in images.iterdir() if path.name.lower() in SPLITS and path.is_dir())
    parts = [
        Part(
            path,
            masks / path.name if (masks / path.name).is_dir() else masks,
            SPLITS[path.name.lower()],
        )
        for path in own
    ]
    return (*parts, Part(images, masks, without=tuple(path.name for path in own)))


def _benchmarks(folder: Path) -> tuple[Part, ...]:
    """Tools' exports in the layouts of CamVid (<split>/, <split>annot/), KITTI (<split>/image_2, semantic_rgb) and Cityscapes."""
    inside = sorted(path for path in folder.iterdir() if path.is_dir())
    camvid = [
        Part(path, mask, SPLITS.get(path.name.lower(), ""))
        for path in inside
        if (mask := folder / f"{path.name}annot").is_dir()
    ]
    kitti = [
        Part(path / "image_2", path / name, SPLITS.get(path.name.lower(), ""))
        for path in inside
        for name in [next((n for n in ("semantic_rgb", "semantic") if (path / n).is_dir()), "")]
        if name and (path / "image_2").is_dir()
    ]
    left, fine = (
        next(
            (
                folder / name
                for name in ("leftImg8bit", "imgsFine/leftImg8bit")
                if (folder / name).is_dir()
            ),
            None,
        ),
        folder / "gtFine",
    )
    splits = sorted(path for path in left.iterdir() if path.is_dir()) if left else []
    suffixes = ("_leftImg8bit", "_gtFine_labelIds")
    cityscapes = [
        Part(path, fine / path.name, SPLITS.get(path.name.lower(), ""), suffixes=suffixes)
        for path in splits
    ]
    return tuple(camvid or kitti or [part for part in cityscapes if part.masks.is_dir()])


def _refuse_what_holds_no_masks(folder: Path) -> None:
    """Say what came and how to get masks, for exports of polygons, and of Label Studio's brush."""
    brush = [
        path.name
        for place in (folder, folder / "masks")
        for path in place.glob("task-*-annotation-*.png")
    ]
    if brush:
        raise DataError(
            f"{folder} holds Label Studio's masks, one for each label and without the names of their pictures ({brush[0]}); put the labels "
            f"of a picture into one mask of its name, for which Label Studio's JSON export has the task of each picture: {EXPECTED}"
        )
    for pattern, what in POLYGONS.items():
        if (
            any(path.name not in CLASS_FILES for path in folder.glob(pattern))
            and not (folder / "masks").is_dir()
        ):
            raise DataError(
                f"{folder} holds {what}, no masks; export it again as Segmentation mask or Semantic Segmentation Masks, "
                "or convert it: pip install 'datumaro[cli]', then datum convert -i FOLDER -f voc_segmentation -- --save-media"
            )


def _split_folders(folder: Path) -> tuple[Part, ...]:
    """train/, valid/, test/: each with pictures and their `_mask.png` side by side, or with images/ and masks/."""
    parts = []
    for path in sorted(folder.iterdir()):
        split = SPLITS.get(path.name.lower())
        if not split or not path.is_dir():
            continue
        if (path / "images").is_dir() and (path / "masks").is_dir():
            parts.append(Part(path / "images", path / "masks", split))
        elif (path / "_classes.csv").is_file() or any(path.glob("*_mask.png")):
            parts.append(Part(path, path, split))
    if not parts and ((folder / "_classes.csv").is_file() and any(folder.glob("*_mask.png"))):
        parts.append(Part(folder, folder, without=("cache",)))
    return tuple(parts)


def _supervisely(folder: Path) -> tuple[Part, ...]:
    """img/ with masks_machine/ or masks_human/, in the folder or in each of its data sets."""
    named = any(
        (folder / name).is_file() for name in CLASS_FILES
    )  # else it may be any folder, and a large one
    homes = [path.parent for path in sorted(folder.rglob("img")) if path.is_dir()] if named else []
    parts = []
    for home in homes:
        masks = next(
            (home / name for name in ("masks_machine", "masks_human") if (home / name).is_dir()),
            None,
        )
        if masks is None:
            raise DataError(
                f"{home} has img/ but no masks_machine/; export the project again with machine masks"
            )
        if masks.name == "masks_human":
            _refuse_overlays(masks, home / "img")
        split = SPLITS.get(home.name.lower(), "") if home != folder else ""
        prefix = f"{home.relative_to(folder).as_posix()}/" if len(homes) > 1 and not split else ""
        parts.append(Part(home / "img", masks, split, prefix))
    return tuple(parts)


def _refuse_overlays(masks: Path, images: Path) -> None:
    """Supervisely's masks for people are, in most of its exports, the picture beside itself painted over: nothing to read labels from."""
    for mask in sorted(masks.glob("*.png"))[:1]:
        for image in (
            path
            for path in images.iterdir()
            if path.stem == mask.stem and path.suffix.lower() in ENDINGS
        ):
            widths = None
            with (
                suppress(OSError, ValueError, SyntaxError),
                open_picture(mask) as drawn,
                open_picture(image) as picture,
            ):
                widths = drawn.width, picture.width
            if widths and widths[0] == 2 * widths[1]:
                raise DataError(
                    f"{masks} holds pictures beside painted pictures, not labels; export again with machine masks"
                )


def _has_pictures(folder: Path) -> bool:
    return any(path.suffix.lower() in ENDINGS for path in folder.rglob("*"))


# Splits


@dataclass
class Splits:
    """The pairs of every split, and what is to be said of the lists."""

    pairs: dict[str, list[Pair]]
    repeated: dict[str, list[str]]  # split -> names that its list has twice
    faults: dict[str, DataError]  # split -> why its list cannot be read
    left_out: list[Path]  # pictures without masks, in layouts where that is usual
    files: Files


def find_own(folder: Path, split: str) -> list[Pair]:
    """The pairs of a split: of its folder, else of its list `<split>.txt`, else of those no other list has; else one in five is for val.

    The fifth is chosen by the pictures' names, so that others may come or go. `default.txt` and the like say which pictures there are.

    Raises:
        DataError: there is no such split, or nothing is in it.
    """
    layout = layout_of(folder)
    splits = divide(layout)
    if split in splits.faults:
        raise splits.faults[split]
    pairs = splits.pairs.get(split)
    if pairs is None:
        raise DataError(
            f"{folder} has no split {split!r}; it has {' and '.join(splits.pairs)}, or those for which there is a <split>.txt"
        )
    if pairs:
        return pairs
    items, files = splits.files.items, splits.files
    endings = sorted({path.suffix for path in files.strange})
    kinds = (
        f" but {len(files.strange):,} files of other kinds ({', '.join(endings[:5])})"
        if endings
        else ""
    )
    if not items and files.alone:
        alone = f"{folder} has {len(files.alone):,} masks and no picture for any{kinds}"
        raise DataError(
            f"{alone}; expected pictures such as a.jpg, a.png or a.tif in {layout.parts[0].images}"
        )
    if not items:
        raise DataError(
            f"{layout.parts[0].images} holds no pictures{kinds}; expected files such as a.jpg, a.png or a.tif"
        )
    if len(splits.left_out) == len(items):
        raise DataError(
            f"none of the {len(items):,} pictures of {folder} has a mask in {layout.parts[0].masks}; names must be alike"
        )
    used = ", ".join(name for name, some in splits.pairs.items() if some)
    raise DataError(
        f"the split {split!r} of {folder.name} is empty, since all its {len(items):,} pictures are in {used}; write {split}.txt"
    )


def divide(layout: Layout) -> Splits:
    """Put every picture of a data set into its split."""
    files = gather(layout.parts)
    lists = (
        {path.stem: path for path in sorted(layout.lists.glob("*.txt"))}
        if layout.lists.is_dir()
        else {}
    )
    known = {SPLITS.get(name.lower(), ""): path for name, path in reversed(lists.items())} | {
        split: lists[split] for split in ("train", "val", "test") if split in lists
    }
    known.pop("", None)
    faults: dict[str, DataError] = {}
    for split in known:
        same = [other for name, other in lists.items() if SPLITS.get(name.lower()) == split]
        if len(same) > 1:
            faults[split] = DataError(
                f"{' and '.join(map(str, same))} both list {split}; keep one of them"
            )
    named = [path for name, path in lists.items() if name.lower() not in (*SPLITS, "trainval")]
    # Where other texts may lie, a list is one only if it is asked for.
    others = [] if layout.lists == layout.folder else named
    chosen: dict[str, list[Item]] = {}
    repeated: dict[str, list[str]] = {}
    for item in files.items:
        if item.part.split:
            chosen.setdefault(item.part.split, []).append(item)
    for split, path in known.items():
        if split not in chosen:
            try:
                chosen[split], repeated[split] = _listed(path, files.items, layout)
            except DataError as error:
                chosen[split], faults[split] = [], error
    pool = [item for item in files.items if not item.part.split]
    if others and not {"train", "val"} & set(known):
        pool = list(
            dict.fromkeys(item for path in others for item in _listed(path, pool, layout)[0])
        )
    left_out = [item.image for item in pool if item.mask is None] if layout.partial else []
    if layout.partial:
        pool = [item for item in pool if item.mask]
        chosen = {split: [item for item in items if item.mask] for split, items in chosen.items()}
    _complete(chosen, pool, set(known))
    order = [split for split in ("train", "val") if split in chosen] + sorted(
        {*chosen} - {"train", "val"}
    )
    return Splits(
        {split: [item.pair for item in chosen[split]] for split in order},
        repeated,
        faults,
        left_out,
        files,
    )


def _complete(chosen: dict[str, list[Item]], pool: list[Item], listed: set[str]) -> None:
    """Add train or val where neither a folder nor a list says what they are."""
    taken = {item.image for items in chosen.values() for item in items}
    rest = [item for item in pool if item.image not in taken]
    missing = [split for split in ("train", "val") if split not in chosen]
    if missing == ["val"] and not rest and "train" not in listed:  # a folder train/ and no other
        rest, missing = chosen.pop("train"), ["train", "val"]
    if len(missing) == 1:
        chosen[missing[0]] = rest
    elif missing:
        fifth = {item.image for item in rest if zlib.crc32(item.name.encode()) % 5 == 0}
        if len(fifth) in (0, len(rest)) and len(rest) > 1:  # as a few pictures can have it
            fifth = {min(rest, key=lambda item: zlib.crc32(item.name.encode())).image}
        chosen["val"] = [item for item in rest if item.image in fifth]
        chosen["train"] = [item for item in rest if item.image not in fifth]


def _listed(path: Path, items: Iterable[Item], layout: Layout) -> tuple[list[Item], list[str]]:
    """The pictures a list names, each once, and the names it has twice; a name without a picture becomes one that is missing."""
    items = list(items)
    once = Counter(item.name.rsplit("/", 1)[-1] for item in items)
    by_name = {
        base: item for item in items if once[base := item.name.rsplit("/", 1)[-1]] == 1
    }  # a name alone, where no two have it
    by_name |= {item.name: item for item in reversed(items)} | {item.full: item for item in items}
    folders = {layout.folder.name, *(part.images.name for part in layout.parts)}
    found: dict[str, Item] = {}
    repeated = []
    for line in read_lines(path):
        item = find(line, by_name, folders) or _absent(line, layout.parts[0])
        second = line.replace("\\", "/").rsplit("/", 1)[-1].rpartition(" ")[2].strip('"')
        if (
            item.mask
            and item.mask.name != second
            and any(second == other.mask.name for other in items if other.mask)
        ):
            raise DataError(
                f"{path} gives {item.image.name} the mask {second}, whose name makes it another picture's; name masks as pictures"
            )
        if item.name in found:
            repeated.append(item.name)
        found.setdefault(item.name, item)
    return list(found.values()), repeated


def _absent(line: str, part: Part) -> Item:
    """A picture that is listed and isn't there."""
    name = line.replace("\\", "/")
    ending = next((ending for ending in ENDINGS if name.lower().endswith(ending)), "")
    stem = name[: len(name) - len(ending)] if ending else name
    return Item(
        stem,
        name,
        part.images / (name if ending else f"{name}.jpg"),
        part.masks / f"{stem}.png",
        part,
    )
