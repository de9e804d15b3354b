"""Estimates of a full run before it begins: arithmetic, memory, hours. Nothing is trained here but a short probe of this machine's rate."""

import time
from dataclasses import dataclass, replace
from functools import cache

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from ccnet_lab.configs import Config, get_config
from ccnet_lab.data.batches import steps_per_epoch
from ccnet_lab.data.catalog import get_dataset
from ccnet_lab.data.datasets import open_split
from ccnet_lab.model.ccnet import build_model
from ccnet_lab.training.guards import set_arithmetic
from ccnet_lab.training.loss import segmentation_loss
from ccnet_lab.training.schedule import build_optimizer

PROBE = ("ccnet_resnet50os16_voc", (256, 256))  # configuration and crop of the probe: seconds on a CPU, enough work to fill a GPU


@dataclass(frozen=True)
class Estimate:
    """What a full run takes.

    Attributes:
        config: of the run.
        steps: optimiser steps. images: seen in all of them.
        flop: floating-point operations of the whole run, forward and backward, counted; a multiplication and an addition are two.
        memory: bytes for weights, gradients, momentum and what the backward pass keeps of one micro-batch; cuDNN's workspace comes on top.
        hours: at the given rate.
    """

    config: Config
    steps: int
    images: int
    flop: float
    memory: float
    hours: float


def estimate(config: Config, flops: float, steps: int | None = None, micro_batch: int | None = None, bf16: bool = False) -> Estimate:
    """What a run of `config` takes.

    Args:
        config: what is trained.
        flops: operations per second, from `probe` or stated.
        steps: optimiser steps; None for the configuration's epochs.
        micro_batch: images in memory at once; None for the whole batch.
        bf16: whether autocast keeps activations in bfloat16.
    """
    dataset = get_dataset(config.dataset)
    images = dataset.train_images or len(open_split(dataset, ""))  # one's own lies where it says
    steps = steps or config.epochs * steps_per_epoch(images, config.batch_size)
    per_image, kept, parameters = _cost(config)
    activations = kept * (micro_batch or config.batch_size) * (0.5 if bf16 else 1)
    flop = per_image * config.batch_size * steps
    return Estimate(config, steps, steps * config.batch_size, flop, parameters * 12 + activations, flop / flops / 3600)


@cache
def _cost(config: Config) -> tuple[float, float, int]:
    """Of one image at the recipe's crop: operations of a training step, bytes kept for the backward pass; and the number of parameters."""
    with torch.device("meta"):
        model = build_model(config).train()
        images = torch.empty(2, 3, *config.crop_size)  # two, since batch norm wants more than one value per channel
        target = torch.empty(2, *config.crop_size, dtype=torch.long)
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        if not isinstance(tensor, nn.Parameter):
            storage = tensor.untyped_storage()
            kept[id(storage)] = storage.nbytes()
            alive.append(storage)
        return tensor

    alive: list[torch.UntypedStorage] = []  # so that no two storages share an id
    with FlopCounterMode(display=False) as counter:
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            loss = segmentation_loss(model(images), target, config.aux_weight).total
        loss.backward()
    return counter.get_total_flops() / 2, sum(kept.values()) / 2, sum(p.numel() for p in model.parameters())


def probe(device: torch.device, bf16: bool = False, seconds: float = 10.0) -> float:
    """Operations per second of real training steps on this device, from a few seconds of a small configuration."""
    name, crop = PROBE
    set_arithmetic()
    config = replace(get_config(name), crop_size=crop, batch_size=16 if device.type == "cuda" else 2)
    model = build_model(config).to(device, memory_format=torch.channels_last).train()  # type: ignore[call-overload]
    optimizer = build_optimizer(model, config)
    images = torch.randn(config.batch_size, 3, *crop, device=device).contiguous(memory_format=torch.channels_last)
    target = torch.randint(0, config.num_classes, (config.batch_size, *crop), device=device)
    times: list[float] = []
    while not times or len(times) < 3 or sum(times) < seconds:
        start = time.perf_counter()
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            out = model(images)
        segmentation_loss(out, target).total.backward()
        optimizer.step()
        optimizer.zero_grad()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times.append(time.perf_counter() - start)
        if len(times) >= 200:
            break
    return _cost(config)[0] * config.batch_size / sorted(times)[len(times) // 2]


def estimates_table(found: list[Estimate], source: str) -> str:
    """The estimates as text; `source` says where the rate comes from."""
    lines = [f"{'configuration':34} {'steps':>7} {'epochs':>6} {'images':>10} {'TFLOP/img':>9} {'memory':>9} {'hours':>8}"]
    for row in found:
        per_image = row.flop / row.images / 1e12
        lines.append(
            f"{row.config.name:34} {row.steps:>7,} {row.config.epochs:>6} {row.images:>10,} {per_image:>9.2f} "
            f"{row.memory / 2**30:>6.1f} GB {row.hours:>8.2f}"
        )
    lines.append(f"{'all':34} {'':7} {'':6} {sum(r.images for r in found):>10,} {'':9} {'':9} {sum(r.hours for r in found):>8.2f}")
    return "\n".join([*lines, f"Estimated, not measured: operations and kept tensors counted, hours at {source}."])
