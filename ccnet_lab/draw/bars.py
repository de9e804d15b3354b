"""Arrays in, a matplotlib Figure out: how much faster ours is than its baseline, row by row; the numbers come from the timings."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from matplotlib.figure import Figure
from matplotlib.ticker import StrMethodFormatter
from matplotlib.transforms import blended_transform_factory

from ccnet_lab.draw.figures import panel

OURS, INK = "#0072b2", "#1d2430"


class Bar(NamedTuple):
    """One measurement: the ratio to the baseline, and beside it the numbers in words; a target where one is set."""

    name: str
    ratio: float
    words: str
    target: float | None = None


def speed_figure(bars: Sequence[Bar], baseline: str, title: str) -> Figure:
    """A horizontal bar per measurement, as many times as fast as the baseline; the baseline is the line at 1, a target a mark.

    Args:
        bars: from top to bottom. baseline: its name. title: what was measured, and on what machine.
    """
    figure, axis = panel(8.4, 0.36 * len(bars) + 1.5, bars=True)
    places = range(len(bars))
    longest = max(max(bar.ratio, bar.target or 0) for bar in bars)
    log = longest > 20
    axis.barh(places, [bar.ratio for bar in bars], color=OURS, height=0.62, label="ours")
    marked = [(place, bar.target) for place, bar in zip(places, bars, strict=True) if bar.target]
    if marked:
        axis.plot(
            [t for _, t in marked],
            [p for p, _ in marked],
            "D",
            color="#e69f00",
            markeredgecolor=INK,
            markersize=6,
            label="target",
        )
    axis.axvline(1, color=INK, linewidth=1.2, linestyle="--", label=baseline)
    beside = blended_transform_factory(axis.transAxes, axis.transData)
    for place, bar in zip(places, bars, strict=True):
        style: dict[str, Any] = dict(
            xycoords=beside, textcoords="offset points", va="center", fontsize=9, color=INK
        )
        axis.annotate(
            f"{bar.ratio:.{2 if bar.ratio < 9.95 else 0}f}×",
            (1, place),
            (8, 0),
            fontweight="bold",
            **style,
        )
        axis.annotate(bar.words, (1, place), (48, 0), **style)
    axis.set_yticks(places, [bar.name for bar in bars], fontsize=9)
    axis.set_ylim(len(bars) - 0.4, -0.6)
    axis.set_xlabel("times as fast as the baseline" + ", logarithmic" * log, fontsize=9)
    axis.set_title(title, loc="left", fontsize=10)
    if log:
        axis.set_xscale("log")
        axis.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axis.set_xlim(0.5 if log else 0, longest * (1.5 if log else 1.08))
    handles = dict(zip(*reversed(axis.get_legend_handles_labels()), strict=True))
    shown = [handles[name] for name in ("ours", baseline, "target") if name in handles]
    figure.legend(handles=shown, loc="outside lower left", ncols=3, fontsize=8.5, frameon=False)
    return figure
