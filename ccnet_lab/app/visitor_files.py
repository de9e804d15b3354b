"""Files written for visitors, under random names: nothing that they send is part of a path."""

import os
import secrets
import shutil
import signal
import stat
import tempfile
import threading
import time
from collections.abc import Container, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from ccnet_lab.errors import ImageError

PREFIX = "ccnet_lab_app_"  # of an app's own folder
LOCK = "lock"  # in it: held as long as its app runs
KEPT = 3600  # seconds that a saved picture is kept: it is downloaded at once
UNUSED = 7200  # and what a visitor sent and has on show, if he doesn't come back
BROKEN_OFF = 600  # and an upload that has not grown since
MOST_SAVED = 10  # pictures of one visitor
COPIES_BYTES = 2_000_000_000  # that what visitors send, and copies for them to fetch, may take
YOUNG = 120  # seconds that a copy is kept in any case: it may wait to be looked at


@contextmanager
def own_folder() -> Iterator[Path]:
    """A folder for all that visitors send, which only its owner may read; removed at the end.

    So are the folders of apps that were killed and could not remove theirs.
    """
    before = os.umask(0o077)  # of all files from now on
    for left in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        if _is_ours(left) and _is_left(left):
            shutil.rmtree(left, ignore_errors=True)
    folder = Path(tempfile.mkdtemp(prefix=PREFIX))
    try:
        with (folder / LOCK).open("w") as lock:
            _try_lock(lock)
            yield folder
    finally:
        with _undisturbed():  # a second Ctrl-C must not leave half of it
            shutil.rmtree(folder, ignore_errors=True)
        os.umask(before)


def _try_lock(file: IO[str]) -> bool:
    """Lock a file, which ends with the process; False where another process holds it."""
    try:
        import fcntl
    except ImportError:  # Windows, which doesn't remove what is open
        return False
    with suppress(OSError):
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    return False


def _is_left(folder: Path) -> bool:
    """Whether no app has the folder any more; one that has just been made is left alone."""
    with suppress(OSError):
        if (folder / LOCK).is_file():
            with (folder / LOCK).open("r+") as lock:
                return _try_lock(lock)
        return time.time() - folder.stat().st_mtime > KEPT
    return False


def _is_ours(folder: Path) -> bool:
    with suppress(OSError):
        return not folder.is_symlink() and folder.stat().st_uid == os.getuid()
    return False


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Within it signals that end the process are ignored."""
    names = ("SIGINT", "SIGTERM", "SIGHUP")
    main = threading.current_thread() is threading.main_thread()
    numbers = [getattr(signal, name) for name in names if main and hasattr(signal, name)]
    before = {number: signal.signal(number, signal.SIG_IGN) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def sweep(folder: Path, stay: Container[Path] = (), shown: Container[str] = ()) -> bool:
    """Remove what nobody needs any more; returns whether the rest fills its part of the disk.

    That is what was saved more than an hour ago, uploads that broke off or that no visitor has on
    show, and the oldest copies where all of it takes more than 2 GB.

    Args:
        folder: as `own_folder` gives; in its `gradio` are uploads, and files to fetch.
        stay: files that are shared by all.
        shown: paths that visitors have on show.
    """
    now = time.time()
    for path in (folder / "saved").glob("*/*"):
        _remove_if_older(path, now - KEPT)
    for path in (folder / "uploads").glob("*"):
        if str(path / "upload") not in shown:
            _remove_if_older(path, now - KEPT)
    for path in (folder / "gradio").glob("*.bin"):
        if str(path) not in shown:
            _remove_if_older(path, now - KEPT)
    for path in (folder / "gradio").glob("tmp*"):
        _remove_if_older(path, now - BROKEN_OFF)
    found, kept = [], [*(folder / "uploads").glob("*/*"), *(folder / "gradio").glob("tmp*")]
    counted = {file.st_ino: _taken(file) for file in map(_status, kept) if file}
    size = sum(counted.values())
    for copy in (folder / "gradio").glob("*/*"):
        file = _status(copy)
        if file and copy not in stay and stat.S_ISREG(file.st_mode):
            taken = 0 if file.st_ino in counted else _taken(file)  # linked by `kept_upload`
            found.append((file.st_mtime, taken, copy))
    for changed, taken, copy in sorted(found, reverse=True):
        size += taken
        if size > COPIES_BYTES and not now - YOUNG < changed <= now:
            with suppress(OSError):
                copy.unlink()
                size -= taken
                copy.parent.rmdir()
    return size > COPIES_BYTES


def _status(path: Path) -> os.stat_result | None:
    with suppress(OSError):
        return path.stat()
    return None


def _taken(file: os.stat_result) -> int:
    """Bytes of the disk that a file takes, with what is kept about it and its folder."""
    blocks: int = getattr(file, "st_blocks", 0)
    return max(file.st_size, 512 * blocks) + 8192


def _remove_if_older(path: Path, since: float) -> None:
    with suppress(OSError):
        if path.stat().st_mtime < since:
            shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink()


def folder_to_save(folder: Path, owner: str) -> Path:
    """Make a folder for a picture that a visitor saves; his oldest beyond `MOST_SAVED` go.

    `owner` is the app's own name for the visitor, of letters and digits.
    """
    own = folder / "saved" / owner
    new = new_folder(own.parent, owner)
    before = [path for path in own.iterdir() if path != new]
    before.sort(key=lambda path: path.stat().st_mtime_ns, reverse=True)
    for old in before[MOST_SAVED - 1 :]:
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
    try:
        part.write_bytes(content)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
    return str(path)


def new_folder(folder: Path, kind: str) -> Path:
    """Make a folder in `folder`/`kind`."""
    path = folder / kind / secrets.token_hex(16)
    path.mkdir(parents=True)
    return path


@contextmanager
def kept_upload(folder: Path, path: str, before: str) -> Iterator[str]:
    """Keep an upload and remove the last one, `before`; or the new one if it cannot be shown.

    It is linked where that can be: many visitors may show one file, which then takes its room once.
    """
    copy = superseded = str(new_folder(folder, "uploads") / "upload")
    try:
        try:
            os.link(path, copy)
        except OSError:
            shutil.copyfile(path, copy)
        yield copy
        superseded = before
    except ImageError as error:  # the visitor knows the file by another name
        raise ImageError(str(error).replace("upload", Path(path).name, 1)) from None
    finally:
        remove_upload(folder, superseded)
