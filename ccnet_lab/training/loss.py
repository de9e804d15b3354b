"""The training losses: cross-entropy of both classifiers, OHEM, the category-consistent loss.

The learning rate is in schedule.py.
"""

import math
from contextlib import nullcontext
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ccnet_lab.data.catalog import IGNORE
from ccnet_lab.model.ccnet import Segmentation

# OHEM: a pixel is hard below this probability of its class; at least KEEP per batch are kept.
HARD, KEEP = 0.7, 100_000
NEAR, FAR = 0.5, 1.5  # category-consistent loss: margins within a class and between classes
SHRINK = 0.001  # and the weight of its regulariser
_IDS = IGNORE + 1  # class ids are bytes


class Loss(NamedTuple):
    """Scalars: total = main + aux + category; aux and category are weighted, 0 where unused."""

    total: Tensor
    main: Tensor
    aux: Tensor
    category: Tensor


def segmentation_loss(
    out: Segmentation,
    target: Tensor,
    aux_weight: float = 0.4,
    ignore_index: int = IGNORE,
    class_weights: Tensor | None = None,
    ohem: bool = False,
    category_weight: float = 0.0,
) -> Loss:
    """Mean cross-entropy over the labelled pixels, logits upsampled to the labels (bilinear).

    Args:
        out: the network's output; logits (B, K, h, w).
        target: (B, H, W) int64 class ids; `ignore_index` where unlabelled. A batch without any
            label gives 0, not NaN.
        aux_weight: of the auxiliary classifier; 0.4 in the recipe.
        class_weights: (K,) factors of the classes' pixels; see `balanced_weights`.
        ohem: whether the main loss is the mean over hard pixels only.
        category_weight: of the category-consistent loss, where the network gives an embedding.

    Source: SSSegmentation's CCNet configurations; OHEM and the category-consistent loss: Huang et
    al., TPAMI 2020.
    """
    losses = _cross_entropy(out.logits, target, ignore_index, class_weights)  # (B, H, W)
    labelled = target != ignore_index
    count = labelled.sum().clamp(min=1)
    main = _mean_of_hard(losses, labelled) if ohem else losses.sum() / count
    aux = category = main.new_zeros(())
    if out.aux_logits is not None:
        losses = _cross_entropy(out.aux_logits, target, ignore_index, class_weights)
        aux = aux_weight * losses.sum() / count
    if out.embedding is not None and category_weight:
        category = category_weight * category_consistent_loss(out.embedding, target, ignore_index)
    return Loss(main + aux + category, main, aux, category)


def balanced_weights(pixels: Tensor) -> Tensor:
    """(K,) class weights from pixel counts (K,): 1 / log(1.1 + share), of mean 1 over the pixels.

    Source: ENet (Paszke et al. 2016, section 5.2), with 1.1 for its 1.02, which keeps rare classes
    from flooding the labels.
    """
    share = pixels.double() / pixels.sum()
    weights = 1 / torch.log(1.1 + share)
    return (weights / (weights * share).sum()).float()


def category_consistent_loss(
    embedding: Tensor, target: Tensor, ignore_index: int = IGNORE
) -> Tensor:
    """A scalar that draws pixels to their class's mean, pushes the means apart and shrinks them.

    The embedding (B, D, h, w) is the attention's output in few channels; of the class ids
    (B, H, W) each cell takes the nearest pixel's. Means are taken over the batch.

    Source: our reading of Huang et al., TPAMI 2020, section 3.3; linear beyond the outer margin.
    """
    cells = F.interpolate(target[:, None].float(), size=embedding.shape[2:], mode="nearest")
    cells = cells.long().flatten()  # (B h w)
    points = embedding.float().movedim(1, -1).flatten(0, 2)  # (B h w, D)
    classes = torch.arange(_IDS, device=points.device)
    zeros = torch.zeros(_IDS, device=points.device)
    counts = zeros.index_add(0, cells, torch.ones_like(points[:, 0]))
    present = ((counts > 0) & (classes != ignore_index)).float()  # (_IDS,)
    counts, number = counts.clamp(min=1), present.sum().clamp(min=1)
    sums = torch.zeros(_IDS, points.shape[1], device=points.device).index_add(0, cells, points)
    means = sums / counts[:, None]  # (_IDS, D)
    away = (points - means[cells]).norm(dim=1)
    near = (away - NEAR).clamp(min=0) ** 2
    within = torch.where(away > FAR, away - FAR + (FAR - NEAR) ** 2, near)
    variance = (zeros.index_add(0, cells, within) / counts * present).sum() / number
    pairs = present * present[:, None] * (classes < classes[:, None])
    distance = (means - means[:, None]).norm(dim=2)
    between = ((2 * FAR - distance).clamp(min=0) ** 2 * pairs).sum() / pairs.sum().clamp(min=1)
    loss: Tensor = variance + between + SHRINK * (means.norm(dim=1) * present).sum() / number
    return loss


def _cross_entropy(
    logits: Tensor, target: Tensor, ignore_index: int, class_weights: Tensor | None
) -> Tensor:
    """(B, H, W) cross-entropy of every pixel, times its class's weight; 0 where ignored."""
    if logits.shape[0] != target.shape[0] or target.ndim != 3:
        shapes = f"target {tuple(target.shape)} does not belong to logits {tuple(logits.shape)}"
        raise ValueError(f"{shapes}; expected (B, H, W) with the same B")
    logits = logits if logits.dtype.itemsize >= 4 else logits.float()
    logits = _upsampled(logits, target.shape[1], target.shape[2])  # (B, K, H, W)
    weights = None if class_weights is None else class_weights.to(logits.dtype)
    return F.cross_entropy(
        logits, target, weight=weights, ignore_index=ignore_index, reduction="none"
    )


def _upsampled(logits: Tensor, height: int, width: int) -> Tensor:
    """Bilinear upsampling (align_corners False) as two matrix products.

    Their backward pass is two more products instead of a scattered addition.
    """

    def along(cells: int, pixels: int) -> Tensor:
        """(cells, pixels): the weight of each cell at each pixel."""
        identity = torch.eye(cells, dtype=logits.dtype, device=logits.device)
        return F.interpolate(identity[None], size=pixels, mode="linear")[0]

    kind = logits.device.type
    # Autocast would halve the products' precision.
    with nullcontext() if kind == "meta" else torch.autocast(kind, enabled=False):
        rows, columns = along(logits.shape[2], height), along(logits.shape[3], width)
        return rows.mT @ (logits @ columns)  # (B, K, height, width)


def _mean_of_hard(losses: Tensor, labelled: Tensor) -> Tensor:
    """Mean over labelled pixels with a probability below `HARD`, at least the `KEEP` hardest."""
    hardest = losses.detach().masked_fill(~labelled, -1.0).flatten()
    hardest = hardest.topk(min(KEEP, len(hardest))).values
    last = (labelled.sum() - 1).clamp(min=0, max=len(hardest) - 1)
    least = hardest.gather(0, last[None]).clamp(max=-math.log(HARD))
    kept = labelled & (losses >= least)
    return (losses * kept).sum() / kept.sum().clamp(min=1)
