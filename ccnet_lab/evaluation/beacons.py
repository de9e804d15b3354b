"""Scores of a demo model on held-out beacon scenes, on the beacon's cross and off it. The scenes are data/generated/beacons.py's."""

from dataclasses import dataclass

import numpy as np
import torch

from ccnet_lab.data.catalog import get_dataset
from ccnet_lab.data.generated import beacons
from ccnet_lab.data.transforms import normalise
from ccnet_lab.evaluation.metrics import confusion_matrix, scores
from ccnet_lab.model.ccnet import CCNet

HELD_OUT = range(10_000_000, 10_000_500)  # seeds of the scenes that are never trained on


@dataclass(frozen=True)
class BeaconScores:
    """Scores on held-out scenes, all 0..1: mean IoU over background and the discs' four kinds, accuracies over disc pixels (chance 0.25).

    Attributes:
        on_cross: accuracy on discs whose cell shares a row or column with the beacon.
        off_cross: accuracy on the other disc pixels.
        out_of_reach: accuracy on the disc pixels off the cross that not even the upsampling connects with it at R = 1.
    """

    miou: float
    on_cross: float
    off_cross: float
    out_of_reach: float


@torch.inference_mode()
def score_demo(
    model: CCNet, recurrence: int | None = None, seeds: range = HELD_OUT
) -> BeaconScores:
    """Scores of a demo model on the scenes of `seeds`, with its own recurrence unless another is given."""
    classes = get_dataset("beacons").num_classes
    confusion = np.zeros((classes, classes), np.int64)
    right = {"on_cross": [0, 0], "off_cross": [0, 0], "out_of_reach": [0, 0]}
    for seed in seeds:
        scene = beacons.make_scene(seed)
        logits = model(
            normalise(scene.image[None]).to(model.attention.gamma.device), recurrence=recurrence
        ).logits
        logits = torch.nn.functional.interpolate(
            logits, size=scene.labels.shape, mode="bilinear", align_corners=False
        )
        predicted = logits[0].argmax(0).cpu().numpy()
        confusion += confusion_matrix(scene.labels, predicted, classes)
        disc, on = scene.labels > 0, beacons.on_cross(scene)
        for name, where in (
            ("on_cross", on),
            ("off_cross", ~on),
            ("out_of_reach", beacons.out_of_reach(scene)),
        ):
            right[name][0] += int((predicted == scene.labels)[disc & where].sum())
            right[name][1] += int((disc & where).sum())
    return BeaconScores(
        scores(confusion).miou,
        **{name: hits / max(1, total) for name, (hits, total) in right.items()},
    )
