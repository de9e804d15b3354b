"""How a run is carried out: its settings and their command-line options.

What is trained is a `Config`; loop.py carries it out. No torch here, so that --help is quick.
"""

import argparse
import os
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from ccnet_lab.configs import SLIM, TINY, Config
from ccnet_lab.errors import ConfigError


def usual_workers() -> int:
    """Processes that read images, per training process: its share of the cores, at most 16."""
    return max(1, min(16, (os.cpu_count() or 1) // int(os.environ.get("LOCAL_WORLD_SIZE", 1))))


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How a run is carried out; the options' help texts below describe the other fields."""

    data: Path
    steps: int | None = None
    seed: int = 0  # of weights, order, transforms and dropout
    device: str = "auto"
    precision: str = "auto"  # "fp32", "bf16" (autocast), or bf16 on CUDA devices that have it
    compile: bool = False  # adds in another order, so the last bits differ; may change on resume
    weights: str | None = None  # None for "imagenet", for the small networks "none"
    loss_mean: str = "pixels"
    accumulate: int = 1
    workers: int = field(default_factory=usual_workers)
    deterministic: bool = False
    log_every: int = 50
    save_every: int = 500
    evaluate_every: int = 0
    resume: bool = False

    def __post_init__(self) -> None:
        least = dict.fromkeys(("seed", "workers", "evaluate_every"), 0)
        least |= dict.fromkeys(("steps", "accumulate", "log_every", "save_every"), 1)
        for name, bound in least.items():
            value = getattr(self, name)
            if value is not None and value < bound:
                option = f"--{name.replace('_', '-')}"
                raise ConfigError(f"{option} is {value}; expected {bound} or more")

    def deciding(self, config: Config) -> dict[str, Any]:
        """Settings that must not change on resume."""
        names = ("steps", "seed", "accumulate", "deterministic", "loss_mean")
        return {name: getattr(self, name) for name in names} | {"weights": self.start(config)}

    def start(self, config: Config) -> str:
        """The weights that `config` starts from."""
        small = config.depth in (TINY, SLIM) or config.divisor > 1
        return self.weights or ("none" if small else "imagenet")

    def to_dict(self) -> dict[str, Any]:
        """The fields, ready for JSON, without `data`, which differs between machines."""
        return {name: value for name, value in asdict(self).items() if name != "data"}


def add_options(parser: argparse.ArgumentParser, needs_data: bool = True) -> None:
    """Add the options that `train.py` and `train_all.py` share."""
    option = parser.add_argument_group("data").add_argument
    folders = "holds VOCdevkit/, ADEChallengeData2016/, cityscapes/, camvid/"
    option("--data", type=Path, required=needs_data, metavar="ROOT", help=folders)
    own = "train on this folder (images/, masks/, classes.json) instead"
    option("--own", type=Path, metavar="FOLDER", help=own)
    option("--workers", type=int, default=usual_workers(), help="processes that read images")
    _add_recipe(parser.add_argument_group("changes to the recipe"))
    _add_machine(parser.add_argument_group("machine"))


def _add_recipe(group: Any) -> None:
    option = group.add_argument
    option("--steps", type=int, help="optimiser steps in all, instead of the epochs")
    option("--epochs", type=int)
    batch = "the total batch, over all processes and micro-batches"
    option("--batch-size", type=int, help=batch)
    option("--crop", type=int, dest="crop_size", nargs=2, metavar=("H", "W"))
    sides = "sides images are fitted into at scale 1"
    option("--resize", type=int, nargs=2, metavar=("LONG", "SHORT"), help=sides)
    option("--lr", type=float)
    floor = "what the learning rate falls to; a hundredth of --lr in the recipe"
    option("--min-lr", type=float, metavar="LR", help=floor)
    option("--recurrence", type=int, metavar="R", help="criss-cross steps")
    flags = {
        "--balance": "weigh classes in the loss by how rare they are in the training masks",
        "--ohem": "count only hard pixels in the main loss",
    }
    for name, text in flags.items():
        option(name, action="store_true", default=None, help=text)
    category = "add the category-consistent loss"
    option("--category-loss", type=float, metavar="WEIGHT", help=category)
    mean = "over several GPUs: over all labelled pixels, or of each GPU's mean, as in the reference"
    option("--loss-mean", choices=("pixels", "gpu"), default=Settings.loss_mean, help=mean)
    weights = "what to start from; imagenet by default, none for the small networks"
    option("--weights", metavar="imagenet|none|PATH", help=weights)
    option("--seed", type=int, default=Settings.seed)


def _add_machine(group: Any) -> None:
    option = group.add_argument
    option("--device", default=Settings.device)
    option("--precision", choices=("auto", "fp32", "bf16"), default=Settings.precision)
    parts = "split the batch into N micro-batches: less memory, but batch norm sees 1/N of it"
    option("--accumulate", type=int, default=Settings.accumulate, metavar="N", help=parts)
    option("--log-every", type=int, default=Settings.log_every, metavar="STEPS")
    option("--save-every", type=int, default=Settings.save_every, metavar="STEPS")
    at_end = "0: once, at the end"
    option("--evaluate-every", type=int, default=0, metavar="EPOCHS", help=at_end)
    flags = {
        "--compile": "torch.compile: minutes at each start, then faster steps on a GPU",
        "--deterministic": "deterministic algorithms only",
        "--resume": "resume the run in the folder, or begin it where there is none",
    }
    for name, text in flags.items():
        option(name, action="store_true", help=text)


def from_options(args: argparse.Namespace) -> Settings:
    """The settings in parsed options."""
    return Settings(**{name: getattr(args, name) for name in Settings.__dataclass_fields__})


def varied(config: Config, args: argparse.Namespace) -> Config:
    """The configuration with the changes in parsed options; on --own data it loses its alias."""
    names = "epochs batch_size crop_size resize lr min_lr recurrence balance ohem category_loss"
    changes = {name: value for name in names.split() if (value := getattr(args, name)) is not None}
    if args.own is not None:
        from ccnet_lab.data.datasets import open_own  # imports torch

        changes |= {"dataset": open_own(args.own).key, "alias": ""}
    return replace(config, **changes)
