"""Others' published numbers with their sources, and runs compared with the published ones.

Others' numbers stand in assets/published.json. How far runs of one recipe lie apart decides what
counts as a tie. Costs are in model/costs.py.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from importlib.resources import files
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from ccnet_lab.configs import CONFIGS, Config
from ccnet_lab.errors import LabError
from ccnet_lab.evaluation.metrics import one_class
from ccnet_lab.evaluation.protocol import Protocol, check_comparable, deviations, published_protocol
from ccnet_lab.runs import Run

PUBLISHER = "https://github.com/SegmentationBLWX/sssegmentation"
PAGE = f"{PUBLISHER}/blob/main/docs/modelzoo/ccnet/README.md"
AUTHORS = "https://github.com/speedinghzl/CCNet"
# mIoU in % of the authors' three runs each, ResNet-101 on Cityscapes' val images; their README.
REPEATS = {
    "R = 1": (77.31, 77.91, 76.89),
    "R = 2": (79.74, 79.22, 78.40),
    "R = 2 with OHEM": (78.67, 80.00, 79.83),
}
# Points of mIoU between runs of one configuration: the largest range among these repeats, to a
# tenth. Differences up to it are ties.
SPREAD = round(max(max(values) - min(values) for values in REPEATS.values()), 1)  # 1.3


class Peers(NamedTuple):
    """Numbers that a project published of a network, on the split the twelve are scored on."""

    dataset: str  # a key of `data.catalog.DATASETS`
    project: str
    network: str  # "CCNet", "FCN", "non-local"
    schedule: str  # how long it was trained
    protocol: str  # how it was measured, as far as the source says
    source: str  # the page's address
    miou: Mapping[str, float]  # in %, by backbone: "R-50-D8" and so on, D for the output stride


class Claim(NamedTuple):
    """A published statement on the cost of attention, and its source."""

    text: str
    source: str


BACKBONES = ("R-50-D8", "R-50-D16", "R-101-D8", "R-101-D16")  # in the order of CONFIGS
_OTHERS = json.loads((files("ccnet_lab") / "assets" / "published.json").read_text("utf-8"))
CLAIMS = tuple(Claim(**claim) for claim in _OTHERS["claims"])


def peers(dataset: str) -> list[Peers]:
    """What was published on a data set: the twelve first, then what others published."""
    twelve = [config for config in CONFIGS.values() if config.dataset == dataset]
    found = [Peers(**line) for line in _OTHERS["peers"] if line["dataset"] == dataset]
    if not twelve:
        return found
    schedule, protocol = f"{twelve[0].epochs} epochs", "single scale, whole image, no flip"
    miou = dict(zip(BACKBONES, (config.published_miou or 0.0 for config in twelve), strict=True))
    about = dataset, "SSSegmentation", "CCNet", schedule, f"{protocol}: the twelve", PAGE
    return [Peers(*about, miou), *found]


def tie_or(difference: float) -> str:
    """What a difference of mIoU, in points, between two trainings means: tie, above or below."""
    return "tie" if abs(difference) <= SPREAD else "above" if difference > 0 else "below"


class Beside(NamedTuple):
    """A measured mIoU beside the published one."""

    difference: float | None  # measured less published, in points; None where not comparable
    verdict: str  # "tie", "above", "below", or "not comparable: why"
    line: str  # both numbers in a sentence, or why they are not compared


def beside_published(
    config: Config, scores: Mapping[str, Any], changed: Sequence[str] = ()
) -> Beside:
    """Compare a configuration's scores (as in scores.json) with the published mIoU, where fair.

    `changed` are `protocol.deviations` of a run that was trained here.
    """
    published, why = config.published_miou, ", ".join(changed)
    if published is None:
        line = f"no mIoU is published for {config.name} as it is configured here"
        return Beside(None, f"not comparable: {why or 'nothing is published'}", line)
    try:
        if not why:
            given = Protocol.from_dict(scores["protocol"])
            check_comparable(given, published_protocol(config))
    except (LabError, KeyError) as error:
        why = str(error)
    if why:
        line = f"published: {published:.2f} %, not comparable: {why}"
        return Beside(None, f"not comparable: {why}", line)
    measured = 100 * (scores["miou"] or 0.0)
    same = f"published {published:.2f} % under the same protocol ({config.published_url})"
    difference = measured - published
    return Beside(difference, tie_or(difference), f"mIoU {measured:.2f} %, {same}")


def results_table(
    names: Iterable[str], runs: Path, missing: Mapping[str, str] = MappingProxyType({})
) -> str:
    """Markdown: published and measured mIoU in %, their difference, and what it means.

    `missing` maps names of run folders to why they have no score; others were not trained.
    """
    lines = ["| configuration | published | measured | difference | |"]
    lines.append("| --- | --- | --- | --- | --- |")
    for name in names:
        published = CONFIGS[name].published_miou if name in CONFIGS else None
        first = f"| {name} | {'-' if published is None else f'{published:.2f}'}"
        run = None if name in missing else _scored_run(runs / name)
        if run is None:
            lines.append(f"{first} | - | - | {missing.get(name, 'not trained here')} |")
            continue
        scores: dict[str, Any] = run.scores or {}
        difference, meaning, _ = beside_published(run.config, scores, deviations(run))
        apart = "-" if difference is None else f"{difference:+.2f}"
        remark = one_class(scores.get("per_class_iou", {}).values())
        meaning = "; ".join(filter(None, (meaning, remark)))
        lines.append(f"{first} | {100 * (scores['miou'] or 0.0):.2f} | {apart} | {meaning} |")
    tie = f"A tie: the difference lies within {SPREAD} points, the spread between runs"
    return "\n".join([*lines, "", f"mIoU in %. {tie} of one configuration (Huang et al.)."])


def _scored_run(folder: Path) -> Run | None:
    """The run if it has scores and its training, if there was one here, is finished."""
    with suppress(LabError):  # no run, or a damaged one
        run = Run.open(folder)
        if run.scores is not None and (run.finished or run.training is None):
            return run
    return None
