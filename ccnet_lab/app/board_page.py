"""A board's HTML and figures, for the app and for notebooks; the numbers are reports/board.py's."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from ccnet_lab.app.rendering import Html, render
from ccnet_lab.data.catalog import get_dataset
from ccnet_lab.draw.charts import Point, class_heatmap, cost_scatter, difference_bars
from ccnet_lab.evaluation.metrics import one_class
from ccnet_lab.evaluation.published import AUTHORS, BACKBONES, CLAIMS, SPREAD, peers
from ccnet_lab.reports.board import Board, Comparison, Missing, Row, ordered, pareto

COSTS: Mapping[str, Callable[[Row], float | None]] = {  # what a scatter's x axis can be
    "GFLOP of one image, by formula": lambda row: row.cost.formula_flops / 1e9,
    "GFLOP of one image, counted": lambda row: row.cost.counted_flops / 1e9,
    "parameters, million": lambda row: row.cost.parameters / 1e6,
    "seconds for one image on this machine": lambda row: row.here.seconds if row.here else None,
    "peak memory on this machine, MiB": lambda row: (
        row.here.peak_bytes / 2**20 if row.here else None
    ),
}
SCORES = {  # a column's title: the order of `ordered` that sorts it
    "configuration": "configuration",
    "published, mIoU %": "published mIoU",
    "measured here, mIoU %": "measured mIoU",
    "measured − published": "difference",
}
PRICES = {
    "parameters": "parameters",
    "GFLOP formula": "FLOP",
    "GFLOP counted": "",
    "latency here": "latency",
    "peak memory here": "memory",
}
TIE = f"the interval holds 0, or the difference is within {SPREAD} points"
MEASURE = Missing(
    "latency and peak memory on this machine", "python -m ccnet_lab.model.costs --measure"
)
LEGEND = render("board.legend", spread=SPREAD, authors=AUTHORS)


def board_table(
    board: Board, sort_by: str = "configuration", descending: bool = False, costs: bool = True
) -> Html:
    """The rows in the order of `ordered`, as a table that scrolls by itself.

    With `costs` it shows what the configurations cost; the first time that takes about a second
    for each. Raises `RunError` where there is no such order.
    """
    class_name = sort_by if sort_by in board.class_names else ""
    columns = SCORES | (PRICES if costs else {})
    if class_name:
        columns[f"IoU of {class_name}, %"] = class_name
    return render(
        "board.table",
        title=get_dataset(board.dataset).title,
        columns=columns,
        rows=[_row(row, class_name) for row in ordered(board, sort_by, descending)],
        sort_by=sort_by,
        descending=descending,
        class_name=class_name,
        costs=costs,
    )


def _row(row: Row, class_name: str) -> tuple[Row, list[str], list[str], tuple[str, float | None]]:
    """A row, what it is, how it was measured, and the kind and value of a class's IoU."""
    about = [row.whose, str(row.run.folder) if row.run else "", *row.changed]
    how = [one_class(row.iou.values()), *row.how]
    measured, logged = row.iou.get(class_name), row.log_iou.get(class_name)
    iou = ("published", logged) if measured is None else ("measured", measured)
    return row, [*filter(None, about)], [*filter(None, how)], iou


def problems_html(problems: Sequence[str]) -> str:
    """The folders that could not be read, folded; "" where there are none."""
    return render("board.problems", texts=problems) if problems else ""


def missing_list(board: Board, costs: bool = True) -> str:
    """What is missing and the commands that bring it; "" where nothing is."""
    wanted = [(row.short, lack) for row in board.rows for lack in row.missing]
    if costs and any(row.here is None for row in board.rows):
        wanted.append(("all", MEASURE))
    unmeasured = all(row.miou is None for row in board.rows)
    return render("board.lacking", wanted=wanted, open=unmeasured) if wanted else ""


def peers_table(board: Board) -> Html:
    """What was published on this data set, each line with its protocol and its source; or ""."""
    lines = peers(board.dataset)
    if not lines:
        return Html()
    return render("board.peers", lines=lines, backbones=BACKBONES, claims=CLAIMS, spread=SPREAD)


def comparison_html(comparison: Comparison) -> Html:
    """A comparison as text, to stand beside `comparison_figure`."""
    clear = comparison.difference[~comparison.ties]
    return render(
        "board.comparison",
        c=comparison,
        classes=np.count_nonzero(~np.isnan(comparison.difference)),
        better=np.count_nonzero(clear > 0),
        worse=np.count_nonzero(clear < 0),
        tie=TIE,
    )


def heat_figure(board: Board, by: str = "configuration", descending: bool = False) -> Figure:
    """`class_heatmap` of a board, its rows as `ordered`, or `by` one of `Board.heat_rows`.

    By one of those, a class or the measured mIoU, the classes take the order of (the first) row.
    """
    rows, first = board.heat_rows(), ""
    if by in rows:
        first = by
    else:
        rows = board.heat_rows(by, descending)
        if by in ("measured mIoU", *board.class_names):
            first = next(iter(rows))
    title = f"IoU by class, {get_dataset(board.dataset).title}"
    return class_heatmap(rows, board.class_names, first, title)


def scatter_figure(board: Board, cost: str = "GFLOP of one image, by formula") -> Figure:
    """`cost_scatter` of a board; `cost` is one of `COSTS`.

    Published and measured have a Pareto front each, of comparable rows only.
    """
    published = {row.config.name: row for row in board.rows}.values()  # one for all its runs
    points = _points([*published], cost, measured=False, alike=True)
    for alike in (True, False):
        rows = [row for row in board.rows if row.alike is alike]
        points += _points(rows, cost, measured=True, alike=alike)
    return cost_scatter(points, cost, f"{get_dataset(board.dataset).title}: cost and mIoU")


def _points(rows: Sequence[Row], cost: str, measured: bool, alike: bool) -> list[Point]:
    """The rows whose cost and mIoU are known, as points of one kind."""
    found: list[tuple[Row, float, float]] = []
    for row in rows:
        price, miou = COSTS[cost](row), row.miou if measured else row.published
        if price is not None and miou is not None:
            found.append((row, price, miou))
    front = pareto([price for _, price, _ in found], [miou for _, _, miou in found])
    return [
        Point(
            row.short.partition(" (")[0],
            price,
            miou,
            measured,
            on and alike,
            row.interval if measured else None,
            alike,
        )
        for (row, price, miou), on in zip(found, front, strict=True)
    ]


def comparison_figure(comparison: Comparison) -> Figure:
    """`difference_bars` of a comparison."""
    c = comparison
    title = f"{c.labels[0]} less {c.labels[1]}: mIoU {c.miou:+.2f} points, {c.verdict}"
    return difference_bars(
        c.class_names, c.difference, c.low, c.high, c.ties, c.labels, title, f"tie: {TIE}"
    )
