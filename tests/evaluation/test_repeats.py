"""Intervals over images and seeds cover what they should; Student's quantiles are the tables'."""

from dataclasses import replace

import numpy as np
import pytest

from ccnet_lab.errors import RunError
from ccnet_lab.evaluation.metrics import Confusions, scores
from ccnet_lab.evaluation.repeats import Repeats, students_t

CLASSES = 6
BASE = np.array([0.9, 0.8, 0.75, 0.7, 0.6, 0.5])  # the share of each class's pixels that is found
GAIN = {"one": 0.0, "other": 0.03, "third": 0.01}  # of three configurations


def draw(rng, count, seeds, spread):
    """Trainings of three configurations on `count` images of one population.

    A class's pixels that are not found are taken for the next class.
    """
    pixels = np.rint(rng.lognormal(5, 1, (count, CLASSES))) * (rng.random((count, CLASSES)) < 0.7)
    pixels[:, 0] += 50
    hard = rng.normal(0, 0.08, (count, CLASSES))  # of the image, for whatever training
    found = {}
    for name, gain in GAIN.items():
        found[name] = []
        for _ in range(seeds):
            luck = rng.normal(0, spread, CLASSES)  # of the training, on whatever image
            own = rng.normal(0, 0.04, (count, CLASSES))
            share = (BASE + gain + luck + hard + own).clip(0, 1)
            right = np.rint(share * pixels).astype(int)
            wrong = pixels.astype(int) - right
            cells = [k * CLASSES + j % CLASSES for k in range(CLASSES) for j in (k, k + 1)]
            counts = np.stack([right, wrong], axis=-1).reshape(count, -1)
            parts = [(np.array(cells), row) for row in counts]
            names = [str(n) for n in range(count)]
            found[name].append(Confusions.collect(names, CLASSES, parts))
    return found


@pytest.fixture(scope="module")
def truth():
    """The IoUs over very many images and seeds, by configuration."""
    rng = np.random.default_rng(0)
    many = [draw(rng, 400, 5, 0.03) for _ in range(12)]
    return {
        name: np.mean([scores(run.total()).iou for each in many for run in each[name]], axis=0)
        for name in GAIN
    }


def test_intervals_over_images_and_seeds_cover_the_truth(truth):
    """Over 600 studies of 3 seeds on 120 images, 93 to 97 % of the intervals hold the truth."""
    rng = np.random.default_rng(1)
    held = {"mean": 0, "class": 0, "difference": 0}
    studies = 600
    for _ in range(studies):
        repeats = Repeats(draw(rng, 120, 3, 0.03))
        mean = repeats.effect({"one": 1.0})
        held["mean"] += mean.low <= truth["one"].mean() <= mean.high
        one = repeats.effect({"third": 1.0}, [4])
        held["class"] += one.low <= truth["third"][4] <= one.high
        apart = repeats.effect({"other": 1.0, "one": -1.0})
        held["difference"] += apart.low <= (truth["other"] - truth["one"]).mean() <= apart.high
    shares = {name: count / studies for name, count in held.items()}
    assert all(0.93 <= share <= 0.97 for share in shares.values()), shares


def test_an_interval_without_the_seeds_is_too_narrow(truth):
    """What the combination is for: over the images alone, far fewer hold the truth."""
    rng, held, studies = np.random.default_rng(2), 0, 200
    for _ in range(studies):
        alone = Repeats({"one": draw(rng, 120, 1, 0.03)["one"]}).effect({"one": 1.0})
        assert np.isnan(alone.seeds)
        held += alone.low <= truth["one"].mean() <= alone.high
    assert held / studies < 0.9


def test_students_quantiles():
    """As in printed tables, two-sided, 95 %."""
    table = {1: 12.706, 2: 4.303, 3: 3.182, 5: 2.571, 8: 2.306, 14: 2.145, 30: 2.042, 1000: 1.962}
    for freedom, value in table.items():
        assert students_t(freedom) == pytest.approx(value, abs=6e-4)


def test_other_images_are_refused():
    """Trainings scored on different images are not put together."""
    rng = np.random.default_rng(3)
    first, second = draw(rng, 5, 1, 0.03), draw(rng, 6, 1, 0.03)
    with pytest.raises(RunError, match="different images"):
        Repeats({"one": first["one"], "other": second["one"]})


def test_a_configuration_that_is_a_matter_of_luck_blurs_no_other():
    """One training that fell apart widens the effects of its configuration alone."""
    rng = np.random.default_rng(3)
    runs = draw(rng, 120, 3, 0.01)
    before = Repeats(runs).effect({"other": 1.0, "one": -1.0})
    worst = replace(runs["third"][0], counts=runs["third"][0].counts.copy())
    wrong = worst.cells // worst.num_classes == worst.cells % worst.num_classes
    worst.counts[wrong] = 0
    after = Repeats({**runs, "third": [worst, *runs["third"][1:]]})
    assert after.effect({"other": 1.0, "one": -1.0}) == before
    own = after.effect({"third": 1.0, "one": -1.0})
    assert own.high - own.low > 3 * (before.high - before.low)
