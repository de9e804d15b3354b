"""The top of the page: the model menu, downloads, notices and problems."""

from collections.abc import Iterator
from typing import Any

import gradio as gr

from ccnet_lab.app.callbacks import safely
from ccnet_lab.app.events import QUICK, SEEN, SLOW, STREAM
from ccnet_lab.app.page import Page, Updates
from ccnet_lab.app.rendering import render
from ccnet_lab.app.view_state import ViewState
from ccnet_lab.errors import ConfigError


class ModelMenu:
    """The components of the top row; `connect` wires them once the tabs are there."""

    def __init__(self, page: Page) -> None:
        self.page, bench = page, page.bench
        with gr.Row(elem_id="top"):
            gr.HTML(render("page.brand"), elem_id="brand")
            page.models = gr.Dropdown(
                bench.models(),
                value=bench.model,
                label="model",
                info="the twelve: published mIoU, size; or type a path",
                elem_id="model",
                allow_custom_value=bench.any_path,
            )
            page.about_model = gr.HTML(elem_id="about-model")
        self.wanted = gr.State("")  # a model that is not on this machine yet
        with gr.Row(visible=False, elem_id="download") as self.row:
            self.offer = gr.HTML(elem_id="offer")
            self.fetch = gr.Button("Download", elem_id="fetch")
            self.leave = gr.Button("Not now", elem_id="leave")
        page.notice, page.problem = gr.HTML(elem_id="notice"), gr.HTML(elem_id="problem")

    def connect(self, recurrence: dict[str, Any]) -> None:
        """Wire the events; `recurrence` fills that tab, which shows the model's labels."""
        page = self.page
        buttons = [self.offer, self.fetch, self.leave]
        everything = [*page.outputs, self.row, *buttons, self.wanted]
        page.models.input(
            page.seen(self.choose),
            [page.state, page.looked, page.models],
            everything,
            show_progress_on=[page.view],
            js=SEEN,
            **SLOW,
        ).then(**recurrence)
        downloading = self.fetch.click(
            safely(self.download, page.failed),
            self.wanted,
            [*buttons, *page.outputs],
            **STREAM,
        )
        downloading.then(
            page.safely(self.open_downloaded),
            [page.state, self.wanted],
            everything,
            show_progress_on=[page.view],
            api_visibility="private",
        ).then(**recurrence)
        self.leave.click(
            page.safely(self.no_offer),
            page.state,
            [self.row, self.wanted, *page.outputs],
            cancels=[downloading],
            **QUICK,
        )

    def choose(self, state: ViewState, name: str) -> Updates:
        """Open the model, or ask before it is downloaded."""
        bench = self.page.bench
        if not isinstance(name, str):
            raise ConfigError(f"a model's name came as {name!r:.60}; choose one of the menu")
        if question := bench.offer(name):
            return {
                self.row: gr.Row(visible=True),
                self.offer: question,
                self.wanted: name,
                self.page.problem: "",
                self.fetch: gr.Button(visible=True),
                self.leave: gr.Button("Not now"),
            }
        state = bench.with_model(state, name)
        return {**self.page.show_all(state), **self.no_offer(state, name)}

    def download(self, name: str) -> Iterator[Updates]:
        """Download the model, telling how far it is."""
        for progress in self.page.bench.download(name):
            yield {
                self.offer: progress,
                self.fetch: gr.Button(visible=False),
                self.leave: gr.Button("Cancel"),
                self.page.problem: "",
            }

    def open_downloaded(self, state: ViewState, name: str) -> Updates:
        """Open the model that was downloaded; only take the question away if it was not."""
        bench = self.page.bench
        if not name or bench.offer(name):
            return self.no_offer(state)
        state = bench.with_model(state, name)
        return {**self.page.show_all(state), **self.no_offer(state)}

    def no_offer(self, state: ViewState, shown: str = "") -> Updates:
        """Take the question away; the menu shows the visitor's model.

        Where that was `shown` when the event began it is not set again: the visitor may have
        chosen another meanwhile.
        """
        models = self.page.bench.models()
        menu = (
            gr.Dropdown(models) if shown == state.model else gr.Dropdown(models, value=state.model)
        )
        return {self.row: gr.Row(visible=False), self.wanted: "", self.page.models: menu}
