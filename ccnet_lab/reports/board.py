"""Board: what is published, what was measured here and what is missing, configuration by configuration; numbers in percent.

The runs are runs.py's, others' numbers evaluation/published.py's, pictures charts.py's, HTML board_page.py's.
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
from ccnet_lab.configs import CONFIGS, SLIM, TINY, Config
from ccnet_lab.data.catalog import get_dataset
from ccnet_lab.errors import LabError, ProtocolError, RunError, near
from ccnet_lab.evaluation.metrics import load_confusions, paired_intervals, scores
from ccnet_lab.evaluation.protocol import (
    Protocol,
    check_comparable,
    deviations,
    differences,
    published_protocol,
    unlike,
)
from ccnet_lab.evaluation.published import SPREAD, Peer, beside_published, peers, tie_or
from ccnet_lab.model.costs import Cost, cost, measured_costs
from ccnet_lab.reports.logs import read_log
from ccnet_lab.runs import Run

Floats = NDArray[np.float64]
RUNS = (
    "runs",
    "results/runs",
)  # where runs are looked for; folders of runs inside, such as runs/published, are found, too


class Missing(NamedTuple):
    """Something the board could show and hasn't got, and the command that brings it."""

    what: str
    command: str


@dataclass(frozen=True)
class Row:
    """One configuration, with a run of it where there is one. mIoU and IoU in %; three kinds that are never mixed.

    Published (`published`, and the last evaluation in the publisher's log if that is on disk), published weights scored here, trained here.
    """

    label: str  # unique on its board
    config: Config
    log_miou: float | None = None  # of the publisher's log
    log_iou: Mapping[str, float | None] = field(
        default_factory=dict
    )  # of the publisher's log, by class
    run: Run | None = None  # perhaps unfinished
    whose: str = ""  # "trained here" or "published weights, scored here"; "" without a score
    miou: float | None = None  # measured here
    interval: tuple[float, float] | None = None  # of the measured, 95 % over the images
    iou: Mapping[str, float | None] = field(default_factory=dict)  # measured here, by class
    protocol: Protocol | None = None  # how it was measured
    alike: bool = True  # whether by the published protocol, or, where nothing is published, as most rows of its board
    how: tuple[str, ...] = ()  # in what it was measured otherwise, in short words
    changed: tuple[str, ...] = ()  # in what the run differs from the published recipe
    difference: float | None = (
        None  # measured less published, in points; None where they may not be compared
    )
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
        return (
            self.label
            if config.depth in (TINY, SLIM)
            else f"R-{config.depth}-D{config.output_stride}" + self.label[len(config.name) :]
        )

    @cached_property
    def cost(self) -> Cost:
        """Parameters and operations; the first call for a configuration takes about a second."""
        return cost(self.config)

    @property
    def seconds(self) -> float | None:
        """Latency of one image on this machine, once it was measured."""
        return here.seconds if (here := measured_costs().get(self.config.name)) else None

    @property
    def peak_bytes(self) -> int | None:
        """Peak memory of one image on this machine, once it was measured."""
        return here.peak_bytes if (here := measured_costs().get(self.config.name)) else None


@dataclass(frozen=True)
class Board:
    """The rows of one data set, others' numbers beside them, and the folders that could not be read, each with the reason."""

    dataset: str
    rows: tuple[Row, ...]
    peers: tuple[Peer, ...]
    problems: tuple[str, ...]

    @property
    def class_names(self) -> tuple[str, ...]:
        """The K classes of the data set."""
        return get_dataset(self.dataset).class_names

    def row(self, label: str) -> Row:
        """The row of that label; raises `RunError` naming those there are."""
        for row in self.rows:
            if row.label == label:
                return row
        raise RunError(
            f"the board of {self.dataset} has no row {label!r}; it has {', '.join(row.label for row in self.rows)}"
        )

    def heat_rows(self, by: str = "configuration", descending: bool = False) -> dict[str, Floats]:
        """The IoU per class (K,) in %, NaN where it isn't known, by row of `ordered`: measured, the publisher's log, or neither."""
        found = {}
        for row in ordered(self, by, descending):
            kinds = {", ".join(row.how) or "measured here": row.iou, "publisher's log": row.log_iou}
            kinds = {kind: values for kind, values in kinds.items() if values} or {"missing": {}}
            for kind, values in kinds.items():
                found[f"{row.short}, {kind}"] = np.array(
                    [values.get(name) for name in self.class_names], np.float64
                )  # None is NaN
        return found


@dataclass(frozen=True)
class Comparison:
    """Two measured rows on the same images: the first less the second, in points; low and high are 95 % intervals over the images.

    A tie is a difference whose interval holds 0, or that is within `SPREAD`, by which the mIoU varies between trainings. How far a class's
    IoU varies from one training to the next is not known, so beyond a tie stands only: on these images, for these two trainings.
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


ORDERS: Mapping[str, Callable[[Row], float | None]] = {
    "configuration": lambda _: 0,  # the order of the twelve
    "published mIoU": lambda row: row.published,
    "measured mIoU": lambda row: row.miou,
    "difference": lambda row: row.difference,
    "parameters": lambda row: row.cost.parameters,
    "FLOP": lambda row: row.cost.formula_flops,
    "latency": lambda row: row.seconds,
    "memory": lambda row: row.peak_bytes,
}


def read_board(folders: str | Path | Iterable[str | Path] = RUNS, dataset: str = "voc") -> Board:
    """Everything that is known of a data set's configurations: the four of the twelve, then others that were run on it.

    Args:
        folders: of run folders, or one such; one that doesn't exist has none. What can't be read, `Board.problems` names.
        dataset: a key of `data.catalog.DATASETS`; another raises `ConfigError`.
    """
    found, problems = [], []
    for path in _run_folders(folders):
        try:
            run = Run.open(path)
            if run.config.dataset == dataset:
                found.append(_measured(run))
        except Exception as error:  # a file that isn't ours can be wrong in any way
            said = (
                str(error)
                if isinstance(error, LabError)
                else f"{path} is no run of ours: {type(error).__name__}: {error}"
            )
            problems.append(said if str(path) in said else f"{path}: {said}")
    get_dataset(dataset)
    rows = []
    for config in (config for config in CONFIGS.values() if config.dataset == dataset):
        ours = [row for row in found if row.config.name == config.name] or [
            Row(config.name, config, missing=_to_score(config))
        ]
        try:
            ours = [_with_log(row) for row in ours]
        except LabError as error:
            problems.append(str(error))
        rows += ours
    rows += [row for row in found if row.config.name not in CONFIGS]
    for tell in (
        _tail,
        lambda run: str(run.folder),
    ):  # runs of one configuration are told apart by their folders
        names = [row.label for row in rows]
        rows = [
            replace(r, label=f"{r.config.name} ({tell(r.run)})")
            if r.run and names.count(r.label) > 1
            else r
            for r in rows
        ]
    return Board(
        dataset, tuple(_side_by_side(rows, dataset)), tuple(peers(dataset)), tuple(problems)
    )


def board_datasets(folders: str | Path | Iterable[str | Path] = RUNS) -> list[str]:
    """The data sets a board can be made of: those of the twelve, then those of runs on disk."""
    keys = [config.dataset for config in CONFIGS.values()]
    for path in _run_folders(folders):
        with suppress(Exception):  # `read_board` names it
            keys.append(Run.open(path).config.dataset)
    return list(dict.fromkeys(keys))


def compare(a: Row, b: Row, draws: int = 1000) -> Comparison:
    """Two measured rows by class, from the confusion matrices of the same images; intervals from `draws` bootstrap draws.

    Raises:
        RunError: a row has no confusion matrices, or not of its classes; the command that writes them is named.
        ProtocolError: the rows were not measured alike, or not on the same images.
    """
    first, second = _need(a), _need(b)
    check_comparable(first, second, varied=("recurrence",))
    ours, theirs = (load_confusions(row.run.confusions) for row in (a, b) if row.run)
    if ours.names != theirs.names or ours.num_classes != theirs.num_classes:
        raise ProtocolError(
            f"{a.label} and {b.label} were scored on different images; evaluate both on the same split to compare them"
        )
    if ours.num_classes != len(a.iou):
        raise RunError(
            f"the confusion matrices of {a.label} are of {ours.num_classes} classes, not of {len(a.iou)}; evaluate again"
        )
    low, high = 100 * paired_intervals(ours, theirs, draws)
    found, beside = scores(ours.total()), scores(theirs.total())
    difference, miou = 100 * (found.iou - beside.iou), 100 * (found.miou - beside.miou)
    sure, names = (low > 0) | (high < 0), get_dataset(a.config.dataset).class_names
    return Comparison(
        (a.label, b.label), names, len(ours.names), difference, low[:-1], high[:-1],
        ~sure[:-1] | (np.abs(difference) <= SPREAD), miou, (float(low[-1]), float(high[-1])), tie_or(miou) if sure[-1] else "tie",
    )  # fmt: skip


def ordered(board: Board, by: str = "configuration", descending: bool = False) -> list[Row]:
    """The rows by one of `ORDERS` or by a class's IoU (measured, else the publisher's).

    By what was measured, rows measured otherwise come after the comparable ones; rows without a value come last. Another order raises
    `RunError`.
    """
    if by not in ORDERS and by not in board.class_names:
        raise RunError(
            f"the board can't be ordered by {by!r}; {near(by, [*ORDERS, *board.class_names])}"
        )
    values = {
        row.label: ORDERS[by](row) if by in ORDERS else (row.iou or row.log_iou).get(by)
        for row in board.rows
    }
    known = [row for row in board.rows if values[row.label] is not None]
    known.sort(key=lambda row: values[row.label], reverse=descending)  # type: ignore[arg-type, return-value]
    known.sort(
        key=lambda row: not row.alike and by in ("measured mIoU", "difference", *board.class_names)
    )
    return known + [row for row in board.rows if values[row.label] is None]


def pareto(costs: Sequence[float], values: Sequence[float]) -> list[bool]:
    """Whether each point is on the front: none is as cheap and as good, and better in one of the two. NaN is never on it."""
    points = list(zip(costs, values, strict=True))
    return [
        c == c and v == v and not any(d <= c and w >= v and (d, w) != (c, v) for d, w in points)
        for c, v in points
    ]


def _run_folders(folders: str | Path | Iterable[str | Path]) -> Iterator[Path]:
    """The run folders, each once whatever links lead to it; of a folder of runs, such as runs/published, those inside."""
    seen = set()
    for path in (
        path
        for folder in ([folders] if isinstance(folders, str | Path) else folders)
        for path in _inside(Path(folder))
    ):
        inside = [] if os.path.exists(path / "config.json") else _inside(path)
        for found in (
            inside if any(os.path.exists(each / "config.json") for each in inside) else [path]
        ):
            if (real := os.path.realpath(found)) not in seen:
                seen.add(real)
                yield found


def _inside(folder: Path) -> list[Path]:
    """The folders in a folder, links last; also what can't be read, perhaps the folder itself, so that opening it says why."""
    try:
        paths = [
            path
            for path in folder.iterdir()
            if not (os.path.isfile(path) or path.name.startswith("."))
        ]
    except FileNotFoundError:
        return []
    except OSError:
        return [folder]
    return sorted(paths, key=lambda path: (os.path.islink(path), path))


def _side_by_side(rows: list[Row], dataset: str) -> list[Row]:
    """The rows with what in their measurement is otherwise: than published, or, where nothing is, than in most of them."""

    def beside(row: Row, reference: Protocol) -> Row:
        if row.protocol is None:
            return row
        other = replace(reference, recurrence=row.config.recurrence)
        how = differences(row.protocol, published_protocol(row.config), other)
        return replace(row, alike=not unlike(row.protocol, other), how=how)

    published = [
        published_protocol(config) for config in CONFIGS.values() if config.dataset == dataset
    ]
    tried = [
        [beside(row, reference) for row in rows]
        for reference in published[:1] or [row.protocol for row in rows if row.protocol]
    ]
    return max(tried, key=lambda each: sum(row.alike for row in each), default=rows)


def _measured(run: Run) -> Row:
    """A row from a run folder; one that is not scored yet says what to type."""
    config, changed, found = run.config, tuple(deviations(run)), run.scores
    row = Row(config.name, config, run=run, changed=() if config.name not in CONFIGS else changed)
    if found is None:
        score = Missing(
            "the score: it was not evaluated yet",
            f"python scripts/evaluate.py {run.folder} --data ROOT",
        )
        train = (
            f"python scripts/train.py {config.name} --data ROOT --runs {run.folder.parent} --resume"
        )
        return replace(
            row,
            missing=(
                score
                if run.weights.is_file()
                else Missing("the score: its training has not ended", train),
            ),
        )
    protocol, given = Protocol.from_dict(found["protocol"]), found["per_class_iou"]
    names = get_dataset(config.dataset).class_names
    if (
        protocol.dataset != config.dataset
        or set(given) != set(names)
        or not 0 <= float(found["miou"]) <= 1
    ):
        raise RunError(
            f"{run.folder / 'scores.json'} holds no scores of {config.name} on {config.dataset}; evaluate the run again"
        )
    low, high = found.get("miou_interval") or (None, None)
    difference, verdict = beside_published(run)
    again = Missing(
        "comparisons by class: the confusion matrices",
        f"python scripts/evaluate.py {run.folder} --data ROOT",
    )
    return replace(
        row, whose="published weights, scored here" if isinstance(found.get("weights"), dict) else "trained here",
        miou=100 * found["miou"], interval=None if low is None or high is None else (100 * low, 100 * high),
        iou={name: _percent(given[name]) for name in names}, protocol=protocol,
        difference=difference, verdict=verdict, missing=() if run.confusions.is_file() else (again,),
    )  # fmt: skip


def _with_log(row: Row) -> Row:
    """A row of the twelve with what the publisher's log says, if it is here and the row is the published recipe."""
    if row.published is None:
        return row
    file = store.find(f"{row.config.name}.log")
    if not file.on_disk:
        lack = Missing(
            "the publisher's IoU per class, if its log has it",
            f"python scripts/zoo.py get {file.name}",
        )
        return replace(row, missing=(*row.missing, lack))
    log = read_log(file.path, row.config)
    return replace(
        row,
        log_miou=_percent(log.final_miou),
        log_iou={name: _percent(value) for name, value in log.per_class_iou.items()},
    )


def _to_score(config: Config) -> tuple[Missing, ...]:
    get = "" if store.find(config.name).on_disk else f"python scripts/zoo.py get {config.name} && "
    return (
        Missing(
            "the score of a training",
            f"python scripts/train.py {config.name} --data ROOT --runs runs",
        ),
        Missing(
            "the published weights' score here",
            f"{get}python scripts/evaluate.py --published --data ROOT --only {config.name}",
        ),
    )


def _need(row: Row) -> Protocol:
    if row.run is None or row.protocol is None or not row.run.confusions.is_file():
        command = (
            row.missing[0].command if row.missing else "python scripts/evaluate.py RUN --data ROOT"
        )
        raise RunError(
            f"{row.label} has no confusion matrices here, so it can't be compared by class; `{command}` writes them"
        )
    return row.protocol


def _percent(value: float | None) -> float | None:
    return None if value is None else 100 * value


def _tail(run: Run) -> str:
    """The folder's own name, or, where that is the configuration's, the name of the folder around it."""
    return run.folder.parent.name if run.folder.name == run.config.name else run.folder.name
