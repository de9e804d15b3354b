"""A board as HTML, for the app and for notebooks; the numbers are reports/board.py's."""

from collections.abc import Sequence

import numpy as np

from ccnet_lab.app import board_figures
from ccnet_lab.app.rendering import Html, render
from ccnet_lab.data.catalog import get_dataset
from ccnet_lab.evaluation.metrics import one_class
from ccnet_lab.evaluation.published import AUTHORS, BACKBONES, CLAIMS, SPREAD, peers
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
TRAIN_ALL = "python scripts/train_all.py --data ROOT --runs runs --only '*_{}'"
LEGEND = render("board.legend", spread=SPREAD, authors=AUTHORS)


def board_table(
    board: Board,
    sort_by: str = "configuration",
    descending: bool = False,
    costs: bool = True,
    measured: bool = True,
) -> Html:
    """The rows in the order of `ordered`, as a table that scrolls by itself.

    With `costs` it shows what the configurations cost; the first time that takes about a second
    for each. Without `measured` it leaves out what was measured here. Raises `RunError` where there
    is no such order.
    """
    class_name = sort_by if sort_by in board.class_names else ""
    columns = SCORES | (PRICES if costs else {})
    columns = {name: order for name, order in columns.items() if measured or "here" not in name}
    if not measured:
        columns.pop("measured − published")
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
        whole=measured,
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
    """What is missing in one line, the commands that bring it folded below; or ""."""
    wanted = [(row.short, lack) for row in board.rows for lack in row.missing]
    if costs and any(row.here is None for row in board.rows):
        wanted.append(("all", MEASURE))
    if not wanted:
        return ""
    lacking = sum(row.miou is None for row in board.rows)
    command = TRAIN_ALL.format(board.dataset) if lacking else wanted[0][1].command
    what = f"{lacking} of {len(board.rows)} scores" if lacking else wanted[0][1].what
    return render("board.lacking", wanted=wanted, what=what, command=command)


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
        tie=board_figures.tie_of(comparison),
    )
