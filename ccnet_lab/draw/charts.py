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
from matplotlib.ticker import MaxNLocator, NullFormatter
from matplotlib.transforms import Bbox
from numpy.typing import NDArray

from ccnet_lab.draw.figures import iou_cells
from ccnet_lab.draw.lettering import as_it_is, beside, legend, panel, tidy

Floats = NDArray[np.float64]
Lines = Mapping[str, Floats]
INK, SOFT, GREY = "#1d2430", "#667085", "#9a9a9a"
BLUE, ORANGE, YELLOW = "#0072b2", "#d55e00", "#e69f00"
GREEN = "#00775b"  # miniatures, and nothing else on the board
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
ACROSS = 30  # classes on a line of the miniatures' heat map
GROWTH = ("#56b4e9", BLUE, "#332288", ORANGE)  # R = 1, 2, 3 from light to dark, full attention
LABELLED = 97  # the side the authors' numbers are for: 769 x 769 pixels at stride 8
PANELS = {  # what is drawn: its title, factor
    "loss": ("loss, smoothed; faint as logged", 1.0),
    "lr": ("learning rate", 1.0),
    "images_per_second": ("images per second", 1.0),
    "val_miou": ("mIoU of evaluations, %; faint: on the crops of training", 100.0),
}


class Point(NamedTuple):
    """A point of `cost_scatter`."""

    label: str  # its configuration
    cost: float
    miou: float  # %
    measured: bool  # here; else published
    front: bool  # whether on its kind's Pareto front
    interval: tuple[float, float] | None = None  # 95 %
    alike: bool = True  # whether measured as the others were; else it is on no front
    miniature: bool = False  # on generated data, so that it stands beside no other kind


class Block(NamedTuple):
    """A data set's part of `miniature_heatmap`."""

    title: str
    rows: Sequence[str]  # labels of C configurations
    class_names: Sequence[str]  # K
    table: Floats  # (C, K) IoU in %, NaN unknown


class Panel(NamedTuple):
    """A factor's part of `effects_figure`: series -> (4, N) effect, low, high, whether clear."""

    title: str
    series: Lines


class Bar(NamedTuple):
    """A row of `speed_figure`."""

    name: str
    ratio: float  # to the baseline
    caption: str  # the numbers behind it
    target: float | None = None


def class_heatmap(
    rows: Mapping[str, Floats], class_names: Sequence[str], by: str = "", title: str = ""
) -> Figure:
    """The IoU of every class (columns) in every row, from 0 to 100 %; hatched without a number.

    Args:
        rows: label -> (K,) in %, NaN where it isn't known.
        class_names: K. More than `BLOCK` stand in blocks below one another.
        by: the row by which the classes are ordered, best first; "" for the data set's order.
    """
    table, names = np.array(list(rows.values())), np.array(class_names)
    if not np.isfinite(table).any():
        figure = Figure(figsize=(6.4, 1.2))
        figure.text(0.5, 0.5, f"{title}\nno numbers yet", fontsize=11, ha="center", va="center")
        return figure
    order = np.argsort(-rows[by], kind="stable") if by else np.arange(len(names))
    blocks = np.array_split(order, -(-len(names) // BLOCK))
    numbers = len(names) <= NUMBERS
    # Inches, placed by hand: matplotlib's layouts measure every label several times, and names as
    # plain text draw in a fraction of the time that ticks take.
    left, below = 0.075 * max(map(len, rows)) + 0.2, 0.058 * min(18, max(map(len, names))) + 0.25
    cell, tall = 0.46 if numbers else 0.24, 0.3 * len(rows)
    width, height = left + len(blocks[0]) * cell + 1.0, len(blocks) * (tall + below) + 0.5
    figure = Figure(figsize=(width, height))
    figure.suptitle(title, fontsize=11, y=1 - 0.12 / height, va="top", **as_it_is())
    for number, block in enumerate(blocks):
        bottom = height - 0.45 - tall - number * (tall + below)
        size = (len(block) * cell / width, tall / height)
        axis = figure.add_axes((left / width, bottom / height, *size), facecolor="#e6e6e6")
        axis.patch.set(hatch="////", edgecolor="#a8a8a8", linewidth=0)
        look = {"linewidths": 0.8, "cbar": False, "xticklabels": False}
        iou_cells(axis, table[:, block], annot=numbers, fmt=".0f", **look)
        style: dict[str, Any] = {"ha": "right", "rotation_mode": "anchor"}
        across, down = axis.get_xaxis_transform(), axis.get_yaxis_transform()
        for i, name in enumerate(names[block]):
            short = name if len(name) <= 18 else f"{name[:17]}…"
            more = {"rotation": 60, "va": "top", "fontsize": 8, **style, **as_it_is()}
            axis.text(i + 0.5, -0.05 / tall, short, transform=across, **more)
        for i, label in enumerate(rows):
            more = {"va": "center", "fontsize": 9, **style, **as_it_is()}
            axis.text(-0.05 / (len(block) * cell), i + 0.5, label, transform=down, **more)
    long = min(3.0, tall)
    place = ((width - 0.85) / width, 1 - (0.45 + long) / height, 0.15 / width, long / height)
    figure.colorbar(axis.collections[0], cax=figure.add_axes(place), label="IoU, %")
    return figure


def miniature_heatmap(blocks: Sequence[Block]) -> Figure:
    """The IoU of every class (columns) in every configuration (rows), a block per data set.

    Blocks stand side by side as long as a line has room. The colours are the miniatures' own.
    """
    import seaborn as sns

    colours, above, below = sns.light_palette(GREEN, as_cmap=True), 0.3, 0.74
    longest = max(len(label) for block in blocks for label in block.rows)
    left = max(1.25, 0.1 + 0.07 * longest)
    lines: list[list[Block]] = []
    for block in blocks:
        wide = len(block.class_names)
        fitting = [x for x in lines if wide + sum(len(b.class_names) for b in x) <= ACROSS]
        if not fitting:
            lines.append([])
            fitting = lines[-1:]
        fitting[0].append(block)
    high = [0.235 * max(len(block.rows) for block in line) for line in lines]
    width = 12.4
    height = sum(high) + len(lines) * (above + below)
    figure, top = Figure(figsize=(width, height)), height
    look: dict[str, Any] = {"vmin": 0, "vmax": 100, "cbar": False, "linewidths": 0.8, "fmt": ".0f"}
    for line, tall in zip(lines, high, strict=True):
        x, bottom = left, top - above - tall
        cell = (width - 0.1 - left * len(line)) / sum(len(b.class_names) for b in line)
        for block in line:
            across = cell * len(block.class_names)
            place = (x / width, bottom / height, across / width, tall / height)
            axis = figure.add_axes(place, facecolor="#e6e6e6")
            sns.heatmap(
                block.table, ax=axis, cmap=colours, annot=True, annot_kws={"fontsize": 8},
                xticklabels=False, yticklabels=False, **look,
            )  # fmt: skip
            _name_cells(axis, block, across, tall)
            x += across + left
        top = bottom - below
    return figure


def _name_cells(axis: Axes, block: Block, wide: float, tall: float) -> None:
    """The title of a block, its rows and its classes, as text: faster than ticks."""
    axis.set_title(block.title, loc="left", fontsize=10, fontweight="bold", pad=5)
    across, down = axis.get_xaxis_transform(), axis.get_yaxis_transform()
    for i, name in enumerate(block.class_names):
        short = name if len(name) <= 14 else f"{name[:13]}…"
        style: dict[str, Any] = {"ha": "right", "va": "top", "rotation": 50, **as_it_is()}
        place = (i + 0.65, -0.04 / tall)
        axis.text(*place, short, transform=across, fontsize=8, rotation_mode="anchor", **style)
    for i, label in enumerate(block.rows):
        style = {"ha": "right", "va": "center", "fontsize": 8.5, **as_it_is()}
        axis.text(-0.06 / wide, i + 0.5, label, transform=down, **style)


def effects_figure(rows: Sequence[str], panels: Sequence[Panel], group: int = 3) -> Figure:
    """What each factor changes: a small panel each, a point with its 95 % interval by row.

    Filled where the difference is clear, hollow and grey where it isn't.

    Args:
        rows: N, from top to bottom, in groups of `group`. panels: the factors.
    """
    width, height = 12.4, 0.205 * len(rows) + 0.75
    figure = Figure(figsize=(width, height))
    axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    figure.subplots_adjust(1.25 / width, 0.46 / height, 1 - 0.1 / width, 1 - 0.24 / height, 0.05)
    places = np.arange(len(rows)) + 0.5 * (np.arange(len(rows)) // group)
    for axis, found in zip(axes, panels, strict=True):
        apart = 0.24 * (np.arange(len(found.series)) - (len(found.series) - 1) / 2)
        for (name, values), by, marker in zip(found.series.items(), apart, "oD^v", strict=False):
            value, low, high, clear = values
            for k in np.flatnonzero(np.isfinite(value)):
                colour = GREEN if clear[k] else GREY
                axis.plot((low[k], high[k]), [places[k] + by] * 2, color=colour, linewidth=1.5)
                fill = colour if clear[k] else "white"
                look: dict[str, Any] = {"markersize": 5.5, "color": colour}
                axis.plot(value[k], places[k] + by, marker, markerfacecolor=fill, **look)
            if len(found.series) > 1:
                axis.plot([], [], marker, color=GREEN, markersize=5.5, label=name)
        axis.axvline(0, color=INK, linewidth=0.8)
        axis.set_title(found.title, loc="left", fontsize=10, fontweight="bold")
        axis.set_xlabel("points of mean IoU", fontsize=8.5)
        tidy(axis, bars=True)
        if len(found.series) > 1:
            place: dict[str, Any] = {"loc": "lower right", "bbox_to_anchor": (1, 0.98)}
            spare = {"handletextpad": 0.1, "columnspacing": 0.8, "borderpad": 0}
            axis.legend(fontsize=8, frameon=False, ncols=3, **place, **spare)
    axes[0].set_yticks(places, rows, fontsize=8.5, **as_it_is())
    axes[0].set_ylim(places[-1] + 0.6, -0.6)
    return figure


def cost_scatter(
    points: Sequence[Point], xlabel: str, title: str = "", over: str = "the images"
) -> Figure:
    """Cost against mIoU with a Pareto front for published and for measured points.

    Rings are published, dots measured, with intervals; grey crosses are measured otherwise, green
    diamonds are miniatures. `over` says what the intervals are over.
    """
    import seaborn as sns

    figure, axis = panel(7.2, 4.6, title)
    ring: dict[str, Any] = {"marker": "o", "s": 121, "facecolor": "none", "edgecolor": BLUE}
    dot: dict[str, Any] = {"marker": "o", "s": 49, "edgecolor": ORANGE}
    small: dict[str, Any] = {"marker": "D", "s": 49, "edgecolor": GREEN}
    looks = {  # by (measured, alike, miniature)
        (True, True, False): (f"measured here, 95 % over {over}", ORANGE, dot),
        (False, True, False): ("published by SSSegmentation", BLUE, ring),
        (True, False, False): (
            "measured otherwise, not comparable",
            SOFT,
            {"marker": "x", "s": 49},
        ),
        (True, True, True): (f"miniature, generated data; 95 % over {over}", GREEN, small),
    }
    for which, (name, colour, look) in looks.items():
        style: dict[str, Any] = {"legend": False, "linewidth": 1.8, "label": name, **look}
        kind = [p for p in points if (p.measured, p.alike, p.miniature) == which]
        for p in kind:
            if p.interval:
                axis.plot([p.cost] * 2, p.interval, color=colour, linewidth=1.6)
        if kind:
            x, y = [p.cost for p in kind], [p.miou for p in kind]
            sns.scatterplot(x=x, y=y, ax=axis, color=colour, **style)
        front = sorted((p.cost, p.miou) for p in kind if p.front)
        if front:
            style = {
                "linewidth": 1.2,
                "alpha": 0.6,
                "label": f"Pareto front, {name.split()[0].strip(',')}",
            }
            axis.plot(*zip(*front, strict=True), "-" if which[0] else "--", color=colour, **style)
    if not points:
        axis.text(0.5, 0.5, "no numbers yet", ha="center", transform=axis.transAxes)
    axis.set(xlabel=xlabel, ylabel="mIoU, %")
    axis.margins(x=0.16, y=0.14)
    legend(figure, axis.get_legend_handles_labels()[0], columns=2)
    figure.draw_without_rendering()  # the layout, so that labels know where they stand
    _label(figure, axis, points)
    return figure


def distribution_figure(values: Mapping[str, Floats], xlabel: str) -> Figure:
    """How the images' scores are spread: the share at or below each score.

    Args:
        values: label -> (N,) scores; NaN is left out.
        xlabel: what the scores are.
    """
    import seaborn as sns

    figure, axis = panel(6.4, 3.8)
    for (name, scores), colour in zip(values.items(), LINES, strict=False):
        known = scores[np.isfinite(scores)]
        sns.ecdfplot(x=known, color=colour, linewidth=1.8, label=name, ax=axis)
    axis.set(xlabel=xlabel, ylabel="share of the images at or below")
    legend(figure, columns=2)
    return figure


def difference_bars(
    class_names: Sequence[str],
    difference: Floats,
    low: Floats,
    high: Floats,
    ties: NDArray[np.bool_],
    labels: Sequence[str],
    title: str = "",
    tie: str = "tie",
    over: str = "the images",
    colours: tuple[str, str] = (BLUE, ORANGE),
) -> Figure:
    """IoU of the first less the second by class, sorted, with 95 % intervals; ties are grey.

    Args:
        class_names, difference, low, high, ties: K of each, in points; NaN for classes that are
            left out. Of more than `MOST` classes those with the largest differences are drawn.
        labels: of the two; the better one gives a bar its colour. tie: what a tie is.
        over: what the intervals are over. colours: of the first and the second.
    """
    known = np.flatnonzero(~np.isnan(difference))
    shown = known[np.argsort(-np.abs(difference[known]), kind="stable")[:MOST]]
    shown = shown[np.argsort(difference[shown], kind="stable")]
    one, other = colours
    filled = np.where(ties, GREY, np.where(difference > 0, one, other))[shown]
    dense = len(shown) > 20
    height = (0.12 if dense else 0.155) * max(6, len(shown)) + 1.3
    figure, axis = panel(7.2, height, title, bars=True)
    reach = np.abs(np.stack([difference - low, high - difference]))[:, shown]
    lines = {"ecolor": INK, "elinewidth": 1.1, "capsize": 2}
    places = np.arange(len(shown))
    style: dict[str, Any] = {"color": list(filled), "height": 0.72, "error_kw": lines}
    axis.barh(places, difference[shown], xerr=reach, **style)
    axis.set_yticks(
        places, [class_names[k] for k in shown], fontsize=7 if dense else 7.5, **as_it_is()
    )
    axis.axvline(0, color=INK, linewidth=0.8)
    axis.set_ylim(-0.7, len(shown) - 0.3)
    rest = len(known) - len(shown)
    more = f"\nthe {rest} classes with smaller differences are not drawn" if rest else ""
    axis.set_xlabel(f"difference of IoU, points; lines: 95 % over {over}{more}", fontsize=9)
    meanings = {one: f"{labels[0]} higher", other: f"{labels[1]} higher", GREY: tie}
    columns = 3 if sum(map(len, meanings.values())) < 95 else 2  # as many as the width holds
    legend(figure, [Patch(color=colour, label=name) for colour, name in meanings.items()], columns)
    return figure


def speed_figure(bars: Sequence[Bar], baseline: str, title: str) -> Figure:
    """A bar per measurement, as long as it is times faster than the baseline, the line at 1.

    Args:
        bars: from top to bottom. baseline: its name. title: what was measured, on what machine.
    """
    figure, axis = panel(8.4, 0.36 * len(bars) + 1.5, bars=True)
    places = range(len(bars))
    longest = max(max(bar.ratio, bar.target or 0) for bar in bars)
    log = longest > 20
    axis.barh(places, [bar.ratio for bar in bars], color=BLUE, height=0.62, label="ccnet_lab")
    axis.axvline(1, color=INK, linewidth=1.2, linestyle="--", label=baseline)
    targets = [bar.target or np.nan for bar in bars]
    if any(bar.target for bar in bars):
        style: dict[str, Any] = {"color": YELLOW, "markeredgecolor": INK, "markersize": 6}
        axis.plot(targets, places, "D", label="target", **style)
    for place, bar in zip(places, bars, strict=True):
        style = {"xycoords": axis.get_yaxis_transform(), "color": INK}
        times = f"{bar.ratio:.{2 if bar.ratio < 9.95 else 0}f}×"
        beside(axis, times, 1, place, fontweight="bold", **style)
        beside(axis, bar.caption, 1, place, right=48, **style)
    axis.set_yticks(places, [bar.name for bar in bars], fontsize=9)
    axis.set_ylim(len(bars) - 0.4, -0.6)
    axis.set_xlabel("times as fast as the baseline" + ", logarithmic" * log, fontsize=9)
    axis.set_title(title, loc="left", fontsize=10)
    if log:
        axis.set_xscale("log")
        axis.xaxis.set_major_formatter("{x:g}")
    axis.set_xlim(0.5 if log else 0, longest * (1.5 if log else 1.08))
    legend(figure, columns=3)
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
    formula, measured = figure.subplots(1, 2)
    if seconds:  # what a visitor has asked for comes first: a phone shows half of the figure
        formula, measured = measured, formula
    _growth(formula, sides, gflop, "{:.2f}")
    formula.set_title("by formula", loc="left", fontsize=10)
    formula.set_ylabel("GFLOP of a forward pass")
    measured.set_title(f"measured here: {machine}".rstrip(": "), loc="left", fontsize=10)
    if seconds:
        milliseconds = {name: 1e3 * values for name, values in seconds.items()}
        _growth(measured, measured_sides, milliseconds, "{:.0f}")
        measured.set_ylabel("milliseconds of a forward pass")
    else:
        middle: dict[str, Any] = {"transform": measured.transAxes, "ha": "center", "color": SOFT}
        measured.text(0.5, 0.5, "not measured yet", **middle)
        measured.set_axis_off()
    return figure


def _growth(axis: Axes, sides: Sequence[int], rows: Lines, form: str) -> None:
    tidy(axis)
    x = np.asarray(sides)
    for colour, marker, (name, values) in zip(GROWTH, MARKERS, rows.items(), strict=False):
        axis.plot(x, values, color=colour, marker=marker, markersize=4.5, linewidth=1.8)
        for last in np.flatnonzero(np.isfinite(values))[-1:]:
            number = ": " + form.format(values[last]) if x[last] == LABELLED else ""
            beside(axis, name + number, x[last], values[last], color=INK)
    axis.set(xscale="log", yscale="log", xlabel="side of the feature map, cells")
    axis.set_xticks(x, [str(s) for s in sides])
    axis.xaxis.set_minor_formatter(NullFormatter())
    axis.yaxis.set_major_formatter("{x:g}")
    axis.set_xlim(x[0] * 0.92, x[-1] * (x[-1] / x[0]) ** 0.42)
    if LABELLED in sides:
        axis.axvline(LABELLED, color=SOFT, linewidth=0.8, linestyle=":", zorder=0)
        style: dict[str, Any] = {"transform": axis.get_xaxis_transform(), "color": SOFT}
        axis.text(LABELLED, 0.02, f" {LABELLED} × {LABELLED} cells", fontsize=8, **style)


def training_figure(
    runs: Mapping[str, Lines], published: Mapping[str, Lines] | None = None
) -> Figure:
    """Loss, learning rate, images per second and mIoU of up to twelve runs, a colour for each.

    Args:
        runs: name -> curves of `reports.progress.FIELDS`, each (3, N): step, epoch, value; those
            that are missing are left out.
        published: the same of published logs, dashed, in the colour of the run of that name.
    """
    published = published or {}
    styles: dict[str, dict[str, Any]] = {
        name: {"color": colour, "marker": marker, "linewidth": 1.6}
        for name, colour, marker in zip({**runs, **published}, LINES, MARKERS, strict=False)
    }
    lines = [(name, curves, "-") for name, curves in runs.items() if name in styles]
    lines += [(name, curves, "--") for name, curves in published.items() if name in styles]
    figure = Figure(figsize=(9.6, 6.4), layout="constrained")
    for axis, field in zip(figure.subplots(2, 2).flat, PANELS, strict=True):
        title, factor = PANELS[field]
        scored = field == "val_miou"
        shown = ("val_miou", "train_miou") if scored else (field,)
        for name, curves, dashes in lines:
            raw = curves.get(shown[-1])
            if raw is not None and field != "lr":
                faint, colour = _thinned(raw), styles[name]["color"]
                axis.plot(faint[1], factor * faint[2], color=colour, linewidth=0.7, alpha=0.25)
            if field in curves:
                curve = curves[field] if scored else _thinned(_smooth(curves[field]))
                marks: dict[str, Any] = {"markersize": 4, "markevery": 1 if scored else [-1]}
                axis.plot(curve[1], factor * curve[2], dashes, **marks, **styles[name])
        values = [curves[kind][2] for _, curves, _ in lines for kind in shown if kind in curves]
        axis.set_title(title, loc="left", fontsize=10)
        axis.set_ylim(0, _top([factor * row for row in values]))
        axis.xaxis.set_major_locator(MaxNLocator(6))
        axis.xaxis.set_major_formatter("{x:,.0f}")
        axis.set_xlabel("epoch", fontsize=9)
        tidy(axis)
    handles = [Line2D([], [], markersize=5, label=name, **style) for name, style in styles.items()]
    if published:
        handles.append(Line2D([], [], ls="--", color=SOFT, label="dashed: its published log"))
    if handles:
        legend(figure, handles, columns=min(3, len(handles)))
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
    place, point = axis.transData.transform, figure.dpi / 72  # pixels
    height, r, taken = 11 * point, 6 * point, []
    for p in points:
        x, y = place((p.cost, p.miou))
        low, high = (place((p.cost, value))[1] for value in (p.interval or (p.miou, p.miou)))
        taken.append(Bbox([[x - r, min(low, y - r)], [x + r, max(high, y + r)]]))
    best = {p.label: p for p in sorted(points, key=lambda p: (p.alike, p.miou))}
    for label, p in best.items():
        (x, y), width = place((p.cost, p.miou)), 5.2 * len(label) * point
        rows = [row * height - height / 2 for row in (0, 1, -1, 2, -2, 3, -3)]
        offsets = [(side, dy) for dy in rows for side in (8 * point, -8 * point - width)]
        offsets += [(-width / 2, 9 * point), (-width / 2, -9 * point - height)]
        boxes = [Bbox.from_bounds(x + dx, y + dy, width, height) for dx, dy in offsets]
        box = next((box for box in boxes if not box.count_overlaps(taken)), boxes[0])
        taken.append(box)
        offset = ((box.x0 - x) / point, (box.y0 - y) / point + 2.5)
        style: dict[str, Any] = {"textcoords": "offset points", "fontsize": 9, **as_it_is()}
        text = axis.annotate(label, (p.cost, p.miou), offset, **style)
        text.set_path_effects([withStroke(linewidth=3, foreground="white")])
