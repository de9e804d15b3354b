"""Workbench: models and images kept ready between clicks, and what the app shows of them. HTML is made in page.py; no gradio in here."""

import functools
import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path
from typing import Any, TypeVar

import matplotlib
import numpy as np
import torch
from matplotlib.figure import Figure

from ccnet_lab import store
from ccnet_lab.app import link as links
from ccnet_lab.app import page
from ccnet_lab.app.fetching import Fetches
from ccnet_lab.app.link import Link
from ccnet_lab.app.page import MAP, STAGE
from ccnet_lab.configs import CONFIGS, EXTRAS, Config
from ccnet_lab.data.generated.beacons import make_scene
from ccnet_lab.data.images import read_image
from ccnet_lab.draw import pictures
from ccnet_lab.draw.pictures import Rgb
from ccnet_lab.errors import ConfigError, LabError
from ccnet_lab.explore.explorer import Explorer, View
from ccnet_lab.explore.measures import beacon_cells, first_pixel, same_class
from ccnet_lab.hub import available_models, find_weights, obtain_weights, source_and_config
from ccnet_lab.model.ccnet import build_model
from ccnet_lab.runs import Run

RECURRENCES = (1, 2, 3)
SCENE_SEEDS = (10_000_018, 10_000_002, 10_000_005)  # held-out scenes
SHORT_SIDES = (0, 256, 512, 1024)  # of the network's input that can be chosen; 0 as evaluated
QUICK = 512  # short side of the network's input that a first look on a CPU uses where the evaluation's is larger

T = TypeVar("T")


class Kept:
    """The last few results of slow calls by key; one call per key at a time, other keys go on."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._lock = threading.Lock()
        self._found: OrderedDict[Hashable, Any] = OrderedDict()
        self._busy: dict[Hashable, threading.Lock] = {}

    def get(self, key: Hashable, make: Callable[[], T]) -> T:
        """What `make` returned for this key; errors are not kept."""
        with self._lock:
            busy = self._busy.setdefault(key, threading.Lock())
        try:
            with busy:
                with self._lock:
                    found: T = self._found.get(key, self)
                if found is self:  # nothing is kept
                    found = make()
                with self._lock:
                    self._found[key] = found
                    self._found.move_to_end(key)
                    while len(self._found) > self._most:
                        self._found.popitem(last=False)
                return found
        finally:
            with self._lock:
                self._busy.pop(key, None)


@dataclass(frozen=True)
class Scene:
    """What one visitor looks at: plain values that name it, nothing large."""

    model: (
        str  # a name or path; "PATH as NAME" names the configuration of a file that leaves it open
    )
    image: str = ""  # path of the picture
    short_side: int = 0  # of the network's input; 0 as evaluated
    x: int = 0  # the chosen pixel, image coordinates
    y: int = 0
    recurrence: int = 2  # R of the facts, of the deletion test and of the Python to copy
    labels: float = 0.45  # opacity 0..1 of the labels over the image
    photo: float = 0.25  # and of the image under the maps
    clip: float = 0.35  # 0..1, see `pictures.clip_level`
    file: str = ""  # of the picture on show, where there is one


class Workbench:
    """Models and views for all visitors of one process; a view is found only by its picture's path and the model's name.

    Args:
        folder: where the example pictures are written.
        device: what the models run on.
        any_path: whether visitors may open files and folders by typing a path; no, where the app can be reached from other machines.
        runs: a folder of training runs, offered in the menu.
        model: what the app was started with; stands in the menu, be it a path.
    """

    def __init__(
        self,
        folder: Path,
        device: str = "cpu",
        any_path: bool = True,
        runs: Path | None = None,
        model: str = "demo",
    ) -> None:
        self.device, self.any_path, self.runs, self.model = device, any_path, runs, model
        self.examples = _examples(folder)
        self.fetches = Fetches()
        self._explorers, self._views = Kept(3), Kept(6)
        self._shown = {links.picture_hash(read_image(path)): path for path in self.examples}

    def models(self) -> list[tuple[str, str]]:
        """(label, value) of the models that can be picked: embedded ones, finished runs, the twelve, on disk or not."""
        labels = {
            "demo": "demo: beacons, trained at R = 2",
            "demo_r1": "demo: beacons, trained at R = 1",
        }
        labels |= {"street": "street: photographs from a car (CamVid)"}
        here = available_models()
        choices = [(labels.get(name, name), name) for name in here if name in EXTRAS]
        choices += [(f"run: {folder.name}", str(folder)) for folder in _trained(self.runs)]
        choices += [
            (page.menu_line(config, weights_size(config), name in here), name)
            for name, config in CONFIGS.items()
        ]
        return (
            choices
            if self.model in dict(choices).values()
            else [*choices, (self.model, self.model)]
        )

    def explorer(self, model: str) -> Explorer:
        """The explorer of a model; loads it on first use. Raises as `Explorer.open`."""
        source, config = source_and_config(model)
        self.weights(model)  # raises where it is not on disk: a visitor is asked first, see `offer`
        return self._explorers.get(model, lambda: Explorer.open(source, self.device, config))

    def weights(self, model: str) -> Path:
        """The weights file of a model that visitors may open; raises `ConfigError` for others, `LabError` where it is not on disk."""
        if not self.any_path and model not in {*CONFIGS, *EXTRAS, *dict(self.models()).values()}:
            raise ConfigError(
                "this app can be reached from other machines, so it opens only the models of its menu, no typed paths"
            )
        return find_weights(source_and_config(model)[0])

    def offer(self, model: str) -> str:
        """What to ask, as HTML, before the checkpoint of one of the twelve is downloaded; "" if it is here or the model is none of them."""
        if model not in CONFIGS or model in available_models():
            return ""
        if not self.any_path:
            raise ConfigError(
                f"{model} is not on the machine this app runs on; there, `python scripts/zoo.py get {model}` downloads it"
            )
        file = store.find(model)
        return page.offer(
            file, store.addresses(file)[0], CONFIGS[model], weights_size(CONFIGS[model])
        )

    def fetch(self, model: str, visitor: str) -> Iterator[str]:
        """Download a checkpoint; gives how far it is, as HTML, a few times per second until it is here or the visitor has left.

        Raises `DownloadError` where it cannot be had; it says what to do.
        """
        with self.fetches.waiting(model, visitor) as coming:
            while coming.running and coming.waited_for_by(visitor):
                yield page.fetching(store.find(model), coming.done, coming.total)
                coming.wait(0.25)
            if coming.error is not None:
                raise coming.error

    def view(self, scene: Scene) -> View:
        """The view of a scene; runs the network if this picture is new to this model. Raises as `Explorer.look`."""
        explorer, path = self.explorer(scene.model), Path(scene.image)
        written = (
            path.stat().st_mtime_ns if path.is_file() else 0
        )  # tells a file that was written again from what it was
        key = scene.model, scene.image, written, scene.short_side
        return self._views.get(key, lambda: explorer.look(path, scene.short_side or None))

    def start(self, model: str) -> Scene:
        """What a visitor sees first: an example of the model's kind."""
        obtain_weights(source_and_config(model)[0])  # asked for on the command line
        example = {"beacons": 0, "camvid": len(SCENE_SEEDS)}.get(
            self.explorer(model).config.dataset, -1
        )
        return self.with_image(self.with_model(Scene(model), model), self.examples[example])

    def with_model(self, scene: Scene, model: str) -> Scene:
        """The scene with another model, its input as evaluated unless that would keep a visitor without a GPU waiting."""
        config = self.explorer(model).config
        short, steps = (
            config.resize[1],
            min(max(config.recurrence, RECURRENCES[0]), RECURRENCES[-1]),
        )
        scene = replace(
            scene,
            model=model,
            short_side=QUICK if short > QUICK and self.device == "cpu" else 0,
            recurrence=steps,
        )
        if scene.image:
            self.view(scene)
        return scene

    def with_image(self, scene: Scene, image: str) -> Scene:
        """The scene with another picture, looked at, a telling pixel chosen. Raises as `Explorer.look`."""
        scene = replace(scene, image=image)
        x, y = first_pixel(self.view(scene))
        return replace(scene, x=x, y=y)

    def clicked(self, scene: Scene, at: Sequence[float]) -> Scene:
        """The scene with the pixel under a click, (x, y) as shares of the picture's width and height."""
        height, width = self.view(scene).size
        return replace(
            scene,
            x=min(max(int(at[0] * width), 0), width - 1),
            y=min(max(int(at[1] * height), 0), height - 1),
        )

    def stage(self, scene: Scene) -> Rgb:
        """The image with its labels over it, as it is shown. Runs the network only where `view` must."""
        view = self.view(scene)
        size = pictures.shown_size(*view.size, STAGE)
        labels = pictures.label_picture(view.labels, view.explorer.palette, size)
        return pictures.blend(pictures.resized(view.image, size), labels, scene.labels)

    def answer(self, scene: Scene) -> tuple[str, str]:
        """What a click is answered with, as HTML: the marker over the stage; the maps with their captions, scale and facts."""
        view = self.view(scene)
        pixel = view.pixel(scene.x, scene.y, RECURRENCES)
        top = pictures.clip_level(pixel.maps, scene.clip)
        heats = [pictures.png(pictures.heat(m, top, m.shape)) for m in pixel.maps]
        cells = beacon_cells(view)
        captions = [
            page.caption(*parts, beacon=cells)
            for parts in zip(RECURRENCES, pixel.on_cross, pixel.maps, strict=True)
        ]
        scale = page.colour_scale(top, [float(np.maximum(m - top, 0).sum()) for m in pixel.maps])
        panels = page.panels(view, pixel, heats, captions, 1 - scene.photo)
        own = same_class(view, scene.x, scene.y, scene.recurrence)
        return page.marker(view, pixel), panels + scale + page.facts(
            view, pixel, RECURRENCES, own, scene.recurrence, cells
        )

    def around(self, scene: Scene) -> tuple[str, str, str]:
        """The lines around the pictures, as HTML: on the model, a notice, the legend."""
        explorer, view = self.explorer(scene.model), self.view(scene)
        ground = pictures.grey(pictures.resized(view.image, pictures.shown_size(*view.size, MAP)))
        generated = scene.image in self.examples[: len(SCENE_SEEDS)]
        return (
            page.model_line(explorer),
            page.notice(explorer, generated),
            page.legend(view) + page.ground(pictures.png(ground)),
        )

    def figure(self, scene: Scene) -> Figure:
        """The pictures of a scene as one figure with captions, to keep."""
        return self.view(scene).figure(scene.x, scene.y, RECURRENCES, scene.clip, scene.labels)

    def link(self, scene: Scene, tab: str = "Explore", **shown: Any) -> str:
        """The end of an address that opens this scene again; an uploaded picture is kept for it in the store's folder."""
        return replace(self._link(scene, tab), **shown).query()

    def _link(self, scene: Scene, tab: str) -> Link:
        view, weights = self.view(scene), links.weights_hash(self.weights(scene.model))
        if links.picture_hash(view.image) not in self._shown:
            links.keep_picture(view.image)
        return Link(
            image=links.picture_hash(view.image), weights=weights, model=scene.model, config=view.explorer.config.name,
            input=scene.short_side, r=scene.recurrence, x=scene.x, y=scene.y,
            labels=scene.labels, photo=scene.photo, clip=scene.clip, tab=tab,
        )  # fmt: skip

    def reopen(self, query: Mapping[str, str]) -> tuple[Scene, Link]:
        """The scene of a link's parameters, and the link; what lies beyond its ends is clamped, the network's input to `SHORT_SIDES`.

        Raises `ConfigError` for a damaged link, and `MissingFileError` where its picture or its weights are gone; it says which.
        """
        link = Link.read(query)
        model = self._with_weights(link)
        image = self._shown.get(link.image) or str(links.kept_picture(link.image))
        if not Path(image).is_file():
            raise links.gone("a picture", link.image, "open the picture again and copy a new link")
        steps = min(max(link.r, RECURRENCES[0]), RECURRENCES[-1])
        short_side = min(SHORT_SIDES, key=lambda side: abs(side - link.input))
        scene = Scene(
            model, image, short_side, link.x, link.y, steps, link.labels, link.photo, link.clip
        )
        view = self.view(scene)
        if links.picture_hash(view.image) != link.image:
            raise links.gone(
                "a picture",
                link.image,
                "another one lies in its place; open the picture again and copy a new link",
            )
        height, width = view.size
        return replace(
            scene, x=min(max(link.x, 0), width - 1), y=min(max(link.y, 0), height - 1)
        ), link

    def _with_weights(self, link: Link) -> str:
        """The model of a link: what it names, if that has the link's weights still, or another of the menu that has them."""
        for model in dict.fromkeys([link.model, *dict(self.models()).values()]):
            try:
                if (
                    links.weights_hash(self.weights(model)) == link.weights
                    and self.explorer(model).config.name == link.config
                ):
                    return model
            except LabError:
                if model == link.model and model in CONFIGS:  # says how to get it
                    raise
        raise links.gone(
            f"the weights of {link.model}",
            link.weights,
            "put that file back, or choose the model again and copy a new link",
        )

    def python(self, scene: Scene) -> str:
        """Python that gives the map on screen."""
        link = self._link(scene, "Explore")
        shown = self._shown.get(link.image)
        seeds = dict(zip(self.examples, SCENE_SEEDS, strict=False))
        picture = (
            f"make_scene({seeds[shown]}).image"
            if shown in seeds
            else repr(str(links.keep_picture(self.view(scene).image)))
        )
        return links.python_of(link, picture, self.device)

    def attention_at(
        self, image: str, x: int, y: int, recurrence: int = 2, model: str = "demo"
    ) -> dict[str, Any]:
        """The answer to one click as plain values: the map (h rows of w), its cell, probabilities and shares by class name.

        Raises as `Explorer.open`, `Explorer.look` and `View.cell`; `ConfigError` for a recurrence outside 1..8.
        """
        if not 1 <= recurrence <= 8:
            raise ConfigError(f"recurrence is {recurrence}; expected 1 to 8")
        view = self.view(self.with_model(Scene(model, image), model))
        pixel = view.pixel(x, y, (recurrence,))
        names = view.explorer.class_names
        return {
            "model": model, "recurrence": recurrence, "x": x, "y": y,
            "size": view.size, "grid": view.grid, "cell": pixel.cell, "box": pixel.box,
            "label": names[view.labels[y, x]], "on_cross": pixel.on_cross[0],
            "probabilities": dict(zip(names, pixel.probabilities.tolist(), strict=True)),
            "class_shares": dict(zip(names, pixel.class_shares[0].tolist(), strict=True)),
            "map": pixel.maps[0].tolist(),
        }  # fmt: skip


@functools.cache
def _bytes(depth: int, classes: int) -> int:
    config = next(c for c in CONFIGS.values() if (c.depth, c.num_classes) == (depth, classes))
    with torch.device("meta"):
        return sum(
            value.numel() * value.element_size()
            for value in build_model(config).state_dict().values()
        )


def weights_size(config: Config) -> int:
    """Bytes of the weights of one of the twelve; its file is hardly larger."""
    return _bytes(config.depth, config.num_classes)


def _trained(runs: Path | None) -> list[Path]:
    """The folders of runs that have weights; what cannot be read is passed over, the tabs name it."""
    if runs is None or not os.access(runs, os.R_OK | os.X_OK):
        return []
    readable = (folder for folder in sorted(runs.iterdir()) if os.access(folder, os.R_OK | os.X_OK))
    return [
        folder
        for folder in readable
        if (folder / "config.json").is_file() and Run(folder).weights.is_file()
    ]


def _examples(folder: Path) -> list[str]:
    """Paths of the example pictures: generated scenes, the Summer Palace, then matplotlib's public-domain sample photograph."""
    folder.mkdir(parents=True, exist_ok=True)
    palace = Path(str(files("ccnet_lab").joinpath("assets", "summer_palace.jpg")))
    photographs = (palace, Path(matplotlib.get_data_path()) / "sample_data" / "grace_hopper.jpg")
    images = {f"scene_{seed}.png": make_scene(seed).image for seed in SCENE_SEEDS}
    images |= {f"{path.stem}.png": read_image(path) for path in photographs if path.is_file()}
    for name, image in images.items():
        (folder / name).write_bytes(pictures.png(image))
    return [str(folder / name) for name in images]
