"""The models that visitors can open: the menu, what may be opened, downloads."""

import functools
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import torch

from ccnet_lab import store
from ccnet_lab.app.callbacks import Progress, watched
from ccnet_lab.app.recent_results import RecentResults
from ccnet_lab.app.rendering import Html, render
from ccnet_lab.configs import CONFIGS, EXTRAS, Config
from ccnet_lab.data.catalog import get_dataset
from ccnet_lab.errors import ConfigError
from ccnet_lab.explore.explorer import Explorer
from ccnet_lab.hub import available_models, find_weights, source_and_config
from ccnet_lab.model.ccnet import build_model
from ccnet_lab.runs import Run

LABELS = {
    "demo": "demo: beacons, trained at R = 2",
    "demo_r1": "demo: beacons, trained at R = 1",
    "street": "street: photographs from a car (CamVid)",
}


class Models:
    """The models of one process.

    Args:
        device: what they run on, one for all.
        any_path: whether visitors may type paths; not where other machines can reach the app.
        runs: a folder of training runs, offered in the menu.
        model: what the app was started with; stands in the menu, be it a path.
    """

    def __init__(
        self,
        device: str = "cpu",
        any_path: bool = True,
        runs: Path | None = None,
        model: str = "demo",
    ) -> None:
        self.device, self.any_path, self.runs, self.model = device, any_path, runs, model
        self._explorers = RecentResults(3)
        self._download = threading.Lock()

    def models(self) -> list[tuple[str, str]]:
        """(label, value) of the menu: embedded models, runs with weights, the twelve."""
        here = available_models()
        choices = [(LABELS.get(name, name), name) for name in here if name in EXTRAS]
        choices += [(f"run: {folder.name}", str(folder)) for folder in _trained(self.runs)]
        for name, config in CONFIGS.items():
            size = "here" if name in here else _megabytes(config)
            choices.append((f"{name} · {config.published_miou:.2f} % · {size}", name))
        if self.model not in dict(choices).values():
            choices.append((self.model, self.model))
        return choices

    def explorer(self, model: str) -> Explorer:
        """The explorer of a model, opened on first use. Raises as `weights` and `Explorer.open`."""

        def opened() -> Explorer:
            self.weights(model)  # a visitor is asked before anything is downloaded, see `offer`
            source, config = source_and_config(model)
            return Explorer.open(source, self.device, config)

        explorer: Explorer = self._explorers.get(model, opened)
        return explorer

    def weights(self, model: str) -> Path:
        """The weights file of a model that visitors may open.

        Raises `ConfigError` for others, `LabError` where it is not on disk.
        """
        if not self.any_path and model not in {*CONFIGS, *EXTRAS, *dict(self.models()).values()}:
            raise ConfigError(
                "this app can be reached from other machines, so it opens only the models of its "
                "menu, no typed paths"
            )
        return find_weights(source_and_config(model)[0])

    def offer(self, model: str) -> str:
        """The question before a checkpoint of the twelve is downloaded; "" where none is needed."""
        if model not in CONFIGS or model in available_models():
            return ""
        if not self.any_path:
            raise ConfigError(
                f"{model} is not on the machine this app runs on; there, "
                f"`python scripts/zoo.py get {model}` downloads it"
            )
        file, config = store.find(model), CONFIGS[model]
        address = store.addresses(file)[0]
        return render(
            "page.offer",
            name=model,
            megabytes=_megabytes(config),
            host=urlsplit(address).netloc,
            miou=config.published_miou,
            dataset=get_dataset(config.dataset).title,
            address=address,
            folder=file.path.parent,
        )

    def download(self, model: str) -> Iterator[Html]:
        """Download a checkpoint; yields how far it is. Closed early, it keeps what came so far.

        Raises `DownloadError` where it cannot be had.
        """

        def obtain(progress: Progress) -> None:
            with self._download:  # another visitor may have asked for the same file
                store.obtain(model, progress)

        def show(done: int, total: int) -> Html:
            return render("page.downloading", name=model, done=done, total=total)

        return watched(obtain, show, 0.25, name=f"download {model}")


@functools.cache
def _weights_size(depth: int, classes: int) -> int:
    config = next(c for c in CONFIGS.values() if (c.depth, c.num_classes) == (depth, classes))
    with torch.device("meta"):
        values = build_model(config).state_dict().values()
    return sum(value.numel() * value.element_size() for value in values)


def _megabytes(config: Config) -> str:
    """The size of the weights of one of the twelve; its file is hardly larger."""
    return f"{_weights_size(config.depth, config.num_classes) / 1e6:.0f} MB"


def _trained(runs: Path | None) -> list[Path]:
    """The folders of runs that have weights; the tabs name those that cannot be read."""

    def readable(folder: Path) -> bool:
        return os.access(folder, os.R_OK | os.X_OK)

    if runs is None or not readable(runs):
        return []
    return [
        folder
        for folder in sorted(filter(readable, runs.iterdir()))
        if (folder / "config.json").is_file() and Run(folder).weights.is_file()
    ]
