"""Whether anything can be learnt from the masks of a split, and the cure where not. Masks are read by masks.py."""

from collections.abc import Callable
from contextlib import suppress

import numpy as np
from numpy.typing import NDArray

from ccnet_lab.data.catalog import IGNORE, Dataset
from ccnet_lab.data.datasets import Split
from ccnet_lab.data.masks import read_labels
from ccnet_lab.errors import DataError


def check_learnable(split: Split, say: Callable[[str], None] | None = None) -> None:
    """Raise `DataError` where the masks of a split hold fewer than two classes; read until a second one is found, mostly in the first mask.

    With `say` it is also told what a training on one's own data would do unasked: the masks are read until every class was seen.
    Masks that cannot be read are passed over: `Split.read` has the words for them.
    """
    dataset = split.dataset
    pixels, enough = (
        np.zeros(dataset.num_classes + 1, np.int64),
        dataset.num_classes if say and dataset.classes else 2,
    )
    for pair in split.pairs:
        with suppress(DataError):
            pixels += pixels_of(read_labels(pair.mask, dataset), dataset)
        if np.count_nonzero(pixels[:-1]) >= max(2, enough):
            break
    if fault := one_class_fault(dataset, split.name, pixels):
        raise DataError(fault)
    if say and dataset.classes:
        for doubt in (contradiction(dataset), never_fault(dataset, split.name, pixels)):
            if doubt:
                say(f"warning: {doubt}")


def overlap(first: Split, second: Split) -> str:
    """Which pictures two splits have in common; "" where there are none."""
    both = sorted({pair.image for pair in first.pairs} & {pair.image for pair in second.pairs})
    names = ", ".join(path.name for path in both[:5]) + (
        f" and {len(both) - 5:,} more" if len(both) > 5 else ""
    )
    words = f"{first.name} and {second.name} have pictures in common: {names}"
    return (
        f"{words}; a score would count what was trained on, so name each in one of them"
        if both
        else ""
    )


def contradiction(dataset: Dataset) -> str:
    """What to do about ids that are a class and ignored at once; "" where there are none."""
    ids = dataset.label_ids or tuple(range(dataset.num_classes))
    both = [
        f"{i} ({dataset.class_names[ids.index(i)]})"
        for i in sorted({*ids} & {*dataset.ignored_ids})
    ]
    what = f"{', '.join(both)} of {dataset.title}: a class and ignored at once"
    return (
        f"id {what}; the class counts, so take the id out of ignore_id or the class out of names"
        if both
        else ""
    )


def never_fault(dataset: Dataset, split: str, pixels: NDArray[np.int64]) -> str:
    """Which classes have no pixel in a split, and what that may come from; "" where all have some, or nothing was counted."""
    never = [name for name, count in zip(dataset.class_names, pixels, strict=False) if not count]
    if not never or not pixels.any():
        return ""
    others = f" and {len(never) - 8} other classes" if len(never) > 8 else ""
    remedy = ids_remedy(dataset, pixels) if len(never) == 1 else ""
    return f"{split} has no pixel of {', '.join(never[:8])}{others}" + (
        f"; {remedy}" if remedy else ""
    )


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
    what = (
        f"every labelled pixel is {dataset.class_names[seen[0]]!r}"
        if len(seen)
        else "no pixel is labelled"
    )
    fault = f"nothing can be learnt from {split} of {dataset.title}: {what}, and a score over one class would be 100 % whatever is predicted"
    return f"{fault}; {ids_remedy(dataset, pixels) or 'look at the masks and at the ids in classes.json'}"


def ids_remedy(dataset: Dataset, pixels: NDArray[np.int64]) -> str:
    """What to write into `classes.json` if the pixels of id 255 are a class; "" where 255 is one already, or they may be of another id."""
    if (
        not dataset.classes
        or IGNORE in dataset.label_ids
        or {*dataset.ignored_ids} - {IGNORE}
        or not pixels[-1]
    ):
        return ""
    ids = [
        (dataset.label_ids or range(dataset.num_classes))[k] for k in np.flatnonzero(pixels[:-1])
    ] or [0]
    words = f'"ids": {[*ids, IGNORE]}' + (
        "" if dataset.num_classes == len(ids) + 1 else f" and {len(ids) + 1} names"
    )
    ignored = f"{100 * pixels[-1] / pixels.sum():.1f} % of the pixels are ignored, as the id {IGNORE} is unless a class has it"
    return f"{ignored}: if it stands for one, add {words} to classes.json"
