"""The board: published, measured and missing scores of each configuration, in percent.

Runs are read by runs.py, others' numbers stand in evaluation/published.py; draw/charts.py draws.
"""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ccnet_lab import store
from ccnet_lab.configs import CONFIGS, MINIATURES, SLIM, TINY, Config
from ccnet_lab.data.catalog import get_dataset
from ccnet_lab.errors import LabError, RunError, near, printable
from ccnet_lab.evaluation.metrics import Confusions, load_confusions, paired_intervals, scores
from ccnet_lab.evaluation.protocol import (
    Protocol,
    check_comparable,
    deviations,
    differences,
    published_protocol,
    unlike,
)
from ccnet_lab.evaluation.published import SPREAD, beside_published, tie_or
from ccnet_lab.model.costs import Cost, Measured, cost, measured_costs
from ccnet_lab.reports.logs import read_log
from ccnet_lab.runs import Run

Floats = NDArray[np.float64]
Folders = str | Path | Iterable[str | Path]
# Folders of runs, or of folders of runs, such as runs/published and runs/miniature/seed0.
RUNS = ("runs", "results/runs", "results/miniature")
LEVELS = 2  # folders between one of those and a run
MINIATURE = tuple(dict.fromkeys(config.dataset for config in MINIATURES.values()))  # data sets


class Missing(NamedTuple):
    """Something the board lacks, and the command that brings it."""

    what: str
    command: str


@dataclass(frozen=True)
class Row:
    """One configuration, with a run of it where there is one; mIoU and IoU in %.

    Three kinds are never mixed: published (and the last evaluation in the publisher's log, if that
    is on disk), published weights scored here, trained here.
    """

    label: str  # unique on its board
    config: Config
    log_iou: Mapping[str, float | None] = field(default_factory=dict)  # of the publisher's log
    run: Run | None = None  # perhaps unfinished
    whose: str = ""  # "trained here" or "published weights, scored here"; "" without a score
    miou: float | None = None  # measured here
    interval: tuple[float, float] | None = None  # of the measured, 95 % over the images
    iou: Mapping[str, float | None] = field(default_factory=dict)  # measured here, by class
    protocol: Protocol | None = None  # how it was measured
    alike: bool = True  # by the published protocol; where nothing is published, as most rows
    how: tuple[str, ...] = ()  # how its measurement differs
    changed: tuple[str, ...] = ()  # how the run differs from the published recipe
    difference: float | None = None  # measured less published, points; None: not comparable
    verdict: str = ""  # "tie", "above", "below", or why nothing is compared
    missing: tuple[Missing, ...] = ()  # what the row lacks

    @property
    def published(self) -> float | None:
        """The published mIoU."""
        return self.config.published_miou

    @property
    def short(self) -> str:
        """`R-50-D8` for a ResNet of depth 50 at output stride 8, else the label."""
        config = self.config
        if config.depth in (TINY, SLIM):
            return self.label
        return f"R-{config.depth}-D{config.output_stride}" + self.label[len(config.name) :]

    @cached_property
    def cost(self) -> Cost:
        """Parameters and operations; a second for the first call of a configuration."""
        return cost(self.config)

    @property
    def here(self) -> Measured | None:
        """Latency and peak memory of one image on this machine, once they were measured."""
        return measured_costs().get(self.config.name)


@dataclass(frozen=True)
class Board:
    """The rows of one data set, and why some folders could not be read."""

    dataset: str
    rows: tuple[Row, ...]
    problems: tuple[str, ...]

    @property
    def class_names(self) -> tuple[str, ...]:
        """The K classes of the data set."""
        return get_dataset(self.dataset).class_names

    def row(self, label: str) -> Row:
        """The row of that label; raises `RunError` naming those there are."""
        rows = {row.label: row for row in self.rows}
        if label in rows:
            return rows[label]
        raise RunError(
            f"the board of {self.dataset} has no row {label!r}; it has {', '.join(rows)}"
        )

    def heat_rows(self, by: str = "configuration", descending: bool = False) -> dict[str, Floats]:
        """The known IoU per class (K,) in %, NaN elsewhere, by row of `ordered` and its source."""
        found = {}
        for row in ordered(self, by, descending):
            kinds = {", ".join(row.how) or "measured here": row.iou, "publisher's log": row.log_iou}
            kinds = {kind: values for kind, values in kinds.items() if values} or {"missing": {}}
            for kind, values in kinds.items():
                numbers = [values.get(name) for name in self.class_names]  # None becomes NaN
                found[f"{row.short}, {kind}"] = np.array(numbers, np.float64)
        return found


@dataclass(frozen=True)
class Comparison:
    """Two measured rows on the same images: the first less the second, in points.

    Of single trainings the intervals are 95 % over the images, and a tie is a difference whose
    interval holds 0, or that is within `SPREAD`, by which the mIoU varies between trainings; how
    far a class's IoU varies between them is not known. Of several trainings each, which differ in
    the seed, the intervals are over images and seeds, and a tie is one that holds 0.
    """

    labels: tuple[str, str]  # of the rows
    class_names: tuple[str, ...]  # K
    images: int  # how many
    difference: Floats  # (K,), NaN for a class that a row has no IoU for
    low: Floats  # (K,), NaN also for a single image
    high: Floats
    ties: NDArray[np.bool_]  # (K,)
    miou: float  # difference of the means
    interval: tuple[float, float]  # of the mean's
    verdict: str  # "tie", "above" or "below", of the mean's
    trainings: tuple[int, int] = (1, 1)  # of each, with different seeds

    @property
    def seeded(self) -> bool:
        """Whether the intervals are over images and seeds."""
        return max(self.trainings) > 1


ORDERS: Mapping[str, Callable[[Row], float | None]] = {
    "configuration": lambda _: 0,  # the order of the twelve
    "published mIoU": lambda row: row.published,
    "measured mIoU": lambda row: row.miou,
    "difference": lambda row: row.difference,
    "parameters": lambda row: row.cost.parameters,
    "FLOP": lambda row: row.cost.formula_flops,
    "latency": lambda row: row.here.seconds if row.here else None,
    "memory": lambda row: row.here.peak_bytes if row.here else None,
}


def read_board(folders: Folders = RUNS, dataset: str = "voc") -> Board:
    """Everything known of a data set's configurations: its four of the twelve, then other runs.

    Args:
        folders: of run folders, or one such; one that doesn't exist has none. What can't be read,
            `Board.problems` names.
        dataset: a key of `data.catalog.DATASETS`; another raises `ConfigError`.
    """
    get_dataset(dataset)
    found, problems, rows = [], [], []
    for path in run_folders(folders):
        try:
            run = Run.open(path)
            if run.config.dataset == dataset:
                found.append(_measured(run))
        except Exception as error:  # a foreign file can be wrong in any way
            foreign = f"{path} cannot be read as a run: {type(error).__name__}: {error}"
            reason = str(error) if isinstance(error, LabError) else foreign
            problems.append(reason if str(path) in reason else f"{path}: {reason}")
    for config in (config for config in CONFIGS.values() if config.dataset == dataset):
        unscored = Row(config.name, config, missing=_to_score(config))
        named = [row for row in found if row.config.name == config.name] or [unscored]
        try:
            named = [_with_log(row) for row in named]
        except LabError as error:
            problems.append(str(error))
        rows += named
    rows += [row for row in found if row.config.name not in CONFIGS]
    # Several runs of one configuration get their folder's name, then its whole path.
    for where in (_tail, lambda run: str(run.folder)):
        names = [row.label for row in rows]
        rows = [
            replace(row, label=f"{row.config.name} ({printable(where(row.run))})")
            if row.run and names.count(row.label) > 1
            else row
            for row in rows
        ]
    sides = tuple(_side_by_side(rows, dataset))
    return Board(dataset, sides, tuple(map(printable, problems)))


def board_datasets(folders: Folders = RUNS) -> list[str]:
    """The data sets a board can be made of: those of the twelve, then those of runs on disk.

    Miniatures are left out: their scores stand apart, in reports/miniatures.py.
    """
    keys = [config.dataset for config in CONFIGS.values()]
    for path in run_folders(folders):
        with suppress(Exception):  # `read_board` names it
            keys.append(Run.open(path).config.dataset)
    return [key for key in dict.fromkeys(keys) if key not in MINIATURE]


def compare_rows(a: Row, b: Row, draws: int = 1000) -> Comparison:
    """Two measured rows by class, with intervals from `draws` bootstrap draws of the images.

    Raises `RunError` where a row has no confusion matrices of its classes, or where the rows were
    not measured alike on the same images.
    """
    (first, one), (second, other) = confusions_of(a), confusions_of(b)
    check_comparable(first, second, varied=("recurrence",))
    if one.names != other.names or one.num_classes != other.num_classes:
        remedy = "evaluate both on the same split to compare them"
        raise RunError(f"{a.label} and {b.label} were scored on different images; {remedy}")
    low, high = 100 * paired_intervals(one, other, draws)
    found, beside = scores(one.total()), scores(other.total())
    difference, miou = 100 * (found.iou - beside.iou), 100 * (found.miou - beside.miou)
    sure = (low > 0) | (high < 0)
    return Comparison(
        (a.label, b.label),
        get_dataset(a.config.dataset).class_names,
        len(one.names),
        difference,
        low[:-1],
        high[:-1],
        ties=~sure[:-1] | (np.abs(difference) <= SPREAD),
        miou=miou,
        interval=(float(low[-1]), float(high[-1])),
        verdict=tie_or(miou) if sure[-1] else "tie",
    )


def image_scores(row: Row) -> Floats:
    """(N,) the mIoU of a measured row on each image, in %; raises `RunError` as `compare_rows`."""
    return 100 * confusions_of(row)[1].image_miou()


def ordered(board: Board, by: str = "configuration", descending: bool = False) -> list[Row]:
    """The rows by one of `ORDERS` or by a class's IoU (measured, else the publisher's).

    By what was measured, rows measured otherwise come after the comparable ones; rows without a
    value come last. Another order raises `RunError`.
    """
    if by not in ORDERS and by not in board.class_names:
        orders = near(by, [*ORDERS, *board.class_names])
        raise RunError(f"the board can't be ordered by {by!r}; {orders}")
    value = ORDERS.get(by, lambda row: (row.iou or row.log_iou).get(by))
    measured = by in ("measured mIoU", "difference", *board.class_names)
    known = [(found, row) for row in board.rows if (found := value(row)) is not None]
    known.sort(key=lambda pair: pair[0], reverse=descending)
    known.sort(key=lambda pair: measured and not pair[1].alike)
    return [row for _, row in known] + [row for row in board.rows if value(row) is None]


def pareto(costs: Sequence[float], values: Sequence[float]) -> list[bool]:
    """Whether each point is on the front: no other is at least as cheap and good; NaN never is."""
    points = list(zip(costs, values, strict=True))
    return [
        c == c and v == v and not any(d <= c and w >= v and (d, w) != (c, v) for d, w in points)
        for c, v in points
    ]


def run_folders(folders: Folders) -> Iterator[Path]:
    """The run folders, each once whatever links lead to it, also those `LEVELS` further in.

    A folder without any is given as it is, so that opening it says what is wrong.
    """
    seen = set()
    given = [folders] if isinstance(folders, str | Path) else folders
    for path in (path for folder in given for path in _inside(Path(folder))):
        for found in _runs_below(path, LEVELS):
            if (real := os.path.realpath(found)) not in seen:
                seen.add(real)
                yield found


def _runs_below(path: Path, levels: int) -> list[Path]:
    """A run itself; else what is in the folder, where there are runs in it; else the folder."""
    if levels and not _is_run(path) and (levels == LEVELS or not os.path.islink(path)):
        found = [run for each in _inside(path) for run in _runs_below(each, levels - 1)]
        if any(map(_is_run, found)):
            return found
    return [path]


def _is_run(path: Path) -> bool:
    return os.path.exists(path / "config.json")  # unlike Path's, False where it can't be looked at


def _inside(folder: Path) -> list[Path]:
    """The folders in a folder, links last; also what can't be read, so that opening it says why."""
    try:
        names = [path for path in folder.iterdir() if not path.name.startswith(".")]
    except FileNotFoundError:
        return []
    except OSError:
        return [folder]
    folders = [path for path in names if not os.path.isfile(path)]
    return sorted(folders, key=lambda path: (os.path.islink(path), path))


def _side_by_side(rows: list[Row], dataset: str) -> list[Row]:
    """The rows with how their measurement differs from the published, or from most rows'."""

    def beside(row: Row, reference: Protocol) -> Row:
        if row.protocol is None:
            return row
        other = replace(reference, recurrence=row.config.recurrence)
        how = differences(row.protocol, published_protocol(row.config), other)
        return replace(row, alike=not unlike(row.protocol, other), how=how)

    published = [published_protocol(c) for c in CONFIGS.values() if c.dataset == dataset]
    references = published[:1] or [row.protocol for row in rows if row.protocol]
    tried = [[beside(row, reference) for row in rows] for reference in references]
    return max(tried, key=lambda each: sum(row.alike for row in each), default=rows)


def _measured(run: Run) -> Row:
    """A row from a run folder; one that is not scored yet says what to type."""
    config, found = run.config, run.scores
    changed = tuple(deviations(run))
    row = Row(config.name, config, run=run, changed=changed if config.name in CONFIGS else ())
    evaluate = f"python scripts/evaluate.py {run.folder} --data ROOT"
    if found is None:
        lack = Missing("the score: it was not evaluated yet", evaluate)
        if not run.weights.is_file():
            where = f"--data ROOT --runs {run.folder.parent} --resume"
            resume = f"python scripts/train.py {config.name} {where}"
            lack = Missing("the score: its training has not ended", resume)
        return replace(row, missing=(lack,))
    protocol, given = Protocol.from_dict(found["protocol"]), found["per_class_iou"]
    names = get_dataset(config.dataset).class_names
    right = protocol.dataset == config.dataset and set(given) == set(names)
    if not right or _percent(found["miou"]) is None:
        what = f"holds no scores of {config.name} on {config.dataset}"
        raise RunError(f"{run.folder / 'scores.json'} {what}; evaluate the run again")
    low, high = (_percent(end) for end in found.get("miou_interval") or (None, None))
    beside = beside_published(config, found, changed)
    scored_here = isinstance(found.get("weights"), dict)
    lack = Missing("comparisons by class: the confusion matrices", evaluate)
    return replace(
        row,
        whose="published weights, scored here" if scored_here else "trained here",
        miou=100 * found["miou"],
        interval=None if low is None or high is None else (low, high),
        iou={name: _percent(given[name]) for name in names},
        protocol=protocol,
        difference=beside.difference,
        verdict=beside.verdict,
        missing=() if run.confusions.is_file() else (lack,),
    )


def _with_log(row: Row) -> Row:
    """A row of the twelve with what the publisher's log says of the published recipe."""
    if row.published is None:
        return row
    file = store.find(f"{row.config.name}.log")
    if not file.on_disk:
        what = "the publisher's IoU per class, if its log has it"
        lack = Missing(what, f"python scripts/zoo.py get {file.name}")
        return replace(row, missing=(*row.missing, lack))
    iou = read_log(file.path, row.config).per_class_iou
    return replace(row, log_iou={name: _percent(value) for name, value in iou.items()})


def _to_score(config: Config) -> tuple[Missing, ...]:
    train = f"python scripts/train.py {config.name} --data ROOT --runs runs"
    get = "" if store.find(config.name).on_disk else f"python scripts/zoo.py get {config.name} && "
    score = f"python scripts/evaluate.py --published --data ROOT --only {config.name}"
    return (
        Missing("the score of a training", train),
        Missing("the published weights' score here", get + score),
    )


def confusions_of(row: Row) -> tuple[Protocol, Confusions]:
    """A row's protocol and confusion matrices; `RunError` for one without, or of other classes."""
    if row.run is None or row.protocol is None or not row.run.confusions.is_file():
        evaluate = "python scripts/evaluate.py RUN --data ROOT"
        command = row.missing[0].command if row.missing else evaluate
        what = f"{row.label} has no confusion matrices here, so it can't be compared by class"
        raise RunError(f"{what}; `{command}` writes them")
    kept = load_confusions(row.run.confusions)
    if kept.num_classes != len(row.iou):
        what = f"the confusion matrices of {row.label} are of {kept.num_classes} classes"
        raise RunError(f"{what}, not of {len(row.iou)}; evaluate again")
    return row.protocol, kept


def _percent(value: float | None) -> float | None:
    """A fraction of a scores.json in percent; None where there is none."""
    if value is None or value != value:
        return None
    if type(value) not in (int, float) or not 0 <= value <= 1:
        raise RunError(f"a score is {value!r:.60}; expected a number, 0 to 1: evaluate again")
    return 100 * value


def _tail(run: Run) -> str:
    """The folder's own name, or, where that is the configuration's, that of its parent."""
    return run.folder.parent.name if run.folder.name == run.config.name else run.folder.name
