"""Interleaved timing of several forms of the same work, and the commit that was timed."""

import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import NamedTuple

import numpy as np
import torch


class Times(NamedTuple):
    """Median seconds, and the range of the middle half of the measurements over the median."""

    median: float
    spread: float


def summary(seconds: Sequence[float]) -> Times:
    """Median and spread of measurements."""
    low, median, high = np.quantile(seconds, (0.25, 0.5, 0.75))
    return Times(float(median), float((high - low) / median))


def side_by_side(
    forms: Mapping[str, Callable[[], object]], repeats: int, device: torch.device, warm_up: int = 1
) -> dict[str, Times]:
    """Wall-clock seconds of one call of each form, the device's work included.

    The forms run in turn, `repeats` times after the warm-up.
    """
    found: dict[str, list[float]] = {name: [] for name in forms}
    for round_ in range(warm_up + repeats):
        for name, form in forms.items():
            start = time.perf_counter()
            form()
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            if round_ >= warm_up:
                found[name].append(time.perf_counter() - start)
    return {name: summary(seconds) for name, seconds in found.items()}


def commit() -> str:
    """The working tree's commit, and whether there are changes to it; "" without git."""
    describe = ["git", "describe", "--always", "--exclude=*", "--dirty= and uncommitted changes"]
    with suppress(OSError):
        return subprocess.run(describe, capture_output=True, text=True, check=False).stdout.strip()
    return ""
