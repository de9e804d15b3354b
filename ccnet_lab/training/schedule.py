"""The optimiser and the learning rate over the steps, as the recipe has them. What is minimised is in loss.py."""

from torch import nn, optim

from ccnet_lab.configs import Config


def build_optimizer(model: nn.Module, config: Config) -> optim.Optimizer:
    """SGD with the configuration's momentum, its weight decay on every parameter, and its initial learning rate; or AdamW, likewise.

    On CPU and CUDA one fused kernel makes the step. The state of an optimiser that was not fused can be loaded, and goes on as it was.
    """
    fused = all(parameter.device.type in ("cpu", "cuda") for parameter in model.parameters())
    if config.optimizer == "adamw":
        return optim.AdamW(
            model.parameters(), lr=config.lr, weight_decay=config.weight_decay, fused=fused
        )
    return optim.SGD(
        model.parameters(),
        lr=config.lr,
        momentum=config.momentum,
        weight_decay=config.weight_decay,
        fused=fused,
    )


def poly_lr(
    step: int, total_steps: int, base_lr: float, power: float = 0.9, min_lr: float | None = None
) -> float:
    """The learning rate for step `step` (from 0) of `total_steps`: (1 - step / total_steps) ** power * (base_lr - min_lr) + min_lr.

    The floor `min_lr` is a hundredth of `base_lr` by default, as in the reference. Raises `ValueError` for a step outside 0..total_steps,
    or no steps at all.

    Source: SSSegmentation's PolyScheduler, whose `min_lr` no CCNet configuration changes.
    """
    if total_steps < 1 or not 0 <= step <= total_steps:
        raise ValueError(
            f"step {step} of {total_steps} does not exist; expected 0 <= step <= total_steps, at least one step in all"
        )
    floor = 0.01 * base_lr if min_lr is None else min_lr
    return float((1 - step / total_steps) ** power) * (base_lr - floor) + floor
