"""Below the tabs: save the picture, copy the link, copy the Python; and opening a link."""

from collections.abc import Callable, Container, Sequence
from pathlib import Path
from typing import Any

import gradio as gr

from ccnet_lab.app.board_views import KINDS
from ccnet_lab.app.callbacks import problem, safely
from ccnet_lab.app.events import SEEN, SLOW
from ccnet_lab.app.page import TABS, Page, Updates
from ccnet_lab.app.view_state import ViewState
from ccnet_lab.app.visitor_files import folder_to_save
from ccnet_lab.data.catalog import DATASETS

OPEN_SAVED = (
    "() => document.querySelector('#saved a, a#saved, #saved button, button#saved')?.click()"
)
ON_BOARD = {  # at first
    "scores": None, "board": None, "order": "configuration", "one": None, "other": None
}  # fmt: skip
KNOWN: dict[str, Container[str]] = {"scores": KINDS, "board": DATASETS}  # gradio refuses others


def lay_out(page: Page, on_board: Sequence[Any], picked: gr.State) -> None:
    """Make the row and wire its events; `on_board` and `picked` are the other tabs' choices."""
    with gr.Row(elem_id="share"):
        save_page = gr.Button("Save as a page (HTML)", elem_id="save-page", size="sm")
        save = gr.Button("Save the figure (PNG)", elem_id="save", size="sm")
        save_pdf = gr.Button("PDF", elem_id="save-pdf", size="sm")
        saved = gr.DownloadButton("picture", elem_id="saved")
        link = gr.Button("Copy the link", elem_id="link", size="sm")
        python = gr.Button("Copy the Python that made this", elem_id="python", size="sm")
    shared = gr.Textbox(
        visible=False, show_label=False, lines=1, max_lines=10, buttons=["copy"], elem_id="shared"
    )

    def keep(kind: str) -> Callable[[ViewState], Updates]:
        def write(state: ViewState) -> Updates:
            path = folder_to_save(page.folder, Path(state.file).stem) / f"attention.{kind}"
            if kind == "html":
                page.bench.view(state).save_html(path, settings=state.settings(), tables=False)
            else:
                page.bench.figure(state).savefig(path, dpi=160)
            return {saved: str(path)}

        return write

    def give_link(state: ViewState, tab: str, *choices: Any) -> Updates:
        *board, drawn = choices
        on_tabs = {name: value or "" for name, value in zip(ON_BOARD, board, strict=True)}
        query = page.bench.link(state, tab, **on_tabs, drawn="|".join(drawn or []))
        return {shared: gr.Textbox(query, visible=True)}

    def give_python(state: ViewState) -> Updates:
        return {shared: gr.Textbox(page.bench.python(state), visible=True)}

    private: dict[str, Any] = {"api_visibility": "private", "js": SEEN}
    private |= {"concurrency_id": "saving", "concurrency_limit": 1}
    looking = [page.state, page.looked]
    for button, kind in ((save_page, "html"), (save, "png"), (save_pdf, "pdf")):
        button.click(page.seen(keep(kind), saved), looking, [saved, *page.outputs], **private).then(
            None, js=OPEN_SAVED
        )
    choices = [*looking, page.tab, *on_board, picked]
    link.click(page.seen(give_link), choices, [shared, *page.outputs], **private).then(
        None, shared, shared, js="window.copiedLink"
    )
    python.click(page.seen(give_python), looking, [shared, *page.outputs], **private).then(
        None, shared, shared, js="window.copied"
    )


def connect_load(
    page: Page, blocks: gr.Blocks, tabs: gr.Tabs, on_board: Sequence[Any], picked: gr.State
) -> Any:
    """Wire the loading of the page, with a link's parameters or without; returns the event."""

    def load(state: ViewState, request: gr.Request) -> Updates:
        opened, failure = {}, ""
        try:
            if "image" in request.query_params:
                state, link = page.bench.reopen(dict(request.query_params))
                tab = link.tab if link.tab in TABS else TABS[0]
                opened = {tabs: gr.Tabs(selected=tab), page.tab: tab}
                for part, (name, first) in zip(on_board, ON_BOARD.items(), strict=True):
                    value = getattr(link, name) or first
                    known = value in KNOWN[name] if name in KNOWN else True
                    opened[part] = gr.update(value=value if known else first)
                opened[picked] = link.drawn.split("|") if link.drawn else None
            elif model := request.query_params.get("model"):
                state = page.bench.first(model)
        except Exception as error:  # the page begins as without the link
            failure = problem(error)
        return {**page.show_all(state), **opened, page.problem: failure}

    outputs = [*page.outputs, tabs, page.tab, *on_board, picked]
    return blocks.load(
        safely(load, page.failed), page.state, outputs, show_progress_on=[page.view], **SLOW
    )
