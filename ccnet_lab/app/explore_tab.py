"""The tab Explore: the viewer, which draws maps in the page; inputs, and the deletion test."""

from collections.abc import Iterator
from dataclasses import replace
from importlib.resources import files
from typing import Any

import gradio as gr

from ccnet_lab import draw
from ccnet_lab.app.callbacks import safely, working
from ccnet_lab.app.events import PINNED, SEEN, SLOW, STREAM
from ccnet_lab.app.page import Page, Updates
from ccnet_lab.app.rendering import render, sheet
from ccnet_lab.app.session import SHORT_SIDES, Workbench
from ccnet_lab.app.view_state import ViewState, on_show
from ccnet_lab.app.visitor_files import kept_upload
from ccnet_lab.explore.deletion import deletion_test
from ccnet_lab.viewer import page as viewer

SIZES = [(f"short side up to {side}" if side else "as evaluated", side) for side in SHORT_SIDES]
QUESTION = ("model", "image", "short_side")  # a deletion test's answer goes with these


def lay_out(page: Page) -> None:
    """Make the tab's components and wire their events."""

    def exact_map(
        asked: list[Any],
    ) -> list[float] | str:  # gradio marks it
        return page.exact_map(asked)

    script = files("ccnet_lab.app").joinpath("viewer_host.js").read_text(encoding="utf-8")
    script = script.replace("VIEWER_STYLE", viewer.as_string(viewer.style()))
    script = script.replace("TABLES_SOURCE", viewer.as_string(viewer.tables()))
    page.view = gr.HTML(
        html_template="<div class='ccnet-host'></div>",
        js_on_load=script.replace("VIEWER_SOURCE", viewer.as_string(viewer.script())),
        server_functions=[exact_map],
        apply_default_css=False,
        elem_id="view",
    )
    with gr.Row(elem_id="ask"):
        ask = gr.Button("Is it true? Run the deletion test", elem_id="test")
    page.truth = gr.HTML(elem_id="truth")
    with gr.Row(elem_id="inputs"):
        with gr.Column(scale=3, min_width=260):
            page.upload = gr.File(
                label="Your photograph", type="filepath", height=150, elem_id="upload"
            )
        with gr.Column(scale=5, min_width=300):
            examples = gr.Gallery(
                page.bench.examples, label="Examples", columns=5, height=240, format="png",
                allow_preview=False, object_fit="cover", elem_id="examples", buttons=[],
            )  # fmt: skip
        with gr.Column(scale=2, min_width=220):
            page.size = gr.Dropdown(
                SIZES, value=page.first.short_side, label="network input", elem_id="size"
            )
    _connect(page, examples)
    _connect_test(page, ask)


def _connect(page: Page, examples: gr.Gallery) -> None:
    """Wire the inputs."""
    bench = page.bench

    def choose_size(state: ViewState, short_side: int) -> Updates:
        return page.show_all(replace(state, short_side=short_side))

    def take_upload(state: ViewState, path: str | None) -> Updates:
        if not path:
            return page.show_all(state)
        with kept_upload(page.folder, path, state.image) as copy:
            return page.show_all(bench.with_image(state, copy))

    def take_example(state: ViewState, event: gr.SelectData) -> Updates:
        return page.show_all(bench.with_image(state, bench.examples[event.index]))

    slow: dict[str, Any] = SLOW | {"show_progress_on": [page.view], "js": SEEN}
    for event, act, inputs in (
        (page.size.input, choose_size, [page.size]),
        (page.upload.upload, take_upload, [page.upload]),
        (examples.select, take_example, []),
    ):
        event(page.seen(act), [page.state, page.looked, *inputs], page.outputs, **slow)


def _connect_test(page: Page, ask: gr.Button) -> None:
    """Wire the deletion test; its answer is not shown where another picture is on show by then."""
    asked, found = gr.State(page.first), gr.State("")

    def test(state: ViewState) -> Iterator[Updates]:
        for html in truth(page.bench, on_show(state)):
            answer = gr.skip() if "<img" in html else html
            yield {page.truth: answer, found: html, asked: state}

    def failed(html: str, state: ViewState) -> Updates:
        return {page.truth: html, found: html, asked: state}

    def show(state: ViewState, asked: ViewState, html: str) -> str:
        same = all(getattr(state, name) == getattr(asked, name) for name in QUESTION)
        return html if same else ""

    multiple = STREAM | {"trigger_mode": "multiple", "js": PINNED}
    inputs, outputs = [page.state, page.looked], [page.truth, found, asked]
    ask.click(page.seen(safely(test, failed), plain=True), inputs, outputs, **multiple).then(
        show, [page.state, asked, found], page.truth, queue=False, api_visibility="private"
    )


def truth(bench: Workbench, state: ViewState) -> Iterator[str]:
    """The deletion test of the chosen pixel's map: its progress, then its curves and its number."""
    view, at = bench.view(state), f"pixel ({state.x}, {state.y})"
    found = yield from working(
        lambda progress: deletion_test(view, state.x, state.y, state.recurrence, progress=progress),
        f"removing cells for {at}, forward pass after forward pass",
    )
    name = view.explorer.class_names[found.label]
    figure = draw.figures.deletion_figure(
        found.counts,
        found.attended,
        found.controls,
        found.area,
        found.noise,
        f"probability of {name}",
        f"{at}, R = {found.recurrence}",
    )
    number = render("explore.deletion", at=at, area=found.area, noise=found.noise)
    file = f"deletion_test_R{found.recurrence}"
    yield number + sheet(figure, file, f"score of {name} as cells are removed")
