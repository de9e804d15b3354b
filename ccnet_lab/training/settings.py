"""Settings: how a run is carried out, and the command-line options for it. What is trained is a Config; who carries it out is loop.py."""

import argparse
import os
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from ccnet_lab.configs import SLIM, TINY, Config
from ccnet_lab.data.datasets import open_own
from ccnet_lab.errors import ConfigError


def usual_workers() -> int:
    """Processes that read images, per training process: its share of the cores, at most 16."""
    return max(1, min(16, (os.cpu_count() or 1) // int(os.environ.get("LOCAL_WORLD_SIZE", 1))))


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How a run is carried out.

    Attributes:
        data: the folder with the data sets. workers: processes that read images. resume: whether to go on with the run in the folder.
        device: "auto", "cpu", "cuda", "cuda:1".
        steps: optimiser steps in all; None for the configuration's epochs.
        seed: of weights, order, transforms and dropout.
        precision: "fp32" (TF32 off, as published), "bf16" (autocast), or "auto": bf16 on CUDA where it has it, else fp32.
        compile: whether network and losses run under torch.compile: minutes at the start, then another order of additions, so that the
            last bits differ. A run may be gone on with either way.
        weights: "imagenet" (the published start), "none" (random), or a file; None for "imagenet", for the small networks "none".
        loss_mean: of the losses over several processes: "pixels", over all labelled pixels of the batch, or "gpu", of each process's own
            mean, as the reference has it. In one process they are the same.
        accumulate: micro-batches per step; the batch is the same, but a batch norm sees only a micro-batch.
        deterministic: whether only deterministic algorithms are used; slower on a GPU.
        log_every, save_every: steps between lines of the log, between checkpoints.
        evaluate_every: epochs between evaluations on the way; 0 for one at the end.
    """

    data: Path
    steps: int | None = None
    seed: int = 0
    device: str = "auto"
    precision: str = "auto"
    compile: bool = False
    weights: str | None = None
    loss_mean: str = "pixels"
    accumulate: int = 1
    workers: int = field(default_factory=usual_workers)
    deterministic: bool = False
    log_every: int = 50
    save_every: int = 500
    evaluate_every: int = 0
    resume: bool = False

    def __post_init__(self) -> None:
        lowest = {
            "steps": 1,
            "seed": 0,
            "accumulate": 1,
            "workers": 0,
            "log_every": 1,
            "save_every": 1,
            "evaluate_every": 0,
        }
        for name, least in lowest.items():
            value = getattr(self, name)
            if value is not None and value < least:
                raise ConfigError(
                    f"--{name.replace('_', '-')} is {value}; expected {least} or more"
                )

    def deciding(self, config: Config) -> dict[str, Any]:
        """What a run that is gone on with must have as it was begun."""
        names = ("steps", "seed", "accumulate", "deterministic", "loss_mean")
        return {name: getattr(self, name) for name in names} | {"weights": self.start(config)}

    def start(self, config: Config) -> str:
        """What `config` starts from: `weights`, or what is usual."""
        return self.weights or ("none" if config.depth in (TINY, SLIM) else "imagenet")

    def to_dict(self) -> dict[str, Any]:
        """The fields, ready for JSON; but for where the data lie, which is another place on every machine."""
        return {name: value for name, value in asdict(self).items() if name != "data"}


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options `train.py` and `train_all.py` share."""
    data = parser.add_argument_group("data")
    holds = "holds VOCdevkit/, ADEChallengeData2016/, cityscapes/, camvid/"
    data.add_argument("--data", type=Path, required=True, metavar="ROOT", help=holds)
    data.add_argument(
        "--own",
        type=Path,
        metavar="FOLDER",
        help="train on this folder (images/, masks/, classes.json) instead",
    )
    data.add_argument(
        "--workers", type=int, default=usual_workers(), help="processes that read images"
    )
    recipe = parser.add_argument_group("changes to the recipe")
    recipe.add_argument(
        "--steps", type=int, help="optimiser steps in all, instead of the configuration's epochs"
    )
    recipe.add_argument("--epochs", type=int)
    recipe.add_argument(
        "--batch-size", type=int, help="the total batch, over all processes and micro-batches"
    )
    recipe.add_argument("--crop", type=int, dest="crop_size", nargs=2, metavar=("H", "W"))
    recipe.add_argument(
        "--resize",
        type=int,
        nargs=2,
        metavar=("LONG", "SHORT"),
        help="sides images are fitted into at scale 1",
    )
    recipe.add_argument("--lr", type=float)
    recipe.add_argument(
        "--min-lr",
        type=float,
        metavar="LR",
        help="what the learning rate falls to; a hundredth of --lr in the recipe",
    )
    recipe.add_argument("--recurrence", type=int, metavar="R", help="criss-cross steps")
    words = "let rare classes weigh more in the loss, by their pixels in the training masks"
    recipe.add_argument("--balance", action="store_true", default=None, help=words)
    recipe.add_argument(
        "--ohem", action="store_true", default=None, help="count only hard pixels in the main loss"
    )
    recipe.add_argument(
        "--category-loss", type=float, metavar="WEIGHT", help="add the category-consistent loss"
    )
    words = "over several GPUs: the mean over all labelled pixels, or each GPU's own mean averaged, as the reference"
    recipe.add_argument(
        "--loss-mean", choices=("pixels", "gpu"), default=Settings.loss_mean, help=words
    )
    recipe.add_argument(
        "--weights",
        metavar="imagenet|none|PATH",
        help="what to start from; imagenet, for the small networks none",
    )
    recipe.add_argument("--seed", type=int, default=Settings.seed)
    machine = parser.add_argument_group("machine")
    machine.add_argument("--device", default=Settings.device)
    machine.add_argument(
        "--precision", choices=("auto", "fp32", "bf16"), default=Settings.precision
    )
    machine.add_argument(
        "--compile",
        action="store_true",
        help="torch.compile: minutes at each start, then faster steps on a GPU",
    )
    words = "reach the batch in N micro-batches: less memory, but batch norm sees 1/N of it"
    machine.add_argument("--accumulate", type=int, default=1, metavar="N", help=words)
    machine.add_argument(
        "--deterministic", action="store_true", help="deterministic algorithms only"
    )
    machine.add_argument("--log-every", type=int, default=Settings.log_every, metavar="STEPS")
    machine.add_argument("--save-every", type=int, default=Settings.save_every, metavar="STEPS")
    machine.add_argument(
        "--evaluate-every", type=int, default=0, metavar="EPOCHS", help="0: once, at the end"
    )
    machine.add_argument(
        "--resume",
        action="store_true",
        help="go on with the run in the folder; begins where there is none",
    )


def from_options(args: argparse.Namespace) -> Settings:
    """The settings in parsed options."""
    return Settings(**{name: getattr(args, name) for name in Settings.__dataclass_fields__})


def varied(config: Config, args: argparse.Namespace) -> Config:
    """The configuration with the changes in parsed options; on a data set of one's own it loses its alias, and with it its name."""
    names = (
        "epochs",
        "batch_size",
        "crop_size",
        "resize",
        "lr",
        "min_lr",
        "recurrence",
        "balance",
        "ohem",
        "category_loss",
    )
    changes = {name: value for name in names if (value := getattr(args, name)) is not None}
    if args.own is not None:
        changes |= {"dataset": open_own(args.own).key, "alias": ""}
    return replace(config, **changes)
