"""The pictures that links show, kept in the store's folder `pictures` and named by their hash."""

import hashlib
import threading
from contextlib import suppress
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ccnet_lab import store
from ccnet_lab.data.images import read_image
from ccnet_lab.draw.pictures import png
from ccnet_lab.errors import ConfigError, ImageError, MissingFileError
from ccnet_lab.files import write_whole

DIGITS = 32  # of a sha256 that stand in a link
MOST_PICTURES = 200  # that are kept
MOST_BYTES = 500_000_000  # that they take together
PICTURE_AGAIN = "open the picture again and copy a new link"
_keeping = threading.Lock()


def picture_hash(image: NDArray[np.uint8]) -> str:
    """32 hex digits of an (H, W, 3) picture's size and pixels, whatever file they came from."""
    height, width = image.shape[:2]
    return hashlib.sha256(f"{height}x{width}:".encode() + image.tobytes()).hexdigest()[:DIGITS]


def keep_picture(image: NDArray[np.uint8]) -> Path:
    """Write a picture into the store's folder `pictures`, named by its hash; returns its path.

    Beyond `MOST_PICTURES` or `MOST_BYTES` the oldest are removed. Raises `ImageError` where it
    cannot be written.
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
    """Remove the oldest pictures beyond the limits, parts that killed processes left included."""
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
    """Where `keep_picture` puts the picture of a hash; raises `ConfigError` for other strings."""
    if len(digest) != DIGITS or set(digest) - set("0123456789abcdef"):
        raise damaged("image", digest, f"{DIGITS} hex digits")
    return store.home() / "pictures" / f"{digest}.png"


def find_picture(digest: str) -> str:
    """Path of a kept picture; raises `MissingFileError` where it is gone or another one."""
    path = kept_picture(digest)
    if not path.is_file():
        raise gone("a picture", digest, PICTURE_AGAIN)
    if picture_hash(read_image(path)) != digest:
        raise gone("a picture", digest, f"another one lies in its place; {PICTURE_AGAIN}")
    return str(path)


def damaged(name: str, value: str, expected: str) -> ConfigError:
    """The error for a parameter of a link that cannot be what was copied."""
    return ConfigError(
        f"this link is damaged: {name} is {value!r}; expected {expected}, so copy the link again"
    )


def gone(what: str, digest: str, remedy: str) -> MissingFileError:
    """The error for a link whose picture or weights are not here any more."""
    return MissingFileError(
        f"this link needs {what} ({digest}), which is no longer on this machine; {remedy}"
    )
