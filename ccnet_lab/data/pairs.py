"""Files that belong together: a picture and its mask by name, and lists of names. Which folders are a data set's is said elsewhere."""

import re
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from ccnet_lab.errors import DataError, near

PICTURES = (".png", ".jpg", ".jpeg")  # endings of the published data sets
ENDINGS = (*PICTURES, ".tif", ".tiff", ".bmp", ".webp", ".gif", ".avif", ".mpo", ".ppm", ".pgm", ".pbm", ".pnm", ".heic", ".heif")
_SUFFIX = re.compile(r"[-_. ](masks?|labels?|labelids|segmentation|seg|gt)$", re.I)  # what tools append to a mask's name


class Pair(NamedTuple):
    """One image and its mask on disk; `name` is unique within the split."""

    name: str
    image: Path
    mask: Path


class Part(NamedTuple):
    """Two folders, perhaps one and the same, whose files belong together; `split` is "" where lists or names decide."""

    images: Path
    masks: Path
    split: str = ""
    prefix: str = ""  # of the pairs' names
    without: tuple[Path, ...] = ()  # folders in `images` that are parts of their own


class Item(NamedTuple):
    """A picture, what it is called in lists, and its mask, if there is one."""

    name: str
    image: Path
    mask: Path | None
    part: Part

    @property
    def pair(self) -> Pair:
        """As a split has it; the mask that is missing is named as it should be."""
        return Pair(self.name, self.image, self.mask or self.part.masks / f"{Path(self.name).name}.png")


@dataclass
class Files:
    """What was found in the folders of a data set."""

    items: list[Item] = field(default_factory=list)
    doubles: list[str] = field(default_factory=list)  # a sentence each: files that claim one place, and which of them is used
    alone: list[Path] = field(default_factory=list)  # masks that no picture has
    strange: list[Path] = field(default_factory=list)  # files that are no pictures by their endings


def gather(parts: Iterable[Part]) -> Files:
    """Every picture of the parts with its mask, and every file that is neither."""
    files, masks, used = Files(), dict[Path, None](), set[Path]()
    for part in parts:
        images, its_masks = _sorted_out(part, files)
        masks |= dict.fromkeys(its_masks)
        _match(part, images, its_masks, files, used)
    files.alone = [mask for mask in masks if mask not in used]
    files.strange = list(dict.fromkeys(files.strange))
    return files


def _sorted_out(part: Part, files: Files) -> tuple[list[Path], list[Path]]:
    """The pictures and the masks of a part; in a folder for both, the masks are those that are called so."""
    images = [path for path in _files(part.images) if not any(path.is_relative_to(other) for other in part.without)]
    masks = images if part.masks == part.images else list(_files(part.masks))
    if masks is images:
        images, masks = ([path for path in images if bool(_SUFFIX.search(path.stem)) is mask] for mask in (False, True))
    files.strange += [path for path in dict.fromkeys([*images, *masks]) if path.suffix.lower() not in ENDINGS]
    pictures, theirs = ([path for path in paths if path.suffix.lower() in ENDINGS] for paths in (images, masks))
    return pictures, theirs


def _files(folder: Path) -> Iterable[Path]:
    """Files of a folder and the folders in it, sorted; without hidden ones, and without those that tools put there for themselves."""
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        if path.name.startswith((".", "__MACOSX")) or path.name in ("Thumbs.db", "desktop.ini", "_classes.csv"):
            continue
        if path.is_dir() and not path.is_symlink():  # which can lead round in a circle
            yield from _files(path)
        else:
            yield path


def _match(part: Part, images: list[Path], masks: list[Path], files: Files, used: set[Path]) -> None:
    """Give each picture its mask.

    The mask of `sub/a.jpg` is `sub/a.png` (or of another ending), else `sub/a.jpg.png`, else `sub/a_mask.png` and the like; else, where
    names are used but once, that of another folder.
    """
    whole, plain, last = defaultdict[str, list[Path]](list), defaultdict[str, list[Path]](list), defaultdict[str, list[Path]](list)
    for mask in masks:
        name = _name(mask, part.masks)
        inner = _without_ending(name)
        short = _SUFFIX.sub("", inner)
        whole[name].append(mask)
        for other in dict.fromkeys((_without_ending(short), _SUFFIX.sub("", name), inner)):
            if other != name:
                plain[other].append(mask)
        last[_without_ending(short).rsplit("/", 1)[-1]].append(mask)
    by_name = defaultdict[str, list[Path]](list)
    for image in images:
        by_name[_name(image, part.images)].append(image)
    once = defaultdict[str, int](int)
    for name in by_name:
        once[name.rsplit("/", 1)[-1]] += 1
    for name, alike in by_name.items():
        base = name.rsplit("/", 1)[-1]
        own = {image: whole[full] for image in alike if (full := image.relative_to(part.images).as_posix()) in whole}
        shared = [image for image in alike if image not in own or len(alike) == 1]
        if len(shared) > 1:
            kept, *others = shared
            files.doubles.append(
                f"{', '.join(path.name for path in others)} and {kept} have one name; only the last named is used, rename one"
            )
        for image in [image for image in alike if image in own or image in shared[:1]]:
            full = image.relative_to(part.images).as_posix()
            found = whole.get(name) if len(alike) == 1 or image not in own else None
            found = found or own.get(image) or plain.get(name) or []
            if not found and once[base] == 1 and len(last[base]) == 1:
                found = last[base]
            if len(found) > 1:
                more = ", ".join(path.name for path in found[1:])
                files.doubles.append(f"{image} has the masks {found[0].name} and {more}; the first is used, take the others away")
            used.update(found)
            called = full if len(alike) > 1 and image in own else name
            files.items.append(Item(part.prefix + called, image, found[0] if found else None, part))
        used.update(mask for image in alike for mask in own.get(image, ()))


def _name(path: Path, folder: Path) -> str:
    """Of a file below a folder, without its ending."""
    return path.relative_to(folder).as_posix().removesuffix(path.suffix)


def _without_ending(name: str) -> str:
    """Without the ending of a picture, if there is one."""
    return name[: name.rindex(".")] if name.lower().endswith(ENDINGS) else name


def find(line: str, items: dict[str, Item], folders: Iterable[str]) -> Item | None:
    """The picture a line of a list names: by its name, with or without ending, perhaps below one of these `folders`; None for none.

    A line is a whole name, blanks, commas and # included; a line of two columns, picture and mask, is understood where it is no name.
    """
    line, known = line.replace("\\", "/"), set(folders)
    for words in dict.fromkeys((line, line.split(maxsplit=1)[0])):
        parts = [part for part in words.split("/") if part not in ("", ".")]
        for start in range(len(parts)):
            if start == 0 or parts[start - 1] in known:
                rest = "/".join(parts[start:])
                if found := items.get(rest) or items.get(_without_ending(rest)):
                    return found
    return None


def index(folder: Path, endings: tuple[str, ...] = PICTURES) -> dict[str, Path]:
    """Files of a folder by name without ending, sorted; empty where there is no such folder."""
    if not folder.is_dir():
        return {}
    return {path.stem: path for path in sorted(folder.iterdir()) if path.suffix.lower() in endings and not path.name.startswith(".")}


def existing(folder: Path) -> Path:
    """The folder, if it is one; else a `DataError` that names the near ones."""
    if not folder.is_dir():
        siblings = [path.name for path in folder.parent.iterdir() if path.is_dir()] if folder.parent.is_dir() else []
        raise DataError(f"there is no folder {folder}" + (f"; {near(folder.name, sorted(siblings))}" if siblings else ""))
    return folder


def read_lines(path: Path, remedy: str = "") -> list[str]:
    """The lines of a list that are not blank; `DataError` where there are none, or it is no UTF-8 text."""
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    except UnicodeDecodeError:
        raise DataError(f"the list {path} is no UTF-8 text; save it as such") from None
    except OSError as error:
        raise DataError(f"the list {path} cannot be read: {error.strerror}") from None
    if not lines:
        raise DataError(f"the list {path} is empty; {remedy}".rstrip("; "))
    return lines


def read_names(candidates: list[Path], remedy: str) -> list[str]:
    """The names in the first of these lists of a published data set: each line's first word, without folders and ending."""
    path = next((path for path in candidates if path.is_file()), None)
    if path is None:
        raise DataError(f"there is no list {' or '.join(map(str, candidates))}; {remedy}".rstrip("; "))
    names = [line.split()[0] for line in read_lines(path, remedy)]
    return [Path(name).stem if name.lower().endswith(PICTURES) else name for name in names]
