"""Training: loop.py carries out one run, campaign.py many; the other files are their parts.

Its public functions are loaded when first used, so that settings.py can be read without torch.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ccnet_lab.training.loss import Loss, segmentation_loss
    from ccnet_lab.training.schedule import build_optimizer, poly_lr

__all__ = ["Loss", "build_optimizer", "poly_lr", "segmentation_loss"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from ccnet_lab.training import loss, schedule

    return getattr(loss, name, None) or getattr(schedule, name)
