"""A data set's doctor: reads every pair of every split, reports counts, faults and pixels per class. Reading a pair is in datasets.py."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from ccnet_lab.data.accounts import account, own_splits
from ccnet_lab.data.catalog import Dataset
from ccnet_lab.data.datasets import Split, locate, open_split
from ccnet_lab.data.learnable import contradiction, never_fault, one_class_fault, pixels_of
from ccnet_lab.downloads import Progress
from ccnet_lab.draw.lettering import as_it_is
from ccnet_lab.errors import DataError, LabError

MOST = 20  # faults written out; the others are counted


@dataclass(frozen=True)
class SplitReport:
    """What was found in one split."""

    name: str  # of the split
    images: int  # how many pairs it names
    expected: int  # how many the published data set has; 0 where that isn't known
    pixels: NDArray[
        np.int64
    ]  # (K + 1,) of each class in the pairs that could be read, and last the unlabelled ones
    faults: tuple[
        str, ...
    ]  # a line for each pair that can't be trained on, with file and remedy, and for what is wrong with all together

    @property
    def shares(self) -> NDArray[np.float64]:
        """(K,) each class's share of the labelled pixels, in %; zeros where nothing is labelled."""
        return 100.0 * self.pixels[:-1] / max(1, int(self.pixels[:-1].sum()))

    @property
    def unlabelled(self) -> float:
        """The share of pixels that count for nothing, in %."""
        return 100.0 * float(self.pixels[-1]) / max(1, int(self.pixels.sum()))


@dataclass(frozen=True)
class Report:
    """What was found in a data set: its splits, the one trained on first."""

    dataset: Dataset
    folder: Path
    splits: tuple[SplitReport, ...]
    notes: tuple[str, ...] = ()  # of files that are not used, and the like

    @property
    def fine(self) -> bool:
        """Whether every pair can be trained on; a smaller set or an absent class is no fault."""
        return not any(split.faults for split in self.splits)

    @property
    def seen(self) -> NDArray[np.intp]:
        """The classes that occur in some split, the most frequent of the first one first."""
        shares = np.stack([split.shares for split in self.splits])
        order: NDArray[np.intp] = np.lexsort((-shares.max(0), -shares[0]))
        return np.extract(shares.max(0)[order] > 0, order)

    @property
    def warnings(self) -> tuple[str, ...]:
        """What is no fault and yet worth knowing."""
        found = [doubt] if (doubt := contradiction(self.dataset)) else []
        for split in self.splits:
            if split.expected and split.images != split.expected:
                count = f"images in {split.name}: {split.images:,}, in the published data set: {split.expected:,}"
                found.append(f"{count}; scores can't be compared with published ones")
            if never := never_fault(self.dataset, split.name, split.pixels):
                found.append(never)
            if split.name != self.dataset.train_split and np.count_nonzero(split.pixels[:-1]) == 1:
                found.append(
                    f"{split.name} has pixels of a single class: a score over it tells nothing apart"
                )
        return (*found, *self.notes)


def examine(
    dataset: Dataset,
    root: str | Path,
    *,
    workers: int | None = None,
    progress: Progress | None = None,
) -> Report:
    """Read every pair of the splits that are trained and scored on, and of a data set of one's own its test split.

    Args:
        dataset: a row of the catalog, or `open_own(folder)`.
        root: the data root; ignored for a data set of one's own.
        workers: threads; decoding is done outside Python's lock. None for as many as the machine allows.
        progress: called with (pairs read, pairs in all).

    Raises:
        DataError: there is no such data set below the root, or none of its splits can be opened.
    """
    opened = list(_opened(dataset, root))
    total, done, reports = sum(len(split) for split, _, _ in opened), 0, []
    if not total:
        raise DataError(opened[0][2])
    accounts = account(dataset, [split for split, _, _ in opened])
    with ThreadPoolExecutor(workers) as pool:
        for split, expected, fault in opened:
            pixels = np.zeros(dataset.num_classes + 1, np.int64)
            faults = [*([fault] if fault else []), *accounts.faults.get(split.name, ())]
            for found in pool.map(
                lambda index, split=split: _count(split, index), range(len(split))
            ):
                if isinstance(found, str):
                    faults.append(found)
                else:
                    pixels += found
                done += 1
                if progress:
                    progress(done, total)
            if split.name == dataset.train_split and (
                fault := one_class_fault(dataset, split.name, pixels)
            ):
                faults.append(fault)
            reports.append(SplitReport(split.name, len(split), expected, pixels, tuple(faults)))
    return Report(dataset, locate(dataset, root), tuple(reports), accounts.notes)


def report_text(report: Report, width: int = 30) -> str:
    """The report for a terminal: counts, faults, warnings, and for each class a bar of the first split and the shares of all."""
    lines = [
        f"{report.dataset.title} at {report.folder}",
        "",
        f"{'split':12}{'images':>8}{'published':>11}{'faults':>8}{'unlabelled':>12}",
    ]
    for split in report.splits:
        published = f"{split.expected:,}" if split.expected else "-"
        lines.append(
            f"{split.name:12}{split.images:8,}{published:>11}{len(split.faults):8,}{split.unlabelled:10.1f} %"
        )
    for split in report.splits:
        if split.faults:
            lines += [
                "",
                f"{_faults(len(split.faults))} in {split.name}",
                *(f"  {fault}" for fault in split.faults[:MOST]),
            ]
            lines += (
                [f"  and {len(split.faults) - MOST:,} more"] if len(split.faults) > MOST else []
            )
    lines += (
        ["", *(f"warning: {warning}" for warning in report.warnings)] if report.warnings else []
    )
    shown = [split for split in report.splits if split.pixels[:-1].any()]
    if shown:
        names, first = report.dataset.class_names, shown[0].shares
        longest = max(map(len, names))
        lines += [
            "",
            f"{'% of the labelled pixels':{longest + width + 2}}"
            + "".join(f"{split.name:>12}" for split in shown),
        ]
        for k in report.seen:
            bar = "█" * round(width * first[k] / first.max()) or ("▏" if first[k] else "")
            lines.append(
                f"{names[k]:{longest}}  {bar:{width}}"
                + "".join(f"{_percent(split.shares[k]):>12}" for split in shown)
            )
    lines += [
        "",
        "every pair can be read and fits"
        if report.fine
        else f"{_faults(sum(len(s.faults) for s in report.splits))} in all",
    ]
    return "\n".join(lines)


def histogram_figure(report: Report) -> Figure:
    """Pixels per class of the first split as bars in the data set's colours, most frequent first; the other splits as marks on them."""
    splits = [split for split in report.splits if split.pixels[:-1].any()]
    if not splits:
        raise DataError(f"{report.dataset.title} has no labelled pixels to draw; see its faults")
    columns = -(-len(report.seen) // 50)
    rows = -(-len(report.seen) // columns)
    figure = Figure(figsize=(6.2 * columns + 0.6, 0.235 * rows + 1.5), layout="constrained")
    shares = np.stack([split.shares for split in splits])
    low, high = max(1e-3, 10.0 ** np.floor(np.log10(shares[shares > 0].min()))), float(shares.max())
    for axis, classes in zip(
        figure.subplots(1, columns, squeeze=False)[0],
        np.array_split(report.seen, columns),
        strict=True,
    ):
        axis.set(xscale="log", xlim=(low, 1.3 * high))
        _draw(axis, report.dataset, splits, classes, rows)
    title = " · ".join(
        f"{split.name} {split.images:,} images, {split.unlabelled:.1f} % unlabelled"
        for split in splits
    )
    figure.suptitle(f"{report.dataset.title}: pixels per class\n{title}", fontsize=10, **as_it_is())
    return figure


def _draw(
    axis: Axes, dataset: Dataset, splits: list[SplitReport], classes: NDArray[np.intp], rows: int
) -> None:
    names, shares = (
        [dataset.class_names[k] for k in classes],
        np.stack([split.shares[classes] for split in splits]),
    )
    colours = ["#{:02x}{:02x}{:02x}".format(*dataset.palette[k]) for k in classes]
    axis.barh(
        range(len(names)), shares[0], color=colours, edgecolor="0.45", linewidth=0.5, height=0.78
    )
    keys = [f"bars {splits[0].name}"]
    for split, values, mark, key in zip(splits[1:], shares[1:], "Do", "◇○", strict=False):
        axis.plot(
            values, range(len(names)), mark, color="white", markeredgecolor="black", markersize=4
        )
        keys.append(f"{key} {split.name}")
    for column, split in enumerate(splits):  # the numbers stand in a table on the right
        place: dict[str, Any] = dict(
            transform=axis.get_yaxis_transform(),
            ha="right",
            va="center",
            fontsize=7.5,
            color="0.25",
        )
        for row, text in enumerate([split.name, *map(_percent, shares[column])], -1):
            axis.text(1.11 + 0.13 * column, row, text, **place)
    axis.set_yticks(range(len(names)), names, fontsize=8, **as_it_is())
    axis.set_ylim(rows - 0.4, -0.6)
    axis.set_xlabel(f"% of the labelled pixels, logarithmic: {', '.join(keys)}", fontsize=8)
    axis.xaxis.set_major_formatter("{x:g}")
    axis.tick_params(axis="x", labelsize=8)
    axis.tick_params(axis="y", length=0)
    axis.spines[["top", "right"]].set_visible(False)


def _count(split: Split, index: int) -> NDArray[np.int64] | str:
    """(K + 1,) pixels of each class and unlabelled ones of a pair, or what is wrong with it."""
    try:
        labels = split.read(index).labels
    except LabError as error:
        return str(error)
    except (
        Exception
    ) as error:  # a damaged file can make a decoder raise anything; one must not hide the others
        return f"{split.pairs[index].image} or its mask {split.pairs[index].mask} cannot be read: {error!r}"
    return pixels_of(labels, split.dataset)


def _opened(dataset: Dataset, root: str | Path) -> Iterator[tuple[Split, int, str]]:
    """Each split, its published size and ""; in place of one that can't be opened an empty one, and why."""
    sizes = {dataset.train_split: dataset.train_images, dataset.val_split: dataset.val_images}
    with suppress(DataError):  # which opening a split tells
        sizes |= (
            dict.fromkeys(own_splits(Path(dataset.root)) - sizes.keys(), 0)
            if dataset.classes
            else {}
        )
    for name, expected in sizes.items():
        try:
            yield open_split(dataset, root, name), expected, ""
        except DataError as error:
            yield Split(dataset, name, ()), expected, str(error)


def _percent(share: float) -> str:
    if 0 < share < 1e-3:
        return "<0.001"
    return "-" if not share else f"{share:.1f}" if share >= 1 else f"{share:.2g}"


def _faults(count: int) -> str:
    return f"{count:,} fault" + "s" * (count != 1)
