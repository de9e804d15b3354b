"""data/transforms.py and data/batches.py: the recipe's transforms against slow plain forms, and samples that depend on their seed alone."""

import colorsys
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from layouts import make_camvid

from ccnet_lab import get_config
from ccnet_lab.data import transforms
from ccnet_lab.data.batches import steps_per_epoch, training_batches
from ccnet_lab.data.catalog import IGNORE, get_dataset
from ccnet_lab.data.datasets import open_split
from ccnet_lab.errors import DataError

RESIZE, CROP = (120, 60), (32, 40)


class Fixed:
    """A generator that gives what it is told: for `random()` and `uniform()` in turn."""

    def __init__(self, contrast_first, changes, values):
        self.first, self.changes, self.values = contrast_first, changes, iter(values)

    def random(self, count=None):
        return (0.0 if self.first else 1.0) if count is None else np.where(self.changes, 0.0, 1.0)

    def uniform(self, *_):
        return next(self.values)


def noise(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


@pytest.mark.parametrize(("height", "width"), [(375, 500), (500, 375), (1024, 2048), (17, 301)])
def test_fitted_size_keeps_the_ratio_within_both_sides(height, width):
    new = transforms.fitted_size(height, width, 2048, 512)
    assert max(new) <= 2048
    assert min(new) <= 512
    assert max(new) == 2048 or min(new) == 512
    assert new[0] / new[1] == pytest.approx(height / width, rel=0.02)


@pytest.mark.parametrize("size", [(31, 57), (90, 20), (200, 300)])
def test_resize_is_plain_bilinear(size):
    image = noise(64, 81)
    expected = F.interpolate(torch.tensor(image).permute(2, 0, 1)[None].float(), size=size, mode="bilinear", align_corners=False)[0]
    found = transforms.resize(image, *size)
    assert found.dtype == np.uint8
    assert np.abs(found.transpose(2, 0, 1) - expected.numpy()).max() < 1.1  # rounded once per axis


@pytest.mark.parametrize("size", [(40, 50), (64, 81), (101, 160), (64, 130)])
def test_a_resized_crop_is_the_crop_of_the_resized(size):
    image = noise(64, 81)
    for top, left, height, width in ((0, 0, 20, 30), (size[0] - 17, size[1] - 19, 17, 19), (5, 7, 31, 33)):
        expected = transforms.resize(image, *size)[top : top + height, left : left + width].astype(int)
        found = transforms.resized_crop(image, size, (top, left, height, width))
        assert np.abs(found - expected).max() <= 1


def test_brightness_and_contrast_by_hand():
    image = noise(6, 7)
    for first in (True, False):
        found = transforms.distort_colours(image, Fixed(first, [True, True, False, False], [20.0, 1.3, 1.0, 0.0]))
        expected = (np.clip(image + 20.0, 0, 255).round() * 1.3).clip(0, 255).round()
        assert np.array_equal(found, expected)


def test_saturation_and_hue_are_those_of_hsv():
    image = noise(8, 9)
    found = transforms.distort_colours(image, Fixed(True, [False, False, True, True], [0.0, 1.0, 1.4, 0.07])).astype(int)
    for pixel, changed in zip(image.reshape(-1, 3) / 255, found.reshape(-1, 3), strict=True):
        hue, saturation, value = colorsys.rgb_to_hsv(*pixel)
        expected = colorsys.hsv_to_rgb((hue + 0.07) % 1, min(1, saturation * 1.4), value)
        assert np.abs(np.array(expected) * 255 - changed).max() <= 7  # HSV is kept in 8 bits, here as in the recipe


def test_nothing_changed_is_nothing_changed():
    image = noise(5, 5)
    assert transforms.distort_colours(image, Fixed(True, [False] * 4, [9.0, 1.4, 1.4, 0.1])).tolist() == image.tolist()


def test_a_crop_avoids_one_class_covering_it():
    labels = np.zeros((100, 100), np.uint8)
    labels[:, 50:] = 1
    labels[:5] = IGNORE
    for seed in range(30):
        top, left, height, width = transforms.choose_crop(labels, np.random.default_rng(seed), (40, 60))
        assert (height, width) == (40, 60)
        counts = np.bincount(labels[top : top + 40, left : left + 60].ravel(), minlength=256)[:255]
        assert counts.max() < 0.75 * counts.sum()


def test_a_crop_of_one_class_only_is_taken_after_ten_tries():
    assert transforms.choose_crop(np.zeros((50, 50), np.uint8), np.random.default_rng(0), (20, 20))[2:] == (20, 20)


def test_labels_stay_with_their_pixels():
    """Colours tell the labels: whatever scale, crop and flip, they still do."""
    labels = np.kron(np.random.default_rng(1).integers(0, 4, (6, 12)), np.ones((10, 10), int)).astype(np.uint8)
    image = np.repeat((labels * 60)[..., None], 3, axis=-1)
    for seed in range(20):
        rng = np.random.default_rng(seed)
        pixels, target = transforms.augment(image, labels, rng, CROP, RESIZE)
        assert (pixels.shape, target.shape) == ((3, *CROP), CROP)
        assert (pixels.dtype, target.dtype) == (torch.float32, torch.uint8)
        order = [float(pixels.mean(0)[target == k].median()) for k in range(4) if (target == k).sum() > 20]
        assert all(a < b for a, b in pairwise(order))


def test_what_is_padded_is_zero_and_ignored():
    pixels, target = transforms.augment(noise(20, 40), np.zeros((20, 40), np.uint8), np.random.default_rng(3), (100, 300), (40, 20))
    padded = target == IGNORE
    assert padded.any()
    assert (pixels[:, padded] == 0).all()
    rows, columns = (~padded).any(1).nonzero()[:, 0], (~padded).any(0).nonzero()[:, 0]
    assert abs((rows[0] + rows[-1] + 1) - 100) <= 1  # centred
    assert abs((columns[0] + columns[-1] + 1) - 300) <= 1


def test_scales_cover_the_range_and_half_are_flipped():
    image, labels = noise(60, 120), np.arange(120, dtype=np.uint8)[None].repeat(60, 0)
    heights, flips = [], 0
    for seed in range(200):
        heights.append(transforms.random_size(60, 120, np.random.default_rng(seed), RESIZE)[0])
        _, target = transforms.augment(image, labels, np.random.default_rng(seed), CROP, RESIZE)
        seen = target[target != IGNORE].view(-1)
        flips += bool(seen[0] > seen[-1])
    assert min(heights) < 35
    assert max(heights) > 115
    assert 75 < flips < 125


@pytest.fixture(scope="module")
def split(tmp_path_factory):
    root = tmp_path_factory.mktemp("camvid")
    make_camvid(root)
    return open_split(get_dataset("camvid"), root)


def drawn(split, steps, **options):
    config = replace(get_config("street"), crop_size=(24, 32), resize=(64, 48), batch_size=4)
    return list(training_batches(split, config, steps, **options))


def assert_equal(a, b):
    assert len(a) == len(b)
    for x, y in zip(a, b, strict=True):
        assert x.names == y.names
        assert torch.equal(x.images, y.images)
        assert torch.equal(x.labels, y.labels)


def test_batches_do_not_depend_on_workers_or_where_one_begins(split):
    whole = drawn(split, range(8))
    assert_equal(whole, drawn(split, range(8), workers=2))
    assert_equal(whole[5:], drawn(split, range(5, 8), workers=1))
    other = drawn(split, range(8), seed=1)
    assert [batch.names for batch in other] != [batch.names for batch in whole]


def test_an_epoch_has_every_image_once_and_the_next_another_order(split):
    batches = drawn(split, range(6))  # 12 images, 3 steps per epoch
    first, second = ([name for batch in part for name in batch.names] for part in (batches[:3], batches[3:]))
    assert sorted(first) == sorted(second) == sorted(pair.name for pair in split.pairs)
    assert first != second
    again = {name: image for batch in batches[3:] for name, image in zip(batch.names, batch.images, strict=True)}
    assert not any(torch.equal(again[n], i) for b in batches[:3] for n, i in zip(b.names, b.images, strict=True))


def test_processes_share_a_batch(split):
    whole = drawn(split, range(3))
    parts = [drawn(split, range(3), rank=rank, world=2) for rank in (0, 1)]
    for batch, first, second in zip(whole, *parts, strict=True):
        assert batch.names == first.names + second.names
        assert torch.equal(batch.images, torch.cat([first.images, second.images]))


def test_what_is_left_over_is_dropped():
    assert steps_per_epoch(10_582, 16) == 661
    assert steps_per_epoch(20_210, 16) == 1_263
    assert steps_per_epoch(2_975, 8) == 371
    with pytest.raises(DataError, match="lower --batch-size"):
        steps_per_epoch(3, 4)
