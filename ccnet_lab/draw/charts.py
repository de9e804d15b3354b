"""Charts of scores, costs, timings and trainings: arrays in, a matplotlib Figure out, no state.

Figures of maps and labels are in figures.py. seaborn is imported where it draws: it takes a second.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.patheffects import withStroke
from matplotlib.ticker import MaxNLocator, NullFormatter, StrMethodFormatter
from matplotlib.transforms import blended_transform_factory
from numpy.typing import NDArray

from ccnet_lab.draw.figures import panel
from ccnet_lab.draw.lettering import as_it_is
from ccnet_lab.draw.pictures import COLOURS

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]
Names = Sequence[str]
Lines = Mapping[str, Floats]
INK, SOFT, GREY = "#1d2430", "#667085", "#9a9a9a"
BLUE, ORANGE, YELLOW = "#0072b2", "#d55e00", "#e69f00"
# Okabe and Ito's colours (2008) without yellow, distinct with any colour vision, then five that
# differ from them in lightness; markers differ with them.
LINES = (
    BLUE, ORANGE, "#009e73", "#cc79a7", YELLOW, "#56b4e9", "#000000", "#882255", "#999933",
    "#332288", "#aa4499", "#999999",
)  # fmt: skip
MARKERS = "os^DvP*XphH<"
BLOCK = 50  # classes side by side in a heat map
NUMBERS = 25  # classes up to which every cell of it has its number
MOST = 40  # classes of a comparison that are drawn
GROWTH = ("#56b4e9", BLUE, "#332288", ORANGE)  # R = 1, 2, 3 from light to dark, full attention
LABELLED = 97  # the side the authors' numbers are for: 769 x 769 pixels at stride 8
PANELS = (  # what is drawn, its title, factor
    ("loss", "loss, smoothed; faint as logged", 1.0),
    ("lr", "learning rate", 1.0),
    ("images_per_second", "images per second", 1.0),
    ("val_miou", "mIoU of evaluations, %; faint: on the crops of training", 100.0),
)


class Point(NamedTuple):
    """A point of `cost_scatter`."""

    label: str  # its configuration
    cost: float
    miou: float  # %
    measured: bool  # here; else published
    front: bool  # whether on its kind's Pareto front
    interval: tuple[float, float] | None = None  # 95 %
    alike: bool = True  # whether measured as the others were; else it is on no front


class Bar(NamedTuple):
    """A row of `speed_figure`."""

    name: str
    ratio: float  # to the baseline
    caption: str  # the numbers behind it
    target: float | None = None


def class_heatmap(
    rows: Mapping[str, Floats], class_names: Names, by: str = "", title: str = ""
) -> Figure:
    """The IoU of every class (columns) in every row, from 0 to 100 %; hatched without a number.

    Args:
        rows: label -> (K,) in %, NaN where it isn't known.
        class_names: K. More than `BLOCK` stand in blocks below one another.
        by: the row by which the classes are ordered, best first; "" for the data set's order.
    """
    table, names = np.array(list(rows.values())), np.array(class_names)
    if not np.isfinite(table).any():
        return _no_numbers(title)
    order = np.argsort(-rows[by], kind="stable") if by else np.arange(len(names))
    blocks = np.array_split(order, -(-len(names) // BLOCK))
    numbers = len(names) <= NUMBERS
    # Inches, placed by hand: matplotlib's layouts measure every label several times.
    left, below = 0.075 * max(map(len, rows)) + 0.2, 0.058 * min(18, max(map(len, names))) + 0.25
    cell, tall = 0.46 if numbers else 0.24, 0.3 * len(rows)
    width = left + len(blocks[0]) * cell + 1.0
    height = len(blocks) * (tall + below) + 0.5
    figure = Figure(figsize=(width, height))
    figure.suptitle(title, fontsize=11, y=1 - 0.12 / height, va="top")
    for number, block in enumerate(blocks):
        bottom = height - 0.45 - tall - number * (tall + below)
        size = (len(block) * cell / width, tall / height)
        axis = figure.add_axes((left / width, bottom / height, *size))
        _heat_block(axis, table[:, block], numbers)
        gap = 0.05  # inches, between cells and names
        beside: dict[str, Any] = {"ha": "right", "rotation_mode": "anchor"}
        across, down = axis.get_xaxis_transform(), axis.get_yaxis_transform()
        for i, name in enumerate(names[block]):
            short = name if len(name) <= 18 else f"{name[:17]}…"
            style = {"rotation": 60, "va": "top", "fontsize": 8, **beside, **as_it_is()}
            axis.text(i + 0.5, -gap / tall, short, transform=across, **style)
        for i, label in enumerate(rows):
            style = {"va": "center", "fontsize": 9, **beside}
            axis.text(-gap / (len(block) * cell), i + 0.5, label, transform=down, **style)
    long = min(3.0, tall)
    place = ((width - 0.85) / width, 1 - (0.45 + long) / height, 0.15 / width, long / height)
    figure.colorbar(axis.collections[0], cax=figure.add_axes(place), label="IoU, %")
    return figure


def _no_numbers(title: str) -> Figure:
    figure = Figure(figsize=(6.4, 1.2))
    style: dict[str, Any] = {"ha": "center", "va": "center", "color": SOFT, "linespacing": 1.6}
    figure.text(0.5, 0.5, f"{title}\nno numbers yet", fontsize=11, **style)
    return figure


def _heat_block(axis: Axes, table: Floats, numbers: bool) -> None:
    """Cells without ticks: names as plain text draw in a fraction of the time that ticks take."""
    import seaborn as sns

    axis.set_facecolor("#e6e6e6")
    axis.patch.set(hatch="////", edgecolor="#a8a8a8", linewidth=0)
    sns.heatmap(
        table,
        vmin=0,
        vmax=100,
        cmap=COLOURS,
        annot=numbers,
        fmt=".0f",
        annot_kws={"fontsize": 8},
        linewidths=0.8,
        cbar=False,
        xticklabels=False,
        yticklabels=False,
        ax=axis,
    )


def cost_scatter(points: Sequence[Point], xlabel: str, title: str = "") -> Figure:
    """Cost against mIoU with a Pareto front for published and for measured points.

    Rings are published, dots measured, with intervals; grey crosses are measured otherwise.
    """
    import seaborn as sns

    figure, axis = panel(7.2, 4.6, title)
    looks = {  # (measured, alike): colour, fill, marker, area, name
        (True, True): (ORANGE, ORANGE, "o", 49, "measured here, 95 % over the images"),
        (False, True): (BLUE, "none", "o", 121, "published by SSSegmentation"),
        (True, False): (SOFT, SOFT, "x", 49, "measured otherwise, not comparable"),
    }
    for (measured, alike), (colour, fill, marker, area, name) in looks.items():
        kind = [p for p in points if (p.measured, p.alike) == (measured, alike)]
        if not kind:
            continue
        for p in kind:
            if p.interval:
                axis.plot([p.cost] * 2, p.interval, color=colour, linewidth=1.6)
        style: dict[str, Any] = {"facecolor": fill, "edgecolor": colour}
        if marker == "x":  # strokes have no edge
            style = {"color": colour}
        x, y = [p.cost for p in kind], [p.miou for p in kind]
        style |= {"marker": marker, "s": area, "linewidth": 1.8, "label": name}
        sns.scatterplot(x=x, y=y, ax=axis, legend=False, **style)
        front = sorted((p.cost, p.miou) for p in kind if p.front)
        if front:
            label = f"Pareto front, {name.split()[0]}"
            style = {"linewidth": 1.2, "alpha": 0.6, "label": label}
            axis.plot(*zip(*front, strict=True), "-" if measured else "--", color=colour, **style)
    if not points:
        axis.text(0.5, 0.5, "no numbers yet", ha="center", transform=axis.transAxes)
    axis.set(xlabel=xlabel, ylabel="mIoU, %")
    axis.margins(x=0.16, y=0.14)
    handles = axis.get_legend_handles_labels()[0]
    figure.legend(handles=handles, fontsize=8.5, frameon=False, loc="outside lower center", ncols=2)
    figure.draw_without_rendering()  # the layout, so that labels know where they stand
    _label(figure, axis, points)
    return figure


def distribution_figure(values: Mapping[str, Floats], xlabel: str, title: str = "") -> Figure:
    """How scores are spread: each as a dot where they are few (seeds), else as shares (images).

    Args:
        values: label -> (N,) scores; NaN is left out. Where no label has more than 30, dots.
        xlabel: what the scores are.
    """
    import seaborn as sns

    known = {name: scores[np.isfinite(scores)] for name, scores in values.items()}
    palette = dict(zip(known, LINES * (1 + len(known) // len(LINES)), strict=False))
    if max(map(len, known.values()), default=0) > 30:
        figure, axis = panel(6.4, 3.8, title)
        for name, scores in known.items():
            sns.ecdfplot(x=scores, color=palette[name], linewidth=1.8, label=name, ax=axis)
        axis.set(xlabel=xlabel, ylabel="share of the images at or below")
        figure.legend(fontsize=8.5, frameon=False, loc="outside lower center", ncols=2)
        return figure
    figure, axis = panel(6.4, 0.4 * len(known) + 1.2, title, bars=True)
    labels = np.repeat(list(known), [len(scores) for scores in known.values()])
    scores = np.concatenate([*known.values()] or [np.empty(0)])
    style = {"hue": labels, "palette": palette, "order": list(known), "size": 7, "alpha": 0.8}
    sns.stripplot(x=scores, y=labels, jitter=0.12, legend=False, ax=axis, **style)
    for place, spread in enumerate(known.values()):
        if len(spread):
            axis.plot([spread.mean()] * 2, [place - 0.3, place + 0.3], color=INK, linewidth=1.6)
    axis.set(xlabel=f"{xlabel}; line: mean", ylabel="")
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
    """IoU of the first less the second by class, sorted, with 95 % intervals; ties are grey.

    Args:
        class_names, difference, low, high, ties: K of each, in points; NaN for classes that are
            left out. Of more than `MOST` classes those with the largest differences are drawn.
        labels: of the two; the better one gives a bar its colour. tie: what a tie is.
    """
    known = np.flatnonzero(~np.isnan(difference))
    shown = known[np.argsort(-np.abs(difference[known]), kind="stable")[:MOST]]
    shown = shown[np.argsort(difference[shown], kind="stable")]
    colours = np.where(ties, GREY, np.where(difference > 0, BLUE, ORANGE))
    figure, axis = panel(7.2, 0.24 * max(4, len(shown)) + 1.9, title, bars=True)
    places, lengths = np.arange(len(shown)), difference[shown]
    axis.barh(places, lengths, color=list(colours[shown]), height=0.72)
    reach = np.abs(np.stack([difference - low, high - difference]))[:, shown]
    style: dict[str, Any] = {"fmt": "none", "ecolor": INK, "elinewidth": 1.1, "capsize": 2}
    axis.errorbar(lengths, places, xerr=reach, **style)
    axis.set_yticks(places, [class_names[k] for k in shown], fontsize=8.5, **as_it_is())
    axis.axvline(0, color=INK, linewidth=0.8)
    axis.set_ylim(-0.7, len(shown) - 0.3)
    rest = len(known) - len(shown)
    more = f"\nthe {rest} classes with smaller differences are not drawn" if rest else ""
    axis.set_xlabel(f"difference of IoU, points; lines: 95 % over the images{more}", fontsize=9)
    meanings = {BLUE: f"{labels[0]} higher", ORANGE: f"{labels[1]} higher", GREY: tie}
    patches = [Patch(color=colour, label=name) for colour, name in meanings.items()]
    figure.legend(handles=patches, fontsize=8.5, frameon=False, loc="outside lower center")
    return figure


def speed_figure(bars: Sequence[Bar], baseline: str, title: str) -> Figure:
    """A lying bar per measurement, as long as it is times faster than the baseline, the line at 1.

    Args:
        bars: from top to bottom. baseline: its name. title: what was measured, on what machine.
    """
    figure, axis = panel(8.4, 0.36 * len(bars) + 1.5, bars=True)
    places = range(len(bars))
    longest = max(max(bar.ratio, bar.target or 0) for bar in bars)
    log = longest > 20
    axis.barh(places, [bar.ratio for bar in bars], color=BLUE, height=0.62, label="ccnet_lab")
    axis.axvline(1, color=INK, linewidth=1.2, linestyle="--", label=baseline)
    marked = [(bar.target, place) for place, bar in zip(places, bars, strict=True) if bar.target]
    if marked:
        style: dict[str, Any] = {"color": YELLOW, "markeredgecolor": INK, "markersize": 6}
        axis.plot(*zip(*marked, strict=True), "D", label="target", **style)
    style = {"textcoords": "offset points", "va": "center", "fontsize": 9, "color": INK}
    style["xycoords"] = blended_transform_factory(axis.transAxes, axis.transData)
    for place, bar in zip(places, bars, strict=True):
        times = f"{bar.ratio:.{2 if bar.ratio < 9.95 else 0}f}×"
        axis.annotate(times, (1, place), (8, 0), fontweight="bold", **style)
        axis.annotate(bar.caption, (1, place), (48, 0), **style)
    axis.set_yticks(places, [bar.name for bar in bars], fontsize=9)
    axis.set_ylim(len(bars) - 0.4, -0.6)
    axis.set_xlabel("times as fast as the baseline" + ", logarithmic" * log, fontsize=9)
    axis.set_title(title, loc="left", fontsize=10)
    if log:
        axis.set_xscale("log")
        axis.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axis.set_xlim(0.5 if log else 0, longest * (1.5 if log else 1.08))
    figure.legend(loc="outside lower left", ncols=3, fontsize=8.5, frameon=False)
    return figure


def growth_figure(
    sides: Sequence[int],
    gflop: Lines,
    measured_sides: Sequence[int] = (),
    seconds: Lines | None = None,
    machine: str = "",
) -> Figure:
    """What each form of attention takes as the map grows: the formula, and what was measured.

    Args:
        sides: of the square maps, cells. gflop: form -> GFLOP per side.
        measured_sides, seconds: the same, measured; NaN where a form was left out.
        machine: what it was measured on.
    """
    figure = Figure(figsize=(9.6, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    _growth(left, sides, gflop, "{:.2f}")
    left.set_title("by formula", loc="left", fontsize=10)
    where = f"measured here: {machine}" if machine else "measured here"
    right.set_title(where, loc="left", fontsize=10)
    left.set_ylabel("GFLOP of a forward pass")
    if seconds:
        milliseconds = {name: 1e3 * values for name, values in seconds.items()}
        _growth(right, measured_sides, milliseconds, "{:.0f}")
        right.set_ylabel("milliseconds of a forward pass")
    else:
        right.text(0.5, 0.5, "not measured yet", transform=right.transAxes, ha="center", color=SOFT)
        right.set_axis_off()
    return figure


def _growth(axis: Axes, sides: Sequence[int], rows: Lines, form: str) -> None:
    x = np.asarray(sides)
    style: dict[str, Any] = {"textcoords": "offset points", "va": "center", "fontsize": 9}
    for colour, marker, (name, values) in zip(GROWTH, MARKERS, rows.items(), strict=False):
        axis.plot(x, values, color=colour, marker=marker, markersize=4.5, linewidth=1.8)
        known = np.flatnonzero(np.isfinite(values))
        if len(known):
            last = known[-1]
            number = ": " + form.format(values[last]) if x[last] == LABELLED else ""
            axis.annotate(name + number, (x[last], values[last]), (8, 0), color=INK, **style)
    axis.set(xscale="log", yscale="log", xlabel="side of the feature map, cells")
    axis.set_xticks(x, [str(s) for s in sides])
    axis.xaxis.set_minor_formatter(NullFormatter())
    axis.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axis.set_xlim(x[0] * 0.92, x[-1] * (x[-1] / x[0]) ** 0.42)
    if LABELLED in sides:
        axis.axvline(LABELLED, color=SOFT, linewidth=0.8, linestyle=":", zorder=0)
        style = {"transform": axis.get_xaxis_transform(), "fontsize": 8, "color": SOFT}
        axis.text(LABELLED, 0.02, f" {LABELLED} × {LABELLED} cells", **style)
    axis.spines[["top", "right"]].set_visible(False)
    axis.grid(alpha=0.25)


def training_figure(
    runs: Mapping[str, Lines], published: Mapping[str, Lines] | None = None, over: str = "epoch"
) -> Figure:
    """Loss, learning rate, images per second and mIoU of up to twelve runs, a colour for each.

    Args:
        runs: name -> curves of `reports.progress.FIELDS`, each (3, N): step, epoch, value; those
            that are missing are left out.
        published: the same of published logs, dashed, in the colour of the run of that name.
        over: "epoch" or "step".
    """
    published = published or {}
    names = dict.fromkeys([*runs, *published])
    styles: dict[str, dict[str, Any]] = {
        name: {"color": colour, "marker": marker, "linewidth": 1.6}
        for name, colour, marker in zip(names, LINES, MARKERS, strict=False)
    }
    lines = [(name, curves, "-") for name, curves in runs.items() if name in styles]
    lines += [(name, curves, "--") for name, curves in published.items() if name in styles]
    figure = Figure(figsize=(9.6, 6.4), layout="constrained")
    x = 1 if over == "epoch" else 0
    for axis, (field, title, factor) in zip(figure.subplots(2, 2).flat, PANELS, strict=True):
        scored = field == "val_miou"
        for name, curves, dashes in lines:
            raw = curves.get("train_miou" if scored else field)
            if raw is not None and field != "lr":
                faint, colour = _thinned(raw), styles[name]["color"]
                axis.plot(faint[x], factor * faint[2], color=colour, linewidth=0.7, alpha=0.25)
            if field in curves:
                curve = curves[field] if scored else _thinned(_smooth(curves[field]))
                marks: dict[str, Any] = {"markersize": 4, "markevery": 1 if scored else [-1]}
                axis.plot(curve[x], factor * curve[2], dashes, **marks, **styles[name])
        axis.set_title(title, loc="left", fontsize=10)
        shown = ("val_miou", "train_miou") if scored else (field,)
        values = [curves[kind][2] for _, curves, _ in lines for kind in shown if kind in curves]
        axis.set_ylim(0, _top([factor * row for row in values]))
        axis.xaxis.set_major_locator(MaxNLocator(6))
        axis.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
        axis.set_xlabel(over, fontsize=9)
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(alpha=0.25)
    handles = [Line2D([], [], markersize=5, label=name, **style) for name, style in styles.items()]
    if published:
        handles.append(Line2D([], [], ls="--", color=SOFT, label="dashed: its published log"))
    place: dict[str, Any] = {"loc": "outside lower center", "ncols": min(3, len(handles) or 1)}
    figure.legend(handles=handles, fontsize=8.5, frameon=False, **place)
    return figure


def _smooth(curve: Floats) -> Floats:
    """The mean over a fiftieth of the curve around each point; what isn't finite is left out."""
    window, finite = np.ones(max(1, curve.shape[1] // 50) | 1), np.isfinite(curve[2])
    parts = np.where(finite, curve[2], 0), finite
    total, count = (np.convolve(part, window, "same") for part in parts)
    return np.vstack([curve[:2], total / np.maximum(count, 1e-9)])


def _thinned(curve: Floats, most: int = 400) -> Floats:
    """About `most` points of a curve, the last among them."""
    step = -(-curve.shape[1] // most)
    return curve[:, ::-1][:, ::step][:, ::-1]


def _top(values: Sequence[Floats]) -> float | None:
    """Where the axis ends: above all but the largest hundredth; None without values."""
    finite = [row[np.isfinite(row)] for row in values]
    tops = [float(np.quantile(row, 0.99, method="higher")) for row in finite if len(row)]
    return 1.1 * max(tops) if tops and max(tops) > 0 else None


def _label(figure: Figure, axis: Axes, points: Sequence[Point]) -> None:
    """Write each configuration's name at its best point, clear of markers and other names."""
    place = axis.transData.transform
    point = figure.dpi / 72  # pixels
    height, taken = 11 * point, []  # boxes (left, bottom, right, top), pixels
    for p in points:
        x, y = place((p.cost, p.miou))
        low, high = (place((p.cost, value))[1] for value in (p.interval or (p.miou, p.miou)))
        r = 6 * point
        taken.append((x - r, min(low, y - r), x + r, max(high, y + r)))
    best = {p.label: p for p in sorted(points, key=lambda p: (p.alike, p.miou))}
    for label, p in best.items():
        (x, y), width = place((p.cost, p.miou)), 5.2 * len(label) * point
        rows = [row * height - height / 2 for row in (0, 1, -1, 2, -2, 3, -3)]
        offsets = [(side, dy) for dy in rows for side in (8 * point, -8 * point - width)]
        offsets += [(-width / 2, 9 * point), (-width / 2, -9 * point - height)]
        boxes = {(dx, dy): (x + dx, y + dy, x + dx + width, y + dy + height) for dx, dy in offsets}
        free = [o for o, box in boxes.items() if not any(_meet(box, other) for other in taken)]
        dx, dy = (free or offsets)[0]
        taken.append(boxes[dx, dy])
        offset = (dx / point, dy / point + 2.5)
        style: dict[str, Any] = {"textcoords": "offset points", "fontsize": 9}
        text = axis.annotate(label, (p.cost, p.miou), offset, **style)
        text.set_path_effects([withStroke(linewidth=3, foreground="white")])


def _meet(a: tuple[float, ...], b: tuple[float, ...]) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]
