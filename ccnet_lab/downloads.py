"""Download one file over HTTP, whole or not at all: progress, resume, length and hash.

Which files are wanted is up to the callers, store.py and data/prepare.py.
"""

import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from ccnet_lab.errors import DownloadError, LabError

Progress = Callable[[int, int | None], None]  # done, total (None where unknown)
Check = Callable[[Path], None]
_BLOCK = 1 << 16  # bytes; what a cut connection can lose


class NotThereError(DownloadError):
    """The host does not have the file; another address may."""


class _CutError(Exception):
    """The transfer broke off in a way that another try may mend."""


class _NoHostError(_CutError):
    """The host cannot be reached; not tried again."""


def fetch(
    url: str,
    path: str | Path,
    *,
    digest: str = "",
    progress: Progress | None = None,
    check: Check | None = None,
    timeout: float = 30.0,
    retries: int = 4,
    pause: float = 1.0,
) -> Path:
    """Download `url` to `path` and return that; an existing file is only checked.

    The bytes go to `<path>.part`, which is renamed when it is whole. A part is resumed by a Range
    request where the host's file is still the same (`If-Range`, from the ETag or date in
    `<path>.part.json`) or a digest will tell.

    Args:
        url: http or https.
        path: the file to write; its folder is made.
        digest: `"sha256:..."`, `"md5:..."` or `"sha1:..."`; the first digits suffice.
        progress: called with (bytes so far, total or None); if it raises, the next call resumes.
        check: called with the whole file before it is renamed; may raise `DownloadError`.
        timeout: seconds without a byte after which the connection counts as cut.
        retries: tries in a row that bring nothing new before giving up, after `pause` seconds,
            twice that, and so on; none where the host cannot be reached.

    Raises:
        DownloadError: no network, refused, wrong length or hash, a full disk, or another process is
            downloading it.
    """
    path = Path(path)
    part = path.with_name(path.name + ".part")
    if path.exists():
        _verify(path, digest, f"move it away and call again, or get {url} by hand")
        return path
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _locked(part):
            if not path.exists():  # else another process has just finished it
                receive = partial(_receive, url, part, digest, progress, timeout)
                _transfer(url, receive, part, retries, pause)
                remedy = f"it is removed; call again, or put the right file at {path} by hand"
                try:
                    _verify(part, digest, remedy, check)
                except DownloadError:
                    _forget(part)
                    raise
                os.replace(part, path)
                _forget(part)
    except LabError:
        raise
    except OSError as error:  # of the disk; those of the network are caught before
        remedy = "make room or choose another folder; what came so far is kept"
        raise DownloadError(f"{path} cannot be written: {error}; {remedy}") from None
    return path


def progress_bar(title: str, unit: str = "B") -> Progress:
    """A `Progress` that draws a line in a terminal, a widget in a notebook, nothing in a log."""
    bar: Any = None

    def show(done: int, total: int | None) -> None:
        nonlocal bar
        if bar is None:
            how: dict[str, Any] = {"unit": unit, "unit_scale": unit == "B", "initial": done}
            bar = tqdm(desc=title, total=total, dynamic_ncols=True, disable=None, **how)
        bar.total = total
        bar.update(done - bar.n)
        if done == total:
            bar.close()

    return show


@contextmanager
def _locked(part: Path) -> Iterator[None]:
    """Hold the part for this call; raises `DownloadError` where another call holds it."""
    try:
        import fcntl
    except ImportError:  # Windows
        yield
        return
    path = part.with_name(part.name + ".lock")
    with path.open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            held = path.exists() and os.path.samefile(path, file.fileno())
        except BlockingIOError:
            held = False
        if not held:  # or the holder has just removed the file
            file.seek(0)
            doing = f"{_final(part)} is being downloaded by process {file.read() or '?'}"
            raise DownloadError(f"{doing}; wait until it is done and call again")
        try:
            file.truncate(0)
            print(os.getpid(), end="", file=file, flush=True)
            yield
        finally:
            path.unlink(missing_ok=True)


def _transfer(
    url: str, receive: Callable[[], None], part: Path, retries: int, pause: float
) -> None:
    """Receive until the part is whole, resuming after every cut."""
    tries, most = 0, _length(part)
    while True:
        try:
            return receive()
        except _CutError as cut:
            have = _length(part)
            tries, most = (1, have) if have > most else (tries + 1, most)
            if tries > retries or isinstance(cut, _NoHostError):
                raise DownloadError(
                    f"{url} cannot be downloaded: {cut}; the first {have:,} bytes are kept and the "
                    f"next call resumes there, or put it at {_final(part)} by hand"
                ) from None
            time.sleep(pause * 2 ** (tries - 1))


def _receive(url: str, part: Path, digest: str, progress: Progress | None, timeout: float) -> None:
    """Resume the part, or start it."""
    import requests

    note = read_note(part)
    same = note.get("validator", "") if note.get("url") == url else ""
    # Without either, nothing would tell when halves of two versions are joined.
    have = _length(part) if same or digest else 0
    if same and have and have == note.get("total"):
        return
    headers = {"Accept-Encoding": "identity"}
    if have:
        headers |= {"Range": f"bytes={have}-"} | ({"If-Range": same} if same else {})
    answer: Any = None
    try:
        with requests.get(url, headers=headers, stream=True, timeout=timeout) as answer:
            have, total = _accepted(answer, url, part, have)
            tag = answer.headers.get("ETag", "")
            weak = not tag or tag.startswith("W/")
            validator = answer.headers.get("Last-Modified", "") if weak else tag
            record = {"url": url, "validator": validator, "total": total}
            with part.open("ab" if have else "wb") as file:
                note_path(part).write_text(json.dumps(record))
                for block in answer.iter_content(_BLOCK):
                    file.write(block)
                    have += len(block)
                    if progress:
                        progress(have, total)
                file.flush()
                os.fsync(file.fileno())
    except requests.RequestException as error:
        if isinstance(error, ValueError):
            raise DownloadError(
                f"{url} is no address ({error}); give one of http or https"
            ) from None
        slow = isinstance(error, requests.Timeout)
        kind = _CutError if slow or answer is not None else _NoHostError
        inner = error.args[0] if error.args else error
        raise kind(str(getattr(inner, "reason", inner))) from None
    if total is not None and have != total:
        raise _CutError(f"the connection ended after {have:,} of {total:,} bytes")


def _accepted(answer: Any, url: str, part: Path, have: int) -> tuple[int, int | None]:
    """The offset at which an answer's bytes begin, and the file's length; raises for refusals."""
    status, headers = answer.status_code, answer.headers
    sent = headers.get("Content-Range", "")
    if status == 416 or (status == 206 and not sent.startswith(f"bytes {have}-")):
        _forget(part)
        raise _CutError("the file there has changed")
    said = f"the host answers {status} {answer.reason}"
    if status in (408, 425, 429) or status >= 500:
        raise _CutError(said)
    if status not in (200, 206):  # some stores answer 403 for what they don't have
        raise NotThereError(f"{said} to {url}; put the file at {_final(part)} by hand")
    length = sent.partition("/")[2]
    if status == 200:
        have = 0
        length = "" if "Content-Encoding" in headers else headers.get("Content-Length", "")
    total = int(length) if length.isdigit() else None
    free = shutil.disk_usage(part.parent).free + (0 if have else _length(part))
    if total is not None and free < total - have:
        room = f"{part.parent} has room for {free / 1e9:.1f} GB"
        needed = f"{_final(part)} takes {(total - have) / 1e9:.1f} GB more"
        raise DownloadError(f"{room}, {needed}; make room and call again")
    return have, total


def _verify(file: Path, digest: str, remedy: str, check: Check | None = None) -> None:
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


def _final(part: Path) -> Path:
    return part.with_name(part.name.removesuffix(".part"))


def _length(file: Path) -> int:
    return file.stat().st_size if file.exists() else 0


def note_path(file: Path) -> Path:
    """The JSON file of what is known about a file, beside it."""
    return file.with_name(f"{file.name}.json")


def read_note(file: Path) -> dict[str, Any]:
    """What is recorded of a file; empty where nothing is, or nothing readable."""
    try:
        return dict(json.loads(note_path(file).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError, RecursionError):
        return {}


def _forget(part: Path) -> None:
    for file in (part, note_path(part)):
        file.unlink(missing_ok=True)
