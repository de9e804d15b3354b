"""Throughput: images per second and memory of whole training steps on made-up batches, ours and the published mode, side by side."""

import gc
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from itertools import product
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ccnet_lab.configs import Config, get_config
from ccnet_lab.data.batches import Batch, training_batches
from ccnet_lab.data.catalog import IGNORE
from ccnet_lab.data.datasets import Split
from ccnet_lab.device import has_bf16, set_arithmetic
from ccnet_lab.errors import MemoryShortError
from ccnet_lab.model.attention import CrissCrossAttention, criss_cross_attention_plain
from ccnet_lab.model.ccnet import CCNet, build_model
from ccnet_lab.training.distributed import Processes
from ccnet_lab.training.estimates import estimate
from ccnet_lab.training.signals import memory_advice
from ccnet_lab.training.step import Stepper

PROBE = (
    "ccnet_resnet50os16_voc",
    (256, 256),
)  # configuration and crop of `probe`: seconds on a CPU, enough work to fill a GPU
# Published: see `_published`. Ours: the step that loop.py makes, in bf16 where the device has units for it; then the same compiled.
MODES = ("published", "ours", "compiled")
WARM_UP = 2  # steps


class Times(NamedTuple):
    """Seconds: the median, and the spread: the range of the middle half of the measurements, as a share of the median."""

    median: float
    spread: float


def summary(seconds: Sequence[float]) -> Times:
    """Median and spread of measurements."""
    low, median, high = np.quantile(seconds, (0.25, 0.5, 0.75))
    return Times(float(median), float((high - low) / median))


def measure(
    config: Config, device: torch.device, repeats: int = 3, steps: int = 5, compiled: bool = False
) -> dict[str, Any]:
    """One configuration's training steps, at its own crop and batch, in every mode of `MODES`, the compiled one only if asked for.

    The modes take `repeats` turns after one another, each of `steps` steps that are timed together.

    Returns:
        batch, crop, precision of our modes; per mode images_per_second (median), spread (as in `Times`), warm_up (seconds of
        the steps before the counted ones), peak_memory (bytes, CUDA only), tflops, schedule_hours; ratio and, of the compiled mode,
        compiled_ratio to the published mode. A mode that runs out of memory says so instead.
    """
    bf16 = has_bf16(device)
    found: dict[str, Any] = {
        "batch": config.batch_size,
        "crop": list(config.crop_size),
        "precision": "bf16" if bf16 else "fp32",
    }
    forms: dict[str, Callable[[], object]] = {}
    rates: dict[str, list[float]] = {}
    for turn, mode in product(range(repeats + 1), MODES if compiled else MODES[:2]):
        try:
            with memory_advice(config, 1):
                if turn == 0:  # to warm up
                    forms[mode], found[mode] = _begun(config, device, mode, bf16)
                elif mode in forms:
                    rates.setdefault(mode, []).append(
                        config.batch_size / _seconds(forms[mode], steps, device)
                    )
        except MemoryShortError as error:  # perhaps only beside the other modes
            found[mode] = {"error": str(error)}
            forms.pop(mode, None)
            rates.pop(mode, None)
    whole = estimate(config, 1.0)
    for mode, values in rates.items():
        rate, spread = summary(values)
        found[mode] |= {"images_per_second": rate, "spread": spread}
        found[mode] |= {
            "tflops": rate * whole.flop / whole.images / 1e12,
            "schedule_hours": whole.images / rate / 3600,
        }
    for mode, name in (("ours", "ratio"), ("compiled", "compiled_ratio")):
        if mode in rates and "published" in rates:
            found[name] = found[mode]["images_per_second"] / found["published"]["images_per_second"]
    return found


def probe(device: torch.device, bf16: bool = False) -> float:
    """Operations per second of real training steps on this device, from a few seconds of a small configuration."""
    name, crop = PROBE
    config = replace(
        get_config(name), crop_size=crop, batch_size=16 if device.type == "cuda" else 2
    )
    form, _ = _begun(config, device, "ours", bf16)
    whole = estimate(config, 1.0)
    return config.batch_size / _seconds(form, 5, device) * whole.flop / whole.images


def our_step(
    config: Config, device: torch.device, bf16: bool, compiled: bool = False
) -> Callable[[], tuple[Tensor, Tensor]]:
    """The step of loop.py on one made-up batch as it comes from the workers: bytes, pinned, on the host."""
    stepper = _stepper(config, device, bf16, compiled)
    size, count, cuda = config.crop_size, config.batch_size, device.type == "cuda"
    images = torch.randint(0, 256, (count, *size, 3), dtype=torch.uint8, pin_memory=cuda)
    labels = torch.randint(
        0, config.num_classes, (count, *size), dtype=torch.uint8, pin_memory=cuda
    )
    inside = torch.tensor([[0, size[0], 0, size[1]]] * count, pin_memory=cuda)
    return partial(stepper, Batch([], images, labels, inside))


def feeding(
    config: Config, split: Split, device: torch.device, workers: int, steps: int = 30
) -> dict[str, float]:
    """How long a device waits for its images: steps on batches from files, then steps on the last of them again.

    The split, of `config`'s data set, has at least one batch of files; they are read over and over, so the disk is left out. `steps` are
    timed, after a third as many to warm up; `workers` processes read.

    Returns:
        fed and again: images per second; waiting: the share of a fed step that the same step does not take without reading.
    """
    bf16, cuda = has_bf16(device), device.type == "cuda"
    stepper, warm_up = _stepper(config, device, bf16, False), max(1, steps // 3)
    batches = training_batches(split, config, range(warm_up + steps), workers=workers, pinned=cuda)
    for _ in range(warm_up):
        stepper(next(batches))
    fed = _seconds(lambda: stepper(next(batches)), steps - 1, device)
    last = next(batches)
    again = _seconds(lambda: stepper(last), steps, device)
    return {
        "fed": config.batch_size / fed,
        "again": config.batch_size / again,
        "waiting": max(0.0, 1 - again / fed),
    }


def _stepper(config: Config, device: torch.device, bf16: bool, compiled: bool) -> Stepper:
    model = build_model(config).to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    return Stepper(model, config, Processes(0, 1, device), bf16=bf16, compiled=compiled)


def _begun(
    config: Config, device: torch.device, mode: str, bf16: bool
) -> tuple[Callable[[], object], dict[str, Any]]:
    """A mode's step after those to warm up; their seconds, and the peak of CUDA's memory in bytes that this mode needs."""
    cuda = device.type == "cuda"
    set_arithmetic()
    gc.collect()
    before = 0
    if cuda:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
    form = (
        _published(config, device)
        if mode == "published"
        else our_step(config, device, bf16, mode == "compiled")
    )
    seconds = WARM_UP * _seconds(form, WARM_UP, device)
    return form, {
        "warm_up": seconds,
        "peak_memory": torch.cuda.max_memory_allocated(device) - before if cuda else 0,
    }


def _published(config: Config, device: torch.device) -> Callable[[], object]:
    """A step as SSSegmentation's recipe runs it: float32, TF32 off, contiguous, eager, attention by einsum, normalised on the host."""
    model = as_published(build_model(config)).to(device).train()
    optimizer = torch.optim.SGD(
        model.parameters(), config.lr, config.momentum, weight_decay=config.weight_decay
    )
    images = torch.randn(config.batch_size, 3, *config.crop_size, pin_memory=device.type == "cuda")
    labels = torch.randint(
        0,
        config.num_classes,
        (config.batch_size, *config.crop_size),
        pin_memory=device.type == "cuda",
    )

    def step() -> None:
        target = labels.to(device, non_blocking=True)
        out = model(images.to(device, non_blocking=True))
        loss = torch.zeros((), device=device)
        for logits, weight in ((out.logits, 1.0), (out.aux_logits, config.aux_weight)):
            if logits is not None:
                large = F.interpolate(
                    logits, size=config.crop_size, mode="bilinear", align_corners=False
                )
                loss = loss + weight * F.cross_entropy(large, target, ignore_index=IGNORE)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    return step


def _seconds(form: Callable[[], object], calls: int, device: torch.device) -> float:
    """Wall-clock seconds of one call, the device's work included, as a mean over several."""
    start = time.perf_counter()
    for _ in range(calls):
        form()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return (time.perf_counter() - start) / calls


class PublishedAttention(CrissCrossAttention):
    """The module as published: three projections, einsum and cat."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        return x + self.gamma * criss_cross_attention_plain(
            self.query(x), self.key(x), self.value(x)
        )


def as_published(model: CCNet) -> CCNet:
    """The model itself, its attention replaced by `PublishedAttention` with the same weights, contiguous in memory."""
    attention = PublishedAttention(
        model.attention.value.out_channels, model.attention.query.out_channels
    )
    attention.load_state_dict(model.attention.state_dict())
    attention.to(model.attention.gamma)  # device and dtype
    model.attention = attention
    return model.to(memory_format=torch.contiguous_format)  # type: ignore[no-any-return, call-overload]
