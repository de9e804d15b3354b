"""The words of the Runs tab: a table of runs with how far each is, as HTML. The numbers are training_runs.py's, the curves curves.py's."""

import shlex
import time
from collections.abc import Sequence
from html import escape
from pathlib import Path

from ccnet_lab.app.page import progress
from ccnet_lab.reports.progress import EMPTY, FINISHED, RUNNING, Problem, RunLine


def runs_table(folder: Path, lines: Sequence[RunLine], problems: Sequence[Problem]) -> str:
    """The runs of a folder, one a row, what cannot be read below; what to type where there is nothing."""
    if not lines and not problems:
        where = escape(str(folder))
        return (
            f"<div class='runs-none'>No training runs in <code>{where}</code> yet. One of the twelve is trained by"
            f"<pre>python scripts/train.py ccnet_resnet50os8_voc --data ROOT --runs {where}</pre>all of them by"
            f"<pre>python scripts/train_all.py --data ROOT --runs {where}</pre>and shown here while they go on. The app takes another "
            "folder with <code>--runs DIR</code>.</div>"
        )
    head = "".join(
        f"<th scope='col'>{title}</th>"
        for title in ("run", "how far", "loss", "learning rate", "images/s", "mIoU")
    )
    rows = "".join(map(_row, lines))
    table = (
        f"<div class='runs-wide'><table class='runs'><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>"
        if lines
        else ""
    )
    bad = "".join(
        f"<li><b>{escape(problem.name)}</b> {escape(problem.reason)}</li>" for problem in problems
    )
    return table + (
        f"<div class='runs-bad' role='alert'>Not shown, or not whole:<ul>{bad}</ul></div>"
        if bad
        else ""
    )


def _row(line: RunLine) -> str:
    label = "" if line.config.name == line.name else f"<small>{escape(line.config.name)}</small>"
    miou = "-"
    if line.miou is not None:
        at = line.curves["val_miou"][1, -1] if "val_miou" in line.curves else None
        miou = f"<b>{100 * line.miou:.2f} %</b><small>{(line.alone or 'final') if line.final else f'at epoch {at:.0f}'}</small>"
    elif (crops := line.newest("train_miou")) is not None:
        miou = f"-<small>crops {100 * crops:.1f} %</small>"
    numbers = (
        ("loss", "loss", ".3f"),
        ("learning rate", "lr", ".2g"),
        ("images/s", "images_per_second", ".1f"),
    )  # title, curve, form
    values = [(title, line.newest(curve), form) for title, curve, form in numbers]
    cells = "".join(
        f"<td data-of='{title}'>{'-' if value is None else format(value, form)}</td>"
        for title, value, form in values
    )
    cells += f"<td data-of='mIoU'>{miou}</td>"
    return f"<tr><th scope='row'>{escape(line.name)}{label}</th><td class='far'>{_far(line)}</td>{cells}</tr>"


def _far(line: RunLine) -> str:
    """Status, a bar, steps and epochs, time left or since."""
    words = [f"<span class='status {line.status.split()[0]}'>{line.status}</span>"]
    bar = ""
    if line.step and line.total_steps:
        bar = progress(100 * min(1.0, line.step / line.total_steps), line.name)
    if line.step:
        words.append(
            f"step {line.step:,}" + (f" of {line.total_steps:,}" if line.total_steps else "")
        )
        words.append(f"epoch {line.epoch:.1f} of {line.config.epochs}")
    if line.status == RUNNING:
        left = (
            f"{duration(line.seconds_left)} left"
            if line.seconds_left
            else "evaluating or nearly done"
        )
        words.append(left if line.step else "the first numbers are to come")
    elif line.written is not None and line.status not in (FINISHED, EMPTY):
        name = "" if line.name == line.config.name else f" --name {shlex.quote(line.name)}"
        into = shlex.quote(str(line.folder.parent))
        command = escape(
            f"python scripts/train.py {shlex.quote(line.config.name)} --data ROOT --runs {into}{name} --resume"
        )
        words.append(
            f"last written {duration(time.time() - line.written)} ago; it goes on with <code>{command}</code>"
        )
    return f"{bar}<small>{' · '.join(words)}</small>"


def duration(seconds: float) -> str:
    """In words, two units at most: "2 h 10 min", "3 d 4 h", "45 s"."""
    whole = max(0, round(seconds))
    for name, size, smaller, part in (
        ("d", 86400, "h", 3600),
        ("h", 3600, "min", 60),
        ("min", 60, "s", 1),
    ):
        if whole >= size:
            rest = whole % size // part
            return f"{whole // size} {name}" + (f" {rest} {smaller}" if rest else "")
    return f"{whole} s"
