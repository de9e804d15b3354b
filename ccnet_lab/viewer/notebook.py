"""What notebook cells call: pictures of models and scenes by name, small data sets, curves.

Models and views are kept.
"""

import json
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from textwrap import wrap
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from ccnet_lab.data.catalog import get_dataset
from ccnet_lab.data.datasets import Split
from ccnet_lab.data.generated.beacons import BEACON, make_scene, on_cross
from ccnet_lab.draw import figures
from ccnet_lab.draw.lettering import as_it_is, class_legend
from ccnet_lab.draw.pictures import blend, clip_level, label_picture, resized, shown_size
from ccnet_lab.errors import LabError
from ccnet_lab.explore.explorer import Explorer, View
from ccnet_lab.explore.recurrence import compare_recurrences
from ccnet_lab.model.ccnet import CCNet

SCENES = {"scene 1": 10_000_009, "scene 2": 10_000_018, "scene 3": 10_000_005}  # held-out seeds
PHOTOGRAPH = "Grace Hopper"  # public domain (U.S. Navy), comes with matplotlib
IMAGES = (*SCENES, PHOTOGRAPH)
MODELS = ("demo", "demo_r1", "street")
SHAPES = ("background", "disc", "square", "triangle")


@lru_cache(4)
def explorer(model: str) -> Explorer:
    """`Explorer.open`, kept."""
    return Explorer.open(model)


@lru_cache(8)
def look(model: str, image: str) -> View:
    """A model's view of one of `IMAGES` or a path, kept: the network runs once for each pair.

    Raises as `Explorer.open` and `Explorer.look`.
    """
    if image in SCENES:
        return explorer(model).look(make_scene(SCENES[image]).image)
    sample = Path(matplotlib.get_data_path()) / "sample_data" / "grace_hopper.jpg"
    return explorer(model).look(sample if image == PHOTOGRAPH else Path(image))


def view_widget(model: str = "demo", image: str = "scene 1", path: str = "") -> Any:
    """The widget of a model's view of one of `IMAGES`, or of a picture at `path`.

    Where the picture or the model cannot be had, a figure that says why.
    """
    try:
        return look(model, path.strip() or image).widget()
    except LabError as error:
        return words_figure(str(error))


def attention_picture(
    view: View, x: int, y: int, recurrence: int = 2, clip: float = 0.35, labels: float = 0.45
) -> Figure:
    """One pixel's map raw and clipped side by side, as in the paper, and who looks at the pixel.

    Args:
        view: a picture as a model sees it. x, y: the pixel. Raises as `View.cell`.
        recurrence: R, 1 or more.
        clip: 0..1, the threshold t as `pictures.clip_level` says; the clipped map is t above it.
        labels: opacity 0..1 of the labels over the picture.
    """
    pixel = view.pixel(x, y, (recurrence,))
    weights, threshold = pixel.maps[0], clip_level(pixel.maps, clip)
    heard = view.listeners(x, y, recurrence)
    names, label = view.explorer.class_names, view.labels[y, x]
    predicted = f"{names[label]} ({100 * pixel.probabilities[label]:.0f} %)"
    maps = {
        f"R = {recurrence}, raw": weights,
        f"clipped at t = {threshold:.2g}": np.minimum(weights, threshold),
        "who looks at it": heard,
    }
    captions = (
        f"on the cross {100 * pixel.on_cross[0]:.0f} %",
        f"above t: {100 * np.maximum(weights - threshold, 0).sum():.0f} % of the mass cut",
        f"it gives {heard.sum():.2f} in all",
    )
    return figures.attention_figure(
        view.image,
        view.labels,
        view.explorer.palette,
        names,
        (x, y),
        pixel.box,
        maps,
        captions,
        top=[float(weights.max()), threshold, float(heard.max())],
        opacity=labels,
        title=f"{view.explorer.config.name}, trained at R = {view.recurrence}: "
        f"pixel ({x}, {y}) is predicted as {predicted}",
    )


def beacon_picture(seed: int) -> Figure:
    """A beacon scene with its true labels, and beside it which cells lie on the beacon's cross."""
    scene, beacons = make_scene(seed), get_dataset("beacons")
    y, x = scene.beacon
    cross = on_cross(scene)[2::4, 2::4].astype(float)
    return figures.attention_figure(
        scene.image,
        scene.labels,
        beacons.palette,
        beacons.class_names,
        (x + BEACON // 2, y + BEACON // 2),
        (x, y, x + BEACON, y + BEACON),
        {"cells that reach the beacon with R = 1": cross},
        title=f"scene {seed}: the true labels, the beacon marked",
    )


def recurrence_picture(
    model: CCNet, config: str, seed: int, recurrences: Sequence[int] = (0, 1, 2, 3)
) -> Figure:
    """One set of weights at several R on a beacon scene: labels, and where they differ."""
    view = Explorer(model, config).look(make_scene(seed).image)
    found = compare_recurrences(view, sorted({*recurrences, view.recurrence}))
    warning = ": near 0, so every R gives the same" if found.gamma_near_zero else ""
    return figures.recurrence_figure(
        view.image,
        {at.recurrence: at.labels for at in found.at},
        found.trained,
        view.explorer.palette,
        view.explorer.class_names,
        f"the same weights, trained at R = {found.trained}; gamma = {found.gamma:.2f}{warning}",
    )


def words_figure(message: str) -> Figure:
    """A message in the place of a picture, wrapped."""
    figure = Figure(figsize=(9, 1.2))
    axis = figure.add_axes((0, 0, 1, 1))  # a notebook shows no figure without axes
    axis.set_axis_off()
    axis.text(0.01, 0.5, "\n".join(wrap(message, 100)), fontsize=11, va="center")
    return figure


def keeping(losses: list[float], update: Callable[[int], object]) -> Callable[[int, float], None]:
    """An `on_step` for `train_demo` that appends the loss and moves a bar by one step."""

    def show(_: int, loss: float) -> None:
        losses.append(loss)
        update(1)

    return show


def smoothed(values: list[float], window: int = 20) -> NDArray[np.float64]:
    """Running means over the last `window` values, fewer at the start; as long as `values`."""
    sums = np.cumsum([0.0, *values])
    ends = np.arange(1, len(values) + 1)
    starts = np.maximum(ends - window, 0)
    return np.asarray((sums[ends] - sums[starts]) / (ends - starts))


def write_shapes_dataset(
    folder: str | Path, images: int = 60, height: int = 96, width: int = 128, seed: int = 0
) -> Path:
    """Write a small data set: `images/*.png`, `masks/*.png` (ids of `SHAPES`), `classes.json`.

    Every picture has a disc, a square and a triangle on a mottled ground, each kind in shades of
    its own. The same seed gives the same files.
    """
    folder = Path(folder)
    palette = [[90, 90, 90], [200, 60, 50], [60, 110, 220], [70, 190, 80]]
    rng = np.random.default_rng(seed)
    for part in ("images", "masks"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    for number in range(images):
        coarse = rng.integers(60, 120, (height // 8, width // 8, 3), np.uint8)
        picture = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
        mask = Image.new("L", (width, height))
        for kind in rng.permutation([1, 2, 3]):
            size = int(rng.integers(height // 6, height // 4))  # half a side
            x, y = (int(rng.integers(size, side - size)) for side in (width, height))
            shade = np.clip(np.array(palette[kind]) + rng.integers(-30, 31, 3), 0, 255)
            _draw_shape(picture, kind, x, y, size, tuple(shade.tolist()))
            _draw_shape(mask, kind, x, y, size, int(kind))
        noisy = np.asarray(picture) + rng.normal(0, 6, (height, width, 3))
        picture = Image.fromarray(noisy.clip(0, 255).astype(np.uint8))
        picture.save(folder / "images" / f"{number:04}.png")
        mask.save(folder / "masks" / f"{number:04}.png")
    classes = json.dumps({"names": SHAPES, "palette": palette})
    (folder / "classes.json").write_text(classes, encoding="utf-8")
    return folder


def _draw_shape(
    picture: Image.Image, kind: int, x: int, y: int, size: int, fill: int | tuple[int, ...]
) -> None:
    drawing, box = ImageDraw.Draw(picture), (x - size, y - size, x + size, y + size)
    if kind == 3:
        drawing.polygon([(x, y - size), (x - size, y + size), (x + size, y + size)], fill=fill)
    else:
        (drawing.ellipse if kind == 1 else drawing.rectangle)(box, fill=fill)


def write_damaged_dataset(folder: str | Path) -> Path:
    """Ten of `write_shapes_dataset`, but one mask has an unknown id and one lacks a column."""
    folder = write_shapes_dataset(folder, images=10)
    strange, narrow = (folder / "masks" / f"{number:04}.png" for number in (3, 4))
    ids = np.array(Image.open(strange))
    ids[:8, :8] = 7
    Image.fromarray(ids).save(strange)
    Image.fromarray(np.array(Image.open(narrow))[:, 1:]).save(narrow)
    return folder


def pair_picture(split: Split, index: int, opacity: float = 0.5) -> Figure:
    """An image of a split, and its mask over it; where the pair cannot be read, why."""
    try:
        name, image, labels = split.read(index)
    except LabError as error:
        return words_figure(str(error))
    names, colours = split.dataset.class_names, split.dataset.palette
    size = shown_size(labels.shape[0], labels.shape[1], 400)
    plain = resized(image, size)
    parts = {
        f"image {name}": plain,
        "with its mask": blend(plain, label_picture(labels, colours, size), opacity),
    }
    figure = Figure(figsize=(2 * size[1] / 100 + 0.3, size[0] / 100 + 0.7), layout="constrained")
    for axis, (title, picture) in zip(figure.subplots(1, 2), parts.items(), strict=True):
        axis.imshow(picture)
        axis.set_axis_off()
        axis.set_title(title, fontsize=10, **as_it_is())
    seen = [k for k in np.unique(labels) if k < split.dataset.num_classes]
    class_legend(figure, [names[k] for k in seen], [colours[k] for k in seen], fontsize=9, ncols=6)
    return figure
