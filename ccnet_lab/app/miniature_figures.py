"""The miniatures' figures, for the app and for notebooks; they are drawn in draw/charts.py."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ccnet_lab import draw
from ccnet_lab.app.board_figures import COSTS
from ccnet_lab.reports.board import Row
from ccnet_lab.reports.miniatures import FACTORS, ORDERS, PARTS, Study, short
from ccnet_lab.reports.trainings import is_clear

if TYPE_CHECKING:  # matplotlib takes a third of a second
    from matplotlib.figure import Figure

PRICES = [*COSTS][:3]  # the others are measured, of the full networks only


def heat_figure(studies: Sequence[Study], by: str = ORDERS[0]) -> "Figure":
    """The IoU by class of each data set's configurations; classes by one of `ORDERS`."""
    blocks = []
    for study in studies:
        order, names = study.order(by), study.four or tuple(study.configs)
        labels = [f"{short(study.configs[n])}  {study.miou[n].value:.1f}" for n in names]
        table = np.stack([study.cells[name][0][order] for name in names])
        blocks.append(
            draw.charts.Block(study.title, labels, [study.class_names[k] for k in order], table)
        )
    return draw.charts.miniature_heatmap(blocks)


def factors_figure(studies: Sequence[Study]) -> "Figure":
    """What depth, stride and recurrence change in each data set, over `PARTS` of its classes."""
    rows = [
        f"{study.title}, {part}" if part == PARTS[0] else part
        for study in studies
        for part in PARTS
    ]
    panels: dict[str, dict[str, NDArray[np.float64]]] = {}
    for factor in FACTORS:
        found = [study.effects.get((factor.name, factor.what), {}) for study in studies]
        if any(found):
            effects = [each.get(part) for each in found for part in PARTS]
            values = [[*e[:3], is_clear(e)] if e else [np.nan] * 4 for e in effects]
            what = factor.what.removeprefix("R = ")
            panels.setdefault(factor.name, {})[what] = np.array(values, np.float64).T
    drawn = []
    for name, series in panels.items():
        what = next(iter(series)) if len(series) == 1 else ""  # else the legend says it
        title = f"{name}, R = {what}" if name == "recurrence" else f"{name}, {what}"
        drawn.append(draw.charts.Panel(title.strip(), series))
    return draw.charts.effects_figure(rows, drawn)


def scatter_figure(study: Study, price: str = PRICES[0]) -> "Figure":
    """Cost against mIoU of a data set's configurations; `price` is one of `PRICES`."""
    costs = {n: COSTS[price](Row(n, c)) or 0.0 for n, c in study.configs.items()}
    front = study.front(costs)
    points = [
        draw.charts.Point(
            short(study.configs[name]),
            cost,
            study.miou[name].value,
            measured=True,
            front=front[name],
            interval=(study.miou[name].low, study.miou[name].high),
            miniature=True,
        )
        for name, cost in costs.items()
    ]
    over = "images and seeds" if study.seeded else "the images"
    return draw.charts.cost_scatter(
        points, price, f"{study.title}, in miniature: cost and mIoU", over
    )
