"""Configurations: what is built and trained; the twelve published ones and a few small extras.

Facts about the data sets are in data/catalog.py.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from itertools import product
from math import isfinite
from numbers import Integral, Real
from types import MappingProxyType
from typing import Any

from ccnet_lab.data.catalog import get_dataset
from ccnet_lab.errors import ConfigError, near

RELEASES = "https://github.com/SegmentationBLWX/modelstore/releases/download/ssseg_ccnet"
TINY, SLIM = 0, 1  # "depths" of the two small backbones: the beacons demo's, the street model's
STRIDES = {TINY: (4,), SLIM: (4, 8), 50: (8, 16), 101: (8, 16)}


class _Derived(float):
    """A value computed from another field, and again after `replace` has changed that one."""


@dataclass(frozen=True, kw_only=True)
class Config:
    """One configuration. Frozen: vary it with `dataclasses.replace`.

    Source: SSSegmentation's CCNet configurations; Huang et al., TPAMI 2020, section 4.
    """

    dataset: str  # a key of `data.catalog.DATASETS`; the class count follows from it
    depth: int  # of the ResNet, 50 or 101; `TINY` or `SLIM` for the small backbones
    output_stride: int  # image pixels per feature cell, 8 or 16 (the small networks also 4)
    width: int = 64  # of the small backbones, see model/backbone.py
    divisor: int = 1  # of the channels of a ResNet; 8 in the miniatures, see `MINIATURES`
    crop_size: tuple[int, int]  # (H, W) of a training crop, pixels
    batch_size: int  # over all processes
    epochs: int
    resize: tuple[int, int] = (2048, 512)  # (long, short) sides for evaluation
    lr: float = 0.01  # times (1 - step / total) ** power
    # Floor of the learning rate, by default a hundredth of `lr`; never None afterwards.
    min_lr: float = None  # type: ignore[assignment]
    momentum: float = 0.9
    weight_decay: float = 5e-4
    power: float = 0.9
    aux_weight: float = 0.4
    optimizer: str = "sgd"  # "adamw" for the small networks
    balance: bool = False  # whether rare classes weigh more in the loss
    ohem: bool = False  # whether only the hard pixels count in the main loss (TPAMI's "+ OHEM")
    category_loss: float = 0.0  # weight of the category-consistent loss, TPAMI section 3.3
    recurrence: int = 2  # R, how often the criss-cross attention is applied with the same weights
    channels: int = 512  # C of the head
    query_channels: int = 64  # C' of its queries and keys
    head_kernel: int = 3  # of the head's convolutions around the attention, odd
    dropout: float = 0.1  # probability of dropping a channel before the classifiers
    gamma: float = 0.0  # initial residual weight of the attention
    auxiliary: bool = True  # whether a second classifier on stage 3 is trained beside the head
    aux_channels: int = 0  # channels of that classifier; 0 for `channels`
    alias: str = ""  # a name of its own; "" for the name that follows from the fields

    def __post_init__(self) -> None:
        self._check_types()
        get_dataset(self.dataset)  # raises for an unknown one
        if self.min_lr is None or isinstance(self.min_lr, _Derived):
            object.__setattr__(self, "min_lr", _Derived(0.01 * self.lr))
        strides = STRIDES.get(self.depth, ())
        checks = [
            ("depth", strides, f"50 or 101 (or {TINY} or {SLIM}, the small backbones)"),
            ("output_stride", self.output_stride in strides, " or ".join(map(str, strides))),
            ("optimizer", self.optimizer in ("sgd", "adamw"), "'sgd' or 'adamw'"),
            ("min_lr", 0 <= self.min_lr <= self.lr, f"0 to lr, which is {self.lr:g}"),
            ("aux_channels", 0 <= self.aux_channels <= 2**16, "0 (as many as channels) to 65,536"),
            ("divisor", 1 <= self.divisor <= 32, "1 to 32"),  # the narrowest layer has 32 channels
            ("dropout", 0 <= self.dropout < 1, "0 or more and below 1"),
            ("head_kernel", self.head_kernel in range(1, 33, 2), "odd, 1 to 31"),
            ("recurrence", 0 <= self.recurrence <= 64, "0 to 64"),
            ("alias", self.alias.isprintable() and not set(self.alias) & {*"/\\"}, "a name"),
        ]
        for name in ("batch_size", "epochs", "channels", "query_channels", "width"):
            most = 10**9 if name == "epochs" else 2**16
            checks.append((name, 1 <= getattr(self, name) <= most, f"1 to {most:,}"))
        for name, most in (("crop_size", 2**14), ("resize", 2**16)):
            pair = tuple(getattr(self, name))
            object.__setattr__(self, name, pair)  # JSON has lists
            whole = [isinstance(v, Integral) and not isinstance(v, bool) for v in pair]
            fine = whole == [True, True] and all(1 <= v <= most for v in pair)
            checks.append((name, fine, f"two whole numbers, 1 to {most:,}"))
        for name, good, expected in checks:
            if not good:
                raise ConfigError(f"{name} is {getattr(self, name)!r}; expected {expected}")

    def _check_types(self) -> None:
        """Raise `ConfigError` for a value of another type, or a number that is not finite."""
        for field in fields(self):
            value, kind = getattr(self, field.name), field.type
            if kind is bool or kind is str:
                good = isinstance(value, kind)
            elif kind is int:
                good = isinstance(value, Integral) and not isinstance(value, bool)
            elif field.name in ("crop_size", "resize"):
                good = isinstance(value, list | tuple)
            elif kind is float and not (value is None and field.name == "min_lr"):
                real = isinstance(value, Real) and not isinstance(value, bool)
                good = real and isfinite(value)
            else:
                good = True
            if not good:
                expected: dict[Any, str] = {
                    int: "a whole number",
                    float: "a finite number",
                    bool: "true or false",
                    tuple[int, int]: "two whole numbers",
                }
                what = expected.get(kind, "a text")
                raise ConfigError(f"{field.name} is {value!r:.60}; expected {what}")

    @property
    def name(self) -> str:
        """The alias, or the name that follows from the fields, as `ccnet_resnet50os8_voc`."""
        name = f"ccnet_resnet{self.depth}os{self.output_stride}_{self.dataset}"
        name += "" if self.recurrence == 2 else f"_r{self.recurrence}"
        name += f"_aux{self.aux_channels}" if self.aux_channels else ""
        return self.alias or name

    @property
    def num_classes(self) -> int:
        """K, the data set's number of classes."""
        return get_dataset(self.dataset).num_classes

    @property
    def published_miou(self) -> float | None:
        """In percent: single scale, whole image, no flip; None for any other than the twelve."""
        return _PUBLISHED.get(self.name) if CONFIGS.get(self.name) == self else None

    @property
    def published_url(self) -> str | None:
        """Of the published checkpoint, None where there is none."""
        return None if self.published_miou is None else f"{RELEASES}/{self.name}_train.pth"

    @property
    def published_log_url(self) -> str | None:
        """Of the published training log, None where there is none."""
        return None if self.published_miou is None else f"{RELEASES}/{self.name}_train.log"

    def to_dict(self) -> dict[str, Any]:
        """The fields, ready for JSON; `from_dict` reads them back."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Config":
        """A configuration from `to_dict`'s mapping.

        One without `min_lr` was stored when the learning rate still fell to 0.

        Raises:
            ConfigError: a field is unknown, missing or impossible.
        """
        known = [field.name for field in fields(cls)]
        for name in set(values) - set(known):
            raise ConfigError(f"a configuration has no field {name!r}; {near(name, known)}")
        try:
            return cls(**{"min_lr": 0.0, **values})
        except ConfigError:
            raise
        except (TypeError, ValueError, OverflowError) as error:
            raise ConfigError(f"these fields make no configuration: {error}") from None


# The recipe differs between data sets in these fields only.
_RECIPES: dict[str, dict[str, Any]] = {
    "voc": dict(crop_size=(512, 512), resize=(2048, 512), batch_size=16, epochs=60),
    "ade20k": dict(crop_size=(512, 512), resize=(2048, 512), batch_size=16, epochs=130),
    "cityscapes": dict(crop_size=(512, 1024), resize=(2048, 1024), batch_size=8, epochs=220),
}
_TWELVE = tuple(
    Config(dataset=dataset, depth=depth, output_stride=stride, **recipe)
    for dataset, recipe in _RECIPES.items()
    for depth, stride in product((50, 101), (8, 16))
)
CONFIGS: Mapping[str, Config] = MappingProxyType({config.name: config for config in _TWELVE})
# The twelve in miniature: the same layers at an eighth of the channels, on generated data sets,
# from start weights of their own. Unlike in the published recipe the optimiser is AdamW and gamma
# starts at 1. In so few steps SGD is a lottery: two of six trainings with R = 2 never learned what
# only attention can tell, one with R = 3 fell apart; and from 0 gamma stays near 0.
_SMALLER: dict[str, Any] = dict(
    divisor=8, channels=64, query_channels=8, batch_size=4, epochs=6, optimizer="adamw", lr=3e-3,
    min_lr=None, weight_decay=0.01, gamma=1.0,
)  # fmt: skip
_SIZES: dict[str, dict[str, Any]] = {
    "voc": dict(crop_size=(128, 128), resize=(384, 96)),
    "ade20k": dict(crop_size=(128, 128), resize=(384, 96)),
    "cityscapes": dict(crop_size=(96, 192), resize=(320, 80)),
}
_MINIATURES = (
    replace(row, dataset=f"{row.dataset}_mini", **_SMALLER, **_SIZES[row.dataset])
    for row in _TWELVE
)
RECURRENCES = (0, 1, 3)  # that the miniatures of R-50-D8 are also trained with, besides 2
MINIATURES: Mapping[str, Config] = MappingProxyType({row.name: row for row in _MINIATURES})

# SSSegmentation's CCNet page; per data set R-50-D8, R-50-D16, R-101-D8, R-101-D16.
_PUBLISHED = dict(
    zip(
        CONFIGS,
        (77.43, 76.01, 78.02, 77.33, 42.47, 40.78, 44.00, 42.95, 79.15, 77.94, 80.08, 78.45),
        strict=True,
    )
)

# Trained by scripts/make_demo.py, with R = 2 and 1.
_DEMO = Config(
    alias="demo",
    dataset="beacons",
    depth=TINY,
    output_stride=4,
    crop_size=(96, 96),
    resize=(192, 96),
    batch_size=16,
    epochs=1,
    lr=3e-3,
    min_lr=0.0,
    channels=64,
    query_channels=16,
    head_kernel=1,
    dropout=0.0,
    gamma=1.0,
    auxiliary=False,
)
# Trained from scratch on two CPU cores: this one on CamVid, then the finer one from its weights.
_STREET8 = Config(
    alias="street8",
    dataset="camvid",
    depth=SLIM,
    output_stride=8,
    width=24,
    crop_size=(256, 320),
    resize=(480, 360),
    batch_size=8,
    epochs=90,
    optimizer="adamw",
    lr=3e-3,
    min_lr=0.0,
    weight_decay=0.01,
    balance=True,
    channels=64,
    query_channels=16,
    gamma=0.5,
)
_FOUR = (
    _DEMO,
    replace(_DEMO, recurrence=1, alias="demo_r1"),
    _STREET8,
    replace(_STREET8, output_stride=4, head_kernel=1, epochs=100, alias="street"),
)
EXTRAS: Mapping[str, Config] = MappingProxyType({config.name: config for config in _FOUR})


def get_config(name: str | Config) -> Config:
    """The configuration of that name, one of the twelve or an extra; a Config stays as it is.

    Raises:
        ConfigError: no configuration has this name; the near ones are listed.
    """
    if isinstance(name, Config):
        return name
    known = {**CONFIGS, **EXTRAS, **MINIATURES}
    if name not in known:
        raise ConfigError(f"there is no configuration {name!r}; {near(str(name), known)}")
    return known[name]
