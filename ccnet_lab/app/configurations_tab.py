"""The tab Configurations: a board, two of its rows by class, what attention costs."""

from collections.abc import Iterator
from typing import Any

import gradio as gr

from ccnet_lab.app.board_views import KINDS, View, open_view
from ccnet_lab.app.callbacks import safely
from ccnet_lab.app.events import LAST, MEASURE, STREAM
from ccnet_lab.app.growth_html import growth_by_formula, measured_growth
from ccnet_lab.app.page import TABS, Page, Updates
from ccnet_lab.app.rendering import Html, render
from ccnet_lab.app.session import Workbench
from ccnet_lab.configs import CONFIGS
from ccnet_lab.data.catalog import DATASETS
from ccnet_lab.model.costs import cost
from ccnet_lab.reports.miniatures import read_miniatures


def lay_out(page: Page) -> tuple[dict[str, Any], list[Any]]:
    """Make the tab's components and wire their events.

    Returns the event that fills it, and the choices: kind of score, data set, order, two rows.
    """
    bench = page.bench
    with gr.Row(elem_id="board-controls"):
        kind = gr.Radio([*KINDS], label="scores", elem_id="board-kind", interactive=False)
        dataset = gr.Dropdown(
            [(data.title, key) for key, data in DATASETS.items()], value=None, label="data set",
            elem_id="board-dataset",
        )  # fmt: skip
        order = gr.Dropdown(
            ["configuration"], value="configuration", label="sorted by", elem_id="board-order",
            allow_custom_value=True,
        )  # fmt: skip
    shown = gr.HTML(elem_id="board")
    with gr.Row(elem_id="board-pair"):
        with gr.Column(elem_id="compare"):
            with gr.Row(elem_id="compare-controls"):
                typed: dict[str, Any] = dict(allow_custom_value=True, container=False)
                one = gr.Dropdown([], label="compare", elem_id="one", **typed)
                other = gr.Dropdown([], label="with", elem_id="other", **typed)
            compared = gr.HTML(elem_id="compared")
        with gr.Column(elem_id="prices"):
            price = gr.Dropdown([], label="cost", elem_id="board-cost", container=False)
            costs = gr.HTML(elem_id="costs")
    rest = gr.HTML(elem_id="board-rest")
    with gr.Accordion("What attention costs as the picture grows", open=False, elem_id="growing"):
        gr.HTML(render("board.growth"), elem_id="growth-words")
        grow = gr.Button("Measure it on this machine", elem_id="grow", elem_classes="quiet")
        measured = gr.HTML(elem_id="measured-growth")  # apart: the formula's may come after it
        growth, drawn = gr.HTML(elem_id="growth"), gr.State(False)
    outputs = [shown, kind, dataset, order, price, one, other, compared, costs, rest, growth, drawn]

    def refresh(tab: str, *choices: Any) -> Iterator[Updates]:
        if tab == TABS[2]:
            yield from filling(bench, outputs, *choices)
        else:  # a generator that yields nothing would empty all its outputs
            yield {shown: gr.skip()}

    def switch(tab: str, *choices: Any) -> Iterator[Updates]:
        yield from filling(bench, outputs, *choices, switched=True)

    def show_pair(which: str, key: str, first: str | None, second: str | None) -> Html:
        return open_view(which, bench.run_folders(), key)[1].compare(first, second)

    filled: dict[str, Any] = dict(
        fn=safely(refresh, lambda html, *_: {shown: html}),
        inputs=[page.tab, kind, dataset, order, price, one, other, drawn],
        outputs=outputs,
        **STREAM,
    )
    kind.input(**(filled | LAST | {"fn": safely(switch, lambda html, *_: {shown: html})}))
    for choice in (dataset, order, price):
        choice.input(**(filled | LAST))
    for choice in (one, other):
        choice.input(safely(show_pair), [kind, dataset, one, other], compared, **LAST)
    grow.click(safely(measured_growth), None, measured, **MEASURE)
    return filled, [kind, dataset, order, one, other]


def filling(
    bench: Workbench,
    parts: list[Any],
    which: str | None,
    key: str | None,
    asked_order: str,
    asked_cost: str,
    first: str | None,
    second: str | None,
    growth_drawn: bool,
    *,
    switched: bool = False,
) -> Iterator[Updates]:
    """The updates that fill the tab with a kind of score; unknown choices become the first.

    A choice that stands is not set again: the visitor may have changed it meanwhile.

    Args:
        bench: has the folder of runs. parts: the components.
        which, key, asked_order, asked_cost: kind, data set, order, x axis of the scatter.
        first, second: the rows to compare. growth_drawn: whether the costs' growth is.
        switched: whether the kind was just chosen, so that the data set may be another.
    """
    shown, kind, dataset, order, price, one, other, compared, costs, rest, growth, drawn = parts
    if not growth_drawn:
        yield {shown: render("page.working", what="reading the runs")}
    which, view = open_view(which, bench.run_folders(), key, switched)
    by = asked_order if asked_order in view.orders else view.orders[0]
    cost_of = asked_cost if asked_cost in view.prices else view.prices[0]
    pair = _pair(view, first, second)
    yield {
        shown: view.top(by),
        kind: gr.skip() if growth_drawn else gr.Radio(value=which, interactive=True),
        dataset: _menu(view.datasets, view.dataset or None, key),
        order: _menu(view.orders, by, asked_order),
        price: _menu(view.prices, cost_of, asked_cost),
        one: _menu(view.rows, pair[0], first),
        other: _menu(view.rows, pair[1], second),
    }
    yield {compared: view.compare(*pair), rest: view.rest(by)}
    yield {costs: view.scatter(cost_of)}
    if not growth_drawn:
        yield {growth: growth_by_formula(), drawn: True}


def _menu(choices: list[Any], value: str | None, asked: str | None) -> gr.Dropdown:
    """A menu's new choices; its value stays as it is where it is the one asked for."""
    return gr.Dropdown(choices) if value == asked else gr.Dropdown(choices, value=value)


def _pair(view: View, first: str | None, second: str | None) -> list[str | None]:
    """The two rows, or the first two there are."""
    rows = [name for _, name in view.rows]
    if first == second or not {first, second} <= {*rows}:
        return [*rows, None, None][:2]
    return [first, second]


def prepare(bench: Workbench) -> None:
    """Read and count once what takes seconds, so that the first board opens fast."""
    view = open_view(None, bench.run_folders(), None)[1]
    view.top(view.orders[0])
    view.compare(*_pair(view, None, None))
    view.rest(view.orders[0])
    view.scatter(view.prices[0])
    studies = read_miniatures(bench.run_folders()).studies.values()
    for config in [*CONFIGS.values(), *(c for study in studies for c in study.configs.values())]:
        cost(config)
