"""The training loss: cross-entropy of the head and of the auxiliary classifier. When to step is in schedule.py."""

from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor

from ccnet_lab.data.catalog import IGNORE
from ccnet_lab.model.ccnet import Segmentation


class Loss(NamedTuple):
    """Scalars: total = main + aux, aux already weighted (0 where there is no auxiliary output)."""

    total: Tensor
    main: Tensor
    aux: Tensor


def segmentation_loss(out: Segmentation, target: Tensor, aux_weight: float = 0.4, ignore_index: int = IGNORE) -> Loss:
    """Mean cross-entropy over the labelled pixels, logits resized to the labels (bilinear, align_corners False).

    Args:
        out: the network's output; logits (B, K, h, w).
        target: (B, H, W) int64 class ids; `ignore_index` where unlabelled. A batch without any label gives 0, not NaN.
        aux_weight: of the auxiliary classifier; 0.4 in the recipe.

    Source: SSSegmentation's CCNet configurations.
    """
    main = _cross_entropy(out.logits, target, ignore_index)
    aux = main.new_zeros(()) if out.aux_logits is None else aux_weight * _cross_entropy(out.aux_logits, target, ignore_index)
    return Loss(main + aux, main, aux)


def _cross_entropy(logits: Tensor, target: Tensor, ignore_index: int) -> Tensor:
    if logits.shape[0] != target.shape[0] or target.ndim != 3:
        raise ValueError(
            f"target {tuple(target.shape)} does not belong to logits {tuple(logits.shape)}; expected (B, H, W) with the same B"
        )
    logits = logits if logits.dtype.itemsize >= 4 else logits.float()
    logits = F.interpolate(logits, size=target.shape[1:], mode="bilinear", align_corners=False)  # (B, K, H, W)
    total = F.cross_entropy(logits, target, ignore_index=ignore_index, reduction="sum")
    return total / (target != ignore_index).sum().clamp(min=1)
