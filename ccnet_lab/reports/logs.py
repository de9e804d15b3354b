"""Logs: a published training log, read into the metrics and scores of a run of ours. The file itself comes from store.py.

SSSegmentation's trainer has written three forms, and all are read; their messages are taken apart in log_messages.py:

- 2020 to May 2023: `[EPOCH]: 1/60, [BATCH]: 50/661, [LEARNING_RATE]: 0.0099, ...` and, on the next line, `[LOSS]: loss_aux 0.5, ...`.
- since May 2023: a dictionary, at first with epoch and batch alone, since October 2023 with cur_iter and max_iters.
- scores: since July 2022 `{'iou': {class: value, ...}, 'miou': value}`, where from January 2024 to June 2025 the mIoU is nan if a class's
  IoU is; since January 2024 after `Evaluate CCNet at epoch N`. Earlier only
  test.py scored, into a log of its own (`IoUs:`, a line per class, `MIoU: 0.77`, from 2021 on that dictionary). The CCNet numbers were
  published in December 2020, so their training logs may well hold no score.
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import mode
from typing import Any, NamedTuple

from ccnet_lab.configs import Config, get_config
from ccnet_lab.data.batches import SEVERAL, steps_per_epoch
from ccnet_lab.data.catalog import get_dataset
from ccnet_lab.errors import MissingFileError, RunError
from ccnet_lab.reports.log_messages import (
    HEAD,
    LONGEST,
    count_in,
    dictionary,
    epoch_length,
    messages,
    number_in,
    words,
)

MOST_STEPS, MOST_UNREAD = 100_000, 100  # logged steps of one run; unread messages that are kept

_ANNOUNCED = re.compile(r"Evaluate (EMA of )?.{0,80}?at epoch (\d{1,6})")
_RECORD = re.compile(r"\{\s*['\"](cur_epoch|cur_iter|epoch|iter|step|iou|miou)")
_USED = re.compile(r"(?:dataset|segmentor): ", re.I)  # December 2021: what is trained, on what
_CHATTER = re.compile(
    r"\s*$|config |\w{1,40}_cfg:|resume from|start epoch|(dataset|model|checkpoints) used|rank \d+ finished|all finished|loading|saving"
    r"|ngpus_per_node|processing \d+|cuda is not|unsupport|seg_target from|.{0,4000}try to load (ckpts|checkpoints) by",
    re.I | re.S,
)
_OURS = dict(  # theirs: ours; of several names for one thing the first counts
    cur_iter="step", iter="step", iteration="step", step="step", cur_epoch="epoch", epoch="epoch", cur_iter_in_cur_epoch="batch",
    batch="batch", max_iters_in_cur_epoch="per_epoch", max_iters="steps", max_epochs="epochs", learning_rate="lr", lr="lr",
    current_learning_rate="lr", loss_total="loss", total="loss", total_loss="loss", loss="loss", loss_cls="loss_main",
    loss_aux="loss_aux", iou="iou", miou="miou", mean_iou="miou", dataset="dataset", backbone="backbone", segmentor="backbone",
)  # fmt: skip


class Unread(NamedTuple):
    """A message that gave nothing: the number of its first line, how it begins, why."""

    line: int
    text: str
    reason: str


@dataclass(frozen=True)
class PublishedLog:
    """What a log says, in the words of a run of ours.

    The metrics are as `Run.metrics()`, in the order of steps: step, epoch, loss, loss_main, loss_aux (weighted, as ours; means over the
    steps since the line before) and lr; for an evaluation step, epoch, val_miou. What was NaN or inf is so here.
    """

    metrics: list[dict[str, Any]]
    per_class_iou: dict[
        str, float | None
    ]  # fractions, the last evaluation's, by our class names; None for a class that neither occurs nor is predicted
    final_miou: (
        float | None
    )  # a fraction 0..1, also where the log has percent; None without an evaluation
    unmapped: tuple[str, ...]  # the log's class names that are none of ours
    unread: tuple[Unread, ...]  # the first messages that could not be read
    unread_count: int  # how many there were
    remarks: tuple[str, ...]  # in sentences, what is missing or odd


def read_log(path: str | Path, config: str | Config) -> PublishedLog:
    """Read a log, gzipped or not, message by message; memory does not grow with what is no part of a run.

    Args:
        path: the file.
        config: what was trained; the class names and the length of the schedule follow from it.

    Raises:
        MissingFileError: there is no such file.
        RunError: it is no such log: empty, a web page, nothing in it has a loss or a score.
        UnknownConfigError: no configuration has this name.
    """
    path, config = Path(path), get_config(config)
    again = (
        f"get it again: python scripts/zoo.py get {config.name}.log"
        if config.published_log_url
        else "give the log of a training"
    )
    if not path.exists():
        raise MissingFileError(f"there is no log {path}; {again}")
    start = ""
    try:
        reader = _Reader(config, epoch_length(path))
        for number, text in messages(path, reader.remarks):
            start = start or text.strip()[:60]
            reader.take(number, text)
    except OSError as error:
        raise RunError(f"{path} cannot be read: {error}") from None
    if not reader.steps and not reader.scores:
        begins = (
            f"it begins {start!r}, and nothing in it has a loss or a score"
            if start
            else "it is empty"
        )
        why = "it is a web page" if start.startswith("<") else begins
        raise RunError(f"{path} is no training log of SSSegmentation: {why}; {again}")
    return reader.finish()


def match_classes(names: Sequence[str], classes: Sequence[str]) -> dict[str, str]:
    """The class each name stands for; names that fit none, or no single one, are left out.

    Letters and digits count; `_`, `-`, spaces and case don't. In this order: the whole name, the first of its synonyms (`car, auto`), that
    one's first word (`pool table`), any synonym. A class that is taken isn't given twice.
    """
    found: dict[str, str] = {}
    for way in range(4):
        free = {_letters(own): own for own in classes if own not in found.values()}
        for name in names:
            first = name.split(",")[0]
            forms = ([name], [first], first.split()[:1], name.split(","))[way]
            fitting = {free[form] for form in map(_letters, forms) if form in free} - set(
                found.values()
            )
            if name not in found and len(fitting) == 1:
                found[name] = fitting.pop()
    return found


def _letters(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "", name.lower())


class _Reader:
    """Messages in, a `PublishedLog` out."""

    def __init__(self, config: Config, per_epoch: int) -> None:
        self.config, self.dataset = config, get_dataset(config.dataset)
        images = max(self.dataset.train_images, config.batch_size)  # of one's own they are unknown
        self.assumed = not per_epoch
        self.per_epoch = per_epoch or steps_per_epoch(
            images, config.batch_size, SEVERAL
        )  # or what a line says
        self.total = 0  # steps the log was to have; 0 where it doesn't say
        self.steps: dict[int, dict[str, Any]] = {}
        self.scores: dict[
            int, tuple[dict[str, float], float]
        ] = {}  # IoU by the log's names and mIoU, fractions; by epoch, or 0
        self.announced = ("", 0)  # "EMA of " for averaged weights; the epoch
        self.last = self.back = self.twice = self.restarts = self.begun = self.unread_count = 0
        self.unread: list[Unread] = []
        self.remarks: dict[str, None] = {}  # an ordered set

    def take(self, number: int, text: str) -> None:
        """One message: a step, an evaluation, or neither."""
        body = HEAD.sub("", text, count=1)
        if announced := _ANNOUNCED.match(body):
            self.announced = (announced[1] or "", int(announced[2]))
            return
        if problem := self._read(body, number, stamped=body != text):
            self.unread_count += 1
            if len(self.unread) < MOST_UNREAD:
                self.unread.append(Unread(number, text.strip()[:120], problem))

    def _read(self, body: str, number: int, stamped: bool) -> str:
        """Take a message in; returns why that couldn't be done, "" where it could or where nothing is lost."""
        if _USED.match(body):
            named = words(body)
            return self._whose(named.get("dataset"), named.get("backbone"))
        if not body.startswith("{") and _CHATTER.match(body):
            return ""
        found = dictionary(body[body.index("{") :]) if "{" in body else words(body)
        if found is None and (
            stamped or _RECORD.match(body)
        ):  # else a configuration, printed on a line of its own
            return (
                f"longer than {LONGEST:,} characters"
                if len(body) > LONGEST - 100
                else "its dictionary is cut short or not plain"
            )
        there = {
            re.sub(r"[^a-z0-9]+", "_", str(name)[:60].lower()): value
            for name, value in (found or {}).items()
        }
        fields = {ours: there[name] for name, ours in reversed(_OURS.items()) if name in there}
        if "iou" in fields or "miou" in fields:
            return self._evaluation(fields)
        if "epoch" in fields or "step" in fields:
            return self._step(fields, number)
        return "" if body.startswith("{") and not stamped else "nothing in it has a loss or a score"

    def _step(self, fields: dict[str, Any], number: int) -> str:
        per_epoch, epoch, batch = (
            count_in(fields.get(name)) for name in ("per_epoch", "epoch", "batch")
        )
        if not per_epoch and not fields.get("step") and self.assumed:
            self.remarks[
                f"its lines don't say how many steps an epoch has; taken are the recipe's {self.per_epoch}"
            ] = None
        per_epoch = per_epoch or self.per_epoch
        step = count_in(fields.get("step")) or (
            (epoch - 1) * per_epoch + batch if epoch and batch else 0
        )
        values = {
            name: number_in(fields.get(name)) for name in ("loss", "loss_main", "loss_aux", "lr")
        }
        record = {"step": step, "epoch": round(step / per_epoch, 4)} | {
            n: v for n, v in values.items() if v is not None
        }
        if not step or not {"loss", "loss_main"} & record.keys() or len(self.steps) == MOST_STEPS:
            return (
                "a step without its number"
                if not step
                else "a step without a loss, or one of too many"
            )
        if step < self.last and step <= next(iter(self.steps)):
            self.restarts, self.begun, self.steps, self.scores = self.restarts + 1, number, {}, {}
        elif step < self.last:
            self.back += 1
            self.scores = {n: score for n, score in self.scores.items() if n * per_epoch <= step}
        self.twice += step == self.last and str(record) != str(
            self.steps[step]
        )  # as text: NaN is unequal to itself
        self.steps[step], self.last, self.per_epoch = record, step, per_epoch
        self.total = count_in(fields.get("steps")) or count_in(fields.get("epochs")) * per_epoch
        return self._whose(fields.get("dataset"), fields.get("backbone"))

    def _whose(self, dataset: Any, backbone: Any) -> str:
        """Remark where these, as the log names them, are not the configuration's; the log is read all the same, so always ""."""
        known = [key for key in ("ade20k", "cityscapes", "voc") if key in str(dataset).lower()]
        depth = re.findall(r"resnet-?(\d+)", str(backbone).lower())
        if known not in ([], [self.dataset.key]) or depth not in ([], [str(self.config.depth)]):
            named = ", ".join(str(name) for name in (dataset, backbone) if name)
            self.remarks[f"it is a log of {named}, not of {self.config.name}"] = None
        return ""

    def _evaluation(self, fields: dict[str, Any]) -> str:
        (averaged, epoch), self.announced = self.announced, ("", 0)
        found, miou = fields.get("iou"), number_in(fields.get("miou"))
        values = {
            name: number_in(value)
            for name, value in (found if isinstance(found, dict) else {}).items()
        }
        per_class = {name: value for name, value in values.items() if value is not None}
        there = [value for value in per_class.values() if not math.isnan(value)]
        if there and (miou is None or math.isnan(miou)):
            if miou is not None:
                self.remarks[
                    f"a mIoU is nan; taken is the mean over the {len(there)} classes that have an IoU"
                ] = None
            miou = sum(there) / len(there)
        if miou is None or not all(0 <= value <= 100 for value in [miou, *there]):
            return "an evaluation without a mIoU between 0 and 100"
        if averaged:
            self.remarks["the scores of averaged (EMA) weights are left out"] = None
            return ""
        unit = 100 if max([miou, *there]) > 1 else 1
        if there and abs(sum(there) / len(there) - miou) > 0.005 * unit:
            self.remarks["a mIoU is not the mean of the IoU per class beside it"] = None
        self.scores[epoch or math.ceil(self.last / self.per_epoch)] = (
            {n: value / unit for n, value in per_class.items()},
            miou / unit,
        )
        return ""

    def finish(self) -> PublishedLog:
        """The record; what a resumed run left behind its last step is dropped."""
        steps = [record for step, record in sorted(self.steps.items()) if step <= self.last]
        scored = [
            {"step": n * self.per_epoch, "epoch": float(n), "val_miou": miou}
            for n, (_, miou) in self.scores.items()
            if n
        ]
        per_class, final = self.scores[max(self.scores)] if self.scores else ({}, math.nan)
        classes = match_classes([*per_class], self.dataset.class_names)
        ours = {own: per_class[name] for name, own in classes.items()}
        return PublishedLog(
            metrics=sorted([*steps, *scored], key=lambda record: record["step"]),
            per_class_iou={
                own: None if math.isnan(ours[own]) else ours[own]
                for own in self.dataset.class_names
                if own in ours
            },
            final_miou=final if self.scores else None,
            unmapped=tuple(name for name in per_class if name not in classes),
            unread=tuple(self.unread),
            unread_count=self.unread_count,
            remarks=(*self.remarks, *self._odd(steps, 100 * final, ours)),
        )

    def _odd(
        self, steps: list[dict[str, Any]], miou: float, per_class: dict[str, float]
    ) -> list[str]:
        """What is missing or odd; mIoU in percent, NaN without an evaluation."""
        numbers = [record["step"] for record in steps] or [0]
        every = mode([b - a for a, b in pairwise(numbers)] or numbers)
        holes = [
            f"between steps {a:,} and {b:,}" for a, b in pairwise([0, *numbers]) if b - a > every
        ]
        recipe, published = self.config.epochs * self.per_epoch, self.config.published_miou
        total, scored = self.total or recipe, not math.isnan(miou)
        bad = [record["step"] for record in steps if not all(map(math.isfinite, record.values()))]
        lacking = [own for own in self.dataset.class_names if own not in per_class]
        some = ", ".join(lacking[:5]) + (", ..." if len(lacking) > 5 else "")
        remarks = {
            f"it holds {self.restarts + 1} runs; only the last is read, from line {self.begun} on": self.restarts,
            f"the steps go back {self.back} times: resumed, or several processes; of a step that comes twice the last counts": self.back,
            f"{self.twice} steps come twice running with other numbers: several processes wrote at once": self.twice,
            f"{len(holes)} gaps, lines are missing: {', '.join(holes[:3])}": holes,
            "it holds no training steps": not steps,
            f"it ends at step {numbers[-1]:,} of {total:,}": steps and total - numbers[-1] >= every,
            f"it was to have {total:,} steps, the recipe has {recipe:,}": total != recipe,
            f"numbers that are not finite at {len(bad)} logged steps, first at step {min(bad, default=0):,}": bad,
            "no evaluation in it: before July 2022 only tests scored, into logs of their own": not scored,
            f"its last mIoU is {miou:.2f} %, the published one {published or 0:.2f} %": scored
            and published not in (None, round(miou, 2)),
            f"no IoU for {len(lacking)} of {self.dataset.num_classes} classes: {some}": scored
            and lacking,
        }
        return [words for words, true in remarks.items() if true]
