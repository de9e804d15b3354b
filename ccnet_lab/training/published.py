"""The published checkpoints, scored here: those that are on this machine, on the data that are. One evaluation is evaluation.py's."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from ccnet_lab import store
from ccnet_lab.configs import Config
from ccnet_lab.data.catalog import get_dataset
from ccnet_lab.data.datasets import Split, open_split
from ccnet_lab.errors import LabError, RunBusyError
from ccnet_lab.files import sha256
from ccnet_lab.model.ccnet import build_model
from ccnet_lab.model.weights import load_weights
from ccnet_lab.runs import Run
from ccnet_lab.scoring.protocol import Protocol, plan
from ccnet_lab.training.campaign import Outcome
from ccnet_lab.training.evaluation import evaluate

Progress = Callable[[Config, int, int, float], object]  # configuration, images done, of how many, mIoU so far


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
    """Score published checkpoints under the published protocol, one after another; downloads nothing.

    Each gets a run folder below `runs` with its configuration, scores and confusion matrices. What was scored before, with these weights on
    these images, is skipped; what was broken off is gone on with; what fails is told at the end and stops nothing.

    Args:
        configs: of the twelve.
        data: the data root.
        runs: where the results go.
        device: "cpu", "cuda", ...
        workers: processes that read images ahead.
        progress: called after every image.
        say: is told what begins and what failed.

    Returns:
        Per configuration "finished", "skipped" (scored before), "missing" (no checkpoint or no data here), "busy" (another process
        is at it) or "failed", and why.
    """
    outcomes = []
    for number, config in enumerate(configs, 1):
        where = f"{config.name} ({number} of {len(configs)})"
        checkpoint, dataset = store.find(config.name), get_dataset(config.dataset)
        if not checkpoint.on_disk:
            outcomes.append(Outcome(config.name, "missing", f"no checkpoint here; `python scripts/zoo.py get {config.name}`"))
            continue
        try:
            split = open_split(dataset, data, dataset.val_split)
        except LabError as error:
            outcomes.append(Outcome(config.name, "missing", f"no data: {error}"))
            continue
        try:
            store.verify(checkpoint.path)
            with Run(runs / config.name).locked():
                status = _score(config, checkpoint.path, split, runs / config.name, device, workers, progress)
        except RunBusyError as error:
            outcomes.append(Outcome(config.name, "busy", str(error)))
            continue
        except LabError as error:
            say(f"{where}: failed, going on with the next: {error}")
            outcomes.append(Outcome(config.name, "failed", str(error)))
            continue
        say(f"{where}: {'scored before' if status == 'skipped' else 'scored'}")
        outcomes.append(Outcome(config.name, status))
    return outcomes


def _score(config: Config, checkpoint: Path, split: Split, folder: Path, device: str, workers: int, progress: Progress | None) -> str:
    run = Run.open(folder) if (folder / "config.json").exists() else Run.create(folder, config)
    digest = sha256(checkpoint)
    weights = {"file": checkpoint.name, "sha256": digest}
    before: dict[str, Any] = run.scores or {}
    if before.get("weights") == weights and Protocol.from_dict(before["protocol"]) == plan(split, config):
        return "skipped"
    with torch.device("meta"):
        model = build_model(config)
    load_weights(model, checkpoint)

    def show(done: int, miou: float) -> None:
        if progress is not None:
            progress(config, done, len(split), miou)

    found = evaluate(model, split, config, device=device, workers=workers, progress=show, keep=folder / "counted.npz", key=digest)
    found.confusions.save(run.confusions)
    run.write_scores(found.to_dict() | {"weights": weights})
    return "finished"
