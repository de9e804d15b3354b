"""Files that belong together: a picture and its mask by their names, and lists of names.

Which folders a data set has is in datasets.py for the published ones, in own.py for your own.
"""

import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from ccnet_lab.errors import DataError, near

MOST_FOLDERS = 100  # of a path in a list that are looked at
PICTURES = (".png", ".jpg", ".jpeg")  # endings in the published data sets
ENDINGS = (
    *PICTURES, ".tif", ".tiff", ".bmp", ".webp", ".gif", ".avif", ".mpo",
    ".ppm", ".pgm", ".pbm", ".pnm", ".heic", ".heif",
)  # fmt: skip
_TAG = re.compile(r"[-_. ](masks?|labels?|labelids|segmentation|seg|gt)$", re.I)  # tools append it
_TOOLS_OWN = ("Thumbs.db", "desktop.ini", "_classes.csv")


class Pair(NamedTuple):
    """An image and its mask on disk; `name` is unique within the split."""

    name: str
    image: Path
    mask: Path


class Part(NamedTuple):
    """Two folders, possibly the same one, whose files belong together."""

    images: Path
    masks: Path
    split: str = ""  # "" where lists or names decide
    prefix: str = ""  # of the pairs' names
    without: tuple[str, ...] = ()  # folders in `images` that are parts of their own
    suffixes: tuple[str, str] = ("", "")  # of pictures and masks; files without them are skipped


class Candidate(NamedTuple):
    """A picture and its mask, if it has one."""

    name: str  # without ending
    full: str  # with ending
    image: Path
    mask: Path | None
    part: Part

    @property
    def pair(self) -> Pair:
        """For a split; a missing mask gets the path where it should be."""
        mask = self.part.masks / f"{self.name.removeprefix(self.part.prefix)}.png"
        return Pair(self.name, self.image, self.mask or mask)


@dataclass
class Files:
    """What was found in the folders of a data set."""

    items: list[Candidate] = field(default_factory=list)
    doubles: list[str] = field(default_factory=list)  # a sentence for files that claim one place
    alone: list[Path] = field(default_factory=list)  # masks without a picture
    strange: list[Path] = field(default_factory=list)  # without a picture's ending


def gather(parts: Iterable[Part]) -> Files:
    """Every picture of the parts with its mask, and every file that is neither.

    Raises `DataError` where two pictures would have one mask.
    """
    files, masks, used, strange = Files(), dict[Path, None](), dict[Path, Path](), list[Path]()
    for part in parts:
        images = _files(part.images, part.without, part.suffixes[0])
        if part.masks == part.images:
            drawn = {n: path for n, path in images.items() if _TAG.search(path.stem)}
            images = {n: path for n, path in images.items() if n not in drawn}
        else:
            drawn = _files(part.masks, suffix=part.suffixes[1])
        for found in (images, drawn):
            strange += [found.pop(name) for name in [*found] if _stem(name) == name]
        masks |= dict.fromkeys(drawn.values())
        _match(part, images, drawn, files, used)
    files.alone = [mask for mask in masks if mask not in used]
    files.strange = list(dict.fromkeys(strange))
    return files


def _stem(name: str) -> str:
    """A name without the ending of a picture, if it has one."""
    return name[: name.rindex(".")] if name.lower().endswith(ENDINGS) else name


def _base(name: str) -> str:
    return name.rsplit("/", 1)[-1]


def _files(folder: Path, without: tuple[str, ...] = (), suffix: str = "") -> dict[str, Path]:
    """The files below a folder by their relative names, sorted, without hidden ones.

    With a `suffix`, only `a<suffix>.png` and the like, which are called `a.png` then.
    """
    found = {}
    for top, folders, names in os.walk(folder):
        inside = Path(top).relative_to(folder)
        for name in folders[:]:
            if name.startswith((".", "__MACOSX")) or (top == str(folder) and name in without):
                folders.remove(name)
            elif os.path.islink(os.path.join(top, name)):  # not followed: it could go in a circle
                names.append(name)
        for name in names:
            short = _stem(name)
            if not name.startswith(".") and name not in _TOOLS_OWN and short.endswith(suffix):
                called = short.removesuffix(suffix) + name[len(short) :]
                found[(inside / called).as_posix()] = Path(top, name)
    return dict(sorted(found.items()))


def _match(
    part: Part,
    images: dict[str, Path],
    masks: dict[str, Path],
    files: Files,
    used: dict[Path, Path],
) -> None:
    """Give each picture its mask.

    That of `sub/a.jpg` is `sub/a.png` (or of another ending), else `sub/a.jpg.png`, else
    `sub/a_mask.png` and the like; else, where the name is unique and pictures or masks are in no
    subfolder, the one of that name.
    """
    exact, tagged = (defaultdict[str, list[Path]](list) for _ in range(2))
    by_base, by_name = (defaultdict[str, list[str]](list) for _ in range(2))
    for full, mask in masks.items():
        name = _stem(full)
        inner = _stem(name)
        short = _stem(_TAG.sub("", inner))
        exact[name].append(mask)
        for other in {short, _TAG.sub("", name), inner} - {name}:
            tagged[other].append(mask)
        by_base[_base(short)].append(full)
    for full in images:
        by_name[_stem(full)].append(full)
    once = Counter(map(_base, by_name))
    for name, alike in by_name.items():
        # pictures of one name may each have a mask a.jpg.png; of the others, the first is kept
        own = [full for full in alike if len(alike) > 1 and full in exact]
        kept, *others = [full for full in alike if full not in own] or [""]
        if others:
            alone = f"{images[kept]} have one name; only the last named is used, rename one"
            files.doubles.append(f"{', '.join(images[full].name for full in others)} and {alone}")
        for full in [full for full in alike if full not in others]:
            found = (full not in own and exact.get(name)) or exact.get(full) or tagged.get(name, [])
            if not found and once[_base(name)] == len(by_base[_base(name)]) == 1:
                (far,) = by_base[_base(name)]
                found = [masks[far]] if "/" not in name or "/" not in far else []
            if len(found) > 1:
                more = ", ".join(path.name for path in found[1:])
                what = f"{images[full]} has the masks {found[0].name} and {more}"
                files.doubles.append(f"{what}; the first is used, take the others away")
            for mask in found:
                if (first := used.setdefault(mask, images[full])) != images[full]:
                    what = f"{first} and {images[full]} would have one mask, {mask}"
                    remedy = "give each its own, in subfolders as the pictures"
                    raise DataError(f"{what}; {remedy}")
            called = part.prefix + (full if full in own else name)
            mask_of = found[0] if found else None
            files.items.append(Candidate(called, part.prefix + full, images[full], mask_of, part))


def listed(
    path: Path, items: list[Candidate], folder: Path, parts: list[Part]
) -> tuple[list[Candidate], list[str]]:
    """The pictures that a list in a data set's folder names, each once, and the names it has twice.

    A line is a whole name, including blanks, commas and #, with or without ending, perhaps below a
    known folder; two columns, picture and mask, are understood where the line is no name. A name
    without a picture becomes a picture that is missing.
    """
    once = Counter(_base(item.name) for item in items)
    # a name without its folder, if no two have it; then with its folder; then with its ending, too
    by_name = {_base(item.name): item for item in items if once[_base(item.name)] == 1}
    by_name |= {item.name: item for item in reversed(items)} | {item.full: item for item in items}
    masks = {item.mask.name for item in items if item.mask}
    folders = {folder.name, *(part.images.name for part in parts)}
    found, repeated = dict[str, Candidate](), []
    for line in read_lines(path):
        line = line.replace("\\", "/")
        item = _find(line, by_name, folders)
        if item is None:
            name = _stem(line)
            image = parts[0].images / (f"{line}.jpg" if name == line else line)
            item = Candidate(name, line, image, parts[0].masks / f"{name}.png", parts[0])
        second = "".join(_base(line).split()[-1:]).strip('"')
        if item.mask and item.mask.name != second and second in masks:
            why = "whose name makes it another picture's; name masks as pictures"
            raise DataError(f"{path} gives {item.image.name} the mask {second}, {why}")
        if item.name in found:
            repeated.append(item.name)
        found.setdefault(item.name, item)
    return list(found.values()), repeated


def _find(line: str, items: dict[str, Candidate], folders: set[str]) -> Candidate | None:
    for words in (line, line.split(maxsplit=1)[0]):
        parts = [part for part in words.split("/") if part not in ("", ".")]
        for start in range(min(len(parts), MOST_FOLDERS)):
            if start == 0 or parts[start - 1] in folders:
                rest = "/".join(parts[start:])
                if found := items.get(rest) or items.get(_stem(rest)):
                    return found
    return None


def index(folder: Path, endings: tuple[str, ...] = PICTURES) -> dict[str, Path]:
    """Files of a folder by name without ending, sorted; empty if there is no such folder."""
    paths = sorted(folder.glob("[!.]*"))
    return {path.stem: path for path in paths if path.suffix.lower() in endings}


def existing(folder: Path) -> Path:
    """The folder, if it exists; else a `DataError` that names similar ones."""
    if not folder.is_dir():
        siblings = sorted(path.name for path in folder.parent.glob("*") if path.is_dir())
        meant = f"; {near(folder.name, siblings)}" if siblings else ""
        raise DataError(f"there is no folder {folder}{meant}")
    return folder


def read_lines(path: Path, remedy: str = "write a name in each line") -> list[str]:
    """The non-blank lines of a list; `DataError` if there are none, or it is no UTF-8 text."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise DataError(f"the list {path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        text = "\0"
    if "\0" in text:  # no file name has it
        raise DataError(f"the list {path} is no UTF-8 text; save it as such")
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if not lines:
        raise DataError(f"the list {path} is empty; {remedy}")
    return lines


def read_names(candidates: list[Path], remedy: str) -> list[str]:
    """The names in the first of these lists that exists, of a published data set.

    A name is a line's first word, without folders and ending.
    """
    path = next((path for path in candidates if path.is_file()), None)
    if path is None:
        raise DataError(f"there is no list {' or '.join(map(str, candidates))}; {remedy}")
    names = [line.split()[0] for line in read_lines(path, remedy)]
    return [Path(name).stem if name.lower().endswith(PICTURES) else name for name in names]
