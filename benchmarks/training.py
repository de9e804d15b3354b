"""Training steps per second and memory, beside the published mode, and the wait for images."""

import gc
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import product
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.timing import summary
from ccnet_lab.configs import Config
from ccnet_lab.data.batches import training_batches
from ccnet_lab.data.catalog import IGNORE
from ccnet_lab.data.datasets import Split
from ccnet_lab.device import has_bf16, set_arithmetic
from ccnet_lab.errors import DeviceError
from ccnet_lab.model.attention import CrissCrossAttention, criss_cross_attention_plain
from ccnet_lab.model.ccnet import CCNet, build_model
from ccnet_lab.model.upsample import upsample
from ccnet_lab.training.estimates import estimate
from ccnet_lab.training.signals import memory_advice
from ccnet_lab.training.throughput import (
    WARM_UP,
    made_batch,
    new_stepper,
    seconds_per_call,
    training_step,
)

# Published: see `_published_step`. Ours: the step of loop.py, in bf16 where the device has units
# for it; then the same compiled.
MODES = ("published", "ours", "compiled")


def measure(
    config: Config,
    device: torch.device,
    repeats: int = 3,
    steps: int = 5,
    modes: Sequence[str] = MODES[:2],
) -> dict[str, Any]:
    """Training steps of a configuration, at its own crop and batch, in the modes of `MODES`.

    They take `repeats` turns after one another, each of `steps` steps that are timed together. All
    begin with the same weights and the same batch; without dropout their first losses compare.

    Returns:
        batch, crop, precision of our modes; per mode first_loss, images_per_second (median),
        spread (as in `Times`), warm_up (seconds of the steps before the counted ones), peak_memory
        (bytes, CUDA only), tflops, schedule_hours; ratio and, of the compiled mode, compiled_ratio
        to the published mode. A mode that runs out of memory has an `error` instead.
    """
    bf16 = has_bf16(device)
    found: dict[str, Any] = {
        "batch": config.batch_size,
        "crop": list(config.crop_size),
        "precision": "bf16" if bf16 else "fp32",
    }
    forms: dict[str, Callable[[], object]] = {}
    rates: dict[str, list[float]] = {}
    for turn, mode in product(range(repeats + 1), modes):
        try:
            with memory_advice(config, 1):
                if turn == 0:  # to warm up
                    forms[mode], found[mode] = _begun(config, device, mode, bf16)
                elif mode in forms:
                    seconds = seconds_per_call(forms[mode], steps, device)
                    rates.setdefault(mode, []).append(config.batch_size / seconds)
        except DeviceError as error:  # perhaps only beside the other modes
            found[mode] = {"error": str(error)}
            forms.pop(mode, None)
            rates.pop(mode, None)
    whole = estimate(config, 1.0)
    for mode, values in rates.items():
        rate, spread = summary(values)
        found[mode] |= {
            "images_per_second": rate,
            "spread": spread,
            "tflops": rate * whole.flop / whole.images / 1e12,
            "schedule_hours": whole.images / rate / 3600,
        }
    for mode, name in (("ours", "ratio"), ("compiled", "compiled_ratio")):
        if mode in rates and "published" in rates:
            found[name] = found[mode]["images_per_second"] / found["published"]["images_per_second"]
    return found


def _begun(
    config: Config, device: torch.device, mode: str, bf16: bool
) -> tuple[Callable[[], object], dict[str, Any]]:
    """A mode's step, and the seconds and the peak of CUDA's memory (bytes) of its warm-up."""
    cuda = device.type == "cuda"
    set_arithmetic()
    gc.collect()
    before = 0
    if cuda:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
    torch.manual_seed(0)
    form: Callable[[], Tensor] = (
        _published_step(config, device)
        if mode == "published"
        else _our_step(training_step(config, device, bf16, mode == "compiled"))
    )
    start = time.perf_counter()
    first = float(form())
    for _ in range(WARM_UP - 1):
        form()
    if cuda:
        torch.cuda.synchronize(device)
    peak = torch.cuda.max_memory_allocated(device) - before if cuda else 0
    seconds = time.perf_counter() - start
    return form, {"first_loss": first, "warm_up": seconds, "peak_memory": peak}


def without_dropout(config: Config) -> Config:
    """The configuration whose losses are those of no random choice."""
    return replace(config, dropout=0.0)


def _our_step(step: Callable[[], tuple[Tensor, Tensor]]) -> Callable[[], Tensor]:
    return lambda: step()[0][0]


def _published_step(config: Config, device: torch.device) -> Callable[[], Tensor]:
    """A step as SSSegmentation's recipe runs it.

    That is float32, TF32 off, contiguous, eager, attention by einsum, normalised on the host.
    """
    model = as_published(build_model(config)).to(device).train()
    optimizer = torch.optim.SGD(
        model.parameters(), config.lr, config.momentum, weight_decay=config.weight_decay
    )
    batch, size, cuda = made_batch(config, device), config.crop_size, device.type == "cuda"
    images, labels = batch.normalised(slice(None), torch.device("cpu")), batch.labels.long()
    if cuda:
        images, labels = images.contiguous().pin_memory(), labels.pin_memory()

    def step() -> Tensor:
        target = labels.to(device, non_blocking=True)
        out = model(images.to(device, non_blocking=True))
        loss = torch.zeros((), device=device)
        for logits, weight in ((out.logits, 1.0), (out.aux_logits, config.aux_weight)):
            if logits is not None:
                cross_entropy = F.cross_entropy(upsample(logits, size), target, ignore_index=IGNORE)
                loss = loss + weight * cross_entropy
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        return loss.detach()

    return step


class PublishedAttention(CrissCrossAttention):
    """The module as published: three projections, einsum and cat."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        query, key, value = self.query(x), self.key(x), self.value(x)
        return x + self.gamma * criss_cross_attention_plain(query, key, value)


def as_published(model: CCNet) -> CCNet:
    """The model itself, contiguous, its attention replaced by `PublishedAttention`."""
    given = model.attention
    attention = PublishedAttention(given.value.out_channels, given.query.out_channels)
    attention.load_state_dict(given.state_dict())
    model.attention = attention.to(given.gamma)  # device and dtype
    return model.to(memory_format=torch.contiguous_format)  # type: ignore[no-any-return, call-overload]


def feeding(
    config: Config, split: Split, device: torch.device, workers: int, steps: int = 30
) -> dict[str, float]:
    """How long a device waits for its images: steps on batches from files, then on the last again.

    The files of the split, at least one batch, are read over and over, so the disk is left out.

    Args:
        split: of the configuration's data set.
        workers: processes that read.
        steps: timed steps, after a third as many to warm up.

    Returns:
        fed and again: images per second; waiting: the share of a fed step that the same step does
        not take without reading.
    """
    bf16, cuda = has_bf16(device), device.type == "cuda"
    stepper, warm_up = new_stepper(config, device, bf16, False), max(1, steps // 3)
    batches = training_batches(split, config, range(warm_up + steps), workers=workers, pinned=cuda)
    for _ in range(warm_up):
        stepper(next(batches))
    fed = seconds_per_call(lambda: stepper(next(batches)), steps - 1, device)
    last = next(batches)
    again = seconds_per_call(lambda: stepper(last), steps, device)
    return {
        "fed": config.batch_size / fed,
        "again": config.batch_size / again,
        "waiting": max(0.0, 1 - again / fed),
    }
