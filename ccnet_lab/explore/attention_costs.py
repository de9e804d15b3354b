"""How criss-cross and full attention grow with the feature map: by formula and measured on this machine; drawn in curves.py."""

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ccnet_lab.model.attention import CrissCrossAttention
from ccnet_lab.model.costs import machine
from ccnet_lab.model.flops import (
    criss_cross_bytes,
    criss_cross_flops,
    non_local_bytes,
    non_local_flops,
)

SIDES = (
    16,
    24,
    32,
    48,
    64,
    97,
)  # measured in the app; 97 is the published networks' side on Cityscapes
RECURRENCES = (1, 2, 3)
FULL = "non-local"
FORMS = (*(f"R = {r}" for r in RECURRENCES), FULL)
MOST_BYTES = 2**30  # of one full attention map; twice that is needed while its softmax is taken
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Formula:
    """By formula, on square maps: sides in cells; GFLOP and bytes of the attention weights of all steps, float32, per form of `FORMS`."""

    sides: tuple[int, ...]
    gflop: dict[str, Floats]
    bytes: dict[str, Floats]


@dataclass(frozen=True)
class Growth:
    """Measured on this machine, on square maps of random features, float32, one image, forward pass."""

    sides: tuple[int, ...]  # cells
    seconds: dict[str, Floats]  # per form of `FORMS`, median; NaN where it was not measured
    machine: str  # processor and threads, or the GPU
    left_out: str = ""  # why something was not measured, in a sentence


def formula_growth(sides: Sequence[int], channels: int = 512, query_channels: int = 64) -> Formula:
    """The authors' formula and the size of the weights; at 97: 8.29, 16.58, 24.88 and 108.16 GFLOP."""
    sizes = channels, query_channels
    gflop = {
        f"R = {r}": np.array([criss_cross_flops(s, s, *sizes, r) / 1e9 for s in sides])
        for r in RECURRENCES
    }
    gflop[FULL] = np.array([non_local_flops(s, s, *sizes) / 1e9 for s in sides])
    size = {
        f"R = {r}": np.array([float(r * criss_cross_bytes(s, s)) for s in sides])
        for r in RECURRENCES
    }
    size[FULL] = np.array([float(non_local_bytes(s, s)) for s in sides])
    return Formula(tuple(sides), gflop, size)


def non_local_attention(step: CrissCrossAttention, x: Tensor) -> Tensor:
    """Full attention, x + gamma * softmax(q kᵀ) v over all pixels, with a criss-cross step's projections: (B, C, H, W) -> (B, C, H, W).

    Scores are not scaled, as in criss-cross attention. Source: Wang et al., "Non-local Neural Networks", CVPR 2018, embedded Gaussian.
    """
    query, key, value = (
        part.flatten(2) for part in step.project(x)
    )  # (B, d, HW), (B, d, HW), (B, C, HW)
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
    device: str = "cpu",
    progress: Callable[[int, int], None] | None = None,
) -> Growth:
    """Time the forms in turn, side after side, the smallest first.

    Args:
        sides: of the square feature maps, cells. channels, query_channels: C and d.
        repeats: rounds per side, 1 or more (else `ValueError`); the median counts.
        budget_seconds: for everything, as far as the last times and the formula can tell. A side gets fewer rounds where there would
            be no time left for one on each side after it. Where not even one round of a side would be done in time, full attention is
            left out from there on, and if that is not enough, everything.
        most_bytes: full attention is left out where one of its maps would be larger.
        device: "cpu", "cuda", ...
        progress: called with (rounds done, rounds in all) before each; what it raises ends the measurement.
    """
    if repeats < 1:
        raise ValueError(f"repeats is {repeats}; expected 1 or more")
    sides, going = tuple(sorted(sides)), list(FORMS)
    torch.manual_seed(0)
    step = CrissCrossAttention(channels, query_channels, gamma=1.0).to(device)
    gflop = formula_growth(sides, channels, query_channels).gflop
    seconds = {name: np.full(len(sides), np.nan) for name in FORMS}
    fits = [non_local_bytes(side, side) <= most_bytes for side in sides]
    until, left_out = time.perf_counter() + budget_seconds, []

    def in_time(which: Sequence[int], known: int) -> bool:
        """Whether one round on each of these sides ends in time, by the times on the side `known` and the formula."""
        timed = ((name, j) for j in which for name in going if name != FULL or fits[j])
        expected = sum(
            seconds[name][known] * gflop[name][j] / gflop[name][known] for name, j in timed
        )
        return bool(time.perf_counter() + expected < until)

    for k, side in enumerate(sides):
        if FULL in going and not (fits[k] and (not k or in_time([k], k - 1))):
            going.remove(FULL)
            size = non_local_bytes(side, side) / 2**30
            why = (
                f"it would take more than {budget_seconds:g} s"
                if fits[k]
                else f"its map would take {size:.2g} GiB"
            )
            left_out.append(f"{FULL} from {side} x {side} cells on: {why}")
        if k and not in_time([k], k - 1):
            left_out.append(
                f"everything from {side} x {side} cells on: it would take more than {budget_seconds:g} s"
            )
            break
        x = torch.randn(1, channels, side, side, device=device).contiguous(
            memory_format=torch.channels_last
        )
        if not k:  # the first calls start threads and choose kernels
            for name in going:
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
    return Growth(sides, seconds, machine(device), "; ".join(left_out))


@torch.inference_mode()
def _time(step: CrissCrossAttention, form: str, x: Tensor) -> float:
    start = time.perf_counter()
    if form == FULL:
        x = non_local_attention(step, x)
    else:
        for _ in range(RECURRENCES[FORMS.index(form)]):
            x = step(x)
    if x.is_cuda:
        torch.cuda.synchronize(x.device)
    return time.perf_counter() - start
