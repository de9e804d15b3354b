"""Files of weights: in, strictly, from every format of formats.py; ours out. `python -m ccnet_lab.model.weights` is in __main__.py.

Nothing here runs code from a file: safetensors cannot hold any, and pickles are read with `weights_only=True`.
"""

import json
import pickle
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
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
from ccnet_lab.model.ccnet import CCNet
from ccnet_lab.model.foreign import (
    RESNET,
    UNKNOWN,
    adapted,
    asked_as,
    configurations,
    depth,
    identify,
    to_own_names,
    told,
    unwrap,
)
from ccnet_lab.model.foreign import to_published_names as to_published_names  # asked for here, too
from ccnet_lab.model.unpickling import harmless

_COUNTED = "num_batches_tracked"


def load_weights(
    model: nn.Module, source: str | Path | Mapping[str, Any], ema: bool = False
) -> None:
    """Load a whole state dict into `model`, or nothing.

    Args:
        model: the network; its parameters are filled in place, on any device, or become the source's tensors on the meta device.
        source: a file (our safetensors, or a `.pth` in the published format `{"model": state_dict, ...}` or mmsegmentation's) or such a
            mapping. Entries of another dtype are taken where the conversion loses nothing, as from float16 or bfloat16 to float32.
        ema: take the averaged weights that lie beside the others, under "model_ema" in SSSegmentation's files.

    Raises:
        MissingFileError: there is no such file.
        WeightsError: the file cannot be read, or entries are missing, left over, misshapen or inexact; they are named.
    """
    content, where = (
        (source, "")
        if isinstance(source, Mapping)
        else (read_weights(source), f" {Path(source).name}")
    )
    entries = to_own_names(content, ema)
    held = unwrap(content, ema)
    whose, aside = identify(held.entries), held.aside
    del content, held  # nothing but `entries` holds the file's tensors from here on
    found = compare(entries, model.state_dict())
    if any(found):
        other = "" if whose.ccnet or whose in (RESNET, UNKNOWN) else f" (it is {whose.title})"
        raise WeightsError(
            f"the weights{where} do not fit this model{other}, so nothing was loaded. {found.text}. "
            "Build the model with the configuration the file was made for; `python -m ccnet_lab.model.weights FILE` says which that is"
        )
    if aside:
        warnings.warn(
            f"left aside in the weights{where}, as no part of the network: {shortened(aside)}",
            stacklevel=2,
        )
    for name, own in model.state_dict().items():
        counts = (
            torch.zeros((), dtype=own.dtype) if name.endswith(_COUNTED) else None
        )  # of batches; older norms counted none
        entries[name] = entries.get(name, counts).to(own.dtype)  # type: ignore[union-attr]
    on_meta = any(
        parameter.is_meta for parameter in model.parameters()
    )  # built without memory: take the tensors themselves
    model.load_state_dict(entries, assign=on_meta)


class Differences(NamedTuple):
    """What keeps entries from filling a model, each by name; all empty where they fit."""

    missing: tuple[str, ...] = ()
    extra: tuple[str, ...] = ()
    misshapen: tuple[str, ...] = ()
    inexact: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        """They in one sentence, long lists shortened."""
        return "; ".join(
            f"{len(names)} {kind}: {shortened(names)}"
            for kind, names in self._asdict().items()
            if names
        )


def shortened(names: Sequence[str], most: int = 12) -> str:
    """Names for a sentence; of hundreds the first, and how many more there are."""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def compare(entries: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> Differences:
    """What is missing, left over, of another shape, or of a dtype that cannot be converted without loss.

    Args:
        entries: under our names.
        own: a model's state dict; the meta device suffices.
    """
    both = [(name, entries[name], tensor) for name, tensor in own.items() if name in entries]
    return Differences(
        tuple(name for name in own if name not in entries and not name.endswith(_COUNTED)),
        tuple(name for name in entries if name not in own),
        tuple(
            f"{name} {tuple(value.shape)}, expected {tuple(t.shape)}"
            for name, value, t in both
            if value.shape != t.shape
        ),
        tuple(
            f"{name} {_dtype(value)}, expected {_dtype(t)}"
            for name, value, t in both
            if not _exact(value, t.dtype)
        ),
    )


def _exact(value: Tensor, dtype: torch.dtype) -> bool:
    """Whether every number of `value` is one of `dtype`, too: always for float16 as float32, for float64 as it comes."""
    if value.dtype == dtype:
        return True
    if dtype.is_floating_point and not value.dtype.is_floating_point:
        return False  # quantised, say: its numbers mean something else
    if dtype in (torch.float16, torch.bfloat16) or value.is_meta:
        return True  # who builds a model in half precision wants rounding
    wider = (
        dtype.is_floating_point == value.dtype.is_floating_point
        and dtype.itemsize > value.dtype.itemsize
    )
    return wider or bool((value.to(dtype).to(value.dtype) == value).all())


def _dtype(value: Tensor) -> str:
    return str(value.dtype).removeprefix("torch.")


def load_start(model: CCNet, start: str, say: Callable[[str], None] = print) -> CCNet:
    """Fill a new network with what its training starts from, and return it.

    Args:
        model: with random weights.
        start: "none" leaves them; "imagenet" fills the ResNet with the published start weights, downloaded where they are not on disk;
            a file of a CCNet fills every layer that fits (with other classes, all but the classifiers' last), a ResNet's the ResNet.
        say: is told which layers keep their random weights.

    Raises:
        DownloadError: the published weights cannot be had; the message says where to put them.
        MissingFileError: the file isn't there.
        WeightsError: it doesn't fit; a CCNet's must fit in the first layers at least.
    """
    if start == "none":
        return model
    if start == "imagenet":
        resnet = depth(model.state_dict())
        if resnet not in (50, 101):
            raise WeightsError(
                "there are ImageNet weights for ResNets of depth 50 and 101 only; start this network with --weights none"
            )
        path = store.obtain(f"resnet{resnet}_v1c", progress_bar("ImageNet start weights"))
    else:
        path = Path(start)
    entries = to_own_names(read_weights(path))
    if any(name.startswith("classifier.") for name in entries):
        _load_what_fits(model, entries, path.name, say)
    else:
        load_weights(
            model.backbone,
            {name: value for name, value in entries.items() if not name.startswith("fc.")},
        )
    return model


def _load_what_fits(
    model: CCNet, entries: dict[str, Tensor], source: str, say: Callable[[str], None]
) -> None:
    """Take the layers all of whose entries are there in the right shape; a layer is what the first two parts of a name name."""
    own = model.state_dict()
    left = {
        _layer(name)
        for name, value in own.items()
        if name not in entries or entries[name].shape != value.shape
    }
    if {"backbone.stem", "backbone.layer1"} & left:
        load_weights(model, entries)  # raises, with all that differs
    load_weights(
        model,
        own
        | {
            name: value
            for name, value in entries.items()
            if name in own and _layer(name) not in left
        },
    )
    if left:
        layers = {_layer(name) for name in own}
        say(
            f"{source} fits {len(layers - left)} of {len(layers)} layers; random at the start: {', '.join(sorted(left))}"
        )


def _layer(name: str) -> str:
    return ".".join(name.split(".")[:2])


def read_weights(path: str | Path, mapped: bool = False) -> dict[str, Any]:
    """What a file holds, under its own names: tensors, or what `formats.unwrap` finds them in.

    Args:
        mapped: leave the tensors in the file until they are looked at: for looking, not for keeping, since they hold on to the whole file
            and change with it. Files of torch before 1.6 are read all the same.

    Raises:
        MissingFileError: there is no such file.
        WeightsError: it is no checkpoint, is damaged, or would have to run code; none of it was run.
    """
    path = Path(path)
    if path.suffix == ".safetensors":
        return _read_safetensors(path, mapped)
    if not path.is_file():
        raise MissingFileError(f"there is no weights file {path}")
    with path.open("rb") as file:
        start = file.read(9)
    unreadable = f"{path.name} ({path.stat().st_size:,} bytes) is no readable checkpoint"
    if start[:2] != b"PK" and start[:1] != b"\x80":  # neither torch's zip nor a pickle
        about, remedy = (
            "",
            "expected a file of torch.save or safetensors; if it is one, download it again",
        )
        if start.lstrip().startswith(b"<"):
            about, remedy = ", a web page by its first bytes", "download it again"
        elif start[8:] == b"{":
            about, remedy = (
                ", a safetensors file by its first bytes",
                "let its name end with .safetensors",
            )
        raise WeightsError(f"{unreadable}{about}; {remedy}")
    try:
        with harmless():
            content = torch.load(
                path, map_location="cpu", weights_only=True, mmap=mapped and start[:2] == b"PK"
            )
    except (
        Exception
    ) as error:  # torch raises many kinds for a damaged file (zip, runtime, end of file, key, ...)
        said = str(error)
        if "TorchScript" in said:
            raise WeightsError(
                f"{path.name} is a TorchScript program; expected a state dict: save that of the network it was made from"
            ) from None
        if not isinstance(error, pickle.UnpicklingError) or "truncated" in said:
            reason = said.splitlines()[0].split(". ")[0] if said else type(error).__name__
            raise WeightsError(f"{unreadable}: {reason}; download it again") from None
        named = re.search(r"GLOBAL (\S+) w", said)
        raise WeightsError(
            f"{path.name} holds more than tensors{f' ({named[1]})' if named else ''} and was refused without running any of it; "
            "ask its author for a plain state dict or a safetensors file, or if you trust it save its state dict alone where it was made"
        ) from None
    if not isinstance(content, Mapping):
        raise WeightsError(
            f"{path.name} holds a {type(content).__name__}; expected a mapping of names to tensors"
        )
    return dict(content)


def _read_safetensors(path: Path, mapped: bool) -> dict[str, Tensor]:
    with _open_safetensors(
        path
    ) as file:  # checks names, sizes and offsets; its tensors lie in the file
        views = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118, no mapping
    if mapped:
        return views
    found = {}
    with (
        path.open("rb") as raw
    ):  # read once more: a copy of mapped memory would count twice until the last tensor is gone
        length = int.from_bytes(raw.read(8), "little")
        places = json.loads(raw.read(length))
        for name, view in views.items():
            begin, end = places[name]["data_offsets"]
            own = torch.empty(end - begin, dtype=torch.uint8)
            raw.seek(8 + length + begin)
            if raw.readinto(own.numpy().data) != end - begin:
                raise WeightsError(
                    f"{path.name} has become shorter while it was read; try again when nothing writes to it"
                )
            found[name] = own.view(view.dtype).view(view.shape)
    return found


def save_weights(model: nn.Module, path: str | Path, config: str | Config, **notes: Any) -> None:
    """Write a safetensors file that says which configuration it is for; `notes` go into its readable metadata.

    Raises:
        WeightsError: it cannot be written; what was there before is untouched.
    """
    save_entries(model.state_dict(), Path(path), metadata(config, **notes))


def save_entries(entries: Mapping[str, Tensor], path: Path, about: dict[str, str]) -> None:
    """Write tensors under our names as one of our files, whole or not at all; `about` as `metadata` makes it."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in entries.items()}
    write_whole(path, lambda temporary: save_file(tensors, temporary, metadata=about), WeightsError)


def metadata(config: str | Config, **notes: Any) -> dict[str, str]:
    """What stands in one of our files beside the tensors, each value as JSON: the configuration, the data set's terms, the notes."""
    config = get_config(config)
    dataset = get_dataset(config.dataset)
    about: dict[str, Any] = {"config": config.to_dict(), **notes}
    if dataset.terms:
        about["terms"] = f"trained on {dataset.title}: {dataset.terms}"
    if dataset.classes:  # one's own, which other processes don't know
        about["dataset"] = dataset.to_dict()
    return {"made_with": "ccnet_lab", **{name: json.dumps(value) for name, value in about.items()}}


def stored_config(path: Path) -> Config | None:
    """The configuration in the metadata of one of our files, None where there is none; its data set is known afterwards."""
    if path.suffix != ".safetensors":
        return None
    with _open_safetensors(path) as file:
        stored = file.metadata() or {}
    try:
        dataset = register(json.loads(stored["dataset"])) if "dataset" in stored else None
        if "config" not in stored:
            return None
        values = json.loads(stored["config"])
        if dataset and isinstance(values, dict):
            values["dataset"] = dataset.key
        if (
            "converted_from" in stored
        ):  # trained elsewhere, where the schedule has always had its floor
            values.setdefault("min_lr", None)
        return Config.from_dict(values)
    except json.JSONDecodeError as error:
        raise WeightsError(
            f"the metadata of {path.name} is no JSON: {error}; give the configuration it was made for"
        ) from None


def read_config(
    path: str | Path, given: str | Config | None = None, own: Dataset | None = None
) -> Config:
    """The configuration a weights file is for: from our metadata, from a published file's name, or from its entries' shapes.

    Args:
        given: what it is said to be for; comes back with the auxiliary classifier the file has, and the R where it tells one.
        own: the data set of one's own it was trained on, for files that name no classes.

    Raises:
        ConfigError: the file leaves the output stride open; the message names the configurations that fit.
        MissingFileError, WeightsError: as `load_weights`.
    """
    path = Path(path)
    given = None if given is None else get_config(given)
    if given is None:
        if stored := stored_config(path):
            return stored
        named = re.match(r"ccnet_resnet\d+os\d+_[a-z0-9]+?(?=_train|\.|$)", path.name)
        if named and named[0] in CONFIGS and path.is_file():
            return CONFIGS[named[0]]
    content = read_weights(path, mapped=True)
    entries, known = to_own_names(content), told(unwrap(content).beside, path)
    fitting = (
        [adapted(given, entries, known, own)] if given else configurations(entries, known, own)
    )
    if len(fitting) == 1:
        return fitting[0]
    if not fitting:
        classes = entries["classifier.4.weight"].shape[0] if "classifier.4.weight" in entries else 0
        remedy = (
            f"; for {classes} classes of your own give --own FOLDER or --config NAME"
            if classes
            else ""
        )
        raise WeightsError(
            f"{path.name} holds no CCNet that is known here; give the configuration it was made for{remedy}"
        )
    names = " or ".join(map(asked_as, fitting))
    raise ConfigError(
        f"{path.name} does not say which of these it is, since its tensors leave the output stride (or R) open: {names}. "
        "Give the configuration (in the app: PATH as NAME), "
        f"or convert it once: python -m ccnet_lab.model.weights {path.name} --config NAME --out FILE.safetensors"
    )


def _open_safetensors(path: Path) -> Any:
    if not path.is_file():
        raise MissingFileError(f"there is no weights file {path}")
    try:
        return safe_open(path, framework="pt")
    except (SafetensorError, OSError) as error:
        raise WeightsError(
            f"{path.name} ({path.stat().st_size:,} bytes) is no readable safetensors file: {error}; download it again"
        ) from None


if __name__ == "__main__":  # `python -m ccnet_lab.model.weights FILE`: the doctor of checkpoints
    import sys

    from ccnet_lab.model.diagnosis import main

    sys.exit(main())
