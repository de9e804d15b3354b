"""Others' published numbers with their sources, and runs compared with the published ones.

How far runs of one recipe lie apart decides what counts as a tie. Costs are in model/costs.py.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
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


@dataclass(frozen=True)
class Peer:
    """A number that others published, on the split the twelve are scored on."""

    project: str
    network: str  # "CCNet", "FCN", "non-local"
    backbone: str  # "R-50-D8" and so on, D for the output stride
    dataset: str  # a key of `data.catalog.DATASETS`
    miou: float  # in %
    schedule: str  # how long it was trained
    crop: tuple[int, int]  # (H, W) of a training crop
    protocol: str  # how it was measured, as far as the source says
    source: str  # the page's address


@dataclass(frozen=True)
class Claim:
    """A published statement on the cost of attention, and its source."""

    words: str
    source: str


_MMSEG = "https://github.com/open-mmlab/mmsegmentation/blob/main/configs/ccnet/README.md"
_ALIKE = "same code and schedule as the twelve, as published; protocol not checked here"
_OTHER = "single scale, as published; protocol not checked here"
# network: its page, mIoU in the order of CONFIGS
_SAME_CODE: dict[str, tuple[str, tuple[float, ...]]] = {
    "FCN": (
        "fcn",
        (67.80, 66.58, 70.59, 69.39, 36.96, 36.50, 41.22, 40.15, 75.16, 73.94, 76.31, 75.36),
    ),
    "non-local": (
        "nonlocalnet",
        (77.08, 76.17, 78.89, 77.48, 42.15, 41.17, 44.49, 42.45, 78.34, 77.18, 80.42, 78.48),
    ),
}
# (data set, thousands of steps): mIoU of R-50-D8 and R-101-D8
_MMSEG_CCNET = {
    ("voc", 20): (76.17, 77.27),
    ("voc", 40): (75.96, 77.87),
    ("ade20k", 80): (41.78, 43.97),
    ("ade20k", 160): (42.08, 43.71),
    ("cityscapes", 40): (77.76, 76.35),
    ("cityscapes", 80): (79.03, 78.87),
}


def _peers() -> tuple[Peer, ...]:
    same_code = [
        Peer(
            "SSSegmentation",
            network,
            f"R-{config.depth}-D{config.output_stride}",
            config.dataset,
            miou,
            f"{config.epochs} epochs",
            config.crop_size,
            _ALIKE,
            PAGE.replace("ccnet", page),
        )
        for network, (page, values) in _SAME_CODE.items()
        for config, miou in zip(CONFIGS.values(), values, strict=True)
    ]
    mmsegmentation = [
        Peer(
            "mmsegmentation",
            "CCNet",
            f"R-{depth}-D8",
            dataset,
            values[depth == 101],
            f"{steps},000 steps",
            CONFIGS[f"ccnet_resnet50os8_{dataset}"].crop_size,
            _OTHER,
            _MMSEG,
        )
        for ((dataset, steps), values), depth in product(_MMSEG_CCNET.items(), (50, 101))
    ]
    return (*same_code, *mmsegmentation)


PEERS = _peers()
CLAIMS = (
    Claim(
        "On a feature map of 1 x 512 x 97 x 97, by the authors' formula: one criss-cross step "
        "8.29 GFLOP, R = 2 16.58, R = 3 24.88, non-local attention 108.16; attention weights in "
        "float32 6.96 MiB a step against 337.7 MiB.",
        f"{AUTHORS}/issues/2",
    ),
    Claim(
        "11 times less memory and about 85 % fewer FLOPs than non-local attention.",
        "https://arxiv.org/abs/1811.11721",
    ),
    Claim(
        "Cityscapes test 81.9 % and ADE20K val 45.76 % mIoU, by other recipes than the twelve's.",
        "https://arxiv.org/abs/1811.11721",
    ),
)


def peers(dataset: str) -> list[Peer]:
    """What others published on a data set."""
    return [peer for peer in PEERS if peer.dataset == dataset]


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
    """Compare a configuration's scores with the published mIoU, where that is fair.

    Args:
        config: what was scored. scores: as in a run's scores.json.
        changed: `protocol.deviations` of a run that was trained here.
    """
    published = config.published_miou
    if published is None:
        verdict = f"not comparable: {', '.join(changed) or 'nothing is published'}"
        line = f"no mIoU is published for {config.name} as it is configured here"
        return Beside(None, verdict, line)
    why = ", ".join(changed)
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
    lines += [
        "",
        f"mIoU in %. A tie: the difference lies within {SPREAD} points, the spread between runs "
        "of one configuration (Huang et al.).",
    ]
    return "\n".join(lines)


def _scored_run(folder: Path) -> Run | None:
    """The run if it has scores and its training, if there was one here, is finished."""
    try:
        run = Run.open(folder)
        done = run.finished or run.training is None
        return run if done and run.scores is not None else None
    except LabError:  # no run, or a damaged one
        return None
