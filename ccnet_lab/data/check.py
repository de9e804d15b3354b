"""The data set doctor: reads every pair, accounts for every file, and says whether one can train.

Pairs are read in datasets.py; which file belongs to which split is decided in own.py.
"""

from collections import defaultdict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import cache, partial
from itertools import combinations, count
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ccnet_lab.data.catalog import IGNORE, Dataset
from ccnet_lab.data.datasets import Split, locate, open_split
from ccnet_lab.data.masks import read_labels
from ccnet_lab.data.own import SPLITS, Splits, divide
from ccnet_lab.downloads import Progress
from ccnet_lab.errors import DataError, LabError, printable
from ccnet_lab.files import sha256

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BAR = 30  # characters of the longest bar
MOST = 20  # faults written out; the others are counted
Counts = NDArray[np.int64]  # (K + 1,) pixels of each class, and last the ignored ones


@dataclass(frozen=True)
class SplitReport:
    """What was found in one split."""

    name: str
    images: int  # pairs the split names
    expected: int  # pairs in the published data set; 0 where that isn't known
    pixels: Counts  # in the pairs that could be read
    faults: tuple[str, ...]  # sentences with file and remedy

    @property
    def shares(self) -> NDArray[np.float64]:
        """(K,) each class's share of the labelled pixels, in %; zeros if nothing is labelled."""
        return 100.0 * self.pixels[:-1] / max(1, int(self.pixels[:-1].sum()))

    @property
    def unlabelled(self) -> float:
        """The share of ignored pixels, in %."""
        return 100.0 * float(self.pixels[-1]) / max(1, int(self.pixels.sum()))


@dataclass(frozen=True)
class Report:
    """What was found in a data set: its splits, the training split first."""

    dataset: Dataset
    folder: Path
    splits: tuple[SplitReport, ...]
    notes: tuple[str, ...] = ()  # about unused files and the like

    @property
    def fine(self) -> bool:
        """Whether every pair can be trained on; a smaller set or an absent class is no fault."""
        return not any(split.faults for split in self.splits)

    @property
    def seen(self) -> NDArray[np.intp]:
        """The classes that occur in some split, by their share of the first, then of any."""
        shares = np.stack([split.shares for split in self.splits])
        order: NDArray[np.intp] = np.lexsort((-shares.max(0), -shares[0]))
        return np.extract(shares.max(0)[order] > 0, order)

    @property
    def warnings(self) -> tuple[str, ...]:
        """What is no fault but worth knowing."""
        found = [_contradiction(self.dataset)]
        for split in self.splits:
            if split.expected and split.images != split.expected:
                counts = f"{split.images:,}, in the published data set: {split.expected:,}"
                why = "scores can't be compared with published ones"
                found.append(f"images in {split.name}: {counts}; {why}")
            found.append(_never(self.dataset, split.name, split.pixels))
            if split.name != self.dataset.train_split and np.count_nonzero(split.pixels[:-1]) == 1:
                why = "a score over it tells nothing apart"
                found.append(f"{split.name} has pixels of a single class: {why}")
        return (*filter(None, found), *self.notes)


def examine(dataset: Dataset, root: str | Path, *, progress: Progress | None = None) -> Report:
    """Read every pair of the training and validation splits, and of your own data every split.

    Args:
        dataset: a row of the catalog, or `open_own(folder)`.
        root: the data root; ignored for your own data.
        progress: called with (pairs read, pairs in all).

    Raises:
        DataError: there is no such data set below the root, or none of its splits can be opened.
    """
    own, splits, faults = None, list[Split](), defaultdict[str, list[str]](list)
    if dataset.classes:
        with suppress(DataError):  # which opening a split reports
            own = divide(Path(dataset.root))
    sizes = dict.fromkeys(own.pairs, 0) if own else {}
    sizes |= {dataset.train_split: dataset.train_images, dataset.val_split: dataset.val_images}
    for name in sizes:
        try:
            splits.append(open_split(dataset, root, name))
        except DataError as error:
            splits.append(Split(dataset, name, ()))
            faults[name].append(str(error))
    total, done, reports = sum(map(len, splits)), count(1), []
    if not total:
        raise DataError(faults[splits[0].name][0])
    notes = _in_two_splits(splits, faults) + (_unused(own, splits, faults) if own else [])
    with ThreadPoolExecutor() as pool:
        for split in splits:
            pixels = np.zeros(dataset.num_classes + 1, np.int64)
            for result in pool.map(partial(_count, split), range(len(split))):
                if isinstance(result, str):
                    faults[split.name].append(result)
                else:
                    pixels += result
                if progress:
                    progress(next(done), total)
            if split.name == dataset.train_split:
                faults[split.name] += filter(None, [_one_class(dataset, split.name, pixels)])
            found = (sizes[split.name], pixels, tuple(faults[split.name]))
            reports.append(SplitReport(split.name, len(split), *found))
    return Report(dataset, locate(dataset, root), tuple(reports), tuple(notes))


def _count(split: Split, index: int) -> Counts | str:
    """The pixels of each class in a pair, or what is wrong with it."""
    try:
        return _pixels(split.read(index).labels, split.dataset)
    except LabError as error:
        return str(error)
    except Exception as error:  # of whatever kind a decoder raises: it must not hide other pairs
        pair = split.pairs[index]
        return f"{pair.image} or its mask {pair.mask} cannot be read: {error!r}"


def _pixels(labels: NDArray[np.uint8], dataset: Dataset) -> Counts:
    counts = np.bincount(labels.ravel(), minlength=IGNORE + 1)
    return np.append(counts[: dataset.num_classes], counts[IGNORE])


# The report


def report_text(report: Report) -> str:
    """The report for a terminal: counts, faults, warnings, and a bar for each class."""
    lines = [f"{report.dataset.title} at {report.folder}", ""]
    lines += [f"{'split':12}{'images':>8}{'published':>11}{'faults':>8}{'unlabelled':>12}"]
    for split in report.splits:
        published = f"{split.expected:,}" if split.expected else "-"
        counts = f"{split.images:8,}{published:>11}{len(split.faults):8,}"
        lines.append(f"{split.name:12}{counts}{split.unlabelled:10.1f} %")
    for split in report.splits:
        if split.faults:
            lines += ["", f"{_faults(len(split.faults))} in {split.name}"]
            lines += [f"  {fault}" for fault in split.faults[:MOST]]
        if len(split.faults) > MOST:
            lines += [f"  and {len(split.faults) - MOST:,} more"]
    if report.warnings:
        lines += ["", *(f"warning: {warning}" for warning in report.warnings)]
    shown = [split for split in report.splits if split.pixels[:-1].any()]
    if shown:
        names, first = report.dataset.class_names, shown[0].shares
        longest = max(map(len, names))
        columns = "".join(f"{split.name:>12}" for split in shown)
        lines += ["", f"{'% of the labelled pixels':{longest + BAR + 2}}{columns}"]
        for k in report.seen:
            bar = "█" * round(BAR * first[k] / first.max()) or ("▏" if first[k] else "")
            columns = "".join(f"{_percent(split.shares[k]):>12}" for split in shown)
            lines.append(f"{names[k]:{longest}}  {bar:{BAR}}{columns}")
    in_all = f"{_faults(sum(len(split.faults) for split in report.splits))} in all"
    lines += ["", "every pair can be read and fits" if report.fine else in_all]
    return printable("\n".join(lines))


def histogram_figure(report: Report) -> "Figure":
    """Pixels per class of every split, the classes that are most frequent in the first on top."""
    from ccnet_lab.draw.figures import class_histogram

    splits = [split for split in report.splits if split.pixels[:-1].any()]
    if not splits:
        raise DataError(f"{report.dataset.title} has no labelled pixels to draw; see its faults")
    about = [f"{s.name} {s.images:,} images, {s.unlabelled:.1f} % unlabelled" for s in splits]
    return class_histogram(
        [report.dataset.class_names[k] for k in report.seen],
        [report.dataset.palette[k] for k in report.seen],
        {split.name: split.shares[report.seen] for split in splits},
        f"{report.dataset.title}: pixels per class\n{' · '.join(about)}",
        _percent,
    )


def _percent(share: float) -> str:
    if 0 < share < 1e-3:
        return "<0.001"
    return "-" if not share else f"{share:.1f}" if share >= 1 else f"{share:.2g}"


def _faults(number: int) -> str:
    return f"{number:,} fault" + "s" * (number != 1)


# Every file accounted for


def _in_two_splits(splits: Sequence[Split], faults: dict[str, list[str]]) -> list[str]:
    """Add a fault to a split that shares pictures with another; notes about equal content."""
    notes = []
    for first, second in combinations(splits, 2):
        if shared := overlap(first, second):
            faults[second.name].append(shared)
        images, others = ({pair.image for pair in split.pairs} for split in (first, second))
        if same := _same_content(images - others, others - images):
            what = f"{first.name} and {second.name} have pictures of the same content"
            why = "a score that counts what was trained on is too high"
            notes.append(f"{what}: {_few(same)}; {why}")
    return notes


def _unused(own: Splits, splits: Sequence[Split], faults: dict[str, list[str]]) -> list[str]:
    """Notes about the files of your own data that are in no pair; faults for those named twice."""
    for name, repeated in own.repeated.items():
        if repeated:
            what = f"the list of {name} names {_few(list(dict.fromkeys(repeated)))}"
            faults[name].append(f"{what} more than once; it is used once")
    faults[splits[0].name] += own.files.doubles
    folder = own.layout.folder
    read = {folder / "cache", *(path for part in own.layout.parts for path in part[:2])}
    lists = [
        path
        for path in sorted(folder.rglob("*"))
        if path.suffix in (".txt", ".csv", ".lst")
        and path.stem.lower() in SPLITS
        and not (path.suffix == ".txt" and path.parent == own.layout.lists)
        and not read & {*path.parents}
    ]
    used = {pair.image for pairs in own.pairs.values() for pair in pairs} | {*own.left_out}
    unused = {
        "lists of splits that are not read": lists,
        "masks without a picture, not used": own.files.alone,
        "files without a picture's ending, not used": own.files.strange,
        "pictures without a mask, left out": own.left_out,
        "pictures in no split": [i.image for i in own.files.items if i.image not in used],
    }
    below = {what: [p.relative_to(folder).as_posix() for p in ps] for what, ps in unused.items()}
    return [f"{what}: {_few(names)}" for what, names in below.items() if names]


def overlap(first: Split, second: Split) -> str:
    """Which pictures two splits have in common; "" if none."""
    both = sorted({pair.image for pair in first.pairs} & {pair.image for pair in second.pairs})
    names = _few([path.name for path in both])
    why = "a score would count what was trained on, so name each in one of them"
    found = f"{first.name} and {second.name} have pictures in common: {names}; {why}"
    return found if both else ""


def _same_content(first: set[Path], second: set[Path]) -> list[str]:
    """Pictures of the first with the bytes of one of the second; reads only those of one size."""
    by_size, digest, found = defaultdict[int, list[Path]](list), cache(sha256), []
    for path in sorted(second):
        with suppress(OSError):
            by_size[path.stat().st_size].append(path)
    for path in sorted(first):
        with suppress(OSError):
            others = by_size.get(path.stat().st_size, [])
            if same := next((other for other in others if digest(other) == digest(path)), None):
                found.append(f"{path.name} = {same.name}")
    return found


def _few(names: Sequence[str], most: int = 5, others: str = "more") -> str:
    rest = f" and {len(names) - most:,} {others}" if len(names) > most else ""
    return ", ".join(names[:most]) + rest


# Whether anything can be learnt


def check_learnable(split: Split, say: Callable[[str], None] | None = None) -> None:
    """Raise `DataError` if the masks of a split of your own data hold fewer than two classes.

    Masks are read until a second class is found; with `say` until every class was seen, and it
    takes a warning if one never is, or is ignored at once. Those that cannot be read are skipped:
    `Split.read` reports them.
    """
    dataset = split.dataset
    pixels = np.zeros(dataset.num_classes + 1, np.int64)
    enough = max(2, dataset.num_classes) if say and dataset.classes else 2
    for pair in split.pairs:
        with suppress(DataError):
            pixels += _pixels(read_labels(pair.mask, dataset), dataset)
        if np.count_nonzero(pixels[:-1]) >= enough:
            break
    if fault := _one_class(dataset, split.name, pixels):
        raise DataError(fault)
    if say and dataset.classes:
        for doubt in filter(None, (_contradiction(dataset), _never(dataset, split.name, pixels))):
            say(f"warning: {doubt}")


def _contradiction(dataset: Dataset) -> str:
    """What to do about ids that are a class and ignored at once; "" if there are none."""
    names = dict(zip(dataset.ids, dataset.class_names, strict=True))
    both = [f"{i} ({names[i]})" for i in sorted({*names} & {*dataset.ignored_ids})]
    remedy = "the class counts, so take the id out of ignore_id or the class out of names"
    what = f"id {', '.join(both)} of {dataset.title}: a class and ignored at once"
    return f"{what}; {remedy}" if both else ""


def _never(dataset: Dataset, split: str, pixels: Counts) -> str:
    """Which classes have no pixel in a split; "" if all have some, or nothing was counted."""
    never = [dataset.class_names[k] for k in np.flatnonzero(pixels[:-1] == 0)]
    if not never or not pixels.any():
        return ""
    remedy = _ids_remedy(dataset, pixels) if len(never) == 1 else ""
    what = f"{split} has no pixel of {_few(never, 8, 'other classes')}"
    return f"{what}; {remedy}" if remedy else what


def _one_class(dataset: Dataset, split: str, pixels: Counts) -> str:
    """Why nothing can be learnt from a split of your own data, and the cure; "" if it can.

    The most common cause is a mask drawn in black and white, 0 and 255, where 255 is ignored.
    """
    seen = [dataset.class_names[k] for k in np.flatnonzero(pixels[:-1])]
    if not dataset.classes or len(seen) > 1 or not pixels.any():
        return ""
    what = f"every labelled pixel is {seen[0]!r}" if seen else "no pixel is labelled"
    remedy = _ids_remedy(dataset, pixels) or "look at the masks and at the ids in classes.json"
    return f"nothing can be learnt from {split} of {dataset.title}: {what}; {remedy}"


def _ids_remedy(dataset: Dataset, pixels: Counts) -> str:
    """What to write into `classes.json` if id 255 is meant as a class; "" if it can't be."""
    known = IGNORE in dataset.label_ids or {*dataset.ignored_ids} - {IGNORE}
    if not dataset.classes or known or not pixels[-1]:
        return ""
    ids = [dataset.ids[k] for k in np.flatnonzero(pixels[:-1]).tolist()] or [0]
    names = "" if dataset.num_classes == len(ids) + 1 else f" and {len(ids) + 1} names"
    share = f"{100 * pixels[-1] / pixels.sum():.1f} % of the pixels are ignored"
    why = f"{share}, as the id {IGNORE} is unless a class has it"
    return f'{why}: if it stands for one, add "ids": {[*ids, IGNORE]}{names} to classes.json'
