"""How a score was measured, and whether two scores may be compared. predict.py measures so."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ccnet_lab.configs import CONFIGS, Config
from ccnet_lab.data.catalog import get_dataset
from ccnet_lab.data.datasets import Split, describe
from ccnet_lab.errors import RunError
from ccnet_lab.runs import Run

_CHOICES = {
    "mode": ("whole", "slide"),
    "precision": ("fp32", "bf16", "fast fp32", "fast bf16"),
    "averaging": ("logits", "softmax"),
    "resizing": ("opencv", "torchvision"),
}
# Fields that differ along with another, which alone is shown.
_GOES_WITH = {"images": "split", "names_crc32": "images", "window": "mode", "stride": "window"}


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """How a score was measured; it is stored beside every score.

    An impossible value raises `RunError`.
    """

    dataset: str  # this and the next three as `data.datasets.describe` says
    split: str
    images: int
    names_crc32: str = ""  # "" stands for any
    mode: str = "whole"  # or "slide": the logits of overlapping windows averaged
    scales: tuple[float, ...] = (1.0,)  # factors on the fitted image's sides
    flip: bool = False  # whether the mirrored image is predicted, too
    averaging: str = "logits"  # over scales and flips; "softmax" in earlier scores
    resize: tuple[int, int]  # (long, short) sides the image is fitted into at scale 1, ratio kept
    resizing: str = "opencv"  # "torchvision" in earlier scores
    window: tuple[int, int] | None = None  # (H, W) pixels of the fitted image; None for whole ones
    stride: tuple[int, int] | None = None
    precision: str = "fp32"  # TF32 off; "bf16": autocast; "fast ...": folded by `folding.ready`
    recurrence: int = 2  # R used

    def __post_init__(self) -> None:
        kinds = {"dataset": str, "split": str, "images": int, "names_crc32": str, "flip": bool}
        for name, kind in {**kinds, "recurrence": int}.items():
            if type(getattr(self, name)) is not kind:
                raise RunError(f"{name} is {getattr(self, name)!r:.60}; expected {kind.__name__}")
        for name, known in _CHOICES.items():
            value = getattr(self, name)
            if value not in known:
                raise RunError(f"{name} is {value!r}; expected {' or '.join(known)}")
        if not all(type(scale) in (int, float) for scale in self.scales):
            raise RunError(f"scales are {self.scales!r:.60}; expected numbers")
        scales = tuple(sorted({float(scale) for scale in self.scales}))
        if not scales or not all(0 < scale <= 8 for scale in scales):
            expected = "expected factors above 0 and at most 8, such as 0.5 1 2"
            raise RunError(f"scales are {list(self.scales)}; {expected}")
        if self.recurrence < 0:
            raise RunError(f"recurrence is {self.recurrence}; expected 0 or more")
        object.__setattr__(self, "scales", scales)
        for name in ("resize", "window", "stride"):  # JSON brings lists
            pair = getattr(self, name)
            if pair is not None and [*map(type, pair)] != [int, int]:
                raise RunError(f"{name} is {pair!r:.60}; expected two whole numbers")
            object.__setattr__(self, name, None if pair is None else (pair[0], pair[1]))

    def to_dict(self) -> dict[str, Any]:
        """The fields, ready for JSON; `from_dict` reads them back."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Protocol":
        """A protocol from `to_dict`'s mapping, or an older one without averaging and resizing.

        Raises `RunError` where it is none.
        """
        try:
            several = values.get("flip") or values.get("scales") not in (None, [1.0], (1.0,))
            earlier = {"resizing": "torchvision", "averaging": "softmax" if several else "logits"}
            return cls(**{**earlier, **values})
        except RunError:
            raise
        except (TypeError, AttributeError, ValueError) as error:
            raise RunError(f"{values!r:.200} is no protocol ({error}); evaluate again") from None


def plan(
    split: Split,
    config: Config,
    *,
    mode: str = "whole",
    scales: Sequence[float] = (1.0,),
    flip: bool = False,
    precision: str = "fp32",
    recurrence: int | None = None,
) -> Protocol:
    """The protocol of an evaluation of `config` on `split`.

    Windows are the configuration's crops, two thirds of one apart.
    """
    window = config.crop_size if mode == "slide" else None
    return Protocol(
        **describe(split),
        mode=mode,
        scales=tuple(scales),
        flip=flip,
        resize=config.resize,
        window=window,
        stride=window and (max(1, window[0] * 2 // 3), max(1, window[1] * 2 // 3)),
        precision=precision,
        recurrence=config.recurrence if recurrence is None else recurrence,
    )


def published_protocol(config: Config) -> Protocol:
    """That of the published mIoU: the whole val split, whole images, one scale, float32."""
    data = get_dataset(config.dataset)
    return Protocol(
        dataset=data.key,
        split=data.val_split,
        images=data.val_images,
        resize=config.resize,
        recurrence=config.recurrence,
    )


def check_comparable(a: Protocol, b: Protocol, varied: Sequence[str] = ()) -> None:
    """Raise `RunError` with the fields that differ, but those in `varied`, if any do."""
    names = [name for name in unlike(a, b) if name not in varied]
    found = [f"{name} {getattr(a, name)!r} and {getattr(b, name)!r}" for name in names]
    if found:
        raise RunError(
            f"these scores were measured in different ways: {'; '.join(found)}. "
            "Evaluate both alike to compare them"
        )


def unlike(a: Protocol, b: Protocol) -> list[str]:
    """The fields in which two protocols differ; a checksum of "" is like any."""
    names = [name for name, value in a.to_dict().items() if value != getattr(b, name)]
    if not (a.names_crc32 and b.names_crc32):
        names = [name for name in names if name != "names_crc32"]
    return names


def differences(protocol: Protocol, *others: Protocol) -> tuple[str, ...]:
    """In what a protocol differs from any of the others: ("slide", "flip", "scales 0.5 1 2")."""
    p = protocol
    scales = f"scales {' '.join(f'{s:g}' for s in p.scales)}"
    texts = {
        "split": f"split {p.split}",
        "images": f"{p.images:,} images",
        "names_crc32": "other images",
        "mode": p.mode,
        "window": f"windows of {p.window}",
        "stride": f"windows {p.stride} apart",
        "flip": "flip" if p.flip else "no flip",
        "scales": scales if len(p.scales) < 4 else f"{len(p.scales)} scales",
        "averaging": f"{p.averaging} averaged",
        "resizing": f"resized by {p.resizing}",
        "resize": f"fitted into {p.resize[0]} x {p.resize[1]}",
        "precision": p.precision,
        "recurrence": f"R = {p.recurrence}",
    }
    found = [unlike(p, other) for other in others]
    shown = {name for names in found for name in names if _GOES_WITH.get(name) not in names}
    return tuple(text for name, text in texts.items() if name in shown)


def changes(config: Config, recipe: Config) -> list[str]:
    """The fields in which a configuration differs from a recipe, with its own values."""
    fields, before = config.to_dict(), recipe.to_dict()
    return [f"{name} {value}" for name, value in fields.items() if value != before[name]]


def deviations(run: Run) -> list[str]:
    """In what a run differs from the published recipe of its configuration's name."""
    config, training = run.config, run.training or {}
    recipe = CONFIGS.get(config.name)
    if recipe is None:
        return ["no published configuration"]
    found = changes(config, recipe)
    if steps := training.get("steps"):
        found.append(f"{steps} step{'s' * (steps > 1)}")
    if training.get("accumulate", 1) > 1:
        found.append(f"{training['accumulate']} micro-batches")
    if training.get("weights", "imagenet") != "imagenet":
        found.append(f"weights {training['weights']}")
    return found
