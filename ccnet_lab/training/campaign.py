"""A campaign: several runs one after another, each in its own process. One run is in loop.py."""

import fnmatch
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from ccnet_lab.causes import PEER
from ccnet_lab.configs import CONFIGS, Config
from ccnet_lab.errors import ConfigError, DeviceError, LabError, RunBusyError, near
from ccnet_lab.evaluation.score_published import Outcome
from ccnet_lab.runs import Run
from ccnet_lab.training.settings import Settings
from ccnet_lab.training.signals import BUSY, SIGNALS, Stopped, handling

KEPT = 100_000  # bytes of a process's errors, in which the last is looked for


def select(patterns: Iterable[str] | None) -> list[Config]:
    """Those of the twelve whose name matches a pattern such as `*os16_voc`; all without patterns.

    The cheapest come first, so that mistakes in data or set-up show after minutes. Raises
    `ConfigError` for a pattern that matches none.
    """
    patterns = list(patterns or ["*"])
    for pattern in patterns:
        if not fnmatch.filter(CONFIGS, pattern):
            known = near(pattern, CONFIGS)
            raise ConfigError(f"--only {pattern!r} matches none of the twelve; {known}")
    matching = {name for pattern in patterns for name in fnmatch.filter(CONFIGS, pattern)}
    chosen = (config for name, config in CONFIGS.items() if name in matching)
    return sorted(chosen, key=lambda config: config.depth + 100 * (config.output_stride == 8))


def run_all(
    names: Sequence[str],
    runs: Path,
    command: Callable[[str], list[str]],
    say: Callable[[str], None] = print,
    done: Callable[[str], bool] = lambda _: False,
) -> list[Outcome]:
    """Run `command(name)` for each of the run folders below `runs` that isn't `done(name)`.

    They run one after another, each in its own process. Started several times, each with one GPU
    visible, it shares the runs out: each skips what another one trains. `say` is called with what
    begins and what fails.

    Raises:
        Stopped: on SIGTERM or Ctrl-C, once the current run has saved and ended.
    """
    outcomes = []
    for number, name in enumerate(names, 1):
        where = f"{name} ({number} of {len(names)})"
        if done(name):
            say(f"{where}: finished already")
            outcomes.append(Outcome(name, "skipped"))
            continue
        say(f"{where}: {'resuming' if (runs / name).is_dir() else 'begins'}")
        code, error, signals = (BUSY, "", []) if _busy(runs / name) else _call(command(name))
        if signals or code - 128 in SIGNALS:
            number = signals[0] if signals else code - 128
            raise Stopped(number, f"{name} was stopped; the same command resumes it")
        if code == 0:
            outcomes.append(Outcome(name, "finished"))
        elif code == BUSY:
            outcomes.append(Outcome(name, "busy", "another process trains it"))
        else:
            say(f"{where}: failed, continuing with the next")
            outcomes.append(Outcome(name, "failed", error or f"exit code {code}"))
    return outcomes


def submit(
    commands: Sequence[list[str]],
    folder: Path,
    parameters: Mapping[str, Any],
    cluster: str | None = None,
) -> list[Any]:
    """Submit the commands to Slurm as one array, through submitit; returns its jobs.

    submitit gets the `parameters` and logs to `folder`. The `cluster` None finds Slurm, or raises
    `LabError`; "local" runs the commands here, one process each.
    """
    try:
        import submitit
    except ImportError:
        remedy = 'pip install "ccnet_lab[slurm]", then the same command'
        raise DeviceError(f"submitit is not installed: {remedy}") from None
    if cluster is None and shutil.which("srun") is None:
        remedy = "run the same command on the cluster's login node, or leave --slurm out"
        raise LabError(f"there is no Slurm here (no srun); {remedy}")
    executor = submitit.AutoExecutor(folder=folder, cluster=cluster)
    executor.update_parameters(**parameters)
    with executor.batch():
        return [executor.submit(submitit.helpers.CommandFunction(command)) for command in commands]


def parameter(text: str) -> tuple[str, int | str]:
    """A KEY=VALUE as submitit takes it; raises `LabError` for other text."""
    key, sign, value = text.partition("=")
    if not sign:
        raise LabError(f"--slurm takes KEY=VALUE, such as gpus_per_node=1, and not {text!r}")
    return key, int(value) if value.isdigit() else value


def is_finished(folder: Path, config: Config, settings: Settings) -> bool:
    """Whether the folder holds this run, trained and scored."""
    try:
        run = Run.open(folder)
        same = settings.deciding(config).items() <= (run.training or {}).items()
        return run.finished and run.config == config and same
    except LabError:  # no run, or a damaged one
        return False


def _busy(folder: Path) -> bool:
    try:
        with Run(folder).locked() if folder.is_dir() else nullcontext():
            return False
    except RunBusyError:
        return True


def _call(command: list[str]) -> tuple[int, str, list[int]]:
    """Run a command, passing its stderr through and signals on to it.

    Returns its exit code (128 + n after signal n), its error and the signals. The error is the
    last of a process that failed for a reason of its own, else the first, else the last line.
    """
    signals: list[int] = []
    written = bytearray()

    def pass_through(stream: Any) -> None:
        while chunk := stream.read1(4096):
            sys.stderr.buffer.write(chunk)
            sys.stderr.flush()
            written.extend(chunk)
            del written[:-KEPT]

    # In a session of its own: a terminal's Ctrl-C would reach it twice, directly and through us.
    process = subprocess.Popen(command, stderr=subprocess.PIPE, start_new_session=True)
    reader = threading.Thread(target=pass_through, args=(process.stderr,), daemon=True)
    reader.start()

    def forward(number: int, _: Any) -> None:
        signals.append(number)
        process.send_signal(number)

    with handling(forward):
        code = process.wait()
    reader.join(5)
    return 128 - code if code < 0 else code, last_error(bytes(written)), signals


def last_error(written: bytes) -> str:
    """What a process wrote of why it failed: its last error of its own, else its last line."""
    lines = [line.strip() for line in re.split(r"[\r\n]", written.decode(errors="replace"))]
    errors = [line for line in lines if "error: " in line]
    own = [line for line in errors if PEER not in line]
    return (own[-1:] or errors[:1] or [line for line in lines if line][-1:] or [""])[0]
