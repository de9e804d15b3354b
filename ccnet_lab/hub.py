"""A model from a name, a run folder or a file; weights.py reads the file, store.py downloads it."""

import os.path
from contextlib import suppress
from importlib.resources import files
from pathlib import Path

import torch

from ccnet_lab import store
from ccnet_lab.configs import CONFIGS, EXTRAS, MINIATURES, Config
from ccnet_lab.data.catalog import Dataset
from ccnet_lab.device import choose_device
from ccnet_lab.downloads import Progress, progress_bar
from ccnet_lab.errors import ConfigError, MissingFileError, near
from ccnet_lab.model.ccnet import CCNet
from ccnet_lab.model.weights import Checkpoint, open_checkpoint
from ccnet_lab.runs import Run


def load(
    source: str | Path,
    device: str | torch.device = "cpu",
    config: str | Config | None = None,
    own: Dataset | None = None,
) -> tuple[CCNet, Config]:
    """The model behind a name or path, in eval mode on `device`, and its configuration.

    Args:
        source: an embedded model ("demo", "demo_r1", "street"), one of the twelve (downloaded where
            it is not on disk), a run folder or a weights file; or "PATH as NAME".
        config: the configuration a weights file was made for, where the file leaves that open.
        own: the user's data set that it was trained on, where that has classes of its own.

    Raises:
        ConfigError, MissingFileError, DownloadError, RunError: as `find_weights`, `obtain_weights`.
        WeightsError, ConfigError: as `load_weights` and `Checkpoint.config`.
        DeviceError: as `choose_device`.
    """
    device = choose_device(device)
    path, name = source_and_config(str(source))
    checkpoint = open_checkpoint(obtain_weights(path))
    return build(checkpoint, checkpoint.config(config or name, own), device)


def build(
    checkpoint: Checkpoint, config: Config, device: str | torch.device
) -> tuple[CCNet, Config]:
    """The model of an open checkpoint, as `load` returns it."""
    model = checkpoint.build(config).eval()
    return model.to(device, memory_format=torch.channels_last), config  # type: ignore[call-overload]


def source_and_config(text: str) -> tuple[str, str | None]:
    """The path and the configuration's name in "PATH as NAME"; None without one.

    A text that is itself the path of something on disk is a path.
    """
    text = text.strip()
    source, _, config = (part.strip() for part in text.rpartition(" as "))
    looks_like_path = "/" in config or "." in config
    there = os.path.exists  # Path.exists raises for a name that is too long
    if not source or there(text) or (looks_like_path and not there(source)):
        return text, None
    return source, config


def find_weights(source: str | Path) -> Path:
    """The weights file behind a name or a path; nothing is downloaded.

    For one of the twelve it is the published file, under either of its names, or NAME.safetensors,
    in the store's folder `checkpoints`.

    Raises:
        ConfigError: neither a name nor a path that exists.
        MissingFileError: weights that are not shipped, not on disk or not trained yet.
        RunError: as `Run.open`.
    """
    name = str(source)
    if name in EXTRAS or name in MINIATURES:
        path = Path(str(files("ccnet_lab").joinpath("assets", f"{name}.safetensors")))
        if path.is_file():
            return path
        train = "train_all.py --miniature" if name in MINIATURES else f"train.py {name} --data ROOT"
        remedy = f"`python scripts/{train}` trains it; then give its run folder"
        raise MissingFileError(f"no weights of {name} are shipped; {remedy}")
    if name in CONFIGS:
        published = store.find(name).path
        for path in (published.with_name(f"{name}.safetensors"), published):
            if path.is_file():
                return path
        raise MissingFileError(
            f"the checkpoint of {name} is not on disk; `python scripts/zoo.py get {name}` "
            f"downloads it, or download {CONFIGS[name].published_url} and put it at {published}"
        )
    path = Path(source)
    if os.path.isdir(path):
        weights = Run.open(path).weights
        if not weights.is_file():
            raise MissingFileError(f"the run {path} has no weights yet ({weights.name} is missing)")
        return weights
    if not os.path.isfile(path):
        known = [*EXTRAS, *CONFIGS, *MINIATURES]
        remedy = "check the path" if path.name != name else near(name, known)
        raise ConfigError(
            f"{name!r} is neither a model's name nor a file or run folder on disk; {remedy}"
        )
    return path


def obtain_weights(source: str | Path, progress: Progress | None = None) -> Path:
    """As `find_weights`, but downloads the published checkpoint of one of the twelve.

    Raises:
        DownloadError: it cannot be downloaded, or has changed since its first use.
    """
    name = str(source)
    try:
        path = find_weights(source)
    except MissingFileError:
        if name in CONFIGS:
            return store.obtain(name, progress or progress_bar(name))
        raise
    if name in CONFIGS and path == store.find(name).path:
        store.verify(path)
    return path


def available_models() -> dict[str, Path]:
    """The weights on this machine that can be opened by name."""
    found = {}
    for name in [*EXTRAS, *MINIATURES, *CONFIGS]:
        with suppress(MissingFileError):
            found[name] = find_weights(name)
    return found
