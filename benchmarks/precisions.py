"""Trainings and the explorer's looks in float32 and in faster forms: time, and how they differ."""

import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from benchmarks.timing import summary
from ccnet_lab.configs import Config, get_config
from ccnet_lab.explore.explorer import Explorer, View
from ccnet_lab.explore.measures import first_pixel
from ccnet_lab.model.ccnet import CCNet
from ccnet_lab.runs import Run
from ccnet_lab.training.loop import train
from ccnet_lab.training.settings import Settings

# The street model's coarse form on photographs of a third of their size: minutes of one CPU core.
SMALL = replace(
    get_config("street8"), crop_size=(96, 128), resize=(160, 120), alias="street8_small"
)
FORMS: Mapping[str, Mapping[str, Any]] = {
    "float32": {"precision": "fp32"},
    "bf16": {"precision": "bf16"},
    "compiled": {"precision": "fp32", "compile": True},
    "bf16, compiled": {"precision": "bf16", "compile": True},
}


def agreement(
    folder: Path, settings: Settings, forms: tuple[str, ...], seeds: int
) -> dict[str, Any]:
    """Train `SMALL` in every form from every seed and compare each form with float32.

    Runs that are finished in `folder` are kept.

    Args:
        forms: names in `FORMS`, "float32" first.
        seeds: how many, from 0 on; one fixes weights, order, crops and dropout, whatever the form.

    Returns:
        runs: form, seed, loss (mean over the last fifth of the steps), miou; and `compared`.
    """
    every = max(1, (settings.steps or 0) // 5)
    runs = []
    for seed, form in product(range(seeds), forms):
        place = folder / f"{form.replace(', ', '_')}_seed{seed}"
        varied = replace(settings, seed=seed, log_every=every, resume=True, **FORMS[form])
        scores = train(place, SMALL, varied) or {}
        loss = Run.open(place).metrics()[-1]["loss"]
        runs.append({"form": form, "seed": seed, "loss": loss, "miou": scores["miou"]})
    return {"config": SMALL.to_dict(), "steps": settings.steps, "runs": runs, **compared(runs)}


def compared(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """How runs of several forms differ.

    Returns:
        spread: largest less smallest of float32's losses and mIoUs; difference: per other form, the
        mean over the seeds of its loss and mIoU less float32's; agrees: whether that is within the
        spread.
    """
    values = {(run["form"], run["seed"]): run for run in runs}
    exact = [run for run in runs if run["form"] == "float32"]
    spread = {
        name: max(run[name] for run in exact) - min(run[name] for run in exact)
        for name in ("loss", "miou")
    }
    forms = dict.fromkeys(run["form"] for run in runs if run["form"] != "float32")
    difference = {
        form: {
            name: statistics.fmean(values[form, run["seed"]][name] - run[name] for run in exact)
            for name in spread
        }
        for form in forms
    }
    agrees = {
        form: all(abs(value) <= spread[name] for name, value in found.items())
        for form, found in difference.items()
    }
    return {"spread": spread, "difference": difference, "agrees": agrees}


class Look(NamedTuple):
    """Pictures in the explorer, labels included, beside the explorer in float32."""

    model: str
    precision: str
    pictures: int
    median: float  # seconds of one, as in `Times`
    spread: float
    ratio: float  # how many times faster than in float32
    labels_equal: float  # the share of all pixels with float32's label
    fewest_equal: float  # that share of the picture where it is smallest
    map_difference: float  # the share of its weight that a pixel's map at R = 2 puts elsewhere
    largest_map_difference: float  # that share of the picture where it is largest


def compare_looks(
    model: CCNet, config: Config, pictures: Sequence[Any], device: torch.device, short: int = 0
) -> list[Look]:
    """Look at pictures in turn in float32 and in bfloat16.

    Args:
        model: it was built from `config`.
        pictures: as `Explorer.look` takes them.
        short: side of the network's input in pixels; 0 as evaluated.
    """
    explorers = [Explorer(model, config, device, precision) for precision in ("fp32", "bf16")]

    def look(explorer: Explorer, picture: Any) -> tuple[View, float]:
        start = time.perf_counter()
        view = explorer.look(picture, short or None)
        _ = view.labels
        return view, time.perf_counter() - start

    for explorer in explorers:
        look(explorer, pictures[0])
    seconds: list[list[float]] = [[] for _ in explorers]
    equal: list[list[float]] = [[] for _ in explorers]
    apart: list[list[float]] = [[] for _ in explorers]
    sizes = []
    for picture in pictures:
        views = []
        for explorer, spent in zip(explorers, seconds, strict=True):
            view, took = look(explorer, picture)
            views.append(view)
            spent.append(took)
        exact, (x, y) = views[0], first_pixel(views[0])
        sizes.append(exact.labels.size)
        for view, same, gaps in zip(views, equal, apart, strict=True):
            same.append(float((view.labels == exact.labels).mean()))
            gap = np.abs(view.attention(x, y, 2) - exact.attention(x, y, 2))
            gaps.append(float(gap.sum()) / 2)
    slowest = summary(seconds[0]).median
    return [
        Look(
            model=config.name,
            precision=explorer.precision,
            pictures=len(pictures),
            median=summary(spent).median,
            spread=summary(spent).spread,
            ratio=slowest / summary(spent).median,
            labels_equal=float(np.average(same, weights=sizes)),
            fewest_equal=min(same),
            map_difference=statistics.fmean(gaps),
            largest_map_difference=max(gaps),
        )
        for explorer, spent, same, gaps in zip(explorers, seconds, equal, apart, strict=True)
    ]
