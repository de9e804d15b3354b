"""Several trainings of the same configurations: effects, with intervals over images and seeds.

One training's interval over the images is in metrics.py.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ccnet_lab.errors import RunError
from ccnet_lab.evaluation.metrics import LEVEL, Confusions

Floats = NDArray[np.float64]
ENOUGH = 3  # degrees of freedom of the spread between seeds


class Effect(NamedTuple):
    """A mean IoU, or a difference of such, as fractions; NaN where it cannot be known."""

    value: float
    low: float  # with `high` the 95 % interval over other images and other seeds
    high: float
    images: float  # standard error from the choice of the images
    seeds: float  # standard error from the seeds; NaN where nothing was trained twice

    @property
    def clear(self) -> bool:
        """Whether the interval leaves out 0."""
        return self.low > 0 or self.high < 0


class Repeats:
    """The trainings of some configurations, all scored on the same images.

    An effect is a weighted sum of mean IoUs, such as that of R-101 less that of R-50. Its variance
    has two parts: that of the images, by the infinitesimal jackknife and shared by all trainings,
    and that of the seeds, pooled over the configurations of the effect (over all of them where
    those have fewer than `ENOUGH` degrees of freedom): one that is a matter of luck should not blur
    the others. The interval is
    Student's with Welch's and Satterthwaite's degrees of freedom.

    Source: Satterthwaite, An approximate distribution of estimates of variance components, 1946;
    Efron and Tibshirani, An Introduction to the Bootstrap, 1993, section 21.3.
    """

    def __init__(self, trainings: Mapping[str, Sequence[Confusions]]) -> None:
        """`trainings` maps a configuration's name to its runs' matrices, one for each seed.

        Raises `RunError` where they are not of the same images and classes.
        """
        runs = [run for each in trainings.values() for run in each]
        if len({(run.names, run.num_classes) for run in runs}) != 1:
            remedy = "score them all on the same split"
            raise RunError(f"these trainings were scored on different images; {remedy}")
        self.num_classes, self.count = runs[0].num_classes, len(runs[0].names)
        found = {name: [run.influence() for run in each] for name, each in trainings.items()}
        self._iou = {name: np.stack([iou for iou, _ in each]) for name, each in found.items()}
        self._influence = {
            name: np.mean([change for _, change in each], axis=0) for name, each in found.items()
        }

    def effect(self, weights: Mapping[str, float], classes: Sequence[int] | None = None) -> Effect:
        """The sum of the configurations' mean IoUs times their `weights`.

        Args:
            weights: by configuration; those that are left out count 0.
            classes: whose IoU is averaged; by default all. One that has no pixels and no
                predictions in one of the trainings is left out.
        """
        chosen = np.arange(self.num_classes) if classes is None else np.asarray(classes)
        known = [~np.isnan(self._iou[name]).any(0) for name in weights]
        chosen = chosen[np.logical_and.reduce(known)[chosen]]
        if not len(chosen):
            return Effect(*[float("nan")] * 5)
        means = {name: iou[:, chosen].mean(1) for name, iou in self._iou.items()}  # (S,)
        value = sum(weight * means[name].mean() for name, weight in weights.items())
        change = sum(w * self._influence[name][:, chosen].mean(1) for name, w in weights.items())
        images = float((np.asarray(change) ** 2).sum()) * self.count / max(1, self.count - 1)
        taken = [mean for name, mean in means.items() if name in weights]
        spread, freedom = _pooled(taken)
        if freedom < ENOUGH:
            spread, freedom = _pooled([*means.values()])
        seeds = spread * sum(w**2 / len(means[name]) for name, w in weights.items())
        total = images + (seeds if freedom else 0.0)
        if not total > 0:
            return Effect(value, value, value, images**0.5, seeds**0.5)
        share = images**2 / max(1, self.count - 1) + (seeds**2 / freedom if freedom else 0.0)
        reach = students_t(total**2 / share) * total**0.5
        return Effect(value, value - reach, value + reach, images**0.5, seeds**0.5)


def _pooled(samples: Sequence[Floats]) -> tuple[float, int]:
    """The variance within the samples, pooled, and its degrees of freedom; NaN and 0 without."""
    samples = [sample for sample in samples if len(sample) > 1 and np.isfinite(sample).all()]
    freedom = sum(len(sample) - 1 for sample in samples)
    squares = sum(float(((sample - sample.mean()) ** 2).sum()) for sample in samples)
    return (squares / freedom if freedom else float("nan")), freedom


def students_t(freedom: float, level: float = LEVEL) -> float:
    """How many standard errors the interval of a `level` reaches, by Student's distribution."""
    # t = sqrt(freedom) tan(angle); the density in the angle is cos(angle) ** (freedom - 1).
    angles = np.linspace(0, np.pi / 2, 4001)
    density = np.cos(angles) ** (max(freedom, 1e-3) - 1) if freedom > 1 else np.ones(len(angles))
    total = np.concatenate([[0.0], np.cumsum(density[1:] + density[:-1])])
    return float(freedom**0.5 * np.tan(np.interp(level, total / total[-1], angles)))
