"""Training: one run from start weights to scores. A step is step.py's, the evaluation is beside it; the folder it fills is runs.py's."""

import signal
import time
from collections.abc import Callable
from contextlib import closing, nullcontext
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from ccnet_lab.configs import Config
from ccnet_lab.data.batches import Batch, steps_per_epoch, training_batches
from ccnet_lab.data.catalog import IGNORE, get_dataset
from ccnet_lab.data.datasets import describe, open_split
from ccnet_lab.data.learnable import check_learnable, overlap
from ccnet_lab.device import set_arithmetic, uses_bf16
from ccnet_lab.errors import ConfigError, RunError, TrainingError
from ccnet_lab.evaluation.evaluate import evaluate, scores
from ccnet_lab.evaluation.metrics import miou_text, one_class
from ccnet_lab.model.ccnet import build_model
from ccnet_lab.model.weights import load_start, load_weights
from ccnet_lab.runs import Run
from ccnet_lab.training.distributed import Processes, processes
from ccnet_lab.training.loss import balanced_weights
from ccnet_lab.training.schedule import poly_lr
from ccnet_lab.training.settings import Settings
from ccnet_lab.training.signals import (
    Stopped,
    compile_advice,
    interruptible,
    keep_freed_memory,
    memory_advice,
    orderly,
)
from ccnet_lab.training.step import Stepper

AGREE_EVERY = 10  # steps after which several processes ask each other whether one was told to stop


class Step(NamedTuple):
    """What a step left behind, still on the device."""

    number: int
    names: list[str]  # of the batch
    losses: Tensor  # (3,) total, main, aux
    grad_norm: Tensor


def train(
    folder: Path, config: Config, settings: Settings, say: Callable[[str], None] = tqdm.write
) -> dict[str, Any] | None:
    """Carry a run out, or on: train, store the weights, evaluate, store the scores.

    Killed at any moment and called again with `settings.resume`, it ends in the same weights and the same log: every random choice follows
    from the seed and the step, and the log is rewound to the checkpoint.

    Args:
        folder: of the run; made where there is none.
        config: what to train.
        settings: how.
        say: is told what a person should know.

    Returns:
        The scores; None in all processes but the first.

    Raises:
        Stopped: on SIGTERM or Ctrl-C, after saving.
        DataError, DeviceError, RunError, WeightsError, TrainingError: with what to do next.
    """
    keep_freed_memory()
    with (
        orderly(),
        processes(settings.device) as group,
        Run(folder).locked() if group.main else nullcontext(),
    ):
        if group.main:
            open_run(folder, config, settings)
        group.wait()
        run = Run.open(folder)
        if run.finished:
            _same(run, settings.deciding(config))
            say(f"{folder} is finished already")
            return run.scores if group.main else None
        with memory_advice(config, settings.accumulate), compile_advice():
            trainer = Trainer(run, settings, group, say if group.main else lambda _: None)
            if run.weights.is_file():  # trained, but not scored
                load_weights(trainer.model, run.weights)
            else:
                trainer.run_steps()
        if not group.main:
            return None
        if not run.weights.is_file():
            run.save_weights(trainer.model, steps=trainer.total_steps, seed=settings.seed)
        if trainer.told:  # in the last step
            raise Stopped(
                trainer.told[0], "stopped after the last step and saved; --resume scores the run"
            )
        found = trainer.evaluate()
        run.remove_checkpoints()
        run.write_scores(found)
        return found


def open_run(folder: Path, config: Config, settings: Settings) -> Run:
    """The run to go on with if there is one and `settings.resume` says so, else a new one; `RunError` where it is of another kind."""
    if not settings.resume or not (folder / "config.json").exists():
        return Run.create(folder, config)
    run = Run.open(folder)
    if (
        not run.checkpoints() and not run.weights.is_file()
    ):  # nothing to go on with: it begins anew, perhaps with other options
        return run.begin_anew(config)
    run.follow(get_dataset(config.dataset))
    before, now = run.config.to_dict(), config.to_dict()
    differing = [
        f"{name} is {before[name]!r} there and {now[name]!r} here"
        for name in now
        if before[name] != now[name]
    ]
    if differing:
        earlier = (
            ""
            if before["min_lr"] == now["min_lr"]
            else f"--min-lr {before['min_lr']:g} finishes it with its own schedule. "
        )
        raise RunError(
            f"{folder} is a run of another configuration: {'; '.join(differing)}. {earlier}Give the same options, or another folder"
        )
    return run


class Trainer:
    """The state of a run between two steps, and how to make one step."""

    def __init__(
        self, run: Run, settings: Settings, group: Processes, say: Callable[[str], None]
    ) -> None:
        self.run, self.settings, self.group, self.say = run, settings, group, say
        self.config = config = run.config
        dataset = get_dataset(config.dataset)
        self.split = open_split(dataset, settings.data)
        self.scored = open_split(
            dataset, settings.data, dataset.val_split
        )  # now: what is missing should be missed before the training
        check_learnable(self.split, say if group.main else None)
        if shared := overlap(self.split, self.scored):
            say(f"warning: {shared}")
        begun = run.training
        self.per_epoch = steps_per_epoch(
            len(self.split), config.batch_size, 1 if begun else group.world
        )
        if begun:  # perhaps by another number of processes
            self.per_epoch = begun.get("steps_per_epoch", self.per_epoch)
        self.total_steps = settings.steps or config.epochs * self.per_epoch
        self.micro_batch, rest = divmod(config.batch_size, group.world * settings.accumulate)
        if rest or not self.micro_batch:
            raise ConfigError(
                f"a batch of {config.batch_size} cannot be shared by {group.world} processes in {settings.accumulate} micro-batches each; "
                "change --batch-size, --accumulate or the number of processes"
            )
        if self.micro_batch * group.world == 1:
            _check_one_picture(config)
        self.bf16 = uses_bf16(settings.precision, group.device)
        set_arithmetic(settings.deterministic)
        _seed(settings.seed)
        started = bool(run.checkpoints()) or run.weights.is_file()
        start = "none" if started else settings.start(config)
        self.model = build_model(config)
        for first in (True, False):  # what must be downloaded, one process downloads
            if group.main == first:
                load_start(self.model, start, say)
            group.wait()
        self.model.to(group.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.stepper = Stepper(
            self.model, config, group, bf16=self.bf16, compiled=settings.compile, accumulate=settings.accumulate,
            mean_per_process=settings.loss_mean == "gpu",
            class_weights=self._class_weights() if config.balance else None,
        )  # fmt: skip
        self.step = 0
        self.seconds = 0.0  # spent in steps, over all resumptions
        self.pending: list[Step] = []  # not yet looked at, so that a GPU need not wait
        self.sums: dict[str, float] = {}  # over the steps since the last line of the log
        self.told: list[int] = []  # signals that came during the steps
        self.unscored = False  # whether to begin with an evaluation on the way
        self._begin()

    def run_steps(self) -> None:
        """All the steps that are left."""
        settings, group = self.settings, self.group
        steps = range(self.step, self.total_steps)
        cuda = group.device.type == "cuda"
        share = group.rank, group.world, settings.workers
        batches = training_batches(
            self.split,
            self.config,
            steps,
            settings.seed,
            *share,
            pinned=cuda,
            per_epoch=self.per_epoch,
        )
        bar = tqdm(
            batches,
            self.config.name,
            self.total_steps,
            initial=self.step,
            unit="step",
            disable=not group.main,
            dynamic_ncols=True,
        )
        with interruptible() as self.told, closing(batches), bar:
            if self.unscored:
                self.evaluate_on_the_way()
            if settings.compile and steps:
                self.say(
                    "compiling the network: the first step takes minutes, which the log's first rate includes"
                )
            started = time.perf_counter()
            for batch in bar:
                self.pending.append(self.train_step(batch))
                if settings.compile and self.step == steps.start:
                    self.say(
                        f"compiled, and the first step made, in {time.perf_counter() - started:.0f} s"
                    )
                self.step += 1
                last = self.step == self.total_steps
                agree = not cuda or self.step % AGREE_EVERY == 0  # asking makes a GPU wait
                stop = bool(self.told) if group.world == 1 else agree and group.any(bool(self.told))
                often = (
                    settings.log_every,
                    settings.save_every,
                    settings.evaluate_every * self.per_epoch,
                )
                logged, saved, scored = (every > 0 and self.step % every == 0 for every in often)
                if not (last or stop or logged or saved or scored):
                    continue
                self.read_pending()
                now = time.perf_counter()
                self.seconds, started = self.seconds + now - started, now
                if last or logged:
                    bar.set_postfix_str(self.write_log())
                if not last and (stop or saved or scored):
                    self.save()
                if stop and not last:
                    self.stop()
                if scored and not last:
                    self.evaluate_on_the_way()
                    started = time.perf_counter()

        self.stepper.wrapped = self.model  # frees what exchanges gradients before its process group goes; the other way round gloo can hang

    def stop(self) -> NoReturn:
        """End between two steps, the last of which is saved."""
        number = self.told[0] if self.told else signal.SIGTERM
        raise Stopped(number, f"stopped at step {self.step} and saved; go on with --resume")

    def train_step(self, batch: Batch) -> Step:
        """One step with the random numbers and the learning rate of its number."""
        config = self.config
        _seed(self.settings.seed, self.step, self.group.rank)
        for parameters in self.stepper.optimizer.param_groups:
            parameters["lr"] = poly_lr(
                self.step, self.total_steps, config.lr, config.power, config.min_lr
            )
        if self.step % self.per_epoch == 0:
            self.stepper.confusion.zero_()
        return Step(self.step + 1, batch.names, *self.stepper(batch))

    def read_pending(self) -> None:
        """Look at the steps since the last look; raises `TrainingError` at the first whose loss or gradients are not finite."""
        for number, names, losses, grad_norm in self.pending:
            total, main, aux = self.group.total(losses).tolist()
            norm = float(grad_norm)
            if not (np.isfinite(total) and np.isfinite(norm)):
                last = self.run.checkpoints()
                raise TrainingError(
                    f"step {number}: the loss is {total:g} and the gradients' norm {norm:g}. The batch: {', '.join(names)}. "
                    f"The last good checkpoint is {last[0].name if last else '(none yet)'}. Look at these files, or begin anew under "
                    "another --name with a lower --lr or --precision fp32"
                )
            for name, value in (
                ("loss", total),
                ("loss_main", main),
                ("loss_aux", aux),
                ("grad_norm", norm),
                ("steps", 1),
            ):
                self.sums[name] = self.sums.get(name, 0.0) + value
        self.pending.clear()

    def write_log(self) -> str:
        """One line of means over the steps since the last one; returns what the progress bar shows of it."""
        steps = self.sums.pop("steps")
        means = {name: value / steps for name, value in self.sums.items()}
        spent = self.seconds - means.pop("since", 0.0) * steps
        record = {
            "step": self.step,
            "epoch": round(self.step / self.per_epoch, 4),
            **means,
            "lr": self.stepper.optimizer.param_groups[0]["lr"],
            "train_miou": self.train_miou(),
            "images_per_second": round(steps * self.config.batch_size / max(spent, 1e-9), 3),
            "seconds": round(self.seconds, 1),
        }
        self.sums = {"since": self.seconds}
        if self.group.main:
            self.run.log(record)
        miou = (
            "of one class only"
            if record["train_miou"] is None
            else f"{100 * record['train_miou']:.1f} %"
        )
        return f"loss {record['loss']:.3f}, mIoU so far {miou}, {record['images_per_second']:.1f} images/s"

    def train_miou(self) -> float | None:
        """The mIoU over this epoch's crops so far, 0..1, counted on the feature grid; batch norm and dropout in train mode.

        None as long as it is that of a single class.
        """
        counts = self.group.total(self.stepper.confusion[:-1].clone()).view(
            self.config.num_classes, -1
        )
        found = scores(counts.cpu().numpy())
        return None if one_class(found.iou) else found.miou if int(counts.sum()) else 0.0

    def evaluate(self) -> dict[str, Any]:
        """Scores on the split that is scored, in float32 as the published ones; the confusion matrices per image are stored."""
        with tqdm(total=len(self.scored), desc="evaluation", unit="image", leave=False) as bar:

            def show(done: int, _: float) -> None:
                bar.update(done - bar.n)
                if self.told:
                    self.stop()

            workers = self.settings.workers
            found = evaluate(
                self.model,
                self.scored,
                self.config,
                device=self.group.device,
                workers=workers,
                progress=show,
            )
        found.confusions.save(self.run.confusions)
        return found.to_dict()

    def evaluate_on_the_way(self) -> None:
        """Log the scores so far; the other processes wait."""
        if self.group.main:
            found = self.evaluate()
            self.run.log(
                {
                    "step": self.step,
                    "epoch": round(self.step / self.per_epoch, 4),
                    "val_miou": found["miou"],
                }
            )
            self.say(f"epoch {self.step // self.per_epoch}: {miou_text(found)}")
        self.group.wait()

    def save(self) -> None:
        """Store everything the next step depends on."""
        confusion = self.group.total(self.stepper.confusion.clone())
        if self.group.main:
            state = {
                "model": self.model.state_dict(),
                "optimizer": self.stepper.optimizer.state_dict(),
                "confusion": confusion,
            }
            state |= {"step": self.step, "seconds": self.seconds, "sums": self.sums}
            self.run.save_checkpoint(state, self.step)
        self.group.wait()

    def _begin(self) -> None:
        """Take up the last checkpoint, or write down how the run begins."""
        settings, run = self.settings, self.run
        now = {"precision": "bf16" if self.bf16 else "fp32", "total_steps": self.total_steps}
        deciding = (
            settings.deciding(self.config)
            | now
            | {"training_files_crc32": describe(self.split)["names_crc32"]}
        )
        _same(run, deciding)
        if run.weights.is_file():  # trained, but not scored: log and weights are whole
            return
        state = (
            run.load_checkpoint(self.say) if run.training is not None and self.group.main else None
        )
        step, between = state["step"] if state else 0, settings.evaluate_every * self.per_epoch
        scoring = step > 0 and between > 0 and step % between == 0
        # Saved before it was to be scored on the way, and killed before it was.
        self.unscored = scoring and not any(
            "val_miou" in record and record["step"] == step for record in run.metrics()
        )
        if self.group.world > 1:
            found: list[Any] = [state, self.unscored]
            torch.distributed.broadcast_object_list(found, src=0)
            state, self.unscored = found
        if state is not None:
            self.model.load_state_dict(state["model"])
            self.stepper.optimizer.load_state_dict(state["optimizer"])
            self.step, self.seconds, self.sums = state["step"], state["seconds"], state["sums"]
            if self.group.main:  # the sum over all processes
                self.stepper.confusion.copy_(state["confusion"])
            self.say(f"going on with {run.folder} at step {self.step} of {self.total_steps}")
        if self.group.main:
            run.rewind_log(self.step)
            now = {
                "steps_per_epoch": self.per_epoch,
                "processes": self.group.world,
                "torch": torch.__version__,
            }
            run.write_training(settings.to_dict() | deciding | now)
        if settings.accumulate > 1:
            self.say(
                f"batch norm sees {self.micro_batch} images at a time, not {self.config.batch_size // self.group.world}"
            )

    def _class_weights(self) -> Tensor:
        counts = torch.zeros(IGNORE + 1, dtype=torch.long)
        for index in range(len(self.split)):
            counts += torch.bincount(
                torch.from_numpy(self.split.read(index).labels).flatten(), minlength=IGNORE + 1
            )
        return balanced_weights(counts[: self.config.num_classes]).to(self.group.device)


def _check_one_picture(config: Config) -> None:
    """Refuse crops of which one alone leaves batch norm a single value per channel."""
    with torch.device("meta"):
        try:
            build_model(config).train()(torch.empty(1, 3, *config.crop_size))
        except ValueError:
            size = f"{config.crop_size[0]} x {config.crop_size[1]}"
            raise ConfigError(
                f"a crop of {size} pixels shrinks to a single cell within this network, on which batch norm cannot be trained one picture "
                "at a time; raise --crop, or --batch-size without --accumulate"
            ) from None


def _same(run: Run, deciding: dict[str, Any]) -> None:
    """Refuse to go on with a run otherwise than it was begun."""
    before = run.training or {}
    differing = [
        f"{name} was {before[name]!r} and is {value!r}"
        for name, value in deciding.items()
        if before.get(name, value) != value
    ]
    if differing:
        raise RunError(
            f"{run.folder} was begun otherwise: {'; '.join(differing)}. Give the same options, or another folder"
        )


def _seed(*numbers: int) -> None:
    """Random numbers that follow from these numbers alone."""
    torch.manual_seed(
        int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> np.uint64(1))
    )
