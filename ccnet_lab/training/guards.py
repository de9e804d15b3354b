"""What surrounds a training: signals and lack of memory turned into an orderly end, memory kept. The training itself is in loop.py."""

import ctypes
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from ccnet_lab.configs import Config
from ccnet_lab.errors import MemoryShortError

BUSY = 75  # exit code of a run that another process holds: EX_TEMPFAIL of sysexits.h


class Stopped(Exception):  # noqa: N818, no error: the run was told to stop, and is saved
    """SIGTERM or Ctrl-C came; `number` is the signal's. The run can be resumed."""

    def __init__(self, number: int, what: str) -> None:
        super().__init__(what)
        self.number = number


def keep_freed_memory() -> None:
    """Tell glibc to keep freed memory instead of handing every tensor back to the system: page faults cost more than convolutions.

    Training on a CPU only. Elsewhere than on glibc nothing happens.
    """
    if sys.platform != "linux":
        return
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):
        return
    for option, value in ((_MMAP_THRESHOLD, 2**25), (_TRIM_THRESHOLD, 2**31 - 1), (_TOP_PAD, 2**28)):
        mallopt(option, value)


_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD = -1, -2, -3  # of malloc.h


@contextmanager
def orderly() -> Iterator[None]:
    """Let SIGTERM and Ctrl-C raise `Stopped` where nothing needs saving: before the first step and after the last."""

    def stop(number: int, _: Any) -> None:
        raise Stopped(number, "stopped; nothing is lost, go on with --resume")

    before: dict[int, Any] = {int(number): signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def interruptible() -> Iterator[list[int]]:
    """Collect SIGTERM and SIGINT in a list, to be acted on between two steps; a second one of a kind acts as it did before."""
    received: list[int] = []

    def note(number: int, _: Any) -> None:
        received.append(number)
        signal.signal(number, before[number])

    before: dict[int, Any] = {int(number): signal.signal(number, note) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def memory_advice(config: Config, accumulate: int) -> Iterator[None]:
    """Turn running out of memory into an error that says what to lower."""
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError) as error:
        raise MemoryShortError(
            f"out of memory with a batch of {config.batch_size} in {accumulate} micro-batches and crops of "
            f"{config.crop_size[0]} x {config.crop_size[1]}: raise --accumulate (the batch stays the same), or lower "
            f"--batch-size or --crop "
            f"({str(error).splitlines()[0] if str(error) else 'no more is known'})"
        ) from None
