"""Protocol: how a score was measured, and whether two scores may be compared. Who measures so is inference.py."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ccnet_lab.configs import CONFIGS, Config
from ccnet_lab.data.catalog import get_dataset
from ccnet_lab.data.datasets import Split, describe
from ccnet_lab.errors import ProtocolError
from ccnet_lab.runs import Run

MODES, PRECISIONS = ("whole", "slide"), ("fp32", "bf16", "fast fp32", "fast bf16")
AVERAGING, RESIZING = ("logits", "softmax"), ("opencv", "torchvision")
_GOES_WITH = {
    "images": "split",
    "names_crc32": "images",
    "window": "mode",
    "stride": "window",
}  # fields that differ along with another


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """How a score was measured. It stands beside every score; `check_comparable` refuses to compare what was measured otherwise.

    Attributes:
        dataset, split, images, names_crc32: what was scored, as `data.datasets.describe` says; a checksum of "" stands for any.
        mode: "whole" image, or "slide": the logits of overlapping windows averaged.
        scales: factors on the fitted image's sides.
        flip: whether the mirrored image is predicted, too.
        averaging: of what, with several scales or with flip: "logits", of scaled tensors, as the reference does; "softmax", of pictures
            resized anew, in scores that were stored before that was the rule.
        resize: (long, short) sides the image is fitted into at scale 1, ratio kept.
        resizing: by whose bilinear: "opencv", as the reference; "torchvision" in scores that were stored before.
        window, stride: (H, W) pixels of the fitted image; None for whole images.
        precision: "fp32" (TF32 off) or "bf16" autocast, of the network itself or, "fast" before it, of what `model.fast.ready` gives.
        recurrence: R used.

    A value that cannot be raises `ProtocolError`.
    """

    dataset: str
    split: str
    images: int
    names_crc32: str = ""
    mode: str = "whole"
    scales: tuple[float, ...] = (1.0,)
    flip: bool = False
    averaging: str = "logits"
    resize: tuple[int, int]
    resizing: str = "opencv"
    window: tuple[int, int] | None = None
    stride: tuple[int, int] | None = None
    precision: str = "fp32"
    recurrence: int = 2

    def __post_init__(self) -> None:
        for name, known in (
            ("mode", MODES),
            ("precision", PRECISIONS),
            ("averaging", AVERAGING),
            ("resizing", RESIZING),
        ):
            if getattr(self, name) not in known:
                raise ProtocolError(
                    f"{name} is {getattr(self, name)!r}; expected {' or '.join(known)}"
                )
        scales = tuple(sorted({float(scale) for scale in self.scales}))
        if not scales or not all(0 < scale <= 8 for scale in scales):
            raise ProtocolError(
                f"scales are {list(self.scales)}; expected factors above 0 and at most 8, such as 0.5 1 2"
            )
        if self.recurrence < 0:
            raise ProtocolError(f"recurrence is {self.recurrence}; expected 0 or more")
        object.__setattr__(self, "scales", scales)
        for name in ("resize", "window", "stride"):  # JSON brings lists
            pair = getattr(self, name)
            object.__setattr__(self, name, None if pair is None else (int(pair[0]), int(pair[1])))

    def to_dict(self) -> dict[str, Any]:
        """The fields, ready for JSON; `from_dict` reads them back."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Protocol":
        """A protocol from `to_dict`'s mapping, also of one stored before `averaging` and `resizing`; `ProtocolError` where it is none."""
        if not isinstance(values, Mapping):
            raise ProtocolError(
                f"{values!r} is no protocol; expected its fields by name; evaluate again"
            )
        several = values.get("flip") or values.get("scales") not in (None, [1.0], (1.0,))
        earlier = {"resizing": "torchvision", "averaging": "softmax" if several else "logits"}
        try:
            return cls(**{**earlier, **values})
        except TypeError as error:
            raise ProtocolError(f"these fields make no protocol: {error}; evaluate again") from None


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
    """The protocol an evaluation of `config` on `split` has. Windows are the configuration's crops, two thirds of one apart."""
    window = config.crop_size if mode == "slide" else None
    return Protocol(
        **describe(split), mode=mode, scales=tuple(scales), flip=flip, resize=config.resize,
        window=window, stride=window and (max(1, window[0] * 2 // 3), max(1, window[1] * 2 // 3)),
        precision=precision, recurrence=config.recurrence if recurrence is None else recurrence,
    )  # fmt: skip


def published_protocol(config: Config) -> Protocol:
    """What the published mIoU was measured with: the whole val split, whole images, one scale, no flip, float32."""
    data = get_dataset(config.dataset)
    return Protocol(
        dataset=data.key,
        split=data.val_split,
        images=data.val_images,
        resize=config.resize,
        recurrence=config.recurrence,
    )


def check_comparable(a: Protocol, b: Protocol, varied: Sequence[str] = ()) -> None:
    """Pass if scores under `a` and `b` may stand side by side; else a `ProtocolError` names the fields that differ with both values.

    Those in `varied` may differ because they are what is compared, such as "recurrence".
    """
    found = [
        f"{name} {getattr(a, name)!r} and {getattr(b, name)!r}"
        for name in unlike(a, b)
        if name not in varied
    ]
    if found:
        raise ProtocolError(
            f"these scores were measured in different ways: {'; '.join(found)}. Evaluate both alike to compare them"
        )


def unlike(a: Protocol, b: Protocol) -> list[str]:
    """The fields in which two protocols differ; a checksum of "" is like any."""
    free = () if a.names_crc32 and b.names_crc32 else ("names_crc32",)
    return [
        name
        for name, value in a.to_dict().items()
        if value != getattr(b, name) and name not in free
    ]


def differences(protocol: Protocol, *others: Protocol) -> tuple[str, ...]:
    """What of a protocol is otherwise than in any of the others, in short words: ("slide", "flip", "scales 0.5 1 2")."""
    p = protocol
    words = {
        "split": f"split {p.split}", "images": f"{p.images:,} images", "names_crc32": "other images", "mode": p.mode,
        "window": f"windows of {p.window}", "stride": f"windows {p.stride} apart", "flip": "flip" if p.flip else "no flip",
        "scales": f"scales {' '.join(f'{s:g}' for s in p.scales)}" if len(p.scales) < 4 else f"{len(p.scales)} scales",
        "averaging": f"{p.averaging} averaged", "resizing": f"resized by {p.resizing}",
        "resize": f"fitted into {p.resize[0]} x {p.resize[1]}", "precision": p.precision, "recurrence": f"R = {p.recurrence}",
    }  # fmt: skip
    found = [unlike(p, other) for other in others]
    shown = {name for names in found for name in names if _GOES_WITH.get(name) not in names}
    return tuple(word for name, word in words.items() if name in shown)


def deviations(run: Run) -> list[str]:
    """In what a run differs from the published recipe of its configuration's name."""
    config, training = run.config, run.training or {}
    recipe = CONFIGS.get(config.name)
    if recipe is None:
        return ["no published configuration"]
    ours, theirs = config.to_dict(), recipe.to_dict()
    found = [f"{name} {ours[name]}" for name in ours if ours[name] != theirs[name]]
    steps = training.get("steps")
    found += [f"{steps} step{'s' * (steps > 1)}"] if steps else []
    found += (
        [f"{training['accumulate']} micro-batches"] if training.get("accumulate", 1) > 1 else []
    )
    return found + (
        [f"weights {training['weights']}"]
        if training.get("weights", "imagenet") != "imagenet"
        else []
    )
