"""One sentence about any exception: its likely cause and what helps. ending.py prints it."""

import re
import traceback
from contextlib import suppress
from pathlib import Path

from ccnet_lab.errors import LabError

PEER = "another of this run's processes has ended"
# What torch says (a pattern), what it means, what helps.
KNOWN = (
    (
        r"shared memory|/torch_\w*\d|bus error",
        "the workers ran out of /dev/shm",
        "enlarge it (docker run --shm-size 8g), or --workers 0",
    ),
    (
        r"dataloader worker .*(killed|exited unexpectedly)",
        "a worker was killed, by hand or because memory ran out",
        "lower --workers or --batch-size",
    ),
    (
        r"cannot allocate memory|resource temporarily unavailable|can't start new",
        "no more workers can be started",
        "lower --workers",
    ),
    (
        r"too many open files|ancdata",
        "too many files are open",
        "lower --workers, or raise `ulimit -n`",
    ),
    (
        r"more than 1 value per channel",
        "batch norm had one value per channel to train on",
        "raise --crop or --batch-size",
    ),
    (r"closed by peer|reset by peer|gloo|nccl", PEER, "see what it said"),
)


def cause(error: Exception, folder: Path | None = None) -> str:
    """One sentence on an error: its likely cause and what helps.

    An error of an unknown kind is probably a bug; its traceback is written to `folder`/error.txt.
    """
    message = str(error).strip() or type(error).__name__
    in_worker = bool(getattr(error, "__notes__", []))  # the worker's traceback
    # A worker's death can come up as our own error, while a file is written.
    if isinstance(error, LabError) and "DataLoader worker (pid" not in message:
        return f"{message}{_write_traceback(error, folder)}" if in_worker else message
    raised_in_worker = " in DataLoader worker process " in message
    message = message.splitlines()[-1] if raised_in_worker else " ".join(message.split())
    for pattern, meaning, remedy in KNOWN:
        if re.search(pattern, message, re.IGNORECASE):
            return f"{meaning} ({message[:200]}): {remedy}"
    if isinstance(error, OSError):
        return (
            f"a file could not be read or written ({message[:300]}): "
            "look at the disk, its room and its rights"
        )
    details = _write_traceback(error, folder)
    unforeseen = f"something unforeseen ({type(error).__name__}: {message[:300]}{details})"
    return f"{message}{details}" if in_worker else unforeseen


def _write_traceback(error: Exception, folder: Path | None) -> str:
    """The traceback's file as the end of a sentence; "" where none can be written."""
    if folder is None:
        return ""
    path = folder / "error.txt"
    with suppress(OSError):
        path.write_text("".join(traceback.format_exception(error)), encoding="utf-8")
        return f", details in {path}"
    return ""
