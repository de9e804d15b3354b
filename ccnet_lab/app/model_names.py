"""How the model menu calls models, and which runs it offers; models.py opens them."""

import functools
import os
from pathlib import Path

import torch

from ccnet_lab.configs import CONFIGS, MINIATURES, Config
from ccnet_lab.data.catalog import get_dataset
from ccnet_lab.errors import printable
from ccnet_lab.model.ccnet import build_model
from ccnet_lab.runs import Run

LABELS = {
    "demo": "demo: beacons, trained at R = 2",
    "demo_r1": "demo: beacons, trained at R = 1",
    "street": "street: photographs from a car (CamVid)",
}


def label(name: str) -> str:
    """The choice of a model that is shipped."""
    if name not in MINIATURES:
        return LABELS.get(name, name)
    config = MINIATURES[name]
    title = get_dataset(config.dataset).title.partition(" (")[0].lower()
    return f"miniature: {title}, R-{config.depth}-D{config.output_stride}"


@functools.cache
def _weights_size(depth: int, classes: int) -> int:
    config = next(c for c in CONFIGS.values() if (c.depth, c.num_classes) == (depth, classes))
    with torch.device("meta"):
        values = build_model(config).state_dict().values()
    return sum(value.numel() * value.element_size() for value in values)


def megabytes(config: Config) -> str:
    """The size of the weights of one of the twelve; its file is hardly larger."""
    return f"{_weights_size(config.depth, config.num_classes) / 1e6:.0f} MB"


def trained(runs: Path | None) -> list[Path]:
    """The folders of runs that have weights; the tabs name those that cannot be read."""

    def readable(folder: Path) -> bool:
        return os.access(folder, os.R_OK | os.X_OK)

    if runs is None or not readable(runs):
        return []
    return [
        folder
        for folder in sorted(filter(readable, runs.iterdir()))
        if (folder / "config.json").is_file()
        and Run(folder).weights.is_file()
        and printable(folder.name) == folder.name  # else no page can carry it
    ]
