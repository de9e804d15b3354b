"""A published training log of SSSegmentation, read into the metrics and scores of a run.

The files come from store.py. Two forms are read; nothing in them is ever evaluated as Python:

- December 2020, when the CCNet numbers were published: `[EPOCH]: 1/60, [BATCH]: 50/661,
  [LEARNING_RATE]: 0.0099, ...` and, on the next line, `[LOSS]: loss_aux 0.5, ..., total 1.7`.
  Only tests were scored then, into logs of their own, so these logs hold no score.
- What the code writes today: a dictionary with cur_iter, loss_total and so on, and, after
  `Evaluate CCNet at epoch N`, `{'iou': {class: value, ...}, 'miou': value}`.
"""

import json
import math
import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from ccnet_lab.configs import Config, get_config
from ccnet_lab.data.batches import SEVERAL, steps_per_epoch
from ccnet_lab.data.catalog import get_dataset
from ccnet_lab.errors import MissingFileError, RunError

LONGEST = 1 << 16  # characters of one message that are read
MOST_STEPS = 100_000  # logged steps of one run
_HEAD = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\S{0,9} {1,9}(?:DEBUG|INFO|WARNING|ERROR)\b\s*")
_ANNOUNCED = re.compile(r"Evaluate (EMA of )?.{0,80}?at epoch (\d{1,6})")
_PAIR = re.compile(r"\[(EPOCH|BATCH|LEARNING_RATE)\]: ([^\s,/]{1,40})(?:/(\d{1,9}))?")
_LOSS = re.compile(r"\b(loss_aux|loss_cls|total) ([^\s,]{1,40})")
_PYTHON = re.compile(r"'|\b(?:None|True|False|nan|inf)\b|np\.float64\(([^()]{1,40})\)")
_JSON = {
    "'": '"', "None": "null", "True": "true", "False": "false", "nan": "NaN", "inf": "Infinity"
}  # fmt: skip
_NAMES = {  # a run's name: SSSegmentation's
    "loss": "loss_total", "loss_main": "loss_cls", "loss_aux": "loss_aux", "lr": "learning_rate"
}  # fmt: skip


@dataclass(frozen=True)
class PublishedLog:
    """What a log says.

    The metrics are as `Run.metrics()`, in the order of steps: step, epoch, loss, loss_main,
    loss_aux (weighted; means over the steps since the line before) and lr; for an evaluation step,
    epoch, val_miou. What was NaN or inf is so here. IoU are fractions 0..1.
    """

    metrics: list[dict[str, Any]]
    per_class_iou: dict[str, float | None]  # of the last evaluation; None for a class without one
    final_miou: float | None  # None without an evaluation


def read_log(path: str | Path, config: str | Config) -> PublishedLog:
    """Read a log message by message, in memory that does not grow with what is no part of a run.

    Args:
        path: the file.
        config: what was trained; the class names and the steps per epoch follow from it.

    Raises:
        MissingFileError: there is no such file.
        RunError: it is no such log: empty, a web page, nothing in it has a loss or a score.
        ConfigError: no configuration has this name.
    """
    path, config = Path(path), get_config(config)
    again = "give the log of a training"
    if config.published_log_url:
        again = f"get it again: python scripts/zoo.py get {config.name}.log"
    if not path.exists():
        raise MissingFileError(f"there is no log {path}; {again}")
    start, reader = "", _Reader(config)
    try:
        for text in _messages(path):
            start = start or text.strip()[:60]
            reader.take(text)
    except OSError as error:
        raise RunError(f"{path} cannot be read: {error}") from None
    if not reader.steps and not reader.scores:
        why = f"it begins {start!r}, and nothing in it has a loss or a score"
        why = "it is a web page" if start.startswith("<") else why if start else "it is empty"
        raise RunError(f"{path} is no training log of SSSegmentation: {why}; {again}")
    return reader.finish()


def match_classes(names: Sequence[str], classes: Sequence[str]) -> dict[str, str]:
    """The class each name stands for; names that fit none, or no single one, are left out.

    Letters and digits count; `_`, `-`, spaces and case don't. In this order: the whole name, the
    first of its synonyms (`car, auto`), that one's first word (`pool table`), any synonym. A class
    that is taken isn't given twice.
    """
    found: dict[str, str] = {}
    for way in range(4):
        free = {_letters(own): own for own in classes if own not in found.values()}
        for name in names:
            first = name.split(",")[0]
            forms = ([name], [first], first.split()[:1], name.split(","))[way]
            fitting = {free[form] for form in map(_letters, forms) if form in free}
            fitting -= set(found.values())
            if name not in found and len(fitting) == 1:
                found[name] = fitting.pop()
    return found


def _letters(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "", name.lower())


def _messages(path: Path) -> Iterator[str]:
    """The first `LONGEST` characters of each message, however long lines are."""
    with path.open(encoding="utf-8-sig", errors="replace") as lines:
        parts, size = [""], 0
        while line := lines.readline(LONGEST):
            cuts = [found.start() for found in _HEAD.finditer(line)]
            for index, (a, b) in enumerate(pairwise([0, *cuts, len(line)])):
                if index:
                    yield "".join(parts)
                    parts, size = [], 0
                parts.append(line[a : min(b, a + LONGEST - size)])
                size += len(parts[-1])
        yield "".join(parts)


def _record(body: str) -> dict[str, Any]:
    """What a message says by the names of today; {} where it is no record or a damaged one."""
    if body.startswith("[EPOCH]"):
        pairs = {name: (value, whole) for name, value, whole in _PAIR.findall(body)}
        losses = dict(_LOSS.findall(body))
        (epoch, _), (batch, length) = (pairs.get(name, ("", "")) for name in ("EPOCH", "BATCH"))
        step = (_count(epoch) - 1) * _count(length) + _count(batch)
        rate = {"learning_rate": pairs["LEARNING_RATE"][0]} if "LEARNING_RATE" in pairs else {}
        if "total" in losses:
            losses["loss_total"] = losses.pop("total")
        return {"cur_iter": step, "max_iters_in_cur_epoch": length, **rate, **losses}
    text = _PYTHON.sub(lambda found: found[1] or _JSON[found[0]], body[body.find("{") :])
    with suppress(ValueError, RecursionError):
        value, _ = json.JSONDecoder().raw_decode(text)
        return value if isinstance(value, dict) else {}
    return {}


def _number(value: Any) -> float | None:
    with suppress(TypeError, ValueError, OverflowError):
        return None if isinstance(value, bool) else float(value)
    return None


def _count(value: Any) -> int:
    """A count; 0 where it is none."""
    number = _number(value)
    return int(number) if number is not None and 1 <= number < 1e9 else 0


class _Reader:
    """Messages in, a `PublishedLog` out."""

    def __init__(self, config: Config) -> None:
        dataset = get_dataset(config.dataset)
        self.classes = dataset.class_names
        images = max(dataset.train_images, config.batch_size)  # of one's own data they are unknown
        self.per_epoch = steps_per_epoch(images, config.batch_size, SEVERAL)  # or as a line says
        self.steps: dict[int, dict[str, Any]] = {}
        self.last = 0  # step
        # By epoch, or 0: IoU by the log's class names, and the mIoU.
        self.scores: dict[int, tuple[dict[str, float], float]] = {}
        self.announced = ("", 0)  # "EMA of " for averaged weights; the epoch

    def take(self, text: str) -> None:
        """One message: an announcement, a step, an evaluation, or nothing of use."""
        body = _HEAD.sub("", text, count=1)
        if announced := _ANNOUNCED.match(body):
            self.announced = (announced[1] or "", int(announced[2]))
            return
        record = _record(body)
        if "iou" in record or "miou" in record:
            self._evaluation(record)
        elif step := _count(record.get("cur_iter")):
            self._step(step, record)

    def _step(self, step: int, record: dict[str, Any]) -> None:
        values = {own: _number(record.get(name)) for own, name in _NAMES.items()}
        known = {own: value for own, value in values.items() if value is not None}
        if not {"loss", "loss_main"} & known.keys() or len(self.steps) == MOST_STEPS:
            return
        self.per_epoch = _count(record.get("max_iters_in_cur_epoch")) or self.per_epoch
        if step < self.last and step <= next(iter(self.steps)):  # another run in the same file
            self.steps, self.scores = {}, {}
        elif step < self.last:  # resumed
            kept = {n: found for n, found in self.scores.items() if n * self.per_epoch <= step}
            self.scores = kept
        self.last = step
        self.steps[step] = {"step": step, "epoch": round(step / self.per_epoch, 4), **known}

    def _evaluation(self, record: dict[str, Any]) -> None:
        (averaged, epoch), self.announced = self.announced, ("", 0)
        given = record.get("iou")
        values = {
            name: _number(value)
            for name, value in (given if isinstance(given, dict) else {}).items()
        }
        per_class = {name: value for name, value in values.items() if value is not None}
        finite = [value for value in per_class.values() if not math.isnan(value)]
        miou = _number(record.get("miou"))
        if finite and (miou is None or math.isnan(miou)):  # from 2024 on, where a class's IoU is
            miou = sum(finite) / len(finite)
        if averaged or miou is None or not all(0 <= value <= 1 for value in [miou, *finite]):
            return
        self.scores[epoch or math.ceil(self.last / self.per_epoch)] = (per_class, miou)

    def finish(self) -> PublishedLog:
        """The record; what a resumed run left behind its last step is dropped."""
        steps = [record for step, record in self.steps.items() if step <= self.last]
        scored = [
            {"step": epoch * self.per_epoch, "epoch": float(epoch), "val_miou": miou}
            for epoch, (_, miou) in self.scores.items()
            if epoch
        ]
        per_class, final = self.scores[max(self.scores)] if self.scores else ({}, None)
        named = {own: name for name, own in match_classes([*per_class], self.classes).items()}
        iou = {own: per_class[named[own]] for own in self.classes if own in named}
        return PublishedLog(
            metrics=sorted([*steps, *scored], key=lambda record: record["step"]),
            per_class_iou={own: None if math.isnan(v) else v for own, v in iou.items()},
            final_miou=final,
        )
