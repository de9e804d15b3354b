"""Formats of weights: where a state dict comes from, its names, hints of its configuration.

Files are read in weights.py. Nothing here runs code from a file: a configuration that
mmsegmentation stores as text is searched, never executed.
"""

import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ccnet_lab.configs import CONFIGS, EXTRAS, SLIM, TINY, Config
from ccnet_lab.data.catalog import Dataset
from ccnet_lab.errors import WeightsError
from ccnet_lab.model.backbone import BLOCKS
from ccnet_lab.model.unpickling import Aside

_REPEATED = 200_000_000  # bytes that a tensor with repeated numbers may stand for
_KEYS = ("model", "state_dict", "model_state_dict")  # of the state dict in a file
# Of modules wrapped by DistributedDataParallel and torch.compile.
_WRAPPED = re.compile(r"(?<![^.])(?:module|_orig_mod)\.")
_NETWORKS = ("model.", "segmentor.")  # where a trainer's module has its network
_LOSSES = re.compile(r"(criterions?|loss|losses|loss_fn|metrics?)\.")
_UNSUPPORTED = {  # settings in mmsegmentation's stored configuration
    "contract_dilation=False": "dilation: the first block of a stage has the full one, here half "
    "of it",
    "align_corners=True": "logits are upsampled with align_corners=True, here with False",
}


class Format(NamedTuple):
    """The origin of a state dict, recognised by its names."""

    title: str
    marks: tuple[str, ...]  # one entry that begins so marks the format
    names: Mapping[str, str] = {}  # how its names begin, and ccnet_lab's that mean the same
    refused: tuple[str, ...] = ()  # why it cannot be converted; empty where it can


# Beginnings of the heads' names: ccnet_lab's, SSSegmentation's and mmsegmentation's (its
# cc_head.py, fcn_head.py and decode_head.py with mmcv's cc_attention.py).
_HEADS = """
reduce.0.          conv_before_cca.0.    decode_head.convs.0.conv.
reduce.1.          conv_before_cca.1.    decode_head.convs.0.bn.
attention.query.   cca.query_conv.       decode_head.cca.query_conv.
attention.key.     cca.key_conv.         decode_head.cca.key_conv.
attention.value.   cca.value_conv.       decode_head.cca.value_conv.
attention.gamma    cca.gamma.scale       decode_head.cca.gamma.scale
refine.0.          conv_after_cca.0.     decode_head.convs.1.conv.
refine.1.          conv_after_cca.1.     decode_head.convs.1.bn.
classifier.0.      decoder.0.            decode_head.conv_cat.conv.
classifier.1.      decoder.1.            decode_head.conv_cat.bn.
classifier.4.      decoder.4.            decode_head.conv_seg.
aux_classifier.0.  auxiliary_decoder.0.  auxiliary_head.convs.0.conv.
aux_classifier.1.  auxiliary_decoder.1.  auxiliary_head.convs.0.bn.
aux_classifier.4.  auxiliary_decoder.4.  auxiliary_head.conv_seg.
"""
_ROWS = [line.split() for line in _HEADS.split("\n") if line]

OWN = Format("a CCNet of ccnet_lab", ("attention.query.", "reduce.0."))
# Its backbone's layers are numbered as torchvision numbers them.
PUBLISHED = Format(
    "SSSegmentation's CCNet",
    ("backbone_net.", "cca."),
    {"backbone_net.": "backbone.", **{theirs: own for own, theirs, _ in _ROWS}},
)
MMSEGMENTATION = Format(
    "mmsegmentation's CCNet", ("decode_head.cca.",), {theirs: own for own, _, theirs in _ROWS}
)
# Source: networks/ccnet.py, cc_attention/functions.py and evaluate.py of the authors' repository,
# in its last version.
AUTHORS = Format(
    "the CCNet of its authors",
    ("head.cca.",),
    refused=(
        "stem: convolutions of 64, 64 and 128 channels, here 32, 32 and 64",
        "max pooling rounds its output size up, here down",
        _UNSUPPORTED["contract_dilation=False"],
        "norms: InPlaceABN scales by |weight| + eps, BatchNorm2d by weight",
        "heads: a leaky ReLU, here a ReLU; the first auxiliary convolution (dsn.0) has a bias",
        _UNSUPPORTED["align_corners=True"],
        "input: BGR less its mean, here RGB less its mean and divided by its deviation",
    ),
)
RESNET = Format("a ResNet alone", ("layer1.0.conv1.",))
UNKNOWN = Format("a network that is not known here", ())
_RESNET_NAME = re.compile(r"(stem|conv1|bn1|layer[1-4]|fc)\.")


def identify(names: Iterable[str]) -> Format:
    """The format of a state dict with these names."""
    names = list(names)
    for known in (OWN, PUBLISHED, MMSEGMENTATION, AUTHORS, RESNET):
        if any(name.startswith(known.marks) for name in names):
            strange = known is RESNET and not all(map(_RESNET_NAME.match, names))
            return UNKNOWN if strange else known
    return UNKNOWN


class Content(NamedTuple):
    """A file's state dict, unwrapped."""

    entries: dict[str, Tensor]  # under the file's own names, less what wraps the network
    beside: dict[str, Any]  # whatever else the file holds, by key
    aside: tuple[str, ...]  # names within the state dict that are no part of the network


def unwrap(content: Mapping[str, Any]) -> Content:
    """The state dict in a file's mapping.

    Raises:
        WeightsError: there is none.
    """
    key = next((key for key in _KEYS if isinstance(content.get(key), Mapping)), None)
    found = content if key is None else content[key]
    _check_state_dict(found)
    beside = {} if key is None else {name: v for name, v in content.items() if name != key}
    dense = {name: value.detach() for name, value in found.items() if _dense(value)}
    entries = unwrapped = _renamed(dense, lambda name: _WRAPPED.sub("", name))
    for network in _NETWORKS:
        inside = {n.removeprefix(network): v for n, v in unwrapped.items() if n.startswith(network)}
        others = [n.partition(".")[2] for n in unwrapped if not n.startswith(network)]
        # Beside it there may be losses and metrics, but no second network.
        if inside and (
            not others or (identify(inside) is not UNKNOWN and identify(others) is UNKNOWN)
        ):
            entries = inside
            break
    kept = {name: value for name, value in entries.items() if not _LOSSES.match(name)}
    aside = [name for name in entries if name not in kept]
    aside += [name for name in found if name not in dense]
    if entries is not unwrapped:
        aside += [name for name in unwrapped if not name.startswith(network)]
    return Content(kept, beside, tuple(sorted(aside)))


def _check_state_dict(found: Mapping[Any, Any]) -> None:
    odd = {name: value for name, value in found.items() if not _dense(value)}
    sparse = any(isinstance(value, Tensor) for value in odd.values())
    names = all(isinstance(name, str) for name in found)
    if names and not sparse and len(odd) < len(found):
        return
    problem = "it is empty" if not found else "its keys are no names"
    if odd:
        name, value = next(iter(odd.items()))
        kind = repr(value) if isinstance(value, Aside) else type(value).__name__
        if isinstance(value, Tensor):
            odd_one = value.layout != torch.strided and not value.is_nested
            kind = "sparse Tensor" if odd_one else "nested, quantised or expanded Tensor"
        elif kind.endswith(("_reconstruct", "_frombuffer")):
            kind = "NumPy array"
        problem = f"{name!r} is a {kind}"
    expected = "expected names with tensors, or those under the key 'model'"
    raise WeightsError(f"this is no state dict: {problem}; {expected}")


def _dense(value: Any) -> bool:
    """Whether it is a plain tensor, and none that is large only by repeating its numbers."""
    if not isinstance(value, Tensor) or value.layout != torch.strided:
        return False
    if value.is_nested or value.is_quantized:
        return False
    size = value.numel() * value.element_size()
    return size <= max(_REPEATED, value.untyped_storage().nbytes())


def converted(entries: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """An unwrapped state dict under ccnet_lab's names; those of other networks stay.

    Raises:
        WeightsError: it is a CCNet that computes something else, or mixes two formats.
    """
    origin = identify(entries)
    if origin.refused:
        raise WeightsError(
            f"this is {origin.title}, which computes something else, so nothing was loaded: "
            f"{'; '.join(origin.refused)}. Use a file of SSSegmentation or mmsegmentation"
        )

    def rename(name: str) -> str:
        for old, new in origin.names.items():
            if name.startswith(old):
                return new + name.removeprefix(old)
        return name

    return _renamed(entries, rename)


def _renamed(entries: Mapping[str, Tensor], rename: Callable[[str], str]) -> dict[str, Tensor]:
    renamed: dict[str, Tensor] = {}
    for name, value in entries.items():
        new = rename(name)
        if new in renamed:
            raise WeightsError(
                f"two entries would become {new}: they mix two formats, so use a file of one"
            )
        renamed[new] = value
    return renamed


class Hints(NamedTuple):
    """What a file says of its network besides the tensors; None or empty where it doesn't."""

    stride: int | None  # the output stride
    stored: bool  # whether that is stored in the file; else its name says so, which is soon changed
    recurrence: int | None
    refused: tuple[str, ...]  # settings that ccnet_lab does not support


def read_hints(beside: Mapping[str, Any], path: Path) -> Hints:
    """What mmsegmentation stores under "meta", or else what the file's or its folder's name says.

    SSSegmentation's trainer gives the folder the configuration's name.
    """
    meta = beside.get("meta")
    meta = meta if isinstance(meta, Mapping) else {}
    text = next((str(meta[key]) for key in ("config", "cfg") if isinstance(meta.get(key), str)), "")
    four = r"\s*,\s*".join([r"(\d)"] * 4)
    strides = set(re.findall(rf"\bstrides=[(\[]\s*{four}\s*[)\]]", text))
    stored, stride = len(strides) == 1, None  # a text made of several files may hold several
    if stored:
        stride = 4 * math.prod(map(int, strides.pop()))
    else:
        names = path.name, path.absolute().parent.name
        pattern = re.compile(r"ccnet_(?:r\d+-d|resnet\d+os)(8|16)_")
        stride = next((int(named[1]) for named in map(pattern.match, names) if named), None)
    recurrences = set(re.findall(r"\brecurrence=(\d{1,3})\b", text))
    recurrence = int(recurrences.pop()) if len(recurrences) == 1 else None
    refused = tuple(reason for setting, reason in _UNSUPPORTED.items() if setting in text)
    return Hints(stride, stored, recurrence, refused)


def configurations(
    entries: Mapping[str, Tensor], hints: Hints, own: Dataset | None = None
) -> list[Config]:
    """The known configurations with the depth, class count and head of a converted state dict.

    Where the classes are a user's, `own`, they are VOC's.
    """
    classifier, reduce = entries.get("classifier.4.weight"), entries.get("reduce.0.weight")
    if classifier is None or reduce is None:
        return []
    shape = (depth(entries), classifier.shape[0], reduce.shape[0], reduce.shape[-1])
    return [
        row
        for row in (*CONFIGS.values(), *EXTRAS.values())
        if (row.depth, (own or row).num_classes, row.channels, row.head_kernel) == shape
        and hints.stride in (None, row.output_stride)
        and (own is None or row.dataset == "voc")
    ]


def adapted(
    config: Config, entries: Mapping[str, Tensor], hints: Hints, own: Dataset | None = None
) -> Config:
    """`config` with the auxiliary classifier of a state dict, the R of the hints, `own` classes."""
    classifier = entries.get("classifier.4.weight")
    if own and classifier is not None and classifier.shape[0] == own.num_classes:
        config = replace(config, dataset=own.key, alias="")
    aux = entries.get("aux_classifier.0.weight")
    channels = 0 if aux is None or aux.shape[0] == config.channels else aux.shape[0]
    recurrence = config.recurrence if hints.recurrence is None else hints.recurrence
    return replace(config, auxiliary=aux is not None, aux_channels=channels, recurrence=recurrence)


def depth(entries: Iterable[str]) -> int | None:
    """The depth, as in `Config`, of the backbone with these names; None where it is unknown."""
    small = {"backbone.0.0.weight": TINY, "backbone.lateral.0.weight": SLIM}
    blocks = set()
    for name in entries:
        if name in small:
            return small[name]
        if found := re.match(r"(?:backbone\.)?layer3\.(\d+)\.", name):
            blocks.add(found[1])
    return {stages[2]: layers for layers, stages in BLOCKS.items()}.get(len(blocks))
