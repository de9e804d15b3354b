"""Counts of pixels per image, and the scores and intervals that follow from them.

Where the predictions come from is in predict.py.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from ccnet_lab.data.catalog import IGNORE
from ccnet_lab.errors import MissingFileError, RunError
from ccnet_lab.files import refuse_bomb, write_whole

DILATION_RATIO = 0.02  # of the image's diagonal: how far a boundary reaches into its region
LEVEL = 0.95  # of the intervals
Floats = NDArray[np.float64]


class Scores(NamedTuple):
    """iou: (K,), NaN for a class that neither occurs nor is predicted; miou: of the others."""

    iou: Floats
    miou: float
    pixel_accuracy: float


def confusion_matrix(
    target: NDArray[np.integer], prediction: NDArray[np.integer], num_classes: int
) -> NDArray[np.int64]:
    """(K, K) counts of pixels, row true class, column predicted class; `IGNORE` is left out."""
    if target.shape != prediction.shape:
        sizes = f"labels are {target.shape} and predictions {prediction.shape}"
        raise ValueError(f"{sizes}; expected one size")
    labelled = target != IGNORE
    pairs = target[labelled].astype(np.int64) * num_classes + prediction[labelled]
    return np.bincount(pairs, minlength=num_classes**2).reshape(num_classes, num_classes)


def scores(confusion: NDArray[np.integer]) -> Scores:
    """IoU per class TP / (TP + FP + FN), their mean, and the share of pixels that are right."""
    right = np.diag(confusion)
    iou = ratio(right, confusion.sum(0) + confusion.sum(1) - right)
    return Scores(iou, float(mean(iou)), float(right.sum() / max(1, confusion.sum())))


def one_class(iou: Iterable[float | None]) -> str:
    """A remark for a mean of IoUs that is a single class's; "" for other means.

    None or NaN stand for classes without pixels.
    """
    known = sum(value is not None and value == value for value in iou)
    return "a single class: nothing was told apart" if known == 1 else ""


def miou_text(found: Mapping[str, Any]) -> str:
    """The mIoU of a scores.json in percent, with the remark of `one_class`."""
    remark = one_class((found.get("per_class_iou") or {}).values())
    return f"mIoU {percent(found.get('miou'))} %" + (f" ({remark})" if remark else "")


def percent(value: float | None) -> str:
    """A fraction in percent with two digits, without the sign; "-" for None."""
    return "-" if value is None else f"{100 * value:.2f}"


def boundary(labels: NDArray[np.uint8], distance: int) -> NDArray[np.bool_]:
    """(H, W): pixels within `distance` of their region's contour or the image's border.

    Every region is eroded by a square of 2 `distance` + 1 pixels, as in boundary_iou_api's
    `mask_to_boundary` (Cheng et al., "Boundary IoU", CVPR 2021).
    """
    square = np.ones((2 * distance + 1, 2 * distance + 1), np.uint8)
    near = np.asarray(cv2.dilate(labels, square) != cv2.erode(labels, square))
    near[:distance] = near[-distance:] = near[:, :distance] = near[:, -distance:] = True
    return near


def boundary_tally(
    target: NDArray[np.uint8], prediction: NDArray[np.uint8], num_classes: int
) -> NDArray[np.int64]:
    """(2, K) pixels: intersection and union of each class's boundaries in two maps (H, W).

    Boundaries reach max(1, round(0.02 x the image's diagonal)) pixels inwards. `IGNORE` counts
    for no class and is a region of its own in both maps, so that a perfect prediction scores 1.
    """
    distance = max(1, round(DILATION_RATIO * float(np.hypot(*target.shape))))
    prediction = np.where(target == IGNORE, np.uint8(IGNORE), prediction)
    maps = [
        np.where(boundary(labels, distance), labels, np.uint8(IGNORE)).ravel()
        for labels in (target, prediction)
    ]
    first, second, both = (
        np.bincount(m, minlength=IGNORE + 1)[:num_classes]
        for m in (*maps, maps[0][maps[0] == maps[1]])
    )
    return np.stack([both, first + second - both])


@dataclass(frozen=True)
class Confusions:
    """The confusion matrix of every image, kept as its non-zero cells."""

    names: tuple[str, ...]  # of the N images
    num_classes: int  # K
    starts: NDArray[np.int64]  # (N + 1,); image n has the cells starts[n] : starts[n + 1]
    cells: NDArray[np.uint16]  # (M,) true class * K + predicted class
    counts: NDArray[np.uint32]  # (M,) pixels

    @classmethod
    def collect(
        cls,
        names: Sequence[str],
        num_classes: int,
        parts: Sequence[tuple[NDArray[Any], NDArray[Any]]],
    ) -> "Confusions":
        """From each image's (cells, counts)."""
        starts = np.cumsum([0, *(len(cells) for cells, _ in parts)])
        cells, counts = (
            np.concatenate([part[k] for part in parts] or [np.zeros(0)]) for k in range(2)
        )
        found = cells.astype(np.uint16), counts.astype(np.uint32)
        return cls(tuple(names), num_classes, starts, *found)

    def total(self) -> NDArray[np.int64]:
        """(K, K) sum of the matrices."""
        sums = np.bincount(self.cells, self.counts, minlength=self.num_classes**2)
        return sums.astype(np.int64).reshape(self.num_classes, self.num_classes)

    @cached_property
    def _margins(self) -> Floats:
        """(2, N, K): each image's right pixels per class, and true plus predicted ones."""
        rows = np.repeat(np.arange(len(self.names)), np.diff(self.starts))
        true, predicted = np.divmod(self.cells.astype(np.int64), self.num_classes)
        right = true == predicted
        margins = np.zeros((2, len(self.names), self.num_classes))
        np.add.at(margins[0], (rows[right], true[right]), self.counts[right])
        np.add.at(margins[1], (rows, true), self.counts)
        np.add.at(margins[1], (rows, predicted), self.counts)
        return margins

    def _resampled(self, weights: NDArray[np.number]) -> tuple[Floats, Floats]:
        """(..., K) IoU and union where image n counts weights[..., n] times."""
        right, both = weights @ self._margins  # (..., K)
        return ratio(right, both - right), both - right

    def resampled_iou(self, weights: NDArray[np.number]) -> Floats:
        """(..., K) IoU where image n counts weights[..., n] times; weights (..., N)."""
        return self._resampled(weights)[0]

    def resampled_miou(self, weights: NDArray[np.number]) -> tuple[Floats, Floats]:
        """(...,) mIoU of `resampled_iou`, and its standard error by the infinitesimal jackknife.

        The influence of an image is the derivative of the mIoU by its weight: the mean over the
        classes of (right (1 + IoU) - IoU (true + predicted)) / union.

        Source: Efron and Tibshirani, An Introduction to the Bootstrap, 1993, section 21.3.
        """
        iou, union = self._resampled(weights)
        known = ~np.isnan(iou)
        part = ratio(known, union * np.maximum(known.sum(-1, keepdims=True), 1))
        part, value = np.where(known, part, 0), np.where(known, iou, 0)
        gain = (part * (1 + value)) @ self._margins[0].T  # (..., N)
        loss = (part * value) @ self._margins[1].T
        return mean(iou), np.sqrt((weights * (gain - loss) ** 2).sum(-1))

    def influence(self) -> tuple[Floats, Floats]:
        """(K,) IoU and (N, K) its derivative by the weight of each image; NaN and 0 if unknown."""
        right, both = self._margins
        iou, union = self._resampled(np.ones(len(self.names)))
        value = np.nan_to_num(iou)
        change = (right * (1 + value) - both * value) / np.where(union > 0, union, np.inf)
        return iou, change

    def image_miou(self) -> Floats:
        """(N,) the mIoU of each image."""
        right, both = self._margins
        return mean(ratio(right, both - right))

    def save(self, path: str | Path) -> None:
        """Write a compressed .npz of the five fields, whole or not at all."""
        save_arrays(Path(path), **{each.name: getattr(self, each.name) for each in fields(self)})


def save_arrays(path: Path, **arrays: Any) -> None:
    """Write a compressed .npz, whole or not at all."""

    def write(temporary: Path) -> None:
        with temporary.open("wb") as file:  # given a path, NumPy would change its ending
            np.savez_compressed(file, **arrays)

    write_whole(path, write, RunError)


def load_confusions(path: str | Path) -> Confusions:
    """Read what `Confusions.save` wrote; raises `MissingFileError`, or `RunError` if damaged."""
    if not Path(path).is_file():
        remedy = "`python scripts/evaluate.py RUN --data ROOT` writes them"
        raise MissingFileError(f"there are no confusion matrices {path}; {remedy}")
    refuse_bomb(Path(path), RunError)
    try:
        with np.load(path) as file:
            names = tuple(map(str, file["names"]))
            starts, cells, counts = (file[name] for name in ("starts", "cells", "counts"))
            found = Confusions(names, int(file["num_classes"]), starts, cells, counts)
        kinds = starts.dtype.kind + cells.dtype.kind + counts.dtype.kind
        flat = all(part.ndim == 1 for part in (starts, cells, counts))
        whole = flat and kinds == "iuu" and 0 < len(names) == len(starts) - 1 and starts[0] == 0
        if not whole or (np.diff(starts) < 0).any():
            raise ValueError("its images have no cells of their own")
        if not starts[-1] == len(cells) == len(counts) or (cells >= found.num_classes**2).any():
            raise ValueError(f"its cells are not those of {found.num_classes} classes")
    except Exception as error:  # damaged archives raise many kinds
        raise RunError(f"{path} holds no confusion matrices: {error}; evaluate again") from None
    return found


def bootstrap_interval(
    confusions: Confusions, draws: int = 1000, seed: int = 0, level: float = LEVEL
) -> tuple[float, float]:
    """(low, high) of the mIoU (0..1) over resampled images; NaN for fewer than two images.

    The symmetric bootstrap-t interval: a draw's distance from the score counts in the draw's own
    standard errors, as plain percentiles miss the truth too often where classes occur in few
    images. It does not cover the spread between trainings, which is larger (1.0-1.3 points).

    Source: Hall, The Bootstrap and Edgeworth Expansion, 1992, section 3.6.
    """
    if draws < 1:
        raise ValueError(f"draws is {draws}; expected 1 or more")
    count = len(confusions.names)
    if count < 2:
        return float("nan"), float("nan")
    miou, error = confusions.resampled_miou(np.ones(count))
    if not error > 1e-12:  # identical images, or none that is labelled
        return float(miou), float(miou)
    found = [confusions.resampled_miou(weights) for weights in _drawn(count, draws, seed)]
    values, errors = (np.concatenate(parts) for parts in zip(*found, strict=True))
    reach = float(error * np.nanquantile(ratio(np.abs(values - miou), errors), level))
    return max(0.0, float(miou) - reach), min(1.0, float(miou) + reach)


def paired_intervals(a: Confusions, b: Confusions, draws: int = 1000) -> Floats:
    """(2, K + 1) low and high of the IoU of `a` less that of `b`, the mIoU's last.

    Both hold the same images in one order. Percentiles of draws that are the same for both; NaN
    for a class that neither has, and for fewer than two images.
    """
    count = len(a.names)
    if count < 2:
        return np.full((2, a.num_classes + 1), np.nan)
    found = []
    for weights in _drawn(count, draws):
        first, second = a.resampled_iou(weights), b.resampled_iou(weights)
        means = (mean(first) - mean(second))[:, None]
        found.append(np.concatenate([first - second, means], axis=1))
    table = np.concatenate(found)  # (draws, K + 1)
    table[:, np.isnan(table).all(0)] = 0  # np.nanquantile warns of columns without a number
    whole = a.resampled_iou(np.ones(count)) - b.resampled_iou(np.ones(count))
    known = ~np.isnan(np.append(whole, 0.0))
    limits = np.nanquantile(table, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=0)
    return np.where(known, limits, np.nan)


def _drawn(count: int, draws: int, seed: int = 0) -> Iterator[NDArray[np.int64]]:
    """How often each of `count` images comes in each draw, (up to 50, count) at a time."""
    rng = np.random.default_rng(seed)
    for start in range(0, draws, 50):
        yield rng.multinomial(count, np.full(count, 1 / count), min(50, draws - start))


def ratio(part: NDArray[np.number], whole: NDArray[np.number]) -> Floats:
    """The quotient part / whole, NaN where whole is 0."""
    quotient: Floats = np.full(np.shape(whole), np.nan)
    np.divide(part, whole, out=quotient, where=whole > 0)
    return quotient


def mean(values: Floats) -> Floats:
    """The mean over the last axis without its NaN; NaN where there is nothing else."""
    known = ~np.isnan(values)
    return ratio(np.where(known, values, 0).sum(-1), known.sum(-1))
