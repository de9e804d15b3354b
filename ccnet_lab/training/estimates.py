"""What a full run takes, estimated before it begins: arithmetic, memory, hours."""

from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor, nn

from ccnet_lab.configs import Config
from ccnet_lab.data.batches import steps_per_epoch
from ccnet_lab.data.catalog import get_dataset
from ccnet_lab.data.datasets import open_split
from ccnet_lab.model.ccnet import build_model
from ccnet_lab.training.loss import segmentation_loss


@dataclass(frozen=True)
class Estimate:
    """What a full run takes."""

    config: Config
    steps: int  # of the optimiser
    images: int  # seen in all of them
    flop: float  # of the whole run, forward and backward; a multiplication and an addition are two
    memory: float  # bytes of weights, gradients, momentum and what a backward pass keeps
    hours: float


def estimate(
    config: Config,
    flops: float,
    steps: int | None = None,
    micro_batch: int | None = None,
    bf16: bool = False,
    processes: int = 1,
) -> Estimate:
    """What a run of `config` takes at `flops` operations per second.

    Args:
        steps: optimiser steps; by default those of the configuration's epochs.
        micro_batch: images in memory at once; by default the whole batch.
        bf16: whether activations are bfloat16 instead of float32.
        processes: over how many the run is shared, which decides the last step of an epoch.
    """
    dataset, batch = get_dataset(config.dataset), config.batch_size
    # A data set of the user's own has its path in its facts.
    images = dataset.train_images or len(open_split(dataset, ""))
    steps = steps or config.epochs * steps_per_epoch(images, batch, processes)
    per_image, kept, parameters = _cost(config)
    memory = parameters * 12 + kept * (micro_batch or batch) * (0.5 if bf16 else 1)
    flop = per_image * batch * steps
    return Estimate(config, steps, steps * batch, flop, memory, hours=flop / flops / 3600)


@cache
def _cost(config: Config) -> tuple[float, float, int]:
    """Operations and bytes kept for the backward pass, per image at the crop; parameters."""
    from torch.utils.flop_counter import FlopCounterMode  # and with it Triton

    with torch.device("meta"):
        model = build_model(config).train()
        images = torch.empty(2, 3, *config.crop_size)  # two: batch norm needs more than one value
        target = torch.empty(2, *config.crop_size, dtype=torch.long)
    kept: dict[int, torch.UntypedStorage] = {}  # the storages, too, so that no two share an id

    def keep(tensor: Tensor) -> Tensor:
        if not isinstance(tensor, nn.Parameter):
            storage = tensor.untyped_storage()
            kept[id(storage)] = storage
        return tensor

    forward, backward = (FlopCounterMode(display=False) for _ in range(2))
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        with forward:
            out = model(images)
        loss = segmentation_loss(out, target, config.aux_weight).total
    outputs = [logits for logits in (out.logits, out.aux_logits) if logits is not None]
    gradients = torch.autograd.grad(loss, outputs)
    with backward:
        torch.autograd.backward(outputs, gradients)
    flops = forward.get_total_flops() + backward.get_total_flops()
    size = sum(storage.nbytes() for storage in kept.values())
    return flops / 2, size / 2, sum(p.numel() for p in model.parameters())


def estimates_table(found: list[Estimate], source: str) -> str:
    """The estimates as text; `source` says where the rate comes from."""
    form = "{:34} {:>7} {:>6} {:>10} {:>9} {:>9} {:>8}"
    names = ("configuration", "steps", "epochs", "images", "TFLOP/img", "memory", "hours")
    lines = [form.format(*names)]
    for row in found:
        operations, memory = row.flop / row.images / 1e12, f"{row.memory / 2**30:.1f} GB"
        counts = row.config.name, f"{row.steps:,}", row.config.epochs, f"{row.images:,}"
        lines.append(form.format(*counts, f"{operations:.2f}", memory, f"{row.hours:.2f}"))
    images, hours = sum(row.images for row in found), sum(row.hours for row in found)
    lines.append(form.format("all", "", "", f"{images:,}", "", "", f"{hours:.2f}"))
    what = "operations and kept tensors counted"
    return "\n".join([*lines, f"Estimated, not measured: {what}, hours at {source}."])
