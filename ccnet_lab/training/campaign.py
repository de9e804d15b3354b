"""Campaign: several runs after one another, what became of each, and the table beside the published numbers. One run is loop.py's."""

import shutil
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from types import MappingProxyType
from typing import Any

from ccnet_lab.configs import CONFIGS, Config
from ccnet_lab.errors import LabError, MissingPackageError, RunBusyError, UnknownConfigError, near
from ccnet_lab.evaluation.metrics import one_class
from ccnet_lab.evaluation.published import SPREAD, beside_published
from ccnet_lab.runs import Run
from ccnet_lab.training.settings import Settings
from ccnet_lab.training.signals import BUSY, PEER, SIGNALS, Stopped, handling

LAST_LINES = 5  # of what a failed run said


@dataclass(frozen=True)
class Outcome:
    """What became of a run: "finished", "skipped" (it was finished before), "busy" (another process trains it) or "failed", and why."""

    name: str
    status: str
    reason: str = ""


def select(patterns: Iterable[str] | None) -> list[Config]:
    """Those of the twelve whose name matches a pattern such as `*os16_voc`, all without; `UnknownConfigError` for one that matches none.

    The cheapest come first: a mistake in data or set-up then shows after minutes, and the first rows of the table come early.
    """
    patterns = list(patterns or ["*"])
    for pattern in patterns:
        if not any(fnmatch(name, pattern) for name in CONFIGS):
            raise UnknownConfigError(
                f"--only {pattern!r} matches none of the twelve; {near(pattern, CONFIGS)}"
            )
    chosen = [
        config
        for config in CONFIGS.values()
        if any(fnmatch(config.name, pattern) for pattern in patterns)
    ]
    return sorted(chosen, key=lambda config: config.depth + 100 * (config.output_stride == 8))


def run_all(
    names: Sequence[str],
    runs: Path,
    command: Callable[[str], list[str]],
    say: Callable[[str], None] = print,
    done: Callable[[str], bool] = lambda _: False,
) -> list[Outcome]:
    """Run `command(name)` for each run that isn't finished, one after another, each in its own process.

    Start it several times, each with one GPU visible, and the runs are shared out: what one trains, the others pass over. The names are
    those of the run folders below `runs`; `say` is told what begins and what failed; `done(name)` is whether a run needs nothing more.

    Raises:
        Stopped: on SIGTERM or Ctrl-C, once the run under way has saved and ended.
    """
    outcomes = []
    for number, name in enumerate(names, 1):
        where = f"{name} ({number} of {len(names)})"
        if done(name):
            say(f"{where}: finished already")
            outcomes.append(Outcome(name, "skipped"))
            continue
        say(f"{where}: {'going on' if (runs / name).is_dir() else 'begins'}")
        code, last_words, told = (BUSY, "", []) if _busy(runs / name) else _call(command(name))
        if told or code - 128 in SIGNALS:
            raise Stopped(
                told[0] if told else code - 128,
                f"{name} was stopped; the same command goes on with it",
            )
        known = {0: ("finished", ""), BUSY: ("busy", "another process trains it")}
        if code not in known:
            say(f"{where}: failed, going on with the next")
        outcomes.append(
            Outcome(name, *known.get(code, ("failed", last_words or f"exit code {code}")))
        )
    return outcomes


def submit(
    commands: Sequence[list[str]],
    folder: Path,
    parameters: Mapping[str, Any],
    cluster: str | None = None,
) -> list[Any]:
    """Hand the commands to Slurm as one array, through submitit; returns its jobs; `MissingPackageError` without it.

    Args:
        commands: one per run.
        folder: for submitit's logs.
        parameters: submitit's, such as timeout_min, gpus_per_node, cpus_per_task, slurm_partition, slurm_array_parallelism.
        cluster: None finds Slurm, or raises `LabError`; "local" runs them here, one process each.
    """
    try:
        import submitit
    except ImportError:
        raise MissingPackageError(
            'submitit is not installed: pip install "ccnet_lab[slurm]", then the same command'
        ) from None
    if cluster is None and shutil.which("srun") is None:
        raise LabError(
            "there is no Slurm here (no srun); run the same command on the cluster's login node, or leave --slurm out"
        )
    executor = submitit.AutoExecutor(folder=folder, cluster=cluster)
    executor.update_parameters(**parameters)
    with executor.batch():
        return [executor.submit(submitit.helpers.CommandFunction(command)) for command in commands]


def parameter(word: str) -> tuple[str, int | str]:
    """KEY=VALUE as submitit takes it; raises `LabError` where it isn't of that form."""
    key, sign, value = word.partition("=")
    if not sign:
        raise LabError(f"--slurm takes KEY=VALUE, such as gpus_per_node=1, and not {word!r}")
    return key, int(value) if value.isdigit() else value


def is_finished(folder: Path, config: Config, settings: Settings) -> bool:
    """Whether the folder holds this run, trained and scored."""
    try:
        run = Run.open(folder)
        return (
            run.finished
            and run.config == config
            and settings.deciding(config).items() <= (run.training or {}).items()
        )
    except LabError:  # no run, or a damaged one
        return False


def results_table(
    names: Iterable[str], runs: Path, missing: Mapping[str, str] = MappingProxyType({})
) -> str:
    """Markdown: published and measured mIoU in %, their difference, and what it means; unlike protocols and recipes are not compared.

    `missing` says why there is no score, by the name of the run's folder, where it is not that nothing was trained.
    """
    lines = [
        "| configuration | published | measured | difference | |",
        "| --- | --- | --- | --- | --- |",
    ]
    for name in names:
        published = CONFIGS[name].published_miou if name in CONFIGS else None
        beside = "-" if published is None else f"{published:.2f}"
        scores = None if name in missing else _scores(runs / name)
        if scores is None:
            lines.append(f"| {name} | {beside} | - | - | {missing.get(name, 'not trained here')} |")
            continue
        measured = 100 * (scores["miou"] or 0.0)
        difference, meaning = beside_published(Run.open(runs / name))
        apart = "-" if difference is None else f"{difference:+.2f}"
        meaning = "; ".join(
            filter(None, (meaning, one_class(scores.get("per_class_iou", {}).values())))
        )
        lines.append(f"| {name} | {beside} | {measured:.2f} | {apart} | {meaning} |")
    tie = f"A tie: the difference lies within {SPREAD} points, the spread between runs of one configuration (Huang et al.)."
    return "\n".join([*lines, "", f"mIoU in %. {tie}"])


def _scores(folder: Path) -> dict[str, Any] | None:
    try:
        run = Run.open(folder)
        return (
            run.scores if run.finished or run.training is None else None
        )  # what was not trained here has scores alone
    except LabError:  # no run, or a damaged one
        return None


def _busy(folder: Path) -> bool:
    """Whether another process holds the run."""
    try:
        with Run(folder).locked() if folder.is_dir() else nullcontext():
            return False
    except RunBusyError:
        return True


def _call(command: list[str]) -> tuple[int, str, list[int]]:
    """Run a command, its words passed through: exit code (128 + n after signal n), its last error on stderr, signals handed on to it."""
    told: list[int] = []
    errors: deque[str] = deque(maxlen=1)
    words: deque[str] = deque(maxlen=LAST_LINES)

    def pass_through(stream: Any) -> None:
        line = b""
        while chunk := stream.read1(4096):
            sys.stderr.buffer.write(chunk)
            sys.stderr.flush()
            *whole, line = (line + chunk).replace(b"\r", b"\n").split(b"\n")
            words.extend(text.decode(errors="replace") for text in whole if text.strip())
            errors.extend(
                word for word in words if "error: " in word and (PEER not in word or not errors)
            )
        if line.strip():
            words.append(line.decode(errors="replace"))

    # In a session of its own: a terminal's Ctrl-C would reach it twice, directly and through us.
    process = subprocess.Popen(command, stderr=subprocess.PIPE, start_new_session=True)
    reader = threading.Thread(target=pass_through, args=(process.stderr,), daemon=True)
    reader.start()

    def forward(number: int, _: Any) -> None:
        told.append(number)
        process.send_signal(number)

    with handling(forward):
        code = process.wait()
    reader.join(5)
    error = errors[0] if errors else words[-1] if words else ""
    return 128 - code if code < 0 else code, error.strip(), told
