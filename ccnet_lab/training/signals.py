"""What surrounds a training: signals and failures of memory or compiler turned into an orderly end. The training itself is in loop.py."""

import ctypes
import re
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from ccnet_lab.configs import Config
from ccnet_lab.device import out_of_memory
from ccnet_lab.errors import LabError, MemoryShortError, TrainingError

BUSY = 75  # exit code of a run that another process holds: EX_TEMPFAIL of sysexits.h
# What tells a run to stop: a scheduler's SIGTERM, Ctrl-C, and the two that Slurm sends before the time is up.
SIGNALS = [
    getattr(signal, name)
    for name in ("SIGTERM", "SIGINT", "SIGUSR1", "SIGUSR2")
    if hasattr(signal, name)
]
ONE_TELLING = (
    3.0  # seconds: a terminal, a scheduler and a parent process often tell the same thing twice
)


class Stopped(BaseException):
    """SIGTERM or Ctrl-C came; `number` is the signal's. The run can be resumed. No `Exception`, so that no handler takes it for a fault."""

    def __init__(self, number: int, what: str) -> None:
        super().__init__(what)
        self.number = number


def keep_freed_memory() -> None:
    """Tell glibc to keep freed memory instead of handing every tensor back to the system, since fresh pages cost time.

    Steps of the street model on one CPU thread became 1.15 to 1.25 times faster. Elsewhere than on glibc nothing happens.
    """
    if sys.platform == "linux":
        with suppress(OSError, AttributeError):
            mallopt, trim_threshold, top_pad, mmap_threshold = (
                ctypes.CDLL("libc.so.6").mallopt,
                -1,
                -2,
                -3,
            )  # numbers of malloc.h
            for option, value in (
                (mmap_threshold, 2**25),
                (trim_threshold, 2**31 - 1),
                (top_pad, 2**28),
            ):
                mallopt(option, value)


@contextmanager
def orderly() -> Iterator[None]:
    """Let the signals raise `Stopped` where nothing needs saving: before the first step and after the last."""

    def stop(number: int, _: Any) -> None:
        raise Stopped(number, "stopped; nothing is lost, go on with --resume")

    with handling(stop):
        yield


@contextmanager
def interruptible() -> Iterator[list[int]]:
    """Collect the signals in a list, to be acted on between two steps; one that comes again after a while acts as it did before."""
    received: list[int] = []
    first: dict[int, float] = {}

    def note(number: int, frame: Any) -> None:
        if time.monotonic() - first.setdefault(number, time.monotonic()) > ONE_TELLING:
            signal.signal(number, before[number])
            before[number](number, frame)
        received.append(number)

    with handling(note) as before:
        yield received


@contextmanager
def handling(handler: Callable[[int, Any], None]) -> Iterator[dict[int, Any]]:
    """Handle the signals so; gives what handled them before."""
    before: dict[int, Any] = {int(number): signal.signal(number, handler) for number in SIGNALS}
    try:
        yield before
    finally:
        for number, earlier in before.items():
            signal.signal(number, earlier)


@contextmanager
def memory_advice(config: Config, accumulate: int) -> Iterator[None]:
    """Turn running out of memory into an error that says what to lower."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not out_of_memory(error):
            raise
        raise MemoryShortError(
            f"out of memory with a batch of {config.batch_size} in {accumulate} micro-batches and crops of "
            f"{config.crop_size[0]} x {config.crop_size[1]}: raise --accumulate (the batch stays the same), or lower "
            f"--batch-size or --crop ({str(error).splitlines()[0] if str(error) else 'no more is known'})"
        ) from None


@contextmanager
def compile_advice() -> Iterator[None]:
    """Turn a failure of torch.compile into an error that says how to go on."""
    try:
        yield
    except RuntimeError as error:
        if not type(error).__module__.startswith(("torch._dynamo", "torch._inductor")):
            raise
        raise TrainingError(
            f"torch.compile does not work here ({' '.join(str(error).split())[:300]}). It wants a C++ compiler such as g++, and on CUDA "
            "Triton; leave --compile out to train without, with --resume where the run has begun"
        ) from None


PEER = "another of this run's processes has ended"
# What torch says (a pattern), what it means, what helps.
FAULTS = (
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

    What is of no known kind has its traceback in `folder`/error.txt, and is a fault of this library more likely than not.
    """
    details = ""
    notes = getattr(error, "__notes__", [])  # the traceback in a worker
    said = str(error).strip() or type(error).__name__
    if (
        not isinstance(error, LabError) or "DataLoader worker (pid" in said
    ):  # whose end can come up while a file is written
        said = (
            said.splitlines()[-1]
            if " in DataLoader worker process " in said
            else " ".join(said.split())
        )  # that of the worker's error
        for words, what, remedy in FAULTS:
            if re.search(words, said, re.IGNORECASE):
                return f"{what} ({said[:200]}): {remedy}"
        if isinstance(error, OSError):
            return f"a file could not be read or written ({said[:300]}): look at the disk, its room and its rights"
    elif not notes:
        return said
    if folder is not None:
        with suppress(OSError):
            (folder / "error.txt").write_text(
                "".join(traceback.format_exception(error)), encoding="utf-8"
            )
            details = f", details in {folder / 'error.txt'}"
    return (
        f"{said}{details}"
        if notes
        else f"something unforeseen ({type(error).__name__}: {said[:300]}{details})"
    )
