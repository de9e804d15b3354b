"""A board's figures, for the app and for notebooks; they are drawn in draw/charts.py."""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from ccnet_lab import draw
from ccnet_lab.data.catalog import get_dataset
from ccnet_lab.evaluation.published import SPREAD
from ccnet_lab.reports.board import Board, Comparison, Row, pareto

if TYPE_CHECKING:  # matplotlib takes a third of a second
    from matplotlib.figure import Figure

COSTS: Mapping[str, Callable[[Row], float | None]] = {  # what a scatter's x axis can be
    "GFLOP of one image, by formula": lambda row: row.cost.formula_flops / 1e9,
    "GFLOP of one image, counted": lambda row: row.cost.counted_flops / 1e9,
    "parameters, million": lambda row: row.cost.parameters / 1e6,
    "seconds for one image on this machine": lambda row: row.here.seconds if row.here else None,
    "peak memory on this machine, MiB": lambda row: (
        row.here.peak_bytes / 2**20 if row.here else None
    ),
}
TIE = f"the interval holds 0, or the difference is within {SPREAD} points"


def heat_figure(board: Board, by: str = "configuration", descending: bool = False) -> "Figure":
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
    return draw.charts.class_heatmap(rows, board.class_names, first, title)


def scatter_figure(board: Board, cost: str = "GFLOP of one image, by formula") -> "Figure":
    """`cost_scatter` of a board; `cost` is one of `COSTS`.

    Published and measured have a Pareto front each, of comparable rows only.
    """
    published = {row.config.name: row for row in board.rows}.values()  # one for all its runs
    points = _points([*published], cost, measured=False, alike=True)
    for alike in (True, False):
        rows = [row for row in board.rows if row.alike is alike]
        points += _points(rows, cost, measured=True, alike=alike)
    return draw.charts.cost_scatter(
        points, cost, f"{get_dataset(board.dataset).title}: cost and mIoU"
    )


def _points(
    rows: Sequence[Row], cost: str, measured: bool, alike: bool
) -> list["draw.charts.Point"]:
    """The rows whose cost and mIoU are known, as points of one kind."""
    found: list[tuple[Row, float, float]] = []
    for row in rows:
        price, miou = COSTS[cost](row), row.miou if measured else row.published
        if price is not None and miou is not None:
            found.append((row, price, miou))
    front = pareto([price for _, price, _ in found], [miou for _, _, miou in found])
    return [
        draw.charts.Point(
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


def tie_of(comparison: Comparison) -> str:
    """What a tie is: by the seeds' spread where there are several, by the authors' otherwise."""
    return "the interval holds 0" if comparison.seeded else TIE


def comparison_figure(comparison: Comparison, colours: tuple[str, str] | None = None) -> "Figure":
    """`difference_bars` of a comparison."""
    c, colours = comparison, colours or (draw.charts.BLUE, draw.charts.ORANGE)
    title = f"{c.labels[0]} less {c.labels[1]}: mIoU {c.miou:+.2f} points, {c.verdict}"
    over = "images and seeds" if c.seeded else "the images"
    bars = c.class_names, c.difference, c.low, c.high, c.ties, c.labels
    return draw.charts.difference_bars(*bars, title, f"tie: {tie_of(c)}", over, colours)
