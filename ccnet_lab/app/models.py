"""The models that visitors can open: the menu, what may be opened, downloads."""

import os
import threading
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

from ccnet_lab import store
from ccnet_lab.app.callbacks import Progress, watched
from ccnet_lab.app.model_names import label, megabytes, trained
from ccnet_lab.app.recent_results import RecentResults
from ccnet_lab.app.rendering import Html, render
from ccnet_lab.configs import CONFIGS
from ccnet_lab.data.catalog import get_dataset
from ccnet_lab.errors import ConfigError
from ccnet_lab.explore.explorer import Explorer
from ccnet_lab.hub import available_models, find_weights, source_and_config

MOST_EXPLORERS = 3  # that stay open; an R-101 takes about a gigabyte


class Models:
    """The models of one process.

    Args:
        device: what they run on, one for all.
        any_path: whether visitors may type paths; not where other machines can reach the app.
        runs: a folder of training runs, offered in the menu.
        model: what the app was started with; stands in the menu, be it a path.
        precision: of `Explorer`.
    """

    def __init__(
        self,
        device: str = "cpu",
        any_path: bool = True,
        runs: Path | None = None,
        model: str = "demo",
        precision: str = "fp32",
    ) -> None:
        self._sources: dict[str, str] = {}  # by what visitors are told instead of a path
        self.device, self.any_path, self.runs, self.model = device, any_path, runs, model
        self.precision = precision
        if not any_path:
            told = {source: label for label, source in self._choices()}
            self.model = self._told(told.get(model, model), model)[1]
        self._explorers = RecentResults(MOST_EXPLORERS, forgotten=self._closed)
        self._download = threading.Lock()

    def models(self) -> list[tuple[str, str]]:
        """(label, value) of the menu: embedded models, runs with weights, the twelve."""
        choices = self._choices()
        return choices if self.any_path else [self._told(*choice) for choice in choices]

    def _choices(self) -> list[tuple[str, str]]:
        here = available_models()
        choices = [(label(name), name) for name in here if name not in CONFIGS]
        choices += [(f"run: {folder.name}", str(folder)) for folder in trained(self.runs)]
        for name, config in CONFIGS.items():
            size = "here" if name in here else megabytes(config)
            choices.append((f"{name} · {config.published_miou:.2f} % · {size}", name))
        own = self.source(self.model)
        if own not in dict(choices).values():
            choices.append((own, own))
        return choices

    def _told(self, label: str, source: str) -> tuple[str, str]:
        """A choice of the menu without the path of the server's."""
        if "/" not in source and os.sep not in source:
            return label, source
        label = f"file: {Path(source).name}" if label == source else label
        self._sources[label] = source
        return label, label

    def source(self, model: str) -> str:
        """The name or the path behind a choice of the menu."""
        return self._sources.get(model, model)

    def explorer(self, model: str) -> Explorer:
        """The explorer of a model, opened on first use. Raises as `weights` and `Explorer.open`."""

        def opened() -> Explorer:
            self.weights(model)  # a visitor is asked before anything is downloaded, see `offer`
            source, config = source_and_config(self.source(model))
            explorer = Explorer.open(source, self.device, config, self.precision)
            _ = explorer.network  # made while it is opened, not by the first picture
            return explorer

        explorer: Explorer = self._explorers.get(model, opened)
        return explorer

    def _closed(self, explorer: Explorer) -> None:
        """What is to be done about a model that makes room for another."""

    def weights(self, model: str) -> Path:
        """The weights file of a model that visitors may open.

        Raises `ConfigError` for others, `LabError` where it is not on disk.
        """
        if not self.any_path and model not in {*CONFIGS, *dict(self.models()).values()}:
            raise ConfigError(
                "this app can be reached from other machines, so it opens only the models of its "
                "menu, no typed paths"
            )
        return find_weights(source_and_config(self.source(model))[0])

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
            megabytes=megabytes(config),
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
