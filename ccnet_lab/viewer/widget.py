"""A view as a widget in a notebook cell: viewer.js in an anywidget."""

import io
from base64 import b64encode
from collections.abc import Sequence
from typing import Any

import anywidget
import traitlets

from ccnet_lab.explore.explorer import View
from ccnet_lab.viewer import page
from ccnet_lab.viewer.payload import RECURRENCES, encode, header_of


class ViewWidget(anywidget.AnyWidget):
    """The interactive view; what it shows can be read, set and observed.

    Attributes:
        x, y: the pixel on show, image coordinates; it follows the pointer when that rests.
        recurrence: the R of the facts.
        clip, labels, photo: 0..1, the sliders.
    """

    _esm = page.script()
    _css = page.style()
    payload = traitlets.Bytes().tag(sync=True)
    x = traitlets.Int(0).tag(sync=True)
    y = traitlets.Int(0).tag(sync=True)
    recurrence = traitlets.Int(2).tag(sync=True)
    clip = traitlets.Float(0.35, min=0.0, max=1.0).tag(sync=True)
    labels = traitlets.Float(0.45, min=0.0, max=1.0).tag(sync=True)
    photo = traitlets.Float(0.25, min=0.0, max=1.0).tag(sync=True)

    def __init__(
        self,
        view: View,
        recurrences: Sequence[int] = RECURRENCES,
        pixel: tuple[int, int] | None = None,
        precision: str = "float16",
        **settings: Any,
    ) -> None:
        data = encode(view, recurrences, precision, pixel=pixel, settings=settings)
        begin = header_of(data)
        names = ("x", "y", "recurrence", "clip", "labels", "photo")
        super().__init__(payload=data, **{name: begin[name] for name in names})
        self.view, self._recurrences = view, tuple(begin["recurrences"])

    def __repr__(self) -> str:
        height, width = self.view.size
        return f"ViewWidget of a picture of {width} x {height} pixels, pixel ({self.x}, {self.y})"

    def _repr_mimebundle_(self, **options: Any) -> Any:
        """The widget, and for readers without a kernel a still of it."""
        data, metadata = super()._repr_mimebundle_(**options)
        file = io.BytesIO()
        figure = self.view.figure(self.x, self.y, self._recurrences, self.clip, self.labels)
        figure.savefig(file, format="png", dpi=72)
        return data | {"image/png": b64encode(file.getvalue()).decode()}, metadata

    @traitlets.validate("x", "y")  # type: ignore[untyped-decorator]
    def _within(self, proposal: Any) -> int:
        name, value = proposal["trait"].name, proposal["value"]
        side = self.view.size[name == "x"] if hasattr(self, "view") else value + 1
        if not 0 <= value < side:
            raise traitlets.TraitError(f"{name} is {value}; expected 0 to {side - 1}")
        return int(value)

    @traitlets.validate("recurrence")  # type: ignore[untyped-decorator]
    def _known(self, proposal: Any) -> int:
        value = proposal["value"]
        if hasattr(self, "view") and value not in self._recurrences:
            known = ", ".join(map(str, self._recurrences))
            raise traitlets.TraitError(f"recurrence is {value}; this view has {known}")
        return int(value)
