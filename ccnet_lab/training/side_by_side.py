"""Commands run several at a time, each in its own process, with one progress bar over all."""

import ctypes
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import IO, NamedTuple

from tqdm import tqdm

from ccnet_lab.evaluation.score_published import Outcome
from ccnet_lab.training.campaign import last_error
from ccnet_lab.training.signals import BUSY, Stopped, handling

POLL = 0.5  # seconds between two looks at the processes
ONE_THREAD = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


class Task(NamedTuple):
    """A command, how much work it is, how much of that is done, and the task it has to wait for."""

    name: str
    command: list[str]
    steps: int
    step: Callable[[], int]
    after: str = ""


def run_side_by_side(
    tasks: Sequence[Task], title: str, done: int = 0, at_once: int | None = None
) -> list[Outcome]:
    """Run the tasks, by default as many at a time as there are cores, each with one thread.

    They start in their order, but for those whose `after` is not yet finished; if that fails, so
    do they.

    Args:
        title: of the progress bar. done: steps that were made before.

    Raises:
        Stopped: on SIGTERM or Ctrl-C, which is passed on, once all processes have ended.
    """
    cores = at_once or os.cpu_count() or 1
    signals: list[int] = []
    outcomes: dict[str, Outcome] = {}
    waiting, running = list(tasks), list[_Process]()
    total = done + sum(task.steps for task in tasks)
    with (
        tqdm(total=total, initial=done, unit="step", smoothing=0.02, dynamic_ncols=True) as bar,
        handling(lambda number, _: signals.append(number)),
    ):
        while waiting or running:
            for lost in _failed_before(waiting, outcomes):
                waiting.remove(lost)
                reason = f"{lost.after} failed: {outcomes[lost.after].reason}"
                outcomes[lost.name] = Outcome(lost.name, "failed", reason)
            while len(running) < cores and not signals and (task := _next(waiting, outcomes)):
                waiting.remove(task)
                running.append(_Process.start(task))
            if signals:
                waiting.clear()
                for process in running:
                    process.stop(signals[0])
            for process in [each for each in running if each.process.poll() is not None]:
                running.remove(process)
                outcomes[process.task.name] = process.outcome()
            ended = sum(task.steps for task in tasks if task.name in outcomes)
            bar.set_description(f"{title}: {len(outcomes)} of {len(tasks)}")
            bar.update(done + ended + sum(each.task.step() for each in running) - bar.n)
            time.sleep(POLL if running else 0)
    if signals:
        raise Stopped(signals[0], "stopped and saved; the same command resumes")
    return [outcomes[task.name] for task in tasks]


def _next(waiting: Sequence[Task], outcomes: Mapping[str, Outcome]) -> Task | None:
    """The first task that need not wait for another."""
    return next((task for task in waiting if not task.after or task.after in outcomes), None)


def _failed_before(waiting: Sequence[Task], outcomes: Mapping[str, Outcome]) -> list[Task]:
    return [t for t in waiting if t.after in outcomes and outcomes[t.after].status != "finished"]


def _end_with_parent() -> None:
    """In a new process: SIGTERM once its parent is gone, so that a killed command leaves none."""
    ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG, in prctl(2)


@dataclass
class _Process:
    """A task that runs."""

    task: Task
    process: subprocess.Popen[bytes]
    errors: IO[bytes]
    told: set[int] = field(default_factory=set)  # signals that were passed on

    @classmethod
    def start(cls, task: Task) -> "_Process":
        errors = tempfile.TemporaryFile()  # noqa: SIM115  (closed in `outcome`)
        # In a session of its own: a terminal's Ctrl-C would reach it twice.
        process = subprocess.Popen(
            task.command,
            env={**os.environ, **ONE_THREAD},
            stdout=subprocess.DEVNULL,
            stderr=errors,
            start_new_session=True,
            preexec_fn=_end_with_parent if sys.platform == "linux" else None,
        )
        return cls(task, process, errors)

    def stop(self, number: int) -> None:
        """Pass a signal on, once."""
        if number not in self.told and self.process.poll() is None:
            self.told.add(number)
            self.process.send_signal(number)

    def outcome(self) -> Outcome:
        """How it ended."""
        code, name = self.process.wait(), self.task.name
        self.errors.seek(0)
        text = self.errors.read()
        self.errors.close()
        if code == 0:
            return Outcome(name, "finished")
        if code == BUSY:
            return Outcome(name, "busy", "another process trains it")
        tqdm.write(f"{name}: failed, continuing with the others")
        return Outcome(name, "failed", last_error(text) or f"exit code {code}")
