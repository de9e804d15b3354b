"""Two configurations class by class over several trainings each, which differ in the seed.

Single trainings are compared in board.py, the statistics are evaluation/repeats.py's.
"""

from collections.abc import Sequence

import numpy as np

from ccnet_lab.data.catalog import get_dataset
from ccnet_lab.evaluation.protocol import unlike
from ccnet_lab.evaluation.published import SPREAD
from ccnet_lab.evaluation.repeats import Effect, Repeats
from ccnet_lab.reports.board import Board, Comparison, Row, compare_rows, confusions_of


def points(effect: Effect) -> Effect:
    """An effect in percent, or points."""
    return Effect(*(100 * value for value in effect))


def is_clear(effect: Effect) -> bool:
    """Whether an effect, in points, is no tie: its interval leaves out 0.

    Where no spread over seeds was measured, it also has to exceed the authors', `SPREAD`.
    """
    seeded = effect.seeds == effect.seeds
    return effect.clear and (seeded or abs(effect.value) > SPREAD)


def compare_trainings(
    repeats: Repeats,
    names: tuple[str, str],
    labels: tuple[str, str],
    class_names: Sequence[str],
    trainings: tuple[int, int],
) -> Comparison:
    """The first configuration of `repeats` less the second, with intervals over images and seeds.

    Where nothing was trained twice, the intervals are over the images alone and differences within
    `SPREAD` are ties, too. The comparison's `trainings` say which: (1, 1) then.

    Args:
        names: of the two in `repeats`. labels: what they are called. trainings: of each.
    """
    weights = {names[0]: 1.0, names[1]: -1.0} if names[0] != names[1] else {names[0]: 0.0}
    found = [points(repeats.effect(weights, [k])) for k in range(len(class_names))]
    difference, low, high = np.array([effect[:3] for effect in found]).T
    mean = points(repeats.effect(weights))
    seeded = mean.seeds == mean.seeds
    return Comparison(
        labels,
        tuple(class_names),
        repeats.count,
        difference,
        low,
        high,
        ties=np.array([not is_clear(effect) for effect in found]),
        miou=mean.value,
        interval=(mean.low, mean.high),
        verdict=("above" if mean.value > 0 else "below") if is_clear(mean) else "tie",
        trainings=trainings if seeded else (1, 1),
    )


def compare_recipes(board: Board, one: Row, other: Row) -> Comparison:
    """Two rows by class; over all trainings of their recipes where both have several.

    Raises `RunError` as `compare_rows`.
    """
    rows = {row.config.name: same_recipe(board, row) for row in (one, other)}
    if len(rows) < 2 or min(map(len, rows.values())) < 2:
        return compare_rows(one, other)
    compare_rows(one, other, draws=1)  # refuses what was not measured alike
    kept = {name: [confusions_of(row)[1] for row in found] for name, found in rows.items()}
    counts = [len(found) for found in kept.values()]
    first, second = (f"{row.short.partition(' (')[0]}" for row in (one, other))
    names = one.config.name, other.config.name
    classes = get_dataset(board.dataset).class_names
    return compare_trainings(Repeats(kept), names, (first, second), classes, (counts[0], counts[1]))


def same_recipe(board: Board, row: Row) -> list[Row]:
    """The trainings here of a row's recipe, measured alike, one for each seed, it among them."""

    def seed(run: Row) -> object:
        return ((run.run and run.run.training) or {}).get("seed")

    found: dict[object, Row] = {seed(row): row}
    for each in board.rows:
        alike = each.protocol and row.protocol and not unlike(each.protocol, row.protocol)
        same = (each.config, each.whose, each.changed) == (row.config, row.whose, row.changed)
        if alike and same and each.run and each.run.confusions.is_file():
            found.setdefault(seed(each), each)
    return list(found.values()) if row.whose == "trained here" else [row]
