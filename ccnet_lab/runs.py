"""Run: one training run's folder on disk, and the only module that knows the file names in it.

Everything but the log is written whole or not at all; the callers decide what is written.
"""

import errno
import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

import torch
from torch import nn

from ccnet_lab.configs import Config
from ccnet_lab.data.catalog import Dataset, get_dataset, register
from ccnet_lab.errors import LabError, MissingFileError, RunBusyError, RunError
from ccnet_lab.files import failed_to_write, sha256, sync, write_text
from ccnet_lab.model.weights import save_weights

KEPT_CHECKPOINTS = 2  # the last and the one before it
STATE = {"model", "optimizer", "step", "seconds", "sums", "confusion"}  # in a checkpoint
LARGEST = 5_000_000  # bytes of a JSON file that is read
LARGEST_LOG = 500_000_000
_DIGITS = 8  # of the sha256 in a checkpoint's name
_held: set[Path] = set()  # the runs that this process has locked


def check_log_size(path: Path) -> None:
    """Raise `RunError` for a log that no training writes."""
    if path.is_file() and (size := path.stat().st_size) > LARGEST_LOG:
        raise RunError(f"{path} has {size:,} bytes; at most {LARGEST_LOG:,} are read")


def _is_place(state: dict[str, Any]) -> bool:
    """Whether a checkpoint's plain values are numbers."""
    step, seconds, sums = state["step"], state["seconds"], state["sums"]
    numbers = [seconds, *sums.values()] if isinstance(sums, dict) else [None]
    counted = (step, state.get("logged", 0), state.get("lines", 0))
    whole = all(type(n) is int and n >= 0 for n in counted)
    return whole and all(type(number) in (int, float) for number in numbers)


@dataclass(frozen=True)
class Run:
    """A run folder: configuration, settings, log, scores, weights and checkpoints."""

    folder: Path

    @classmethod
    def open(cls, folder: str | Path) -> "Run":
        """An existing run; raises `MissingFileError` or `RunError` where the folder holds none."""
        folder = Path(folder)
        if not folder.is_dir():
            raise MissingFileError(f"there is no run folder {folder}")
        if not (folder / "config.json").is_file():
            raise RunError(f"{folder} is no run folder: it has no config.json")
        run = cls(folder)
        run._dataset()
        return run

    @classmethod
    def create(cls, folder: str | Path, config: Config) -> "Run":
        """A new run folder that holds `config`; raises `RunError` where there is one already."""
        run = cls(Path(folder))
        if (run.folder / "config.json").exists():
            remedy = "add --resume to continue it, or choose another folder"
            raise RunError(f"{folder} holds a run already; {remedy}")
        run.folder.mkdir(parents=True, exist_ok=True)
        return run.begin_anew(config)

    def begin_anew(self, config: Config) -> "Run":
        """Let the folder hold `config` and nothing of an earlier start."""
        for name in ("training.json", "metrics.jsonl"):
            (self.folder / name).unlink(missing_ok=True)
        dataset = get_dataset(config.dataset)
        if dataset.classes:  # a user's, which another process doesn't know
            self._write("dataset.json", dataset.to_dict())
        self._write("config.json", config.to_dict())
        return self

    @property
    def config(self) -> Config:
        """What was trained."""
        values = self._read("config.json")
        if self.training is None:  # not trained here, so the learning rate has its usual floor
            values.setdefault("min_lr", None)
        with self._named("config.json"):
            return Config.from_dict({**values, **self._dataset()})

    def _dataset(self) -> dict[str, str]:
        """The field `dataset` where it is a user's, as its key in this process; else nothing."""
        dataset = self._read_if_there("dataset.json")
        with self._named("dataset.json"):
            return {"dataset": register(dataset).key} if dataset else {}

    @contextmanager
    def _named(self, name: str) -> Iterator[None]:
        """Errors in what a file says, with the file's name."""
        try:
            yield
        except RunError:
            raise
        except LabError as error:
            raise RunError(f"{self.folder / name} cannot be used: {error}") from None

    def follow(self, dataset: Dataset) -> None:
        """Store where a user's data set is now, if it has the run's classes."""
        stored = self._read_if_there("dataset.json")
        if not stored or stored.get("root") == dataset.root:
            return
        if [name for _, name in stored["classes"]] == list(dataset.class_names):
            self._write("dataset.json", dataset.to_dict())

    @property
    def weights(self) -> Path:
        """The trained weights; this file and the next three may not be there yet."""
        return self.folder / "model.safetensors"

    @property
    def confusions(self) -> Path:
        """The evaluation's confusion matrices per image."""
        return self.folder / "confusions.npz"

    @property
    def reach(self) -> Path:
        """How many pixels of a miniature's long-range classes are right, on the cross and off."""
        return self.folder / "reach.json"

    @property
    def log_file(self) -> Path:
        """One JSON object per logged step."""
        return self.folder / "metrics.jsonl"

    @property
    def finished(self) -> bool:
        """Whether the run is trained and scored."""
        return self.weights.is_file() and self.scores is not None

    @property
    def scores(self) -> dict[str, Any] | None:
        """miou, pixel_accuracy, per_class_iou by class name, protocol; None before evaluation."""
        return self._read_if_there("scores.json")

    def write_scores(self, scores: dict[str, Any]) -> None:
        """Store an evaluation's scores."""
        self._write("scores.json", scores)

    @property
    def training(self) -> dict[str, Any] | None:
        """The settings (seed, steps, precision, ...); None before training started."""
        return self._read_if_there("training.json")

    def write_training(self, settings: dict[str, Any]) -> None:
        """Store the settings."""
        self._write("training.json", settings)

    def save_weights(self, model: nn.Module, **notes: Any) -> None:
        """Store the trained weights; `notes` go into the file's metadata."""
        save_weights(model, self.weights, self.config, **notes)

    # The log

    def log(self, record: dict[str, Any]) -> None:
        """Append one line to `metrics.jsonl`."""
        try:
            with self.log_file.open("a", encoding="utf-8") as file:
                file.write(json.dumps(record) + "\n")
        except OSError as error:
            raise RunError(
                f"{self.log_file} cannot be written: {error}; make room, then --resume"
            ) from None

    def metrics(self) -> list[dict[str, Any]]:
        """The lines of `metrics.jsonl`, without what a kill or a power cut left at its end.

        Raises `RunError` for lines before the last sound one that can't be read.
        """
        path, found, strange = self.log_file, [], 0
        check_log_size(path)
        lines = path.read_text("utf-8", errors="replace").splitlines() if path.is_file() else []
        for number, line in enumerate(lines, 1):
            record = None
            with suppress(ValueError, RecursionError):
                record = json.loads(line)
            if not isinstance(record, dict) or type(record.get("step")) is not int:
                strange = strange or number
            elif strange:
                what = f"line {strange} of {path} is no JSON object with a step"
                raise RunError(f"{what}; mend or remove it")
            else:
                found.append(record)
        return found

    def rewind_log(self, step: int, logged: int = 0, lines: int = 0) -> int:
        """Remove the lines after `step`, which will be written again.

        Returns how many lines of training stay. Raises `RunError` where the line of step `logged`
        is not among them, or where they are fewer than `lines`: those will not be written again.
        """
        records = [record for record in self.metrics() if record["step"] <= step]
        if not self.log_file.is_file() and logged:
            records = [{"step": step}]
        removed = records[:1] == [{"step": step}]  # by hand: the log begins here
        last = records[-1]["step"] if records else 0
        steps = [record["step"] for record in records if "val_miou" not in record]
        kept, what = len(steps), ""
        if steps != sorted(steps):
            what = "its steps do not rise"
        elif last < logged:
            what = f"its lines of the steps {last + 1} to {step} are gone"
        elif kept < lines and not removed:
            what = f"{lines - kept} of its {lines} lines up to step {step} are gone"
        elif kept > lines and lines and not removed:
            what = f"it has {kept} lines up to step {step}, of which {lines} were written"
        if what:
            remedy = "mend it, or remove it to go on without its curves"
            raise RunError(f"{self.log_file} is damaged: {what}; {remedy}")
        write_text(self.log_file, "".join(json.dumps(r) + "\n" for r in records), RunError)
        return kept

    # Checkpoints

    def checkpoints(self) -> list[Path]:
        """Checkpoint files, `checkpoint-<step>-<start of its sha256>.pt`, newest first."""
        found = self.folder.glob("checkpoint-*-*.pt")
        return sorted((path for path in found if path.is_file()), reverse=True)

    def save_checkpoint(self, state: dict[str, Any], step: int) -> Path:
        """Store a training state of tensors and plain values, and keep the one before it.

        Raises `RunError` where the disk is full, say; the checkpoint before is untouched.
        """
        if self.log_file.exists():  # the log never lags behind a checkpoint
            sync(self.log_file)
        temporary = self.folder / "checkpoint.writing"
        try:
            with temporary.open("wb") as file:
                torch.save(state, file)
            sync(temporary)
            path = self.folder / f"checkpoint-{step:08d}-{sha256(temporary)[:_DIGITS]}.pt"
            os.replace(temporary, path)
            sync(self.folder)
        except (OSError, RuntimeError) as error:
            temporary.unlink(missing_ok=True)
            if not failed_to_write(error):
                raise
            last = ", ".join(path.name for path in self.checkpoints()[:1]) or "none yet"
            what = f"the checkpoint of step {step} cannot be written to {self.folder}: {error}"
            raise RunError(
                f"{what}; the last good one is {last}; make room, then --resume"
            ) from None
        for old in self.checkpoints()[KEPT_CHECKPOINTS:]:
            old.unlink()
        return path

    def load_checkpoint(self, say: Callable[[str], None] = print) -> dict[str, Any] | None:
        """The newest undamaged state, None where none was ever saved; damaged files are renamed.

        Raises `RunError` where all are damaged.
        """
        if (left := self.folder / "checkpoint.writing").is_file():
            left.unlink()
        for path in self.folder.glob("checkpoint-*-*.pt"):
            if not path.is_file():
                say(f"{path.name} is no file; it is left aside")
        for path in self.checkpoints():
            if path.stem.endswith(f"-{sha256(path)[:_DIGITS]}"):
                return self._state(path)
            path.rename(path.with_suffix(".damaged"))
            say(f"{path.name} is damaged; going back to the checkpoint before it")
        if list(self.folder.glob("checkpoint-*.damaged")):
            remedy = "start the run anew in another folder"
            raise RunError(f"no checkpoint in {self.folder} can be read; {remedy}")
        return None

    def _state(self, path: Path) -> dict[str, Any]:
        """The training state in a file whose name fits; `RunError` for a file of another kind."""
        try:
            state = torch.load(path, map_location="cpu", weights_only=True)
            lacking = ", ".join(sorted(STATE - state.keys()))
            if not lacking and not _is_place(state):
                lacking = "numbers for step, seconds or sums"
        except Exception as error:  # torch raises many kinds
            lacking = f"everything ({' '.join(str(error).split())[:200]})"
        if lacking:
            what = f"{path} is no checkpoint of a training: it lacks {lacking}"
            raise RunError(f"{what}; remove it, or start the run anew in another folder")
        found: dict[str, Any] = state
        return found

    def remove_checkpoints(self) -> None:
        """Delete the training states of a run that is finished."""
        for path in self.folder.glob("checkpoint-*"):
            if path.is_file():
                path.unlink()

    # The lock: a POSIX record lock, which ends with its process and is not inherited by workers.
    # It also ends when the process closes the file a second time, hence `_held`.

    @property
    def lock_file(self) -> Path:
        """The file that `locked` holds."""
        return self.folder / "run.lock"

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the run for this process; raises `RunBusyError` where another one holds it."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            opened = self.lock_file.open("a+")
        except OSError as error:
            remedy = "give --runs a folder that you may write to"
            raise RunError(f"the run {self.folder} cannot be begun: {error}; {remedy}") from None
        with opened as file:
            if not self._try_lock(file, exclusive=True):
                file.seek(0)
                holder = f"process {file.read().strip() or '?'}"
                remedy = "wait for it or stop it"
                raise RunBusyError(f"{self.folder} is being written by {holder}; {remedy}")
            file.truncate(0)
            file.write(str(os.getpid()))
            file.flush()
            key = self.lock_file.resolve()
            _held.add(key)
            try:
                yield
            finally:
                _held.discard(key)

    @property
    def busy(self) -> bool:
        """Whether a process of this machine holds the run."""
        if self.lock_file.resolve() in _held:
            return True
        if not self.lock_file.is_file():  # a pipe would be waited for
            return False
        try:
            with self.lock_file.open() as file:
                return not self._try_lock(file, exclusive=False)
        except (OSError, RunError):
            return False

    def _try_lock(self, file: TextIO, exclusive: bool) -> bool:
        try:
            import fcntl
        except ImportError:  # Windows
            return True
        kind = fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH
        for _ in range(2):  # since `busy` in another process locks for a moment
            try:
                fcntl.lockf(file, kind | fcntl.LOCK_NB)
                return True
            except OSError as error:
                if error.errno not in (errno.EACCES, errno.EAGAIN):
                    remedy = "this file system may not allow it, so use another"
                    raise RunError(f"{self.folder} cannot be locked: {error}; {remedy}") from None
            time.sleep(0.02 if exclusive else 0)
        return False

    def _read(self, name: str) -> dict[str, Any]:
        try:
            if (size := (self.folder / name).stat().st_size) > LARGEST:
                raise RunError(
                    f"{self.folder / name} has {size:,} bytes; at most {LARGEST:,} are read"
                )
            content = json.loads((self.folder / name).read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError) as error:
            raise RunError(f"{self.folder / name} cannot be read: {error}") from None
        if isinstance(content, dict):
            return content
        kind = type(content).__name__
        raise RunError(f"{self.folder / name} holds a {kind}; expected an object")

    def _read_if_there(self, name: str) -> dict[str, Any] | None:
        path = self.folder / name
        if path.exists() and not path.is_file():  # a pipe would be waited for
            raise RunError(f"{path} is no file; remove it")
        return self._read(name) if path.exists() else None

    def _write(self, name: str, content: dict[str, Any]) -> None:
        write_text(self.folder / name, json.dumps(content, indent=1) + "\n", RunError)
