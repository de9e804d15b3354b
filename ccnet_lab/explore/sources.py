"""Where models come from: a name, a run folder or a file to the weights behind it. What is done with them is in explorer.py."""

from importlib.resources import files
from pathlib import Path

from ccnet_lab.configs import CONFIGS, EXTRAS
from ccnet_lab.errors import MissingFileError, UnknownConfigError, near
from ccnet_lab.model.weights import home
from ccnet_lab.runs import Run


def checkpoint_folder() -> Path:
    """Where checkpoints of the twelve are looked for: `checkpoints` in `$CCNET_LAB_HOME`, by default ~/.cache/ccnet_lab."""
    return home() / "checkpoints"


def find_weights(source: str | Path) -> Path:
    """The weights file behind a name or a path; raises as `Explorer.open` does."""
    name = str(source)
    if name in EXTRAS:
        return Path(str(files("ccnet_lab").joinpath("assets", f"{name}.safetensors")))
    if name in CONFIGS:
        candidates = [checkpoint_folder() / f"{name}{ending}" for ending in (".safetensors", "_train.pth", ".pth")]
        for path in candidates:
            if path.is_file():
                return path
        raise MissingFileError(
            f"the checkpoint of {name} is not on disk; download {CONFIGS[name].published_url} and put it at {candidates[1]}"
        )
    path = Path(source)
    if path.is_dir():
        weights = Run.open(path).weights
        if not weights.is_file():
            raise MissingFileError(f"the run {path} has no weights yet ({weights.name} is missing)")
        return weights
    if not path.is_file():
        known = [*EXTRAS, *CONFIGS]
        raise UnknownConfigError(f"{name!r} is neither a model's name nor a file or run folder on disk; {near(name, known)}")
    return path


def available_models() -> dict[str, Path]:
    """Models that can be opened by name now: the embedded ones, and those of the twelve whose checkpoint is on disk."""
    found = {}
    for name in [*EXTRAS, *CONFIGS]:
        try:
            found[name] = find_weights(name)
        except MissingFileError:
            continue
    return found
