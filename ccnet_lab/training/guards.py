"""What surrounds a training: signals and failures of memory or compiler turned into an orderly end. The training itself is in loop.py."""

import ctypes
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import torch

from ccnet_lab.configs import Config
from ccnet_lab.errors import LabError, MemoryShortError, TrainingError

BUSY = 75  # exit code of a run that another process holds: EX_TEMPFAIL of sysexits.h
# What tells a run to stop: a scheduler's SIGTERM, Ctrl-C, and the two that Slurm sends before the time is up.
SIGNALS = [getattr(signal, name) for name in ("SIGTERM", "SIGINT", "SIGUSR1", "SIGUSR2") if hasattr(signal, name)]
ONE_TELLING = 3.0  # seconds: a terminal, a scheduler and a parent process often tell the same thing twice


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
            mallopt, trim_threshold, top_pad, mmap_threshold = ctypes.CDLL("libc.so.6").mallopt, -1, -2, -3  # numbers of malloc.h
            for option, value in ((mmap_threshold, 2**25), (trim_threshold, 2**31 - 1), (top_pad, 2**28)):
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


def out_of_memory(error: Exception) -> bool:
    """Whether an error says that memory ran out, a GPU's or the machine's; not one of ours, which has advice of its own."""
    known = ("out of memory", "allocate memory", "alloc_failed")
    said = isinstance(error, torch.OutOfMemoryError | MemoryError) or any(word in str(error).lower() for word in known)
    return said and not isinstance(error, LabError)


def set_arithmetic(deterministic: bool = False) -> None:
    """TF32 off, as the published runs have it; deterministic algorithms by choice."""
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    torch.backends.cudnn.benchmark = not deterministic
    torch.use_deterministic_algorithms(deterministic)
