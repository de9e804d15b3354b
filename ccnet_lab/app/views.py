"""The views kept for all visitors, and what is shown of them; session.py has links to them."""

import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from ccnet_lab.app import explore_html
from ccnet_lab.app.examples import write_examples
from ccnet_lab.app.models import Models
from ccnet_lab.app.recent_results import RecentResults
from ccnet_lab.app.view_state import ViewState, within
from ccnet_lab.explore.explorer import Explorer, View
from ccnet_lab.explore.measures import first_pixel
from ccnet_lab.hub import obtain_weights, source_and_config
from ccnet_lab.viewer.payload import RECURRENCES, Body, body, with_header

if TYPE_CHECKING:  # matplotlib takes a third of a second
    from matplotlib.figure import Figure

MOST_VIEWS = 100  # that are kept
VIEWS_BYTES, BODIES_BYTES = 600_000_000, 200_000_000  # that views, and what pages fetch, may take
FIRST_ON_CPU = 512  # short side of the first look where the evaluation's is larger


class Views(Models):
    """Models and views for all visitors of one process; `folder` takes the example pictures.

    A view is found only by its picture's path and the model's name.
    """

    def __init__(self, folder: Path, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.kinds = write_examples(folder)  # the data set that each example is like
        self.examples = [*self.kinds]
        self._looking = threading.Lock()  # one picture at a time, or large ones fill the memory
        self._views = RecentResults(MOST_VIEWS, VIEWS_BYTES, lambda view: view.nbytes)
        self._agreements: WeakKeyDictionary[Explorer, float] = WeakKeyDictionary()
        self._bodies = RecentResults(MOST_VIEWS, BODIES_BYTES, lambda made: len(made.data))

    def view(self, state: ViewState) -> View:
        """The view of a state, computed if the picture is new. Raises as `Explorer.look`."""
        explorer, side = self.explorer(state.model), state.short_side or None

        def look() -> View:
            with self._looking:
                return explorer.look(Path(state.image), side)

        view: View = self._views.get(_key(state), look)
        return view

    def _closed(self, explorer: Explorer) -> None:
        """Forget its views: each holds the whole model."""
        self._views.forget(lambda view: view.explorer is explorer)

    def one_at_a_time(self, call: Callable[..., Any], *arguments: Any) -> Any:
        """What a call returns that takes much memory: no two, nor a picture's decoding, at once."""
        with self._looking:
            return call(*arguments)

    def start(self, model: str) -> ViewState:
        """What a visitor sees first, the model downloaded: it was asked for on the command line."""
        obtain_weights(source_and_config(self.source(model))[0])
        return self.first(model)

    def first(self, model: str) -> ViewState:
        """An example of the model's kind. Raises as `explorer` where it is not to be opened."""
        dataset = self.explorer(model).config.dataset
        like = [path for path, kind in self.kinds.items() if kind == dataset]
        photographs = [path for path, kind in self.kinds.items() if not kind]
        example = [*like[:1], *photographs[-1:], *self.examples][0]
        return self.with_image(self.with_model(ViewState(model), model), example)

    def with_model(self, state: ViewState, model: str) -> ViewState:
        """The state with another model, its input as evaluated unless that is slow on a CPU."""
        config = self.explorer(model).config
        small = config.resize[1] > FIRST_ON_CPU and self.device == "cpu"
        state = replace(
            state,
            model=model,
            short_side=FIRST_ON_CPU if small else 0,
            recurrence=within(config.recurrence, RECURRENCES[0], RECURRENCES[-1]),
        )
        if state.image:
            self.view(state)
        return state

    def with_image(self, state: ViewState, image: str) -> ViewState:
        """The state with another picture, a good pixel chosen. Raises as `Explorer.look`."""
        state = replace(state, image=image)
        x, y = first_pixel(self.view(state))
        return replace(state, x=x, y=y, pinned=False, region=None, label=None)

    def payload(self, state: ViewState) -> bytes:
        """The view of a state for the viewer."""
        view = self.view(state)
        height, width = view.size
        at = within(state.x, 0, width - 1), within(state.y, 0, height - 1)
        made: Body = self._bodies.get(_key(state), lambda: body(view, RECURRENCES, tables=False))
        return with_header(view, made, pixel=at)

    def around(self, state: ViewState) -> tuple[str, str]:
        """The lines around the pictures, as HTML: on the model, a notice."""
        view, kind = self.view(state), self.kinds.get(state.image, "")
        agreement = self._agreement(view.explorer, state)
        return explore_html.model_line(view, agreement), explore_html.notice(view, kind)

    def _agreement(self, explorer: Explorer, state: ViewState) -> float | None:
        """What bfloat16 changed in the first picture of a model; None in float32."""
        if explorer.bf16 and explorer not in self._agreements:
            picture, side = Path(state.image), state.short_side or None
            found = self.one_at_a_time(explorer.agreement, picture, side)
            self._agreements[explorer] = found
        return self._agreements.get(explorer)

    def figure(self, state: ViewState) -> "Figure":
        """The pictures of a state as one figure with captions, to keep."""
        clip = state.clip if state.scale == "clipped" else 0.0
        return self.view(state).figure(
            state.x,
            state.y,
            RECURRENCES,
            clip,
            state.labels,
            region=state.region,
            label=state.label,
            kind=state.kind,
        )


def _key(state: ViewState) -> tuple[Any, ...]:
    """What a view is kept under: its model, the picture, which may be written again, its input."""
    path = Path(state.image)
    written = path.stat().st_mtime_ns if path.is_file() else 0
    return state.model, state.image, written, state.short_side
