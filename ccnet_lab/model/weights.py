"""Files of weights: our safetensors files and the published format in, ours out. Which network they are for is in ccnet.py.

Nothing here runs code from a file: safetensors cannot hold any, and pickles are read with `weights_only=True`.
"""

import json
import os
import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from ccnet_lab.configs import CONFIGS, Config, get_config
from ccnet_lab.data.catalog import DATASETS, get_dataset, register
from ccnet_lab.errors import ConfigError, MissingFileError, WeightsError
from ccnet_lab.model.backbone import DilatedResNet
from ccnet_lab.model.ccnet import CCNet

# SSSegmentation's start weights by the number of blocks in stage 3 (of ResNet-50 and -101); the hex digits start the file's sha256.
_V1C = "https://download.openmmlab.com/pretrain/third_party"
_IMAGENET = {6: f"{_V1C}/resnet50_v1c-2cccc1ad.pth", 23: f"{_V1C}/resnet101_v1c-e67eebb6.pth"}

# Published name -> ours, by prefix. SSSegmentation's names; the layers below them are numbered as torchvision numbers them.
_PUBLISHED_PREFIXES = {
    "backbone_net.": "backbone.",
    "conv_before_cca.": "reduce.",
    "cca.query_conv.": "attention.query.",
    "cca.key_conv.": "attention.key.",
    "cca.value_conv.": "attention.value.",
    "cca.gamma.scale": "attention.gamma",
    "conv_after_cca.": "refine.",
    "decoder.": "classifier.",
    "auxiliary_decoder.": "aux_classifier.",
}


def load_weights(model: nn.Module, source: str | Path | Mapping[str, Any]) -> None:
    """Load a whole state dict into `model`, or nothing.

    Args:
        model: the network; its parameters are filled in place, on any device, or become the source's tensors on the meta device.
        source: a file (our safetensors, or a `.pth` in the published format `{"model": state_dict, ...}`) or such a mapping.

    Raises:
        MissingFileError: there is no such file.
        WeightsError: the file cannot be read, or entries are missing, left over or misshapen; every one is named.
    """
    entries = to_own_names(source if isinstance(source, Mapping) else read_weights(source))
    target = model.state_dict()
    missing = [name for name in target if name not in entries]
    extra = [name for name in entries if name not in target]
    misshapen = [
        f"{name} {tuple(entries[name].shape)}, expected {tuple(tensor.shape)}"
        for name, tensor in target.items()
        if name in entries and entries[name].shape != tensor.shape
    ]
    if missing or extra or misshapen:
        where = "" if isinstance(source, Mapping) else f" {Path(source).name}"
        parts = [
            f"{len(names)} {kind}: {', '.join(names)}"
            for kind, names in (("missing", missing), ("extra", extra), ("misshapen", misshapen))
            if names
        ]
        raise WeightsError(
            f"the weights{where} do not fit this model, so nothing was loaded. {'; '.join(parts)}. "
            "Build the model with the configuration the file was made for."
        )
    on_meta = any(parameter.is_meta for parameter in model.parameters())  # built without memory: take the tensors themselves
    model.load_state_dict(entries, assign=on_meta)


def load_start(model: CCNet, start: str) -> CCNet:
    """Fill a new network with what its training starts from, and return it.

    Args:
        model: with random weights.
        start: "none" leaves them; "imagenet" fills the ResNet with the published start weights, which must be on disk; a file fills the
            whole network, or the ResNet alone if the file holds no more.

    Raises:
        MissingFileError: the file isn't there; the message says where to get it.
        WeightsError: it doesn't fit.
    """
    if start == "none":
        return model
    if start == "imagenet":
        depth = len(getattr(model.backbone, "layer3", ()))
        if depth not in _IMAGENET or not isinstance(model.backbone, DilatedResNet):
            raise WeightsError("there are ImageNet weights for ResNets of depth 50 and 101 only; start this network with --weights none")
        url = _IMAGENET[depth]
        path = home() / "imagenet" / url.rsplit("/", 1)[1]
        if not path.is_file():
            raise MissingFileError(
                f"the ImageNet start weights are not on disk; download {url} and put it at {path}, or use --weights none"
            )
    else:
        path = Path(start)
    entries = to_own_names(read_weights(path))
    if any(name.startswith("classifier.") for name in entries):
        load_weights(model, entries)
    else:
        load_weights(model.backbone, {name: value for name, value in entries.items() if not name.startswith("fc.")})
    return model


def home() -> Path:
    """Where downloads are kept: `$CCNET_LAB_HOME`, by default ~/.cache/ccnet_lab."""
    return Path(os.environ.get("CCNET_LAB_HOME", Path.home() / ".cache" / "ccnet_lab"))


def read_weights(path: str | Path) -> dict[str, Tensor]:
    """The tensors of a file by name, as they stand in it. Raises as `load_weights` does."""
    path = Path(path)
    if path.suffix == ".safetensors":
        with _open_safetensors(path) as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118, no mapping
    if not path.is_file():
        raise MissingFileError(f"there is no weights file {path}")
    with path.open("rb") as file:
        start = file.read(2)
    if start != b"PK" and start[:1] != b"\x80":  # neither torch's zip nor a pickle
        page = ", a web page by its first bytes" if start.lstrip().startswith(b"<") else ""
        raise WeightsError(f"{path.name} ({path.stat().st_size:,} bytes) is no readable checkpoint{page}; download it again")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if "truncated" in str(error):
            raise WeightsError(f"{path.name} is no readable checkpoint: {_first_line(error)}; download it again") from None
        raise WeightsError(
            f"{path.name} holds more than tensors and was refused without running any of it; "
            "ask its author for a plain state dict or a safetensors file"
        ) from None
    except Exception as error:  # a damaged file: torch raises many kinds here (zip, runtime, end of file, key, ...)
        raise WeightsError(
            f"{path.name} ({path.stat().st_size:,} bytes) is no readable checkpoint: {_first_line(error)}; download it again"
        ) from None
    if not isinstance(content, Mapping):
        raise WeightsError(f"{path.name} holds a {type(content).__name__}; expected a mapping of names to tensors")
    return dict(content)


def to_own_names(entries: Mapping[str, Any]) -> dict[str, Tensor]:
    """A state dict under our names, from ours or the published format; raises `WeightsError` where it holds no tensors."""
    inner = entries.get("model", entries.get("state_dict"))
    if isinstance(inner, Mapping):
        entries = inner
    if not entries or not all(isinstance(value, Tensor) for value in entries.values()):
        odd = next(
            (f"{name!r} is a {type(value).__name__}" for name, value in entries.items() if not isinstance(value, Tensor)), "it is empty"
        )
        raise WeightsError(f"this is no state dict: {odd}; expected names with tensors, or those under the key 'model'")
    entries = {name.removeprefix("module."): value for name, value in entries.items()}  # DistributedDataParallel's prefix
    if not any(name.startswith(("backbone_net.", "cca.")) for name in entries):
        return entries
    return {_own_name(name): value for name, value in entries.items()}


def to_published_names(entries: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state dict under SSSegmentation's names, from ours."""
    return {
        next(old + name.removeprefix(new) for old, new in _PUBLISHED_PREFIXES.items() if name.startswith(new)): value
        for name, value in entries.items()
    }


def save_weights(model: nn.Module, path: str | Path, config: str | Config, **notes: Any) -> None:
    """Write a safetensors file that says which configuration it is for; `notes` go into its readable metadata."""
    config = get_config(config)
    dataset = get_dataset(config.dataset)
    own = {"dataset": json.dumps(dataset.to_dict())} if dataset.classes else {}  # one's own, which other processes don't know
    metadata = {
        "config": json.dumps(config.to_dict()),
        **own,
        "made_with": "ccnet_lab",
        **{k: json.dumps(v) for k, v in notes.items()},
    }
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    save_file(tensors, Path(path), metadata=metadata)


def read_config(path: str | Path) -> Config:
    """The configuration a weights file is for: from our metadata, from a published file's name, or from its entries' shapes.

    Raises:
        ConfigError: the file leaves the output stride open; the message names the configurations that fit.
        MissingFileError, WeightsError: as `load_weights`.
    """
    path = Path(path)
    if path.suffix == ".safetensors":
        with _open_safetensors(path) as file:
            metadata = file.metadata() or {}
        if "dataset" in metadata:
            register(json.loads(metadata["dataset"]))
        if "config" in metadata:
            return Config.from_dict(json.loads(metadata["config"]))
    elif not path.is_file():
        raise MissingFileError(f"there is no weights file {path}")
    found = re.match(r"ccnet_resnet\d+os\d+_[a-z0-9]+?(?=_train|\.|$)", path.name)
    if found and found.group() in CONFIGS:
        return get_config(found.group())
    fitting = _fitting(to_own_names(read_weights(path)))
    if not fitting:
        raise WeightsError(f"{path.name} holds no CCNet that is known here; give the configuration it was made for")
    names = " or ".join(c.name for c in fitting)
    raise ConfigError(f"{path.name} does not say its output stride; give the configuration (in the app: PATH as NAME): {names}")


def _fitting(entries: Mapping[str, Tensor]) -> list[Config]:
    """The published configurations whose depth and class count the entries have."""
    depth = 101 if "backbone.layer3.22.conv1.weight" in entries else 50
    classes = entries["classifier.4.bias"].shape[0] if "classifier.4.bias" in entries else -1
    keys = [key for key, dataset in DATASETS.items() if dataset.num_classes == classes]
    return [config for config in CONFIGS.values() if config.depth == depth and config.dataset in keys]


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0].split(". ")[0] if str(error) else type(error).__name__


def _own_name(name: str) -> str:
    for old, new in _PUBLISHED_PREFIXES.items():
        if name.startswith(old):
            return new + name.removeprefix(old)
    return name


def _open_safetensors(path: Path) -> Any:
    if not path.is_file():
        raise MissingFileError(f"there is no weights file {path}")
    try:
        return safe_open(path, framework="pt")
    except (SafetensorError, OSError) as error:
        raise WeightsError(f"{path.name} ({path.stat().st_size:,} bytes) is no readable safetensors file: {error}") from None
