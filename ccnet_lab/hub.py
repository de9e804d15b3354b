"""Where models come from: a name, a run folder or a file to the weights behind it. What is done with them is in explorer.py."""

from contextlib import suppress
from importlib.resources import files
from pathlib import Path

from ccnet_lab import store
from ccnet_lab.configs import CONFIGS, EXTRAS
from ccnet_lab.downloads import Progress, progress_bar
from ccnet_lab.errors import MissingFileError, UnknownConfigError, near
from ccnet_lab.runs import Run


def source_and_config(words: str) -> tuple[str, str | None]:
    """The name or path in "PATH as NAME", and the configuration's name; None without one. What lies on disk under the whole is a path."""
    words = words.strip()
    source, _, config = (part.strip() for part in words.rpartition(" as "))
    if (
        not source
        or Path(words).exists()
        or (("/" in config or "." in config) and not Path(source).exists())
    ):
        return words, None
    return source, config


def find_weights(source: str | Path) -> Path:
    """The weights file behind a name or a path, on this machine; raises as `Explorer.open` does, but downloads nothing.

    For one of the twelve it is in the store's folder `checkpoints`: the published file under either of its names, or NAME.safetensors.
    """
    name = str(source)
    if name in EXTRAS:
        path = Path(str(files("ccnet_lab").joinpath("assets", f"{name}.safetensors")))
        if path.is_file():
            return path
        train = f"`python scripts/train.py {name} --data ROOT` trains it, then give the run folder"
        raise MissingFileError(f"no weights of {name} are shipped; {train}")
    if name in CONFIGS:
        published = store.find(name).path
        for path in (published.with_name(f"{name}.safetensors"), published):
            if path.is_file():
                return path
        raise MissingFileError(
            f"the checkpoint of {name} is not on disk; `python scripts/zoo.py get {name}` downloads it, "
            f"or download {CONFIGS[name].published_url} and put it at {published}"
        )
    path = Path(source)
    if path.is_dir():
        weights = Run.open(path).weights
        if not weights.is_file():
            raise MissingFileError(f"the run {path} has no weights yet ({weights.name} is missing)")
        return weights
    if not path.is_file():
        known = [*EXTRAS, *CONFIGS]
        nowhere = f"{name!r} is neither a model's name nor a file or run folder on disk"
        if path.name != name:  # a path: the names of models would be no help
            raise UnknownConfigError(f"{nowhere}; check the path")
        raise UnknownConfigError(f"{nowhere}; {near(name, known)}")
    return path


def obtain_weights(source: str | Path, progress: Progress | None = None) -> Path:
    """As `find_weights`, but the published checkpoint of one of the twelve is downloaded where it is not on disk, with a progress bar.

    Raises `DownloadError` where it cannot be had, or is no longer the file that it was at its first use.
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
    """Models that can be opened by name now: the embedded ones, and those of the twelve whose checkpoint is on disk."""
    found = {}
    for name in [*EXTRAS, *CONFIGS]:
        with suppress(MissingFileError):
            found[name] = find_weights(name)
    return found
