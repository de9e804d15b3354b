"""Scores of the published checkpoints that are on this machine, on the data that are.

One evaluation is in evaluate.py; the published numbers to compare with in published.py.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from ccnet_lab import store
from ccnet_lab.causes import cause
from ccnet_lab.configs import Config
from ccnet_lab.data.catalog import get_dataset
from ccnet_lab.data.datasets import open_split
from ccnet_lab.errors import LabError, RunBusyError
from ccnet_lab.evaluation.evaluate import evaluate
from ccnet_lab.evaluation.protocol import Protocol, plan
from ccnet_lab.files import sha256
from ccnet_lab.model.ccnet import build_model
from ccnet_lab.model.weights import load_weights
from ccnet_lab.runs import Run

Progress = Callable[[int, int], object]  # images done, of how many


class Outcome(NamedTuple):
    """How a run ended, and why.

    status is "finished", "skipped" (finished before), "busy" (another process works on it),
    "missing" (no checkpoint or no data here) or "failed".
    """

    name: str
    status: str
    reason: str = ""


def evaluate_published(
    configs: Sequence[Config],
    data: Path,
    runs: Path,
    *,
    device: str = "cpu",
    workers: int = 2,
    progress: Callable[[str], Progress],
    say: Callable[[str], None],
) -> list[Outcome]:
    """Score published checkpoints under the published protocol, one after another.

    Nothing is downloaded. Each gets a run folder below `runs` with its configuration, scores and
    confusion matrices. Those scored before, with these weights on these images, are skipped,
    interrupted ones are resumed, and a failure does not stop the rest.

    `progress` makes the progress callback for a configuration's name; `say` is called with what
    was scored and what failed; `device` and `workers` are those of `evaluate`.
    """
    outcomes = []
    for number, config in enumerate(configs, 1):
        show, folder = progress(config.name), runs / config.name
        try:
            status, reason = _score(config, data, folder, device, workers, show)
        except RunBusyError as error:
            status, reason = "busy", str(error)
        except Exception as error:
            status, reason = "failed", cause(error, folder)
        messages = {
            "finished": "scored",
            "skipped": "scored before",
            "failed": f"failed, continuing with the next: {reason}",
        }
        if status in messages:
            say(f"{config.name} ({number} of {len(configs)}): {messages[status]}")
        outcomes.append(Outcome(config.name, status, reason))
    return outcomes


def _score(
    config: Config, data: Path, folder: Path, device: str, workers: int, progress: Progress
) -> tuple[str, str]:
    """One checkpoint's status and the reason for it."""
    checkpoint, dataset = store.find(config.name), get_dataset(config.dataset)
    if not checkpoint.on_disk:
        return "missing", f"no checkpoint here; `python scripts/zoo.py get {config.name}`"
    try:
        split = open_split(dataset, data, dataset.val_split)
    except LabError as error:
        return "missing", f"no data: {error}"
    store.verify(checkpoint.path)
    with Run(folder).locked():
        run = Run.open(folder) if (folder / "config.json").exists() else Run.create(folder, config)
        weights = {"file": checkpoint.path.name, "sha256": sha256(checkpoint.path)}
        before = run.scores or {}
        same_weights = before.get("weights") == weights
        if same_weights and Protocol.from_dict(before["protocol"]) == plan(split, config):
            return "skipped", ""
        with torch.device("meta"):
            model = build_model(config)
        load_weights(model, checkpoint.path)
        how: dict[str, Any] = {"device": device, "workers": workers, "progress": progress}
        how |= {"keep": folder / "counted.npz", "key": weights["sha256"]}
        found = evaluate(model, split, config, **how)
        found.confusions.save(run.confusions)
        run.write_scores(found.to_dict() | {"weights": weights})
        return "finished", ""
