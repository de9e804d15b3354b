"""The tab Explore: the picture, its controls, the deletion test; explore_html.py has the HTML."""

from collections.abc import Iterator
from dataclasses import replace

import gradio as gr

from ccnet_lab.app.callbacks import safely, working
from ccnet_lab.app.explore_html import RECURRENCES
from ccnet_lab.app.page import QUICK, SLOW, STREAM, Page, Updates, on_show
from ccnet_lab.app.rendering import render, sheet
from ccnet_lab.app.session import SHORT_SIDES, Workbench
from ccnet_lab.app.view_state import ViewState
from ccnet_lab.app.visitor_files import kept_upload
from ccnet_lab.draw.figures import deletion_figure
from ccnet_lab.explore.deletion import deletion_test

SIZES = [(f"short side {side}" if side else "as evaluated", side) for side in SHORT_SIDES]
LAST_CLICK = "(state, _) => [state, window.lastClick]"
QUESTION = ("model", "image", "short_side", "x", "y", "recurrence")  # of a deletion test


def lay_out(page: Page) -> None:
    """Make the tab's components and wire their events."""
    with gr.Row(elem_id="pictures"):
        with gr.Column(scale=5, min_width=300, elem_id="stage-column"):
            page.stage = gr.Image(
                label="the image with its labels; click a pixel", show_label=False,
                interactive=False, format="png", buttons=[], elem_id="stage", type="filepath",
            )  # fmt: skip
            page.marker, page.legend = gr.HTML(elem_id="marker"), gr.HTML(elem_id="legend")
        with gr.Column(scale=7, min_width=300):
            page.answer = gr.HTML(elem_id="answer")
            with gr.Row(elem_id="ask"):
                page.steps = gr.Radio(
                    list(RECURRENCES),
                    value=page.first.recurrence,
                    label="facts and test for R",
                    elem_id="steps",
                )
                ask = gr.Button("Is it true? Run the deletion test", elem_id="test")
            page.truth = gr.HTML(elem_id="truth")
    with gr.Row(elem_id="controls"):
        page.sliders = tuple(
            gr.Slider(0, 1, getattr(page.first, name), step=0.05, label=label, elem_id=name)
            for name, label in (
                ("labels", "labels over the image"),
                ("photo", "image under the maps"),
                ("clip", "clip the peaks of the maps"),
            )
        )
    with gr.Row(elem_id="inputs"):
        with gr.Column(scale=3, min_width=260):
            page.upload = gr.File(
                label="Your photograph", type="filepath", height=150, elem_id="upload"
            )
        with gr.Column(scale=5, min_width=300):
            examples = gr.Gallery(
                page.bench.examples, label="Examples", columns=5, height=150, format="png",
                allow_preview=False, object_fit="cover", elem_id="examples", buttons=[],
            )  # fmt: skip
        with gr.Column(scale=2, min_width=220):
            page.size = gr.Dropdown(
                SIZES, value=page.first.short_side, label="network input", elem_id="size"
            )
    _connect(page, examples)
    _connect_test(page, ask)


def _connect(page: Page, examples: gr.Gallery) -> None:
    """Wire the click, the sliders and the inputs."""
    bench, state = page.bench, page.state

    def click(state: ViewState, where: list[float] | None) -> Updates:
        return page.show_pixel(bench.clicked(state, where)) if where else gr.skip()

    def slide_labels(state: ViewState, labels: float) -> Updates:
        return page.show_picture(replace(state, labels=labels))

    def slide_maps(state: ViewState, photo: float, clip: float) -> Updates:
        return page.show_answer(replace(state, photo=photo, clip=clip))

    def choose_steps(state: ViewState, recurrence: int) -> Updates:
        return page.show_pixel(replace(state, recurrence=recurrence))

    def choose_size(state: ViewState, short_side: int) -> Updates:
        return page.show_all(replace(state, short_side=short_side))

    def take_upload(state: ViewState, path: str | None) -> Updates:
        if not path:
            return page.show_all(state)
        with kept_upload(page.folder, path, state.image) as copy:
            return page.show_all(bench.with_image(state, copy))

    def take_example(state: ViewState, event: gr.SelectData) -> Updates:
        return page.show_all(bench.with_image(state, bench.examples[event.index]))

    where = gr.JSON(visible=False)
    labels, photo, clip = page.sliders
    slow = SLOW | {"show_progress_on": [page.stage]}
    page.stage.select(page.safely(click), [state, where], page.outputs, js=LAST_CLICK, **QUICK)
    labels.input(page.safely(slide_labels), [state, labels], page.outputs, **QUICK)
    for slider in (photo, clip):
        slider.input(page.safely(slide_maps), [state, photo, clip], page.outputs, **QUICK)
    page.steps.input(page.safely(choose_steps), [state, page.steps], page.outputs, **QUICK)
    page.size.input(page.safely(choose_size), [state, page.size], page.outputs, **slow)
    page.upload.upload(page.safely(take_upload), [state, page.upload], page.outputs, **slow)
    examples.select(page.safely(take_example), state, page.outputs, **slow)


def _connect_test(page: Page, ask: gr.Button) -> None:
    """Wire the deletion test; its answer is shown only while the visitor looks at the same map."""
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

    multiple = STREAM | {"trigger_mode": "multiple"}
    ask.click(safely(test, failed), page.state, [page.truth, found, asked], **multiple).then(
        show, [page.state, asked, found], page.truth, **QUICK
    )


def truth(bench: Workbench, state: ViewState) -> Iterator[str]:
    """The deletion test of the chosen pixel's map: its progress, then its curves and its number."""
    view, at = bench.view(state), f"pixel ({state.x}, {state.y})"
    found = yield from working(
        lambda progress: deletion_test(view, state.x, state.y, state.recurrence, progress=progress),
        f"removing cells for {at}, forward pass after forward pass",
    )
    name = view.explorer.class_names[found.label]
    figure = deletion_figure(
        found.counts,
        found.attended,
        found.controls,
        found.area,
        found.noise,
        f"probability of {name}",
        f"{at}, R = {found.recurrence}",
    )
    number = render("explore.deletion", area=found.area, noise=found.noise)
    file = f"deletion_test_R{found.recurrence}"
    yield number + sheet(figure, file, f"score of {name} as cells are removed")
