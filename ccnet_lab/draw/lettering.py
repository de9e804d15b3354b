"""Class names in figures, as they are: matplotlib hides labels like "_a" and sets "$" as maths."""

from collections.abc import Sequence
from functools import cache
from typing import Any

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
    placeholders = ["name"] * len(names)  # a label that begins with "_" would be left out
    legend = figure.legend(
        patches, placeholders, frameon=False, loc="outside lower center", **style
    )
    for text, name in zip(legend.get_texts(), names, strict=True):
        text.update({"text": name, **as_it_is()})
    return legend
