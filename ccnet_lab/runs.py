"""Run: one training run's folder on disk, the only module that knows the file names in it. What is written there is decided elsewhere.

Everything but the log is written whole or not at all: to a temporary file, forced to disk, then renamed.
"""

import errno
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ccnet_lab.configs import Config
from ccnet_lab.data.catalog import Dataset, get_dataset, register
from ccnet_lab.errors import MissingFileError, RunBusyError, RunError
from ccnet_lab.files import failed_to_write, sha256, sync, write_text
from ccnet_lab.model.weights import save_weights

KEPT_CHECKPOINTS = 2  # the last and the one before it
_DIGITS = 8  # of the sha256 in a checkpoint's name


@dataclass(frozen=True)
class Run:
    """A run folder: `config.json`, `training.json`, `metrics.jsonl`, `scores.json`, `confusions.npz`, `model.safetensors`, checkpoints."""

    folder: Path

    @classmethod
    def open(cls, folder: str | Path) -> "Run":
        """An existing run folder; raises `MissingFileError` where there is none, `RunError` where it holds no run."""
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
            raise RunError(
                f"{folder} holds a run already; add --resume to go on with it, or choose another folder"
            )
        run.folder.mkdir(parents=True, exist_ok=True)
        return run.begin_anew(config)

    def begin_anew(self, config: Config) -> "Run":
        """Let the folder hold `config` and nothing of an earlier beginning."""
        for name in ("training.json", "metrics.jsonl"):
            (self.folder / name).unlink(missing_ok=True)
        dataset = get_dataset(config.dataset)
        if (
            dataset.classes
        ):  # a data set of one's own, which the catalog of another process doesn't know
            self._write("dataset.json", dataset.to_dict())
        self._write("config.json", config.to_dict())
        return self

    @property
    def config(self) -> Config:
        """What was trained."""
        values = self._read("config.json")
        if (
            self.training is None
        ):  # published weights that were only scored here, or not begun: the schedule has its floor
            values.setdefault("min_lr", None)
        return Config.from_dict({**values, **self._dataset()})

    def _dataset(self) -> dict[str, str]:
        """The key of a data set of one's own as this process knows it, as a configuration's field; nothing for a published one."""
        dataset = self._read_if_there("dataset.json")
        return {"dataset": register(dataset).key} if dataset else {}

    def follow(self, dataset: Dataset) -> None:
        """Take a data set of one's own from where it lies now: the same classes, perhaps a copy of the folder."""
        stored = self._read_if_there("dataset.json")
        if (
            stored
            and stored.get("root") != dataset.root
            and [name for _, name in stored["classes"]] == list(dataset.class_names)
        ):
            self._write("dataset.json", dataset.to_dict())

    @property
    def weights(self) -> Path:
        """The trained weights; the file may not be there yet."""
        return self.folder / "model.safetensors"

    @property
    def confusions(self) -> Path:
        """The evaluation's confusion matrices per image; the file may not be there yet."""
        return self.folder / "confusions.npz"

    @property
    def log_file(self) -> Path:
        """`metrics.jsonl`; the file may not be there yet."""
        return self.folder / "metrics.jsonl"

    @property
    def lock_file(self) -> Path:
        """What `locked` holds; opening it elsewhere in the process that holds it would let it go."""
        return self.folder / "run.lock"

    @property
    def finished(self) -> bool:
        """Whether the run is trained and scored."""
        return self.weights.is_file() and self.scores is not None

    @property
    def scores(self) -> dict[str, Any] | None:
        """miou, pixel_accuracy, per_class_iou by class name, protocol; None before an evaluation."""
        return self._read_if_there("scores.json")

    def write_scores(self, scores: dict[str, Any]) -> None:
        """Store an evaluation's scores."""
        self._write("scores.json", scores)

    @property
    def training(self) -> dict[str, Any] | None:
        """How the run is carried out (seed, steps, precision, ...); None before it began."""
        return self._read_if_there("training.json")

    def write_training(self, settings: dict[str, Any]) -> None:
        """Store how the run is carried out."""
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
                f"the log of {self.folder} cannot be written: {error}; make room, then --resume"
            ) from None

    def metrics(self) -> list[dict[str, Any]]:
        """The lines of `metrics.jsonl`; a last line that was cut short is left out."""
        path = self.log_file
        lines = (
            path.read_text(encoding="utf-8", errors="replace").splitlines() if path.exists() else []
        )
        found = []
        for number, line in enumerate(lines, 1):
            record = None
            with suppress(ValueError):
                record = json.loads(line)
            if isinstance(record, dict) and "step" in record:
                found.append(record)
            elif number < len(lines):
                raise RunError(
                    f"line {number} of {path} is no JSON object with a step; mend or remove it"
                )
        return found

    def rewind_log(self, step: int) -> None:
        """Take out the lines after `step`: they will be written again."""
        write_text(
            self.log_file,
            "".join(
                json.dumps(record) + "\n" for record in self.metrics() if record["step"] <= step
            ),
            RunError,
        )

    # Checkpoints

    def checkpoints(self) -> list[Path]:
        """Checkpoint files, `checkpoint-<step>-<start of its sha256>.pt`, newest first."""
        return sorted(self.folder.glob("checkpoint-*-*.pt"), reverse=True)

    def save_checkpoint(self, state: dict[str, Any], step: int) -> Path:
        """Store a training state of tensors and plain values, and keep the one before it; raises `RunError` where the disk is full, say."""
        if self.log_file.exists():  # which never lags behind a checkpoint
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
            last = self.checkpoints()
            kept = f"the last one, {last[0].name}, is untouched" if last else "there is none yet"
            what = f"the checkpoint of step {step} cannot be written to {self.folder}"
            raise RunError(f"{what}: {error}; {kept}; make room, then --resume") from None
        for old in self.checkpoints()[KEPT_CHECKPOINTS:]:
            old.unlink()
        return path

    def load_checkpoint(self, say: Callable[[str], None] = print) -> dict[str, Any] | None:
        """The newest state that is whole, None where none was ever saved; damaged ones are named to `say`, and `RunError` if all are."""
        (self.folder / "checkpoint.writing").unlink(missing_ok=True)
        candidates = self.checkpoints()
        for path in candidates:
            if path.stem.endswith(
                f"-{sha256(path)[:_DIGITS]}"
            ):  # whole: an error now is none of the file's
                state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
                return state
            path.rename(path.with_suffix(".damaged"))
            say(
                f"{path.name} is damaged (its bytes are not those that were written); going back to the checkpoint before it"
            )
        if candidates or list(self.folder.glob("checkpoint-*.damaged")):
            raise RunError(
                f"no checkpoint in {self.folder} can be read; start the run anew in another folder"
            )
        return None

    def remove_checkpoints(self) -> None:
        """Delete the training states of a run that is finished."""
        for path in self.folder.glob("checkpoint-*"):
            path.unlink()

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the run for this process, until it ends, however that is; raises `RunBusyError` where another one holds it."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with self.lock_file.open("a+") as file:
            try:
                import fcntl

                fcntl.lockf(
                    file, fcntl.LOCK_EX | fcntl.LOCK_NB
                )  # POSIX record lock: workers that are forked don't inherit it
            except ImportError:  # Windows
                pass
            except OSError as error:
                if error.errno not in (errno.EACCES, errno.EAGAIN):
                    raise RunError(
                        f"{self.folder} cannot be locked: {error}; this file system may not allow it, so use another"
                    ) from None
                file.seek(0)
                holder = file.read().strip() or "?"
                raise RunBusyError(
                    f"{self.folder} is being written by process {holder}; wait for it or stop it"
                ) from None
            file.truncate(0)
            file.write(str(os.getpid()))
            file.flush()
            yield

    def _read(self, name: str) -> dict[str, Any]:
        try:
            content = json.loads((self.folder / name).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise RunError(f"{self.folder / name} cannot be read: {error}") from None
        if not isinstance(content, dict):
            raise RunError(
                f"{self.folder / name} holds a {type(content).__name__}; expected an object"
            )
        return content

    def _read_if_there(self, name: str) -> dict[str, Any] | None:
        return self._read(name) if (self.folder / name).exists() else None

    def _write(self, name: str, content: dict[str, Any]) -> None:
        write_text(self.folder / name, json.dumps(content, indent=1) + "\n", RunError)
