"""Training of the embedded demo on generated scenes: a tiny CCNet, AdamW, minutes on a CPU.

The published recipe is in loop.py; the demo's scores are in evaluation/evaluate.py.
"""

from collections.abc import Callable
from itertools import product

import torch

from ccnet_lab.configs import Config, get_config
from ccnet_lab.data.catalog import IGNORE
from ccnet_lab.data.generated import beacons
from ccnet_lab.data.transforms import normalise
from ccnet_lab.evaluation.evaluate import HELD_OUT, score_demo
from ccnet_lab.model.ccnet import CCNet, build_model
from ccnet_lab.training.loss import segmentation_loss

# Background is 94 % of the pixels. In the first 30 % of the steps 90 % of it is ignored, so that
# the discs decide the gradient.
SPARSE, KEPT = 0.3, 0.1
HEAD = """# The embedded demo

Made by `python scripts/make_demo.py`; weights MIT as the rest, scenes generated. \
Measured on {} held-out scenes, disc accuracies over disc pixels (chance 0.25).

| model | trained at R | run at R | mIoU | discs on the beacon's cross | discs off it \
| discs out of reach at R = 1 |
| --- | --- | --- | --- | --- | --- | --- |
"""


def train_demo(
    config: str | Config = "demo",
    steps: int = 1_000,
    seed: int = 0,
    on_step: Callable[[int, float], object] | None = None,
) -> CCNet:
    """Train a tiny CCNet on beacons and return it in eval mode.

    The same seed and thread count give the same weights.

    Args:
        config: "demo" (R = 2), "demo_r1", or a variation of them.
        steps: optimiser steps, each on `config.batch_size` new scenes.
        on_step: called with (steps done, loss) after every step.
    """
    config = get_config(config)
    torch.manual_seed(seed)
    model = build_model(config).train()
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = torch.optim.AdamW(model.parameters(), lr=config.lr)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=config.lr, total_steps=steps)
    for step in range(steps):
        first = (seed * steps + step) * config.batch_size
        images, labels = beacons.make_scenes(range(first, first + config.batch_size))
        target = torch.as_tensor(labels).long()  # (B, H, W)
        if step < SPARSE * steps:
            target[(target == 0) & (torch.rand(target.shape) > KEPT)] = IGNORE
        loss = segmentation_loss(model(normalise(images)), target).total
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if on_step is not None:
            on_step(step + 1, loss.item())
    return model.eval()


def demo_table(models: dict[str, CCNet], seeds: range = HELD_OUT) -> str:
    """The models' scores on the scenes of `seeds` as a Markdown page, for R = 1 and 2."""
    page = HEAD.format(len(seeds))
    for (name, model), recurrence in product(models.items(), (1, 2)):
        s = score_demo(model, recurrence, seeds)
        values = (s.miou, s.on_cross, s.off_cross, s.out_of_reach)
        cells = " | ".join(f"{value:.3f}" for value in values)
        page += f"| {name} | {model.recurrence} | {recurrence} | {cells} |\n"
    return page
