"""The table of training runs as HTML; runs_tab.py shows it, templates/runs.html has the markup."""

import shlex
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ccnet_lab.app.rendering import Html, render
from ccnet_lab.reports.progress import EMPTY, FINISHED, RUNNING, Problem, RunLine


def runs_table(folder: Path, lines: Sequence[RunLine], problems: Sequence[Problem]) -> Html:
    """The runs of a folder, one a row, problems below; without any, how to train."""
    if not lines and not problems:
        return render("runs.empty", folder=folder)
    return render("runs.table", rows=[_row(line) for line in lines], problems=problems)


def _row(line: RunLine) -> dict[str, Any]:
    at = line.curves["val_miou"][1, -1] if "val_miou" in line.curves else None
    return {
        "name": line.name,
        "config": line.config.name,
        "status": line.status,
        "share": min(1.0, line.step / line.total_steps) if line.step and line.total_steps else None,
        "progress": _progress(line),
        "loss": line.newest("loss"),
        "lr": line.newest("lr"),
        "speed": line.newest("images_per_second"),
        "miou": line.miou,
        "final": line.final,
        "alone": line.alone,
        "newest_epoch": at,
        "crops": line.newest("train_miou"),
        **_resume(line),
    }


def _progress(line: RunLine) -> list[str]:
    """Steps, epochs and time left."""
    found = []
    if line.step:
        of = f" of {line.total_steps:,}" if line.total_steps else ""
        found = [
            f"step {line.step:,}{of}",
            f"epoch {line.epoch:.1f} of {line.config.epochs}",
        ]
    if line.status == RUNNING and not line.step:
        found.append("the first numbers are to come")
    elif line.status == RUNNING and line.seconds_left:
        found.append(f"{duration(line.seconds_left)} left")
    elif line.status == RUNNING:
        found.append("evaluating or nearly done")
    return found


def _resume(line: RunLine) -> dict[str, str]:
    """How long ago a stopped run was written, and the command that resumes it; empty for others."""
    if line.written is None or line.status in (RUNNING, FINISHED, EMPTY):
        return {"ago": "", "resume": ""}
    name = "" if line.name == line.config.name else f" --name {shlex.quote(line.name)}"
    options = f"--data ROOT --runs {shlex.quote(str(line.folder.parent))}{name} --resume"
    command = f"python scripts/train.py {shlex.quote(line.config.name)} {options}"
    return {"ago": duration(time.time() - line.written), "resume": command}


def duration(seconds: float) -> str:
    """Two units at most: "2 h 10 min", "3 d 4 h", "45 s"."""
    whole = max(0, round(seconds))
    for unit, size, smaller, part in (
        ("d", 86400, "h", 3600),
        ("h", 3600, "min", 60),
        ("min", 60, "s", 1),
    ):
        if whole >= size:
            rest = whole % size // part
            return f"{whole // size} {unit}" + (f" {rest} {smaller}" if rest else "")
    return f"{whole} s"
