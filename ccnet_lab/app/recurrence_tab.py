"""The tab Recurrence: the same weights at R = 0 to 3 on the visitor's picture."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np

from ccnet_lab import draw
from ccnet_lab.app.callbacks import Progress, problem, safely, working
from ccnet_lab.app.events import MEASURE, STREAM
from ccnet_lab.app.page import TABS, Page, Updates
from ccnet_lab.app.recurrence_html import label_rows
from ccnet_lab.app.rendering import render, sheet
from ccnet_lab.app.session import Workbench
from ccnet_lab.app.view_state import ViewState
from ccnet_lab.errors import DataError, LabError
from ccnet_lab.explore.explorer import View
from ccnet_lab.explore.measures import query_dependence
from ccnet_lab.explore.recurrence import (
    beacon_accuracy,
    compare_recurrences,
    read_mask,
)
from ccnet_lab.viewer.payload import RECURRENCES

STEPS = (0, *RECURRENCES)


def lay_out(page: Page) -> dict[str, Any]:
    """Make the tab's components and wire their events; returns the event that fills it."""
    bench, state = page.bench, page.state
    shown = gr.HTML(elem_id="recurrence")
    with gr.Row(elem_id="recurrence-inputs"):
        mask = gr.File(label="A mask of this picture", type="filepath", height=130, elem_id="mask")
        with gr.Column(min_width=260):
            ask_places = gr.Button("Do all pixels look at the same place?", elem_id="places")
            ask_cross = gr.Button(
                "Accuracy on and off the beacon's cross", elem_id="cross", visible=False
            )
    spread, accuracy = gr.HTML(elem_id="spread"), gr.HTML(elem_id="accuracy")

    def refresh(state: ViewState, tab: str) -> Iterator[Updates]:
        if tab != TABS[1]:
            yield {shown: gr.skip()}
            return
        beacons = bench.explorer(state.model).config.dataset == "beacons"
        ask = {ask_cross: gr.Button(visible=beacons)}  # each time: a page that opens may miss one
        empty = {mask: None, spread: "", accuracy: "", **ask}
        yield {**empty, shown: render("page.working", what="computing")}
        for html in recurrence(bench, state):
            yield {**ask, shown: html}

    on_picture = safely(partial(recurrence, bench))
    mask.upload(on_picture, [state, mask], shown, **STREAM)
    mask.clear(on_picture, state, shown, **STREAM)
    ask_cross.click(safely(partial(on_and_off_cross, bench)), state, accuracy, **MEASURE)
    ask_places.click(safely(partial(places, bench)), state, spread, **MEASURE)
    return dict(
        fn=safely(refresh, lambda html, *_: {shown: html}),
        inputs=[state, page.tab],
        outputs=[shown, mask, spread, accuracy, ask_cross],
        **STREAM,
    )


def recurrence(bench: Workbench, state: ViewState, mask: str | None = None) -> Iterator[str]:
    """Labels at R = 0 to 3, what changed, which classes flipped, and scores where a mask is."""
    view, truth, refused = bench.view(state), None, ""
    try:
        truth = None if mask is None else bench.one_at_a_time(_read_mask, mask, view)
    except LabError as error:
        refused = problem(error)

    def label(progress: Progress) -> None:
        for done, steps in enumerate(STEPS):
            progress(done, len(STEPS))
            view.labels_at(steps)

    yield from working(label, "the same weights at each R")
    found, names = compare_recurrences(view, STEPS, truth), view.explorer.class_names
    flips = [
        (at.recurrence, names[flip.before], names[flip.after], flip.share)
        for at in found.at
        for flip in at.flips[:3]
    ]
    html = render("recurrence.comparison", found=found, flips=flips, **label_rows(view, found))
    scored = {f"R = {at.recurrence}": at.scores.iou for at in found.at if at.scores is not None}
    if scored:
        figure = draw.figures.iou_figure(names, scored, "IoU on this picture")
        html += sheet(figure, "iou_by_R", "IoU by class at each R")
    yield refused + html


def _read_mask(path: str, view: View) -> np.ndarray[Any, np.dtype[np.uint8]]:
    try:
        return read_mask(path, view)
    except DataError as error:  # the visitor knows the file by its name alone
        raise DataError(str(error).replace(path, Path(path).name)) from None


def on_and_off_cross(bench: Workbench, state: ViewState) -> Iterator[str]:
    """Accuracy on generated scenes at each R, on the beacon's cross and off it, measured now."""
    explorer = bench.explorer(state.model)
    found = yield from working(
        lambda progress: beacon_accuracy(explorer, STEPS, progress=progress),
        "labelling 40 held-out scenes at each R",
    )
    series = {
        "on the beacon's cross": [found[r].on_cross for r in STEPS],
        "off it": [found[r].off_cross for r in STEPS],
    }
    trained = explorer.config.recurrence
    groups = [f"R = {r} (trained)" if r == trained else f"R = {r}" for r in STEPS]
    figure = draw.figures.bar_figure(groups, series, "accuracy on disc pixels", chance=0.25)
    alt = "accuracy on and off the beacon's cross at each R"
    yield sheet(figure, "accuracy_on_and_off_the_cross", alt)


def places(bench: Workbench, state: ViewState) -> Iterator[str]:
    """How far what pixels look at depends on the pixel, at each R."""
    view = bench.view(state)

    def compare(progress: Progress) -> dict[int, float]:
        found = {}
        for done, steps in enumerate(RECURRENCES):
            progress(done, len(RECURRENCES))
            found[steps] = query_dependence(view, steps)
        return found

    found = yield from working(compare, "comparing the maps of 64 pixels")
    yield render("recurrence.dependence", found=found)
