"""What can interrupt a training: signals and lack of memory, turned into an orderly end. The training itself is in loop.py."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from ccnet_lab.configs import Config
from ccnet_lab.errors import MemoryShortError
from ccnet_lab.training.settings import Settings


class Stopped(Exception):  # noqa: N818, no error: the run was told to stop, and is saved
    """SIGTERM or Ctrl-C came; `number` is the signal's. The run can be resumed."""

    def __init__(self, number: int, step: int) -> None:
        super().__init__(f"stopped at step {step} and saved; go on with --resume")
        self.number = number


@contextmanager
def interruptible() -> Iterator[list[int]]:
    """Collect SIGTERM and SIGINT in a list instead of dying of them; a second one of a kind acts as usual."""
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
def memory_advice(config: Config, settings: Settings) -> Iterator[None]:
    """Turn running out of memory into an error that says what to lower."""
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError) as error:
        raise MemoryShortError(
            f"out of memory with a batch of {config.batch_size} in {settings.accumulate} micro-batches and crops of "
            f"{config.crop_size[0]} x {config.crop_size[1]}: raise --accumulate (the batch stays the same), or lower "
            f"--batch-size or --crop "
            f"({str(error).splitlines()[0] if str(error) else 'no more is known'})"
        ) from None
