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
MOST_PICTURES, MOST_BYTES = 200, 500_000_000  # that are kept, and that they take together
MOST_EACH, BYTES_EACH = 20, 100_000_000  # and of one visitor
PICTURE_AGAIN = "open the picture again and copy a new link"
_keeping = threading.Lock()
_owners: dict[str, str] = {}  # the visitor who had a picture kept, by its file's name


def picture_hash(image: NDArray[np.uint8]) -> str:
    """32 hex digits of an (H, W, 3) picture's size and pixels, whatever file they came from."""
    height, width = image.shape[:2]
    return hashlib.sha256(f"{height}x{width}:".encode() + image.tobytes()).hexdigest()[:DIGITS]


def keep_picture(image: NDArray[np.uint8], owner: str = "") -> Path:
    """Write a picture into the store's folder `pictures`, named by its hash; returns its path.

    Beyond `MOST_EACH` or `BYTES_EACH` the oldest of this `owner` are removed, then beyond
    `MOST_PICTURES` or `MOST_BYTES` the oldest of whoever keeps the most: nobody can push out what
    others have kept. Raises `ImageError` where it cannot be written.
    """
    digest = picture_hash(image)
    path, kept = kept_picture(digest), None
    with _keeping:
        with suppress(ImageError, MissingFileError):
            kept = picture_hash(read_image(path))
        if kept != digest:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_whole(path, lambda file: file.write_bytes(png(image)), ImageError)
            _owners[path.name] = owner
            _make_room(path)
    return path


def _make_room(newest: Path) -> None:
    """Remove pictures beyond the limits, parts that killed processes left included."""
    with suppress(OSError):  # another process makes room at the same time
        newest_first = sorted(
            newest.parent.glob("*.png*"),
            key=lambda path: (path == newest, path.stat().st_mtime_ns),
            reverse=True,
        )
        held: dict[str, list[tuple[int, Path]]] = {}  # size and path by owner
        for path in newest_first:
            held.setdefault(_owners.get(path.name, ""), []).append((path.stat().st_size, path))
        for name in {*_owners} - {path.name for path in newest_first}:
            del _owners[name]
        mine = held[_owners[newest.name]] if _owners[newest.name] else []
        while len(mine) > 1 and (len(mine) > MOST_EACH or _bytes(mine) > BYTES_EACH):
            mine.pop()[1].unlink()
        while (
            sum(map(len, held.values())) > MOST_PICTURES
            or sum(map(_bytes, held.values())) > MOST_BYTES
        ):
            most = max(held.values(), key=lambda pictures: (_bytes(pictures), len(pictures)))
            if most[-1][1] == newest:
                break
            most.pop()[1].unlink()


def _bytes(pictures: list[tuple[int, Path]]) -> int:
    return sum(size for size, _ in pictures)


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
