"""The answers of the tab Explore as HTML, from a view and a pixel; the controls: explore_tab.py."""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ccnet_lab.app.rendering import Html, percent, render
from ccnet_lab.draw import pictures
from ccnet_lab.draw.pictures import Rgb
from ccnet_lab.explore.explorer import Pixel, View
from ccnet_lab.explore.measures import beacon_cells, same_class
from ccnet_lab.explore.recurrence import GAMMA_NEAR_ZERO

RECURRENCES = (1, 2, 3)  # R of the maps
STAGE, MAP = 640, 360  # longer sides of the stage and of a map, pixels
Shares = NDArray[np.floating[Any]]


class ShareBar(NamedTuple):
    """A line of the facts: a class, its share, what stands beside the bar, its share by chance."""

    colour: tuple[int, int, int] | None
    name: str
    share: float
    text: str
    chance: float | None = None


def stage(view: View, opacity: float) -> Rgb:
    """The image with its labels over it, as it is shown."""
    size = pictures.shown_size(*view.size, STAGE)
    labels = pictures.label_picture(view.labels, view.explorer.palette, size)
    return pictures.blend(pictures.resized(view.image, size), labels, opacity)


def answer(
    view: View, x: int, y: int, recurrence: int, photo: float, clip: float
) -> tuple[Html, Html]:
    """The marker over the stage; the maps of a pixel, their scale, and the facts at `recurrence`.

    Args:
        photo: opacity of the image under the maps. clip: as in `pictures.clip_level`.
    """
    pixel = view.pixel(x, y, RECURRENCES)
    top = pictures.clip_level(pixel.maps, clip)
    beacon = beacon_cells(view)
    panels = [
        {
            "r": r,
            "png": pictures.png(pictures.heat(weights, top, weights.shape)),
            "reach": sum(weights.shape) - 1,
            "on_cross": on_cross,
            "on_beacon": None if beacon is None else float(weights[beacon].sum()),
        }
        for r, weights, on_cross in zip(RECURRENCES, pixel.maps, pixel.on_cross, strict=True)
    ]
    size, box = pictures.shown_size(*view.size, STAGE), _box(view, pixel)
    maps = render(
        "explore.answer",
        size=size,
        box=box,
        panels=panels,
        opacity=1 - photo,
        top=top,
        clipped=[float(np.maximum(weights - top, 0).sum()) for weights in pixel.maps],
        pixel=pixel,
        recurrence=recurrence,
        likely=_largest(view, pixel.probabilities, None),
        **_looks_at(view, pixel, recurrence, beacon),
    )
    height, width = view.size
    point = 100 * (x + 0.5) / width, 100 * (y + 0.5) / height
    return render("explore.marker", size=size, box=box, point=point), maps


def _looks_at(
    view: View, pixel: Pixel, recurrence: int, beacon: NDArray[np.bool_] | None
) -> dict[str, Any]:
    """What a map lies on, class by class, and its share of the pixel's own class.

    The beacon of a generated scene belongs to no class of discs, so it stands for itself.
    """
    at = RECURRENCES.index(recurrence)
    mass, area = pixel.class_shares[at], pixel.cell_shares
    if beacon is None:
        found = same_class(view, pixel.x, pixel.y, recurrence, pixel.maps[at])
        own = {
            "name": view.explorer.class_names[found.label],
            "share": found.share,
            "chance": found.chance,
        }
        return {"looks": _largest(view, mass, area), "own": own}
    weights, classes = pixel.maps[at][beacon], view.cell_labels()[beacon]
    mass, area = mass.copy(), area.copy()
    np.subtract.at(mass, classes, weights)
    np.subtract.at(area, classes, 1 / beacon.size)
    share = float(weights.sum())
    first = ShareBar(None, "the beacon", share, percent(share), float(beacon.mean()))
    return {"looks": [first, *_largest(view, mass, area)], "own": None}


def model_line(view: View) -> Html:
    """One line on the model: how it was trained, its gamma, its size."""
    model, config = view.explorer.model, view.explorer.config
    gamma = model.attention.gamma.item()
    return render(
        "page.model_line",
        recurrence=config.recurrence,
        gamma=gamma,
        near_zero=abs(gamma) < GAMMA_NEAR_ZERO,
        parameters=sum(p.numel() for p in model.parameters()),
        stride=config.output_stride,
        camvid=config.dataset == "camvid",
        published=config.published_miou,
    )


def notice(view: View, generated: bool) -> str:
    """Where the model doesn't know this kind of picture, a scene or a photograph, that; else ""."""
    config = view.explorer.config
    if generated == (config.dataset == "beacons"):
        return ""
    if generated:
        return render("explore.scene_notice", name=config.name)
    return render("explore.photograph_notice")


def legend(view: View, most: int = 12) -> Html:
    """The classes in the picture, largest first, and the size of the network's input."""
    names, palette = view.explorer.class_names, view.explorer.palette
    share = np.bincount(view.labels.ravel(), minlength=len(names)) / view.labels.size
    order = [int(k) for k in np.argsort(-share) if share[k] > 0]
    classes = [(palette[k], names[k], share[k]) for k in order[:most]]
    ground = pictures.grey(pictures.resized(view.image, pictures.shown_size(*view.size, MAP)))
    html = render("explore.legend", classes=classes, more=max(0, len(order) - most), view=view)
    return html + render("explore.ground", png=pictures.png(ground))


def _largest(view: View, shares: Shares, chance: Shares | None) -> list[ShareBar]:
    """The largest of some shares (K,) by class, at most four; probabilities have no `chance`."""
    names, palette = view.explorer.class_names, view.explorer.palette
    return [
        ShareBar(palette[k], names[k], float(shares[k]), f"{shares[k]:.2f}")
        if chance is None
        else ShareBar(palette[k], names[k], float(shares[k]), percent(shares[k]), float(chance[k]))
        for k in np.argsort(-shares)[:4]
        if shares[k] >= 0.005
    ]


def _box(view: View, pixel: Pixel) -> dict[str, float]:
    """The pixel's cell in percent of the image."""
    (height, width), (left, top, right, bottom) = view.size, pixel.box
    return {
        "left": 100 * left / width,
        "top": 100 * top / height,
        "width": 100 * (right - left) / width,
        "height": 100 * (bottom - top) / height,
    }
