"""Training: one run from start weights to scores.

A step is in step.py, the evaluation in evaluation/evaluate.py, the run's folder in runs.py.
"""

import signal
import time
from collections.abc import Callable
from contextlib import closing, nullcontext
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from ccnet_lab.configs import Config
from ccnet_lab.data.batches import Batch, steps_per_epoch, training_batches
from ccnet_lab.data.catalog import IGNORE, get_dataset
from ccnet_lab.data.check import check_learnable, overlap
from ccnet_lab.data.datasets import describe, open_split
from ccnet_lab.device import set_arithmetic, uses_bf16
from ccnet_lab.errors import ConfigError, RunError
from ccnet_lab.evaluation.evaluate import evaluate
from ccnet_lab.evaluation.metrics import miou_text, one_class, scores
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
    memory_advice,
    orderly,
)
from ccnet_lab.training.step import Stepper

AGREE_EVERY = 10  # steps after which several processes ask each other whether a signal came
# A step's number, the names in its batch, losses (3,) total, main, aux, and the gradients' norm.
Pending = tuple[int, list[str], Tensor, Tensor]


def train(
    folder: Path, config: Config, settings: Settings, say: Callable[[str], None] = tqdm.write
) -> dict[str, Any] | None:
    """Train, save the weights, evaluate and save the scores in `folder`; or resume such a run.

    Killed at any moment and called again with `settings.resume`, it ends in the same weights and
    the same log: every random choice follows from the seed and the step, and the log is rewound
    to the checkpoint. `say` is called with each message for the user.

    Returns:
        The scores; None in all processes but the first.

    Raises:
        Stopped: on SIGTERM or Ctrl-C, after saving.
        DataError, DeviceError, RunError, WeightsError: with what to do next.
    """
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
            _check_same(run, run.training or {}, settings.deciding(config))
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
        if trainer.signals:  # in the last step
            raise Stopped(
                trainer.signals[0], "stopped after the last step and saved; --resume scores the run"
            )
        found = trainer.evaluate()
        run.remove_checkpoints()
        run.write_scores(found)
        return found


def open_run(folder: Path, config: Config, settings: Settings) -> Run:
    """The run to resume, if there is one and `settings.resume` is set, else a new one.

    Raises `RunError` for a run of another configuration.
    """
    if not settings.resume or not (folder / "config.json").exists():
        return Run.create(folder, config)
    run = Run.open(folder)
    if not run.checkpoints() and not run.weights.is_file():
        return run.begin_anew(config)  # nothing to resume: it may have other options
    run.follow(get_dataset(config.dataset))
    before, remedy = run.config.to_dict(), ""
    if before["min_lr"] != config.min_lr:
        remedy = f"--min-lr {before['min_lr']:g} finishes a run with its own schedule. "
    _check_same(run, before, config.to_dict(), remedy)
    return run


class Trainer:
    """The state of a run between two steps, and how to make one step."""

    def __init__(
        self, run: Run, settings: Settings, group: Processes, say: Callable[[str], None]
    ) -> None:
        self.run, self.settings, self.group, self.say = run, settings, group, say
        self.config = run.config
        self._open_data()
        self.micro_batch = self._check_micro_batch()
        self.bf16 = uses_bf16(settings.precision, group.device)
        set_arithmetic(settings.deterministic)
        _seed(settings.seed)
        self._build()
        self.step = 0
        self.seconds = 0.0  # spent in steps, over all resumptions
        self.timed_until = 0.0  # clock up to which `seconds` counts
        self.pending: list[Pending] = []  # not yet read, so that a GPU need not wait
        self.sums: dict[str, float] = {}  # over the steps since the last line of the log
        self.logged = self.lines = 0  # the step of that line; how many there are
        self.signals: list[int] = []  # that came during the steps
        self.unscored = False  # whether to begin with an evaluation
        self._begin()

    def _open_data(self) -> None:
        config, settings, begun = self.config, self.settings, self.run.training
        dataset, world = get_dataset(config.dataset), self.group.world
        self.split = open_split(dataset, settings.data)
        # Opened before the training, so that missing files are found in time.
        self.scored = open_split(dataset, settings.data, dataset.val_split)
        check_learnable(self.split, self.say if self.group.main else None)
        if shared := overlap(self.split, self.scored):
            self.say(f"warning: {shared}")
        # A run may have been begun by another number of processes.
        alone = steps_per_epoch(len(self.split), config.batch_size, 1 if begun else world)
        self.per_epoch = (begun or {}).get("steps_per_epoch", alone)
        if type(self.per_epoch) is not int or self.per_epoch < 1:
            what = (
                f"steps_per_epoch is {self.per_epoch!r:.60} in {self.run.folder / 'training.json'}"
            )
            raise RunError(f"{what}; expected a whole number, 1 or more")
        self.total_steps = settings.steps or config.epochs * self.per_epoch

    def _check_micro_batch(self) -> int:
        batch, world, parts = self.config.batch_size, self.group.world, self.settings.accumulate
        size, rest = divmod(batch, world * parts)
        if rest or not size:
            raise ConfigError(
                f"a batch of {batch} cannot be shared by {world} processes in {parts} "
                "micro-batches each; change --batch-size, --accumulate or the number of processes"
            )
        if size * world == 1:
            check_single_image(self.config)
        return size

    def _build(self) -> None:
        config, settings, group = self.config, self.settings, self.group
        started = bool(self.run.checkpoints()) or self.run.weights.is_file()
        self.model = build_model(config)
        for first in (True, False):  # the first process downloads, the others wait
            if group.main == first:
                load_start(self.model, "none" if started else settings.start(config), self.say)
            group.wait()
        self.model.to(group.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.stepper = Stepper(
            self.model,
            config,
            group,
            bf16=self.bf16,
            compiled=settings.compile,
            accumulate=settings.accumulate,
            mean_per_process=settings.loss_mean == "gpu",
            class_weights=self._class_weights() if config.balance else None,
        )

    def _class_weights(self) -> Tensor:
        counts = torch.zeros(IGNORE + 1, dtype=torch.long)
        for index in range(len(self.split)):
            labels = torch.from_numpy(self.split.read(index).labels).flatten()
            counts += torch.bincount(labels, minlength=IGNORE + 1)
        return balanced_weights(counts[: self.config.num_classes]).to(self.group.device)

    def _begin(self) -> None:
        """Restore the last checkpoint, and write down how the run is carried out."""
        settings, run, group = self.settings, self.run, self.group
        deciding = settings.deciding(self.config) | {
            "precision": "bf16" if self.bf16 else "fp32",
            "total_steps": self.total_steps,
            "training_files_crc32": describe(self.split)["names_crc32"],
        }
        _check_same(run, run.training or {}, deciding)
        if run.weights.is_file():  # trained, but not scored: log and weights are complete
            return
        self._restore()
        if group.main:
            self.lines = run.rewind_log(self.step, self.logged, self.lines)
            facts = {"steps_per_epoch": self.per_epoch, "processes": group.world}
            facts["torch"] = torch.__version__
            run.write_training(settings.to_dict() | deciding | facts)
        if settings.accumulate > 1:
            share = self.config.batch_size // group.world
            self.say(f"batch norm sees {self.micro_batch} images at a time, not {share}")

    def _restore(self) -> None:
        run, group = self.run, self.group
        begun = run.training is not None
        state = run.load_checkpoint(self.say) if begun and group.main else None
        self.unscored = state is not None and self._is_unscored(state["step"])
        if group.world > 1:
            found: list[Any] = [state, self.unscored]
            torch.distributed.broadcast_object_list(found, src=0)
            state, self.unscored = found
        if state is None:
            return
        try:
            self.model.load_state_dict(state["model"])
            self.stepper.optimizer.load_state_dict(state["optimizer"])
            self.step, self.seconds, self.sums = state["step"], state["seconds"], state["sums"]
            self.logged, self.lines = state.get("logged", 0), state.get("lines", 0)
            if self.step > self.total_steps:
                raise ValueError(f"it is of step {self.step} of {self.total_steps}")
            if group.main:  # the sum over all processes
                self.stepper.confusion.copy_(state["confusion"])
        except torch.OutOfMemoryError:
            raise
        except (RuntimeError, LookupError, TypeError, ValueError, AttributeError) as error:
            what = f"the newest checkpoint in {run.folder} is another network's or no training's"
            why = " ".join(str(error).split())[:200]
            remedy = "remove it, or start the run anew in another folder"
            raise RunError(f"{what} ({why}); {remedy}") from None
        self.say(f"resuming {run.folder} at step {self.step} of {self.total_steps}")

    def _is_unscored(self, step: int) -> bool:
        """Whether the run was killed between saving `step` and the evaluation due after it."""
        every = self.settings.evaluate_every * self.per_epoch
        scored = (record["step"] for record in self.run.metrics() if "val_miou" in record)
        return step > 0 and every > 0 and step % every == 0 and step not in scored

    def run_steps(self) -> None:
        """Make all the steps that are left."""
        settings, group, config = self.settings, self.group, self.config
        steps = range(self.step, self.total_steps)
        batches = training_batches(
            self.split,
            config,
            steps,
            settings.seed,
            group.rank,
            group.world,
            settings.workers,
            pinned=group.device.type == "cuda",
            per_epoch=self.per_epoch,
        )
        look: dict[str, Any] = {"unit": "step", "disable": not group.main, "dynamic_ncols": True}
        bar = tqdm(batches, config.name, self.total_steps, initial=self.step, **look)
        with interruptible() as self.signals, closing(batches), bar:
            if self.unscored:
                self._evaluate_between_steps()
            if settings.compile and steps:
                taken = "the first step takes minutes, which the log's first rate includes"
                self.say(f"compiling the network: {taken}")
            self.timed_until = start = time.perf_counter()
            for batch in bar:
                self.pending.append(self.train_step(batch))
                if settings.compile and self.step == steps.start:
                    seconds = time.perf_counter() - start
                    self.say(f"compiled, and the first step made, in {seconds:.0f} s")
                self.step += 1
                self._after_step(bar)
        # Gradient exchange has to end before its process group; otherwise gloo can hang.
        del self.stepper

    def _after_step(self, bar: Any) -> None:
        settings, last, stop = self.settings, self.step == self.total_steps, self._must_stop()
        log, save, score = (
            every > 0 and self.step % every == 0
            for every in (
                settings.log_every,
                settings.save_every,
                settings.evaluate_every * self.per_epoch,
            )
        )
        if not (last or stop or log or save or score):
            return
        self.read_pending()
        now = time.perf_counter()
        self.seconds += now - self.timed_until
        self.timed_until = now
        if last or log:
            bar.set_postfix_str(self._write_log())
        if last:
            return
        if stop or save or score:
            self._save()
        if stop:
            self._stop()
        if score:
            self._evaluate_between_steps()
            self.timed_until = time.perf_counter()

    def _must_stop(self) -> bool:
        if self.group.world == 1:
            return bool(self.signals)
        # Asking makes a GPU wait.
        ask = self.group.device.type != "cuda" or self.step % AGREE_EVERY == 0
        return ask and self.group.any(bool(self.signals))

    def _stop(self) -> NoReturn:
        number = self.signals[0] if self.signals else signal.SIGTERM
        raise Stopped(number, f"stopped at step {self.step} and saved; continue with --resume")

    def train_step(self, batch: Batch) -> Pending:
        """One step with the random numbers and the learning rate of its number."""
        config = self.config
        _seed(self.settings.seed, self.step, self.group.rank)
        lr = poly_lr(self.step, self.total_steps, config.lr, config.power, config.min_lr)
        for parameters in self.stepper.optimizer.param_groups:
            parameters["lr"] = lr
        if self.step % self.per_epoch == 0:
            self.stepper.confusion.zero_()
        return self.step + 1, batch.names, *self.stepper(batch)

    def read_pending(self) -> None:
        """Sum up the pending steps; `RunError` where loss or gradients are not finite."""
        for number, names, losses, grad_norm in self.pending:
            total, main, aux = self.group.total(losses).tolist()
            norm = float(grad_norm)
            if not (np.isfinite(total) and np.isfinite(norm)):
                last = self.run.checkpoints()
                raise RunError(
                    f"step {number}: the loss is {total:g} and the gradients' norm {norm:g}. "
                    f"The batch: {', '.join(names)}. "
                    f"The last good checkpoint is {last[0].name if last else '(none yet)'}. "
                    "Look at these files, or begin anew under another --name with a lower --lr "
                    "or --precision fp32"
                )
            values = {"loss": total, "loss_main": main, "loss_aux": aux, "grad_norm": norm}
            for name, value in {**values, "steps": 1}.items():
                self.sums[name] = self.sums.get(name, 0.0) + value
        self.pending.clear()

    @property
    def _place(self) -> dict[str, float]:
        return {"step": self.step, "epoch": round(self.step / self.per_epoch, 4)}

    def _write_log(self) -> str:
        """Log means over the steps since the last line; returns a summary for the progress bar."""
        steps = self.sums.pop("steps")
        means = {name: value / steps for name, value in self.sums.items()}
        spent = self.seconds - means.pop("since", 0.0) * steps
        miou = self._train_miou()
        rate = round(steps * self.config.batch_size / max(spent, 1e-9), 3)
        record = self._place | means
        record["lr"] = self.stepper.optimizer.param_groups[0]["lr"]
        more = {"images_per_second": rate, "seconds": round(self.seconds, 1)}
        self.sums = {"since": self.seconds}
        if self.group.main:
            self.run.log({**record, "train_miou": miou, **more})
        self.logged, self.lines = self.step, self.lines + 1
        so_far = "of one class only" if miou is None else f"{100 * miou:.1f} %"
        return f"loss {record['loss']:.3f}, mIoU so far {so_far}, {rate:.1f} images/s"

    def _train_miou(self) -> float | None:
        """The mIoU (0..1) over this epoch's crops so far, on the feature grid, in train mode.

        None as long as it is that of a single class.
        """
        counts = self.group.total(self.stepper.confusion[:-1].clone())
        found = scores(counts.view(self.config.num_classes, -1).cpu().numpy())
        if one_class(found.iou):
            return None
        return found.miou if int(counts.sum()) else 0.0

    def evaluate(self) -> dict[str, Any]:
        """Scores on the validation split in float32, as published; saves the confusions."""
        device, workers = self.group.device, self.settings.workers
        with tqdm(total=len(self.scored), desc="evaluation", unit="image", leave=False) as bar:

            def show(done: int, _: int) -> None:
                bar.update(done - bar.n)
                if self.signals:
                    self._stop()

            how: dict[str, Any] = {"device": device, "workers": workers, "progress": show}
            found = evaluate(self.model, self.scored, self.config, **how)
        found.confusions.save(self.run.confusions)
        return found.to_dict()

    def _evaluate_between_steps(self) -> None:
        """Evaluate and log the mIoU; the other processes wait."""
        if self.group.main:
            found = self.evaluate()
            self.run.log(self._place | {"val_miou": found["miou"]})
            self.say(f"epoch {self.step // self.per_epoch}: {miou_text(found)}")
        self.group.wait()

    def _save(self) -> None:
        confusion = self.group.total(self.stepper.confusion.clone())
        if self.group.main:
            state = {
                "model": self.model.state_dict(),
                "optimizer": self.stepper.optimizer.state_dict(),
                "confusion": confusion,
                "step": self.step,
                "seconds": self.seconds,
                "sums": self.sums,
                "logged": self.logged,
                "lines": self.lines,
            }
            self.run.save_checkpoint(state, self.step)
        self.group.wait()


def check_single_image(config: Config) -> None:
    """Refuse crops of which one alone leaves batch norm a single value per channel."""
    with torch.device("meta"):
        try:
            build_model(config).train()(torch.empty(1, 3, *config.crop_size))
        except ValueError:
            height, width = config.crop_size
            raise ConfigError(
                f"a crop of {height} x {width} pixels shrinks to a single cell within this "
                "network, on which batch norm cannot be trained one picture at a time; "
                "raise --crop, or --batch-size without --accumulate"
            ) from None


def _check_same(run: Run, before: dict[str, Any], now: dict[str, Any], remedy: str = "") -> None:
    """Refuse to resume a run with other settings than it was begun with."""
    differing = [
        f"{name} was {before[name]!r} and is {value!r}"
        for name, value in now.items()
        if before.get(name, value) != value
    ]
    if differing:
        raise RunError(
            f"{run.folder} was begun otherwise: {'; '.join(differing)}. "
            f"{remedy}Give the same options, or another folder"
        )


def _seed(*numbers: int) -> None:
    state = np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0]
    torch.manual_seed(int(state >> np.uint64(1)))
