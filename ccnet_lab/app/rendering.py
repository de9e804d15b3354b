"""HTML from the macros in templates/, every value escaped by Jinja2."""

import io
import re
from base64 import b64encode
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from ccnet_lab.errors import printable

if TYPE_CHECKING:  # matplotlib takes a third of a second
    from matplotlib.figure import Figure

DPI = 125


class Html(Markup):
    """HTML that is safe to show; a notebook shows it with the few styles that a board needs."""

    def _repr_html_(self) -> str:
        return render("board.style") + self


def percent(share: float) -> str:
    """0.123 as "12 %", below ten with one decimal."""
    return f"{100 * share:.0f} %" if share >= 0.0995 or share == 0 else f"{100 * share:.1f} %"


def data_url(png: bytes) -> str:
    """A PNG file as an address."""
    return f"data:image/png;base64,{b64encode(png).decode()}"


_hidden: list[str] = []  # folders that visitors are not told


def hide(folders: Iterable[Path]) -> None:
    """From now on, leave out where these folders are; for an app that other machines can reach."""
    whole = {str(way) for folder in folders for way in (folder.absolute(), folder.resolve())}
    _hidden[:] = sorted((path for path in whole if len(path) > 3), key=len, reverse=True)


def told(text: str) -> str:
    """A text as visitors are told it: control characters are marked, hidden folders left out."""
    for folder in _hidden:
        text = text.replace(folder, "…")
    return printable(text)


def _told(value: Any) -> Any:
    return told(str(value)) if type(value) is str or isinstance(value, Path) else value


_TEMPLATES = Environment(
    finalize=_told,
    loader=PackageLoader("ccnet_lab.app"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
_TEMPLATES.filters |= {"percent": percent, "data_url": data_url, "css": "{:.3f}".format}


def render(macro: str, **values: Any) -> Html:
    """The HTML of a macro, "FILE.MACRO", on one line; a line break between two tags is no space."""
    file, name = macro.split(".")
    text = getattr(_TEMPLATES.get_template(f"{file}.html").module, name)(**values)
    text = re.sub(r">\s*\n\s*<", "><", text)
    return Html(re.sub(r"\s*\n\s*", " ", text).strip())


def sheet(figure: "Figure", name: str, alt: str) -> Html:
    """A figure that can be saved as `name`.png; shown at most as wide as it was drawn."""
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=DPI)
    width = round(100 * figure.get_figwidth())
    return render("page.sheet", picture=file.getvalue(), name=name, alt=alt, width=width)
