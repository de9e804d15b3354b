"""What criss-cross and full attention cost on larger maps, by formula and measured here.

The formulas for one map are in model/costs.py, the figure is drawn in draw/charts.py.
"""

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ccnet_lab.model.attention import CrissCrossAttention
from ccnet_lab.model.costs import criss_cross_flops, machine, non_local_bytes, non_local_flops

# Cells, measured in the app; 97 is the published networks' side on Cityscapes.
SIDES = (16, 24, 32, 48, 64, 97)
RECURRENCES = (1, 2, 3)
FULL = "non-local"
FORMS = (*(f"R = {r}" for r in RECURRENCES), FULL)
MOST_BYTES = 2**30  # of one full attention map; its softmax needs as much again
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Growth:
    """Measured here: forward passes of one image's random features on square maps, float32."""

    sides: tuple[int, ...]  # cells
    seconds: dict[str, Floats]  # per form of `FORMS`, median; NaN where it was not measured
    machine: str  # processor and threads
    left_out: str = ""  # why something was not measured, in a sentence


def formula_growth(
    sides: Sequence[int], channels: int = 512, query_channels: int = 64
) -> dict[str, Floats]:
    """GFLOP on square maps by the authors' formula, per form of `FORMS`.

    At a side of 97: 8.29, 16.58, 24.88 and 108.16.
    """
    sizes = channels, query_channels
    flops = [[criss_cross_flops(s, s, *sizes, r) for s in sides] for r in RECURRENCES]
    flops.append([non_local_flops(s, s, *sizes) for s in sides])
    return {form: np.array(values) / 1e9 for form, values in zip(FORMS, flops, strict=True)}


def non_local_attention(step: CrissCrossAttention, x: Tensor) -> Tensor:
    """Full attention with a step's projections: x + gamma * softmax(q kᵀ) v, (B, C, H, W).

    Scores are not scaled, as in criss-cross attention. Source: Wang et al., "Non-local Neural
    Networks", CVPR 2018, embedded Gaussian.
    """
    query, key, value = (part.flatten(2) for part in step.project(x))  # (B, d or C, HW)
    weights = torch.softmax(query.mT @ key, dim=-1)  # (B, HW, HW), rows sum to 1
    return x + step.gamma * (value @ weights.mT).view_as(x)


def measure_growth(
    sides: Sequence[int] = SIDES,
    channels: int = 512,
    query_channels: int = 64,
    *,
    repeats: int = 3,
    budget_seconds: float = 20.0,
    most_bytes: int = MOST_BYTES,
    progress: Callable[[int, int], None] | None = None,
) -> Growth:
    """Time the forms in turn, side after side, the smallest first.

    Args:
        sides: cells. channels, query_channels: C and d.
        repeats: rounds per side, 1 or more, else `ValueError`; the median counts.
        budget_seconds: for everything, by the last times and the formula. A side gets fewer rounds
            so that each side after it gets one; else full attention, then everything is left out.
        most_bytes: of a full attention map; above it full attention is left out.
        progress: called with (rounds done, rounds in all) before each round.
    """
    if repeats < 1:
        raise ValueError(f"repeats is {repeats}; expected 1 or more")
    sides, going = tuple(sorted(sides)), list(FORMS)
    torch.manual_seed(0)
    step = CrissCrossAttention(channels, query_channels, gamma=1.0)
    gflop = formula_growth(sides, channels, query_channels)
    seconds = {name: np.full(len(sides), np.nan) for name in FORMS}
    fits = [non_local_bytes(side, side) <= most_bytes for side in sides]
    until, left_out = time.perf_counter() + budget_seconds, []

    def in_time(which: Sequence[int], known: int) -> bool:
        """Whether one round on each of these sides ends in time, judged by the side `known`."""
        rounds = [(name, j) for name in going for j in which if name != FULL or fits[j]]
        expected = sum(seconds[n][known] * gflop[n][j] / gflop[n][known] for n, j in rounds)
        return bool(time.perf_counter() + expected < until)

    too_long = f"it would take more than {budget_seconds:g} s"
    for k, side in enumerate(sides):
        if FULL in going and not (fits[k] and (not k or in_time([k], k - 1))):
            going.remove(FULL)
            gib = non_local_bytes(side, side) / 2**30
            why = too_long if fits[k] else f"its map would take {gib:.2g} GiB"
            left_out.append(f"{FULL} from {side} x {side} cells on: {why}")
        if k and not in_time([k], k - 1):
            left_out.append(f"everything from {side} x {side} cells on: {too_long}")
            break
        x = torch.randn(1, channels, side, side)
        x = x.contiguous(memory_format=torch.channels_last)
        for name in () if k else going:  # the first calls start threads and choose kernels
            _time(step, name, x)
        times: dict[str, list[float]] = {name: [] for name in going}
        for turn in range(repeats):
            if turn and not in_time(range(k, len(sides)), k):
                break
            if progress is not None:
                progress(k * repeats + turn, len(sides) * repeats)
            for name, found in times.items():
                found.append(_time(step, name, x))
                seconds[name][k] = statistics.median(found)
    return Growth(sides, seconds, machine("cpu"), "; ".join(left_out))


@torch.inference_mode()
def _time(step: CrissCrossAttention, form: str, x: Tensor) -> float:
    start = time.perf_counter()
    if form == FULL:
        x = non_local_attention(step, x)
    else:
        for _ in range(RECURRENCES[FORMS.index(form)]):
            x = step(x)
    return time.perf_counter() - start
