"""The views kept for all visitors, and what the app answers from them; models.py has the models."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from ccnet_lab.app import explore_html, kept_pictures
from ccnet_lab.app import link as links
from ccnet_lab.app.examples import SCENE_SEEDS, write_examples
from ccnet_lab.app.kept_pictures import gone
from ccnet_lab.app.link import Link
from ccnet_lab.app.models import Models
from ccnet_lab.app.recent_results import RecentResults
from ccnet_lab.app.view_state import ViewState
from ccnet_lab.configs import CONFIGS
from ccnet_lab.data.images import read_image
from ccnet_lab.errors import LabError
from ccnet_lab.explore.explorer import View
from ccnet_lab.explore.measures import first_pixel
from ccnet_lab.hub import obtain_weights, source_and_config
from ccnet_lab.viewer.payload import RECURRENCES, encode

SHORT_SIDES = (0, 256, 512, 1024)  # of the network's input; 0 as evaluated
MODEL_AGAIN = "put that file back, or choose the model again and copy a new link"
FIRST_ON_CPU = 512  # short side of the first look where the evaluation's is larger


class Workbench(Models):
    """Models and views for all visitors of one process; `folder` takes the example pictures.

    A view is found only by its picture's path and the model's name.
    """

    def __init__(self, folder: Path, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.examples = write_examples(folder)
        self._views = RecentResults(6)
        self._by_hash = {
            kept_pictures.picture_hash(read_image(path)): path for path in self.examples
        }

    def view(self, state: ViewState) -> View:
        """The view of a state, computed if the picture is new. Raises as `Explorer.look`."""
        path = Path(state.image)
        written = path.stat().st_mtime_ns if path.is_file() else 0  # it may be written again
        key = state.model, state.image, written, state.short_side
        explorer = self.explorer(state.model)
        view: View = self._views.get(key, lambda: explorer.look(path, state.short_side or None))
        return view

    def start(self, model: str) -> ViewState:
        """What a visitor sees first: an example of the model's kind."""
        obtain_weights(source_and_config(model)[0])  # asked for on the command line
        dataset = self.explorer(model).config.dataset
        example = {"beacons": 0, "camvid": len(SCENE_SEEDS)}.get(dataset, -1)
        return self.with_image(self.with_model(ViewState(model), model), self.examples[example])

    def with_model(self, state: ViewState, model: str) -> ViewState:
        """The state with another model, its input as evaluated unless that is slow on a CPU."""
        config = self.explorer(model).config
        small = config.resize[1] > FIRST_ON_CPU and self.device == "cpu"
        state = replace(
            state,
            model=model,
            short_side=FIRST_ON_CPU if small else 0,
            recurrence=_within(config.recurrence, RECURRENCES[0], RECURRENCES[-1]),
        )
        if state.image:
            self.view(state)
        return state

    def with_image(self, state: ViewState, image: str) -> ViewState:
        """The state with another picture, a good pixel chosen. Raises as `Explorer.look`."""
        state = replace(state, image=image)
        x, y = first_pixel(self.view(state))
        return replace(state, x=x, y=y, pinned=False)

    def payload(self, state: ViewState) -> bytes:
        """The view of a state for the viewer."""
        view = self.view(state)
        height, width = view.size
        at = _within(state.x, 0, width - 1), _within(state.y, 0, height - 1)
        return encode(view, RECURRENCES, pixel=at)

    def around(self, state: ViewState) -> tuple[str, str]:
        """The lines around the pictures, as HTML: on the model, a notice."""
        view, generated = self.view(state), state.image in self.examples[: len(SCENE_SEEDS)]
        return explore_html.model_line(view), explore_html.notice(view, generated)

    def figure(self, state: ViewState) -> Figure:
        """The pictures of a state as one figure with captions, to keep."""
        return self.view(state).figure(state.x, state.y, RECURRENCES, state.clip, state.labels)

    def link(self, state: ViewState, tab: str = "Explore", **shown: Any) -> str:
        """The end of an address that opens this state again; an uploaded picture is kept for it."""
        image = self.view(state).image
        if kept_pictures.picture_hash(image) not in self._by_hash:
            kept_pictures.keep_picture(image)
        return replace(self._link(state), tab=tab, **shown).query()

    def reopen(self, query: Mapping[str, str]) -> tuple[ViewState, Link]:
        """The state of a link's parameters, and the link; values beyond their ends are clamped.

        Raises `ConfigError` for a damaged link, `MissingFileError` where its picture or its weights
        are gone.
        """
        link = Link.read(query)
        if not self._has_weights(link):
            raise gone(f"the weights of {link.model}", link.weights, MODEL_AGAIN)
        state = ViewState(
            link.model,
            self._by_hash.get(link.image) or kept_pictures.find_picture(link.image),
            min(SHORT_SIDES, key=lambda side: abs(side - link.input)),
            recurrence=_within(link.r, RECURRENCES[0], RECURRENCES[-1]),
            labels=link.labels,
            photo=link.photo,
            clip=link.clip,
        ).looking({"kind": link.kind, "scale": link.scale})
        height, width = self.view(state).size
        x, y = _within(link.x, 0, width - 1), _within(link.y, 0, height - 1)
        return replace(state, x=x, y=y, pinned=True), link

    def python(self, state: ViewState) -> str:
        """Python that gives the map on screen."""
        link = self._link(state)
        seeds = dict(zip(self.examples, SCENE_SEEDS, strict=False))
        if seed := seeds.get(self._by_hash.get(link.image, "")):
            return links.python_of(link, f"make_scene({seed}).image", self.device)
        kept = kept_pictures.keep_picture(self.view(state).image)
        return links.python_of(link, repr(str(kept)), self.device)

    def _link(self, state: ViewState) -> Link:
        return links.link_to(state, self.view(state), self.weights(state.model))

    def _has_weights(self, link: Link) -> bool:
        """Whether the model of a link still has the link's weights."""
        try:
            same = links.weights_hash(self.weights(link.model)) == link.weights
            return same and self.explorer(link.model).config.name == link.config
        except LabError:
            if link.model in CONFIGS:  # says how to get it
                raise
            return False


def _within(value: int, low: int, high: int) -> int:
    return min(max(value, low), high)
