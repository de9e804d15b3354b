"""What one visitor looks at, as plain values."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from ccnet_lab.errors import ImageError
from ccnet_lab.viewer.payload import CHOICES, RECURRENCES

LOOKED = {"x": int, "y": int, "recurrence": int, "labels": float, "photo": float, "clip": float}


@dataclass(frozen=True)
class ViewState:
    """What one visitor looks at: plain values that name it, nothing large."""

    model: str  # a name or path; "PATH as NAME" where a file leaves its configuration open
    image: str = ""  # path of the picture
    short_side: int = 0  # of the network's input; 0 as evaluated
    x: int = 0  # the chosen pixel, image coordinates
    y: int = 0
    recurrence: int = 2  # R of the facts, of the deletion test and of the Python to copy
    labels: float = 0.45  # opacity 0..1 of the labels over the image
    photo: float = 0.25  # and of the image under the maps
    clip: float = 0.35  # 0..1, see `pictures.clip_level`
    kind: str = "attention"  # or "listeners"
    scale: str = "clipped"  # or "raw", "log"
    pinned: bool = False  # whether the pixel stays when the pointer moves
    region: tuple[int, int, int, int] | None = None  # left, top, right, bottom: its mean is on show
    label: int | None = None  # the class whose mean is on show
    file: str = ""  # of the view that the page has fetched

    def shown(self) -> dict[str, Any]:
        """What the viewer begins with, and the file it fetches."""
        return {"file": self.file} | self.settings()

    def settings(self) -> dict[str, Any]:
        """What the viewer begins with."""
        return {name: getattr(self, name) for name in (*LOOKED, *CHOICES, "pinned")}

    def looking(self, looked: Any) -> "ViewState":
        """The state with what a page says that its viewer shows; impossible values are left out."""
        found: dict[str, Any] = {}
        for name, kind in LOOKED.items():
            value = looked.get(name) if isinstance(looked, Mapping) else None
            if name == "recurrence" and value not in RECURRENCES:
                continue  # a larger one would be computed
            if isinstance(value, int | float) and -1e6 < value < 1e6:
                found[name] = kind(value) if kind is int else min(max(float(value), 0.0), 1.0)
        for name, allowed in CHOICES.items():
            if isinstance(looked, Mapping) and looked.get(name) in allowed:
                found[name] = looked[name]
        if isinstance(looked, Mapping):
            label, corners = looked.get("label"), looked.get("corners")
            found["label"] = label if _whole(label) else None
            found["region"] = None
            if isinstance(corners, list) and len(corners) == 4 and all(map(_whole, corners)):
                found["region"] = tuple(corners)
        pinned = isinstance(looked, Mapping) and looked.get("pinned") is True
        return replace(self, **found, pinned=pinned or (not looked and self.pinned))


def _whole(value: Any) -> bool:
    return type(value) is int and 0 <= value < 1e6


def within(value: int, low: int, high: int) -> int:
    """A value moved to the nearer of two ends if it lies beyond."""
    return min(max(value, low), high)


def on_show(state: ViewState) -> ViewState:
    """The state itself; `ImageError` where gradio lost it and gives the one of a new visitor."""
    if not state.file:
        raise ImageError(
            "the app was restarted, or this page lay idle too long, and your picture is gone; "
            "load the page again"
        )
    return state
