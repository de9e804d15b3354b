"""Formats of weights: where a state dict comes from, its names, hints of its configuration.

Files are read in weights.py. Nothing here runs code from a file: a configuration that
mmsegmentation stores as text is searched, never executed.
"""

import re
import zlib
from collections.abc import Collection, Iterable, Mapping
from colorsys import hsv_to_rgb
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ccnet_lab.configs import CONFIGS, EXTRAS, SLIM, TINY, Config
from ccnet_lab.data.catalog import DATASETS, IGNORE, Dataset, get_dataset, register
from ccnet_lab.errors import WeightsError
from ccnet_lab.model.backbone import BLOCKS
from ccnet_lab.model.unpickling import Aside

# Keys of a state dict in a file, most usual first; and those of weights averaged over the steps.
_PLAIN = (
    *("model", "state_dict", "model_state_dict", "model_state"),
    *("net", "network", "weights", "params", "module"),
)
_AVERAGED = (
    *("model_ema", "ema_state_dict", "state_dict_ema", "ema", "ema_state", "ema_model"),
    *("teacher", "teacher_state_dict"),
)
# What wrappers of a network put before every name; those of `_INNER` also within a name.
_WRAPPERS = (
    *("module.", "_orig_mod.", "model.", "ema_model.", "ema.", "net.", "network.", "segmentor."),
    *("student.", "teacher.", "backbone.module."),
)
_INNER = re.compile(r"(^|\.)(?:module|_orig_mod)\.")
# Modules beside the network, and counters of averaging.
_LOSSES = ("criterion.", "criterions.", "loss.", "losses.", "loss_fn.", "metric.", "metrics.")
_COUNTERS = ("n_averaged", "steps")
_UNSUPPORTED = {  # settings in mmsegmentation's stored configuration
    "contract_dilation=False": "the first block of a dilated stage has the full dilation "
    "(contract_dilation=False), half of it here",
    "align_corners=True": "logits are upsampled with align_corners=True, here with False",
}


@dataclass(frozen=True)
class Format:
    """The origin of a state dict, recognised by its names.

    Attributes:
        title: its name in reports.
        marks: one entry that begins so marks the format.
        names: beginnings of its names, and the beginnings of ccnet_lab's that mean the same.
        ccnet: whether it is a CCNet.
        refused: why it cannot be converted; empty where it can.
    """

    title: str
    marks: tuple[str, ...]
    names: Mapping[str, str] = field(default_factory=dict)
    ccnet: bool = False
    refused: tuple[str, ...] = ()


# Beginnings of the heads' names: ccnet_lab's, SSSegmentation's, mmsegmentation's, the authors'.
# Source of the last two: mmsegmentation's cc_head.py, fcn_head.py and decode_head.py with mmcv's
# cc_attention.py; networks/ccnet.py, cc_attention/functions.py and evaluate.py of the authors'
# repository, in its last version.
_OURS, *_THEIRS = zip(
    ("reduce.0.", "conv_before_cca.0.", "decode_head.convs.0.conv.", "head.conva.0."),
    ("reduce.1.", "conv_before_cca.1.", "decode_head.convs.0.bn.", "head.conva.1."),
    ("attention.query.", "cca.query_conv.", "decode_head.cca.query_conv.", "head.cca.query_conv."),
    ("attention.key.", "cca.key_conv.", "decode_head.cca.key_conv.", "head.cca.key_conv."),
    ("attention.value.", "cca.value_conv.", "decode_head.cca.value_conv.", "head.cca.value_conv."),
    ("attention.gamma", "cca.gamma.scale", "decode_head.cca.gamma.scale", "head.cca.gamma"),
    ("refine.0.", "conv_after_cca.0.", "decode_head.convs.1.conv.", "head.convb.0."),
    ("refine.1.", "conv_after_cca.1.", "decode_head.convs.1.bn.", "head.convb.1."),
    ("classifier.0.", "decoder.0.", "decode_head.conv_cat.conv.", "head.bottleneck.0."),
    ("classifier.1.", "decoder.1.", "decode_head.conv_cat.bn.", "head.bottleneck.1."),
    ("classifier.4.", "decoder.4.", "decode_head.conv_seg.", "head.bottleneck.3."),
    ("aux_classifier.0.", "auxiliary_decoder.0.", "auxiliary_head.convs.0.conv.", "dsn.0."),
    ("aux_classifier.1.", "auxiliary_decoder.1.", "auxiliary_head.convs.0.bn.", "dsn.1."),
    ("aux_classifier.4.", "auxiliary_decoder.4.", "auxiliary_head.conv_seg.", "dsn.3."),
    strict=True,
)
_SSSEG, _MMSEG, _AUTHORS = (dict(zip(names, _OURS, strict=True)) for names in _THEIRS)
_AUTHORS_BACKBONE = {f"layer{i}.": f"backbone.layer{i}." for i in range(1, 5)}
for _i in range(3):
    _AUTHORS_BACKBONE[f"conv{_i + 1}."] = f"backbone.stem.{3 * _i}."
    _AUTHORS_BACKBONE[f"bn{_i + 1}."] = f"backbone.stem.{3 * _i + 1}."

OWN = Format("a CCNet of ccnet_lab", ("attention.query.", "reduce.0."), ccnet=True)
# Its backbone's layers are numbered as torchvision numbers them.
PUBLISHED = Format(
    "SSSegmentation's CCNet",
    ("backbone_net.", "cca."),
    {"backbone_net.": "backbone.", **_SSSEG},
    ccnet=True,
)
MMSEGMENTATION = Format("mmsegmentation's CCNet", ("decode_head.cca.",), _MMSEG, ccnet=True)
AUTHORS = Format(
    "the CCNet of its authors",
    ("head.cca.",),
    {**_AUTHORS_BACKBONE, **_AUTHORS},
    ccnet=True,
    refused=(
        "stem: convolutions of 64, 64 and 128 channels; here 32, 32 and 64, so stage 1 starts from "
        "another width, too",
        "max pooling: rounds its output size up (ceil_mode) there, down here",
        "dilation: the first block of stages 3 and 4 has the full one there (2 and 4), half of it "
        "here: the same weights see other pixels",
        "norms of the backbone: InPlaceABN scales by |weight| + eps, BatchNorm2d by weight, so "
        "negative weights change sign",
        "norms of the heads: InPlaceABN as above, then a leaky ReLU of slope 0.01 where a ReLU "
        "stands here; no weights make these equal",
        "auxiliary head: its first convolution (dsn.0) has a bias, here it has none",
        "logits are upsampled with align_corners=True there, False here",
        "input: BGR less (104.0, 116.7, 122.7), not divided there; RGB less its mean, divided by "
        "its deviation here",
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


@dataclass(frozen=True)
class Content:
    """A file's state dict, unwrapped.

    Attributes:
        entries: under the file's own names, less `prefix`.
        under: the key of the state dict in the file; "" where the file is the state dict itself.
        prefix: what stood before every name, such as "module.".
        beside: whatever else the file holds, by key.
        aside: names within the state dict that are no part of the network.
    """

    entries: dict[str, Tensor]
    under: str
    prefix: str
    beside: dict[str, Any]
    aside: tuple[str, ...]


def unwrap(content: Mapping[str, Any], ema: bool = False) -> Content:
    """The state dict in a file's mapping, with `ema` that of the averaged weights.

    Raises:
        WeightsError: there is none.
    """
    under, inner = _state_dict(content, ema)
    if problem := _problem(inner):
        expected = "expected names with tensors, or those under the key 'model'"
        raise WeightsError(f"this is no state dict: {problem}; {expected}")
    outer = under.partition(".")[0]
    beside = {key: value for key, value in content.items() if key != outer} if under else {}
    dense = {name: value.detach() for name, value in inner.items() if _dense(value)}
    entries = {n: value for n, value in dense.items() if not n.startswith(_LOSSES)} or dense
    aside = {name: value for name, value in inner.items() if name not in entries}
    prefix, counters = "", {}
    while wrapper := _wrapper(entries.keys() - _COUNTERS):
        wrapped, entries = entries, {}
        for name, value in wrapped.items():
            stripped = name.removeprefix(wrapper)
            if name in _COUNTERS:
                counters[name] = value
            elif stripped == name or stripped.startswith(_LOSSES):
                aside[stripped] = value
            else:
                entries[stripped] = value
        prefix += wrapper
    parts = {_INNER.sub(r"\1", name): value for name, value in entries.items()}
    if len(parts) == len(entries):
        entries = parts
    return Content(entries, under, prefix, beside | aside | counters, tuple(sorted(aside)))


def _state_dict(content: Mapping[str, Any], ema: bool) -> tuple[str, Mapping[Any, Any]]:
    """The keys of a state dict, joined by dots ("" for none), and that state dict."""
    keys = _AVERAGED if ema else _PLAIN + _AVERAGED
    there = [key for key in keys if isinstance(content.get(key), Mapping)]
    if ema and not there:
        raise WeightsError(
            "there are no averaged (EMA) weights in it; expected them under "
            f"{' or '.join(_AVERAGED)}, so leave --ema out"
        )
    under, inner = "", content
    while there and under.count(".") < 3:
        under, inner = f"{under}.{there[0]}".lstrip("."), inner[there[0]]
        if any(map(_dense, inner.values())):
            break
        there = [key for key in _PLAIN if isinstance(inner.get(key), Mapping)]
    return under, inner


def _problem(inner: Mapping[Any, Any]) -> str:
    """Why a mapping is no state dict; "" where it is one."""
    if not inner:
        return "it is empty"
    names = all(isinstance(name, str) for name in inner)
    odd = {name: value for name, value in inner.items() if not _dense(value)}
    sparse = any(isinstance(value, Tensor) for value in odd.values())
    if names and not sparse and len(odd) < len(inner):
        return ""
    for name, value in odd.items():
        kind = str(value) if isinstance(value, Aside) else type(value).__name__
        if isinstance(value, Tensor):
            kind = f"sparse {kind}"
        elif re.match(r"numpy\..*(ndarray|_reconstruct|_frombuffer)$", kind):
            kind = "NumPy array"
        return f"{name!r} is a {kind}"
    return "its keys are no names"


def _wrapper(names: Collection[str]) -> str | None:
    """The prefix of all names, or that of a known network with losses and metrics beside it."""
    found = [w for w in _WRAPPERS if any(name.startswith(w) for name in names)]
    for wrapper in found:
        if all(name.startswith(wrapper) for name in names):
            return wrapper
    if len(found) != 1:  # with two there may be two networks
        return None
    inner = [name.removeprefix(found[0]) for name in names if name.startswith(found[0])]
    return None if identify(inner) is UNKNOWN else found[0]


def _dense(value: Any) -> bool:
    return isinstance(value, Tensor) and value.layout == torch.strided


def own_names(names: Iterable[str]) -> dict[str, str]:
    """ccnet_lab's name of each entry, by the file's; the same where no other is known.

    Raises:
        WeightsError: two entries would get the same name.
    """
    names = list(names)
    rule = identify(names).names
    renamed = {name: _renamed(name, rule) for name in names}
    if len(set(renamed.values())) < len(renamed):
        new = list(renamed.values())
        double = next(name for name in new if new.count(name) > 1)
        raise WeightsError(
            f"two entries of this state dict would become {double}; it mixes two formats, so use a "
            "file of one"
        )
    return renamed


def to_own_names(content: Mapping[str, Any], ema: bool = False) -> dict[str, Tensor]:
    """The state dict in a file's mapping under ccnet_lab's names, from any format.

    Names of other networks stay as they are. With `ema` it is that of the averaged weights.

    Raises:
        WeightsError: there is none, or a CCNet that computes something else.
    """
    return converted(unwrap(content, ema).entries)


def converted(entries: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """An unwrapped state dict under ccnet_lab's names; raises as `to_own_names`."""
    origin = identify(entries)
    if origin.refused:
        raise WeightsError(
            f"this is {origin.title}, which computes something else than ccnet_lab's, so nothing "
            f"was loaded. {'; '.join(origin.refused)}. "
            "`python -m ccnet_lab.model.weights FILE` says what is equal"
        )
    return {new: entries[old] for old, new in own_names(entries).items()}


def to_published_names(entries: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state dict of ccnet_lab under SSSegmentation's names."""
    back = {new: old for old, new in PUBLISHED.names.items()}
    return {_renamed(name, back): value for name, value in entries.items()}


def _renamed(name: str, names: Mapping[str, str]) -> str:
    for old, new in names.items():
        if name.startswith(old):
            return new + name.removeprefix(old)
    return name


@dataclass(frozen=True)
class Hints:
    """What a file says of its network besides the tensors; None or empty where it doesn't.

    Attributes:
        stride: the output stride; by: what says so.
        certain: whether that is stored in the file, since a name is soon changed.
        recurrence: R.
        classes, palette: the names of the classes and their colours, "#rrggbb" each.
        refused: settings that ccnet_lab does not support.
    """

    stride: int | None = None
    by: str = ""
    certain: bool = False
    recurrence: int | None = None
    classes: tuple[str, ...] = ()
    palette: tuple[str, ...] = ()
    refused: tuple[str, ...] = ()


def read_hints(beside: Mapping[str, Any], path: Path) -> Hints:
    """What mmsegmentation stores under "meta", or else what the file's or its folder's name says.

    SSSegmentation's trainer leaves `checkpoints-epoch-N.pth` in a folder with the configuration's
    name.
    """
    meta = beside.get("meta")
    meta = meta if isinstance(meta, Mapping) else {}
    text = next((str(meta[key]) for key in ("config", "cfg") if isinstance(meta.get(key), str)), "")
    four = r"\s*,\s*".join([r"(\d)"] * 4)
    strides = set(re.findall(rf"\bstrides=[(\[]\s*{four}\s*[)\]]", text))
    stride, by = None, ""
    if len(strides) == 1:  # a text made of several files may hold several
        a, b, c, d = map(int, strides.pop())
        stride, by, certain = 4 * a * b * c * d, "the configuration stored in the file", True
    else:
        certain = False
        names = (("file", path.name), ("folder", path.absolute().parent.name))
        for kind, name in names:
            if named := re.match(r"ccnet_(?:r\d+-d|resnet\d+os)(8|16)_", name):
                stride, by = int(named[1]), f"its {kind}'s name"
                break
    recurrences = set(re.findall(r"\brecurrence=(\d+)", text))
    dataset = meta.get("dataset_meta")
    dataset = dataset if isinstance(dataset, Mapping) else {}
    classes = dataset.get("classes", meta.get("CLASSES"))
    return Hints(
        stride,
        by,
        certain,
        int(recurrences.pop()) if len(recurrences) == 1 else None,
        tuple(map(str, classes)) if isinstance(classes, list | tuple) else (),
        _colours(dataset.get("palette", meta.get("PALETTE"))),
        tuple(reason for setting, reason in _UNSUPPORTED.items() if setting in text),
    )


def _colours(palette: Any) -> tuple[str, ...]:
    try:
        return tuple("#{:02x}{:02x}{:02x}".format(*map(int, colour)) for colour in palette or ())
    except (TypeError, ValueError, IndexError):
        return ()


def _user_classes(classes: int, hints: Hints) -> Dataset | None:
    """The user's data set whose classes a file names; None for those of a published one."""
    names = hints.classes
    if len(names) != classes or len(set(names)) < classes or classes > IGNORE:
        return None
    for row in DATASETS.values():
        if row.num_classes == classes:
            alike = sum(map(_same_class, row.class_names, names))
            if alike > classes / 2:
                return row if row.classes else None
    colours = hints.palette
    if len(colours) != classes:
        hues = (hsv_to_rgb(k * 0.618 % 1, 0.65, 0.9) for k in range(classes))  # golden angle
        colours = _colours([[int(255 * value) for value in hue] for hue in hues])
    key = f"own{zlib.crc32(repr(names).encode()):08x}"
    title = f"{classes} classes named in a checkpoint"
    return register(Dataset(key, title, "", 0, 0, classes=tuple(zip(colours, names, strict=True))))


def _same_class(one: str, other: str) -> bool:
    """Whether two class names differ in case, spaces and punctuation only."""
    return [*filter(str.isalnum, one.lower())] == [*filter(str.isalnum, other.lower())]


def configurations(
    entries: Mapping[str, Tensor], hints: Hints, own: Dataset | None = None
) -> list[Config]:
    """The known configurations with the depth, class count and head of a state dict, adapted to it.

    Where the classes are a user's, `own` or those the file names, the recipe is VOC's. Whether
    every entry fits is for `load_weights` to check.

    Args:
        entries: under ccnet_lab's names.
    """
    classifier, reduce = entries.get("classifier.4.weight"), entries.get("reduce.0.weight")
    if classifier is None or reduce is None:
        return []
    shape = (depth(entries), classifier.shape[0], reduce.shape[0], reduce.shape[-1])
    own = own or _user_classes(shape[1], hints)
    rows = [*CONFIGS.values(), *EXTRAS.values()]
    if own:
        rows = [replace(row, dataset=own.key) for row in rows if row.dataset == "voc"]
    return [
        adapted(row, entries, hints)
        for row in rows
        if (row.depth, row.num_classes, row.channels, row.head_kernel) == shape
        and hints.stride in (None, row.output_stride)
    ]


def adapted(
    config: Config, entries: Mapping[str, Tensor], hints: Hints, own: Dataset | None = None
) -> Config:
    """`config` with the auxiliary classifier of a state dict, the R of the hints, user classes."""
    classifier = entries.get("classifier.4.weight")
    if classifier is not None:
        if classifier.shape[0] != config.num_classes:
            own = own or _user_classes(classifier.shape[0], hints)
        if own is not None and classifier.shape[0] == own.num_classes:
            config = replace(config, dataset=own.key, alias="")
    aux = entries.get("aux_classifier.0.weight")
    channels = 0 if aux is None or aux.shape[0] == config.channels else aux.shape[0]
    recurrence = config.recurrence if hints.recurrence is None else hints.recurrence
    return replace(config, auxiliary=aux is not None, aux_channels=channels, recurrence=recurrence)


def option_name(config: Config) -> str:
    """What to type after `--config` for a fitting configuration: its name before it was adapted."""
    if config.depth not in BLOCKS:
        return config.name
    dataset = "voc" if get_dataset(config.dataset).classes else config.dataset
    return replace(config, dataset=dataset, aux_channels=0, auxiliary=True, recurrence=2).name


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
