"""Configurations: what is built and trained, for the twelve published ones and a few extra. Facts about the data are in data/catalog.py."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from itertools import product
from types import MappingProxyType
from typing import Any

from ccnet_lab.data.catalog import get_dataset
from ccnet_lab.errors import ConfigError, UnknownConfigError, UnknownFieldError, near

RELEASES = "https://github.com/SegmentationBLWX/modelstore/releases/download/ssseg_ccnet"
TINY, SLIM = (
    0,
    1,
)  # depths that stand for the two small backbones, which are no ResNets: the beacons demo's and the street model's
STRIDES = {TINY: (4,), SLIM: (4, 8), 50: (8, 16), 101: (8, 16)}


class _Derived(float):
    """A value that follows from another field, and again after `dataclasses.replace` has changed that one."""


@dataclass(frozen=True, kw_only=True)
class Config:
    """One configuration. Frozen: vary it with `dataclasses.replace`; a misspelt field is refused with the near ones named.

    Attributes:
        dataset: a key of `data.catalog.DATASETS`; the class count follows from it.
        depth: of the ResNet, 50 or 101; `TINY` or `SLIM` for the small backbones.
        width: of the small backbones, see model/backbone.py; the ResNets have their own.
        output_stride: image pixels per feature cell, 8 or 16 (the small networks also 4).
        crop_size: (H, W) of a training crop, pixels.
        resize: (long, short) sides the whole image is fitted into, ratio kept, before evaluation.
        batch_size: the total batch over all processes.
        epochs, lr, momentum, weight_decay, power, aux_weight: of SGD and its poly policy.
        min_lr: what the learning rate falls to, (1 - step / total) ** power * (lr - min_lr) + min_lr; a hundredth of `lr` where not given.
        optimizer: "sgd"; "adamw" for the small networks.
        balance: whether rare classes weigh more in the loss.
        ohem: whether only the hard pixels count in the main loss (TPAMI's "+ OHEM").
        category_loss: weight of the category-consistent loss of TPAMI section 3.3; 0 leaves it out.
        recurrence: R, how often the criss-cross attention is applied with the same weights.
        channels, query_channels: C of the head and d of its queries and keys.
        aux_channels: channels of the auxiliary classifier; 0 for as many as `channels` (mmsegmentation has 256).
        head_kernel: kernel of the head's convolutions around the attention, odd.
        dropout: probability of dropping a channel before the classifiers.
        gamma: what the attention's residual weight starts at.
        auxiliary: whether a second classifier on stage 3 is trained beside the head.
        alias: a name of its own; "" for the name that follows from the fields.

    Source: SSSegmentation's CCNet configurations; Huang et al., TPAMI 2020, section 4.
    """

    dataset: str
    depth: int
    output_stride: int
    width: int = 64
    crop_size: tuple[int, int]
    batch_size: int
    epochs: int
    resize: tuple[int, int] = (2048, 512)
    lr: float = 0.01
    min_lr: float = None  # type: ignore[assignment]  # never None afterwards
    momentum: float = 0.9
    weight_decay: float = 5e-4
    power: float = 0.9
    aux_weight: float = 0.4
    optimizer: str = "sgd"
    balance: bool = False
    ohem: bool = False
    category_loss: float = 0.0
    recurrence: int = 2
    channels: int = 512
    query_channels: int = 64
    head_kernel: int = 3
    dropout: float = 0.1
    gamma: float = 0.0
    auxiliary: bool = True
    aux_channels: int = 0
    alias: str = ""

    def __new__(cls, *_: Any, **given: Any) -> "Config":
        """Refuse a misspelt field before the dataclass does, naming the near ones."""
        known = [field.name for field in fields(cls)]
        for name in given:
            if name not in known:
                raise UnknownFieldError(
                    f"a configuration has no field {name!r}; {near(name, known)}"
                )
        return super().__new__(cls)

    def __post_init__(self) -> None:
        get_dataset(self.dataset)  # raises for an unknown one
        if self.min_lr is None or isinstance(self.min_lr, _Derived):
            object.__setattr__(self, "min_lr", _Derived(0.01 * self.lr))
        strides = STRIDES.get(self.depth, ())
        checks = [
            ("depth", strides, f"50 or 101 (or {TINY} or {SLIM}, the small backbones)"),
            ("output_stride", self.output_stride in strides, " or ".join(map(str, strides))),
            ("optimizer", self.optimizer in ("sgd", "adamw"), "'sgd' or 'adamw'"),
            *(
                (name, getattr(self, name) >= 1, "1 or more")
                for name in ("batch_size", "epochs", "channels", "query_channels", "width")
            ),
            ("min_lr", 0 <= self.min_lr <= self.lr, f"0 to lr, which is {self.lr:g}"),
            ("aux_channels", self.aux_channels >= 0, "0 (as many as channels) or more"),
            ("recurrence", self.recurrence >= 0, "0 or more (the papers use 2)"),
        ]
        for name, good, expected in checks:
            if not good:
                raise ConfigError(f"{name} is {getattr(self, name)!r}; expected {expected}")
        for name in ("crop_size", "resize"):
            pair = tuple(int(v) for v in getattr(self, name))
            if len(pair) != 2 or min(pair) < 1:
                raise ConfigError(
                    f"{name} is {getattr(self, name)}; expected two positive integers"
                )
            object.__setattr__(self, name, pair)  # JSON brings lists

    @property
    def name(self) -> str:
        """`ccnet_resnet{depth}os{output_stride}_{dataset}`, with `_r{R}` where R is not 2 and `_aux{channels}` if set; or the alias."""
        suffix = ("" if self.recurrence == 2 else f"_r{self.recurrence}") + (
            f"_aux{self.aux_channels}" if self.aux_channels else ""
        )
        return (
            self.alias or f"ccnet_resnet{self.depth}os{self.output_stride}_{self.dataset}{suffix}"
        )

    @property
    def num_classes(self) -> int:
        """K, the data set's number of classes."""
        return get_dataset(self.dataset).num_classes

    @property
    def published_miou(self) -> float | None:
        """In percent, single scale, whole image, no flip; None for anything but the published recipe itself."""
        return _PUBLISHED.get(self.name) if CONFIGS.get(self.name) == self else None

    @property
    def published_url(self) -> str | None:
        """Address of the published checkpoint; None where nothing is published."""
        return None if self.published_miou is None else f"{RELEASES}/{self.name}_train.pth"

    @property
    def published_log_url(self) -> str | None:
        """Address of the published training log; None where nothing is published."""
        return None if self.published_miou is None else f"{RELEASES}/{self.name}_train.log"

    def to_dict(self) -> dict[str, Any]:
        """The fields, ready for JSON; `from_dict` reads them back."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Config":
        """A configuration from `to_dict`'s mapping; unknown, missing and impossible fields raise `ConfigError`.

        One without `min_lr` was stored when the learning rate fell to 0, and says so.
        """
        try:
            return cls(**{"min_lr": 0.0, **values})
        except (TypeError, ValueError, OverflowError) as error:
            if isinstance(error, ConfigError):
                raise
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

# SSSegmentation's CCNet page, in the order of the twelve: R-50-D8, R-50-D16, R-101-D8, R-101-D16 per data set.
_PUBLISHED = dict(
    zip(
        CONFIGS,
        (77.43, 76.01, 78.02, 77.33, 42.47, 40.78, 44.00, 42.95, 79.15, 77.94, 80.08, 78.45),
        strict=True,
    )
)

# A beacon decides every disc's class, so a network needs R = 2 to see it from anywhere; scripts/make_demo.py trains both.
_DEMO = Config(
    dataset="beacons", depth=TINY, output_stride=4, crop_size=(96, 96), resize=(192, 96), batch_size=16, epochs=1,
    lr=3e-3, min_lr=0.0, channels=64, query_channels=16, head_kernel=1, dropout=0.0, gamma=1.0, auxiliary=False, alias="demo",
)  # fmt: skip
# Small enough to be trained on two CPU cores, on CamVid, from scratch: first the coarse one, then, from its weights, the finer.
_STREET8 = Config(
    dataset="camvid", depth=SLIM, output_stride=8, width=24, crop_size=(256, 320), resize=(480, 360), batch_size=8, epochs=90,
    optimizer="adamw", lr=3e-3, min_lr=0.0, weight_decay=0.01, balance=True, channels=64, query_channels=16, gamma=0.5, alias="street8",
)  # fmt: skip
_FOUR = (
    _DEMO,
    replace(_DEMO, recurrence=1, alias="demo_r1"),
    _STREET8,
    replace(_STREET8, output_stride=4, head_kernel=1, epochs=100, alias="street"),
)
EXTRAS: Mapping[str, Config] = MappingProxyType({config.name: config for config in _FOUR})


def get_config(name: str | Config) -> Config:
    """The configuration called `name`: one of the twelve or of the extras; a Config comes back as it is.

    Raises:
        UnknownConfigError: no configuration has this name; the near ones are listed.
    """
    if isinstance(name, Config):
        return name
    known = {**CONFIGS, **EXTRAS}
    if name not in known:
        raise UnknownConfigError(f"there is no configuration {name!r}; {near(str(name), known)}")
    return known[name]
