"""What one visitor looks at, as plain values."""

from dataclasses import dataclass


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
    file: str = ""  # of the picture on show, where there is one
