"""Running trainings: how far each run of a folder is, and its curves, also while it trains.

A log is read on from where the last reading ended.
"""

import json
import stat
import threading
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ccnet_lab.configs import Config
from ccnet_lab.errors import LabError, RunError, printable
from ccnet_lab.evaluation.metrics import one_class
from ccnet_lab.runs import Run, check_log_size

FIELDS = ("loss", "lr", "images_per_second", "train_miou", "val_miou")
RUNNING, FINISHED, STOPPED, EMPTY = "running", "finished", "stopped", "no steps yet"
LATELY = 20  # last lines of a log, from which the time left is estimated
PATIENCE = 3  # intervals between lines, the longest of the last, after which a log doesn't grow
LARGEST = 2.0**128  # where float32 ends: a larger number was not logged
LAST_STEP = 2**53  # up to which a float holds every step
OTHERS = ("slurm", "miniature")  # folders that scripts/train_all.py makes among the runs
Curve = NDArray[np.float64]  # (3, N): step, epoch, value


@dataclass(frozen=True)
class RunLine:
    """How far a run is."""

    folder: Path
    config: Config
    status: str  # "running", "finished" (scored), "stopped" or "no steps yet"
    step: int  # of the newest line, 0 without any
    epoch: float
    total_steps: int | None  # None where the run doesn't say
    curves: Mapping[str, Curve]  # those of `FIELDS` that were logged; the score ends val_miou
    miou: float | None  # the newest evaluation, 0..1
    final: bool  # whether it is that of the finished run
    seconds_left: float | None  # of training, at its last pace; None where that isn't known
    written: float | None  # when the log was last written, seconds since 1970; None without one
    alone: str = ""  # as `metrics.one_class` says of the final score

    @property
    def name(self) -> str:
        """Of its folder, as it can be shown."""
        return printable(self.folder.name)

    def newest(self, name: str) -> float | None:
        """The newest value of a curve; None where it wasn't logged."""
        return float(self.curves[name][2, -1]) if name in self.curves else None


class Problem(NamedTuple):
    """A run that cannot be shown, or not all of it: the folder's name and why."""

    name: str
    reason: str


def read_runs(folder: str | Path) -> tuple[list[RunLine], list[Problem]]:
    """Every run in a folder, by name, and what is wrong with some; raises nothing.

    Called again it reads only what was written since; a last line that is only half written is left
    for the next time. Without the folder there are no runs.
    """
    folder, found, problems = Path(folder), [], []
    try:
        names = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    except FileNotFoundError:
        names = []
    except OSError as error:
        return [], [Problem(folder.name, str(error))]
    with _reading:
        for path in (path for path in names if path.name not in OTHERS):
            try:
                if stat.S_ISDIR(path.stat().st_mode):
                    line, unread = _read_run(path)
                    found.append(line)
                    problems += [Problem(printable(path.name), unread)] if unread else []
            except (LabError, OSError) as error:
                problems.append(Problem(printable(path.name), printable(str(error))))
            except Exception as error:  # a foreign file can be wrong in any way
                reason = f"it cannot be read as a run: {type(error).__name__}: {error}"
                problems.append(Problem(printable(path.name), printable(reason)))
        here, shown = folder.absolute(), {line.folder.absolute() for line in found}
        for log in [log for log in _logs if log.parents[1] == here and log.parent not in shown]:
            del _logs[log]
    return found, problems


def curves_of(records: Iterable[Mapping[str, Any]]) -> dict[str, Curve]:
    """The curves of a log's records, as of a `PublishedLog`; `ValueError` for an odd step."""
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
        """Take one line, its finite numbers; raises `ValueError` for a step that is none."""
        step, epoch = record.get("step"), _number(record.get("epoch")) or 0.0
        if type(step) is not int or not 0 <= step < LAST_STEP:
            expected = f"a whole number, 0 or more and below {LAST_STEP}"
            raise ValueError(f"step is {step!r:.40}; expected {expected}")
        if (seconds := _number(record.get("seconds"))) is not None:
            self.times = (*self.times[1 - LATELY :], (step, seconds))
        for name in FIELDS:
            if (value := _number(record.get(name))) is not None:
                self.rows.setdefault(name, []).append((step, epoch, value))

    @cached_property
    def curves(self) -> dict[str, Curve]:
        return {name: np.asarray(rows, np.float64).T for name, rows in self.rows.items()}

    def interval(self) -> float:
        """The longest of the last seconds between two lines; 0 where that isn't known."""
        return max((b - a for (_, a), (_, b) in pairwise(self.times)), default=0.0)

    def steps_per_second(self) -> float:
        """Of the last lines; 0 where that isn't known."""
        times = self.times if len(self.times) > 1 else ((0, 0.0), *self.times)
        (first, start), (last, end) = times[0], times[-1]
        return (last - first) / (end - start) if end > start else 0.0


_logs: dict[Path, _Log] = {}
_reading = threading.Lock()


def _read_log(path: Path) -> _Log:
    """The log as it is now, from the start only where it is another file, as after a resume."""
    try:
        status = path.stat()
    except FileNotFoundError:
        return _Log()
    if not stat.S_ISREG(status.st_mode):  # a pipe would be waited for
        raise RunError(f"{path} is no file; remove it")
    check_log_size(path)
    log = _logs.get(path)
    if log is None or log.inode != status.st_ino or status.st_size < log.offset:
        log = _logs[path] = _Log(status.st_ino)
    if log.state != (state := (status.st_mtime_ns, status.st_size)):
        log.read_on(path)
        log.state = state
    return log


def _read_run(path: Path) -> tuple[RunLine, str]:
    """One run, and what of its log could not be read."""
    run = Run.open(path)
    scores, total = run.scores or {}, _number((run.training or {}).get("total_steps"))
    log, final = _read_log(run.log_file.absolute()), run.scores is not None
    curves, written = dict(log.curves), log.state[0] / 1e9 if log.offset else None
    step, epoch = max(((int(c[0, -1]), float(c[1, -1])) for c in curves.values()), default=(0, 0.0))
    miou = _number(scores.get("miou"))
    if miou is not None and step:
        evaluated = curves.get("val_miou", np.empty((3, 0)))
        curves["val_miou"] = np.hstack([evaluated, [[step], [epoch], [miou]]])
    elif "val_miou" in curves:
        miou = float(curves["val_miou"][2, -1])
    age = max(0.0, time.time() - (written or 0.0))  # the clock may have been set back
    ahead = (written or 0.0) > time.time() + 60  # by a clock that was set back since
    grows = 0 < step != total and age < PATIENCE * log.interval() and not ahead
    resting = FINISHED if final else EMPTY if not step else STOPPED
    status = RUNNING if run.busy or (grows and not final) else resting
    rate, classes = log.steps_per_second(), scores.get("per_class_iou")
    left = max(0.0, (total - step) / rate - age) if status == RUNNING and total and rate else None
    line = RunLine(
        path,
        run.config,
        status,
        step,
        epoch,
        total_steps=None if total is None else int(total),
        curves=curves,
        miou=miou,
        final=final,
        seconds_left=left,
        written=written,
        alone=one_class(map(_number, classes.values())) if isinstance(classes, dict) else "",
    )
    unread = f"{len(log.bad)} lines of its log cannot be read, the first is line "
    return line, f"{unread}{log.bad[0]}; the others are shown" if log.bad else ""


def _number(value: Any) -> float | None:
    """A finite number of JSON; None for everything else."""
    return float(value) if type(value) in (int, float) and abs(value) < LARGEST else None
