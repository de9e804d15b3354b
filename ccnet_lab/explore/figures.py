"""Arrays in, a matplotlib Figure out; no torch, no pyplot, no files. The quick pictures of the app are in pictures.py."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle
from numpy.typing import NDArray

from ccnet_lab.explore.pictures import COLOURS, blend, label_picture

Array = NDArray[np.floating]


def attention_figure(
    image: NDArray[np.uint8],
    labels: NDArray[np.uint8],
    palette: Sequence[tuple[int, int, int]],
    class_names: Sequence[str],
    pixel: tuple[int, int],
    box: tuple[float, float, float, float],
    maps: Mapping[str, Array],
    captions: Sequence[str] = (),
    top: float | None = None,
    opacity: float = 0.45,
    title: str = "",
) -> Figure:
    """An image with its labels and a chosen pixel, and that pixel's maps on one colour scale.

    Args:
        image: (H, W, 3). labels: (H, W) class ids. palette, class_names: K of each.
        pixel: (x, y). box: (left, top, right, bottom) of its cell, image pixels.
        maps: title -> (h, w), drawn over the image's extent. captions: a line below each.
        top: where the colour scale ends; None for the largest weight.
    """
    height, width = labels.shape
    panels = len(maps) + 1
    figure = Figure(figsize=(3.3 * panels, 3.3 * min(1.4, max(0.55, height / width)) + 1.0), layout="constrained")
    axes = figure.subplots(1, panels, squeeze=False)[0]
    axes[0].imshow(blend(image, label_picture(labels, palette, (height, width)), opacity))
    axes[0].plot(pixel[0], pixel[1], "+", color="white", markersize=11, markeredgewidth=3)
    axes[0].plot(pixel[0], pixel[1], "+", color="black", markersize=9, markeredgewidth=1)
    axes[0].set_title("labels and the chosen pixel", fontsize=10)
    shown = [i for i in np.argsort(-np.bincount(labels.ravel(), minlength=len(palette))) if (labels == i).any()][:5]
    patches = [Patch(color="#{:02x}{:02x}{:02x}".format(*palette[i]), label=class_names[i]) for i in shown]
    axes[0].legend(handles=patches, fontsize=7, loc="lower right", framealpha=0.8)
    top = max(float(m.max()) for m in maps.values()) if top is None else top
    drawn = None
    for k, (axis, (name, weights)) in enumerate(zip(axes[1:], maps.items(), strict=True)):
        drawn = axis.imshow(weights, cmap=COLOURS, vmin=0, vmax=top, extent=(0, width, height, 0), interpolation="nearest", aspect="equal")
        axis.set_title(name, fontsize=10)
        axis.set_xlabel(captions[k] if k < len(captions) else "", fontsize=9)
        _outline(axis, box)
    for axis in axes:
        axis.set_xticks([])
        axis.set_yticks([])
    if drawn is not None:
        figure.colorbar(drawn, ax=list(axes[1:]), shrink=0.75, label="attention weight", extend="max")
    if title:
        figure.suptitle(title, fontsize=11)
    return figure


def grid_figure(maps: Mapping[str, Array], cell: tuple[int, int] | None = None, numbers: bool = False, columns: int = 4) -> Figure:
    """Small maps (h, w) as grids of cells, each on its own scale from 0, the chosen cell (i, j) outlined, values written on request."""
    columns = min(columns, len(maps))
    rows = -(-len(maps) // columns)
    figure = Figure(figsize=(3.1 * columns, 2.7 * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for axis, (name, weights) in zip(axes, maps.items(), strict=False):
        top = float(np.nanmax(weights)) or 1.0
        axis.imshow(weights, cmap=COLOURS, vmin=0, vmax=top, interpolation="nearest")
        axis.set_title(name, fontsize=10)
        if cell is not None:
            _outline(axis, (cell[1] - 0.5, cell[0] - 0.5, cell[1] + 0.5, cell[0] + 0.5))
        digits = 2 if np.any(weights % 1) else 0
        for (i, j), value in np.ndenumerate(weights) if numbers else ():
            colour = "black" if value > 0.6 * top else "white"
            axis.text(j, i, f"{value:.{digits}f}", ha="center", va="center", fontsize=7, color=colour)
    for axis in axes:
        axis.set_xticks([])
        axis.set_yticks([])
    for axis in axes[len(maps) :]:
        axis.set_visible(False)
    return figure


def curve_figure(
    x: Array,
    curves: Mapping[str, Array],
    xlabel: str,
    ylabel: str,
    logarithmic: bool = True,
    title: str = "",
) -> Figure:
    """Curves over one axis, each labelled at its end."""
    figure = Figure(figsize=(6.4, 3.6), layout="constrained")
    axis = figure.subplots()
    for name, values in curves.items():
        (line,) = axis.plot(x, values, linewidth=2)
        axis.annotate(
            name, (float(x[-1]), float(values[-1])), xytext=(5, 0), textcoords="offset points", color=line.get_color(), va="center"
        )
    if logarithmic:
        axis.set_yscale("log")
    axis.set(xlabel=xlabel, ylabel=ylabel, title=title)
    axis.spines[["top", "right"]].set_visible(False)
    axis.margins(x=0.12)
    axis.grid(alpha=0.25)
    return figure


def bar_figure(groups: Sequence[str], series: Mapping[str, Sequence[float]], ylabel: str, chance: float | None = None) -> Figure:
    """Grouped bars with their values written on top, and a dotted line at `chance`."""
    figure = Figure(figsize=(6.4, 3.2), layout="constrained")
    axis = figure.subplots()
    width = 0.8 / len(series)
    for k, (name, values) in enumerate(series.items()):
        bars = axis.bar(np.arange(len(groups)) + (k - (len(series) - 1) / 2) * width, values, width * 0.92, label=name)
        axis.bar_label(bars, fmt="%.2f", fontsize=8)
    if chance is not None:
        axis.axhline(chance, color="black", linestyle=":", linewidth=1, label=f"chance {chance:g}")
    axis.set_xticks(np.arange(len(groups)), groups)
    axis.set_ylabel(ylabel)
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(frameon=False, fontsize=9, ncols=len(series) + 1, loc="lower center", bbox_to_anchor=(0.5, 1.0))
    return figure


def _outline(axis: Axes, box: tuple[float, float, float, float]) -> None:
    """A rectangle that shows on dark and on light."""
    left, top, right, bottom = box
    for width, colour in ((3.0, "black"), (1.4, "white")):
        axis.add_patch(Rectangle((left, top), right - left, bottom - top, fill=False, edgecolor=colour, linewidth=width))
