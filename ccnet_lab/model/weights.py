"""Weights files: read strictly from every format of foreign.py, written as safetensors.

Nothing here runs code from a file: safetensors cannot hold any, and pickles are read with
`weights_only=True`. `python -m ccnet_lab.model.weights FILE` is in diagnosis.py.
"""

import json
import pickle
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from ccnet_lab import store
from ccnet_lab.configs import CONFIGS, Config, get_config
from ccnet_lab.data.catalog import Dataset, get_dataset, register
from ccnet_lab.downloads import progress_bar
from ccnet_lab.errors import ConfigError, MissingFileError, WeightsError
from ccnet_lab.files import write_whole
from ccnet_lab.model.ccnet import CCNet, build_model
from ccnet_lab.model.foreign import (
    Content,
    Hints,
    adapted,
    configurations,
    converted,
    depth,
    option_name,
    read_hints,
    to_own_names,
    unwrap,
)
from ccnet_lab.model.unpickling import harmless

_COUNTED = "num_batches_tracked"


@dataclass(frozen=True)
class Checkpoint:
    """A weights file, read once.

    Attributes:
        content: its state dict under the file's names, and what lies beside it.
        metadata: of a safetensors file.
    """

    path: Path
    content: Content
    metadata: dict[str, str]

    @property
    def hints(self) -> Hints:
        """What a foreign file says of its configuration."""
        return read_hints(self.content.beside, self.path)

    @cached_property
    def stored(self) -> Config | None:
        """The configuration in the metadata, None where there is none; registers its data set.

        Raises:
            ConfigError, WeightsError: it cannot be read.
        """
        about = self.metadata
        try:
            dataset = register(json.loads(about["dataset"])) if "dataset" in about else None
            if "config" not in about:
                return None
            values = json.loads(about["config"])
        except json.JSONDecodeError as error:
            raise WeightsError(
                f"the metadata of {self.path.name} is no JSON: {error}; give the configuration it "
                "was made for"
            ) from None
        if not isinstance(values, dict):
            raise WeightsError(f"the configuration in {self.path.name} is {values!r:.60}")
        if dataset:
            values["dataset"] = dataset.key
        if "converted_from" in about:  # trained where the learning rate has always had its floor
            values.setdefault("min_lr", None)
        return Config.from_dict(values)

    def config(self, given: str | Config | None = None, own: Dataset | None = None) -> Config:
        """The configuration: from the metadata, a published file's name, or the entries' shapes.

        Args:
            given: the configuration it was made for; comes back adapted to the file's auxiliary
                classifier and R.
            own: the user's data set that it was trained on, for files that name no classes.

        Raises:
            ConfigError: the file leaves the output stride open; the fitting ones are named.
            WeightsError: it is no CCNet that is known here.
        """
        if given is None:
            if self.stored:
                return self.stored
            pattern = r"ccnet_resnet\d+os\d+_[a-z0-9]+?(?=_train|\.|$)"
            named = re.match(pattern, self.path.name)
            if named and named[0] in CONFIGS:
                return CONFIGS[named[0]]
        entries, name = converted(self.content.entries), self.path.name
        if given is not None:
            return adapted(get_config(given), entries, self.hints, own)
        fitting = configurations(entries, self.hints, own)
        if len(fitting) == 1:
            return fitting[0]
        if not fitting:
            last = entries.get("classifier.4.weight")
            remedy = "give the configuration it was made for"
            if last is not None:
                remedy += f"; for {last.shape[0]} classes of your own give --own FOLDER"
                remedy += " or --config NAME"
            raise WeightsError(f"{name} holds no CCNet that is known here; {remedy}")
        raise ConfigError(
            f"{name} does not say which of these it is, since its tensors leave the output stride "
            f"(or R) open: {' or '.join(map(option_name, fitting))}. "
            "Give the configuration (in the app: PATH as NAME), or convert it once: "
            f"python -m ccnet_lab.model.weights {name} --config NAME --out FILE.safetensors"
        )

    def build(self, config: str | Config) -> CCNet:
        """The model of a configuration, which takes the tensors over; raises as `load_weights`."""
        with torch.device("meta"):  # neither memory nor a random start for what is filled anyway
            model = build_model(config)
        _fill(model, self.content, f" {self.path.name}")
        self.content.entries.clear()  # they would count twice once the model is moved or converted
        return model


def open_checkpoint(path: str | Path, ema: bool = False, mapped: bool = False) -> Checkpoint:
    """Read a weights file; with `ema` the averaged weights in it.

    Args:
        mapped: leave the tensors in the file, to look at only; see `read_weights`.

    Raises:
        MissingFileError, WeightsError: as `read_weights`, or there is no state dict in it.
    """
    content, about = _read(Path(path), mapped)
    return Checkpoint(Path(path), unwrap(content, ema), about)


def read_config(
    path: str | Path, given: str | Config | None = None, own: Dataset | None = None
) -> Config:
    """The configuration a weights file is for; see `Checkpoint.config`."""
    return open_checkpoint(path, mapped=True).config(given, own)


def load_weights(
    model: nn.Module, source: str | Path | Mapping[str, Any], ema: bool = False
) -> None:
    """Load a whole state dict into `model`, or nothing.

    Args:
        model: filled in place, on any device; on the meta device it takes the source's tensors.
        source: a file (safetensors, or a `.pth` in the published format `{"model": state_dict}` or
            mmsegmentation's) or such a mapping. Entries of another dtype are taken where the
            conversion is exact, as from float16 or bfloat16 to float32.
        ema: take the averaged weights, under "model_ema" in SSSegmentation's files.

    Raises:
        MissingFileError: there is no such file.
        WeightsError: the file cannot be read, or entries are missing, left over, misshapen or
            inexact; they are named.
    """
    if isinstance(source, Mapping):
        _fill(model, unwrap(source, ema))
    else:
        _fill(model, unwrap(read_weights(source), ema), f" {Path(source).name}")


def _fill(model: nn.Module, content: Content, where: str = "") -> None:
    entries, own = converted(content.entries), model.state_dict()
    found = compare(entries, own)
    if any(found):
        raise WeightsError(
            f"the weights{where} do not fit this model, so nothing was loaded. {found.text}. "
            "Build the model with the configuration the file was made for; "
            "`python -m ccnet_lab.model.weights FILE` says which that is"
        )
    if content.aside:
        names = shortened(content.aside)
        message = f"left aside in the weights{where}, as no part of the network: {names}"
        warnings.warn(message, stacklevel=3)
    for name, tensor in own.items():
        if name not in entries:  # older batch norms counted no batches
            entries[name] = torch.zeros((), dtype=tensor.dtype)
        entries[name] = entries[name].to(tensor.dtype)
    on_meta = any(parameter.is_meta for parameter in model.parameters())
    model.load_state_dict(entries, assign=on_meta)


class Differences(NamedTuple):
    """Why entries do not fill a model, each by name; all empty where they do."""

    missing: tuple[str, ...] = ()
    extra: tuple[str, ...] = ()
    misshapen: tuple[str, ...] = ()
    inexact: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        """One sentence, long lists shortened."""
        lists = self._asdict().items()
        return "; ".join(
            f"{len(names)} {kind}: {shortened(names)}" for kind, names in lists if names
        )


def shortened(names: Sequence[str], most: int = 12) -> str:
    """Names for a sentence: the first ones, and how many more there are."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def compare(entries: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> Differences:
    """What is missing, left over, of another shape, or of a dtype that is not exactly converted.

    Args:
        entries: under ccnet_lab's names.
        own: a model's state dict; the meta device suffices.
    """
    misshapen, inexact = [], []
    for name, tensor in own.items():
        if name in entries:
            value = entries[name]
            if value.shape != tensor.shape:
                expected = tuple(tensor.shape)
                misshapen.append(f"{name} {tuple(value.shape)}, expected {expected}")
            if not _exact(value, tensor.dtype):
                expected_type = dtype_name(tensor.dtype)
                inexact.append(f"{name} {dtype_name(value.dtype)}, expected {expected_type}")
    return Differences(
        tuple(name for name in own if name not in entries and not name.endswith(_COUNTED)),
        tuple(name for name in entries if name not in own),
        tuple(misshapen),
        tuple(inexact),
    )


def _exact(value: Tensor, dtype: torch.dtype) -> bool:
    """Whether every number of `value` is one of `dtype`, too."""
    floating = value.dtype.is_floating_point
    if value.dtype == dtype:
        return True
    if dtype.is_floating_point and not floating:
        return False  # quantised, say: its numbers mean something else
    if dtype in (torch.float16, torch.bfloat16) or value.is_meta:
        return True  # a model built in half precision wants rounding
    wider = dtype.is_floating_point == floating and dtype.itemsize > value.dtype.itemsize
    return wider or bool((value.to(dtype).to(value.dtype) == value).all())


def dtype_name(dtype: torch.dtype) -> str:
    """As "float32"."""
    return str(dtype).removeprefix("torch.")


def load_start(model: CCNet, start: str, say: Callable[[str], None] = print) -> CCNet:
    """Fill a new network with the weights its training starts from, and return it.

    Args:
        model: with random weights.
        start: "none" leaves them; "imagenet" fills the ResNet with the published start weights,
            downloaded where they are not on disk; a file of a CCNet fills every layer that fits
            (with other classes, all but the last of the classifiers), a ResNet's the ResNet.
        say: called with a sentence that names the layers that keep their random weights.

    Raises:
        DownloadError: the published weights cannot be downloaded.
        MissingFileError: the file isn't there.
        WeightsError: it doesn't fit; a CCNet's must fit in the first layers at least.
    """
    if start == "none":
        return model
    if start == "imagenet":
        resnet = depth(model.state_dict())
        if resnet not in (50, 101):
            raise WeightsError(
                "there are ImageNet weights for ResNets of depth 50 and 101 only; start this "
                "network with --weights none"
            )
        path = store.obtain(f"resnet{resnet}_v1c", progress_bar("ImageNet start weights"))
    else:
        path = Path(start)
    entries = to_own_names(read_weights(path))
    if any(name.startswith("classifier.") for name in entries):
        _load_what_fits(model, entries, path.name, say)
    else:
        backbone = {name: v for name, v in entries.items() if not name.startswith("fc.")}
        load_weights(model.backbone, backbone)
    return model


def _load_what_fits(
    model: CCNet, entries: dict[str, Tensor], source: str, say: Callable[[str], None]
) -> None:
    """Take the layers all of whose entries are there in the right shape."""

    def layer(name: str) -> str:
        return ".".join(name.split(".")[:2])

    own = model.state_dict()
    shapes = {name: value.shape for name, value in entries.items()}
    left = {layer(name) for name, value in own.items() if shapes.get(name) != value.shape}
    if {"backbone.stem", "backbone.layer1"} & left:
        load_weights(model, entries)  # raises, naming all differences
    fitting = {n: value for n, value in entries.items() if n in own and layer(n) not in left}
    load_weights(model, own | fitting)
    if left:
        count = len({layer(name) for name in own})
        fits = f"{source} fits {count - len(left)} of {count} layers"
        say(f"{fits}; random at the start: {', '.join(sorted(left))}")


def read_weights(path: str | Path, mapped: bool = False) -> dict[str, Any]:
    """The content of a file under its own names: tensors, or what `unwrap` finds them in.

    Args:
        mapped: leave the tensors in the file until they are looked at; they change with it. Files
            of torch before 1.6 are read all the same.

    Raises:
        MissingFileError: there is no such file.
        WeightsError: it is no checkpoint, is damaged, or would have to run code, which was not run.
    """
    return _read(Path(path), mapped)[0]


def _read(path: Path, mapped: bool) -> tuple[dict[str, Any], dict[str, str]]:
    """The content of a file and its metadata."""
    if not path.is_file():
        raise MissingFileError(f"there is no weights file {path}")
    if path.suffix == ".safetensors":
        try:
            with safe_open(path, "pt", backend="mmap" if mapped else "pread") as file:
                return dict(file.get_tensors()), file.metadata() or {}
        except (SafetensorError, OSError) as error:
            size = f"{path.stat().st_size:,} bytes"
            raise WeightsError(
                f"{path.name} ({size}) is no readable safetensors file: {error}; download it again"
            ) from None
    with path.open("rb") as file:
        start = file.read(9)
    _check_start(path, start)
    try:
        zipped = start[:2] == b"PK"
        with harmless():
            content = torch.load(
                path, map_location="cpu", weights_only=True, mmap=mapped and zipped
            )
    except Exception as error:  # torch raises many kinds for a damaged file
        raise _unreadable(path, error) from None
    if not isinstance(content, Mapping):
        kind = type(content).__name__
        raise WeightsError(f"{path.name} holds a {kind}; expected a mapping of names to tensors")
    return dict(content), {}


def _check_start(path: Path, start: bytes) -> None:
    """Refuse a file that is neither torch's zip nor a pickle, by its first bytes."""
    if start[:2] == b"PK" or start[:1] == b"\x80":
        return
    about = ""
    remedy = "expected a file of torch.save or safetensors; if it is one, download it again"
    if start.lstrip().startswith(b"<"):
        about, remedy = ", a web page by its first bytes", "download it again"
    elif start[8:] == b"{":
        about = ", a safetensors file by its first bytes"
        remedy = "let its name end with .safetensors"
    raise WeightsError(f"{_no_checkpoint(path)}{about}; {remedy}")


def _no_checkpoint(path: Path) -> str:
    return f"{path.name} ({path.stat().st_size:,} bytes) is no readable checkpoint"


def _unreadable(path: Path, error: Exception) -> WeightsError:
    """What to say of an error of torch's reader."""
    said = str(error)
    if "TorchScript" in said:
        return WeightsError(
            f"{path.name} is a TorchScript program; expected a state dict: save that of the "
            "network it was made from"
        )
    if not isinstance(error, pickle.UnpicklingError) or "truncated" in said:
        reason = said.splitlines()[0].split(". ")[0] if said else type(error).__name__
        return WeightsError(f"{_no_checkpoint(path)}: {reason}; download it again")
    named = re.search(r"GLOBAL (\S+) w", said)
    return WeightsError(
        f"{path.name} holds more than tensors{f' ({named[1]})' if named else ''} and was refused "
        "without running any of it; ask its author for a plain state dict or a safetensors file, "
        "or if you trust it save its state dict alone where it was made"
    )


def save_weights(model: nn.Module, path: str | Path, config: str | Config, **notes: Any) -> None:
    """Write a safetensors file whose metadata hold the configuration and the `notes`.

    Raises:
        WeightsError: it cannot be written; what was there before is untouched.
    """
    save_entries(model.state_dict(), Path(path), metadata(config, **notes))


def save_entries(entries: Mapping[str, Tensor], path: Path, about: dict[str, str]) -> None:
    """Write tensors under ccnet_lab's names, whole or not at all; `about` as of `metadata`."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in entries.items()}
    write_whole(path, lambda temporary: save_file(tensors, temporary, metadata=about), WeightsError)


def metadata(config: str | Config, **notes: Any) -> dict[str, str]:
    """A weights file's metadata, as JSON: the configuration, the data set's terms, the notes."""
    config = get_config(config)
    dataset = get_dataset(config.dataset)
    about: dict[str, Any] = {"config": config.to_dict(), **notes}
    if dataset.terms:
        about["terms"] = f"trained on {dataset.title}: {dataset.terms}"
    if dataset.classes:  # a user's, which other processes don't know
        about["dataset"] = dataset.to_dict()
    return {"made_with": "ccnet_lab", **{name: json.dumps(value) for name, value in about.items()}}


if __name__ == "__main__":
    import sys

    from ccnet_lab.model.diagnosis import main

    sys.exit(main())
