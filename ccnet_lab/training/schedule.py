"""The optimiser and the learning rate over the steps. The losses are in loss.py."""

from torch import nn, optim

from ccnet_lab.configs import Config


def build_optimizer(model: nn.Module, config: Config) -> optim.Optimizer:
    """SGD with the configuration's momentum, weight decay and initial learning rate, or AdamW.

    Every parameter decays. On CPU and CUDA the optimiser is fused; states of unfused optimisers
    can be loaded and continue as they were.
    """
    fused = all(parameter.device.type in ("cpu", "cuda") for parameter in model.parameters())
    lr, decay = config.lr, config.weight_decay
    if config.optimizer == "adamw":
        return optim.AdamW(model.parameters(), lr=lr, weight_decay=decay, fused=fused)
    return optim.SGD(
        model.parameters(), lr=lr, momentum=config.momentum, weight_decay=decay, fused=fused
    )


def poly_lr(
    step: int, total_steps: int, base_lr: float, power: float = 0.9, min_lr: float | None = None
) -> float:
    """(1 - step / total_steps) ** power * (base_lr - min_lr) + min_lr, for steps from 0 on.

    `min_lr` is a hundredth of `base_lr` by default, as in the reference. Raises `ValueError` for
    a step outside 0..total_steps, or no steps at all.

    Source: SSSegmentation's PolyScheduler, whose `min_lr` no CCNet configuration changes.
    """
    if total_steps < 1 or not 0 <= step <= total_steps:
        raise ValueError(
            f"step {step} of {total_steps} does not exist; "
            "expected 0 <= step <= total_steps, at least one step in all"
        )
    floor = 0.01 * base_lr if min_lr is None else min_lr
    return float((1 - step / total_steps) ** power) * (base_lr - floor) + floor
