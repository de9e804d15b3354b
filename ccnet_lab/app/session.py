"""What the app answers visitors with: views of pictures, links to them, the Python of a map."""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from ccnet_lab.app import kept_pictures
from ccnet_lab.app import link as links
from ccnet_lab.app.examples import SCENE_SEEDS
from ccnet_lab.app.kept_pictures import gone
from ccnet_lab.app.link import Link
from ccnet_lab.app.view_state import ViewState, within
from ccnet_lab.app.views import Views
from ccnet_lab.configs import CONFIGS
from ccnet_lab.data.images import read_image
from ccnet_lab.errors import LabError
from ccnet_lab.reports import board as boards
from ccnet_lab.viewer.payload import RECURRENCES

SHORT_SIDES = (0, 256, 512, 1024)  # of the network's input; 0 as evaluated
MODEL_AGAIN = "put that file back, or choose the model again and copy a new link"


class Workbench(Views):
    """Models, views and links for all visitors of one process."""

    def __init__(self, folder: Path, *args: Any, **kwargs: Any) -> None:
        super().__init__(folder, *args, **kwargs)
        self._hashes = {
            path: kept_pictures.picture_hash(read_image(path)) for path in self.examples
        }
        self._by_hash = {digest: path for path, digest in self._hashes.items()}

    def run_folders(self) -> list[Path]:
        """Where the board looks for runs: this app's own folder of runs first."""
        folders = [*map(Path, boards.RUNS), *([self.runs] if self.runs else [])]
        return [*{folder.resolve(): folder for folder in reversed(folders)}.values()]

    def link(self, state: ViewState, tab: str = "Explore", **shown: Any) -> str:
        """The end of an address that opens this state again; an uploaded picture is kept for it."""
        image = self.view(state).image
        if kept_pictures.picture_hash(image) not in self._by_hash:
            kept_pictures.keep_picture(image, state.file)
        return replace(self._link(state), tab=tab, **shown).query()

    def address(self, state: ViewState) -> dict[str, Any] | None:
        """What a link to an example holds that the page doesn't know; None for other pictures.

        None, too, where the weights' file is gone: the view needs it no more.
        """
        names = ("image", "weights", "model", "config", "input")
        if state.image in self._hashes:
            with suppress(LabError, OSError):
                link = self._link(state)
                return {name: getattr(link, name) for name in names}
        return None

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
            recurrence=within(link.r, RECURRENCES[0], RECURRENCES[-1]),
            labels=link.labels,
            photo=link.photo,
            clip=link.clip,
        ).looking({"kind": link.kind, "scale": link.scale})
        height, width = self.view(state).size
        x, y = within(link.x, 0, width - 1), within(link.y, 0, height - 1)
        return replace(state, x=x, y=y, pinned=True), link

    def python(self, state: ViewState) -> str:
        """Python that gives the map on screen."""
        link, how = self._link(state), (self.device, state.region, state.label, self.precision)
        seeds = dict(zip(self.examples, SCENE_SEEDS, strict=False))
        if seed := seeds.get(self._by_hash.get(link.image, "")):
            return links.python_of(link, f"make_scene({seed}).image", *how)
        if not self.any_path:  # that picture is on the server
            shown = replace(link, model=Path(self.source(link.model)).name)
            return links.python_of(shown, repr("your_picture.png"), *how)
        kept = kept_pictures.keep_picture(self.view(state).image, state.file)
        return links.python_of(link, repr(str(kept)), *how)

    def _link(self, state: ViewState) -> Link:
        view = self.view(state)
        digest = self._hashes.get(state.image) or kept_pictures.picture_hash(view.image)
        return links.link_to(state, digest, view.explorer.config.name, self.weights(state.model))

    def _has_weights(self, link: Link) -> bool:
        """Whether the model of a link still has the link's weights."""
        try:
            # Opened first: only what holds weights is read as a whole.
            same = self.explorer(link.model).config.name == link.config
            return same and links.weights_hash(self.weights(link.model)) == link.weights
        except LabError:
            if link.model in CONFIGS:  # says how to get it
                raise
            return False
