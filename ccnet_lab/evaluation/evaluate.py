"""A model's scores on a split, with the protocol beside them; and a demo model's on beacons.

The counts are in metrics.py, the predictions in predict.py, others' numbers in published.py.
"""

import json
import time
from collections.abc import Callable, Mapping
from contextlib import closing, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from textwrap import shorten
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from ccnet_lab.configs import Config
from ccnet_lab.data.catalog import Dataset, get_dataset
from ccnet_lab.data.datasets import Split
from ccnet_lab.data.generated import beacons
from ccnet_lab.data.transforms import normalise
from ccnet_lab.device import arithmetic, has_bf16
from ccnet_lab.errors import ConfigError, RunError
from ccnet_lab.evaluation.metrics import (
    Confusions,
    bootstrap_interval,
    boundary_tally,
    confusion_matrix,
    mean,
    one_class,
    percent,
    ratio,
    save_arrays,
    scores,
)
from ccnet_lab.evaluation.predict import Item, load, predict
from ccnet_lab.evaluation.protocol import Protocol, check_comparable, plan
from ccnet_lab.files import refuse_bomb
from ccnet_lab.model.ccnet import CCNet
from ccnet_lab.model.folding import ready
from ccnet_lab.model.upsample import upsampled_labels
from ccnet_lab.runs import Run

SAVE_EVERY = 60.0  # seconds
HELD_OUT = range(10_000_000, 10_000_500)  # seeds of beacon scenes that are never trained on


@dataclass(frozen=True)
class Evaluation:
    """The result of an evaluation of K classes. All scores are fractions 0..1."""

    protocol: Protocol  # how it was measured
    class_names: tuple[str, ...]
    confusions: Confusions  # of every image
    boundaries: NDArray[np.int64] | None  # as `boundary_tally`, of all images; None if left out
    seconds: float  # it took, reading included
    confusion: NDArray[np.int64]  # (K, K), the sum over the images
    iou: NDArray[np.float64]  # (K,); this and the next two as in `metrics.Scores`
    miou: float
    pixel_accuracy: float

    def to_dict(self) -> dict[str, Any]:
        """For scores.json; null for a class without pixels, and for what was left out.

        miou_interval is the 95 % bootstrap interval over the images, [null, null] for fewer than
        two.
        """
        edges = None if self.boundaries is None else ratio(*self.boundaries)
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
    network = ready(cast(CCNet, model), device, has_bf16(device)) if fast else model
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
    confusions, edges = tally.confusions, tally.edges if boundaries else None
    total, names = confusions.total(), split.dataset.class_names
    return Evaluation(protocol, names, confusions, edges, tally.seconds, total, *scores(total))


@dataclass
class _Tally:
    """Counts over the first images of a split, which can be saved and resumed."""

    path: Path | None  # the file they are saved to, if any
    mark: str  # protocol and model; only the same are resumed
    num_classes: int
    edges: NDArray[np.int64]  # (2, K) as `boundary_tally`
    names: list[str] = field(default_factory=list)
    parts: list[tuple[NDArray[Any], NDArray[Any]]] = field(default_factory=list)  # cells, counts
    seconds: float = 0.0  # spent, over all resumptions, up to the clock `now`
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
        with suppress(Exception):
            refuse_bomb(path, RunError)
            with np.load(path) as file:
                kept = {name: file[name] for name in file.files}
            if str(kept["mark"]) == mark:
                ends = kept["starts"][1:-1]
                parts = zip(*(np.split(kept[k], ends) for k in ("cells", "counts")), strict=True)
                found: dict[str, Any] = {"names": [*map(str, kept["names"])], "parts": [*parts]}
                seconds = float(kept["seconds"])
                return replace(tally, edges=kept["edges"], seconds=seconds, **found)
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
        return Confusions.collect(self.names, self.num_classes, self.parts)

    def save(self, every: float = 0.0) -> None:
        """Write the counts, whole or not at all, if they are older than `every` seconds."""
        if self.path is None or not self.names or self.now - self.saved < every:
            return
        self.saved = self.now
        more = {"mark": self.mark, "edges": self.edges, "seconds": self.seconds}
        save_arrays(self.path, **vars(self.confusions), **more)


def on_own(config: Config, own: Dataset) -> Config:
    """A model's configuration on a user's own folder; `ConfigError` for other classes."""
    trained = get_dataset(config.dataset)
    if own.class_names != trained.class_names:
        there, here = (shorten(", ".join(d.class_names), 100) for d in (own, trained))
        raise ConfigError(
            f"{own.root} has {own.num_classes} classes ({there}) and the model was trained on "
            f"{trained.num_classes} of {trained.title} ({here}); give a folder whose "
            "classes.json has the model's names in their order"
        )
    return config if trained.classes else replace(config, dataset=own.key, alias="")


def conflict(run: Run, protocol: Protocol) -> str:
    """Why scores under `protocol` must not replace the run's; "" where they may."""
    try:
        if run.scores is not None:
            check_comparable(Protocol.from_dict(run.scores.get("protocol", {})), protocol)
        return ""
    except RunError as error:
        return f"{run.folder} holds scores under another protocol, which stay as they are: {error}"


def score_table(found: Mapping[str, Any]) -> str:
    """A Markdown table, in percent, of a scores.json: per class, the mean, the pixel accuracy."""
    edges = found.get("per_class_boundary_iou") or {}
    rows = [
        (name, percent(iou), percent(edges.get(name)))
        for name, iou in found["per_class_iou"].items()
    ]
    miou, interval = percent(found["miou"]), found.get("miou_interval")
    if interval and None not in interval:
        miou += f" ({percent(interval[0])} to {percent(interval[1])})"
    remark = one_class(found["per_class_iou"].values()) or "95 % over images"
    rows.append((f"**mean** ({remark})", miou, percent(found.get("boundary_iou"))))
    lines = ["| class | IoU % | boundary IoU % |", "| --- | ---: | ---: |"]
    lines += [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join([*lines, "", f"pixel accuracy {percent(found['pixel_accuracy'])} %"]) + "\n"


class BeaconScores(NamedTuple):
    """Scores on beacon scenes, 0..1; accuracies are over disc pixels (chance 0.25)."""

    miou: float  # over background and the discs' four kinds
    on_cross: float  # accuracy on discs whose cell shares a row or column with the beacon
    off_cross: float  # on the other disc pixels
    out_of_reach: float  # on those that not even the upsampling connects with the cross at R = 1


@torch.inference_mode()
def score_demo(
    model: CCNet, recurrence: int | None = None, seeds: range = HELD_OUT
) -> BeaconScores:
    """Scores of a demo model on the scenes of `seeds`, by default at its own recurrence."""
    classes = get_dataset("beacons").num_classes
    confusion = np.zeros((classes, classes), np.int64)
    right, count = np.zeros((2, 3), np.int64)  # pixels on the cross, off it, out of reach
    for seed in seeds:
        scene = beacons.make_scene(seed)
        image = normalise(scene.image[None]).to(model.attention.gamma.device)
        logits = model(image, recurrence=recurrence).logits[0]
        predicted = upsampled_labels([logits], scene.labels.shape).cpu().numpy()
        confusion += confusion_matrix(scene.labels, predicted, classes)
        on_cross = beacons.on_cross(scene)
        places = np.stack([on_cross, ~on_cross, beacons.out_of_reach(scene)])  # (3, H, W)
        places &= scene.labels > 0
        right += (places & (predicted == scene.labels)).sum((1, 2))
        count += places.sum((1, 2))
    accuracies = (right / np.maximum(1, count)).tolist()
    return BeaconScores(scores(confusion).miou, *accuracies)


def _plain(value: float | NDArray[np.float64]) -> float | None:
    return None if np.isnan(value) else float(value)
