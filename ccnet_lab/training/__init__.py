"""Training: loop.py carries out a run, campaign.py many; loss, schedule, evaluation and settings are the parts; demo.py trains the demo."""

from ccnet_lab.training.loss import Loss, segmentation_loss
from ccnet_lab.training.schedule import build_optimizer, poly_lr

__all__ = ["Loss", "build_optimizer", "poly_lr", "segmentation_loss"]
