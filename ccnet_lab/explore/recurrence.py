"""One set of weights at several R: labels, what changes, scores; draw/figures.py draws it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ccnet_lab.data.catalog import IGNORE, get_dataset
from ccnet_lab.data.datasets import read_labels
from ccnet_lab.data.masks import stated_size
from ccnet_lab.errors import ConfigError, ImageError
from ccnet_lab.evaluation.evaluate import HELD_OUT, BeaconScores, score_demo
from ccnet_lab.evaluation.metrics import Scores, confusion_matrix, scores
from ccnet_lab.explore.explorer import Explorer, View

GAMMA_NEAR_ZERO = 0.01  # below it the attention adds next to nothing, and every R gives the same
SOME = HELD_OUT[:40]


class Flip(NamedTuple):
    """`pixels` of class `before`, at the R the model was trained with, became class `after`."""

    before: int
    after: int
    pixels: int
    share: float  # 0..1 of all pixels


@dataclass(frozen=True)
class AtRecurrence:
    """What the weights give at one R."""

    recurrence: int
    labels: NDArray[np.uint8]  # (H, W) class ids
    changed: NDArray[np.bool_]  # (H, W) where they differ from those at the trained R
    changed_share: float  # 0..1 of the pixels
    flips: tuple[Flip, ...]  # the changes by class, the most frequent first
    scores: Scores | None  # None without a mask


@dataclass(frozen=True)
class RecurrenceComparison:
    """The same weights at several R."""

    trained: int  # the R they were trained with
    gamma: float  # the attention's residual weight
    at: tuple[AtRecurrence, ...]  # one record per R asked for

    @property
    def gamma_near_zero(self) -> bool:
        """Whether gamma is so small that every R gives the same."""
        return abs(self.gamma) < GAMMA_NEAR_ZERO


def compare_recurrences(
    view: View, recurrences: Sequence[int] = (0, 1, 2, 3), mask: NDArray[np.integer] | None = None
) -> RecurrenceComparison:
    """Labels at each R, changes against the trained R, and, with a mask, the scores on this image.

    Args:
        view: an image as a model sees it.
        recurrences: each 0 or more; 0 leaves the attention out.
        mask: (H, W) class ids, `IGNORE` for pixels that don't count. Raises as `check_mask`.
    """
    if mask is not None:
        check_mask(mask, view)
    gamma = view.explorer.model.attention.gamma.item()
    return RecurrenceComparison(
        view.recurrence, gamma, tuple(_at(view, r, mask) for r in recurrences)
    )


def _at(view: View, recurrence: int, mask: NDArray[np.integer] | None) -> AtRecurrence:
    classes, labels = len(view.explorer.class_names), view.labels_at(recurrence)
    changed = labels != view.labels
    pairs = confusion_matrix(view.labels, labels, classes)
    np.fill_diagonal(pairs, 0)
    flips = [
        Flip(int(before), int(after), int(count), float(count / labels.size))
        for (before, after), count in np.ndenumerate(pairs)
        if count
    ]
    flips.sort(key=lambda flip: -flip.pixels)
    found = None if mask is None else scores(confusion_matrix(mask, labels, classes))
    return AtRecurrence(recurrence, labels, changed, float(changed.mean()), tuple(flips), found)


def read_mask(path: str | Path, view: View) -> NDArray[np.uint8]:
    """(H, W) class ids and `IGNORE` of a palette or grey PNG that labels the view's image.

    Its ids are those of the data set's files. Raises as `check_mask`, and `DataError` where the
    file is not readable, a colour picture, or has other ids.
    """
    stated = stated_size(Path(path))  # before anything is decoded
    if stated is not None and {*stated} != {*view.size}:
        raise _of_another_size(stated, view)
    mask = read_labels(Path(path), get_dataset(view.explorer.config.dataset))
    check_mask(mask, view)
    return mask


def _of_another_size(shape: tuple[int, ...], view: View) -> ImageError:
    came, expected = (" x ".join(map(str, size[::-1])) for size in (shape, view.size))
    which = "give the mask that was made for this very image"
    return ImageError(f"the mask is {came} pixels and the image {expected}; {which}")


def check_mask(mask: NDArray[np.integer], view: View) -> None:
    """Raise `ImageError` unless the mask has the image's size and only class ids and `IGNORE`."""
    if mask.shape != view.size:
        raise _of_another_size(mask.shape, view)
    if not np.issubdtype(mask.dtype, np.integer):
        raise ImageError(f"the mask holds {mask.dtype}; expected class ids as integers, uint8 say")
    ids, classes = np.unique(mask), len(view.explorer.class_names)
    if strange := [str(i) for i in ids if not 0 <= i < classes and i != IGNORE]:
        raise ImageError(
            f"the mask holds ids that are no classes here: {', '.join(strange[:10])}; "
            f"expected 0 to {classes - 1}, or {IGNORE} for ignored"
        )


def beacon_accuracy(
    explorer: Explorer,
    recurrences: Sequence[int] = (0, 1, 2, 3),
    seeds: range = SOME,
    progress: Callable[[int, int], object] | None = None,
) -> dict[int, BeaconScores]:
    """Accuracy on and off the beacon's cross, on generated scenes, with the same weights at each R.

    Args:
        explorer: of a model trained on beacons; raises `ConfigError` for another.
        recurrences: each 0 or more. seeds: of the scenes; by default held out from training.
        progress: called with (recurrences done, recurrences in all).
    """
    if explorer.config.dataset != "beacons":
        title = get_dataset(explorer.config.dataset).title
        trained = f"{explorer.config.name} was trained on {title}"
        raise ConfigError(f"{trained} and knows no beacons; open 'demo' or 'demo_r1'")
    found = {}
    for done, recurrence in enumerate(recurrences, 1):
        found[recurrence] = score_demo(explorer.network, recurrence, seeds)
        if progress is not None:
            progress(done, len(recurrences))
    return found
