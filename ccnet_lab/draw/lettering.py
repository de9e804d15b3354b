"""One style for all figures: empty axes, legends, notes, and class names written as they are.

matplotlib would hide labels like "_a" and set "$" as maths.
"""

from collections.abc import Sequence
from functools import cache
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import fontManager
from matplotlib.legend import Legend
from matplotlib.patches import Patch

# Fonts with Chinese, Japanese and Korean letters, of which matplotlib brings none.
_SCRIPTS = (
    "Noto Sans CJK SC", "Noto Sans CJK JP", "Noto Sans SC", "Noto Sans JP", "Source Han Sans SC",
    "WenQuanYi Micro Hei", "Microsoft YaHei", "PingFang SC", "Hiragino Sans", "Yu Gothic",
    "Malgun Gothic", "SimHei", "Droid Sans Fallback", "Arial Unicode MS",
)  # fmt: skip


def panel(width: float, height: float, title: str = "", bars: bool = False) -> tuple[Figure, Axes]:
    """An empty figure of that many inches, its axes as `tidy` makes them."""
    figure = Figure(figsize=(width, height), layout="constrained")
    axis = figure.subplots()
    axis.set_title(title, fontsize=11, **as_it_is())
    tidy(axis, bars)
    return figure, axis


def tidy(axis: Axes, bars: bool = False) -> None:
    """Axes open to the top and the right, to the left as well for lying bars; a faint grid."""
    axis.spines[["top", "right", *(["left"] if bars else [])]].set_visible(False)
    axis.grid(axis="x" if bars else "both", alpha=0.25)
    axis.set_axisbelow(True)
    if bars:
        axis.tick_params(axis="y", length=0)


def legend(figure: Figure, handles: Sequence[Any] = (), columns: int = 1) -> None:
    """A legend below the axes, of all that is labelled in them or of these handles."""
    kept = {"handles": handles} if handles else {}
    place: dict[str, Any] = {"loc": "outside lower center", "ncols": columns, **kept}
    found = figure.legend(fontsize=8.5, frameon=False, **place)
    for text in found.get_texts():
        text.update(as_it_is())


def beside(axis: Axes, text: str, x: float, y: float, right: float = 8, **style: Any) -> None:
    """A text some points to the right of a place."""
    look = {"fontsize": 9, "va": "center", "textcoords": "offset points", **as_it_is()}
    axis.annotate(text, (x, y), (right, 0), **(look | style))


@cache
def _families() -> list[str]:
    installed = set(fontManager.get_font_names())
    return ["DejaVu Sans", *(name for name in _SCRIPTS if name in installed)]


def as_it_is() -> dict[str, Any]:
    """Text properties of a class name: no maths, and a font for its letters where there is one."""
    return {"parse_math": False, "fontfamily": _families()}


def class_legend(
    figure: Figure, names: Sequence[str], colours: Sequence[tuple[int, int, int]], **style: Any
) -> Legend:
    """A legend below a figure: a patch in each class's colour, and its name."""
    patches = [Patch(facecolor=f"#{bytes(colour).hex()}", edgecolor="0.5") for colour in colours]
    style |= {"frameon": False, "loc": "outside lower center"}
    # a label that begins with "_" would be left out, so the names come later
    found = figure.legend(patches, ["name"] * len(names), **style)
    for text, name in zip(found.get_texts(), names, strict=True):
        text.update({"text": name, **as_it_is()})
    return found
