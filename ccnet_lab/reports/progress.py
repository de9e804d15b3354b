"""The runs of a folder, also while another process trains them: how far each is and its curves. Drawn in curves.py, told in runs_page.py.

A log is read on from where the last reading ended. A lock is looked up in the system's table, its file never opened: closing it again
would release it for a training in this process, and taking it would turn away one in another.
"""

import json
import re
import stat
import threading
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ccnet_lab.configs import Config
from ccnet_lab.errors import LabError
from ccnet_lab.evaluation.metrics import one_class
from ccnet_lab.runs import Run

FIELDS = ("loss", "lr", "images_per_second", "train_miou", "val_miou")
RUNNING, FINISHED, STOPPED, EMPTY = "running", "finished", "stopped", "no steps yet"
LATELY = 20  # lines of the log from which the time left is estimated
PATIENCE = 3  # intervals between lines after which a log that no process here has locked is taken for one that doesn't grow
LARGEST = 2.0**128  # where float32 ends: a number beyond it is none that was logged
LAST_STEP = 2**53  # up to which a float holds every step
OTHERS = ("slurm",)  # folders that scripts/train_all.py makes among the runs
Curve = NDArray[np.float64]  # (3, N): step, epoch, value
_HELD = re.compile(
    r"POSIX +\w+ +WRITE +-?\d+ +\w+:\w+:(\d+) "
)  # a line of /proc/locks, and the file's inode in it


@dataclass(frozen=True)
class RunLine:
    """How far a run is."""

    name: str  # of its folder
    folder: Path
    config: Config
    status: str  # "running", "finished" (scored), "stopped" or "no steps yet"
    step: int  # of the newest line, 0 without any
    epoch: float
    total_steps: int | None  # None where the run doesn't say
    curves: Mapping[
        str, Curve
    ]  # of `FIELDS`, those that were logged; val_miou ends with the final score
    miou: float | None  # the newest evaluation, 0..1
    final: bool  # whether it is that of the finished run
    seconds_left: (
        float | None
    )  # of training, by the steps per second of the last lines; None where it doesn't run or nothing is known
    written: float | None  # when the log was last written, seconds since 1970; None without one
    alone: str = ""  # as `scoring.metrics.one_class` says of the final score

    def newest(self, name: str) -> float | None:
        """The newest value of a curve; None where it wasn't logged."""
        return float(self.curves[name][2, -1]) if name in self.curves else None


@dataclass(frozen=True)
class Problem:
    """A run that cannot be shown, or not all of it: the folder's name and why."""

    name: str
    reason: str


def read_runs(folder: str | Path) -> tuple[list[RunLine], list[Problem]]:
    """Every run in a folder, by name, and what is wrong with some; called again it reads only what was written since. Raises nothing.

    A last line that is only half written is left for the next time. Without the folder there are no runs.
    """
    folder, found, problems = Path(folder), [], []
    try:
        below = sorted(
            path for path in folder.iterdir() if path.name[0] != "." and path.name not in OTHERS
        )
    except FileNotFoundError:
        below = []
    except OSError as error:
        return [], [Problem(folder.name, str(error))]
    held = _held()
    with _reading:
        for path in below:
            try:
                if stat.S_ISDIR(path.stat().st_mode):
                    line, unread = _read_run(path, held)
                    found.append(line)
                    problems += [Problem(path.name, unread)] if unread else []
            except (LabError, OSError, ValueError) as error:
                problems.append(Problem(path.name, str(error)))
        here, shown = folder.absolute(), {line.folder.absolute() for line in found}
        for gone in [log for log in _logs if log.parents[1] == here and log.parent not in shown]:
            del _logs[gone]
    return found, problems


def curves_of(records: Iterable[Mapping[str, Any]]) -> dict[str, Curve]:
    """The curves of a log's records, such as those of a `PublishedLog`; raises `ValueError` for a step that is none."""
    log = _Log()
    for record in records:
        log.take(record)
    return log.curves


@dataclass
class _Log:
    """What was read of a log, and how far."""

    inode: int = 0
    state: tuple[int, int] = (0, 0)  # of the file when it was read: time in ns, size
    offset: int = 0  # behind the last whole line
    lines: int = 0
    bad: list[int] = field(default_factory=list)  # numbers of lines that could not be read
    rows: dict[str, list[tuple[float, float, float]]] = field(default_factory=dict)
    times: tuple[tuple[int, float], ...] = ()  # the last (step, seconds of training)

    def read_on(self, path: Path) -> None:
        """Take the lines that were appended."""
        with path.open("rb") as file:
            file.seek(self.offset)
            text = file.read()
        whole = text[: text.rfind(b"\n") + 1]
        self.offset += len(whole)
        for line in whole.splitlines():
            self.lines += 1
            try:
                self.take(json.loads(line))
            except (ValueError, AttributeError, RecursionError):
                self.bad.append(self.lines)
        self.__dict__.pop("curves", None)

    def take(self, record: Mapping[str, Any]) -> None:
        """Take one line; values that are no finite numbers are left out. Raises `ValueError` for a step that is none."""
        step, epoch = record.get("step"), _number(record.get("epoch")) or 0.0
        if type(step) is not int or not 0 <= step < LAST_STEP:
            raise ValueError(
                f"step is {step!r:.40}; expected a whole number, 0 or more and below {LAST_STEP}"
            )
        values = {
            name: value
            for name in (*FIELDS, "seconds")
            if (value := _number(record.get(name))) is not None
        }
        if "seconds" in values:
            self.times = (*self.times[1 - LATELY :], (step, values.pop("seconds")))
        for name, value in values.items():
            self.rows.setdefault(name, []).append((step, epoch, value))

    @cached_property
    def curves(self) -> dict[str, Curve]:
        """The rows as arrays."""
        return {name: np.asarray(rows, np.float64).T for name, rows in self.rows.items()}

    def interval(self) -> float:
        """Seconds of training between the last lines, median; 0 where that isn't known."""
        return (
            float(np.median(np.diff([seconds for _, seconds in self.times])))
            if len(self.times) > 1
            else 0.0
        )

    def steps_per_second(self) -> float:
        """Of the last lines; 0 where that isn't known."""
        if not self.times:
            return 0.0
        first, last = self.times[0] if len(self.times) > 1 else (0, 0.0), self.times[-1]
        return (last[0] - first[0]) / (last[1] - first[1]) if last[1] > first[1] else 0.0


_logs: dict[Path, _Log] = {}
_reading = threading.Lock()


def _read_log(path: Path) -> _Log:
    """The log as it is now; read from the start only where it is another file than before, as after a resumption."""
    try:
        status = path.stat()
    except FileNotFoundError:
        return _Log()
    log = _logs.get(path)
    if log is None or log.inode != status.st_ino or status.st_size < log.offset:
        log = _logs[path] = _Log(status.st_ino)
    if log.state != (state := (status.st_mtime_ns, status.st_size)):
        log.read_on(path)
        log.state = state
    return log


def _read_run(path: Path, held: set[int]) -> tuple[RunLine, str]:
    """One run, and what of its log could not be read."""
    run = Run.open(path)
    scores, total = run.scores, _number((run.training or {}).get("total_steps"))
    log = _read_log(run.log_file.absolute())
    curves, written = dict(log.curves), log.state[0] / 1e9 if log.offset else None
    step, epoch = max(((int(c[0, -1]), float(c[1, -1])) for c in curves.values()), default=(0, 0.0))
    miou = _number(scores.get("miou")) if scores else None
    if miou is not None and step:
        curves["val_miou"] = np.hstack(
            [curves.get("val_miou", np.empty((3, 0))), [[step], [epoch], [miou]]]
        )
    elif "val_miou" in curves:
        miou = float(curves["val_miou"][2, -1])
    age = time.time() - (written or 0.0)
    grows = 0 < step != total and age < PATIENCE * log.interval()
    status = (
        FINISHED if scores is not None else EMPTY if not step else RUNNING if grows else STOPPED
    )
    if _inode(run.lock_file) in held:
        status = RUNNING
    rate = log.steps_per_second()
    left = max(0.0, (total - step) / rate - age) if status == RUNNING and total and rate else None
    given = scores.get("per_class_iou") if scores else None
    alone = one_class(map(_number, given.values())) if isinstance(given, dict) else ""
    steps, final = None if total is None else int(total), scores is not None
    line = RunLine(
        path.name,
        path,
        run.config,
        status,
        step,
        epoch,
        steps,
        curves,
        miou,
        final,
        left,
        written,
        alone,
    )
    bad = (
        f"{len(log.bad)} lines of its log cannot be read, the first is line {log.bad[0]}; the others are shown"
        if log.bad
        else ""
    )
    return line, bad


def _number(value: Any) -> float | None:
    """A finite number of JSON; None for everything else."""
    return float(value) if type(value) in (int, float) and abs(value) < LARGEST else None


def _inode(path: Path) -> int:
    with suppress(FileNotFoundError):
        return path.stat().st_ino
    return 0


def _held() -> set[int]:
    """Inodes of the files that a process of this machine has locked; only Linux tells."""
    with suppress(OSError):
        return {int(inode) for inode in _HELD.findall(Path("/proc/locks").read_text())}
    return set()
