"""Your own data: folders as people and labelling tools make them -> a `Dataset`, splits, pairs.

Class files are read in class_files.py; a picture finds its mask in pairs.py.
"""

import re
import zlib
from collections import Counter, defaultdict
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from ccnet_lab.data.catalog import Dataset, register
from ccnet_lab.data.class_files import CLASS_FILES, read_classes
from ccnet_lab.data.images import open_picture
from ccnet_lab.data.pairs import ENDINGS, Candidate, Files, Pair, Part, find, gather, read_lines
from ccnet_lab.errors import DataError

SPLITS = {  # names of folders and lists, in lower case -> split
    "train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val",
    "test": "test", "testing": "test",
}  # fmt: skip
EXPECTED = (
    "a data set of your own is a folder with images/, masks/ and classes.json, or an export of "
    "CVAT or Datumaro (Segmentation mask, CamVid, Cityscapes or KITTI), Roboflow (Semantic "
    "Segmentation Masks), labelme2voc or Supervisely"
)
POLYGONS = {  # what tools write instead of masks
    "annotations/*.json": "annotations in JSON (COCO, Datumaro)",
    "*/_annotations.coco.json": "COCO's JSON",
    "annotations.xml": "CVAT's polygons",
    "data.yaml": "YOLO's polygons",
    "*.json": "annotations in JSON",
}


@dataclass(frozen=True)
class Layout:
    """Where your own data has its files."""

    folder: Path
    classes: Path  # the file of the class names
    parts: tuple[Part, ...]
    lists: Path  # the folder of <split>.txt
    partial: bool = False  # whether pictures without a mask are left out: the tool writes none


def open_own(folder: str | Path) -> Dataset:
    """Register your own data: images/, masks/ and classes.json, or an export of a labelling tool.

    `classes.json` is a list of class names, or an object with `names` and optionally `palette`
    ([r, g, b] each), `ids` (each class's id in the masks; its position otherwise) and `ignore_id`
    (one id or a list; 255 is always ignored). The data set's key is the folder's name.

    Exports are read as they are: CVAT's and Datumaro's in the layouts of VOC, CamVid, Cityscapes
    and KITTI (`labelmap.txt`, `label_colors.txt` or `dataset_meta.json`), Roboflow's
    (`_classes.csv`), labelme2voc's (`class_names.txt`) and Supervisely's (`meta.json`).

    Raises:
        DataError: a part of the folder is missing or unreadable.
    """
    folder = Path(folder).resolve()
    classes = read_classes(layout_of(folder).classes)
    key = re.sub(r"[^a-z0-9]+", "", folder.name.lower()) or "own"
    colours = ["#{:02x}{:02x}{:02x}".format(*colour) for colour in classes.colours]
    return register(
        Dataset(
            key,
            title=folder.name,
            root=str(folder),
            train_images=0,
            val_images=0,
            label_ids=classes.ids or tuple(range(len(colours))),
            ignored_ids=classes.ignored,
            classes=tuple(zip(colours, classes.names, strict=True)),
            coloured=classes.coloured,
        )
    )


def layout_of(folder: Path) -> Layout:
    """Which of the known layouts a folder has; `DataError` names what is missing."""
    if not folder.is_dir():
        raise DataError(f"{folder} is missing; {EXPECTED}")
    images, masks = folder / "images", folder / "masks"
    voc = [
        folder / name
        for name in ("SegmentationClassPNG", "SegmentationClass", "SegmentationClassAug")
        if any(path.suffix.lower() in ENDINGS for path in (folder / name).rglob("*"))
    ]
    if images.is_dir() and masks.is_dir():
        return Layout(folder, _classes(folder), _plain(images, masks), folder)
    if voc and (folder / "JPEGImages").is_dir():
        part, lists = Part(folder / "JPEGImages", voc[0]), folder / "ImageSets" / "Segmentation"
        return Layout(folder, _classes(folder), (part,), lists, partial=True)
    if voc:
        what = f"{folder} has {voc[0].name}/ but no JPEGImages/"
        raise DataError(f"{what}; export it again with the pictures, or put them there")
    if parts := _benchmarks(folder):
        return Layout(folder, _classes(folder), parts, folder, partial=True)
    if parts := _split_folders(folder):
        inside = [path for part in parts for path in (part.images, part.images.parent)]
        return Layout(folder, _classes(folder, *inside), parts, folder)
    if parts := _supervisely(folder):
        return Layout(folder, _classes(folder), parts, folder)
    _refuse_what_has_no_masks(folder)
    missing = masks if images.is_dir() else images
    deeper = [path.parent for name in CLASS_FILES for path in folder.glob(f"*/{name}")]
    meant = f"; was {deeper[0]} meant?" if deeper else ""
    raise DataError(f"{missing} is missing; {EXPECTED}{meant}")


def _classes(*folders: Path) -> Path:
    """The first class file in these folders."""
    for folder in folders:
        for name in CLASS_FILES:
            if (folder / name).is_file():
                return folder / name
    raise DataError(f"{folders[0] / 'classes.json'} is missing; {EXPECTED}")


def _split(folder: Path) -> str:
    return SPLITS.get(folder.name.lower(), "")


def _folders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir())


def _first(folder: Path, *names: str) -> Path | None:
    """The first of these folders that exists."""
    return next((folder / name for name in names if (folder / name).is_dir()), None)


def _plain(images: Path, masks: Path) -> tuple[Part, ...]:
    """images/ and masks/, and the folders in them that are named as splits."""
    named = [path for path in _folders(images) if _split(path)]
    parts = [Part(path, _first(masks, path.name) or masks, _split(path)) for path in named]
    return (*parts, Part(images, masks, without=tuple(path.name for path in named)))


def _benchmarks(folder: Path) -> tuple[Part, ...]:
    """Exports in the layouts of CamVid, KITTI and Cityscapes."""
    camvid, kitti = [], []
    for path in _folders(folder):
        if masks := _first(folder, f"{path.name}annot"):
            camvid.append(Part(path, masks, _split(path)))
        masks, images = _first(path, "semantic_rgb", "semantic"), _first(path, "image_2")
        if masks and images:
            kitti.append(Part(images, masks, _split(path)))
    left = _first(folder, "leftImg8bit", "imgsFine/leftImg8bit")
    suffixes = ("_leftImg8bit", "_gtFine_labelIds")
    cityscapes = [
        Part(path, masks, _split(path), suffixes=suffixes)
        for path in (_folders(left) if left else ())
        if (masks := _first(folder / "gtFine", path.name))
    ]
    return tuple(camvid or kitti or cityscapes)


def _split_folders(folder: Path) -> tuple[Part, ...]:
    """train/, valid/, test/: with images/ and masks/, or pictures beside their `_mask.png`."""
    parts = []
    for path in filter(_split, _folders(folder)):
        if (path / "images").is_dir() and (path / "masks").is_dir():
            parts.append(Part(path / "images", path / "masks", _split(path)))
        elif (path / "_classes.csv").is_file() or any(path.glob("*_mask.png")):
            parts.append(Part(path, path, _split(path)))
    if not parts and (folder / "_classes.csv").is_file() and any(folder.glob("*_mask.png")):
        parts.append(Part(folder, folder, without=("cache",)))
    return tuple(parts)


def _supervisely(folder: Path) -> tuple[Part, ...]:
    """img/ with masks_machine/ or masks_human/, in the folder or in each of its data sets."""
    if not any((folder / name).is_file() for name in CLASS_FILES):  # any folder, maybe a large one
        return ()
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
    return tuple(parts)


def _refuse_overlays(masks: Path, images: Path) -> None:
    """Supervisely's human masks are mostly the picture beside itself, painted over: no labels."""
    for mask in sorted(masks.glob("*.png"))[:1]:
        for image in images.glob("*"):
            if image.stem != mask.stem or image.suffix.lower() not in ENDINGS:
                continue
            double, damaged = False, suppress(OSError, ValueError, SyntaxError)
            with damaged, open_picture(mask) as drawn, open_picture(image) as picture:
                double = drawn.width == 2 * picture.width
            if double:
                what = f"{masks} holds pictures beside painted pictures, not labels"
                raise DataError(f"{what}; export again with machine masks")


def _refuse_what_has_no_masks(folder: Path) -> None:
    """Say how to get masks from exports of polygons, and of Label Studio's brush."""
    brush = [*folder.glob("task-*-annotation-*.png"), *folder.glob("masks/task-*-annotation-*.png")]
    if brush:
        raise DataError(
            f"{folder} holds Label Studio's masks, one for each label and without the names of "
            f"their pictures ({brush[0].name}); put the labels of a picture into one mask of its "
            "name, for which Label Studio's JSON export has the task of each picture: "
            "a data set of your own is a folder with images/, masks/ and classes.json"
        )
    for pattern, what in POLYGONS.items():
        found = any(path.name not in CLASS_FILES for path in folder.glob(pattern))
        if found and not (folder / "masks").is_dir():
            raise DataError(
                f"{folder} holds {what}, no masks; export it again as Segmentation mask or "
                "Semantic Segmentation Masks, or convert it: pip install 'datumaro[cli]', then "
                "datum convert -i FOLDER -f voc_segmentation -- --save-media"
            )


# Splits


@dataclass
class Splits:
    """The pairs of every split, and what was found about the lists."""

    pairs: dict[str, list[Pair]]
    repeated: dict[str, list[str]]  # split -> names that its list has twice
    faults: dict[str, DataError]  # split -> why its list cannot be read
    left_out: list[Path]  # pictures without masks, in layouts where that is usual
    files: Files


def find_own(folder: Path, split: str) -> list[Pair]:
    """The pairs of a split.

    Those in its folder, else in its list `<split>.txt`, else those in no other list. Without lists
    one picture in five is for val, chosen by name, so that others may come or go. Lists of other
    names, such as `default.txt`, say which pictures there are.

    Raises:
        DataError: there is no such split, or nothing is in it.
    """
    layout = layout_of(folder)
    splits = divide(layout)
    if split in splits.faults:
        raise splits.faults[split]
    pairs = splits.pairs.get(split)
    if pairs is None:
        known = f"{' and '.join(splits.pairs)}, or those for which there is a <split>.txt"
        raise DataError(f"{folder} has no split {split!r}; it has {known}")
    return pairs or _refuse_empty(layout, splits, split)


def _refuse_empty(layout: Layout, splits: Splits, split: str) -> list[Pair]:
    folder, part = layout.folder, layout.parts[0]
    items, files = splits.files.items, splits.files
    if not items:
        endings = ", ".join(sorted({path.suffix for path in files.strange})[:5])
        others = f" but {len(files.strange):,} files of other kinds ({endings})"
        others = others if files.strange else ""
        if files.alone:
            what = f"{folder} has {len(files.alone):,} masks and no picture for any{others}"
            expected = f"pictures such as a.jpg, a.png or a.tif in {part.images}"
            raise DataError(f"{what}; expected {expected}")
        expected = "files such as a.jpg, a.png or a.tif"
        raise DataError(f"{part.images} holds no pictures{others}; expected {expected}")
    if len(splits.left_out) == len(items):
        what = f"none of the {len(items):,} pictures of {folder} has a mask in {part.masks}"
        raise DataError(f"{what}; names must be alike")
    used = ", ".join(name for name, pairs in splits.pairs.items() if pairs)
    why = f"since all its {len(items):,} pictures are in {used}; write {split}.txt"
    raise DataError(f"the split {split!r} of {folder.name} is empty, {why}")


def divide(layout: Layout) -> Splits:
    """Put every picture of a data set into its split."""
    files = gather(layout.parts)
    chosen: dict[str, list[Candidate]] = defaultdict(list)
    repeated: dict[str, list[str]] = {}
    faults: dict[str, DataError] = {}
    for item in files.items:
        if item.part.split:
            chosen[item.part.split].append(item)
    lists, others = defaultdict[str, list[Path]](list), []
    for path in sorted(layout.lists.glob("*.txt")):
        if split := SPLITS.get(path.stem.lower()):
            lists[split].append(path)
        elif path.stem.lower() != "trainval":
            others.append(path)
    for split, paths in lists.items():
        if split not in chosen:
            try:
                path = min(paths, key=lambda path: path.stem != split)  # exact first
                chosen[split], repeated[split] = _listed(path, files.items, layout)
            except DataError as error:
                chosen[split], faults[split] = [], error
        if len(paths) > 1:
            both = " and ".join(map(str, paths))
            faults[split] = DataError(f"{both} both list {split}; keep one of them")
    pool = [item for item in files.items if not item.part.split]
    # Where other text files may lie, beside the pictures, only <split>.txt is a list.
    if others and layout.lists != layout.folder and not {"train", "val"} & {*lists}:
        listed = [item for path in others for item in _listed(path, pool, layout)[0]]
        pool = list(dict.fromkeys(listed))
    left_out = [item.image for item in pool if item.mask is None] if layout.partial else []
    if layout.partial:
        pool = [item for item in pool if item.mask]
        chosen = {split: [item for item in items if item.mask] for split, items in chosen.items()}
    _complete(chosen, pool, "train" in lists)
    order = sorted(chosen, key=lambda split: ({"train": 0, "val": 1}.get(split, 2), split))
    pairs = {split: [item.pair for item in chosen[split]] for split in order}
    return Splits(pairs, repeated, faults, left_out, files)


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
            fifth = {min(sums, key=lambda image: sums[image])}
        chosen["val"] = [item for item in rest if item.image in fifth]
        chosen["train"] = [item for item in rest if item.image not in fifth]


def _listed(
    path: Path, items: Iterable[Candidate], layout: Layout
) -> tuple[list[Candidate], list[str]]:
    """The pictures a list names, each once, and the names it has twice.

    A name without a picture becomes a picture that is missing.
    """
    items = list(items)
    base = {item.name: item.name.rsplit("/", 1)[-1] for item in items}
    once = Counter(base[item.name] for item in items)
    # a name without its folder, if no two have it; then with its folder; then with its ending, too
    by_name = {base[item.name]: item for item in items if once[base[item.name]] == 1}
    by_name |= {item.name: item for item in reversed(items)} | {item.full: item for item in items}
    masks = {item.mask.name for item in items if item.mask}
    folders = {layout.folder.name, *(part.images.name for part in layout.parts)}
    found: dict[str, Candidate] = {}
    repeated = []
    for line in read_lines(path):
        item = find(line, by_name, folders) or _absent(line, layout.parts[0])
        words = line.replace("\\", "/").rsplit("/", 1)[-1].split()
        second = words[-1].strip('"') if words else ""
        if item.mask and item.mask.name != second and second in masks:
            what = f"{path} gives {item.image.name} the mask {second}"
            why = "whose name makes it another picture's; name masks as pictures"
            raise DataError(f"{what}, {why}")
        if item.name in found:
            repeated.append(item.name)
        found.setdefault(item.name, item)
    return list(found.values()), repeated


def _absent(line: str, part: Part) -> Candidate:
    """A picture that is listed and isn't there."""
    name = line.replace("\\", "/")
    ending = next((ending for ending in ENDINGS if name.lower().endswith(ending)), "")
    stem = name[: len(name) - len(ending)]
    image = part.images / (name if ending else f"{name}.jpg")
    return Candidate(stem, name, image, part.masks / f"{stem}.png", part)
