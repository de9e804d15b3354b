"""Figures of maps, labels and curves: arrays in, a matplotlib Figure out, no pyplot state.

Charts of scores, costs and trainings are in charts.py, quick pictures for the app in pictures.py.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle
from numpy.typing import NDArray
from PIL import ImageColor

from ccnet_lab.draw.lettering import as_it_is, beside, class_legend, legend, panel, tidy
from ccnet_lab.draw.pictures import (
    COLOURS,
    Rgb,
    blend,
    grey,
    heat,
    label_picture,
    resized,
    shown_size,
)  # fmt: skip

Array = NDArray[np.floating]
Ids = NDArray[np.uint8]
Palette = Sequence[tuple[int, int, int]]
# Vermilion and blue of Okabe and Ito, distinct with any colour vision.
ATTENDED, RANDOM = "#d55e00", "#0072b2"
PANEL, GAP = 264, 16  # pixels: a panel's width, and between two


def attention_figure(
    image: Rgb,
    labels: Ids,
    palette: Palette,
    class_names: Sequence[str],
    pixel: tuple[int, int] | None,
    box: tuple[float, float, float, float] | None,
    maps: Mapping[str, Array],
    captions: Sequence[str] = (),
    top: float | Sequence[float] | None = None,
    opacity: float = 0.45,
    title: str = "",
) -> Figure:
    """An image with its labels and what was chosen, and the maps of that, each over its scale.

    Made for sliders: one finished picture draws several times faster than axes for each panel.

    Args:
        image: (H, W, 3). labels: (H, W) class ids. palette, class_names: K of each.
        pixel: (x, y), or None for maps of many cells.
        box: (left, top, right, bottom) of its cell or of a region, image pixels; None for no box.
        maps: title -> (h, w), drawn over the image's extent. captions: a line below each.
        top: where the colour scales end, one for all maps or one each; None for the maps' peak.
        opacity: 0..1, of the labels over the image.
    """
    height, width = labels.shape
    h, w = size = shown_size(height, width, round(PANEL * min(1.4, max(1.0, height / width))))
    top = max(float(m.max()) for m in maps.values()) if top is None else top
    tops = [*top] if isinstance(top, Sequence) else [top] * len(maps)
    panels = [blend(resized(image, size), label_picture(labels, palette, size), opacity)]
    panels += [heat(m, level, size) for m, level in zip(maps.values(), tops, strict=True)]
    head = 56 if title else 32
    sheet = np.full((head + h + 62, GAP + len(panels) * (w + GAP), 3), 255, np.uint8)
    tall, wide = sheet.shape[:2]
    figure = Figure(figsize=(wide / 100, tall / 100), dpi=100)
    # the axes' unit is a pixel; (0, 0) is upper left
    axis = figure.add_axes((0, 0, 1, 1), xlim=(0, wide), ylim=(tall, 0))
    axis.set_axis_off()
    _write(axis, wide / 2, 8, title, fontsize=11, ha="center", va="top")
    chosen = " and the chosen pixel" if pixel else " and the chosen region" if box else ""
    names = [f"labels{chosen}", *maps]
    for k, (name, part) in enumerate(zip(names, panels, strict=True)):
        left = GAP + k * (w + GAP)
        sheet[head : head + h, left : left + w] = part
        _write(axis, left + w / 2, head - 7, name, fontsize=10, ha="center", va="bottom")
    scale = w / width, h / height
    _mark(axis, (GAP, head), scale, pixel, box)
    frequent = _frequent(labels, len(palette), 6)
    _legend(axis, sheet, head + h + 12, w, {class_names[i]: palette[i] for i in frequent})
    for k, (weights, level) in enumerate(zip(maps.values(), tops, strict=True)):
        left = GAP + (k + 1) * (w + GAP)
        _mark(axis, (left, head), scale, None, box)
        caption = captions[k] if k < len(captions) else ""
        _write(axis, left + w / 2, head + h + 6, caption, fontsize=9, ha="center", va="top")
        _scale(axis, sheet, head + h + 36, left + w // 5, left + w - w // 5, weights.max(), level)
    axis.imshow(sheet, extent=(0, wide, tall, 0), aspect="auto", interpolation="nearest")
    return figure


def _scale(axis: Axes, sheet: Rgb, row: int, start: int, end: int, peak: float, top: float) -> None:
    """A colour scale from 0 to `top` into the sheet, and its ends."""
    sheet[row : row + 10, start:end] = heat(np.arange(256.0)[None], 255, (10, end - start))
    _write(axis, start - 5, row + 5, "0", fontsize=8, ha="right", va="center")
    clipped = "≥ " if peak > top else ""
    _write(axis, end + 5, row + 5, f"{clipped}{top:.2g}", fontsize=8, va="center")


def _mark(
    axis: Axes,
    corner: tuple[float, float],
    scale: tuple[float, float],
    pixel: tuple[int, int] | None,
    box: tuple[float, float, float, float] | None,
) -> None:
    """The cross of a pixel, else the outline of a box, on a panel with that upper left corner."""
    (left, top), (across, down) = corner, scale
    if pixel is not None:
        x, y = left + (pixel[0] + 0.5) * across, top + (pixel[1] + 0.5) * down
        for colour, length, edge in (("white", 11, 3), ("black", 9, 1)):
            axis.plot(x, y, "+", color=colour, markersize=length, markeredgewidth=edge)
    elif box is not None:
        first = left + box[0] * across, top + box[1] * down
        _outline(axis, first, (box[2] - box[0]) * across, (box[3] - box[1]) * down)


def _legend(axis: Axes, sheet: Rgb, upper: int, width: int, colours: Mapping[str, Any]) -> None:
    """Three names in a row below a panel, each with its colour."""
    for k, (name, colour) in enumerate(colours.items()):
        left, top = GAP + k % 3 * width // 3, upper + 20 * (k // 3)
        sheet[top : top + 11, left : left + 11] = colour
        _write(axis, left + 16, top + 6, name, fontsize=8, va="center")


def _frequent(labels: Ids, classes: int, most: int) -> list[int]:
    """The classes that occur, the most frequent first."""
    counts = np.bincount(labels.ravel(), minlength=classes)
    return [int(k) for k in np.argsort(-counts, kind="stable")[:most] if counts[k]]


def _write(axis: Axes, x: float, y: float, text: str, **style: Any) -> None:
    if text:
        axis.text(x, y, text, **as_it_is(), **style)


def _outline(axis: Axes, corner: tuple[float, float], width: float, height: float) -> None:
    for thickness, colour in ((3.0, "black"), (1.4, "white")):  # seen on any ground
        style: dict[str, Any] = {"fill": False, "edgecolor": colour, "linewidth": thickness}
        axis.add_patch(Rectangle(corner, width, height, **style))


def grid_figure(
    maps: Mapping[str, Array],
    cell: tuple[int, int] | None = None,
    numbers: bool = False,
    columns: int = 4,
) -> Figure:
    """Small maps (h, w) as grids of cells, each on its own scale from 0, cell (i, j) outlined."""
    columns = min(columns, len(maps))
    rows = -(-len(maps) // columns)
    figure = Figure(figsize=(3.1 * columns, 2.7 * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for axis, (name, weights) in zip(axes, maps.items(), strict=False):
        top = float(np.nanmax(weights)) or 1.0
        axis.imshow(weights, cmap=COLOURS, vmin=0, vmax=top, interpolation="nearest")
        axis.set_title(name, fontsize=10, **as_it_is())
        if cell is not None:
            _outline(axis, (cell[1] - 0.5, cell[0] - 0.5), 1, 1)
        digits = 2 if np.any(weights % 1) else 0
        for (i, j), value in np.ndenumerate(weights) if numbers else ():
            colour = "black" if value > 0.6 * top else "white"
            style: dict[str, Any] = {"ha": "center", "va": "center", "color": colour}
            axis.text(j, i, f"{value:.{digits}f}", fontsize=7, **style)
    for k, axis in enumerate(axes):
        axis.set(xticks=[], yticks=[], visible=k < len(maps))
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
    figure, axis = panel(6.4, 3.6, title)
    for name, values in curves.items():
        (line,) = axis.plot(x, values, linewidth=2)
        beside(axis, name, x[-1], values[-1], color=line.get_color())
    axis.set(xlabel=xlabel, ylabel=ylabel, yscale="log" if logarithmic else "linear")
    axis.margins(x=0.12)
    return figure


def bar_figure(
    groups: Sequence[str],
    series: Mapping[str, Sequence[float]],
    ylabel: str,
    chance: float | None = None,
) -> Figure:
    """Grouped bars with their values written on top, and a dotted line at `chance`."""
    figure, axis = panel(6.4, 3.2)
    width = 0.8 / len(series)
    for k, (name, values) in enumerate(series.items()):
        places = np.arange(len(groups)) + (k - (len(series) - 1) / 2) * width
        bars = axis.bar(places, values, width * 0.92, label=name)
        axis.bar_label(bars, fmt="%.2f", fontsize=8)
    if chance is not None:
        axis.axhline(chance, color="black", linestyle=":", linewidth=1, label=f"chance {chance:g}")
    axis.set_xticks(np.arange(len(groups)), groups)
    axis.set_ylabel(ylabel)
    axis.grid(visible=False, axis="x")
    legend(figure, columns=len(series) + 1)
    return figure


def deletion_figure(
    counts: NDArray[np.integer],
    attended: Array,
    controls: Array,
    area: float,
    noise: float,
    score: str,
    title: str = "",
) -> Figure:
    """How a score falls as cells are removed, most attended first and in random order.

    Args:
        counts: (S,) cells removed, 0 first, then growing by equal ratios.
        attended: (S,) the score, most attended first. controls: (D, S) in each random order.
        area, noise: numbers of a `Deletion`.
        score: what the score is, for the axis.
    """
    figure, axis = panel(6.4, 3.8, title)
    mean = controls.mean(0)
    for where, colour in ((mean >= attended, ATTENDED), (mean < attended, RANDOM)):
        style: dict[str, Any] = {"color": colour, "alpha": 0.16, "linewidth": 0}
        axis.fill_between(counts, attended, mean, where=list(where), interpolate=True, **style)
    low, high = controls.min(0), controls.max(0)
    axis.fill_between(counts, low, high, color=RANDOM, alpha=0.3, linewidth=0)
    random = f"random cells first (mean and range of {len(controls)})"
    axis.plot(counts, mean, "--", color=RANDOM, linewidth=2, label=random)
    first = "most attended cells first"
    axis.plot(counts, attended, "o-", color=ATTENDED, linewidth=2, markersize=4, label=first)
    axis.set_xscale("symlog", linthresh=1, linscale=0.4)
    powers = 10 ** np.arange(len(str(int(counts[-1]))))
    ticks = [0, *powers[powers < counts[-1] / 2], counts[-1]]
    axis.set_xticks(ticks, [f"{int(tick):,}" for tick in ticks])
    axis.minorticks_off()
    top = max(1.02 * float(controls.max()), 0.05)
    axis.set(xlabel="cells removed", ylabel=score, xlim=(0, counts[-1] * 1.05), ylim=(0, top))
    label = f"area {area:.3f}  (chance: 0 ± {noise:.3f})"
    between = Patch(color=ATTENDED, alpha=0.16, label=label)
    legend(figure, [*axis.get_legend_handles_labels()[0], between])
    return figure


def recurrence_figure(
    image: Rgb,
    labels: Mapping[int, Ids],
    trained: int,
    palette: Palette,
    class_names: Sequence[str],
    title: str = "",
) -> Figure:
    """The labels at each R in a row, below each the pixels that differ from the trained R.

    Args:
        image: (H, W, 3). labels: R -> (H, W) class ids, the trained R among them.
        palette, class_names: K of each.
    """
    height, width = image.shape[:2]
    ratio = min(1.6, max(0.4, height / width))
    figure = Figure(figsize=(2.9 * len(labels), 5.8 * ratio + 1.25), layout="constrained")
    axes = figure.subplots(2, len(labels), squeeze=False)
    ground = blend(grey(image), np.full_like(image, 255), 0.55)
    for (above, below), (recurrence, ids) in zip(axes.T, labels.items(), strict=True):
        changed = ids != labels[trained]
        name, weight = f"R = {recurrence}", "normal"
        caption = f"changed {100 * changed.mean():.1f} % of the pixels"
        if recurrence == trained:
            name, weight, caption = f"{name}, as trained", "bold", "the others' baseline"
        above.imshow(blend(image, label_picture(ids, palette, (height, width)), 0.7))
        above.set_title(name, fontsize=11, fontweight=weight)
        marked = np.where(changed[..., None], ImageColor.getrgb(ATTENDED), ground)
        below.imshow(marked.astype(np.uint8))
        below.set_xlabel(caption, fontsize=9)
        for axis in (above, below):
            aspect = "equal" if ratio == height / width else "auto"
            axis.set(xticks=[], yticks=[], aspect=aspect)
    shown = _frequent(np.stack([*labels.values()]), len(palette), 12)
    names, colours = [class_names[k] for k in shown], [palette[k] for k in shown]
    class_legend(figure, names, colours, fontsize=8, ncols=6)
    figure.suptitle(title, fontsize=11, **as_it_is())
    return figure


def iou_figure(class_names: Sequence[str], iou: Mapping[str, Array], title: str = "") -> Figure:
    """Per-class IoU 0..1 as a heat map in percent, one column (K,) per name, their means below.

    Classes that are NaN in every column are left out.
    """
    values = 100 * np.stack(list(iou.values()), axis=1)  # (K, columns), percent
    kept = np.flatnonzero(~np.isnan(values).all(1)).tolist()
    values = np.vstack([values[kept], np.nanmean(values, axis=0)])
    size = (2.2 + 0.95 * len(iou), 1.1 + 0.3 * len(values))
    figure = Figure(figsize=size, layout="constrained")
    axis = figure.subplots()
    bar = {"label": "IoU, %", "shrink": 0.8}
    iou_cells(axis, values, annot=True, fmt=".1f", xticklabels=list(iou), cbar_kws=bar)
    for row, column in np.argwhere(np.isnan(values)):
        axis.text(column + 0.5, row + 0.5, "–", ha="center", va="center", fontsize=8)
    rows = [*(class_names[k] for k in kept), "mean"]
    axis.set_yticks(np.arange(len(rows)) + 0.5, rows, fontsize=9, rotation=0, **as_it_is())
    axis.axhline(len(rows) - 1, color="white", linewidth=2)
    for label in axis.get_xticklabels():
        label.update(as_it_is())
    axis.tick_params(length=0)
    axis.set_title(title, fontsize=11, **as_it_is())
    return figure


def iou_cells(axis: Axes, table: Array, **options: Any) -> None:
    """Seaborn's heat map of a table in percent, cells that are NaN left open."""
    import seaborn as sns  # takes a second

    look: dict[str, Any] = {"vmin": 0, "vmax": 100, "cmap": COLOURS, "annot_kws": {"fontsize": 8}}
    sns.heatmap(table, yticklabels=False, ax=axis, **look, **options)


def class_histogram(
    class_names: Sequence[str],
    palette: Palette,
    shares: Mapping[str, Array],
    title: str,
    text: Callable[[float], str],
) -> Figure:
    """Each class's share of the pixels: bars for the first split, marks on them for the others.

    Args:
        class_names, palette: K of each, in the order they are drawn, top to bottom.
        shares: split -> (K,) in %.
        title: drawn as it is.
        text: writes a share, for the columns of numbers on the right.
    """
    columns = -(-len(class_names) // 50)
    rows = -(-len(class_names) // columns)
    figure = Figure(figsize=(6.2 * columns + 0.6, 0.235 * rows + 1.5), layout="constrained")
    table = np.stack(list(shares.values()))
    low, high = max(1e-3, 10.0 ** np.floor(np.log10(table[table > 0].min()))), float(table.max())
    axes = figure.subplots(1, columns, squeeze=False)[0]
    for axis, part in zip(axes, np.array_split(np.arange(len(class_names)), columns), strict=True):
        names, places = [class_names[k] for k in part], range(len(part))
        colours = [f"#{bytes(palette[k]).hex()}" for k in part]
        axis.barh(places, table[0, part], color=colours, edgecolor="0.45", linewidth=0.5)
        keys = [f"bars {next(iter(shares))}"]
        for split, values, mark, key in zip([*shares][1:], table[1:], "Do", "◇○", strict=False):
            style = {"color": "white", "markeredgecolor": "black", "markersize": 4}
            axis.plot(values[part], places, mark, **style)
            keys.append(f"{key} {split}")
        for column, (split, values) in enumerate(shares.items()):
            style = {"ha": "right", "va": "center", "fontsize": 7.5, "color": "0.25"}
            style["transform"] = axis.get_yaxis_transform()
            for row, number in enumerate([split, *map(text, values[part])], -1):
                axis.text(1.11 + 0.13 * column, row, number, **style)
        tidy(axis, bars=True)
        axis.set(xscale="log", xlim=(low, 1.3 * high), ylim=(rows - 0.4, -0.6))
        axis.set_yticks(places, names, fontsize=8, **as_it_is())
        axis.set_xlabel(f"% of the labelled pixels, logarithmic: {', '.join(keys)}", fontsize=8)
        axis.xaxis.set_major_formatter("{x:g}")
    figure.suptitle(title, fontsize=10, **as_it_is())
    return figure
