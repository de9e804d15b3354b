"""One file over HTTP, whole or not at all: progress, resume, length and hash; which files are wanted is said by those who call."""

import errno
import hashlib
import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from ccnet_lab.errors import DownloadError, LabError, NotThereError

Progress = Callable[
    [int, int | None], None
]  # what is done, and of how much (None where that isn't known)
_BLOCK = 1 << 16  # bytes; what a cut connection can lose


class _CutError(Exception):
    """The transfer broke off in a way that another try may mend."""


class _UnreachableError(_CutError):
    """The host could not be reached at all, which is asked once more only."""


def fetch(
    url: str,
    path: str | Path,
    *,
    digest: str = "",
    progress: Progress | None = None,
    check: Callable[[Path], None] | None = None,
    timeout: float = 30.0,
    retries: int = 4,
    pause: float = 1.0,
) -> Path:
    """Download `url` to `path`, and return that; what is there already is only checked.

    The bytes go to `<path>.part` and under the final name only when they are whole and right. A part is resumed by a Range request where
    the host allows it and the file there is still the same one (`If-Range`, from the ETag or date kept in `<path>.part.json`).

    Args:
        url: http or https; proxies from the environment are respected.
        path: the file to write; its folder is made.
        digest: `"sha256:..."`, `"md5:..."` or `"sha1:..."`; the first digits suffice.
        progress: called with (bytes so far, bytes in all or None); what it raises ends the call, and the next one goes on from there.
        check: called with the whole file before it gets its name; raises `DownloadError` if it is not what it should be.
        timeout: seconds without a byte after which the connection counts as cut.
        retries: tries in a row that bring nothing new before giving up; `pause` seconds before the first, twice that before the next, ...
            A host that cannot be reached is tried once more at most.

    Raises:
        DownloadError: no network, refused, wrong length or hash, no room on the disk, or another process is at it; says what to do.
    """
    path = Path(path)
    part = path.with_name(path.name + ".part")
    if path.exists():
        _verify(path, digest, f"move it away and call again, or get {url} by hand")
        return path
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _alone(part):
            if not path.exists():  # else another process has just finished it
                _transfer(url, part, digest, progress, timeout, retries, pause)
                try:
                    _verify(
                        part,
                        digest,
                        f"it is removed; call again, or put the right file at {path} by hand",
                        check,
                    )
                except DownloadError:
                    _forget(part)
                    raise
                os.replace(part, path)
                _forget(part)
    except LabError:
        raise
    except (
        OSError
    ) as error:  # of the disk: those of the network are _CutError or DownloadError by now
        if error.errno == errno.ENOSPC:
            raise DownloadError(
                f"no room left for {part}; free some and call again, what came so far is kept"
            ) from None
        raise DownloadError(
            f"{path} cannot be written: {error}; choose another folder or change its rights"
        ) from None
    return path


def progress_bar(title: str, unit: str = "B") -> Progress:
    """A line in the terminal, or a widget in a notebook, for a `Progress`; bytes by default, any count with another unit."""
    bar: Any = None

    def show(done: int, total: int | None) -> None:
        nonlocal bar
        if bar is None:
            watched = sys.stderr.isatty() or "ipykernel" in sys.modules
            every = 0.1 if watched else 30.0  # seconds; a log file gets few lines
            bar = tqdm(
                desc=title,
                total=total,
                unit=unit,
                unit_scale=unit == "B",
                initial=done,
                mininterval=every,
                dynamic_ncols=True,
            )
        bar.total = total
        bar.update(done - bar.n)
        if done == total:
            bar.close()

    return show


def _transfer(
    url: str,
    part: Path,
    digest: str,
    progress: Progress | None,
    timeout: float,
    retries: int,
    pause: float,
) -> None:
    """Receive until the part is whole; cuts are mended by going on."""
    tries, most = 0, _length(part)
    while True:
        try:
            return _receive(url, part, digest, progress, timeout)
        except _CutError as cut:
            tries, most = (1, _length(part)) if _length(part) > most else (tries + 1, most)
            if tries > (min(1, retries) if isinstance(cut, _UnreachableError) else retries):
                kept = (
                    f"; the first {_length(part):,} bytes are kept and the next call goes on from there"
                    if _length(part)
                    else ""
                )
                raise DownloadError(
                    f"{url} cannot be downloaded: {cut}{kept}. Or put it at {_final(part)} by hand"
                ) from None
            time.sleep(pause * 2 ** (tries - 1))


@contextmanager
def _alone(part: Path) -> Iterator[None]:
    """Hold the part for this call; raises `DownloadError` where another call, in whatever process, holds it."""
    try:
        import fcntl
    except ImportError:  # Windows
        yield
        return
    path = part.with_name(part.name + ".lock")
    with path.open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            mine = (
                path.exists() and path.stat().st_ino == os.fstat(file.fileno()).st_ino
            )  # not one that was removed meanwhile
        except BlockingIOError:
            mine = False
        if not mine:
            file.seek(0)
            who = file.read().strip()
            raise DownloadError(
                f"{_final(part)} is being downloaded by process {who or '?'}; wait until it is done and call again"
            )
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        try:
            yield
        finally:
            path.unlink(missing_ok=True)


def _receive(url: str, part: Path, digest: str, progress: Progress | None, timeout: float) -> None:
    """Go on with the part, or start it."""
    import requests

    note = read_note(part)
    same = note.get("validator", "") if note.get("url") == url else ""
    have = (
        _length(part) if same or digest else 0
    )  # without either, nothing would tell two versions glued together
    if same and have and have == note.get("total"):
        return
    resumed = {"Range": f"bytes={have}-"} | ({"If-Range": same} if same else {})
    headers = {"Accept-Encoding": "identity"} | (resumed if have else {})
    answered = False
    try:
        with requests.get(url, headers=headers, stream=True, timeout=timeout) as answer:
            answered = True
            status, told = answer.status_code, answer.headers
            if status == 416:  # the part is longer than the file there
                _forget(part)
                raise _CutError("the file there has changed")
            if status in (408, 425, 429) or status >= 500:
                raise _CutError(f"the host answers {status} {answer.reason}")
            if status not in (200, 206):
                kind = (
                    NotThereError if 400 <= status < 500 else DownloadError
                )  # some stores answer 403 for what they don't have
                raise kind(
                    f"the host answers {status} {answer.reason} to {url}; put the file at {_final(part)} by hand"
                )
            begin, _, whole = told.get("Content-Range", "").removeprefix("bytes ").partition("/")
            if status == 206 and begin.split("-")[0] != str(have):
                _forget(part)
                raise _CutError(f"the host sent bytes {begin or '?'} instead of {have}-")
            length = (
                whole
                if status == 206
                else told.get("Content-Length", "")
                if "Content-Encoding" not in told
                else ""
            )
            total = int(length) if length.isdigit() else None
            have = have if status == 206 else 0
            _check_room(part, total, have)
            tag = told.get("ETag", "")
            validator = tag if tag and not tag.startswith("W/") else told.get("Last-Modified", "")
            with part.open("ab" if have else "wb") as file:
                note_path(part).write_text(
                    json.dumps({"url": url, "validator": validator, "total": total})
                )
                for block in answer.iter_content(_BLOCK):
                    file.write(block)
                    have += len(block)
                    if progress:
                        progress(have, total)
                file.flush()
                os.fsync(file.fileno())
    except requests.RequestException as error:
        if isinstance(error, ValueError):
            raise DownloadError(f"{url} is no address to download from: {error}") from None
        inner = error.args[0] if error.args else error
        unreachable = (
            isinstance(error, requests.ConnectionError)
            and not isinstance(error, requests.Timeout)
            and not answered
        )
        raise (_UnreachableError if unreachable else _CutError)(
            str(getattr(inner, "reason", inner))
        ) from None
    if total is not None and have != total:
        raise _CutError(f"the connection ended after {have:,} of {total:,} bytes")


def _verify(
    file: Path, digest: str, remedy: str, check: Callable[[Path], None] | None = None
) -> None:
    try:
        if digest:
            algorithm, _, expected = digest.partition(":")
            with file.open("rb") as content:
                found = hashlib.file_digest(content, algorithm).hexdigest()
            if not expected or not found.startswith(expected.lower()):
                raise DownloadError(f"it has the {algorithm} {found}, expected {expected}")
        if check:
            check(file)
    except DownloadError as error:
        raise type(error)(f"{_final(file)}: {error}; {remedy}") from None


def _check_room(part: Path, total: int | None, have: int) -> None:
    free = shutil.disk_usage(part.parent).free + (_length(part) if not have else 0)
    if total is not None and free < total - have:
        raise DownloadError(
            f"{part.parent} has room for {free / 1e9:.1f} GB, {_final(part)} takes {(total - have) / 1e9:.1f} GB more"
        )


def _final(part: Path) -> Path:
    return part.with_name(part.name.removesuffix(".part"))


def _length(file: Path) -> int:
    return file.stat().st_size if file.exists() else 0


def note_path(file: Path) -> Path:
    """Where it is noted what is known of a file: beside it."""
    return file.with_name(f"{file.name}.json")


def read_note(file: Path) -> dict[str, Any]:
    """What is noted of a file; empty where nothing is, or nothing that can be read."""
    try:
        return dict(json.loads(note_path(file).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return {}


def _forget(part: Path) -> None:
    for file in (part, note_path(part)):
        file.unlink(missing_ok=True)
