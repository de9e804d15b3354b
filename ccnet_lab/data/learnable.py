"""Whether anything can be learnt from the masks of a split, and the cure where not. Masks are read by datasets.py."""

from contextlib import suppress

import numpy as np
from numpy.typing import NDArray

from ccnet_lab.data.catalog import IGNORE, Dataset
from ccnet_lab.data.datasets import Split, read_labels
from ccnet_lab.errors import DataError


def check_learnable(split: Split) -> None:
    """Raise `DataError` where the masks of a split hold fewer than two classes; read until a second one is found, mostly in the first mask.

    Masks that cannot be read are passed over: `Split.read` has the words for them.
    """
    pixels = np.zeros(split.dataset.num_classes + 1, np.int64)
    for pair in split.pairs:
        with suppress(DataError):
            pixels += pixels_of(read_labels(pair.mask, split.dataset), split.dataset)
        if np.count_nonzero(pixels[:-1]) > 1:
            return
    if fault := one_class_fault(split.dataset, split.name, pixels):
        raise DataError(fault)


def pixels_of(labels: NDArray[np.uint8], dataset: Dataset) -> NDArray[np.int64]:
    """(K + 1,) pixels of each class in labels (H, W), and last the ignored ones."""
    counts = np.bincount(labels.ravel(), minlength=IGNORE + 1)
    return np.append(counts[: dataset.num_classes], counts[IGNORE])


def one_class_fault(dataset: Dataset, split: str, pixels: NDArray[np.int64]) -> str:
    """Why nothing can be learnt from a split of one's own with these `pixels_of` all its masks, and the cure; "" where something can.

    The commonest cause are masks drawn in black and white, 0 and 255, where 255 stands for what is ignored.
    """
    seen = np.flatnonzero(pixels[:-1])
    if not dataset.classes or len(seen) > 1 or not pixels.any():
        return ""
    what = f"every labelled pixel is {dataset.class_names[seen[0]]!r}" if len(seen) else "no pixel is labelled"
    fault = (
        f"nothing can be learnt from {split} of {dataset.title}: {what}, and a score over one class would be 100 % whatever is predicted"
    )
    return f"{fault}; {ids_remedy(dataset, pixels) or 'look at the masks and at the ids in classes.json'}"


def ids_remedy(dataset: Dataset, pixels: NDArray[np.int64]) -> str:
    """What to write into `classes.json` if the pixels of id 255 are a class; "" where 255 is one already, or they may be of another id."""
    if not dataset.classes or IGNORE in dataset.label_ids or {*dataset.ignored_ids} - {IGNORE} or not pixels[-1]:
        return ""
    ids = [(dataset.label_ids or range(dataset.num_classes))[k] for k in np.flatnonzero(pixels[:-1])] or [0]
    words = f'"ids": {[*ids, IGNORE]}' + ("" if dataset.num_classes == len(ids) + 1 else f" and {len(ids) + 1} names")
    ignored = f"{100 * pixels[-1] / pixels.sum():.1f} % of the pixels are ignored, as the id {IGNORE} is unless a class has it"
    return f"{ignored}: if it stands for one, add {words} to classes.json"
