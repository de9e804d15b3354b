"""Arrays in, a matplotlib Figure out: how attention grows with the map, training runs side by side. Other figures are in figures.py."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator, NullFormatter, StrMethodFormatter
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Lines = Mapping[str, Floats]
# Okabe and Ito's colours without yellow, then five more that stay apart from them in lightness; the markers tell the same.
LINES = (
    "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000", "#882255", "#999933", "#332288", "#aa4499", "#999999",
)  # fmt: skip
INK, SOFT = "#1d2430", "#667085"
MARKERS = "os^DvP*XphH<"
GROWTH = (
    "#56b4e9",
    "#0072b2",
    "#332288",
    "#d55e00",
)  # R = 1, 2, 3 from light to dark, full attention
LABELLED = 97  # the side at which the authors state their numbers: 769 x 769 pixels at stride 8
PANELS = (  # what is drawn, its title, factor
    ("loss", "loss, smoothed; faint as logged", 1.0),
    ("lr", "learning rate", 1.0),
    ("images_per_second", "images per second", 1.0),
    ("val_miou", "mIoU of evaluations, %; faint: on the crops of training", 100.0),
)


def growth_figure(
    sides: Sequence[int],
    gflop: Lines,
    measured_sides: Sequence[int] = (),
    seconds: Lines | None = None,
    machine: str = "",
) -> Figure:
    """What each form of attention takes as the map grows, both axes logarithmic: the formula, and beside it what was measured.

    Args:
        sides: of the square maps, cells. gflop: form -> GFLOP per side.
        measured_sides, seconds: the same, measured; NaN where a form was left out. Without them the panel says so.
        machine: what it was measured on.
    """
    figure = Figure(figsize=(9.6, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    _growth(left, sides, gflop, "{:.2f}")
    left.set_title("by formula", loc="left", fontsize=10)
    right.set_title(
        f"measured here: {machine}" if machine else "measured here", loc="left", fontsize=10
    )
    left.set_ylabel("GFLOP of a forward pass")
    if seconds:
        _growth(
            right,
            measured_sides,
            {name: 1e3 * values for name, values in seconds.items()},
            "{:.0f}",
        )
        right.set_ylabel("milliseconds of a forward pass")
    else:
        right.text(0.5, 0.5, "not measured yet", transform=right.transAxes, ha="center", color=SOFT)
        right.set_axis_off()
    return figure


def training_figure(
    runs: Mapping[str, Lines], published: Mapping[str, Lines] | None = None, over: str = "epoch"
) -> Figure:
    """Loss, learning rate, images per second and mIoU of up to twelve runs, one colour per run in all four panels.

    Args:
        runs: name -> curves of `training_runs.FIELDS`, each (3, N): step, epoch, value; those that are missing are left out.
        published: the same of published logs, drawn dashed, in the colour of the run of that name where there is one.
        over: "epoch" or "step".
    """
    published = published or {}
    looks: list[dict[str, Any]] = [
        {"color": colour, "marker": marker} for colour, marker in zip(LINES, MARKERS, strict=False)
    ]
    styles = dict(zip(dict.fromkeys([*runs, *published]), looks, strict=False))
    lines = [(name, curves, "-") for name, curves in runs.items() if name in styles]
    lines += [(name, curves, "--") for name, curves in published.items() if name in styles]
    figure = Figure(figsize=(9.6, 6.4), layout="constrained")
    for axis, (field, title, factor) in zip(figure.subplots(2, 2).flat, PANELS, strict=True):
        for name, curves, dashes in lines:
            faint = curves.get("train_miou" if field == "val_miou" else field)
            if faint is not None and field != "lr":
                step, epoch, values = _thinned(faint)
                axis.plot(
                    epoch if over == "epoch" else step,
                    factor * values,
                    color=styles[name]["color"],
                    linewidth=0.7,
                    alpha=0.25,
                )
            if field in curves:
                step, epoch, values = (
                    curves[field] if field == "val_miou" else _thinned(_smooth(curves[field]))
                )
                every = 1 if field == "val_miou" else [-1]
                x = epoch if over == "epoch" else step
                axis.plot(
                    x,
                    factor * values,
                    dashes,
                    linewidth=1.6,
                    markersize=4,
                    markevery=every,
                    **styles[name],
                )
        axis.set_title(title, loc="left", fontsize=10)
        shown = ("val_miou", "train_miou") if field == "val_miou" else (field,)
        axis.set_ylim(
            bottom=0,
            top=_top(
                [
                    factor * curves[name][2]
                    for _, curves, _ in lines
                    for name in shown
                    if name in curves
                ]
            ),
        )
        axis.xaxis.set_major_locator(MaxNLocator(6))
        axis.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
        axis.set_xlabel(over, fontsize=9)
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(alpha=0.25)
    handles = [
        Line2D([], [], linewidth=1.6, markersize=5, label=name, **style)
        for name, style in styles.items()
    ]
    if published:
        handles.append(
            Line2D(
                [], [], linewidth=1.6, linestyle="--", color=SOFT, label="dashed: its published log"
            )
        )
    figure.legend(
        handles=handles,
        loc="outside lower center",
        ncols=min(3, len(handles) or 1),
        fontsize=8.5,
        frameon=False,
    )
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
    """Where the axis ends: above all but the largest hundredth; None where there is nothing to show."""
    finite = [row[np.isfinite(row)] for row in values]
    tops = [float(np.quantile(row, 0.99, method="higher")) for row in finite if len(row)]
    return 1.1 * max(tops) if tops and max(tops) > 0 else None


def _growth(axis: Axes, sides: Sequence[int], rows: Lines, form: str) -> None:
    x = np.asarray(sides)
    for colour, marker, (name, values) in zip(GROWTH, MARKERS, rows.items(), strict=False):
        axis.plot(x, values, color=colour, marker=marker, markersize=4.5, linewidth=1.8)
        there = np.flatnonzero(np.isfinite(values))
        if len(there):
            last = there[-1]
            number = ": " + form.format(values[last]) if x[last] == LABELLED else ""
            axis.annotate(
                name + number,
                (x[last], values[last]),
                (8, 0),
                textcoords="offset points",
                va="center",
                fontsize=9,
                color=INK,
            )
    axis.set(xscale="log", yscale="log", xlabel="side of the feature map, cells")
    axis.set_xticks(x, [str(s) for s in sides])
    axis.xaxis.set_minor_formatter(NullFormatter())
    axis.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axis.set_xlim(x[0] * 0.92, x[-1] * (x[-1] / x[0]) ** 0.42)
    if LABELLED in sides:
        axis.axvline(LABELLED, color=SOFT, linewidth=0.8, linestyle=":", zorder=0)
        axis.text(
            LABELLED,
            0.02,
            f" {LABELLED} × {LABELLED} cells",
            transform=axis.get_xaxis_transform(),
            fontsize=8,
            color=SOFT,
        )
    axis.spines[["top", "right"]].set_visible(False)
    axis.grid(alpha=0.25)
