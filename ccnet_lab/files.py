"""Files: written whole or not at all, forced to disk, hashed; what stands in them is for those who call."""

import hashlib
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from safetensors import SafetensorError

from ccnet_lab.errors import LabError


def write_whole(path: Path, write: Callable[[Path], object], error: type[LabError]) -> None:
    """Let `write` fill a temporary file beside `path`, force it to disk and rename it: `path` is whole at any moment.

    Raises:
        error: it cannot be written (a full disk, say). What was there before is then untouched, as it is when `write` raises.
    """
    temporary = path.with_name(f"{path.name}.writing")
    try:
        temporary.unlink(missing_ok=True)  # of a process that was killed
        temporary.touch()
        mode = (
            temporary.stat().st_mode
        )  # what the umask makes of it; safetensors lets nobody but the owner read
        write(temporary)
        temporary.chmod(mode)
        sync(temporary)
        os.replace(temporary, path)
        sync(path.parent)
    except LabError:
        raise
    except (OSError, RuntimeError, SafetensorError) as reason:
        if not failed_to_write(reason):
            raise
        remedy = "what was there before is untouched; make room or choose another place"
        raise error(f"{path} cannot be written: {reason}; {remedy}") from reason
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def failed_to_write(error: Exception) -> bool:
    """Whether an error that came while a file was written is the file's: torch and safetensors wrap such failures.

    Others come up then, too: of a worker that was killed, of a GPU that is lost.
    """
    words = (
        "inline_container",
        "PytorchStreamWriter",
        "iostream",
        "unexpected pos",
        "No space left",
        "file write",
    )
    return isinstance(error, OSError | SafetensorError) or any(word in str(error) for word in words)


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
