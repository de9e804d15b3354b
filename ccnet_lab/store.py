"""Store: the published files that are kept on this machine: addresses, places, records of size and hash. Transfers are downloads.py's.

The folder is `$CCNET_LAB_HOME`, by default ~/.cache/ccnet_lab. `$CCNET_LAB_MIRROR` is an address that holds the same files under the same
names and is asked instead of the published ones. Nothing is downloaded but by `obtain`.
"""

import json
import os
import time
import zipfile
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from ccnet_lab.configs import CONFIGS, RELEASES
from ccnet_lab.downloads import Progress, fetch, note_path, read_note
from ccnet_lab.errors import DownloadError, MissingFileError, NotThereError, near
from ccnet_lab.files import sha256, write_text

_V1C = "https://download.openmmlab.com/pretrain/third_party"
MIRROR = "CCNET_LAB_MIRROR"
BY_HAND = "https://pan.baidu.com/s/1gD-NJJWOtaHCtB0qHE79rA (access code s757)"  # SSSegmentation's mirror, for a browser only


@dataclass(frozen=True)
class Published:
    """A file that was published."""

    name: str  # what it is asked for by
    kind: str  # "checkpoint", "log" or "start" (ImageNet weights that a training starts from)
    url: str  # where it is published
    digest: str = ""  # "sha256:..." or its first digits; "" where none is known

    @property
    def file(self) -> str:
        """The file's own name."""
        return self.url.rsplit("/", 1)[1]

    @property
    def places(self) -> tuple[Path, ...]:
        """Where it may lie: under the name it is downloaded as, or the other one it was published under, without `_train`."""
        return tuple(
            home() / _FOLDERS[self.kind] / name for name in dict.fromkeys(both_names(self.file))
        )

    @property
    def path(self) -> Path:
        """Where it is kept, or will be."""
        return next((path for path in self.places if path.is_file()), self.places[0])

    @property
    def on_disk(self) -> bool:
        """Whether it is there, whole."""
        return self.path.is_file()


_FOLDERS = {"checkpoint": "checkpoints", "log": "logs", "start": "imagenet"}


_DIGITS = {
    50: "2cccc1ad",
    101: "e67eebb6",
}  # in the names of the start weights; they begin the file's sha256
_FILES = [
    *(Published(name, "checkpoint", f"{RELEASES}/{name}_train.pth") for name in CONFIGS),
    *(Published(f"{name}.log", "log", f"{RELEASES}/{name}_train.log") for name in CONFIGS),
    *(
        Published(
            f"resnet{n}_v1c", "start", f"{_V1C}/resnet{n}_v1c-{digits}.pth", f"sha256:{digits}"
        )
        for n, digits in _DIGITS.items()
    ),
]
PUBLISHED: Mapping[str, Published] = MappingProxyType({file.name: file for file in _FILES})


@dataclass(frozen=True)
class Kept:
    """A file in the folder: of a `Published` name or "" for another; bytes, the sha256 on record, whether it came only in part."""

    name: str
    path: Path
    bytes: int
    sha256: str
    partial: bool


def home() -> Path:
    """Where published files are kept: `$CCNET_LAB_HOME`, by default ~/.cache/ccnet_lab."""
    return Path(
        os.environ.get("CCNET_LAB_HOME") or Path.home() / ".cache" / "ccnet_lab"
    ).expanduser()


def find(name: str) -> Published:
    """The published file of that name; raises `MissingFileError` with the near ones."""
    if name not in PUBLISHED:
        raise MissingFileError(f"no published file is called {name!r}; {near(name, PUBLISHED)}")
    return PUBLISHED[name]


def addresses(file: Published, mirror: str = "") -> list[str]:
    """Where the file would be downloaded from, in this order: the name in this project's source document, then the publisher's of today."""
    base = (mirror or os.environ.get(MIRROR, "")).rstrip("/") or file.url.rsplit("/", 1)[0]
    return [f"{base}/{name}" for name in dict.fromkeys(both_names(file.file))]


def both_names(file: str) -> tuple[str, str]:
    """The two names under which SSSegmentation has published a file; the same twice where it is another's."""
    return file, file.replace("_train.", ".")


def obtain(name: str, progress: Progress | None = None, mirror: str = "") -> Path:
    """The published file, from this machine or else from the network.

    A file's size and sha256 are recorded when it is first used, however it came there; from then on it must stay as it is.

    Args:
        name: a key of `PUBLISHED`.
        progress: as in `downloads.fetch`.
        mirror: an address with the same files, instead of `$CCNET_LAB_MIRROR` and the published one.

    Raises:
        MissingFileError: there is no such published file.
        DownloadError: not on disk and not to be had, with what to do by hand; or not the file that was recorded.
    """
    wanted = find(name)
    if not wanted.on_disk:
        url = _download(wanted, addresses(wanted, mirror), progress)
        _record(wanted.path, url, sha256(wanted.path))
    verify(wanted.path, wanted.digest)
    return wanted.path


def _download(wanted: Published, urls: list[str], progress: Progress | None) -> str:
    """The file, from the first address that has it; returns that one."""

    def fetched(url: str) -> str:
        fetch(url, wanted.path, digest=wanted.digest, progress=progress, check=_plausible)
        return url

    *before, last = urls
    first = ""
    try:
        for url in before:
            try:
                return fetched(url)
            except NotThereError as error:
                first = str(error).partition(";")[0]
        return fetched(last)
    except DownloadError as error:
        neither = f" (before that: {first})" if first else ""
        others = (
            ""
            if wanted.kind == "start"
            else f". Other places: --mirror, ${MIRROR}, or in a browser {BY_HAND}"
        )
        raise type(error)(f"{error}{neither}{others}") from None


def verify(path: Path, digest: str = "") -> None:
    """Hold a kept file against its record, or record it; a file that looks untouched is not read again.

    Raises:
        DownloadError: it is another file than at its first use, or than the digest (as in `Published`) says.
    """
    record, status = read_note(path), path.stat()
    if record and (record.get("bytes"), record.get("mtime_ns")) == (
        status.st_size,
        status.st_mtime_ns,
    ):
        return
    found = sha256(path)
    for expected, whose in (
        (str(record.get("sha256", "")), "at its first use it had"),
        (digest.removeprefix("sha256:"), "expected"),
    ):
        if not found.startswith(expected):
            remedy = f"if you have replaced it, remove {note_path(path).name} beside it, else remove the file and call again"
            raise DownloadError(f"{path} has the sha256 {found}, {whose} {expected}; {remedy}")
    _record(path, str(record.get("url", "")), found)


def kept() -> list[Kept]:
    """What lies in the folder, whole or in part, largest first."""
    names = {path: file.name for file in PUBLISHED.values() for path in file.places}
    found = []
    for path in (
        path for folder in _FOLDERS.values() for path in sorted((home() / folder).glob("*"))
    ):
        if path.is_file() and not path.name.endswith((".json", ".lock", ".writing")):
            whole = path.with_name(path.name.removesuffix(".part"))
            found.append(
                Kept(
                    names.get(whole, ""),
                    path,
                    path.stat().st_size,
                    str(read_note(path).get("sha256", "")),
                    path != whole,
                )
            )
    return sorted(found, key=lambda file: -file.bytes)


def remove(file: Kept) -> None:
    """Delete a kept file and what was noted of it."""
    for path in (file.path, note_path(file.path)):
        path.unlink(missing_ok=True)


def _plausible(path: Path) -> None:
    """Refuse what is no such file although the host said so: a sign-in page, a file that lost its end."""
    with path.open("rb") as file:
        start = file.read(512)
    if start.lstrip()[:1] == b"<":
        raise NotThereError(
            f"what came is a web page ({path.stat().st_size:,} bytes) instead of the file"
        )
    if (
        path.name.removesuffix(".part").endswith(".pth")
        and start[:1] != b"\x80"
        and not zipfile.is_zipfile(path)
    ):
        raise DownloadError(
            f"what came ({path.stat().st_size:,} bytes) is no checkpoint, or one without its end"
        )


def _record(path: Path, url: str, digest: str) -> None:
    status, day = path.stat(), time.strftime("%Y-%m-%d")
    content = {
        "bytes": status.st_size,
        "sha256": digest,
        "mtime_ns": status.st_mtime_ns,
        "url": url,
        "first_used": day,
    }
    with suppress(
        DownloadError
    ):  # a folder that is shared and only to be read: nothing to record there
        write_text(note_path(path), json.dumps(content, indent=1) + "\n", DownloadError)
