"""Workbench: models and images kept ready between clicks, and what the app shows of them as pictures and HTML. No gradio in here."""

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass, replace
from html import escape
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import matplotlib
import numpy as np

from ccnet_lab.data.beacons import make_scene
from ccnet_lab.data.images import read_image
from ccnet_lab.explore import figures, pictures
from ccnet_lab.explore.explorer import Explorer, Pixel, View, available_models
from ccnet_lab.explore.pictures import Rgb

RECURRENCES = (1, 2, 3)
SCENE_SEEDS = (10_000_018, 10_000_002, 10_000_005)  # held-out scenes
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
                    if key in self._found:
                        self._found.move_to_end(key)
                        found: T = self._found[key]
                        return found
                made = make()
                with self._lock:
                    self._found[key] = made
                    while len(self._found) > self._most:
                        self._found.popitem(last=False)
                return made
        finally:
            with self._lock:
                self._busy.pop(key, None)


@dataclass(frozen=True)
class Scene:
    """What one visitor looks at: plain values that name it, nothing large.

    Attributes:
        model: a model's name or path. config: what a weights file was made for, or "".
        image: path of the picture. short_side: of the network's input; 0 as evaluated.
        x, y: the chosen pixel, image coordinates.
        labels, photo: opacity 0..1 of the labels over the image and of the image under the maps. clip: 0..1, see `pictures.clip_level`.
    """

    model: str
    image: str
    config: str = ""
    short_side: int = 0
    x: int = 0
    y: int = 0
    labels: float = 0.45
    photo: float = 0.25
    clip: float = 0.35


class Shown(NamedTuple):
    """What the Explore page shows: RGB pictures and HTML."""

    stage: Rgb
    maps: tuple[Rgb, ...]
    captions: tuple[str, ...]
    scale: str
    facts: str


class Workbench:
    """Models and views for all visitors of one process; a view is found only by its picture's path and the model's name.

    Args:
        folder: where the example scenes are written.
        device: what the models run on.
    """

    def __init__(self, folder: Path, device: str = "cpu") -> None:
        self.device = device
        self.examples = _examples(folder)
        self._explorers, self._views = Kept(3), Kept(8)

    def explorer(self, model: str, config: str = "") -> Explorer:
        """The explorer of a model's name or path; loads it on first use. Raises as `Explorer.open`."""
        return self._explorers.get((model, config), lambda: Explorer.open(model, self.device, config or None))

    def view(self, scene: Scene) -> View:
        """The view of a scene; runs the network if this picture is new to this model. Raises as `Explorer.look`."""
        explorer = self.explorer(scene.model, scene.config)
        path = Path(scene.image)
        stamp = path.stat().st_mtime_ns if path.is_file() else 0
        key = (scene.model, scene.config, scene.image, stamp, scene.short_side)
        return self._views.get(key, lambda: explorer.look(path, scene.short_side or None))

    def opened(self, scene: Scene) -> Scene:
        """The scene with the network's input size that suits its model here: as evaluated, unless a CPU would make the visitor wait."""
        short = self.explorer(scene.model, scene.config).config.resize[1]
        return replace(scene, short_side=QUICK if short > QUICK and self.device == "cpu" else 0)

    def with_image(self, scene: Scene, image: str) -> Scene:
        """The scene with another picture, looked at, its most telling pixel chosen. Raises as `read_image`."""
        scene = replace(scene, image=image)
        view = self.view(scene)
        return replace(scene, **dict(zip(("x", "y"), first_pixel(view), strict=True)))

    def clicked(self, scene: Scene, at: tuple[float, float]) -> Scene:
        """The scene with the pixel under a click, given in pixels of the shown picture."""
        height, width = self.view(scene).size
        shown_height, shown_width = pictures.shown_size(height, width)
        x, y = int(at[0] * width / shown_width), int(at[1] * height / shown_height)
        return replace(scene, x=min(max(x, 0), width - 1), y=min(max(y, 0), height - 1))

    def show(self, scene: Scene) -> Shown:
        """Everything the Explore page shows of a scene. Runs the network only where `view` must."""
        view = self.view(scene)
        pixel = view.pixel(scene.x, scene.y, RECURRENCES)
        top = pictures.clip_level(pixel.maps, scene.clip)
        clipped = [float(np.maximum(m - top, 0).sum()) for m in pixel.maps]
        captions = tuple(f"on the cross {_percent(share)}" + _reach(m) for share, m in zip(pixel.on_cross, pixel.maps, strict=True))
        return Shown(
            self.stage(scene, view, pixel),
            self.maps(scene, view, pixel, top),
            captions,
            _scale(top, scene.clip, clipped),
            _facts(view, pixel),
        )

    def stage(self, scene: Scene, view: View, pixel: Pixel) -> Rgb:
        """The image with its labels over it and the chosen pixel marked."""
        size = pictures.shown_size(*view.size)
        labels = pictures.label_picture(view.labels, view.explorer.palette, size)
        picture = pictures.blend(pictures.resized(view.image, size), labels, scene.labels)
        scale = _scale_to(size, view.size)
        centre = ((pixel.x + 0.5) * scale[0], (pixel.y + 0.5) * scale[1])
        return pictures.marked(picture, _scaled(pixel.box, scale), centre)

    def maps(self, scene: Scene, view: View, pixel: Pixel, top: float) -> tuple[Rgb, ...]:
        """The pixel's maps on one colour scale, the image faintly under them, its cell drawn as a box."""
        size = pictures.shown_size(*view.size, longest=440)
        grey = pictures.resized(view.image, size).mean(axis=2, keepdims=True).astype(np.uint8).repeat(3, axis=2)
        box = _scaled(pixel.box, _scale_to(size, view.size))
        return tuple(pictures.marked(pictures.blend(pictures.heat(m, top, size), grey, scene.photo), box) for m in pixel.maps)

    def figure(self, scene: Scene) -> Any:
        """The same as a matplotlib Figure with captions, to keep."""
        view = self.view(scene)
        pixel = view.pixel(scene.x, scene.y, RECURRENCES)
        return figures.attention_figure(
            view.image, view.labels, view.explorer.palette, view.explorer.class_names, (pixel.x, pixel.y), pixel.box,
            {f"R = {r}": m for r, m in zip(RECURRENCES, pixel.maps, strict=True)},
            [f"on the cross {_percent(share)}" for share in pixel.on_cross],
            top=pictures.clip_level(pixel.maps, scene.clip), opacity=scene.labels,
            title=f"{view.explorer.config.name}, trained at R = {view.recurrence}: what pixel ({pixel.x}, {pixel.y}) looks at",
        )  # fmt: skip

    def about_model(self, scene: Scene) -> str:
        """One line on the model, as HTML."""
        explorer = self.explorer(scene.model, scene.config)
        parameters = sum(p.numel() for p in explorer.model.parameters()) / 1e6
        gamma = float(explorer.model.attention.gamma)
        parts = [
            f"R trained <b>{explorer.config.recurrence}</b>",
            f"gamma <b>{gamma:.2f}</b>" + (" — near 0, so the attention changes nothing" if abs(gamma) < 0.01 else ""),
            f"<b>{parameters:.2f} M</b> parameters",
            f"output stride <b>{explorer.config.output_stride}</b>",
        ]
        if explorer.config.published_miou is not None:
            parts.append(f"published mIoU <b>{explorer.config.published_miou:.2f} %</b>")
        return f"<div class='line'>{' · '.join(parts)}</div>"

    def notice(self, scene: Scene) -> str:
        """What a visitor must know about this model on this picture, as HTML; "" if there is nothing."""
        explorer = self.explorer(scene.model, scene.config)
        generated = scene.image in self.examples[: len(SCENE_SEEDS)]
        if explorer.config.dataset == "beacons" and not generated:
            text = (
                "This is a photograph, and the model on show is the embedded demo, which knows generated beacon scenes only: "
                "its labels mean nothing here. How attention spreads over one, two and three steps is real all the same."
            )
        elif explorer.config.dataset != "beacons" and generated:
            text = f"This is a generated scene, and {explorer.config.name} was trained on photographs: its labels mean nothing here."
        else:
            return ""
        return f"<div class='notice'>{text}</div>"

    def legend(self, scene: Scene) -> str:
        """The classes in the picture, largest first, with their colours and shares, as HTML."""
        view = self.view(scene)
        share = np.bincount(view.labels.ravel(), minlength=len(view.explorer.class_names)) / view.labels.size
        order = [k for k in np.argsort(-share) if share[k] > 0]
        more = f"<span class='more'>and {len(order) - 12} more</span>" if len(order) > 12 else ""
        items = (f"{_swatch(view, k)}{escape(view.explorer.class_names[k])} <i>{_percent(share[k])}</i>" for k in order[:12])
        (height, width), (h, w) = view.input_size[-2:], view.grid
        seen = f"<span class='more'>network input {width} × {height}, {w} × {h} cells</span>"
        return "<div class='legend'>" + "".join(f"<span>{item}</span>" for item in items) + more + seen + "</div>"


def model_choices(runs: Path | None = None) -> list[tuple[str, str]]:
    """(label, value) of the models that can be opened now: embedded ones, checkpoints on disk, finished runs."""
    labels = {"demo": "demo: beacons, trained at R = 2", "demo_r1": "demo: beacons, trained at R = 1"}
    choices = [(labels.get(name, name), name) for name in available_models()]
    folders = sorted(runs.iterdir()) if runs is not None and runs.is_dir() else []
    return choices + [(f"run: {f.name}", str(f)) for f in folders if (f / "model.safetensors").is_file() and (f / "config.json").is_file()]


def first_pixel(view: View) -> tuple[int, int]:
    """A pixel worth showing first: in a beacon scene a disc pixel as far from the beacon's cross as there is; else the image's middle."""
    height, width = view.size
    if view.explorer.config.dataset == "beacons" and (height, width) == (96, 96):
        bright = view.image.astype(int)
        colourful = bright.max(axis=2) - bright.min(axis=2) > 60
        discs = (view.labels > 0) & ~colourful & (bright.min(axis=2) > 110)
        if colourful.any() and discs.any():
            centre = np.argwhere(colourful).mean(axis=0)
            candidates = np.argwhere(discs)
            y, x = candidates[np.abs(candidates - centre).min(axis=1).argmax()]
            return int(x), int(y)
    return width // 2, height // 2


def _examples(folder: Path) -> list[str]:
    """Paths of the example pictures: generated scenes, then matplotlib's public-domain sample photograph."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for seed in SCENE_SEEDS:
        paths.append(str(folder / f"scene_{seed}.png"))
        Path(paths[-1]).write_bytes(pictures.png(make_scene(seed).image))
    photograph = Path(matplotlib.get_data_path()) / "sample_data" / "grace_hopper.jpg"
    if photograph.is_file():
        copy = folder / "grace_hopper.png"
        copy.write_bytes(pictures.png(read_image(photograph)))
        paths.append(str(copy))
    return paths


def _facts(view: View, pixel: Pixel) -> str:
    names = view.explorer.class_names
    most = [k for k in np.argsort(-pixel.probabilities)[:4] if pixel.probabilities[k] >= 0.005]
    taken = "".join(
        f"<div class='bar'>{_swatch(view, k)}<span>{escape(names[k])}</span><b style='--v:{pixel.probabilities[k]:.3f}'></b>"
        f"<i>{pixel.probabilities[k]:.2f}</i></div>"
        for k in most
    )
    shown = RECURRENCES.index(view.recurrence) if view.recurrence in RECURRENCES else 1
    mass = pixel.class_shares[shown]
    looks = "".join(
        f"<div class='bar'>{_swatch(view, k)}<span>{escape(names[k])}</span><b style='--v:{mass[k]:.3f}'></b>"
        f"<i>{_percent(mass[k])}</i><em>share of image {_percent(pixel.cell_shares[k])}</em></div>"
        for k in np.argsort(-mass)[:4]
        if mass[k] >= 0.005
    )
    return (
        f"<div class='facts'><section><h3>Pixel ({pixel.x}, {pixel.y}) is taken for</h3>{taken}</section>"
        f"<section><h3>and looks at, with R = {RECURRENCES[shown]}</h3>{looks}</section></div>"
    )


def _scale(top: float, clip: float, clipped: list[float]) -> str:
    lost = f"clipped: {', '.join(_percent(v) for v in clipped)} of the maps' mass lies above" if max(clipped) > 1e-4 else "nothing clipped"
    return (
        f"<div class='scale'><i>0</i><b></b><i>{top:.2g}</i><span>one scale for all three; {lost if clip > 0 else 'raw, nothing clipped'}</span></div>"
    )


def _reach(weights: np.ndarray[Any, Any]) -> str:
    cells = int((weights > 0).sum())
    return f" · reaches {cells:,} of {weights.size:,} cells"


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %" if share >= 0.0995 or share == 0 else f"{100 * share:.1f} %"


def _swatch(view: View, k: int) -> str:
    return "<u style='background:rgb({},{},{})'></u>".format(*view.explorer.palette[k])


def _scale_to(size: tuple[int, int], original: tuple[int, int]) -> tuple[float, float]:
    return size[1] / original[1], size[0] / original[0]


def _scaled(box: tuple[float, float, float, float], scale: tuple[float, float]) -> tuple[float, ...]:
    return tuple(v * scale[k % 2] for k, v in enumerate(box))


