"""The files that name a data set's classes, ours and those of labelling tools -> names, colours, ids. Folders are own.py's."""

import csv
import json
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ccnet_lab.data.catalog import IGNORE
from ccnet_lab.errors import DataError, near

Colour = tuple[int, ...]
BORDER = (224, 224, 192)  # PASCAL VOC's colour of what is ignored


@dataclass(frozen=True)
class Classes:
    """Names and colours of K classes, the ids that mean them in grey masks (their positions where empty), and the ids that mean nothing."""

    names: list[str]
    colours: list[Colour]
    ids: tuple[int, ...] = ()
    ignored: tuple[int, ...] = ()
    coloured: bool = False  # whether the file says the colours, so that masks may be of them; else only their ids count


def read_classes(path: Path) -> Classes:
    """The classes in one of the `CLASS_FILES`; `DataError` says what was expected."""
    reader, expected = CLASS_FILES[path.name]
    try:
        found = reader(path)
        if any(len(colour) != 3 or not set(colour) <= set(range(256)) for colour in found.colours):
            raise ValueError("a colour is three numbers from 0 to 255")
        if len(found.colours) != len(found.names):
            raise ValueError(f"there are {len(found.names)} names and {len(found.colours)} colours")
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from None
    except json.JSONDecodeError as error:
        raise DataError(f"{path} is no JSON ({error}); expected {expected}") from None
    except (
        ValueError,
        KeyError,
        TypeError,
        AttributeError,
        IndexError,
        RecursionError,
        OverflowError,
    ) as error:
        raise DataError(f"{path} cannot be read ({error!r}); expected {expected}") from None
    names, ids, ignored = found.names, found.ids, found.ignored
    if len(set(ids)) < len(ids) or not {*ids, *ignored} <= set(range(IGNORE + 1)):
        raise DataError(
            f"{path} has the ids {ids} and ignores {ignored}; expected each id once, all from 0 to {IGNORE}"
        )
    if (
        not names
        or len(set(names)) < len(names)
        or (ids and len(ids) != len(names))
        or len(names) > IGNORE
    ):
        expected = f"1 to {IGNORE} different names and as many ids, or no ids"
        raise DataError(f"{path} has {len(names)} names and {len(ids)} ids; expected {expected}")
    return found


def voc_colour(index: int) -> Colour:
    """PASCAL VOC's colour of a class index: the bits of the index spread over R, G, B."""
    return tuple(
        sum(((index >> (3 * bit + channel)) & 1) << (7 - bit) for bit in range(3))
        for channel in range(3)
    )


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8-sig")


def _lines(path: Path) -> list[str]:
    return [line.strip() for line in _text(path).splitlines() if line.strip()]


def _coloured(names: list[str]) -> list[Colour]:
    return [voc_colour(k) for k in range(len(names))]


def _classes_json(path: Path) -> Classes:
    content = json.loads(_text(path))
    content = {"names": content} if isinstance(content, list) else content
    names, known = content["names"], ("names", "palette", "ids", "ignore_id")
    if not isinstance(names, list) or not all(isinstance(name, str) and name for name in names):
        raise ValueError("names are not a list of words in quotes")
    if strange := [key for key in content if key not in known]:
        raise ValueError(f"it has {strange[0]!r}; {near(strange[0], known)}")
    for key in ("ids", "ignore_id"):
        numbers = content.get(key, ())
        for number in numbers if isinstance(numbers, list) else [numbers] if key in content else ():
            if type(number) is not int:
                raise ValueError(f"{key} has {number!r}, which is no whole number")
    stated = content.get("palette")
    colours: Iterable[Any] = stated or _coloured(names)
    ignored = content.get("ignore_id", ())
    ignored = tuple(map(int, ignored)) if isinstance(ignored, list | tuple) else (int(ignored),)
    return Classes(
        names,
        [tuple(map(int, colour)) for colour in colours][: len(names)],
        tuple(map(int, content.get("ids", ()))),
        ignored,
        bool(stated) and "ids" not in content,
    )


def _labelmap(path: Path) -> Classes:
    """CVAT's and Datumaro's: a line `name:r,g,b:parts:actions` per class; what is called "ignored", or has VOC's border colour, is none."""
    names, colours, ids, ignored = list[str](), list[Colour](), list[int](), list[int]()
    for line in _lines(path):
        fields = line.rsplit(":", 3) if line.count(":") >= 3 else line.split(":")
        found = re.fullmatch(
            r"\s*(\d+)\s*,\s*(\d+)\s*,\s*(\d+)\s*", fields[1] if len(fields) > 1 else ""
        )
        if line.startswith("#") and not found:  # a name can begin with it
            continue
        if not found and len(fields) > 1 and fields[1].strip():
            raise ValueError(f"the line {line!r} has no colour r,g,b")
        index = len(names) + len(ignored)  # in grey masks
        colour = tuple(map(int, found.groups())) if found else voc_colour(index)
        if colour != BORDER and fields[0].lower() != "ignored":
            names.append(fields[0])
            colours.append(colour)
            ids.append(index)
        else:
            ignored.append(index)
    return Classes(
        names,
        colours,
        tuple(ids) if ids != [*range(len(ids))] else (),
        tuple(ignored),
        coloured=True,
    )


def _label_colors(path: Path) -> Classes:
    """Datumaro's and CVAT's of the layouts CamVid, KITTI and Cityscapes: a line `r g b name` per class, or only `name`."""
    found = [
        re.fullmatch(r"(?:(\d+)\s+(\d+)\s+(\d+)\s+)?(.+)", line)
        for line in _lines(path)
        if not line.startswith("# ")
    ]
    rows = [match.groups() for match in found if match]
    coloured = any(row[0] for row in rows)
    colours = [tuple(map(int, row[:3])) if row[0] else voc_colour(k) for k, row in enumerate(rows)]
    return Classes([row[3] for row in rows], colours, coloured=coloured)


def _dataset_meta(path: Path) -> Classes:
    """Datumaro's: `label_map` of position and name with `segmentation_colors`, or only `labels`."""
    content = json.loads(_text(path))
    by_id = {int(k): str(name) for k, name in content.get("label_map", {}).items()} or dict(
        enumerate(map(str, content["labels"]))
    )
    ids = sorted(by_id)
    stated = content.get("segmentation_colors") or ()
    colours = [tuple(map(int, stated[k])) if stated else voc_colour(k) for k in ids]
    return Classes(
        [by_id[k] for k in ids],
        colours,
        () if ids == [*range(len(ids))] else tuple(ids),
        coloured=bool(stated),
    )


def _class_names(path: Path) -> Classes:
    """Labelme's: a line per class, at first perhaps `__ignore__`, which is 255 in the masks."""
    names = [line for line in _lines(path) if line != "__ignore__"]
    return Classes(names, _coloured(names))


def _roboflow(path: Path) -> Classes:
    """Roboflow's: `Pixel Value, Class`, a row per class."""
    rows = [row for row in csv.reader(_text(path).splitlines(), skipinitialspace=True) if row]
    rows = rows[1:] if not rows[0][0].strip().isdigit() else rows
    names = [", ".join(row[1:]).strip() for row in rows]
    for other in sorted(
        path.parent.parent.glob("*/_classes.csv")
    ):  # each of train/, valid/, test/ has one
        if (
            other != path
            and other.parent.name.lower() in ("train", "valid", "val", "test")
            and _text(other).split() != _text(path).split()
        ):
            raise ValueError(f"{other.parent.name}/_classes.csv has other classes")
    return Classes(names, _coloured(names), tuple(int(row[0]) for row in rows))


def _supervisely(path: Path) -> Classes:
    """Supervisely's: `{"classes": [{"title": ..., "color": "#RRGGBB"}]}`; machine masks count them from 1, 0 has no label."""
    titles = [
        (str(row["title"]), tuple(bytes.fromhex(row["color"].removeprefix("#"))))
        for row in json.loads(_text(path))["classes"]
    ]
    ids = {title: k for k, (title, _) in enumerate(titles, 1)}
    machine = path.with_name("obj_class_to_machine_color.json")
    if machine.is_file():
        ids |= {str(title): int(colour[0]) for title, colour in json.loads(_text(machine)).items()}
    names = [title for title, _ in titles]
    nothing = next(name for name in ("background", "unlabeled", "no label") if name not in names)
    return Classes(
        [nothing, *names],
        [(0, 0, 0), *(colour for _, colour in titles)],
        (0, *(ids[name] for name in names)),
    )


# name of the file: its reader, what is expected in it; the first one found counts
CLASS_FILES: dict[str, tuple[Callable[[Path], Classes], str]] = {
    "classes.json": (_classes_json, '["name", ...] or {"names": [...], "ignore_id": 255}'),
    "labelmap.txt": (_labelmap, "a line name:r,g,b:: for each class"),
    "label_colors.txt": (_label_colors, "a line r g b name for each class"),
    "dataset_meta.json": (
        _dataset_meta,
        '{"label_map": {"0": "name", ...}, "segmentation_colors": [[r, g, b], ...]}',
    ),
    "class_names.txt": (_class_names, "a line for each class"),
    "labels.txt": (_class_names, "a line for each class"),
    "_classes.csv": (
        _roboflow,
        "Pixel Value, Class, then a row such as 0, background for each class",
    ),
    "meta.json": (_supervisely, '{"classes": [{"title": "name", "color": "#RRGGBB"}, ...]}'),
}
