"""The miniatures' runs by data set: IoU over images and seeds, and what depth, stride and R do.

The statistics are evaluation/repeats.py's. Nothing here is put beside a published number.
"""

import functools
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ccnet_lab.configs import MINIATURES, RECURRENCES, Config
from ccnet_lab.data.catalog import get_dataset
from ccnet_lab.data.generated.worlds import WORLDS
from ccnet_lab.errors import LabError, RunError, printable
from ccnet_lab.evaluation.metrics import Confusions, load_confusions, scores
from ccnet_lab.evaluation.protocol import Protocol, changes, check_comparable
from ccnet_lab.evaluation.reach import Reach
from ccnet_lab.evaluation.repeats import Effect, Repeats
from ccnet_lab.reports.board import MINIATURE, RUNS, Comparison, Folders, pareto, run_folders
from ccnet_lab.reports.trainings import compare_trainings, points
from ccnet_lab.runs import Run

Floats = NDArray[np.float64]
Kind = tuple[int, int, int]  # depth, output stride, R
File = tuple[str, int, int]  # path, time of the last change in ns, size
FILES = ("config.json", "training.json", "scores.json", "confusions.npz", "reach.json")
SEEDS = 3  # of the trainings that are asked for
COMMAND = "python scripts/train_all.py --miniature --seeds 3 --recurrences --runs runs/miniature"
PARTS = ("all classes", "thin", "long-range")  # groups of classes


class Factor(NamedTuple):
    """A question on the configurations, as a weighted sum of their mean IoUs."""

    name: str  # "depth", "stride", "recurrence"
    what: str  # "101 less 50"
    weights: Mapping[Kind, float]


def _less(first: Sequence[Kind], second: Sequence[Kind]) -> dict[Kind, float]:
    """The mean of the first kinds less that of the second."""
    return {
        **{kind: 1 / len(first) for kind in first},
        **{kind: -1 / len(second) for kind in second},
    }


FACTORS = (
    Factor("depth", "101 less 50", _less([(101, 8, 2), (101, 16, 2)], [(50, 8, 2), (50, 16, 2)])),
    Factor("stride", "8 less 16", _less([(50, 8, 2), (101, 8, 2)], [(50, 16, 2), (101, 16, 2)])),
    Factor("recurrence", "R = 2 less 1", _less([(50, 8, 2)], [(50, 8, 1)])),
    Factor("recurrence", "R = 2 less 0", _less([(50, 8, 2)], [(50, 8, 0)])),
    Factor("recurrence", "R = 3 less 2", _less([(50, 8, 3)], [(50, 8, 2)])),
)


class Training(NamedTuple):
    """One finished run of a miniature."""

    folder: Path
    config: Config
    seed: int
    protocol: Protocol
    confusions: Confusions
    reach: tuple[float, float] | None  # shares of the long-range pixels that are right, on and off


@dataclass(frozen=True, eq=False)
class Study:
    """The trainings of one data set's miniatures, scored alike on the same images."""

    dataset: str
    configs: Mapping[str, Config]  # C by name: those of the twelve, then those with another R
    seeds: Mapping[str, tuple[int, ...]]  # of the trainings, by configuration
    each: Mapping[str, tuple[float, ...]]  # mIoU in % of each training, in the order of the seeds
    repeats: Repeats
    size: Floats  # (K,) the classes' share of the labelled pixels
    reach: Mapping[int, Floats]  # (S, 2) by R of R-50-D8: shares in % on the cross and off it

    @property
    def class_names(self) -> tuple[str, ...]:
        """K names."""
        return get_dataset(self.dataset).class_names

    @property
    def title(self) -> str:
        """The data set's name without the remark that it is a miniature."""
        return get_dataset(self.dataset).title.partition(" (")[0]

    @property
    def seeded(self) -> bool:
        """Whether something was trained with several seeds, so that their spread is known."""
        return max(map(len, self.seeds.values())) > 1

    @property
    def four(self) -> tuple[str, ...]:
        """The names of the configurations that are of the twelve."""
        return tuple(name for name in self.configs if name in MINIATURES)

    @cached_property
    def cells(self) -> dict[str, Floats]:
        """(3, K) IoU in % by configuration: mean over the trainings, low and high; NaN unknown."""
        return {
            name: np.array(
                [points(self.repeats.effect({name: 1.0}, [k]))[:3] for k in range(len(self.size))]
            ).T
            for name in self.configs
        }

    @cached_property
    def miou(self) -> dict[str, Effect]:
        """Mean IoU in % by configuration."""
        return {name: points(self.repeats.effect({name: 1.0})) for name in self.configs}

    @cached_property
    def effects(self) -> dict[tuple[str, str], dict[str, Effect]]:
        """In points, by a factor's name and what, then by `PARTS`; without what wasn't trained."""
        world, names = WORLDS[self.dataset], self.class_names
        parts: dict[str, list[int] | None] = {PARTS[0]: None}
        parts[PARTS[1]] = [names.index(name) for name in world.thin]
        parts[PARTS[2]] = [names.index(name) for name in world.long_range]
        known = {(c.depth, c.output_stride, c.recurrence): name for name, c in self.configs.items()}
        found = {}
        for factor in FACTORS:
            if factor.weights.keys() <= known.keys():
                weights = {known[kind]: weight for kind, weight in factor.weights.items()}
                found[factor.name, factor.what] = {
                    part: points(self.repeats.effect(weights, classes))
                    for part, classes in parts.items()
                }
        return found

    def order(self, by: str) -> NDArray[np.int64]:
        """The K classes by one of `ORDERS`: the largest, or the widest spread, first."""
        if by == ORDERS[1]:
            table = np.stack([self.cells[name][0] for name in self.four or self.configs])
            known = np.isfinite(table).all(0)
            width = np.where(known, np.ptp(np.where(known, table, 0), axis=0), -1.0)
            return np.argsort(-width, kind="stable")
        return (
            np.argsort(-self.size, kind="stable") if by == ORDERS[0] else np.arange(len(self.size))
        )

    def compare(self, first: str, second: str) -> Comparison:
        """Two configurations by class; raises `RunError` for one that has no runs."""
        for name in (first, second):
            if name not in self.configs:
                there = ", ".join(self.configs)
                raise RunError(f"there are no runs of {name} on {self.dataset}, but of {there}")
        trainings = len(self.seeds[first]), len(self.seeds[second])
        labels = short(self.configs[first]), short(self.configs[second])
        names = first, second
        return compare_trainings(self.repeats, names, labels, self.class_names, trainings)

    def front(self, costs: Mapping[str, float]) -> dict[str, bool]:
        """Whether each configuration is on the Pareto front of cost and mIoU."""
        names = [*costs]
        miou = [self.miou[name].value for name in names]
        return dict(zip(names, pareto([*costs.values()], miou), strict=True))


ORDERS = ("class size", "spread", "as listed")  # of the classes


class Miniatures(NamedTuple):
    """All miniatures on disk."""

    studies: Mapping[str, Study]  # by data set, those that have runs
    problems: tuple[str, ...]  # folders that are left out, and why
    trained: int  # how many runs there are
    wanted: int  # how many there should be


def short(config: Config) -> str:
    """`R-50-D8`, and R where it isn't 2."""
    name = f"R-{config.depth}-D{config.output_stride}"
    return name if config.recurrence == 2 else f"{name}, R = {config.recurrence}"


def read_miniatures(folders: Folders = RUNS) -> Miniatures:
    """Every miniature in the folders; a run is read again only when its files have changed.

    Folders that can't be read, and runs that can't be put beside the others, are `problems`.
    """
    found: dict[str, list[tuple[File, ...]]] = {key: [] for key in MINIATURE}
    problems: list[str] = []
    for path in run_folders(folders):
        try:
            files = _files(path)
            training = _read(files)
            if training:
                found[training.config.dataset].append(files)
        except Exception as error:  # a foreign file can be wrong in any way
            foreign = f"{path} cannot be read as a run: {type(error).__name__}: {error}"
            reason = str(error) if isinstance(error, LabError) else foreign
            problems.append(reason if str(path) in reason else f"{path}: {reason}")
    studies = {}
    for key, runs in found.items():
        if runs:
            try:
                studies[key], left_out = _study(key, tuple(runs))
                problems += left_out
            except Exception as error:  # of files that are sound each by itself
                what = f"the runs of {key} cannot be put together"
                problems.append(f"{what}: {type(error).__name__}: {error}")
    seeds = [len(each) for study in studies.values() for each in study.seeds.values()]
    configs = len(MINIATURES) + len(RECURRENCES) * len(MINIATURE)
    return Miniatures(
        studies, tuple(map(printable, problems)), sum(seeds), configs * max([SEEDS, *seeds])
    )


def _files(path: Path) -> tuple[File, ...]:
    """The run's files and their states; the folder's path first."""
    found = [(str(path), 0, 0)]
    for file in (path / name for name in FILES):
        if file.is_file():
            status = file.stat()
            found.append((str(file), status.st_mtime_ns, status.st_size))
    return tuple(found)


@functools.lru_cache(maxsize=1024)
def _read(files: tuple[File, ...]) -> Training | None:
    """A run from its files, the folder first; None for one that is no miniature.

    Raises `RunError` for a miniature that is unfinished, damaged or trained otherwise.
    """
    run = Run.open(files[0][0])
    config, training = run.config, run.training or {}
    if config.dataset not in MINIATURE:
        return None
    recipe = MINIATURES.get(replace(config, recurrence=2).name)
    changed = changes(replace(config, recurrence=2), recipe) if recipe else [config.name]
    changed += [f"{training['steps']} steps"] if training.get("steps") else []
    if changed:
        what = f"{run.folder} was trained otherwise than the miniatures"
        raise RunError(f"{what} ({', '.join(changed)}), so it is left out")
    found = run.scores
    if found is None:
        raise RunError(f"{run.folder} has no score yet; `{COMMAND}` resumes its training")
    protocol, kept = Protocol.from_dict(found["protocol"]), load_confusions(run.confusions)
    if protocol.dataset != config.dataset or kept.num_classes != config.num_classes:
        what = f"{run.folder} holds no scores of {config.name}"
        raise RunError(f"{what}; `python scripts/evaluate.py {run.folder} --data ROOT` writes them")
    reach = Reach.read(run.reach).shares() if run.reach.is_file() else None
    return Training(run.folder, config, int(training.get("seed", 0)), protocol, kept, reach)


@functools.lru_cache(maxsize=32)
def _study(dataset: str, runs: tuple[tuple[File, ...], ...]) -> tuple[Study, tuple[str, ...]]:
    """The study of a data set's runs, and which of them are left out, and why."""
    read = [training for files in runs if (training := _read(files))]
    alike, left_out = _alike(read)
    kept: dict[str, dict[int, Training]] = {}
    for each in alike:
        by_seed = kept.setdefault(each.config.name, {})
        if each.seed in by_seed:
            other = by_seed[each.seed].folder
            left_out.append(f"{each.folder} has the seed of {other}, which is shown")
        by_seed.setdefault(each.seed, each)
    places = {name: place for place, name in enumerate(MINIATURES)}
    names = sorted(kept, key=lambda name: (places.get(name, len(places)), name))
    trainings = {name: [kept[name][seed] for seed in sorted(kept[name])] for name in names}
    repeats = Repeats(
        {name: [each.confusions for each in found] for name, found in trainings.items()}
    )
    pixels = trainings[names[0]][0].confusions.total().sum(1)
    study = Study(
        dataset,
        {name: found[0].config for name, found in trainings.items()},
        {name: tuple(each.seed for each in found) for name, found in trainings.items()},
        {
            name: tuple(100 * scores(each.confusions.total()).miou for each in found)
            for name, found in trainings.items()
        },
        repeats,
        pixels / max(1, pixels.sum()),
        _reach(alike),
    )
    return study, tuple(left_out)


def _reach(trainings: Iterable[Training]) -> dict[int, Floats]:
    """`Study.reach` of the trainings of R-50-D8 whose reach was measured."""
    found: dict[int, list[tuple[float, float]]] = {}
    for each in trainings:
        config = each.config
        if each.reach and (config.depth, config.output_stride) == (50, 8):
            found.setdefault(config.recurrence, []).append(each.reach)
    return {recurrence: 100 * np.array(found[recurrence]) for recurrence in sorted(found)}


def _alike(trainings: Iterable[Training]) -> tuple[list[Training], list[str]]:
    """The trainings measured as most are, on the same images; why the others are left out."""

    def way(each: Training) -> tuple[Protocol, tuple[str, ...]]:
        return replace(each.protocol, recurrence=2), each.confusions.names

    read = list(trainings)
    usual = Counter(map(way, read)).most_common(1)[0][0]
    left_out = []
    for each in read:
        if way(each) != usual:
            why = "it was scored on other images"
            try:
                check_comparable(each.protocol, usual[0], varied=("recurrence",))
            except RunError as error:
                why = str(error)
            left_out.append(f"{each.folder} is left out: {why}")
    return [each for each in read if way(each) == usual], left_out
