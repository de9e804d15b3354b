"""How the model menu calls models, and which runs it offers; models.py opens them."""

import os
from pathlib import Path

from ccnet_lab.configs import MINIATURES, Config
from ccnet_lab.data.catalog import get_dataset
from ccnet_lab.errors import printable
from ccnet_lab.runs import Run

# The weights without the last layer of either classifier, and what a class adds to those two.
# Counted once (tests/app/test_server.py counts again): building the networks takes two seconds.
BYTES, BYTES_PER_CLASS = {50: 208_914_780, 101: 285_092_596}, 2 * (512 + 1) * 4

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


def megabytes(config: Config) -> str:
    """The size of the weights of one of the twelve; its file is hardly larger."""
    return f"{(BYTES[config.depth] + config.num_classes * BYTES_PER_CLASS) / 1e6:.0f} MB"


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
