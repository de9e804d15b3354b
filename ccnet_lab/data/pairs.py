"""Files that belong together: a picture and its mask by name, and lists of names. Which folders are a data set's is said elsewhere."""

import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from ccnet_lab.errors import DataError, near

PICTURES = (".png", ".jpg", ".jpeg")  # endings of the published data sets
ENDINGS = (
    *PICTURES,
    ".tif",
    ".tiff",
    ".bmp",
    ".webp",
    ".gif",
    ".avif",
    ".mpo",
    ".ppm",
    ".pgm",
    ".pbm",
    ".pnm",
    ".heic",
    ".heif",
)
_SUFFIX = re.compile(
    r"[-_. ](masks?|labels?|labelids|segmentation|seg|gt)$", re.I
)  # what tools append to a mask's name


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
    without: tuple[str, ...] = ()  # folders in `images` that are parts of their own
    suffixes: tuple[str, str] = (
        "",
        "",
    )  # of the names of pictures and masks, before the ending; files without them are others' business


class Item(NamedTuple):
    """A picture, its name without and with its ending, and its mask, if there is one."""

    name: str
    full: str
    image: Path
    mask: Path | None
    part: Part

    @property
    def pair(self) -> Pair:
        """As a split has it; the mask that is missing is named as it should be."""
        return Pair(
            self.name,
            self.image,
            self.mask or self.part.masks / f"{self.name.removeprefix(self.part.prefix)}.png",
        )


@dataclass
class Files:
    """What was found in the folders of a data set."""

    items: list[Item] = field(default_factory=list)
    doubles: list[str] = field(
        default_factory=list
    )  # a sentence each: files that claim one place, and which of them is used
    alone: list[Path] = field(default_factory=list)  # masks that no picture has
    strange: list[Path] = field(default_factory=list)  # files that are no pictures by their endings


def gather(parts: Iterable[Part]) -> Files:
    """Every picture of the parts with its mask, and every file that is neither; `DataError` where two would have one mask."""
    files, masks, used = Files(), dict[Path, None](), dict[Path, Path]()
    for part in parts:
        images = _files(part.images, part.without, part.suffixes[0])
        if part.masks == part.images:  # the masks are those that are called so
            images, its = (
                {n: path for n, path in images.items() if bool(_SUFFIX.search(path.stem)) is mask}
                for mask in (False, True)
            )
        else:
            its = _files(part.masks, suffix=part.suffixes[1])
        files.strange += [
            path
            for some in (images, its)
            for path in some.values()
            if not path.name.lower().endswith(ENDINGS)
        ]
        its = {name: path for name, path in its.items() if name.lower().endswith(ENDINGS)}
        masks |= dict.fromkeys(its.values())
        _match(
            part,
            {name: path for name, path in images.items() if name.lower().endswith(ENDINGS)},
            its,
            files,
            used,
        )
    files.alone = [mask for mask in masks if mask not in used]
    files.strange = list(dict.fromkeys(files.strange))
    return files


def _files(folder: Path, without: tuple[str, ...] = (), suffix: str = "") -> dict[str, Path]:
    """The files below a folder by their names in it, sorted; without hidden ones, and those that tools put there for themselves.

    With a `suffix`, only `a<suffix>.png` and the like, which are called `a.png` then.
    """
    found = {}
    for top, folders, names in os.walk(folder):
        inside = Path(top).relative_to(folder).as_posix()
        for name in folders[:]:
            if name.startswith((".", "__MACOSX")) or (inside == "." and name in without):
                folders.remove(name)
            elif os.path.islink(
                os.path.join(top, name)
            ):  # isn't followed, since it can lead round in a circle
                names.append(name)
        for name in names:
            if not name.startswith(".") and name not in (
                "Thumbs.db",
                "desktop.ini",
                "_classes.csv",
            ):
                stem, ending = _without_ending(name), name[len(_without_ending(name)) :]
                if stem.endswith(suffix):
                    called = stem.removesuffix(suffix) + ending
                    found[called if inside == "." else f"{inside}/{called}"] = Path(top, name)
    return dict(sorted(found.items()))


def _match(
    part: Part,
    images: dict[str, Path],
    masks: dict[str, Path],
    files: Files,
    used: dict[Path, Path],
) -> None:
    """Give each picture its mask.

    The mask of `sub/a.jpg` is `sub/a.png` (or of another ending), else `sub/a.jpg.png`, else `sub/a_mask.png` and the like; else, where
    names are used but once and pictures or masks are in no subfolder, that of its name.
    """
    whole, plain, last = (
        defaultdict[str, list[Path]](list),
        defaultdict[str, list[Path]](list),
        defaultdict[str, list[str]](list),
    )
    for full, mask in masks.items():
        name = _without_ending(full)
        inner = _without_ending(name)
        short = _without_ending(_SUFFIX.sub("", inner))
        whole[name].append(mask)
        for other in dict.fromkeys((short, _SUFFIX.sub("", name), inner)):
            if other != name:
                plain[other].append(mask)
        last[short.rsplit("/", 1)[-1]].append(full)
    by_name = defaultdict[str, list[str]](list)
    for full in images:
        by_name[_without_ending(full)].append(full)
    once = Counter(name.rsplit("/", 1)[-1] for name in by_name)
    for name, alike in by_name.items():
        base = name.rsplit("/", 1)[-1]
        several = len(alike) > 1
        kept, *others = [full for full in alike if not (several and full in whole)] or [
            ""
        ]  # the others have masks a.jpg.png of their own
        if others:
            alone = f"{images[kept]} have one name; only the last named is used, rename one"
            files.doubles.append(f"{', '.join(images[full].name for full in others)} and {alone}")
        for full in [full for full in alike if full not in others]:
            found = (
                whole.get(full)
                if several and full != kept
                else whole.get(name) or whole.get(full) or plain.get(name)
            )
            if (
                not found
                and once[base] == len(last[base]) == 1
                and ("/" not in name or "/" not in last[base][0])
            ):
                found = [masks[last[base][0]]]
            if found and len(found) > 1:
                more = ", ".join(path.name for path in found[1:])
                files.doubles.append(
                    f"{images[full]} has the masks {found[0].name} and {more}; the first is used, take the others away"
                )
            for its in found or ():
                if (first := used.setdefault(its, images[full])) != images[full]:
                    raise DataError(
                        f"{first} and {images[full]} would have one mask, {its}; give each its own, in subfolders as the pictures"
                    )
            called = part.prefix + (full if several and full != kept else name)
            files.items.append(
                Item(called, part.prefix + full, images[full], found[0] if found else None, part)
            )


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
    return {
        path.stem: path
        for path in sorted(folder.iterdir())
        if path.suffix.lower() in endings and not path.name.startswith(".")
    }


def existing(folder: Path) -> Path:
    """The folder, if it is one; else a `DataError` that names the near ones."""
    if not folder.is_dir():
        siblings = (
            [path.name for path in folder.parent.iterdir() if path.is_dir()]
            if folder.parent.is_dir()
            else []
        )
        raise DataError(
            f"there is no folder {folder}"
            + (f"; {near(folder.name, sorted(siblings))}" if siblings else "")
        )
    return folder


def read_lines(path: Path, remedy: str = "") -> list[str]:
    """The lines of a list that are not blank; `DataError` where there are none, or it is no UTF-8 text."""
    try:
        lines = [
            line.strip()
            for line in path.read_text(encoding="utf-8-sig").splitlines()
            if line.strip()
        ]
    except UnicodeDecodeError:
        raise DataError(f"the list {path} is no UTF-8 text; save it as such") from None
    except OSError as error:
        raise DataError(f"the list {path} cannot be read: {error.strerror}") from None
    if any("\0" in line for line in lines):  # no file name has it
        raise DataError(f"the list {path} is no UTF-8 text, it has zero bytes; save it as such")
    if not lines:
        raise DataError(f"the list {path} is empty; {remedy}".rstrip("; "))
    return lines


def read_names(candidates: list[Path], remedy: str) -> list[str]:
    """The names in the first of these lists of a published data set: each line's first word, without folders and ending."""
    path = next((path for path in candidates if path.is_file()), None)
    if path is None:
        raise DataError(
            f"there is no list {' or '.join(map(str, candidates))}; {remedy}".rstrip("; ")
        )
    names = [line.split()[0] for line in read_lines(path, remedy)]
    return [Path(name).stem if name.lower().endswith(PICTURES) else name for name in names]
