"""Files written whole or not at all, and hashed; their content is up to the callers."""

import hashlib
import os
import re
import zipfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from ccnet_lab.errors import LabError

UNPACKED, TIMES = 100_000_000, 10  # bytes that a zip may hold in any case, and times its own size
PICKLED = 1_000_000  # bytes that a pickle in it may take in any case
# What torch's messages contain when a file could not be written.
_TORCH_WRITING = "inline_container|PytorchStreamWriter|iostream|unexpected pos|No space|file write"


def write_whole(path: Path, write: Callable[[Path], object], error: type[LabError]) -> None:
    """Let `write` fill a temporary file beside `path`, sync it to disk and rename it.

    Raises:
        error: it cannot be written (a full disk, say). What was there before is then untouched, as
            it is when `write` raises.
    """
    temporary = path.with_name(f"{path.name}.writing")
    try:
        temporary.unlink(missing_ok=True)  # of a process that was killed
        temporary.touch()
        mode = temporary.stat().st_mode  # by the umask; safetensors makes its files private
        write(temporary)
        temporary.chmod(mode)
        sync(temporary)
        os.replace(temporary, path)
        sync(path.parent)
    except LabError:
        raise
    except Exception as reason:
        if not failed_to_write(reason):
            raise
        remedy = "what was there before is untouched; make room or choose another place"
        raise error(f"{path} cannot be written: {reason}; {remedy}") from reason
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def failed_to_write(error: Exception) -> bool:
    """Whether an error means that a file could not be written; torch and safetensors wrap those."""
    if isinstance(error, RuntimeError):
        return re.search(_TORCH_WRITING, str(error)) is not None
    return isinstance(error, OSError) or type(error).__name__ == "SafetensorError"


def write_text(path: Path, text: str, error: type[LabError]) -> None:
    """`write_whole` of a text file, UTF-8."""
    write_whole(path, lambda temporary: temporary.write_text(text, encoding="utf-8"), error)


def sync(path: Path) -> None:
    """Force a file, or a folder's list of names, to disk."""
    if path.is_dir() and os.name != "posix":  # cannot be opened there
        return
    descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sha256(path: Path) -> str:
    """Of a file's content, in hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def refuse_bomb(path: Path, error: type[LabError]) -> None:
    """Raise `error` for a zip (also .npz and torch's files) that would fill the memory.

    That is, whose members say that they take more than 100 MB and ten times the file's size.
    """
    try:
        with zipfile.ZipFile(path) as packed:
            members = packed.infolist()
        size = sum(info.file_size for info in members)
    except Exception:  # damaged in one of many ways, which whoever reads it describes
        return
    most = max(UNPACKED, TIMES * path.stat().st_size)
    if size > most:
        what = f"{path.name} has {path.stat().st_size:,} bytes and unpacks to {size:,}"
        raise error(f"{what}; at most {most:,} are read, so it is damaged or made to do harm")
    for info in members:  # a pickle takes a hundred times its size as objects
        if info.filename.endswith(".pkl") and info.file_size > max(
            PICKLED, TIMES * info.compress_size
        ):
            what = f"{info.filename} in {path.name} unpacks from {info.compress_size:,} bytes to"
            raise error(f"{what} {info.file_size:,}, so it is damaged or made to do harm")
