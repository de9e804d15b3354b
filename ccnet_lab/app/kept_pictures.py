"""The pictures that links show, kept in the store's folder `pictures` and named by their hash."""

import hashlib
import os
import threading
import time
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
DAY = 86_400  # seconds
MOST_EACH, BYTES_EACH = 20, 100_000_000  # and of one visitor
PICTURE_AGAIN = "open the picture again and copy a new link"
_keeping = threading.Lock()
_owners: dict[str, set[str]] = {}  # the visitors who had a picture kept, by its file's name


def picture_hash(image: NDArray[np.uint8]) -> str:
    """32 hex digits of an (H, W, 3) picture's size and pixels, whatever file they came from."""
    height, width = image.shape[:2]
    return hashlib.sha256(f"{height}x{width}:".encode() + image.tobytes()).hexdigest()[:DIGITS]


def keep_picture(image: NDArray[np.uint8], owner: str = "") -> Path:
    """Write a picture into the store's folder `pictures`, named by its hash; returns its path.

    Beyond `MOST_EACH` or `BYTES_EACH` the oldest that only this `owner` has kept are removed;
    beyond `MOST_PICTURES` or `MOST_BYTES` in all the oldest of more than a day. So nobody can push
    out what others have just kept. Raises `ImageError` where there is no room or it cannot be
    written.
    """
    digest = picture_hash(image)
    path, kept = kept_picture(digest), None
    with _keeping:
        with suppress(ImageError, MissingFileError):
            kept = picture_hash(read_image(path))
        _owners.setdefault(path.name, set()).add(owner)
        if kept == digest:
            with suppress(OSError):
                os.utime(path)  # it is needed again
            return path
        content = png(image)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            _make_room(path, len(content), owner)
            write_whole(path, lambda file: file.write_bytes(content), ImageError)
        except OSError as error:
            what = f"the picture cannot be kept in {path.parent}: {error}"
            raise ImageError(f"{what}; make room or set CCNET_LAB_HOME") from None
    return path


def _make_room(new: Path, size: int, owner: str) -> None:
    """Remove pictures, so that `new` of `size` bytes can be written within the limits."""
    aged = []  # time, bytes, path; parts that killed processes left included
    for path in new.parent.glob("*.png*"):
        with suppress(OSError):  # another process makes room at the same time
            status = path.lstat()
            if path != new:
                aged.append((status.st_mtime, status.st_size, path))
    aged.sort()
    names = {path.name for _, _, path in aged}
    for name in {*_owners} - names - {new.name}:
        del _owners[name]
    mine = [row for row in aged if owner and _owners.get(row[2].name) == {owner}]
    while len(mine) >= MOST_EACH or (mine and size + _bytes(mine) > BYTES_EACH):
        _remove(mine.pop(0), aged)
    while len(aged) >= MOST_PICTURES or (aged and size + _bytes(aged) > MOST_BYTES):
        if time.time() - aged[0][0] > DAY:
            mine = [row for row in mine if row != aged[0]]
            _remove(aged[0], aged)
        elif mine:
            _remove(mine.pop(0), aged)
        else:
            what = f"{len(aged)} pictures are kept for links, all from the last 24 hours"
            raise ImageError(f"{what}; copy this link tomorrow, or delete some of {new.parent}")


def _remove(row: tuple[float, int, Path], rows: list[tuple[float, int, Path]]) -> None:
    row[2].unlink(missing_ok=True)
    rows.remove(row)


def _bytes(pictures: list[tuple[float, int, Path]]) -> int:
    return sum(size for _, size, _ in pictures)


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
