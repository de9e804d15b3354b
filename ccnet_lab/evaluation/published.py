"""Peers: what others published beside the twelve, with sources, and how far runs of one recipe lie apart; costs are model/costs.py's."""

from dataclasses import dataclass
from itertools import product

from ccnet_lab.configs import CONFIGS
from ccnet_lab.errors import LabError
from ccnet_lab.evaluation.protocol import Protocol, check_comparable, deviations, published_protocol
from ccnet_lab.runs import Run

PUBLISHER = "https://github.com/SegmentationBLWX/sssegmentation"
PAGE = f"{PUBLISHER}/blob/main/docs/modelzoo/ccnet/README.md"
AUTHORS = "https://github.com/speedinghzl/CCNet"
# mIoU in % of the authors' three runs each, ResNet-101 on Cityscapes' val images; their repository's README.
REPEATS = {
    "R = 1": (77.31, 77.91, 76.89),
    "R = 2": (79.74, 79.22, 78.40),
    "R = 2 with OHEM": (78.67, 80.00, 79.83),
}
# Points of mIoU between runs of one configuration: the largest range among these repeats, to a tenth. Differences up to it are ties.
SPREAD = round(max(max(values) - min(values) for values in REPEATS.values()), 1)  # 1.3


@dataclass(frozen=True)
class Peer:
    """A number somebody else published, on the split the twelve are scored on."""

    project: str  # whose it is
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
    """A published number on the cost of attention, in words, and where it stands."""

    words: str
    source: str


_MMSEG = "https://github.com/open-mmlab/mmsegmentation/blob/main/configs/ccnet/README.md"
_ALIKE = "same code and schedule as the twelve, as published; protocol not checked here"
_OTHER = "single scale, as published; protocol not checked here"
_SAME_CODE = {  # network: its page, mIoU in the order of CONFIGS
    "FCN": (
        "fcn",
        (67.80, 66.58, 70.59, 69.39, 36.96, 36.50, 41.22, 40.15, 75.16, 73.94, 76.31, 75.36),
    ),
    "non-local": (
        "nonlocalnet",
        (77.08, 76.17, 78.89, 77.48, 42.15, 41.17, 44.49, 42.45, 78.34, 77.18, 80.42, 78.48),
    ),
}
_MMSEG_CCNET = {  # (data set, thousands of steps): mIoU of R-50-D8 and R-101-D8
    ("voc", 20): (76.17, 77.27), ("voc", 40): (75.96, 77.87), ("ade20k", 80): (41.78, 43.97), ("ade20k", 160): (42.08, 43.71),
    ("cityscapes", 40): (77.76, 76.35), ("cityscapes", 80): (79.03, 78.87),
}  # fmt: skip

PEERS: tuple[Peer, ...] = (
    *(
        Peer(
            "SSSegmentation", network, f"R-{config.depth}-D{config.output_stride}", config.dataset, miou,
            f"{config.epochs} epochs", config.crop_size, _ALIKE, PAGE.replace("ccnet", page),
        )
        for network, (page, values) in _SAME_CODE.items()
        for config, miou in zip(CONFIGS.values(), values, strict=True)
    ),
    *(
        Peer(
            "mmsegmentation", "CCNet", f"R-{depth}-D8", dataset, values[depth == 101], f"{steps},000 steps",
            CONFIGS[f"ccnet_resnet50os8_{dataset}"].crop_size, _OTHER, _MMSEG,
        )
        for ((dataset, steps), values), depth in product(_MMSEG_CCNET.items(), (50, 101))
    ),
)  # fmt: skip
CLAIMS = (
    Claim(
        "On a feature map of 1 x 512 x 97 x 97, by the authors' formula: one criss-cross step 8.29 GFLOP, R = 2 16.58, R = 3 24.88, "
        "non-local attention 108.16; attention weights in float32 6.96 MiB a step against 337.7 MiB.",
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
    """What a difference of mIoU, in points, means between two trainings: "tie", "above" or "below"."""
    return "tie" if abs(difference) <= SPREAD else "above" if difference > 0 else "below"


def beside_published(run: Run) -> tuple[float | None, str]:
    """A scored run's mIoU less the published one, in points, and "tie", "above" or "below"; or None and why they are not compared."""
    scores, published, changed = run.scores or {}, run.config.published_miou, deviations(run)
    if changed or published is None:
        return None, f"not comparable: {', '.join(changed) or 'nothing is published'}"
    try:
        check_comparable(Protocol.from_dict(scores["protocol"]), published_protocol(run.config))
    except (LabError, KeyError) as error:
        return None, f"not comparable: {error}"
    difference = 100 * (scores["miou"] or 0.0) - published
    return difference, tie_or(difference)
