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
from ccnet_lab.configs import Config, get_config
from ccnet_lab.data.catalog import Dataset, get_dataset, register
from ccnet_lab.downloads import progress_bar
from ccnet_lab.errors import ConfigError, MissingFileError, WeightsError
from ccnet_lab.files import refuse_bomb, write_whole
from ccnet_lab.model import foreign
from ccnet_lab.model.ccnet import CCNet, build_model
from ccnet_lab.model.foreign import Content, converted, unwrap
from ccnet_lab.model.unpickling import harmless

_COUNTED = "num_batches_tracked"


@dataclass(frozen=True)
class Checkpoint:
    """A weights file, read once."""

    path: Path
    content: Content
    metadata: dict[str, str]  # of a safetensors file

    @property
    def hints(self) -> foreign.Hints:
        """What a foreign file says of its configuration."""
        return foreign.read_hints(self.content.beside, self.path)

    @cached_property
    def stored(self) -> Config | None:
        """The configuration in the metadata, if any; registers its data set.

        Raises:
            ConfigError, WeightsError: it cannot be read.
        """
        about = self.metadata
        try:
            dataset = register(json.loads(about["dataset"])) if "dataset" in about else None
            if "config" not in about:
                return None
            values = dict(json.loads(about["config"]))
        except (ValueError, TypeError, AttributeError, RecursionError) as error:
            raise WeightsError(
                f"the metadata of {self.path.name} cannot be read: {error}; give the configuration "
                "it was made for"
            ) from None
        if dataset:
            values["dataset"] = dataset.key
        if "converted_from" in about:  # trained where the learning rate has always had its floor
            values.setdefault("min_lr", None)
        return Config.from_dict(values)

    def config(self, given: str | Config | None = None, own: Dataset | None = None) -> Config:
        """The configuration: from the metadata, or else from names, hints and the entries' shapes.

        Args:
            given: the configuration it was made for; comes back adapted to the file.
            own: the user's data set that it was trained on.

        Raises:
            ConfigError: the file leaves the output stride open; the fitting ones are named.
            WeightsError: it is no CCNet that is known here.
        """
        if given is None and self.stored:
            return self.stored
        entries, name = converted(self.content.entries), self.path.name
        fitting = foreign.configurations(entries, self.hints, own)
        if given is not None:
            fitting = [get_config(given)]
        if not fitting:
            last = entries.get("classifier.4.weight")
            classes = "" if last is None else f" of {last.shape[0]} classes"
            raise WeightsError(
                f"{name} holds no CCNet{classes} that is known here; give the configuration it was "
                "made for (--config NAME), or for classes of your own --own FOLDER"
            )
        if len(fitting) > 1:
            raise ConfigError(
                f"the tensors of {name} leave the output stride (or R) open: "
                f"{' or '.join(row.name for row in fitting)}. Give the configuration: --config "
                "NAME, in the app PATH as NAME"
            )
        return foreign.adapted(fitting[0], entries, self.hints, own)

    def build(self, config: str | Config) -> CCNet:
        """The model of a configuration, which takes the tensors over; raises as `load_weights`."""
        with torch.device("meta"):  # neither memory nor a random start for what is filled anyway
            model = build_model(config)
        _fill(model, self.content, f" {self.path.name}")
        self.content.entries.clear()  # they would count twice once the model is moved or converted
        return model


def open_checkpoint(path: str | Path, mapped: bool = False) -> Checkpoint:
    """Read a weights file; with `mapped` tensors stay in the file until they are looked at.

    Raises:
        MissingFileError: there is no such file.
        WeightsError: it is no checkpoint, is damaged, holds no state dict, or would have to run
            code, which was not run.
    """
    content, about = _read(Path(path), mapped)
    return Checkpoint(Path(path), unwrap(content), about)


def read_config(path: str | Path) -> Config:
    """The configuration a weights file is for; see `Checkpoint.config`."""
    return open_checkpoint(path, mapped=True).config()


def load_weights(model: nn.Module, source: str | Path | Mapping[str, Any]) -> None:
    """Load a whole state dict into `model`, or nothing.

    Args:
        model: filled in place, on any device; on the meta device it takes the source's tensors.
        source: a file or a mapping in one of the formats of foreign.py. Entries of another dtype
            are taken where the conversion is exact, as from float16 or bfloat16 to float32.

    Raises:
        MissingFileError: there is no such file.
        WeightsError: the file cannot be read, or entries are missing, left over, misshapen or
            inexact; they are named.
    """
    if isinstance(source, Mapping):
        _fill(model, unwrap(source))
    else:
        _fill(model, open_checkpoint(source).content, f" {Path(source).name}")


def _fill(model: nn.Module, content: Content, where: str = "") -> None:
    entries, own = converted(content.entries), model.state_dict()
    if void := [name for name, value in entries.items() if value.is_meta]:
        raise WeightsError(f"the weights{where} hold no numbers: {shortened(void)}")
    found = compare(entries, own)
    if any(found):
        raise WeightsError(
            f"the weights{where} do not fit this model, so nothing was loaded. {found.text}. "
            "Build the model they are for; `python -m ccnet_lab.model.weights FILE` says which"
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
    """How entries under ccnet_lab's names differ from a model's state dict."""
    misshapen, inexact = [], []
    for name, tensor in own.items():
        value = entries.get(name, tensor)
        if value.shape != tensor.shape:
            misshapen.append(f"{name} {tuple(value.shape)}, expected {tuple(tensor.shape)}")
        elif not _exact(value, tensor.dtype):
            inexact.append(f"{name} {dtype_name(value)}, expected {dtype_name(tensor)}")
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


def dtype_name(tensor: Tensor) -> str:
    """As "float32"."""
    return str(tensor.dtype).removeprefix("torch.")


def load_start(model: CCNet, start: str, say: Callable[[str], None] = print) -> CCNet:
    """Fill a new network with the weights its training starts from, and return it.

    Args:
        model: with random weights.
        start: "none" leaves them; "imagenet" fills the ResNet with the published start weights; a
            file of a CCNet fills every layer that fits, a ResNet's the ResNet.
        say: called with a sentence that names the layers that keep their random weights.

    Raises:
        DownloadError, MissingFileError: as `store.obtain` and `open_checkpoint`.
        WeightsError: it doesn't fit; a CCNet's must fit in the first layers at least.
    """
    if start == "none":
        return model
    if start == "imagenet":
        resnet = foreign.depth(model.state_dict())
        if resnet not in (50, 101):
            remedy = "start this network with --weights none"
            raise WeightsError(f"there are ImageNet weights for ResNets only; {remedy}")
        path = store.obtain(f"resnet{resnet}_v1c", progress_bar("ImageNet start weights"))
    else:
        path = Path(start)
    entries = converted(open_checkpoint(path).content.entries)
    if any(name.startswith("classifier.") for name in entries):
        _load_what_fits(model, entries, path.name, say)
    else:
        backbone = {name: v for name, v in entries.items() if not name.startswith("fc.")}
        load_weights(model.backbone, backbone)
    return model


def _load_what_fits(
    model: CCNet, entries: dict[str, Tensor], source: str, say: Callable[[str], None]
) -> None:

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


def _read(path: Path, mapped: bool) -> tuple[dict[str, Any], dict[str, str]]:
    if not path.is_file():
        raise MissingFileError(f"there is no weights file {path}; check the path")
    what = f"{path.name} ({path.stat().st_size:,} bytes) is no readable"
    if path.suffix == ".safetensors":
        try:
            with safe_open(path, "pt", backend="mmap" if mapped else "pread") as file:
                return dict(file.get_tensors()), file.metadata() or {}
        except (SafetensorError, OSError) as error:
            reason = f"{what} safetensors file: {error}; download it again"
            raise WeightsError(reason) from None
    with path.open("rb") as start:
        first = start.read(9)
    zipped = first[:2] == b"PK"
    if not zipped and first[:1] != b"\x80":
        page = ", a web page by its first bytes" if first.lstrip().startswith(b"<") else ""
        remedy = "download it again, or if it is safetensors let its name end with .safetensors"
        raise WeightsError(f"{what} checkpoint{page}; {remedy}")
    if zipped:
        refuse_bomb(path, WeightsError)
    try:
        with harmless():
            content = torch.load(
                path, map_location="cpu", weights_only=True, mmap=mapped and zipped
            )
    except Exception as error:  # torch raises many kinds for a damaged file
        raise WeightsError(_reason(path.name, what, error)) from None
    if not isinstance(content, Mapping):
        kind = type(content).__name__
        raise WeightsError(f"{path.name} holds a {kind}; expected a mapping of names to tensors")
    return dict(content), {}


def _reason(name: str, what: str, error: Exception) -> str:
    """What to say of an error of torch's reader."""
    said = str(error)
    if "TorchScript" in said:
        return f"{name} is a TorchScript program; expected a state dict: save its network's"
    if not isinstance(error, pickle.UnpicklingError) or "truncated" in said:
        first = said.splitlines()[0].split(". ")[0] if said else type(error).__name__
        return f"{what} checkpoint: {first}; download it again"
    named = re.search(r"GLOBAL (\S+) w", said)
    return (
        f"{name} holds more than tensors{f' ({named[1]})' if named else ''} and was refused "
        "without running any of it; ask its author for a plain state dict or a safetensors file"
    )


def save_weights(
    weights: nn.Module | Mapping[str, Tensor], path: str | Path, config: str | Config, **notes: Any
) -> None:
    """Write a model, or entries under ccnet_lab's names, as a safetensors file.

    Its metadata, in JSON, hold the configuration, the data set's terms and the `notes`.

    Raises:
        WeightsError: it cannot be written; what was there before is untouched.
    """
    config = get_config(config)
    dataset = get_dataset(config.dataset)
    about: dict[str, Any] = {"config": config.to_dict(), **notes}
    if dataset.terms:
        about["terms"] = f"trained on {dataset.title}: {dataset.terms}"
    if dataset.classes:  # a user's, which other processes don't know
        about["dataset"] = dataset.to_dict()
    metadata = {"made_with": "ccnet_lab"} | {name: json.dumps(v) for name, v in about.items()}
    entries = weights.state_dict() if isinstance(weights, nn.Module) else weights
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in entries.items()}
    write_whole(Path(path), lambda new: save_file(tensors, new, metadata=metadata), WeightsError)


if __name__ == "__main__":
    import sys

    from ccnet_lab.model.diagnosis import main

    sys.exit(main())
