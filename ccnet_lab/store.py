"""The published files on this machine: addresses, places, records of size and hash.

The folder is `$CCNET_LAB_HOME`, by default ~/.cache/ccnet_lab. `$CCNET_LAB_MIRROR` is an address
with the same files under the same names. Only `obtain` downloads, by downloads.py.
"""

import json
import os
import zipfile
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

from ccnet_lab.configs import CONFIGS, RELEASES
from ccnet_lab.downloads import NotThereError, Progress, fetch, note_path, read_note
from ccnet_lab.errors import DownloadError, MissingFileError, near
from ccnet_lab.files import sha256, write_text

MIRROR = "CCNET_LAB_MIRROR"
# SSSegmentation's mirror, for a browser only.
BY_HAND = "https://pan.baidu.com/s/1gD-NJJWOtaHCtB0qHE79rA (access code s757)"
_V1C = "https://download.openmmlab.com/pretrain/third_party"
_FOLDERS = {"checkpoint": "checkpoints", "log": "logs", "start": "imagenet"}


@dataclass(frozen=True)
class Published:
    """A published file."""

    name: str  # the key in `PUBLISHED`
    kind: str  # "checkpoint", "log" or "start" (ImageNet weights that a training starts from)
    url: str  # where it is published
    digest: str = ""  # "sha256:..." or its first digits; "" where unknown

    @property
    def file(self) -> str:
        """The file's own name."""
        return self.url.rsplit("/", 1)[1]

    @property
    def file_names(self) -> list[str]:
        """The names SSSegmentation has published it under, with `_train` and without."""
        return list(dict.fromkeys((self.file, self.file.replace("_train.", "."))))

    @property
    def places(self) -> list[Path]:
        """The paths it may have; a download gets the first."""
        return [home() / _FOLDERS[self.kind] / name for name in self.file_names]

    @property
    def path(self) -> Path:
        """Its path, or the one it will have."""
        return next((path for path in self.places if path.is_file()), self.places[0])

    @property
    def on_disk(self) -> bool:
        """Whether it is on this machine, whole."""
        return self.path.is_file()


_START = {"resnet50_v1c": "2cccc1ad", "resnet101_v1c": "e67eebb6"}  # the sha256 begins so
_FILES = [
    *(Published(name, "checkpoint", f"{RELEASES}/{name}_train.pth") for name in CONFIGS),
    *(Published(f"{name}.log", "log", f"{RELEASES}/{name}_train.log") for name in CONFIGS),
    *(Published(k, "start", f"{_V1C}/{k}-{v}.pth", f"sha256:{v}") for k, v in _START.items()),
]
PUBLISHED: Mapping[str, Published] = MappingProxyType({file.name: file for file in _FILES})


class Kept(NamedTuple):
    """A file in the folder."""

    name: str  # "" where it is not in `PUBLISHED`
    path: Path
    bytes: int
    sha256: str
    partial: bool  # whether a download of it broke off


def home() -> Path:
    """The folder of published files."""
    folder = os.environ.get("CCNET_LAB_HOME") or Path.home() / ".cache" / "ccnet_lab"
    return Path(folder).expanduser()


def find(name: str) -> Published:
    """The published file of that name; raises `MissingFileError` with the near ones."""
    if name not in PUBLISHED:
        raise MissingFileError(f"no published file is called {name!r}; {near(name, PUBLISHED)}")
    return PUBLISHED[name]


def addresses(file: Published, mirror: str = "") -> list[str]:
    """The addresses to download a file from, in the order they are tried."""
    base = (mirror or os.environ.get(MIRROR, "")).rstrip("/") or file.url.rsplit("/", 1)[0]
    return [f"{base}/{name}" for name in file.file_names]


def obtain(name: str, progress: Progress | None = None, mirror: str = "") -> Path:
    """The published file, from this machine or else from the network.

    Its size and sha256 are recorded at its first use, however it came here; from then on it must
    not change.

    Args:
        name: a key of `PUBLISHED`.
        progress: as in `downloads.fetch`.
        mirror: instead of `$CCNET_LAB_MIRROR`.

    Raises:
        MissingFileError: there is no such published file.
        DownloadError: it cannot be downloaded, with what to do by hand; or it has changed.
    """
    wanted = find(name)
    if not wanted.on_disk:
        _download(wanted, addresses(wanted, mirror), progress)
    verify(wanted.path, wanted.digest)
    return wanted.path


def _download(wanted: Published, urls: list[str], progress: Progress | None) -> None:
    """Download from the first address that has the file, and record it."""
    before = ""
    for url in urls:
        try:
            fetch(url, wanted.path, digest=wanted.digest, progress=progress, check=_plausible)
            return _record(wanted.path, url, sha256(wanted.path))
        except DownloadError as error:
            if isinstance(error, NotThereError) and url != urls[-1]:
                before = f" (before that: {str(error).partition(';')[0]})"
                continue
            others = f". Other places: --mirror, ${MIRROR}, or in a browser {BY_HAND}"
            others = "" if wanted.kind == "start" else others
            raise type(error)(f"{error}{before}{others}") from None


def verify(path: Path, digest: str = "") -> None:
    """Compare a file with its record, or record it; hashed only where size or time differ.

    Raises:
        DownloadError: it is not the file of its first use, or not the digest's.
    """
    record, status = read_note(path), path.stat()
    if (record.get("bytes"), record.get("mtime_ns")) == (status.st_size, status.st_mtime_ns):
        return
    found = sha256(path)
    for expected, whose in (
        (str(record.get("sha256", "")), "at its first use it had"),
        (digest.removeprefix("sha256:"), "expected"),
    ):
        if not found.startswith(expected):
            raise DownloadError(
                f"{path} has the sha256 {found}, {whose} {expected}; remove it and call again, or "
                f"if you have replaced it remove {note_path(path).name} beside it"
            )
    _record(path, str(record.get("url", "")), found)


def kept() -> list[Kept]:
    """The files in the folder, whole or partial, largest first."""
    names = {path: file.name for file in PUBLISHED.values() for path in file.places}
    found = []
    for path in (path for folder in _FOLDERS.values() for path in (home() / folder).glob("*")):
        if path.is_file() and not path.name.endswith((".json", ".lock", ".writing")):
            whole = path.with_name(path.name.removesuffix(".part"))
            digest = str(read_note(path).get("sha256", ""))
            size = path.stat().st_size
            found.append(Kept(names.get(whole, ""), path, size, digest, path != whole))
    return sorted(found, key=lambda file: (-file.bytes, file.path))


def remove(file: Kept) -> None:
    """Delete a file of the folder and its record."""
    for path in (file.path, note_path(file.path)):
        path.unlink(missing_ok=True)


def _plausible(path: Path) -> None:
    """Refuse a sign-in page and a checkpoint that lost its end."""
    with path.open("rb") as file:
        start = file.read(512)
    came = f"({path.stat().st_size:,} bytes)"
    if start.lstrip()[:1] == b"<":
        raise NotThereError(f"what came is a web page {came} instead of the file")
    checkpoint = path.name.removesuffix(".part").endswith(".pth")
    if checkpoint and start[:1] != b"\x80" and not zipfile.is_zipfile(path):
        raise DownloadError(f"what came {came} is no checkpoint, or one without its end")


def _record(path: Path, url: str, digest: str) -> None:
    status = path.stat()
    content = {
        "bytes": status.st_size,
        "sha256": digest,
        "mtime_ns": status.st_mtime_ns,
        "url": url,
    }
    with suppress(DownloadError):  # a shared folder that may only be read
        write_text(note_path(path), json.dumps(content, indent=1) + "\n", DownloadError)
