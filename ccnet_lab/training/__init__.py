"""Training: loss.py, schedule.py and evaluation.py are the recipe's parts; demo.py trains the embedded demo with them."""

from ccnet_lab.training.loss import Loss, segmentation_loss
from ccnet_lab.training.schedule import build_optimizer, poly_lr

__all__ = ["Loss", "build_optimizer", "poly_lr", "segmentation_loss"]
