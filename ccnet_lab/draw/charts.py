"""Charts of the board: numbers in, a matplotlib Figure out; no torch, no pyplot, no files. board_page.py picks what goes into them."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.patheffects import withStroke
from numpy.typing import NDArray

from ccnet_lab.draw.figures import panel
from ccnet_lab.draw.lettering import as_it_is
from ccnet_lab.draw.pictures import COLOURS

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]
Names = Sequence[str]
BLUE, ORANGE, GREY = (
    "#0072b2",
    "#d55e00",
    "#9a9a9a",
)  # told apart with any colour vision (Okabe and Ito, 2008); grey for ties
BLOCK = 50  # classes side by side
NUMBERS = 25  # classes up to which every cell has its number
MOST = 40  # classes of a comparison that are drawn


class Point(NamedTuple):
    """A point of `cost_scatter`."""

    label: str  # its configuration
    cost: float
    miou: float  # %
    measured: bool  # here; else published
    front: bool  # whether on its kind's Pareto front
    interval: tuple[float, float] | None = None  # 95 %
    alike: bool = True  # whether it was measured as the others were; else it is on no front


def class_heatmap(
    rows: Mapping[str, Floats], class_names: Names, by: str = "", title: str = ""
) -> Figure:
    """The IoU of every class (columns) in every row, all on one scale from 0 to 100 %; hatched where there is no number.

    Args:
        rows: label -> (K,) in %, NaN where it isn't known.
        class_names: K.
        by: the row by which the classes are ordered, best first; "" for the data set's order. More than `BLOCK` classes stand in blocks.
    """
    table, names = np.array(list(rows.values())), np.array(class_names)
    if not np.isfinite(table).any():
        figure = Figure(figsize=(6.4, 1.2))
        figure.text(
            0.5,
            0.5,
            f"{title}\nno numbers yet",
            ha="center",
            va="center",
            fontsize=11,
            color="#555555",
            linespacing=1.6,
        )
        return figure
    order = np.argsort(-rows[by], kind="stable") if by else np.arange(len(names))
    blocks = np.array_split(order, -(-len(names) // BLOCK))
    wide, numbers = len(blocks[0]), len(names) <= NUMBERS
    # Inches: placed by hand, since matplotlib's layouts measure every label several times.
    left, below = 0.075 * max(map(len, rows)) + 0.2, 0.058 * min(18, max(map(len, names))) + 0.25
    cell, tall = 0.46 if numbers else 0.24, 0.3 * len(rows)
    width, height = left + wide * cell + 1.0, len(blocks) * (tall + below) + 0.5
    figure = Figure(figsize=(width, height))
    figure.suptitle(title, fontsize=11, y=1 - 0.12 / height, va="top")
    for number, block in enumerate(blocks, 1):
        bottom = height - 0.45 - number * tall - (number - 1) * below
        axis = figure.add_axes(
            (left / width, bottom / height, len(block) * cell / width, tall / height)
        )
        part = table[:, block]
        axis.set_facecolor("#e6e6e6")
        axis.patch.set(hatch="////", edgecolor="#a8a8a8", linewidth=0)
        drawn = axis.imshow(
            np.ma.masked_invalid(part),
            cmap=COLOURS,
            vmin=0,
            vmax=100,
            aspect="auto",
            interpolation="nearest",
        )
        axis.set(
            xticks=[], yticks=[]
        )  # names are plain text, which matplotlib draws in a fraction of the time that ticks take
        axis.spines[:].set_visible(False)
        gap = 0.05  # inches
        words: dict[str, Any] = {"ha": "right", "rotation_mode": "anchor"}
        for i, name in enumerate(names[block]):
            short = name if len(name) <= 18 else f"{name[:17]}…"
            axis.text(
                i,
                -gap / tall,
                short,
                rotation=60,
                va="top",
                fontsize=8,
                transform=axis.get_xaxis_transform(),
                **words,
                **as_it_is(),
            )
        for i, label in enumerate(rows):
            axis.text(
                -gap / (len(block) * cell),
                i,
                label,
                va="center",
                fontsize=9,
                transform=axis.get_yaxis_transform(),
                **words,
            )
        axis.vlines(
            np.arange(len(block) - 1) + 0.5, -0.5, len(rows) - 0.5, color="white", linewidth=0.8
        )
        axis.hlines(
            np.arange(len(rows) - 1) + 0.5, -0.5, len(block) - 0.5, color="white", linewidth=0.8
        )
        for (i, j), value in np.ndenumerate(part) if numbers else ():
            if value == value:
                axis.text(
                    j,
                    i,
                    f"{value:.0f}",
                    ha="center",
                    va="center",
                    fontsize=8,
                    color="black" if value > 60 else "white",
                )
    long = min(3.0, tall)
    bar = figure.add_axes(
        ((width - 0.85) / width, 1 - (0.45 + long) / height, 0.15 / width, long / height)
    )
    figure.colorbar(drawn, cax=bar, label="IoU, %")
    return figure


def cost_scatter(points: Sequence[Point], xlabel: str, title: str = "") -> Figure:
    """Cost against mIoU: published as rings, measured as dots with intervals, a Pareto front each; grey crosses are measured otherwise."""
    figure, axis = panel(7.2, 4.6, title)
    looks = {
        (True, True): (ORANGE, ORANGE, "o", 7, "measured here, 95 % over the images"),
        (False, True): (BLUE, "none", "o", 11, "published by SSSegmentation"),
        (True, False): ("#6e6e6e", "none", "x", 7, "measured otherwise, not comparable"),
    }
    handles = []
    for (measured, alike), (colour, fill, marker, size, name) in looks.items():
        kind = sorted(
            (p for p in points if (p.measured, p.alike) == (measured, alike)),
            key=lambda p: (p.cost, p.miou),
        )
        front = [p for p in kind if p.front]
        style: Literal["-", "--"] = "-" if measured else "--"
        axis.plot(
            [p.cost for p in front],
            [p.miou for p in front],
            color=colour,
            linewidth=1.2,
            alpha=0.6,
            linestyle=style,
        )
        for p in kind:
            if p.interval:
                axis.plot([p.cost] * 2, p.interval, color=colour, linewidth=1.6)
            axis.plot(
                p.cost,
                p.miou,
                marker,
                color=colour,
                markerfacecolor=fill,
                markersize=size,
                markeredgewidth=1.8,
            )
        if kind:
            handles.append(
                Line2D(
                    [],
                    [],
                    color=colour,
                    marker=marker,
                    markerfacecolor=fill,
                    markersize=size,
                    linestyle="",
                    label=name,
                )
            )
        if front:
            handles.append(
                Line2D(
                    [], [], color=colour, linestyle=style, label=f"Pareto front, {name.split()[0]}"
                )
            )
    if not points:
        axis.text(0.5, 0.5, "no numbers yet", ha="center", transform=axis.transAxes)
    axis.set(xlabel=xlabel, ylabel="mIoU, %")
    axis.margins(x=0.16, y=0.14)
    figure.legend(handles=handles, fontsize=8.5, frameon=False, loc="outside lower center", ncols=2)
    figure.draw_without_rendering()  # the layout, so that labels know where they stand
    _label(figure, axis, points)
    return figure


def difference_bars(
    class_names: Names,
    difference: Floats,
    low: Floats,
    high: Floats,
    ties: Flags,
    labels: Names,
    title: str = "",
    tie: str = "tie",
) -> Figure:
    """IoU of the first less the second by class, sorted, with 95 % intervals; ties grey, the rest in the colour of the better one.

    Args:
        class_names, difference, low, high, ties: K of each, in points; NaN for classes that are left out. Of more than `MOST` classes
            those with the largest differences are drawn, and the number of the others is said.
        labels: of the two. tie: what a tie is.
    """
    known = np.flatnonzero(~np.isnan(difference))
    shown = known[np.argsort(-np.abs(difference[known]), kind="stable")[:MOST]]
    shown = shown[np.argsort(difference[shown], kind="stable")]
    colours = np.where(ties, GREY, np.where(difference > 0, BLUE, ORANGE))
    figure, axis = panel(7.2, 0.24 * max(4, len(shown)) + 1.9, title, bars=True)
    axis.barh(np.arange(len(shown)), difference[shown], color=list(colours[shown]), height=0.72)
    reach = np.abs(np.stack([difference - low, high - difference]))[:, shown]
    axis.errorbar(
        difference[shown],
        np.arange(len(shown)),
        xerr=reach,
        fmt="none",
        ecolor="#222222",
        elinewidth=1.1,
        capsize=2,
    )
    axis.set_yticks(
        np.arange(len(shown)), [class_names[k] for k in shown], fontsize=8.5, **as_it_is()
    )
    axis.axvline(0, color="#222222", linewidth=0.8)
    axis.set_ylim(-0.7, len(shown) - 0.3)
    rest = (
        f"\nthe {len(known) - len(shown)} classes with smaller differences are not drawn"
        if len(known) > len(shown)
        else ""
    )
    axis.set_xlabel(f"difference of IoU, points; lines: 95 % over the images{rest}", fontsize=9)
    words = (f"{labels[0]} higher", f"{labels[1]} higher", tie)
    patches = [
        Patch(color=colour, label=name)
        for colour, name in zip((BLUE, ORANGE, GREY), words, strict=True)
    ]
    figure.legend(handles=patches, fontsize=8.5, frameon=False, loc="outside lower center")
    return figure


def _label(figure: Figure, axis: Axes, points: Sequence[Point]) -> None:
    """Write every configuration's name once, at its best comparable point, where it covers no marker, no interval and no other name."""
    place = axis.transData.transform
    point = figure.dpi / 72  # pixels
    height, taken = 11 * point, []  # boxes (left, bottom, right, top), pixels
    for p in points:
        x, y = place((p.cost, p.miou))
        low, high = (place((p.cost, value))[1] for value in (p.interval or (p.miou, p.miou)))
        taken.append(
            (x - 6 * point, min(low, y - 6 * point), x + 6 * point, max(high, y + 6 * point))
        )
    for label, p in {
        p.label: p for p in sorted(points, key=lambda p: (p.alike, p.miou))
    }.items():  # the best of each
        (x, y), width = place((p.cost, p.miou)), 5.2 * len(label) * point
        beside = [
            (side, dy * height - height / 2)
            for dy in (0, 1, -1, 2, -2, 3, -3)
            for side in (8 * point, -8 * point - width)
        ]
        offsets = [*beside, (-width / 2, 9 * point), (-width / 2, -9 * point - height)]
        boxes = {(dx, dy): (x + dx, y + dy, x + dx + width, y + dy + height) for dx, dy in offsets}
        free = [
            offset for offset, box in boxes.items() if not any(_meet(box, other) for other in taken)
        ] or offsets
        taken.append(boxes[free[0]])
        dx, dy = free[0]
        text = axis.annotate(
            label,
            (p.cost, p.miou),
            (dx / point, (dy / point + 2.5)),
            textcoords="offset points",
            fontsize=9,
        )
        text.set_path_effects([withStroke(linewidth=3, foreground="white")])


def _meet(a: tuple[float, ...], b: tuple[float, ...]) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]
