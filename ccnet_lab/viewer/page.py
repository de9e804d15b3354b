"""A view as one HTML file that needs no server and no network: viewer.js, viewer.css, the data."""

import json
import warnings
from base64 import b64encode
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from ccnet_lab.errors import RunError
from ccnet_lab.explore.explorer import View
from ccnet_lab.files import write_text
from ccnet_lab.viewer.payload import LARGEST, RECURRENCES, encode

LARGE = 16_000_000  # bytes of a page beyond which its size is said before it is written
_TEMPLATES = Environment(
    loader=PackageLoader("ccnet_lab", "viewer"), autoescape=True, undefined=StrictUndefined
)


def script() -> str:
    """The text of viewer.js."""
    return files("ccnet_lab.viewer").joinpath("viewer.js").read_text(encoding="utf-8")


def tables() -> str:
    """The text of tables.js, a worker's."""
    return files("ccnet_lab.viewer").joinpath("tables.js").read_text(encoding="utf-8")


def style() -> str:
    """The text of viewer.css."""
    return files("ccnet_lab.viewer").joinpath("viewer.css").read_text(encoding="utf-8")


def as_string(text: str) -> str:
    """A text as a string of JavaScript that may stand within a <script>."""
    return json.dumps(text).replace("<", "\\u003c")


def html(
    view: View,
    title: str = "",
    recurrences: Sequence[int] | None = None,
    settings: Mapping[str, Any] | None = None,
    **options: Any,
) -> str:
    """The page's text; arguments as `save_html`."""
    (h, w), settings = view.grid, dict(settings or {})
    if recurrences is None:
        recurrences = RECURRENCES if h * w * (h + w) <= LARGEST else (1, 2)
        if settings.get("recurrence") in RECURRENCES:  # the page may be without it
            settings["recurrence"] = min(settings["recurrence"], recurrences[-1])
    data = encode(view, recurrences, title=title, settings=settings, compress=True, **options)
    return _TEMPLATES.get_template("page.html").render(
        title=title or f"{view.explorer.config.name}: what a pixel looks at",
        style=style(),
        script=as_string(script()),
        tables=as_string(tables()),
        data=b64encode(data).decode(),
    )


def save_html(view: View, path: str | Path, **options: Any) -> Path:
    """Write one self-contained interactive page; see `View.save_html`."""
    path = Path(path)
    text = html(view, **options)
    if len(text) > LARGE:
        smaller = "recurrences=(1, 2) or precision='float16' makes it smaller"
        warnings.warn(f"{path} will have {len(text) / 1e6:.0f} MB; {smaller}", stacklevel=3)
    write_text(path, text, RunError)
    return path
