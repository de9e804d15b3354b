"""The components that show what a visitor looks at, and the updates for them."""

import functools
import inspect
import json
import secrets
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import gradio as gr

from ccnet_lab.app import visitor_files
from ccnet_lab.app.callbacks import explain, safely
from ccnet_lab.app.session import Workbench
from ccnet_lab.app.view_state import ViewState, on_show
from ccnet_lab.app.visitor_files import KEPT, UNUSED
from ccnet_lab.errors import ImageError
from ccnet_lab.viewer.payload import CHOICES, RECURRENCES

TABS = ("Explore", "Recurrence", "Configurations", "Runs", "About")
IDLE = 4.0  # seconds
Updates = dict[Any, Any]  # component: its new value


class Page:
    """The components that show a visitor's state; made within `gr.Blocks`, the tabs fill them in.

    Args:
        bench: models and views. folder: where pictures to keep are written.
    """

    models: gr.Dropdown  # these five are model_menu.py's
    about_model: gr.HTML
    notice: gr.HTML
    problem: gr.HTML
    view: gr.HTML  # and these explore_tab.py's
    truth: gr.HTML
    size: gr.Dropdown
    upload: gr.File

    def __init__(self, bench: Workbench, folder: Path) -> None:
        self.bench, self.folder = bench, folder
        self.first = bench.start(bench.model)
        self.state = gr.State(self.first, delete_callback=self.forget, time_to_live=KEPT)
        self.used: dict[str, float] = {}  # when a page last asked for something, by its file
        self.views: dict[str, ViewState] = {}  # by the file that a page has fetched
        self.looked = gr.JSON(visible=False)  # what the viewer shows, see `SEEN`
        self.tab = gr.State(TABS[0])

    def forget(self, state: ViewState) -> None:
        """A visitor has gone, the view's file and his picture with him."""
        visitor_files.remove_upload(self.folder, state.image)
        self.view.keep_in_cache.discard(state.file)
        self.views.pop(state.file, None)
        self.used.pop(state.file, None)
        if state.file:
            Path(state.file).unlink(missing_ok=True)

    def is_idle(self) -> bool:
        """Whether no page has asked for anything in the last seconds."""
        return time.time() - max(self.used.values(), default=0.0) > IDLE

    def forget_unused(self) -> None:
        """Forget visitors of whose leaving gradio has not told."""
        for file, when in [*self.used.items()]:
            if time.time() - when > UNUSED and file in self.views:
                self.forget(self.views[file])

    def on_show(self) -> set[str]:
        """The files and pictures that visitors have on show."""
        states = [*self.views.values()]
        return {state.file for state in states} | {state.image for state in states}

    @property
    def outputs(self) -> list[Any]:
        """The components of all updates below; those that an update leaves out stay as they are."""
        top = [self.models, self.about_model, self.notice, self.problem]
        return [self.state, *top, self.view, self.truth, self.size, self.upload]

    def show_view(self, state: ViewState) -> Updates:
        """The view as a file that the page fetches, and what it shows first.

        A visitor's file is replaced, not removed: the page may be about to fetch the one before.
        """
        payload = self.bench.payload(state)
        before = state.file if state.file in self.views else ""
        file = visitor_files.write_file(Path(self.view.GRADIO_CACHE), payload, before)
        self.view.keep_in_cache.add(file)  # whatever its age, until the visitor goes
        state = self.views[file] = replace(state, file=file)
        self.used[file] = time.time()
        turn = secrets.token_hex(8)  # else gradio sees no change
        shown = state.shown() | {"turn": turn, "link": self.bench.address(state)}
        return {self.state: state, self.problem: "", self.view: json.dumps(shown)}

    def exact_map(self, asked: list[Any]) -> list[float] | str:
        """A map too large for the page: (file, x, y, R, "attention" or "listeners"), row by row.

        A sentence where there is none: gradio keeps what is raised here from the page.
        """
        try:
            if not isinstance(asked, list) or [*map(type, asked)] != [str, int, int, int, str]:
                raise ImageError("this asks for no map: expected file, x, y, R and the kind")
            return self._exact_map(*asked)
        except Exception as error:
            return explain(error)

    def _exact_map(self, file: str, x: int, y: int, recurrence: int, kind: str) -> list[float]:
        state = self.views.get(file)
        if state is None or recurrence not in RECURRENCES or kind not in CHOICES["kind"]:
            raise ImageError("this picture or map is no longer on show; load the page again")
        self.used[file] = time.time()
        view = self.bench.view(state)
        find = view.listeners if kind == "listeners" else view.attention
        found: list[float] = find(int(x), int(y), recurrence).ravel().tolist()
        return found

    def show_all(self, state: ViewState) -> Updates:
        """Everything, after another model or picture."""
        about_model, notice = self.bench.around(state)
        return {
            self.models: state.model,
            self.size: state.short_side,
            self.upload: None,
            self.truth: "",
            self.about_model: about_model,
            self.notice: notice,
            **self.show_view(state),
        }

    def failed(self, html: str, *arguments: Any) -> Updates:
        """The message above the picture; the model menu shows the visitor's model again."""
        state = arguments[0] if arguments else None
        if not isinstance(state, ViewState):
            return {self.problem: html}
        before = {self.models: state.model, self.size: state.short_side, self.upload: None}
        return {self.problem: html, **before}

    def safely(self, callback: Callable[..., Any], *emptied: Any) -> Callable[..., Any]:
        """A callback `(state, ...)`; where it fails, only the components `emptied` change."""

        @functools.wraps(callback)
        def checked(state: ViewState, *arguments: Any) -> Any:
            return callback(on_show(state), *arguments)

        return safely(checked, lambda *failure: {**self.failed(*failure), **dict.fromkeys(emptied)})

    def seen(
        self, callback: Callable[..., Any], *emptied: Any, plain: bool = False
    ) -> Callable[..., Any]:
        """As `safely`, for `callback(state, ...)` of inputs `state, looked, ...` with `SEEN`.

        The state is what the visitor looks at; `plain` leaves failures to the callback.
        """
        called = callback if plain else self.safely(callback, *emptied)

        @functools.wraps(callback)
        def answer(state: ViewState, looked: Any, *arguments: Any) -> Any:
            return called(state.looking(looked), *arguments)

        @functools.wraps(callback)
        def stream(state: ViewState, looked: Any, *arguments: Any) -> Any:
            yield from called(state.looking(looked), *arguments)

        found = stream if inspect.isgeneratorfunction(callback) else answer
        first, *others = inspect.signature(callback).parameters.values()
        looked = inspect.Parameter("looked", inspect.Parameter.POSITIONAL_OR_KEYWORD)
        found.__signature__ = inspect.Signature([first, looked, *others])  # type: ignore[attr-defined]
        return found
