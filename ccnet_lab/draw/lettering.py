"""Class names in figures, drawn as they are: matplotlib drops labels that begin with "_" and sets mathematics between two "$"."""

from collections.abc import Sequence
from functools import cache
from typing import Any

from matplotlib.figure import Figure
from matplotlib.font_manager import fontManager
from matplotlib.legend import Legend
from matplotlib.patches import Patch

_SCRIPTS = (  # fonts with Chinese, Japanese and Korean letters, of which matplotlib brings none
    "Noto Sans CJK SC", "Noto Sans CJK JP", "Noto Sans SC", "Noto Sans JP", "Source Han Sans SC", "WenQuanYi Micro Hei", "Microsoft YaHei",
    "PingFang SC", "Hiragino Sans", "Yu Gothic", "Malgun Gothic", "SimHei", "Droid Sans Fallback", "Arial Unicode MS",
)  # fmt: skip


@cache
def _families() -> tuple[str, ...]:
    installed = set(fontManager.get_font_names())
    return ("DejaVu Sans", *(name for name in _SCRIPTS if name in installed))


def as_it_is() -> dict[str, Any]:
    """Text properties of a class name: no mathematics, and a font for its letters where one is installed."""
    return {"parse_math": False, "fontfamily": list(_families())}


def class_legend(
    figure: Figure, names: Sequence[str], colours: Sequence[tuple[int, int, int]], **style: Any
) -> Legend:
    """A legend below a figure: a patch in each class's colour, and its name."""
    patches = [
        Patch(facecolor="#{:02x}{:02x}{:02x}".format(*colour), edgecolor="0.5")
        for colour in colours
    ]
    legend = figure.legend(
        patches, ["name"] * len(names), frameon=False, loc="outside lower center", **style
    )
    for text, name in zip(legend.get_texts(), names, strict=True):
        text.update({"text": name, **as_it_is()})
    return legend
