"""What a full run takes, estimated before it begins: arithmetic, memory, hours."""

from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from ccnet_lab.configs import Config
from ccnet_lab.data.batches import steps_per_epoch
from ccnet_lab.data.catalog import get_dataset
from ccnet_lab.data.datasets import open_split
from ccnet_lab.model.ccnet import build_model
from ccnet_lab.training.loss import segmentation_loss


@dataclass(frozen=True)
class Estimate:
    """What a full run takes.

    Attributes:
        steps: optimiser steps. images: seen in all of them.
        flop: floating-point operations of the whole run, forward and backward, as counted; a
            multiplication and an addition are two.
        memory: bytes for weights, gradients, momentum and what the backward pass keeps of one
            micro-batch; cuDNN's workspace comes on top.
    """

    config: Config
    steps: int
    images: int
    flop: float
    memory: float
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
    dataset = get_dataset(config.dataset)
    # A data set of the user's own has its path in its facts.
    images = dataset.train_images or len(open_split(dataset, ""))
    steps = steps or config.epochs * steps_per_epoch(images, config.batch_size, processes)
    per_image, kept, parameters = _cost(config)
    activations = kept * (micro_batch or config.batch_size) * (0.5 if bf16 else 1)
    seen = steps * config.batch_size
    flop = per_image * config.batch_size * steps
    memory = parameters * 12 + activations
    return Estimate(config, steps, seen, flop, memory, hours=flop / flops / 3600)


@cache
def _cost(config: Config) -> tuple[float, float, int]:
    """Operations and bytes kept for the backward pass, per image at the crop; parameters."""
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
    lines = [
        f"{'configuration':34} {'steps':>7} {'epochs':>6} {'images':>10} "
        f"{'TFLOP/img':>9} {'memory':>9} {'hours':>8}"
    ]
    for row in found:
        lines.append(
            f"{row.config.name:34} {row.steps:>7,} {row.config.epochs:>6} {row.images:>10,} "
            f"{row.flop / row.images / 1e12:>9.2f} {row.memory / 2**30:>6.1f} GB {row.hours:>8.2f}"
        )
    images, hours = sum(row.images for row in found), sum(row.hours for row in found)
    lines.append(f"{'all':34} {'':7} {'':6} {images:>10,} {'':9} {'':9} {hours:>8.2f}")
    lines.append(
        f"Estimated, not measured: operations and kept tensors counted, hours at {source}."
    )
    return "\n".join(lines)
