"""Formats of weights: whose a state dict is, how its names map to ours, what it tells of its configuration. Files are read in weights/.

Nothing here runs code from a file: a configuration that mmsegmentation stores as text is searched, never executed.
"""

import re
import zlib
from collections.abc import Iterable, Mapping
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

# Keys that a state dict lies under; the first one there counts.
_PLAIN = (
    "model",
    "state_dict",
    "model_state_dict",
    "model_state",
    "net",
    "network",
    "weights",
    "params",
    "module",
)
# Those of weights averaged over the steps (EMA).
_AVERAGED = (
    "model_ema",
    "ema_state_dict",
    "state_dict_ema",
    "ema",
    "ema_state",
    "ema_model",
    "teacher",
    "teacher_state_dict",
)
# Put before every name by what a network was wrapped in; those of `_INNER` also within a name, where only a part was wrapped.
_WRAPPERS = (
    *(
        "module.",
        "_orig_mod.",
        "model.",
        "ema_model.",
        "ema.",
        "net.",
        "network.",
        "segmentor.",
        "student.",
        "teacher.",
    ),
    "backbone.module.",
)
_INNER = re.compile(r"(^|\.)(?:module|_orig_mod)\.")
_LOSSES = (
    "criterion.",
    "criterions.",
    "loss.",
    "losses.",
    "loss_fn.",
    "metric.",
    "metrics.",
)  # modules beside the network
_COUNTERS = ("n_averaged", "steps")  # tensors that averaging leaves beside a wrapped network's
_OTHERWISE = {  # settings in mmsegmentation's stored configuration that this library has no counterpart for
    "contract_dilation=False": "the first block of a dilated stage has the full dilation (contract_dilation=False), half of it here",
    "align_corners=True": "logits are enlarged with align_corners=True, here with False",
}


@dataclass(frozen=True)
class Format:
    """Whose a state dict is."""

    title: str  # what it is called in reports
    marks: tuple[
        str, ...
    ]  # one entry that begins so marks the format, unless a format before it in `FORMATS` matches
    names: Mapping[str, str] = field(
        default_factory=dict
    )  # beginnings of its names: those of ours that mean the same
    ccnet: bool = False  # whether it is a CCNet's
    refused: tuple[str, ...] = ()  # why the whole can't become ours; empty where it can


# Beginnings of the heads' names: ours, SSSegmentation's, mmsegmentation's, the authors'. Source of the last two: mmsegmentation's
# cc_head.py, fcn_head.py and decode_head.py with mmcv's cc_attention.py; networks/ccnet.py, cc_attention/functions.py and evaluate.py of
# the authors' repository, in its last version.
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
_STEM = {
    f"{layer}{i + 1}.": f"backbone.stem.{3 * i + k}."
    for i in range(3)
    for k, layer in enumerate(("conv", "bn"))
}

OURS = Format("a CCNet of ccnet_lab", ("attention.query.", "reduce.0."), ccnet=True)
# The published format; the layers of the backbone are numbered as torchvision numbers them.
PUBLISHED = Format(
    "SSSegmentation's CCNet",
    ("backbone_net.", "cca."),
    {"backbone_net.": "backbone.", **_SSSEG},
    ccnet=True,
)
MMSEGMENTATION = Format("mmsegmentation's CCNet", ("decode_head.cca.",), _MMSEG, ccnet=True)
ORIGINAL = Format(
    "the CCNet of its authors",
    ("head.cca.",),
    {**_STEM, **{f"layer{i}.": f"backbone.layer{i}." for i in range(1, 5)}, **_AUTHORS},
    ccnet=True,
    refused=(
        "stem: convolutions of 64, 64 and 128 channels; here 32, 32 and 64, so stage 1 starts from another width, too",
        "max pooling: rounds its output size up (ceil_mode) there, down here",
        "dilation: the first block of stages 3 and 4 has the full one there (2 and 4), half of it here: the same weights see other pixels",
        "norms of the backbone: InPlaceABN scales by |weight| + eps, BatchNorm2d by weight, so negative weights change sign",
        "norms of the heads: InPlaceABN as above, then a leaky ReLU of slope 0.01 where a ReLU stands here; no weights make these equal",
        "auxiliary head: its first convolution (dsn.0) has a bias, here it has none",
        "logits are enlarged with align_corners=True there, False here",
        "input: BGR less (104.0, 116.7, 122.7), not divided there; RGB less its mean, divided by its deviation here",
    ),
)
RESNET = Format("a ResNet alone", ("layer1.0.conv1.",))
FORMATS = (
    OURS,
    PUBLISHED,
    MMSEGMENTATION,
    ORIGINAL,
    Format("mmsegmentation's PSPNet", ("decode_head.psp_modules.",)),
    Format("mmsegmentation's DeepLab", ("decode_head.aspp_modules.", "decode_head.image_pool.")),
    Format("a network of mmsegmentation other than CCNet", ("decode_head.",)),
    Format("torchvision's DeepLabV3", ("classifier.0.convs.",)),
    Format(
        "torchvision's FCN or another network on torchvision's ResNet",
        ("backbone.conv1.", "backbone.layer1.0.conv1."),
    ),
    Format(
        "a vision transformer",
        (
            "encoder.layers.encoder_layer_0.",
            "blocks.0.attn.",
            "vit.encoder.",
            "backbone.layers.0.attn.",
        ),
    ),
    RESNET,
)
UNKNOWN = Format("a network that is not known here", ())


@dataclass(frozen=True)
class Content:
    """A file's state dict, unwrapped."""

    entries: dict[str, Tensor]  # under the file's own names, less `prefix`
    under: str  # the key they lie under; "" where the file is the state dict itself
    prefix: str  # what stood before every name, such as "module."
    beside: dict[str, Any]  # whatever else the file holds, by key
    aside: tuple[
        str, ...
    ] = ()  # names within the state dict itself that are no part of the network


def unwrap(content: Mapping[str, Any], ema: bool = False) -> Content:
    """Find the state dict in a file's mapping, with `ema` that of the averaged weights; `WeightsError` where it holds no such tensors."""
    under, inner = _state_dict(content, ema)
    if (
        not inner
        or not all(isinstance(name, str) for name in inner)
        or not any(map(_dense, inner.values()))
        or _sparse(inner)
    ):
        odds = (
            (name, "sparse " * isinstance(value, Tensor) + _kind(value))
            for name, value in inner.items()
            if not _dense(value)
        )
        odd = next(
            (f"{name!r} is a {kind}" for name, kind in odds),
            "it is empty" if not inner else "its keys are no names",
        )
        raise WeightsError(
            f"this is no state dict: {odd}; expected names with tensors, or those under the key 'model'"
        )
    outer = under.partition(".")[0]
    beside = {key: value for key, value in content.items() if key != outer} if under else {}
    other = {name for name, value in inner.items() if not _dense(value) or name.startswith(_LOSSES)}
    other = other if len(other) < len(inner) else set()
    beside |= {name: inner[name] for name in inner if name in other}
    entries, taken = (
        {name: value.detach() for name, value in inner.items() if name not in other},
        "",
    )
    while names := entries.keys() - _COUNTERS:
        wrapper = next(
            (w for w in _WRAPPERS if all(name.startswith(w) for name in names)), None
        ) or _wrapper_among(names)
        if wrapper is None:
            break
        strangers = [name for name in names if not name.startswith(wrapper)]
        beside |= {name: entries.pop(name) for name in strangers}
        other.update(strangers)
        beside |= {name: entries.pop(name) for name in _COUNTERS if name in entries}
        entries = {name.removeprefix(wrapper): value for name, value in entries.items()}
        taken += wrapper
        losses = [name for name in entries if name.startswith(_LOSSES)]
        beside |= {name: entries.pop(name) for name in losses if len(entries) > 1}
        other.update(losses)
    parts = {_INNER.sub(r"\1", name): value for name, value in entries.items()}
    return Content(
        parts if len(parts) == len(entries) else entries, under, taken, beside, tuple(sorted(other))
    )


def _kind(value: Any) -> str:
    name = str(value) if isinstance(value, Aside) else type(value).__name__
    return (
        "NumPy array"
        if name.startswith("numpy.") and name.endswith(("ndarray", "_reconstruct", "_frombuffer"))
        else name
    )


def _wrapper_among(names: Iterable[str]) -> str | None:
    """The wrapper of a network with entries of losses, metrics and the like beside it; None where there may be two networks."""
    found = {w: [name.removeprefix(w) for name in names if name.startswith(w)] for w in _WRAPPERS}
    known = [
        w
        for w, inner in found.items()
        if inner and identify(dict.fromkeys(inner, torch.empty(0))) is not UNKNOWN
    ]
    return known[0] if len(known) == 1 and sum(map(bool, found.values())) == 1 else None


def _state_dict(content: Mapping[str, Any], ema: bool) -> tuple[str, Mapping[Any, Any]]:
    """The keys a state dict lies under, joined by dots ("" for none), and that state dict."""
    keys = _AVERAGED if ema else _PLAIN + _AVERAGED
    there = [key for key in keys if isinstance(content.get(key), Mapping)]
    if ema and not there:
        raise WeightsError(
            f"there are no averaged (EMA) weights in it; expected them under {' or '.join(_AVERAGED)}, so leave --ema out"
        )
    under, inner = "", content
    while there and under.count(".") < 3:
        under, inner = f"{under}.{there[0]}".lstrip("."), inner[there[0]]
        there = (
            []
            if any(map(_dense, inner.values()))
            else [key for key in _PLAIN if isinstance(inner.get(key), Mapping)]
        )
    return under, inner


def identify(entries: Mapping[str, Tensor]) -> Format:
    """Whose a state dict is, by its names."""
    known = next(
        (known for known in FORMATS if any(name.startswith(known.marks) for name in entries)),
        UNKNOWN,
    )
    if known is RESNET and not all(
        re.match(r"(stem|conv1|bn1|layer[1-4]|fc)\.", name) for name in entries
    ):
        return UNKNOWN
    return known


def to_own_names(entries: Mapping[str, Any], ema: bool = False) -> dict[str, Tensor]:
    """A state dict under our names, from any format whose CCNet can become ours; names of other networks stay as they are.

    With `ema` it is the one of the averaged weights.

    Raises:
        WeightsError: it holds no tensors, or a CCNet that computes something else; the reasons are named.
    """
    found = unwrap(entries, ema).entries
    whose = identify(found)
    if whose.refused:
        raise WeightsError(
            f"this is {whose.title}, which computes something else than ours, so nothing was loaded. {'; '.join(whose.refused)}. "
            "`python -m ccnet_lab.model.weights FILE` says what is equal"
        )
    return {new: found[old] for old, new in own_names(found).items()}


def own_names(entries: Mapping[str, Tensor]) -> dict[str, str]:
    """Our name of each entry, by its own; the same where no other is known. Raises `WeightsError` where two would get the same one."""
    names = identify(entries).names
    found = {name: _renamed(name, names) for name in entries}
    if len(set(found.values())) < len(found):
        double = next(new for new in found.values() if list(found.values()).count(new) > 1)
        raise WeightsError(
            f"two entries of this state dict would become {double}; it mixes two formats, so use a file of one"
        )
    return found


def to_published_names(entries: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state dict under SSSegmentation's names, from ours."""
    back = {new: old for old, new in PUBLISHED.names.items()}
    return {_renamed(name, back): value for name, value in entries.items()}


@dataclass(frozen=True)
class Told:
    """What a file tells of its network besides the tensors; None or empty where it doesn't."""

    stride: int | None = None  # the output stride
    by: str = ""  # what told the stride
    certain: bool = False  # whether that lies in the file, where a name is soon changed
    recurrence: int | None = None  # R
    classes: tuple[str, ...] = ()  # their names
    palette: tuple[str, ...] = ()  # their colours, "#rrggbb" each
    refused: tuple[str, ...] = ()  # settings this library has no counterpart for


def told(beside: Mapping[str, Any], path: Path | None = None) -> Told:
    """Read what mmsegmentation puts into "meta" beside the state dict, or else the name of the file, or of its folder, at `path`.

    SSSegmentation's trainer leaves `checkpoints-epoch-N.pth` in a folder with the configuration's name.
    """
    meta = beside.get("meta")
    meta = meta if isinstance(meta, Mapping) else {}
    text = next((str(meta[key]) for key in ("config", "cfg") if isinstance(meta.get(key), str)), "")
    strides = set(
        re.findall(r"\bstrides=[(\[]\s*(\d)\s*,\s*(\d)\s*,\s*(\d)\s*,\s*(\d)\s*[)\]]", text)
    )
    stride, by = None, ""
    if (
        len(strides) == 1
    ):  # a text made of several files may hold several; then none of them is believed
        a, b, c, d = map(int, next(iter(strides)))
        stride, by = 4 * a * b * c * d, "the configuration stored in the file"
    for whose, name in (
        (("file", path.name), ("folder", path.absolute().parent.name))
        if path is not None and stride is None
        else ()
    ):
        if stride is None and (named := re.match(r"ccnet_(?:r\d+-d|resnet\d+os)(8|16)_", name)):
            stride, by = int(named.group(1)), f"its {whose}'s name"
    recurrences = set(re.findall(r"\brecurrence=(\d+)", text))
    dataset = meta.get("dataset_meta")
    dataset = dataset if isinstance(dataset, Mapping) else {}
    classes = dataset.get("classes", meta.get("CLASSES"))
    return Told(
        stride,
        by,
        len(strides) == 1,
        int(recurrences.pop()) if len(recurrences) == 1 else None,
        tuple(map(str, classes)) if isinstance(classes, list | tuple) else (),
        _colours(dataset.get("palette", meta.get("PALETTE"))),
        tuple(reason for setting, reason in _OTHERWISE.items() if setting in text),
    )


def _colours(palette: Any) -> tuple[str, ...]:
    try:
        return tuple("#{:02x}{:02x}{:02x}".format(*map(int, colour)) for colour in palette or ())
    except (TypeError, ValueError, IndexError):
        return ()


def own_classes(classes: int, known: Told) -> Dataset | None:
    """The data set of somebody's own whose class names a file tells; None where it tells none, or those of a data set known here."""
    if len(known.classes) != classes or len(set(known.classes)) < classes or classes > IGNORE:
        return None
    for row in DATASETS.values():
        if (
            row.num_classes == classes
            and sum(map(_alike, row.class_names, known.classes)) > classes / 2
        ):
            return row if row.classes else None
    drawn = (hsv_to_rgb(k * 0.618 % 1, 0.65, 0.9) for k in range(classes))  # a golden angle apart
    colours = (
        known.palette
        if len(known.palette) == classes
        else ["#{:02x}{:02x}{:02x}".format(*(int(255 * v) for v in c)) for c in drawn]
    )
    key = f"own{zlib.crc32(repr(known.classes).encode()):08x}"
    return register(
        Dataset(
            key,
            f"{classes} classes named in a checkpoint",
            "",
            0,
            0,
            classes=tuple(zip(colours, known.classes, strict=True)),
        )
    )


def _alike(one: str, other: str) -> bool:
    return [*filter(str.isalnum, one.lower())] == [*filter(str.isalnum, other.lower())]


def configurations(
    entries: Mapping[str, Tensor], known: Told, own: Dataset | None = None
) -> list[Config]:
    """The known configurations with the depth, class count and head of these entries (under our names), made to fit them.

    Where the classes are somebody's `own`, or a file tells of such, the recipe is VOC's.
    A configuration counts as fitting when it has these; that every entry fits is for `load_weights` to see.
    """
    classifier, reduce = entries.get("classifier.4.weight"), entries.get("reduce.0.weight")
    if classifier is None or reduce is None:
        return []
    shape = (depth(entries), classifier.shape[0], reduce.shape[0], reduce.shape[-1])
    own = own or own_classes(shape[1], known)
    rows = (
        [replace(c, dataset=own.key) for c in CONFIGS.values() if c.dataset == "voc"]
        if own
        else [*CONFIGS.values(), *EXTRAS.values()]
    )
    return [
        adapted(config, entries, known)
        for config in rows
        if (config.depth, config.num_classes, config.channels, config.head_kernel) == shape
        and known.stride in (None, config.output_stride)
    ]


def adapted(
    config: Config, entries: Mapping[str, Tensor], known: Told, own: Dataset | None = None
) -> Config:
    """`config` with the auxiliary classifier these entries (under our names) have, the R that was told, and classes of somebody's own."""
    classifier = entries.get("classifier.4.weight")
    if classifier is not None and classifier.shape[0] != config.num_classes:
        own = own or own_classes(classifier.shape[0], known)
    if own is not None and classifier is not None and classifier.shape[0] == own.num_classes:
        config = replace(config, dataset=own.key, alias="")
    aux = entries.get("aux_classifier.0.weight")
    channels = 0 if aux is None or aux.shape[0] == config.channels else aux.shape[0]
    recurrence = config.recurrence if known.recurrence is None else known.recurrence
    return replace(config, auxiliary=aux is not None, aux_channels=channels, recurrence=recurrence)


def asked_as(config: Config) -> str:
    """The name that `--config` takes for a fitting configuration: as it was before it was adapted."""
    if config.depth not in BLOCKS:
        return config.name
    dataset = "voc" if get_dataset(config.dataset).classes else config.dataset
    return replace(config, dataset=dataset, aux_channels=0, auxiliary=True, recurrence=2).name


def depth(entries: Mapping[str, Tensor]) -> int | None:
    """The depth, as in `Config`, of the backbone in these entries (under our names) or of the ResNet they are; None where it is unknown."""
    small = {"backbone.0.0.weight": TINY, "backbone.lateral.0.weight": SLIM}
    blocks = {
        found[1] for name in entries if (found := re.match(r"(?:backbone\.)?layer3\.(\d+)\.", name))
    }
    resnets = {stages[2]: layers for layers, stages in BLOCKS.items()}
    return next((small[mark] for mark in small if mark in entries), resnets.get(len(blocks)))


def _renamed(name: str, names: Mapping[str, str]) -> str:
    return next(
        (new + name.removeprefix(old) for old, new in names.items() if name.startswith(old)), name
    )


def _sparse(inner: Mapping[Any, Any]) -> bool:
    return any(isinstance(value, Tensor) and not _dense(value) for value in inner.values())


def _dense(value: Any) -> bool:
    return isinstance(value, Tensor) and value.layout == torch.strided
