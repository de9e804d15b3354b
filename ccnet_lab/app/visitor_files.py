"""Files written for visitors, under random names: nothing that they send is part of a path."""

import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ccnet_lab.errors import ImageError


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
    copy = new_folder(folder, "uploads") / "upload"
    shutil.copyfile(path, copy)
    superseded = copy
    try:
        yield str(copy)
        superseded = Path(before)
    except ImageError as error:  # the visitor knows the file by another name
        raise ImageError(str(error).replace(copy.name, Path(path).name, 1)) from None
    finally:
        if superseded.parent.parent == folder / "uploads":
            shutil.rmtree(superseded.parent, ignore_errors=True)
