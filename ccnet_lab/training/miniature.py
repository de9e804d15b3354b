"""The twelve in miniature: which runs there are, trained several at a time on a CPU's cores.

The networks are `configs.MINIATURES`, their data sets data/generated/worlds.py, their start
weights pretraining.py makes. One run is in loop.py, full-size runs in campaign.py.
"""

import fnmatch
import json
import sys
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from tqdm import tqdm

from ccnet_lab.configs import MINIATURES, RECURRENCES, Config
from ccnet_lab.data.catalog import get_dataset
from ccnet_lab.data.datasets import open_split
from ccnet_lab.errors import ConfigError, LabError, near
from ccnet_lab.evaluation.reach import measure_reach
from ccnet_lab.evaluation.score_published import Outcome
from ccnet_lab.hub import load
from ccnet_lab.runs import Run
from ccnet_lab.training.campaign import is_finished
from ccnet_lab.training.pretraining import STEPS
from ccnet_lab.training.settings import Settings
from ccnet_lab.training.side_by_side import Task, run_side_by_side


class Job(NamedTuple):
    """One run: a configuration trained with one seed."""

    config: Config
    seed: int

    @property
    def name(self) -> str:
        """The run's folder below that of all runs, such as `seed0/ccnet_..._voc_mini`."""
        return f"seed{self.seed}/{self.config.name}"


def jobs(seeds: int, recurrences: bool = False, only: Iterable[str] | None = None) -> list[Job]:
    """The twelve in miniature with each of the seeds 0, 1, ..., the first seed first.

    Args:
        recurrences: whether the R-50-D8 of each data set is also trained with `RECURRENCES`.
        only: patterns such as `*os16_voc_mini`, of which a name has to match one.

    Raises `ConfigError` for a pattern that matches none.
    """
    configs = list(MINIATURES.values())
    if recurrences:
        small = [c for c in configs if (c.depth, c.output_stride) == (50, 8)]
        configs += [replace(c, recurrence=r) for r in RECURRENCES for c in small]
    names = [config.name for config in configs]
    patterns = list(only or ["*"])
    for pattern in patterns:
        if not fnmatch.filter(names, pattern):
            raise ConfigError(f"--only {pattern!r} matches no miniature; {near(pattern, names)}")
    chosen = [c for c in configs if any(fnmatch.fnmatch(c.name, p) for p in patterns)]
    return [Job(config, seed) for seed in range(seeds) for config in chosen]


def settings(data: Path, job: Job) -> Settings:
    """How a miniature is trained: on one core, so that other cores change no bit of the result."""
    start = str(start_file(job.config, data))
    return Settings(
        data=data, seed=job.seed, device="cpu", precision="fp32", workers=0, weights=start
    )


def start_file(config: Config, data: Path) -> Path:
    """The start weights of a configuration, as training/pretraining.py makes them."""
    return data / "start" / f"resnet{config.depth}.safetensors"


def train_miniatures(wanted: Sequence[Job], runs: Path, data: Path, script: Path) -> list[Outcome]:
    """Train, or resume, and score the runs below `runs`, one on each core.

    Args:
        wanted: as `jobs` lists them. data: where `worlds.generate` wrote. script: scripts/train.py.

    Raises `Stopped` on SIGTERM or Ctrl-C, once the runs have saved and ended.
    """
    left = [
        job for job in wanted if not is_finished(runs / job.name, job.config, settings(data, job))
    ]
    # The longest first within a seed, so that no core is idle at the end.
    left.sort(key=lambda job: (job.seed, job.config.output_stride, -job.config.depth))
    starts = _starts(left, data)
    tasks = [*starts.values(), *(_training(job, runs, data, script, starts) for job in left)]
    done = sum(_steps(job) for job in wanted if job not in left)
    found = run_side_by_side(tasks, "start weights and runs", done) if tasks else []
    outcomes = {each.name: each for each in found}
    unmeasured = [job for job in wanted if _lacks_reach(job, runs, data)]
    for job in tqdm(unmeasured, "reach", unit="run", disable=not unmeasured, dynamic_ncols=True):
        _measure_reach(job, runs, data)
    return [outcomes.get(job.name, Outcome(job.name, "skipped")) for job in wanted]


def _lacks_reach(job: Job, runs: Path, data: Path) -> bool:
    """Whether it is an R-50-D8, the network of which recurrences are compared, and not measured."""
    config, run = job.config, Run(runs / job.name)
    compared = (config.depth, config.output_stride) == (50, 8)
    unmeasured = compared and not run.reach.exists()
    return unmeasured and is_finished(run.folder, config, settings(data, job))


def _measure_reach(job: Job, runs: Path, data: Path) -> None:
    run, dataset = Run(runs / job.name), get_dataset(job.config.dataset)
    model, config = load(run.folder)
    measure_reach(model, open_split(dataset, data, dataset.val_split), config).save(run.reach)


def _starts(wanted: Sequence[Job], data: Path) -> dict[Path, Task]:
    """What makes the start weights that are missing, by their file; the slowest first."""
    tasks = {}
    for config in sorted((job.config for job in wanted), key=lambda config: -config.depth):
        path = start_file(config, data)
        if not path.exists():
            command = [sys.executable, "-m", "ccnet_lab.training.pretraining"]
            command += [str(config.depth), str(config.divisor), str(data), str(path), str(STEPS)]
            log = path.with_suffix(".jsonl")
            tasks[path] = Task(f"start/{path.stem}", command, STEPS, partial(_last_step, log))
    return tasks


def _training(job: Job, runs: Path, data: Path, script: Path, starts: dict[Path, Task]) -> Task:
    """What trains a run, after the start weights that it needs."""
    start = starts.get(start_file(job.config, data))
    after = start.name if start else ""
    command = _command(job, runs, data, script)
    return Task(job.name, command, _steps(job), partial(_step, job, runs), after)


def _command(job: Job, runs: Path, data: Path, script: Path) -> list[str]:
    base = replace(job.config, recurrence=2).name
    command = [sys.executable, str(script), base, "--recurrence", str(job.config.recurrence)]
    command += ["--data", str(data), "--runs", str((runs / job.name).parent)]
    command += ["--weights", str(start_file(job.config, data)), "--seed", str(job.seed)]
    return [*command, "--device", "cpu", "--precision", "fp32", "--workers", "0", "--resume"]


def _steps(job: Job) -> int:
    images = get_dataset(job.config.dataset).train_images
    return job.config.epochs * (images // job.config.batch_size)


def _step(job: Job, runs: Path) -> int:
    return _last_step(Run(runs / job.name).log_file)


def _last_step(log: Path) -> int:
    """The step in the last whole line of a log; 0 without one."""
    with suppress(OSError, ValueError, LookupError, TypeError):
        return int(json.loads(log.read_text("utf-8").splitlines()[-1])["step"])
    return 0


def miniature_table(wanted: Sequence[Job], runs: Path) -> str:
    """Markdown: mIoU in % of each configuration, mean over the seeds and how far they lie apart."""
    found: dict[str, list[float]] = {}
    for job in wanted:
        values = found.setdefault(job.config.name, [])
        with suppress(LabError, KeyError, TypeError):
            scores: dict[str, Any] = Run.open(runs / job.name).scores or {}
            values.append(100 * float(scores["miou"]))
    lines = ["| miniature | seeds | mIoU | range over the seeds |", "| --- | --- | --- | --- |"]
    for name, values in found.items():
        mean = f"{np.mean(values):.2f}" if values else "-"
        apart = f"{min(values):.2f} to {max(values):.2f}" if len(values) > 1 else "-"
        lines.append(f"| {name} | {len(values)} | {mean} | {apart} |")
    what = "mIoU in %, on generated data: nothing here compares with a published number"
    return "\n".join([*lines, "", f"{what}."])
