"""A board as HTML, for the app and for notebooks; the numbers are reports/board.py's."""

from collections.abc import Iterator, Sequence

import numpy as np

from ccnet_lab.app import board_figures
from ccnet_lab.app.callbacks import problem
from ccnet_lab.app.rendering import Html, render, sheet
from ccnet_lab.data.catalog import get_dataset
from ccnet_lab.draw.charts import distribution_figure
from ccnet_lab.errors import LabError
from ccnet_lab.evaluation.metrics import one_class
from ccnet_lab.evaluation.published import AUTHORS, BACKBONES, CLAIMS, SPREAD, peers
from ccnet_lab.reports import board as boards
from ccnet_lab.reports.board import Board, Comparison, Missing, Row, ordered

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
MEASURE = Missing(
    "latency and peak memory on this machine", "python -m ccnet_lab.model.costs --measure"
)
ASCENDING = ("configuration", "parameters", "FLOP", "latency", "memory")  # orders, cheapest first
NO_PAIR = (
    "Two runs with confusion matrices can be compared here, class by class; "
    "so far there are not two."
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
        tie=board_figures.TIE,
    )


def board_html(board: Board, order: str, price: str) -> Iterator[Html]:
    """A board, first without its figures; costs are sorted cheapest first, scores best first."""
    descending = order not in ASCENDING
    above = board_table(board, order, descending) + LEGEND
    below = [
        problems_html(board.problems),
        missing_list(board),
        peers_table(board),
    ]
    yield Html().join([above, render("page.working", what="drawing"), *below])
    scatter = board_figures.scatter_figure(board, price)
    heat = board_figures.heat_figure(board, order, descending)
    drawn = [
        sheet(scatter, f"{board.dataset}_cost_and_miou", "cost against mIoU"),
        sheet(heat, f"{board.dataset}_iou_by_class", "IoU by class"),
    ]
    yield Html().join([above, *drawn, *below])


def compare(board: Board, one: str | None, other: str | None) -> Html:
    """Two rows of a board, class by class; what to do where there are not two."""
    if not one or not other:
        return render("page.text", message=NO_PAIR)
    try:
        rows = board.row(one), board.row(other)
        compared = boards.compare_rows(*rows)
        scores = [boards.image_scores(row) for row in rows]
    except LabError as error:
        return problem(error)
    figure = board_figures.comparison_figure(compared)
    spread = distribution_figure(
        dict(zip((one, other), scores, strict=True)), "mIoU of an image, %"
    )
    drawn = [
        sheet(figure, "comparison", f"{one} less {other}"),
        sheet(spread, "image_scores", f"mIoU of the images, {one} and {other}"),
    ]
    return Html().join([comparison_html(compared), *drawn])
