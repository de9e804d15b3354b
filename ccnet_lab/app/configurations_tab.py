"""The tab Configurations: a board, two of its rows by class, what attention costs."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gradio as gr

from ccnet_lab.app import board_figures, board_page
from ccnet_lab.app.callbacks import safely
from ccnet_lab.app.events import MEASURE, STREAM
from ccnet_lab.app.growth_html import growth_by_formula, measured_growth
from ccnet_lab.app.page import TABS, Page, Updates
from ccnet_lab.app.rendering import Html, render
from ccnet_lab.app.session import Workbench
from ccnet_lab.configs import CONFIGS
from ccnet_lab.data.catalog import get_dataset
from ccnet_lab.model.costs import cost
from ccnet_lab.reports import board as boards

PRICES = list(board_figures.COSTS)  # what can stand against mIoU


def lay_out(page: Page) -> tuple[dict[str, Any], list[Any]]:
    """Make the tab's components and wire their events.

    Returns the event that fills it, and the choices: data set, order, two rows to compare.
    """
    bench = page.bench
    with gr.Row(elem_id="board-controls"):
        dataset = gr.Dropdown(
            datasets(bench), value="voc", label="data set", elem_id="board-dataset"
        )
        order = gr.Dropdown(
            ["configuration"], value="configuration", label="sorted by", elem_id="board-order",
            allow_custom_value=True,
        )  # fmt: skip
        price = gr.Dropdown(PRICES, value=PRICES[0], label="cost", elem_id="board-cost")
    shown = gr.HTML(elem_id="board")
    with gr.Row(elem_id="compare-controls"):
        one = gr.Dropdown([], label="compare", elem_id="one", allow_custom_value=True)
        other = gr.Dropdown([], label="with", elem_id="other", allow_custom_value=True)
    compared = gr.HTML(elem_id="compared")
    gr.HTML(render("board.growth"), elem_id="growth-words")
    grow = gr.Button("Measure it on this machine", elem_id="grow", elem_classes="quiet")
    growth, drawn = gr.HTML(elem_id="growth"), gr.State(False)
    outputs = [shown, dataset, order, one, other, compared, growth, drawn]

    def refresh(tab: str, *choices: Any) -> Iterator[Updates]:
        if tab == TABS[2]:
            yield from filling(bench, outputs, *choices)
        else:  # a generator that yields nothing would empty all its outputs
            yield {shown: gr.skip()}

    def show_pair(key: str, first: str | None, second: str | None) -> Html:
        return board_page.compare(boards.read_board(_folders(bench), key), first, second)

    filled: dict[str, Any] = dict(
        fn=safely(refresh, lambda html, *_: {shown: html}),
        inputs=[page.tab, dataset, order, price, one, other, drawn],
        outputs=outputs,
        **STREAM,
    )
    for choice in (dataset, order, price):
        choice.input(**filled)
    for choice in (one, other):
        choice.input(safely(show_pair), [dataset, one, other], compared, **STREAM)
    grow.click(safely(measured_growth), None, growth, **MEASURE)
    return filled, [dataset, order, one, other]


def filling(
    bench: Workbench,
    parts: list[Any],
    key: str,
    by: str,
    price: str,
    first: str | None,
    second: str | None,
    growth_drawn: bool,
) -> Iterator[Updates]:
    """The updates that fill the tab with the board of a data set; unknown choices become the first.

    Args:
        bench: has the folder of runs. parts: the components.
        key, by, price: the data set, the order, the x axis of the scatter.
        first, second: labels of the rows to compare. growth_drawn: whether the costs' growth is.
    """
    shown, dataset, order, one, other, compared, growth, drawn = parts
    yield {shown: render("page.working", what="reading the runs")}
    board = boards.read_board(_folders(bench), key)
    orders = [*boards.ORDERS, *board.class_names]
    by = by if by in orders else orders[0]
    choices = {order: gr.Dropdown(orders, value=by)}
    choices[dataset] = gr.Dropdown(datasets(bench), value=key)
    for html in board_page.board_html(board, by, price if price in PRICES else PRICES[0]):
        yield {shown: html, **choices}
    rows = [row.label for row in board.rows if row.run and row.run.confusions.is_file()]
    pair = [first, second]
    if first == second or not {first, second} <= {*rows}:
        pair = [*rows, None, None][:2]
    yield {
        one: gr.Dropdown(rows, value=pair[0]),
        other: gr.Dropdown(rows, value=pair[1]),
        compared: board_page.compare(board, *pair),
    }
    if not growth_drawn:
        yield {growth: growth_by_formula(), drawn: True}


def datasets(bench: Workbench) -> list[tuple[str, str]]:
    """(title, key) of the data sets that have a board."""
    return [(get_dataset(key).title, key) for key in boards.board_datasets(_folders(bench))]


def _folders(bench: Workbench) -> list[Path]:
    folders = [*map(Path, boards.RUNS), *([bench.runs] if bench.runs else [])]
    return [*{folder.resolve(): folder for folder in reversed(folders)}.values()]


def count_costs() -> None:
    """Count the twelve's operations once, about two seconds, so that the first board opens fast."""
    for config in CONFIGS.values():
        cost(config)
