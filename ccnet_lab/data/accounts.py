"""Every file of a data set accounted for: what is used, what isn't and why, and what two splits share. Said by doctor.py."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from contextlib import suppress
from itertools import combinations
from pathlib import Path
from typing import NamedTuple

from ccnet_lab.data.catalog import Dataset
from ccnet_lab.data.datasets import Pair, Split
from ccnet_lab.data.learnable import overlap
from ccnet_lab.data.own import SPLITS, divide, layout_of
from ccnet_lab.errors import DataError
from ccnet_lab.files import sha256

MOST = 5  # names written out; the others are counted


class Account(NamedTuple):
    """What is wrong with each split as a whole, and what is worth knowing of the files of all."""

    faults: dict[str, list[str]]
    notes: tuple[str, ...]


def own_splits(folder: Path) -> set[str]:
    """The splits that a data set of one's own has."""
    return set(divide(layout_of(folder)).pairs)


def account(dataset: Dataset, splits: Sequence[Split]) -> Account:
    """Names that are listed twice or in two splits, pictures of the same content in two, and files of one's own that are not used."""
    faults: dict[str, list[str]] = defaultdict(list)
    notes = []
    for first, second in combinations(splits, 2):
        if shared := overlap(first, second):
            faults[second.name].append(shared)
        ours, theirs = ({pair.image for pair in split.pairs} for split in (first, second))
        if same := _of_one_content(ours - theirs, theirs - ours):
            words = (
                f"{first.name} and {second.name} have pictures of the same content: {_few(same)}"
            )
            notes.append(f"{words}; a score that counts what was trained on is too high")
    if not dataset.classes:
        return Account(faults, tuple(notes))
    with suppress(DataError):  # which opening a split tells
        found = divide(layout := layout_of(Path(dataset.root)))
        files, folder = found.files, Path(dataset.root)
        for split, names in found.repeated.items():
            if names:
                faults[split].append(
                    f"the list of {split} names {_few(list(dict.fromkeys(names)))} more than once; it is used once"
                )
        faults[splits[0].name] += files.doubles
        lists = [
            path
            for path in sorted(folder.glob("*")) + sorted(folder.glob("*/**/*"))
            if path.suffix in (".txt", ".csv", ".lst")
        ]
        read = [
            layout.lists,
            folder / "cache",
            *(part.images for part in layout.parts),
            *(part.masks for part in layout.parts),
        ]
        rest = {
            "lists of splits that are not read": [
                path
                for path in lists
                if path.stem.lower() in SPLITS
                and not (path.suffix == ".txt" and path.parent == layout.lists)
                and not {*path.parents} & {*read[1:]}
            ],
            "masks without a picture, not used": files.alone,
            "files without a picture's ending, not used": files.strange,
            "pictures without a mask, left out": found.left_out,
            "pictures in no split": _unused(
                found.pairs,
                splits,
                (item.image for item in files.items if item.image not in found.left_out),
            ),
        }
        for words, paths in rest.items():
            if paths:
                notes.append(f"{words}: {_few([_below(path, folder) for path in paths])}")
    return Account(faults, tuple(notes))


def _unused(
    pairs: dict[str, list[Pair]], splits: Sequence[Split], images: Iterable[Path]
) -> list[Path]:
    used = {pair.image for some in pairs.values() for pair in some} | {
        pair.image for split in splits for pair in split.pairs
    }
    return [image for image in images if image not in used]


def _of_one_content(ours: set[Path], theirs: set[Path]) -> list[str]:
    """Pairs of pictures, one of each, with the same bytes; only what has the same size is read."""
    by_size: dict[int, list[Path]] = defaultdict(list)
    for path in sorted(theirs):
        with suppress(OSError):
            by_size[path.stat().st_size].append(path)
    sums: dict[Path, str] = {}
    found = []
    for path in sorted(ours):
        with suppress(OSError):
            for other in by_size.get(path.stat().st_size, ()):
                for each in (path, other):
                    sums[each] = sums.get(each) or sha256(each)
                if sums[path] == sums[other]:
                    found.append(f"{path.name} = {other.name}")
                    break
    return found


def _below(path: Path, folder: Path) -> str:
    return path.relative_to(folder).as_posix() if path.is_relative_to(folder) else str(path)


def _few(names: list[str]) -> str:
    return ", ".join(names[:MOST]) + (
        f" and {len(names) - MOST:,} more" if len(names) > MOST else ""
    )
