"""This machine's rate of training steps; steps beside their baseline are timed in benchmarks/."""

import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from ccnet_lab.configs import Config, get_config
from ccnet_lab.data.batches import Batch
from ccnet_lab.device import set_arithmetic
from ccnet_lab.model.ccnet import build_model
from ccnet_lab.training.distributed import Processes
from ccnet_lab.training.estimates import estimate
from ccnet_lab.training.step import Stepper

# Configuration and crop of `probe`: seconds on a CPU, enough work to fill a GPU.
PROBE = ("ccnet_resnet50os16_voc", (256, 256))
WARM_UP = 2  # steps


def probe(device: torch.device, bf16: bool = False) -> float:
    """Operations per second of training steps on this device, in a few seconds."""
    name, crop = PROBE
    batch = 16 if device.type == "cuda" else 2
    config = replace(get_config(name), crop_size=crop, batch_size=batch)
    set_arithmetic()
    step = training_step(config, device, bf16)
    seconds_per_call(step, WARM_UP, device)
    whole = estimate(config, 1.0)
    return batch / seconds_per_call(step, 5, device) * whole.flop / whole.images


def new_stepper(config: Config, device: torch.device, bf16: bool, compiled: bool) -> Stepper:
    """The step of loop.py for a new network."""
    model = build_model(config).to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    return Stepper(model, config, Processes(0, 1, device), bf16=bf16, compiled=compiled)


def training_step(
    config: Config, device: torch.device, bf16: bool, compiled: bool = False
) -> Callable[[], tuple[Tensor, Tensor]]:
    """A step of loop.py on one made-up batch as workers give it: bytes, pinned, on the host."""
    return partial(new_stepper(config, device, bf16, compiled), made_batch(config, device))


def made_batch(config: Config, device: torch.device) -> Batch:
    """A batch of the configuration, made up from one seed: bytes, pinned for a GPU, on the host."""
    draw = torch.Generator().manual_seed(0)
    size, count, cuda = config.crop_size, config.batch_size, device.type == "cuda"
    images = torch.randint(0, 256, (count, *size, 3), dtype=torch.uint8, generator=draw)
    labels = torch.randint(0, config.num_classes, (count, *size), dtype=torch.uint8, generator=draw)
    inside = torch.tensor([[0, size[0], 0, size[1]]] * count)
    tensors = (t.pin_memory() if cuda else t for t in (images, labels, inside))
    return Batch([], *tensors)


def seconds_per_call(form: Callable[[], object], calls: int, device: torch.device) -> float:
    """Mean wall-clock seconds of a call, the device's work included."""
    start = time.perf_counter()
    for _ in range(calls):
        form()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return (time.perf_counter() - start) / calls
