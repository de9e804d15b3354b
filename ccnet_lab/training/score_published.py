"""The published checkpoints, scored here: those that are on this machine, on the data that are. One evaluation is evaluation.py's."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from ccnet_lab import store
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
from ccnet_lab.training.campaign import Outcome
from ccnet_lab.training.signals import cause

Progress = Callable[
    [Config, int, int, float], object
]  # configuration, images done, of how many, mIoU so far


def evaluate_published(
    configs: Sequence[Config],
    data: Path,
    runs: Path,
    *,
    device: str = "cpu",
    workers: int = 2,
    progress: Progress | None = None,
    say: Callable[[str], None] = print,
) -> list[Outcome]:
    """Score published checkpoints, of the twelve, under the published protocol, one after another; downloads nothing.

    Each gets a run folder below `runs` with its configuration, scores and confusion matrices. What was scored before, with these weights on
    these images, is skipped; what was broken off is gone on with; what fails is told at the end and stops nothing. `say` is told what was
    scored and what failed.

    Returns:
        Per configuration "finished", "skipped" (scored before), "missing" (no checkpoint or no data here), "busy" (another process
        is at it) or "failed", and why.
    """
    outcomes = []
    for number, config in enumerate(configs, 1):
        try:
            status, reason = _score(config, data, runs / config.name, device, workers, progress)
        except RunBusyError as error:
            status, reason = "busy", str(error)
        except Exception as error:
            status, reason = "failed", cause(error, runs / config.name)
        said = {
            "finished": "scored",
            "skipped": "scored before",
            "failed": f"failed, going on with the next: {reason}",
        }
        if status in said:
            say(f"{config.name} ({number} of {len(configs)}): {said[status]}")
        outcomes.append(Outcome(config.name, status, reason))
    return outcomes


def _score(
    config: Config, data: Path, folder: Path, device: str, workers: int, progress: Progress | None
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
        digest = sha256(checkpoint.path)
        weights = {"file": checkpoint.path.name, "sha256": digest}
        before: dict[str, Any] = run.scores or {}
        if before.get("weights") == weights and Protocol.from_dict(before["protocol"]) == plan(
            split, config
        ):
            return "skipped", ""
        with torch.device("meta"):
            model = build_model(config)
        load_weights(model, checkpoint.path)

        def show(done: int, miou: float) -> None:
            if progress is not None:
                progress(config, done, len(split), miou)

        found = evaluate(
            model,
            split,
            config,
            device=device,
            workers=workers,
            progress=show,
            keep=folder / "counted.npz",
            key=digest,
        )
        found.confusions.save(run.confusions)
        run.write_scores(found.to_dict() | {"weights": weights})
        return "finished", ""
