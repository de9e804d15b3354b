"""Throughput: images per second and memory of training steps on made-up batches, in our mode and in the published one, side by side."""

import gc
import time
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import torch

from ccnet_lab.configs import Config, get_config
from ccnet_lab.data.timing import summary
from ccnet_lab.errors import MemoryShortError
from ccnet_lab.model.ccnet import build_model
from ccnet_lab.model.fast import has_bf16
from ccnet_lab.model.timing import as_published
from ccnet_lab.training.estimates import estimate
from ccnet_lab.training.guards import memory_advice, set_arithmetic
from ccnet_lab.training.loss import segmentation_loss
from ccnet_lab.training.schedule import build_optimizer

PROBE = ("ccnet_resnet50os16_voc", (256, 256))  # configuration and crop of `probe`: seconds on a CPU, enough work to fill a GPU
# Ours: bf16 where the device has units for it, channels-last. Published, as SSSegmentation's recipe runs: float32, TF32 off, contiguous,
# eager, attention by einsum.
MODES = ("ours", "published")


def measure(
    config: Config, device: torch.device, batch: int | None = None, repeats: int = 3, steps: int = 5, compiled: bool = False
) -> dict[str, Any]:
    """One configuration's training steps in every mode of `MODES`, in turn, `repeats` times.

    Args:
        config: crop and batch are its own.
        device: where.
        batch: another batch than the configuration's.
        repeats: rounds; each mode gets one turn per round.
        steps: per turn, timed together.
        compiled: whether our mode runs under torch.compile.

    Returns:
        Per mode images_per_second (median), spread (as in `data.timing.Times`), warm_up (seconds before the first turn's counted steps),
        peak_memory (bytes, CUDA only), tflops, schedule_hours; and ratio, ours to the published mode. A mode that runs out of memory says
        so instead.
    """
    batch = batch or config.batch_size
    precision = "bf16" if has_bf16(device) else "fp32"
    found: dict[str, Any] = {"batch": batch, "crop": list(config.crop_size), "precision": precision, "compiled": compiled}
    rates: dict[str, list[float]] = {mode: [] for mode in MODES}
    for _ in range(repeats):
        for mode in MODES:
            ours = mode == "ours"
            try:
                with memory_advice(config, 1):
                    rate, warm_up, memory = _turn(config, device, batch, steps, precision if ours else "fp32", not ours, compiled and ours)
            except MemoryShortError as error:
                found[mode] = {"error": str(error)}
                continue
            rates[mode].append(rate)
            found[mode] = {"peak_memory": memory, "warm_up": found.get(mode, {}).get("warm_up", warm_up)}
    for mode, values in rates.items():
        if values:
            rate, spread = summary(values)
            whole = estimate(config, 1.0)
            found[mode] |= {
                "images_per_second": rate,
                "spread": spread,
                "tflops": rate * whole.flop / whole.images / 1e12,
                "schedule_hours": whole.images / rate / 3600,
            }
    if all(rates.values()):
        found["ratio"] = found["ours"]["images_per_second"] / found["published"]["images_per_second"]
    return found


def probe(device: torch.device, bf16: bool = False) -> float:
    """Operations per second of real training steps on this device, from a few seconds of a small configuration."""
    name, crop = PROBE
    config = replace(get_config(name), crop_size=crop, batch_size=16 if device.type == "cuda" else 2)
    rate, _, _ = _turn(config, device, config.batch_size, 5, "bf16" if bf16 else "fp32")
    whole = estimate(config, 1.0)
    return rate * whole.flop / whole.images


def _turn(
    config: Config, device: torch.device, batch: int, steps: int, precision: str, published: bool = False, compiled: bool = False
) -> tuple[float, float, int]:
    """Images per second of `steps` training steps after two to warm up; the seconds of these two; the peak of CUDA's memory in bytes."""
    cuda = device.type == "cuda"
    set_arithmetic()
    gc.collect()
    if cuda:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
    layout = torch.contiguous_format if published else torch.channels_last
    model = build_model(config)
    model = (as_published(model) if published else model).to(device, memory_format=layout).train()  # type: ignore[call-overload]
    optimizer = build_optimizer(model, config)
    network = torch.compile(model) if compiled else model
    images = torch.randn(batch, 3, *config.crop_size, device=device).contiguous(memory_format=layout)
    target = torch.randint(0, config.num_classes, (batch, *config.crop_size), device=device)
    begin = start = time.perf_counter()
    for step in range(steps + 2):
        if step == 2:
            if cuda:
                torch.cuda.synchronize(device)
            start = time.perf_counter()
        with torch.autocast(device.type, torch.bfloat16) if precision == "bf16" else nullcontext():
            out = network(images)
        segmentation_loss(out, target, config.aux_weight).total.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    if cuda:
        torch.cuda.synchronize(device)
    rate = batch * steps / (time.perf_counter() - start)
    return rate, start - begin, torch.cuda.max_memory_allocated(device) if cuda else 0
