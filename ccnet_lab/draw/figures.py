"""Arrays in, a matplotlib Figure out; no torch, no pyplot, no files. The quick pictures of the app are in pictures.py."""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import RendererAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import findfont
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, PathPatch, Rectangle
from matplotlib.path import Path
from matplotlib.text import Text
from matplotlib.transforms import Affine2D, Bbox
from numpy.typing import NDArray
from PIL import Image, ImageColor, ImageDraw, ImageFont

from ccnet_lab.draw.lettering import as_it_is, class_legend
from ccnet_lab.draw.pictures import (
    COLOURS,
    Rgb,
    blend,
    grey,
    heat,
    label_picture,
    resized,
    shown_size,
)

Array = NDArray[np.floating]
Ids = NDArray[np.uint8]
Palette = Sequence[tuple[int, int, int]]
ATTENDED, RANDOM = (
    "#d55e00",
    "#0072b2",
)  # vermilion and blue of Okabe and Ito, told apart with any colour vision
PANEL, GAP = 264, 16  # pixels: a panel's width, and between two


class Sheet(Artist):
    """A finished RGB picture that fills its figure, row 0 on top. Drawn at the figure's own dpi it is copied, not resampled."""

    def __init__(self, picture: Rgb) -> None:
        super().__init__()
        self.picture = picture

    def get_window_extent(self, renderer: Any = None) -> Bbox:
        """The figure's box in pixels, wherever a tight frame has put it."""
        return Bbox(self.get_figure(root=True).transFigure.transform([(0, 0), (1, 1)]))  # type: ignore[union-attr]

    def draw(self, renderer: Any) -> None:
        """Copy the picture, scaled only where it must be."""
        box = self.get_window_extent()
        shown = resized(self.picture, (round(box.height), round(box.width)))
        renderer.draw_image(
            renderer.new_gc(),
            round(box.x0),
            round(box.y0),
            np.asarray(Image.fromarray(shown).convert("RGBA"))[::-1],
        )


class Word(Text):
    """Level text that becomes pixels in one go: matplotlib places every letter on its own, the most costly part of a redraw."""

    def draw(self, renderer: Any) -> None:
        """Draw it with Pillow where the figure becomes pixels, and as text in a PDF or an SVG."""
        other_script = max(self.get_text(), default="") >= "\u2e80"
        if not isinstance(renderer, RendererAgg) or "\n" in self.get_text() or other_script:
            super().draw(renderer)
            return
        anchor = {"left": "l", "center": "m", "right": "r"}[self.get_horizontalalignment()]
        anchor += {"top": "a", "bottom": "d", "center": "m"}[self.get_verticalalignment()]
        font = _font(findfont(self.get_fontproperties()), self.get_fontsize() * renderer.dpi / 72)  # type: ignore[operator]
        left, top, right, bottom = map(round, font.getbbox(self.get_text(), anchor=anchor))
        if right <= left or bottom <= top:
            return
        picture = Image.new("RGBA", (right - left, bottom - top), (0, 0, 0, 0))
        ImageDraw.Draw(picture).text((-left, -top), self.get_text(), "black", font, anchor)
        x, y = map(round, self.get_transform().transform(self.get_position()))
        renderer.draw_image(renderer.new_gc(), x + left, y - bottom, np.asarray(picture)[::-1])


@lru_cache(16)
def _font(path: str, size: float) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(path, size)


def panel(width: float, height: float, title: str = "", bars: bool = False) -> tuple[Figure, Axes]:
    """An empty figure of that many inches, its axes open to the top and the right, a faint grid; for lying `bars` open to the left, too."""
    figure = Figure(figsize=(width, height), layout="constrained")
    axis = figure.subplots()
    axis.set_title(title, fontsize=11)
    axis.spines[["top", "right", *(["left"] if bars else [])]].set_visible(False)
    axis.grid(axis="x" if bars else "both", alpha=0.25)
    if bars:
        axis.tick_params(axis="y", length=0)
        axis.set_axisbelow(True)
    return figure, axis


def attention_figure(
    image: Rgb,
    labels: Ids,
    palette: Palette,
    class_names: Sequence[str],
    pixel: tuple[int, int],
    box: tuple[float, float, float, float],
    maps: Mapping[str, Array],
    captions: Sequence[str] = (),
    top: float | Sequence[float] | None = None,
    opacity: float = 0.45,
    title: str = "",
) -> Figure:
    """An image with its labels and a chosen pixel, and beside them that pixel's maps, each over its colour scale.

    Made for sliders: one finished picture and a few words draw several times faster than a pair of axes for each panel.

    Args:
        image: (H, W, 3). labels: (H, W) class ids. palette, class_names: K of each.
        pixel: (x, y). box: (left, top, right, bottom) of its cell, image pixels.
        maps: title -> (h, w), drawn over the image's extent. captions: a line below each.
        top: where the colour scales end, one for all maps or one for each; None for the largest weight of all.
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
    figure = Figure(figsize=(sheet.shape[1] / 100, sheet.shape[0] / 100), dpi=100)
    pixels = (
        Affine2D().scale(1 / sheet.shape[1], -1 / sheet.shape[0]).translate(0, 1)
        + figure.transFigure
    )
    outlines = []

    def write(x: float, y: float, text: str, **style: Any) -> None:
        figure.add_artist(Word(x, y, text, transform=pixels, **as_it_is(), **style))

    figure.add_artist(Sheet(sheet))
    for k, (name, panel) in enumerate(
        zip(["labels and the chosen pixel", *maps], panels, strict=True)
    ):
        left, foot = GAP + k * (w + GAP), head + h
        sheet[head:foot, left : left + w] = panel
        write(left + w / 2, head - 7, name, fontsize=10, ha="center", va="bottom")
        if k == 0:
            x, y = left + (pixel[0] + 0.5) * w / width, head + (pixel[1] + 0.5) * h / height
            for colour, length, edge in (("white", 11, 3), ("black", 9, 1)):
                figure.lines.append(
                    Line2D(
                        [x],
                        [y],
                        color=colour,
                        marker="+",
                        markersize=length,
                        markeredgewidth=edge,
                        transform=pixels,
                    )
                )
                figure.lines[-1].set_figure(
                    figure
                )  # a notebook shows no figure without axes or lines of its own
            continue
        corners = [
            (box[across], box[down]) for across, down in ((0, 1), (2, 1), (2, 3), (0, 3), (0, 1))
        ]
        outlines.append(
            Path(corners, closed=True).transformed(
                Affine2D().scale(w / width, h / height).translate(left, head)
            )
        )
        write(
            left + w / 2,
            foot + 6,
            captions[k - 1] if k <= len(captions) else "",
            fontsize=9,
            ha="center",
            va="top",
        )
        start, end = left + w // 5, left + w - w // 5
        sheet[foot + 36 : foot + 46, start:end] = heat(
            np.arange(256.0)[None], 255, (10, end - start)
        )
        write(start - 5, foot + 41, "0", fontsize=8, ha="right", va="center")
        cut = "≥ " if maps[name].max() > tops[k - 1] else ""
        write(end + 5, foot + 41, f"{cut}{tops[k - 1]:.2g}", fontsize=8, va="center")
    for thickness, colour in ((3.0, "black"), (1.4, "white")):
        cells = Path.make_compound_path(*outlines)
        figure.add_artist(
            PathPatch(cells, fill=False, edgecolor=colour, linewidth=thickness, transform=pixels)
        )
    for k, i in enumerate(
        np.argsort(-np.bincount(labels.ravel(), minlength=len(palette)), kind="stable")[:6]
    ):
        if (labels == i).any():
            left, upper = GAP + k % 3 * w // 3, head + h + 12 + 20 * (k // 3)
            sheet[upper : upper + 11, left : left + 11] = palette[i]
            write(left + 16, upper + 6, class_names[i], fontsize=8, va="center")
    write(sheet.shape[1] / 2, 8, title, fontsize=11, ha="center", va="top")
    return figure


def grid_figure(
    maps: Mapping[str, Array],
    cell: tuple[int, int] | None = None,
    numbers: bool = False,
    columns: int = 4,
) -> Figure:
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
            for thickness, colour in ((3.0, "black"), (1.4, "white")):  # shows on dark and on light
                axis.add_patch(
                    Rectangle(
                        (cell[1] - 0.5, cell[0] - 0.5),
                        1,
                        1,
                        fill=False,
                        edgecolor=colour,
                        linewidth=thickness,
                    )
                )
        digits = 2 if np.any(weights % 1) else 0
        for (i, j), value in np.ndenumerate(weights) if numbers else ():
            colour = "black" if value > 0.6 * top else "white"
            axis.text(
                j, i, f"{value:.{digits}f}", ha="center", va="center", fontsize=7, color=colour
            )
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
    figure, axis = panel(6.4, 3.6)
    for name, values in curves.items():
        (line,) = axis.plot(x, values, linewidth=2)
        axis.annotate(
            name,
            (x[-1], values[-1]),
            (5, 0),
            textcoords="offset points",
            color=line.get_color(),
            va="center",
        )
    if logarithmic:
        axis.set_yscale("log")
    axis.set(xlabel=xlabel, ylabel=ylabel)
    axis.set_title(title, fontsize=12)
    axis.margins(x=0.12)
    return figure


def bar_figure(
    groups: Sequence[str],
    series: Mapping[str, Sequence[float]],
    ylabel: str,
    chance: float | None = None,
) -> Figure:
    """Grouped bars with their values written on top, and a dotted line at `chance`."""
    figure = Figure(figsize=(6.4, 3.2), layout="constrained")
    axis = figure.subplots()
    width = 0.8 / len(series)
    for k, (name, values) in enumerate(series.items()):
        bars = axis.bar(
            np.arange(len(groups)) + (k - (len(series) - 1) / 2) * width,
            values,
            width * 0.92,
            label=name,
        )
        axis.bar_label(bars, fmt="%.2f", fontsize=8)
    if chance is not None:
        axis.axhline(chance, color="black", linestyle=":", linewidth=1, label=f"chance {chance:g}")
    axis.set_xticks(np.arange(len(groups)), groups)
    axis.set_ylabel(ylabel)
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(
        frameon=False,
        fontsize=9,
        ncols=len(series) + 1,
        loc="lower center",
        bbox_to_anchor=(0.5, 1.0),
    )
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
    """How a score falls as cells are removed: the most attended first, and in random order; the area between them is named.

    Args:
        counts: (S,) cells removed, 0 first, then growing by equal ratios.
        attended: (S,) the score, most attended cells first. controls: (D, S) the score in each random order.
        area, noise: numbers of a `Deletion`.
        score: what the score is, for the axis.
    """
    figure, axis = panel(6.4, 3.8, title)
    mean = controls.mean(0)
    axis.fill_between(
        counts,
        attended,
        mean,
        where=list(mean >= attended),
        color=ATTENDED,
        alpha=0.16,
        linewidth=0,
        interpolate=True,
    )
    axis.fill_between(
        counts,
        attended,
        mean,
        where=list(mean < attended),
        color=RANDOM,
        alpha=0.16,
        linewidth=0,
        interpolate=True,
    )
    axis.fill_between(
        counts, controls.min(0), controls.max(0), color=RANDOM, alpha=0.3, linewidth=0
    )
    axis.plot(
        counts,
        mean,
        color=RANDOM,
        linewidth=2,
        linestyle="--",
        label=f"random cells first (mean and range of {len(controls)})",
    )
    axis.plot(
        counts,
        attended,
        color=ATTENDED,
        linewidth=2,
        marker="o",
        markersize=4,
        label="most attended cells first",
    )
    axis.set_xscale("symlog", linthresh=1, linscale=0.4)
    powers = 10 ** np.arange(len(str(int(counts[-1]))))
    ticks = [0, *powers[powers < counts[-1] / 2], counts[-1]]
    axis.set_xticks(ticks, [f"{int(tick):,}" for tick in ticks])
    axis.minorticks_off()
    axis.set(
        xlabel="cells removed",
        ylabel=score,
        xlim=(0, counts[-1] * 1.05),
        ylim=(0, max(1.02 * float(controls.max()), 0.05)),
    )
    handles = [
        *axis.get_legend_handles_labels()[0],
        Patch(color=ATTENDED, alpha=0.16, label=f"area {area:.3f}  (chance: 0 ± {noise:.3f})"),
    ]
    figure.legend(handles=handles, frameon=False, fontsize=9, loc="outside lower center", ncols=1)
    return figure


def recurrence_figure(
    image: Rgb,
    labels: Mapping[int, Ids],
    trained: int,
    palette: Palette,
    class_names: Sequence[str],
    title: str = "",
) -> Figure:
    """The labels at each R in a row, and below each the pixels that differ from the R the model was trained with, in orange.

    Args:
        image: (H, W, 3). labels: R -> (H, W) class ids, the trained R among them. palette, class_names: K of each.
    """
    height, width = image.shape[:2]
    ratio = min(1.6, max(0.4, height / width))
    figure = Figure(figsize=(2.9 * len(labels), 5.8 * ratio + 1.25), layout="constrained")
    axes = figure.subplots(2, len(labels), squeeze=False)
    aspect = "equal" if ratio == height / width else "auto"
    ground = blend(grey(image), np.full_like(image, 255), 0.55)
    for (above, below), (recurrence, ids) in zip(axes.T, labels.items(), strict=True):
        changed = ids != labels[trained]
        name, weight, words = (
            f"R = {recurrence}",
            "normal",
            f"changed {100 * changed.mean():.1f} % of the pixels",
        )
        if recurrence == trained:
            name, weight, words = f"{name}, as trained", "bold", "what the others are held against"
        above.imshow(blend(image, label_picture(ids, palette, (height, width)), 0.7), aspect=aspect)
        above.set_title(name, fontsize=11, fontweight=weight)
        below.imshow(
            np.where(changed[..., None], ImageColor.getrgb(ATTENDED), ground).astype(np.uint8),
            aspect=aspect,
        )
        below.set_xlabel(words, fontsize=9)
        for axis in (above, below):
            axis.set(xticks=[], yticks=[])
    counts = np.bincount(
        np.concatenate([ids.ravel() for ids in labels.values()]), minlength=len(palette)
    )
    shown = [k for k in np.argsort(-counts) if counts[k]][:12]
    class_legend(
        figure, [class_names[k] for k in shown], [palette[k] for k in shown], fontsize=8, ncols=6
    )
    figure.suptitle(title, fontsize=11)
    return figure


def iou_figure(class_names: Sequence[str], iou: Mapping[str, Array], title: str = "") -> Figure:
    """Per-class IoU 0..1 as a heat map in percent, one column (K,) per name; classes that are NaN in every column are left out."""
    values = 100 * np.stack(list(iou.values()), axis=1)  # (K, columns), percent
    kept = np.flatnonzero(~np.isnan(values).all(1)).tolist()
    values = np.vstack([values[kept], np.nanmean(values, axis=0)])
    figure = Figure(figsize=(2.2 + 0.95 * len(iou), 1.1 + 0.3 * len(values)), layout="constrained")
    axis = figure.subplots()
    drawn = axis.imshow(values, cmap=COLOURS, vmin=0, vmax=100, aspect="auto")
    for (row, column), value in np.ndenumerate(values):
        text, colour = (
            ("–", "black")
            if np.isnan(value)
            else (f"{value:.1f}", "black" if value > 60 else "white")
        )
        axis.text(column, row, text, ha="center", va="center", fontsize=8, color=colour)
    axis.set_xticks(range(len(iou)), list(iou), fontsize=9)
    axis.set_yticks(
        range(len(values)), [*(class_names[k] for k in kept), "mean"], fontsize=9, **as_it_is()
    )
    axis.axhline(len(values) - 1.5, color="white", linewidth=2)
    axis.tick_params(length=0)
    axis.set_title(title, fontsize=11)
    figure.colorbar(drawn, label="IoU, %", shrink=0.8)
    return figure
