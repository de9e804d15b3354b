"""Readers of the files that name a data set's classes: classes.json and those of labelling tools.

Which folder has which file is decided in own.py.
"""

import csv
import json
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from ccnet_lab.data.catalog import IGNORE
from ccnet_lab.errors import DataError, near, printable

Colour = tuple[int, ...]
BORDER = (224, 224, 192)  # PASCAL VOC's colour of what is ignored
_MALFORMED = (
    ValueError, LookupError, TypeError, AttributeError, RecursionError, OverflowError, csv.Error,
)  # fmt: skip


@dataclass(frozen=True)
class Classes:
    """K classes, and which numbers or colours mean them in masks."""

    names: list[str]
    colours: list[Colour]  # [] for VOC's
    ids: tuple[int, ...] = ()  # in grey masks; empty for their positions
    ignored: tuple[int, ...] = ()
    coloured: bool = False  # whether the file states the colours, so that masks may be of them


def read_classes(path: Path) -> Classes:
    """The classes in one of the `CLASS_FILES`; `DataError` says what was expected."""
    reader, expected = CLASS_FILES[path.name]
    try:
        found = reader(path)
        names, ids = found.names, found.ids
        colours = found.colours or [voc_colour(k) for k in range(len(names))]
        if any(len(colour) != 3 or not set(colour) <= set(range(256)) for colour in colours):
            raise ValueError("a colour is three numbers from 0 to 255")
        if len(colours) != len(names) or (ids and len(ids) != len(names)):
            raise ValueError(f"{len(names)} names, {len(colours)} colours and {len(ids)} ids")
        if len(set(ids)) < len(ids) or not {*ids, *found.ignored} <= set(range(IGNORE + 1)):
            raise ValueError(f"ids {ids}, ignored {found.ignored}: not once each, 0 to {IGNORE}")
        if not 0 < len(set(names)) == len(names) <= IGNORE:
            raise ValueError(f"{len(names)} names, expected 1 to {IGNORE} different names")
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from None
    except json.JSONDecodeError as error:
        raise DataError(f"{path} is no JSON ({error}); expected {expected}") from None
    except _MALFORMED as error:
        raise DataError(f"{path} cannot be read ({error!r}); expected {expected}") from None
    return replace(found, names=[*map(printable, names)], colours=colours)


def voc_colour(index: int) -> Colour:
    """PASCAL VOC's colour of a class index: the bits of the index spread over R, G, B."""
    bits = [[(index >> (3 * bit + channel)) & 1 for bit in range(3)] for channel in range(3)]
    return tuple(128 * high + 64 * middle + 32 * low for high, middle, low in bits)


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8-sig")


def _lines(path: Path) -> list[str]:
    return [line.strip() for line in _text(path).splitlines() if line.strip()]


def _unless_positions(ids: list[int]) -> tuple[int, ...]:
    return () if ids == [*range(len(ids))] else tuple(ids)


def _classes_json(path: Path) -> Classes:
    content = json.loads(_text(path))
    content = {"names": content} if isinstance(content, list) else content
    names, known = content["names"], ("names", "palette", "ids", "ignore_id")
    if not isinstance(names, list) or not all(isinstance(name, str) and name for name in names):
        raise ValueError("names are not a list of words in quotes")
    if strange := [key for key in content if key not in known]:
        raise ValueError(f"it has {strange[0]!r}; {near(strange[0], known)}")
    numbers = {}
    for key in ("ids", "ignore_id"):
        value = content.get(key, [])
        numbers[key] = tuple(value) if isinstance(value, list) else (value,)
        if strange := [number for number in numbers[key] if type(number) is not int]:
            raise ValueError(f"{key} has {strange[0]!r}, which is no whole number")
    colours = [tuple(map(int, colour)) for colour in content.get("palette") or ()]
    coloured = bool(colours) and "ids" not in content
    return Classes(names, colours[: len(names)], numbers["ids"], numbers["ignore_id"], coloured)


def _labelmap(path: Path) -> Classes:
    """A line `name:r,g,b:parts:actions` per class; "ignored" and VOC's border are ignored."""
    names, colours, ids, ignored = list[str](), list[Colour](), list[int](), list[int]()
    for line in _lines(path):
        name, *fields = line.rsplit(":", 3) if line.count(":") >= 3 else line.split(":")
        stated = fields[0] if fields else ""
        found = re.fullmatch(r"\s*(\d+)\s*,\s*(\d+)\s*,\s*(\d+)\s*", stated)
        if line.startswith("#") and not found:  # a comment; but a name can begin with # as well
            continue
        if not found and stated.strip():
            raise ValueError(f"the line {line!r} has no colour r,g,b")
        index = len(names) + len(ignored)  # the id in grey masks
        colour = tuple(map(int, found.groups())) if found else voc_colour(index)
        if colour == BORDER or name.lower() == "ignored":
            ignored.append(index)
            continue
        names.append(name)
        colours.append(colour)
        ids.append(index)
    return Classes(names, colours, _unless_positions(ids), tuple(ignored), coloured=True)


def _label_colors(path: Path) -> Classes:
    lines = [line for line in _lines(path) if not line.startswith("# ")]
    found = [re.fullmatch(r"(?:(\d+)\s+(\d+)\s+(\d+)\s+)?(.+)", line) for line in lines]
    rows = [match.groups() for match in found if match]
    colours = [tuple(map(int, row[:3])) if row[0] else voc_colour(k) for k, row in enumerate(rows)]
    return Classes([row[3] for row in rows], colours, coloured=any(row[0] for row in rows))


def _dataset_meta(path: Path) -> Classes:
    """`label_map` of position and name with `segmentation_colors`, or only `labels`."""
    content = json.loads(_text(path))
    stated_ids = content.get("label_map", {})
    by_id = {int(k): str(name) for k, name in stated_ids.items()}
    if len(by_id) < len(stated_ids):
        raise ValueError("label_map has an id twice")
    by_id = by_id or dict(enumerate(map(str, content["labels"])))
    ids, stated = sorted(by_id), content.get("segmentation_colors") or ()
    colours = [tuple(map(int, stated[k])) if stated else voc_colour(k) for k in ids]
    names = [by_id[k] for k in ids]
    return Classes(names, colours, _unless_positions(ids), coloured=bool(stated))


def _class_names(path: Path) -> Classes:
    """A line per class, perhaps first `__ignore__`, which is 255 in the masks."""
    return Classes([line for line in _lines(path) if line != "__ignore__"], [])


def _roboflow(path: Path) -> Classes:
    """`Pixel Value, Class`, a row per class; the file of each split must agree."""
    rows = [row for row in csv.reader(_text(path).splitlines(), skipinitialspace=True) if row]
    rows = rows[1:] if not rows[0][0].strip().isdigit() else rows
    for other in sorted(path.parent.parent.glob("*/_classes.csv")):
        split = other.parent.name.lower() in ("train", "valid", "val", "test")
        if other != path and split and _text(other).split() != _text(path).split():
            raise ValueError(f"{other.parent.name}/_classes.csv has other classes")
    names = [", ".join(row[1:]).strip() for row in rows]
    return Classes(names, [], tuple(int(row[0]) for row in rows))


def _supervisely(path: Path) -> Classes:
    """Machine masks count the classes from 1; 0 has no label."""
    rows = json.loads(_text(path))["classes"]
    names = [str(row["title"]) for row in rows]
    colours = [tuple(bytes.fromhex(row["color"].removeprefix("#"))) for row in rows]
    ids = {name: k for k, name in enumerate(names, 1)}
    machine = path.with_name("obj_class_to_machine_color.json")
    if machine.is_file():
        ids |= {str(name): int(colour[0]) for name, colour in json.loads(_text(machine)).items()}
    unused = (name for name in ("background", "unlabeled", "no label") if name not in names)
    nothing = next(unused, "nothing")
    all_ids = (0, *(ids[name] for name in names))
    return Classes([nothing, *names], [(0, 0, 0), *colours], all_ids)


# file: its reader, what is expected in it; the first one found counts
CLASS_FILES: dict[str, tuple[Callable[[Path], Classes], str]] = {
    "classes.json": (_classes_json, '["name", ...] or {"names": [...], "ignore_id": 255}'),
    "labelmap.txt": (_labelmap, "a line name:r,g,b:: for each class"),
    "label_colors.txt": (_label_colors, "a line r g b name for each class"),
    "dataset_meta.json": (_dataset_meta, '"label_map": {"0": "name"}, "segmentation_colors"'),
    "class_names.txt": (_class_names, "a line for each class"),
    "labels.txt": (_class_names, "a line for each class"),
    "_classes.csv": (_roboflow, "Pixel Value, Class, then a row such as 0, background"),
    "meta.json": (_supervisely, '{"classes": [{"title": "name", "color": "#RRGGBB"}, ...]}'),
}
