"""Links: what a visitor looks at, as an address that finds it again and as the Python that makes it. Who opens them is workbench.py."""

import functools
import hashlib
import threading
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import numpy as np
from numpy.typing import NDArray

from ccnet_lab import store
from ccnet_lab.data.images import read_image
from ccnet_lab.draw.pictures import png
from ccnet_lab.errors import ConfigError, ImageError, MissingFileError
from ccnet_lab.files import sha256, write_whole
from ccnet_lab.hub import source_and_config

DIGITS = 32  # of a sha256 that stand in a link
MOST_PICTURES = 200  # kept for links
MOST_BYTES = 500_000_000  # that they take together
_keeping = threading.Lock()


@dataclass(frozen=True, kw_only=True)
class Link:
    """Everything that decides what is seen; plain values, as they stand in the address."""

    image: str  # first 32 hex digits of `picture_hash`
    weights: str  # and of `weights_hash`
    model: str  # as in the menu, or a path
    config: str  # the name of its configuration
    input: int = 0  # short side of the network's input, pixels; 0 as evaluated
    r: int = 2  # the recurrence of the facts
    x: int = 0  # the pixel, image coordinates
    y: int = 0
    labels: float = 0.45  # the sliders, 0..1
    photo: float = 0.25
    clip: float = 0.35
    tab: str = "Explore"  # which part of the page
    board: str = (
        ""  # from here on what the tabs Configurations and Runs show; "" for what they begin with
    )
    order: str = ""
    one: str = ""
    other: str = ""
    drawn: str = ""  # separated by "|"

    def query(self) -> str:
        """The address's end: "?image=...&weights=...", numbers in full."""
        return f"?{urlencode({name: value for name, value in asdict(self).items() if value != ''})}"

    @classmethod
    def read(cls, query: Mapping[str, str]) -> "Link":
        """A link from an address's parameters; those it doesn't know are passed over, sliders beyond their ends are clamped.

        Raises `ConfigError` for a parameter that is missing, or no number where there should be one.
        """
        found: dict[str, Any] = {}
        for name, kind in (
            (field.name, field.type) for field in fields(cls) if field.name in query
        ):
            try:
                found[name] = kind(query[name])  # type: ignore[operator]
            except ValueError:
                raise ConfigError(
                    f"this link is damaged: {name} is {query[name]!r}; expected a number, so copy the link again"
                ) from None
        if missing := [
            name for name in ("image", "weights", "model", "config") if name not in found
        ]:
            raise ConfigError(
                f"this link is cut short: it doesn't name {', '.join(missing)}; copy the link again"
            )
        return cls(
            **found
            | {name: clamped(found[name]) for name in ("labels", "photo", "clip") if name in found}
        )


def clamped(share: float) -> float:
    """A slider's value within 0..1; what is no number becomes 0."""
    return min(max(share, 0.0), 1.0) if share == share else 0.0


def picture_hash(image: NDArray[np.uint8]) -> str:
    """Of an (H, W, 3) picture's size and pixels, whatever file they came from; 32 hex digits."""
    height, width = image.shape[:2]
    return hashlib.sha256(f"{height}x{width}:".encode() + image.tobytes()).hexdigest()[:DIGITS]


def weights_hash(path: Path) -> str:
    """Of a weights file's bytes, 32 hex digits; read once as long as the file is untouched."""
    status = path.stat()
    return _file_hash(path, status.st_size, status.st_mtime_ns)


@functools.lru_cache(maxsize=64)
def _file_hash(path: Path, _size: int, _changed: int) -> str:
    return sha256(path)[:DIGITS]


def keep_picture(image: NDArray[np.uint8]) -> Path:
    """A picture's file in the folder `pictures` of the store, named by its hash, so that a link finds it tomorrow.

    Beyond `MOST_PICTURES` or `MOST_BYTES` the oldest are removed. Raises `ImageError` where it cannot be written.
    """
    digest = picture_hash(image)
    path, kept = kept_picture(digest), None
    with _keeping:
        with suppress(ImageError, MissingFileError):
            kept = picture_hash(read_image(path))
        if kept != digest:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_whole(path, lambda file: file.write_bytes(png(image)), ImageError)
            _make_room(path)
    return path


def _make_room(newest: Path) -> None:
    """Remove the oldest pictures that are too many or too large together, and what killed processes left of theirs; never the newest."""
    size = 0
    with suppress(OSError):  # another process makes room at the same time
        aged = sorted(
            newest.parent.glob("*.png*"),
            key=lambda path: (path == newest, path.stat().st_mtime_ns),
            reverse=True,
        )
        for rank, path in enumerate(aged, 1):
            size += path.stat().st_size
            if path != newest and (rank > MOST_PICTURES or size > MOST_BYTES):
                path.unlink()


def kept_picture(digest: str) -> Path:
    """Where `keep_picture` puts the picture of that hash; raises `ConfigError` for what cannot be a hash."""
    if len(digest) != DIGITS or set(digest) - set("0123456789abcdef"):
        raise ConfigError(
            f"this link is damaged: image is {digest!r}; expected {DIGITS} hex digits, so copy the link again"
        )
    return store.home() / "pictures" / f"{digest}.png"


def gone(what: str, digest: str, remedy: str) -> MissingFileError:
    """What is told of a link whose picture or weights are not here any more."""
    return MissingFileError(
        f"this link needs {what} ({digest}), which is no longer on this machine; {remedy}"
    )


def python_of(link: Link, picture: str, device: str = "cpu") -> str:
    """Python that gives the map on screen, as `weights` (h, w), and the picture's expression being `picture`."""
    source, config = source_and_config(link.model)
    opened = [repr(source)]
    opened += [f"config={config!r}"] if config else []
    opened += [f"device={device!r}"] if device != "cpu" else []
    lines = ["import ccnet_lab"]
    lines += (
        ["from ccnet_lab.data.generated.beacons import make_scene"]
        if "make_scene" in picture
        else []
    )
    lines += [
        "",
        f"explorer = ccnet_lab.Explorer.open({', '.join(opened)})",
        f"view = explorer.look({picture}{f', short_side={link.input}' if link.input else ''})",
        f"weights = view.attention(x={link.x}, y={link.y}, recurrence={link.r})  # (h, w), sums to 1",
        f"figure = view.figure(x={link.x}, y={link.y}, clip={link.clip}, labels={link.labels})",
    ]
    return "\n".join(lines) + "\n"
