"""The components that show what a visitor looks at, and the updates for them."""

import functools
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import gradio as gr

from ccnet_lab.app import visitor_files
from ccnet_lab.app.callbacks import safely
from ccnet_lab.app.session import Workbench
from ccnet_lab.app.view_state import ViewState
from ccnet_lab.errors import ImageError

TABS = ("Explore", "Recurrence", "Configurations", "Runs", "About")
Updates = dict[Any, Any]  # component: its new value

# Options of gradio's events. QUICK: an answer within a moment, the newest call wins. SLOW: the
# network runs. STREAM: several answers. MEASURE: as STREAM, but one after the other.
QUICK: dict[str, Any] = dict(
    queue=False, show_progress="hidden", api_visibility="private", trigger_mode="always_last"
)
SLOW: dict[str, Any] = dict(api_visibility="private", trigger_mode="always_last")
STREAM: dict[str, Any] = dict(
    show_progress="hidden", api_visibility="private", concurrency_limit=None
)
MEASURE: dict[str, Any] = STREAM | dict(
    concurrency_limit=1, concurrency_id="measuring", trigger_mode="multiple"
)


class Page:
    """The components that show a visitor's state; made within `gr.Blocks`, the tabs fill them in.

    Args:
        bench: models and views. folder: where pictures to keep are written.
    """

    models: gr.Dropdown  # these five are model_menu.py's
    about_model: gr.HTML
    notice: gr.HTML
    problem: gr.HTML
    stage: gr.Image  # and these explore_tab.py's
    marker: gr.HTML
    legend: gr.HTML
    answer: gr.HTML
    truth: gr.HTML
    steps: gr.Radio
    size: gr.Dropdown
    upload: gr.File
    sliders: tuple[gr.Slider, ...]  # labels, photo, clip

    def __init__(self, bench: Workbench, folder: Path) -> None:
        self.bench, self.folder = bench, folder
        self.first = bench.start(bench.model)
        self.state = gr.State(self.first, delete_callback=self.forget)
        self.tab = gr.State(TABS[0])

    def forget(self, state: ViewState) -> None:
        """A visitor has gone: the picture that was on show is as old as any other."""
        self.stage.keep_in_cache.discard(state.file)

    @property
    def outputs(self) -> list[Any]:
        """The components of all updates below; those that an update leaves out stay as they are."""
        top = [self.models, self.about_model, self.notice, self.problem]
        answers = [self.stage, self.marker, self.legend, self.answer, self.truth]
        return [self.state, *top, *answers, self.steps, self.size, self.upload]

    def show_answer(self, state: ViewState) -> Updates:
        """The marker, the maps and the facts."""
        marker, answer = self.bench.answer(state)
        return {self.state: state, self.problem: "", self.marker: marker, self.answer: answer}

    def show_pixel(self, state: ViewState) -> Updates:
        """As `show_answer`, after another question: the old deletion test goes."""
        return {self.truth: "", **self.show_answer(state)}

    def show_picture(self, state: ViewState) -> Updates:
        """As `show_answer`, and the image with its labels."""
        picture = self.bench.stage(state)
        file = visitor_files.write_picture(Path(self.stage.GRADIO_CACHE), picture)
        updates = {self.stage: file, **self.show_answer(replace(state, file=file))}
        self.stage.keep_in_cache.add(file)  # whatever its age, until another one is on show
        self.stage.keep_in_cache.discard(state.file)
        return updates

    def show_all(self, state: ViewState) -> Updates:
        """Everything, after another model or picture."""
        about_model, notice, legend = self.bench.around(state)
        return {
            self.models: state.model,
            self.size: state.short_side,
            self.steps: state.recurrence,
            self.upload: None,
            self.truth: "",
            self.about_model: about_model,
            self.notice: notice,
            self.legend: legend,
            **self.show_picture(state),
        }

    def failed(self, html: str, *arguments: Any) -> Updates:
        """The message above the picture; the model menu shows the visitor's model again."""
        state = arguments[0] if arguments else None
        menu = {self.models: state.model, self.upload: None} if isinstance(state, ViewState) else {}
        return {self.problem: html, **menu}

    def safely(self, callback: Callable[..., Any], *emptied: Any) -> Callable[..., Any]:
        """A callback `(state, ...)`; where it fails, only the components `emptied` change."""

        @functools.wraps(callback)
        def checked(state: ViewState, *arguments: Any) -> Any:
            return callback(on_show(state), *arguments)

        return safely(checked, lambda *failure: {**self.failed(*failure), **dict.fromkeys(emptied)})


def on_show(state: ViewState) -> ViewState:
    """The state itself; `ImageError` where gradio lost it and gives the one of a new visitor."""
    if not state.file:
        raise ImageError(
            "the app was restarted, or this page lay idle too long, and your picture is gone; "
            "load the page again"
        )
    return state
