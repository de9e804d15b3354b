"""Scores: one confusion matrix and what follows from it. What is predicted comes from the model or the explorer."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ccnet_lab.data.catalog import IGNORE


class Scores(NamedTuple):
    """iou: (K,), NaN for a class that neither occurs nor is predicted; miou: mean over the others; pixel_accuracy."""

    iou: NDArray[np.float64]
    miou: float
    pixel_accuracy: float


def confusion_matrix(target: NDArray[np.integer], prediction: NDArray[np.integer], num_classes: int) -> NDArray[np.int64]:
    """(K, K) counts of pixels: row true class, column predicted class; pixels labelled `IGNORE` are left out."""
    if target.shape != prediction.shape:
        raise ValueError(f"labels are {target.shape} and predictions {prediction.shape}; expected one size")
    labelled = target != IGNORE
    pairs = target[labelled].astype(np.int64) * num_classes + prediction[labelled]
    return np.bincount(pairs, minlength=num_classes**2).reshape(num_classes, num_classes)


def scores(confusion: NDArray[np.integer]) -> Scores:
    """IoU per class TP / (TP + FP + FN), their mean, and the share of pixels that are right."""
    right = np.diag(confusion).astype(np.float64)
    union = confusion.sum(0) + confusion.sum(1) - right
    iou = np.divide(right, union, out=np.full(len(right), np.nan), where=union > 0)
    return Scores(iou, float(np.nanmean(iou)), float(right.sum() / max(1, confusion.sum())))
