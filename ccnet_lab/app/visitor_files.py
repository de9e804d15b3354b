"""Files written for visitors, under random names: nothing that they send is part of a path."""

import os
import re
import secrets
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ccnet_lab.errors import ImageError

PREFIX = "ccnet_lab_"  # of an app's own folder, followed by the number of its process
KEPT = 3600  # seconds that a saved picture is kept: it is downloaded at once
MOST_SAVED = 10  # pictures of one visitor
COPIES_BYTES = 2_000_000_000  # that what visitors send, and copies for them to fetch, may take


@contextmanager
def own_folder() -> Iterator[Path]:
    """A folder for all that visitors send, which only its owner may read; removed at the end.

    So are the folders of apps that were killed and could not remove theirs.
    """
    before = os.umask(0o077)  # of all files from now on
    for left in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        process = re.fullmatch(rf"{PREFIX}(\d+)_.*", left.name)
        if process and not _runs(int(process[1])) and _is_ours(left):
            shutil.rmtree(left, ignore_errors=True)
    try:
        with tempfile.TemporaryDirectory(prefix=f"{PREFIX}{os.getpid()}_") as folder:
            yield Path(folder)
    finally:
        os.umask(before)


def _runs(process: int) -> bool:
    if os.name != "posix":  # there the call below would end it
        return True
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:  # another user's
        return True
    return True


def _is_ours(folder: Path) -> bool:
    with suppress(OSError):
        return not folder.is_symlink() and folder.stat().st_uid == os.getuid()
    return False


def sweep(folder: Path, since: float = 0.0) -> None:
    """Remove what was saved for visitors more than an hour ago, and the oldest copies beyond 2 GB.

    Copies are what gradio writes in `folder`/gradio: uploads, and files to fetch; those from before
    the time `since`, as the examples', stay.
    """
    for saved in (folder / "saved").glob("*/*"):
        with suppress(OSError):
            if time.time() - saved.stat().st_mtime > KEPT:
                shutil.rmtree(saved, ignore_errors=True)
    found, size = [], 0
    for copy in (folder / "gradio").glob("*/*"):
        with suppress(OSError):
            found.append((copy.stat().st_mtime, copy.stat().st_size, copy))
    for changed, bytes_, copy in sorted(found, reverse=True):
        size += bytes_
        if size > COPIES_BYTES and changed > since:
            copy.unlink(missing_ok=True)


def folder_to_save(folder: Path, owner: str) -> Path:
    """Make a folder for a picture that a visitor saves; his oldest beyond `MOST_SAVED` go.

    `owner` is the app's own name for the visitor, of letters and digits.
    """
    own = folder / "saved" / owner
    new = new_folder(own.parent, owner)
    for old in sorted(own.iterdir(), key=lambda path: path.stat().st_mtime_ns)[:-MOST_SAVED]:
        shutil.rmtree(old, ignore_errors=True)
    return new


def remove_upload(folder: Path, path: str) -> None:
    """Remove a visitor's picture; nothing that isn't one."""
    picture = Path(path)
    if picture.parent.parent == folder / "uploads":
        shutil.rmtree(picture.parent, ignore_errors=True)


def write_file(folder: Path, content: bytes, before: str = "") -> str:
    """Write a file into `folder`, in the place of the one `before` if given; returns its path."""
    path = Path(before) if before else folder / f"{secrets.token_hex(16)}.bin"
    part = path.with_suffix(".part")
    part.write_bytes(content)
    part.replace(path)
    return str(path)


def new_folder(folder: Path, kind: str) -> Path:
    """Make a folder in `folder`/`kind`."""
    path = folder / kind / secrets.token_hex(16)
    path.mkdir(parents=True)
    return path


@contextmanager
def kept_upload(folder: Path, path: str, before: str) -> Iterator[str]:
    """Copy an upload and remove the last one, `before`; or the copy if it cannot be shown."""
    copy = str(new_folder(folder, "uploads") / "upload")
    shutil.copyfile(path, copy)
    superseded = copy
    try:
        yield copy
        superseded = before
    except ImageError as error:  # the visitor knows the file by another name
        raise ImageError(str(error).replace("upload", Path(path).name, 1)) from None
    finally:
        remove_upload(folder, superseded)
