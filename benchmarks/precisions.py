"""Short trainings in float32 and in faster forms: whether they differ more than seeds do."""

import statistics
from collections.abc import Mapping
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

from ccnet_lab.configs import get_config
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
