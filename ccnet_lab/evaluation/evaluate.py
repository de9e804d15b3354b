"""A model's scores on a split, with the protocol beside them; and a demo model's on beacons.

The counts are in metrics.py, the predictions in predict.py, others' numbers in published.py.
"""

import json
import time
from collections.abc import Callable, Mapping
from contextlib import closing, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from ccnet_lab.configs import Config
from ccnet_lab.data.catalog import Dataset, get_dataset
from ccnet_lab.data.datasets import Split
from ccnet_lab.data.generated import beacons
from ccnet_lab.data.transforms import normalise
from ccnet_lab.device import arithmetic
from ccnet_lab.errors import ConfigError, RunError
from ccnet_lab.evaluation.metrics import (
    Confusions,
    bootstrap_interval,
    boundary_tally,
    confusion_matrix,
    mean,
    one_class,
    ratio,
    save_arrays,
    scores,
)
from ccnet_lab.evaluation.predict import Item, load, predict
from ccnet_lab.evaluation.protocol import Protocol, check_comparable, plan
from ccnet_lab.evaluation.published import beside_published
from ccnet_lab.model.ccnet import CCNet
from ccnet_lab.model.folding import ready
from ccnet_lab.model.upsample import upsampled_labels
from ccnet_lab.runs import Run

SAVE_EVERY = 60.0  # seconds
HELD_OUT = range(10_000_000, 10_000_500)  # seeds of beacon scenes that are never trained on


@dataclass(frozen=True)
class Evaluation:
    """The result of an evaluation. All scores are fractions 0..1.

    Attributes:
        protocol: how it was measured. class_names: K names. confusions: of every image.
        boundaries: (2, K) intersection and union of the classes' boundaries, pixels.
        seconds: it took, reading included.
        confusion: (K, K), the sum over the images.
        iou, miou, pixel_accuracy: as in `metrics.Scores`.
        boundary_iou: (K,), as `iou`; like `boundaries` None where it was left out.
    """

    protocol: Protocol
    class_names: tuple[str, ...]
    confusions: Confusions
    boundaries: NDArray[np.int64] | None
    seconds: float
    confusion: NDArray[np.int64]
    iou: NDArray[np.float64]
    miou: float
    pixel_accuracy: float
    boundary_iou: NDArray[np.float64] | None

    def to_dict(self) -> dict[str, Any]:
        """For scores.json; null for a class without pixels, and for what was left out.

        miou_interval is the 95 % bootstrap interval over the images, [null, null] for fewer than
        two.
        """
        edges = self.boundary_iou
        return {
            "miou": _plain(self.miou),
            "miou_interval": [_plain(value) for value in bootstrap_interval(self.confusions)],
            "pixel_accuracy": self.pixel_accuracy,
            "boundary_iou": None if edges is None else _plain(mean(edges)),
            "per_class_iou": self._by_class(self.iou),
            "per_class_boundary_iou": None if edges is None else self._by_class(edges),
            "protocol": self.protocol.to_dict(),
            "images_per_second": self.protocol.images / self.seconds,
        }

    def _by_class(self, values: NDArray[np.float64]) -> dict[str, float | None]:
        return dict(zip(self.class_names, map(_plain, values), strict=True))


def evaluate(
    model: nn.Module,
    split: Split,
    config: Config,
    *,
    device: str | torch.device = "cpu",
    workers: int = 0,
    boundaries: bool = True,
    progress: Callable[[int, int], object] | None = None,
    keep: Path | None = None,
    key: str = "",
    **how: Any,
) -> Evaluation:
    """Score a model on a split, image by image; memory does not grow with the split.

    Args:
        model: moved to `device`; afterwards in train or eval mode as before.
        split: from `data.datasets.open_split`.
        config: what the model was built from; its data set must be the split's.
        device, workers: where to compute; processes that decode and resize ahead.
        boundaries: whether to count the boundary IoU, too.
        progress: called with (images done, of how many) after every image.
        keep: a file for the counts so far, written every minute and on any interruption; the next
            call with the same protocol and `key` resumes there. It is removed at the end.
        key: identifies this model, such as the hash of its weights.
        **how: mode, scales, flip, precision, recurrence of `protocol.plan`; by default published.

    Raises `ConfigError` for a split of another data set; else as `Split.read` and `predict`.

    Source: SSSegmentation's evaluation (one confusion matrix over the whole split).
    """
    if split.dataset.key != config.dataset:
        raise ConfigError(
            f"{config.name} was trained on {get_dataset(config.dataset).title} and the split is "
            f"of {split.dataset.title}, whose classes are others; evaluate it on {config.dataset}"
        )
    protocol, device = plan(split, config, **how), torch.device(device)
    tally = _Tally.resume(keep, protocol, key, config.num_classes)
    training = model.training
    model.eval().to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    fast = protocol.precision.startswith("fast")
    network = ready(cast(CCNet, model), device) if fast else model
    try:
        with (
            arithmetic(device, protocol.precision),
            closing(load(split, protocol, workers, first=len(tally.names))) as items,
        ):
            for item in items:
                tally.add(item, predict(network, item, protocol, device), boundaries)
                tally.save(every=SAVE_EVERY)
                if progress is not None:
                    progress(len(tally.names), len(split))
    except BaseException:
        tally.save()
        raise
    finally:
        model.train(training)
    if keep is not None:
        keep.unlink(missing_ok=True)
    return tally.scored(protocol, split.dataset.class_names, boundaries)


@dataclass
class _Tally:
    """Counts over the first images of a split, which can be saved and resumed.

    Attributes:
        path: the file they are saved to, if any.
        mark: protocol and model; only the same are resumed.
        edges: (2, K) intersection and union of the classes' boundaries, pixels.
        parts: each image's confusion matrix, as (cells, counts) of its entries other than 0.
        seconds: spent, over all resumptions, up to the clock `now`.
    """

    path: Path | None
    mark: str
    num_classes: int
    edges: NDArray[np.int64]
    names: list[str] = field(default_factory=list)
    parts: list[tuple[NDArray[Any], NDArray[Any]]] = field(default_factory=list)
    seconds: float = 0.0
    now: float = field(default_factory=time.perf_counter)
    saved: float = field(default_factory=time.perf_counter)

    @classmethod
    def resume(cls, path: Path | None, protocol: Protocol, key: str, num_classes: int) -> "_Tally":
        """The counts saved at `path` for this protocol and model, or empty ones."""
        mark = json.dumps([protocol.to_dict(), key], sort_keys=True)
        tally = cls(path, mark, num_classes, np.zeros((2, num_classes), np.int64))
        if path is None or not path.is_file():
            return tally
        # Damaged archives raise many kinds of errors; then the counts begin anew.
        with suppress(Exception), np.load(path) as file:
            if str(file["mark"]) == mark:
                cells, counts = (
                    np.split(file[name], file["starts"][1:-1]) for name in ("cells", "counts")
                )
                saved = {"edges": file["edges"], "seconds": float(file["seconds"])}
                names, parts = list(map(str, file["names"])), list(zip(cells, counts, strict=True))
                return replace(tally, names=names, parts=parts, **saved)
        return tally

    def add(self, item: Item, prediction: NDArray[np.uint8], boundaries: bool) -> None:
        """Count one image and its prediction (H, W)."""
        target = item.labels.numpy()
        confusion = confusion_matrix(target, prediction, self.num_classes)
        cells = np.flatnonzero(confusion)
        self.names.append(item.name)
        self.parts.append((cells.astype(np.uint16), confusion.ravel()[cells].astype(np.uint32)))
        if boundaries:
            self.edges += boundary_tally(target, prediction, self.num_classes)
        before, self.now = self.now, time.perf_counter()
        self.seconds += self.now - before

    @property
    def confusions(self) -> Confusions:
        """The confusion matrices of the images so far."""
        return Confusions.collect(self.names, self.num_classes, self.parts)

    def scored(
        self, protocol: Protocol, class_names: tuple[str, ...], boundaries: bool
    ) -> Evaluation:
        """The scores of what was counted."""
        confusions = self.confusions
        confusion = confusions.total()
        return Evaluation(
            protocol,
            class_names,
            confusions,
            self.edges if boundaries else None,
            self.seconds,
            confusion,
            **scores(confusion)._asdict(),
            boundary_iou=ratio(*self.edges) if boundaries else None,
        )

    def save(self, every: float = 0.0) -> None:
        """Write the counts, whole or not at all, if they are older than `every` seconds."""
        if self.path is None or not self.names or self.now - self.saved < every:
            return
        self.saved = self.now
        found = {name: getattr(self, name) for name in ("mark", "names", "edges", "seconds")}
        cells = {name: getattr(self.confusions, name) for name in ("starts", "cells", "counts")}
        save_arrays(self.path, **found, **cells)


def on_own(config: Config, own: Dataset) -> Config:
    """A model's configuration on a user's own folder; `ConfigError` for other classes."""
    trained = get_dataset(config.dataset)
    if own.class_names != trained.class_names:
        there, here = (
            ", ".join(d.class_names[:8]) + (", ..." if d.num_classes > 8 else "")
            for d in (own, trained)
        )
        raise ConfigError(
            f"{own.root} has {own.num_classes} classes ({there}) and the model was trained on "
            f"{trained.num_classes} of {trained.title} ({here}); give a folder whose "
            "classes.json has the model's names in their order"
        )
    return config if trained.classes else replace(config, dataset=own.key, alias="")


def conflict(run: Run, protocol: Protocol) -> str:
    """Why scores under `protocol` must not replace the run's; "" where they may."""
    if run.scores is None:
        return ""
    try:
        check_comparable(Protocol.from_dict(run.scores.get("protocol", {})), protocol)
        return ""
    except RunError as error:
        return f"{run.folder} holds scores under another protocol, which stay as they are: {error}"


def score_table(found: Mapping[str, Any]) -> str:
    """A Markdown table, in percent, of a scores.json: per class, the mean, the pixel accuracy."""
    edges = found.get("per_class_boundary_iou") or {}
    rows = [
        (name, _percent(iou), _percent(edges.get(name)))
        for name, iou in found["per_class_iou"].items()
    ]
    miou, interval = _percent(found["miou"]), found.get("miou_interval")
    if interval and None not in interval:
        miou += f" ({_percent(interval[0])} to {_percent(interval[1])})"
    remark = one_class(found["per_class_iou"].values()) or "95 % over images"
    rows.append((f"**mean** ({remark})", miou, _percent(found.get("boundary_iou"))))
    lines = ["| class | IoU % | boundary IoU % |", "| --- | ---: | ---: |"]
    lines += [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join([*lines, "", f"pixel accuracy {_percent(found['pixel_accuracy'])} %"]) + "\n"


def published_line(config: Config, found: Mapping[str, Any]) -> str:
    """One sentence that sets the score beside the published one, or says why it can't be."""
    return beside_published(config, found).line


@dataclass(frozen=True)
class BeaconScores:
    """Scores on beacon scenes, 0..1; accuracies are over disc pixels (chance 0.25).

    Attributes:
        miou: over background and the discs' four kinds.
        on_cross: accuracy on discs whose cell shares a row or column with the beacon.
        off_cross: accuracy on the other disc pixels.
        out_of_reach: accuracy on disc pixels off the cross that not even the upsampling connects
            with it at R = 1.
    """

    miou: float
    on_cross: float
    off_cross: float
    out_of_reach: float


@torch.inference_mode()
def score_demo(
    model: CCNet, recurrence: int | None = None, seeds: range = HELD_OUT
) -> BeaconScores:
    """Scores of a demo model on the scenes of `seeds`, by default at its own recurrence."""
    classes = get_dataset("beacons").num_classes
    confusion = np.zeros((classes, classes), np.int64)
    right = {"on_cross": 0, "off_cross": 0, "out_of_reach": 0}  # disc pixels
    count = dict.fromkeys(right, 0)
    for seed in seeds:
        scene = beacons.make_scene(seed)
        image = normalise(scene.image[None]).to(model.attention.gamma.device)
        logits = model(image, recurrence=recurrence).logits[0]
        predicted = upsampled_labels([logits], scene.labels.shape).cpu().numpy()
        confusion += confusion_matrix(scene.labels, predicted, classes)
        disc, on = scene.labels > 0, beacons.on_cross(scene)
        places = {"on_cross": on, "off_cross": ~on, "out_of_reach": beacons.out_of_reach(scene)}
        for name, place in places.items():
            right[name] += int((predicted == scene.labels)[disc & place].sum())
            count[name] += int((disc & place).sum())
    accuracies = {name: right[name] / max(1, count[name]) for name in right}
    return BeaconScores(scores(confusion).miou, **accuracies)


def _plain(value: float | NDArray[np.float64]) -> float | None:
    return None if np.isnan(value) else float(value)


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.2f}"
