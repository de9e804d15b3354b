"""Signals, running out of memory and compiler failures, turned into an orderly end of a run.

The training itself is in loop.py; the sentence on any other exception in ccnet_lab/causes.py.
"""

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from ccnet_lab.configs import Config
from ccnet_lab.device import out_of_memory
from ccnet_lab.errors import DeviceError, RunError

BUSY = 75  # exit code of a run that another process holds: EX_TEMPFAIL of sysexits.h
# A scheduler's SIGTERM, Ctrl-C, a terminal that is closed, the two that Slurm sends before the end.
_NAMES = ("SIGTERM", "SIGINT", "SIGHUP", "SIGUSR1", "SIGUSR2")
SIGNALS = [getattr(signal, name) for name in _NAMES if hasattr(signal, name)]
REPEAT = 3.0  # seconds in which a repeated signal counts as the same: terminal and parent both send


class Stopped(BaseException):
    """A signal (its `number`) ended the run, which can be resumed.

    Not an `Exception`, so that no handler takes it for a fault.
    """

    def __init__(self, number: int, what: str) -> None:
        super().__init__(what)
        self.number = number


@contextmanager
def orderly() -> Iterator[None]:
    """Let signals raise `Stopped` where nothing needs saving: before and after the steps."""

    def stop(number: int, _: Any) -> None:
        raise Stopped(number, "stopped; nothing is lost, continue with --resume")

    with handling(stop):
        yield


@contextmanager
def interruptible() -> Iterator[list[int]]:
    """Collect signals in a list, to be acted on between two steps.

    One that is repeated after `REPEAT` seconds acts as it did before.
    """
    received: list[int] = []
    first: dict[int, float] = {}

    def note(number: int, frame: Any) -> None:
        now = time.monotonic()
        if now - first.setdefault(number, now) > REPEAT:
            signal.signal(number, before[number])
            before[number](number, frame)
        received.append(number)

    with handling(note) as before:
        yield received


@contextmanager
def handling(handler: Callable[[int, Any], None]) -> Iterator[dict[int, Any]]:
    """Handle `SIGNALS` with `handler`; yields the handlers before, which are restored.

    A closed terminal is ignored where it was before, as `nohup` has it.
    """
    before: dict[int, Any] = {
        int(number): signal.signal(number, handler)
        for number in SIGNALS
        if number.name != "SIGHUP" or signal.getsignal(number) != signal.SIG_IGN
    }
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
        height, width = config.crop_size
        reason = (str(error).splitlines() or ["no more is known"])[0]
        raise DeviceError(
            f"out of memory with a batch of {config.batch_size} in {accumulate} micro-batches "
            f"and crops of {height} x {width}: raise --accumulate (the batch stays the same), "
            f"or lower --batch-size or --crop ({reason})"
        ) from None


@contextmanager
def compile_advice() -> Iterator[None]:
    """Turn a failure of torch.compile into an error that says how to go on."""
    try:
        yield
    except RuntimeError as error:
        if not type(error).__module__.startswith(("torch._dynamo", "torch._inductor")):
            raise
        raise RunError(
            f"torch.compile does not work here ({' '.join(str(error).split())[:300]}). It needs "
            "a C++ compiler such as g++, and on CUDA Triton; leave --compile out to train "
            "without, with --resume where the run has begun"
        ) from None
