"""The pictures of the tab Recurrence: the labels at each R, and where they differ."""

from typing import Any

import numpy as np

from ccnet_lab.draw import pictures
from ccnet_lab.evaluation.metrics import one_class
from ccnet_lab.explore.explorer import View
from ccnet_lab.explore.recurrence import RecurrenceComparison

MAP = 360  # longer side of a picture, pixels
CHANGED = np.array([213, 94, 0], np.uint8)  # RGB of changed pixels, over the grey picture
BLACK_WHITE = ((0, 0, 0), (255, 255, 255))


def label_rows(view: View, found: RecurrenceComparison) -> dict[str, list[dict[str, Any]]]:
    """The pictures of the labels and of what changed, at each R."""
    size = pictures.shown_size(*view.size, MAP)
    image = pictures.resized(view.image, size)
    dark = (pictures.grey(image) * 0.45).astype(np.uint8)
    labels, changed = [], []
    for at in found.at:
        colours = pictures.label_picture(at.labels, view.explorer.palette, size)
        labels.append(
            {
                "r": at.recurrence,
                "png": pictures.png(pictures.blend(image, colours, 0.6)),
                "scores": at.scores,
                "note": one_class(at.scores.iou) if at.scores else "",
            }
        )
        where = pictures.label_picture(at.changed.astype(np.uint8), BLACK_WHITE, size) > 0
        picture = pictures.png(np.where(where, CHANGED, dark))
        changed.append({"r": at.recurrence, "png": picture, "changed": at.changed_share})
    return {"labels": labels, "changed": changed}
