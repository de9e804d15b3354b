"""One archive: fetched if its parts are missing, unpacked whole or not at all. Which archives a data set needs is said in prepare.py."""

import gzip
import shutil
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import IO, NamedTuple

from ccnet_lab.downloads import fetch, progress_bar
from ccnet_lab.errors import DataError

Say = Callable[[str], None]
_DAMAGE = (
    tarfile.TarError,
    zipfile.BadZipFile,
    gzip.BadGzipFile,
    zlib.error,
    EOFError,
    RuntimeError,
)


class Archive(NamedTuple):
    """A file to fetch, and the files and folders (`parts`) that go from `inside` it to `folder` below the data root."""

    name: str
    url: str
    digest: str
    inside: str
    folder: str
    parts: tuple[str, ...]


def obtain(archive: Archive, root: Path, base_url: str = "", say: Say = print) -> None:
    """Fetch an archive into `root/downloads/` and unpack those of its parts that are missing; those that are there stay as they are.

    Raises `DownloadError` where it can't be had, `DataError` where it is damaged.
    """
    folder = root / archive.folder
    missing = [part for part in archive.parts if not (folder / part).exists()]
    if not missing:
        return say(f"{folder} has {', '.join(archive.parts)}: nothing to fetch")
    file = root / "downloads" / archive.name
    url = f"{base_url.rstrip('/')}/{archive.name}" if base_url else archive.url
    fetch(
        url,
        file,
        digest=archive.digest,
        progress=None if file.exists() else progress_bar(archive.name),
    )
    unpack(file, {f"{archive.inside}/{part}".lstrip("/"): folder / part for part in missing})
    return say(f"{folder} now has {', '.join(missing)}; {file} can be deleted")


def unpack(archive: Path, targets: dict[str, Path]) -> None:
    """Files and folders of a tar or zip to their targets; each appears under its name only when all are whole.

    Only regular files are written, and none outside its target.

    Raises:
        DataError: it is damaged, lacks a part, or holds a path that leads out of it.
        OSError: no room on the disk; what was unpacked so far is removed.
    """
    halves = {
        part: target.with_name(f".{target.name}.unpacking") for part, target in targets.items()
    }
    show, done = progress_bar(f"unpacking {archive.name}", "file"), 0
    try:
        _remove(halves.values())  # of a run that was killed
        for name, content in _members(archive):
            part = next(
                (part for part in halves if name == part or name.startswith(f"{part}/")), None
            )
            if part is None:
                continue
            below = Path(name[len(part) :].lstrip("/"))
            if below.is_absolute() or ".." in below.parts:
                raise DataError(
                    f"{archive} holds the path {name}, which leads out of it; nothing is unpacked"
                )
            file = halves[part] / below
            file.parent.mkdir(parents=True, exist_ok=True)
            with content, file.open("wb") as out:
                shutil.copyfileobj(content, out, 1 << 20)
            done += 1
            show(done, None)
        absent = [part for part, half in halves.items() if not half.exists()]
        if absent:
            raise DataError(
                f"{archive} lacks {', '.join(absent)}; is it another archive? Delete it and call again"
            )
        for part, half in halves.items():
            half.rename(targets[part])
        show(done, done)
    except _DAMAGE as error:
        raise DataError(
            f"{archive} cannot be unpacked: {error}; delete it and call again"
        ) from None
    finally:
        _remove(halves.values())


def _members(archive: Path) -> Iterator[tuple[str, IO[bytes]]]:
    """Name and content of each regular file, in the archive's order."""
    if archive.suffix == ".zip":
        with zipfile.ZipFile(archive) as packed:
            yield from (
                (info.filename, packed.open(info))
                for info in packed.infolist()
                if not info.is_dir()
            )
    else:
        with tarfile.open(archive) as tape:
            for member in tape:
                if member.isreg() and (content := tape.extractfile(member)):
                    yield member.name.removeprefix("./"), content


def _remove(paths: Iterable[Path]) -> None:
    for path in paths:
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
