"""Evaluation: a model's scores on a split, with the protocol beside them. Counts are in metrics.py, predictions in inference.py."""

import json
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from ccnet_lab.configs import Config
from ccnet_lab.data.catalog import get_dataset
from ccnet_lab.data.datasets import Split
from ccnet_lab.device import arithmetic
from ccnet_lab.errors import ConfigError, ProtocolError
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
from ccnet_lab.evaluation.predict import load, predict
from ccnet_lab.evaluation.protocol import Protocol, check_comparable, plan, published_protocol
from ccnet_lab.model.ccnet import CCNet
from ccnet_lab.model.folding import ready

SAVE_EVERY = 60.0  # seconds

__all__ = ["Evaluation", "confusion_matrix", "evaluate", "published_line", "score_table", "scores"]


@dataclass(frozen=True)
class Evaluation:
    """What an evaluation found. All scores are fractions 0..1.

    Attributes:
        protocol: how it was measured. class_names: K names. confusions: of every image.
        boundaries: (2, K) intersection and union of the classes' boundaries, pixels; None where they were left out.
        seconds: it took, reading included.
        confusion: (K, K), the sum over the images.
        iou, miou, pixel_accuracy: as in `scoring.metrics.Scores`.
        boundary_iou: (K,), as `iou`; None where it was left out.
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
        """For scores.json; null for a class that neither occurs nor is predicted, and for what was left out.

        miou_interval is the 95 % bootstrap interval over the images, [null, null] for fewer than two.
        """
        edges = self.boundary_iou
        return {
            "miou": _plain(self.miou),
            "miou_interval": [_plain(value) for value in bootstrap_interval(self.confusions)],
            "pixel_accuracy": self.pixel_accuracy,
            "boundary_iou": None if edges is None else _plain(mean(edges)),
            "per_class_iou": dict(zip(self.class_names, map(_plain, self.iou), strict=True)),
            "per_class_boundary_iou": None
            if edges is None
            else dict(zip(self.class_names, map(_plain, edges), strict=True)),
            "protocol": self.protocol.to_dict(),
            "images_per_second": self.protocol.images / self.seconds,
        }


def evaluate(
    model: nn.Module,
    split: Split,
    config: Config,
    *,
    mode: str = "whole",
    scales: Sequence[float] = (1.0,),
    flip: bool = False,
    device: str | torch.device = "cpu",
    precision: str = "fp32",
    workers: int = 0,
    recurrence: int | None = None,
    boundaries: bool = True,
    progress: Callable[[int, float], object] | None = None,
    keep: Path | None = None,
    key: str = "",
) -> Evaluation:
    """Score a model on a split, image by image; memory does not grow with the split.

    Args:
        model: moved to `device`; its train or eval mode is as before afterwards.
        split: from `data.datasets.open_split`.
        config: what the model was built from; its data set must be the split's.
        mode, scales, flip, precision, recurrence: the protocol's; the defaults are those of the published numbers.
        workers: processes that decode and resize ahead; 0 does it in turn.
        boundaries: whether to count the boundary IoU, too.
        progress: called with (images done, mIoU so far) after every image; NaN as long as it is that of one class.
        keep: a file for what is counted so far, written every minute and when the evaluation is broken off; the next call with the same
            protocol and `key` goes on from there. It is removed at the end.
        key: what tells this model from others, such as the hash of its weights.

    Raises:
        ConfigError: the split is of another data set.
        DataError, DeviceError, WeightsError, ProtocolError: as `Split.read`, `inference.predict` and `Protocol`.

    Source: SSSegmentation's evaluation (one confusion matrix over the whole split).
    """
    if split.dataset.key != config.dataset:
        raise ConfigError(
            f"{config.name} was trained on {get_dataset(config.dataset).title} and the split is of {split.dataset.title}, whose classes "
            f"are others; evaluate it on {config.dataset}"
        )
    protocol = plan(
        split,
        config,
        mode=mode,
        scales=scales,
        flip=flip,
        precision=precision,
        recurrence=recurrence,
    )
    device, training, classes = torch.device(device), model.training, config.num_classes
    model.eval().to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    network = ready(cast(CCNet, model), device) if precision.startswith("fast") else model
    tally = _Tally.begin(keep, protocol, key, classes)
    running = tally.confusions().total()
    start = saved = time.perf_counter()
    try:
        with (
            arithmetic(device, precision),
            closing(load(split, protocol, workers, first=len(tally.names))) as items,
        ):
            for item in items:
                target, prediction = item.labels.numpy(), predict(network, item, protocol, device)
                confusion = confusion_matrix(target, prediction, classes)
                tally.add(
                    item.name,
                    confusion,
                    boundary_tally(target, prediction, classes) if boundaries else None,
                )
                running += confusion
                now = time.perf_counter()
                tally.seconds, start = tally.seconds + now - start, now
                if keep is not None and now - saved > SAVE_EVERY:
                    tally.save(keep)
                    saved = now
                if progress is not None:
                    so_far = scores(running)
                    progress(
                        len(tally.names), float("nan") if one_class(so_far.iou) else so_far.miou
                    )
    except BaseException:
        if keep is not None and tally.names:
            tally.save(keep)
        raise
    finally:
        model.train(training)
    if keep is not None:
        keep.unlink(missing_ok=True)
    confusions, edges = tally.confusions(), tally.edges if boundaries else None
    edge_iou = None if edges is None else ratio(*edges)
    return Evaluation(
        protocol,
        split.dataset.class_names,
        confusions,
        edges,
        tally.seconds,
        running,
        **scores(running)._asdict(),
        boundary_iou=edge_iou,
    )


@dataclass
class _Tally:
    """Counts over the first images of a split, which can be stored and gone on with.

    Attributes:
        mark: of what was counted: protocol and model; only the same is gone on with.
        parts: each image's confusion matrix, as (cells, counts) of its entries other than 0.
        edges: (2, K) intersection and union of the classes' boundaries, pixels.
    """

    mark: str
    num_classes: int
    names: list[str]
    parts: list[tuple[NDArray[Any], NDArray[Any]]]
    edges: NDArray[np.int64]
    seconds: float = 0.0

    @classmethod
    def begin(cls, path: Path | None, protocol: Protocol, key: str, num_classes: int) -> "_Tally":
        """What `save` left at `path` for this protocol and model, or an empty one."""
        mark = json.dumps([protocol.to_dict(), key], sort_keys=True)
        if path is not None and path.is_file():
            with (
                suppress(Exception),
                np.load(path) as file,
            ):  # damaged archives raise many kinds; then it is counted anew
                if str(file["mark"]) == mark:
                    ends = np.cumsum(file["lengths"])[:-1]
                    parts = list(
                        zip(
                            np.split(file["cells"], ends),
                            np.split(file["counts"], ends),
                            strict=True,
                        )
                    )
                    return cls(
                        mark,
                        num_classes,
                        list(map(str, file["names"])),
                        parts,
                        file["edges"],
                        float(file["seconds"]),
                    )
        return cls(mark, num_classes, [], [], np.zeros((2, num_classes), np.int64))

    def add(self, name: str, confusion: NDArray[np.int64], edges: NDArray[np.int64] | None) -> None:
        """Count one image: its (K, K) confusion matrix and (2, K) boundaries."""
        cells = np.flatnonzero(confusion)
        self.names.append(name)
        self.parts.append((cells.astype(np.uint16), confusion.ravel()[cells].astype(np.uint32)))
        if edges is not None:
            self.edges += edges

    def confusions(self) -> Confusions:
        """The confusion matrices of the images so far."""
        return Confusions.collect(self.names, self.num_classes, self.parts)

    def save(self, path: Path) -> None:
        """Store it, whole or not at all."""
        cells, counts = zip(*self.parts, strict=True)
        arrays = {
            "lengths": [len(part) for part in cells],
            "cells": np.concatenate(cells),
            "counts": np.concatenate(counts),
        }
        save_arrays(
            path, mark=self.mark, names=self.names, edges=self.edges, seconds=self.seconds, **arrays
        )


def score_table(found: Mapping[str, Any]) -> str:
    """A Markdown table, in percent, of `Evaluation.to_dict`'s scores (or a scores.json): per class, the mean, the pixel accuracy."""
    edges = found.get("per_class_boundary_iou") or {}
    rows = [
        (name, _percent(iou), _percent(edges.get(name)))
        for name, iou in found["per_class_iou"].items()
    ]
    miou, interval = _percent(found["miou"]), found.get("miou_interval")
    if interval and None not in interval:
        miou += f" ({_percent(interval[0])} to {_percent(interval[1])})"
    alone = one_class(found["per_class_iou"].values())
    rows.append(
        (f"**mean** ({alone or '95 % over images'})", miou, _percent(found.get("boundary_iou")))
    )
    lines = [
        "| class | IoU % | boundary IoU % |",
        "| --- | ---: | ---: |",
        *(f"| {' | '.join(row)} |" for row in rows),
    ]
    return "\n".join([*lines, "", f"pixel accuracy {_percent(found['pixel_accuracy'])} %"]) + "\n"


def published_line(config: Config, found: Mapping[str, Any]) -> str:
    """One sentence that sets the score beside the published one, or says why it can't be."""
    if config.published_miou is None:
        return f"no mIoU is published for {config.name} as it is configured here"
    try:
        check_comparable(Protocol.from_dict(found["protocol"]), published_protocol(config))
    except ProtocolError as error:
        return f"published: {config.published_miou:.2f} %, not comparable: {error}"
    return f"mIoU {_percent(found['miou'])} %, published {config.published_miou:.2f} % under the same protocol ({config.published_url})"


def _plain(value: float | NDArray[np.float64]) -> float | None:
    return None if np.isnan(value) else float(value)


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.2f}"
