"""What one visitor looks at, as plain values."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from ccnet_lab.viewer.payload import CHOICES

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
            if isinstance(value, int | float) and -1e6 < value < 1e6:
                found[name] = kind(value) if kind is int else min(max(float(value), 0.0), 1.0)
        for name, allowed in CHOICES.items():
            if isinstance(looked, Mapping) and looked.get(name) in allowed:
                found[name] = looked[name]
        pinned = isinstance(looked, Mapping) and looked.get("pinned") is True
        return replace(self, **found, pinned=pinned or (not looked and self.pinned))
