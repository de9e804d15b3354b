"""data/transforms.py, batches.py: the recipe's transforms against plain forms; seeded samples."""

import colorsys
from dataclasses import replace
from itertools import pairwise

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from layouts import make_camvid
from PIL import Image

from benchmarks import samples
from ccnet_lab import get_config
from ccnet_lab.data import transforms
from ccnet_lab.data.batches import steps_per_epoch, training_batches
from ccnet_lab.data.catalog import IGNORE, get_dataset
from ccnet_lab.data.datasets import open_split
from ccnet_lab.errors import ConfigError, DataError

RESIZE, CROP = (120, 60), (32, 40)


class Fixed:
    """A generator that returns given numbers, of `uniform()` in turn, and one integer."""

    def __init__(self, contrast_first, changes, values, integer):
        self.first, self.changes, self.values, self.integer = (
            contrast_first,
            changes,
            iter(values),
            integer,
        )

    def random(self, count=None):
        return (0.0 if self.first else 1.0) if count is None else np.where(self.changes, 0.0, 1.0)

    def uniform(self, *_):
        return next(self.values)

    def integers(self, *_):
        return self.integer


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
    expected = F.interpolate(
        torch.tensor(image).permute(2, 0, 1)[None].float(),
        size=size,
        mode="bilinear",
        align_corners=False,
    )[0]
    found = transforms.resize(image, *size)
    assert found.dtype == np.uint8
    assert np.abs(found.transpose(2, 0, 1) - expected.numpy()).max() < 1.1  # rounded once per axis


@pytest.mark.parametrize("height_width", [(64, 81), (63, 117), (9, 7), (1, 5)], ids=str)
@pytest.mark.parametrize("factor", [0.31, 0.5, 0.73, 0.98, 1.0, 1.04, 1.6, 2.0, 3.3])
def test_a_resized_crop_is_the_crop_of_the_resized(height_width, factor):
    image = noise(*height_width)
    size = tuple(max(1, round(length * factor)) for length in height_width)
    whole = cv2.resize(image, size[::-1], interpolation=cv2.INTER_LINEAR).astype(int)
    rng = np.random.default_rng(1)
    for _ in range(8):
        height, width = (int(rng.integers(1, length + 1)) for length in size)
        top, left = int(rng.integers(size[0] - height + 1)), int(rng.integers(size[1] - width + 1))
        found = transforms.resized_crop(image, size, (top, left, height, width))
        assert found.shape == (height, width, 3)
        assert np.abs(found - whole[top : top + height, left : left + width]).max() <= 1


@pytest.mark.parametrize("height_width", [(64, 81), (37, 113), (20, 11)], ids=str)
def test_the_crop_s_labels_are_those_of_the_resized(height_width):
    labels = np.random.default_rng(0).integers(0, 256, height_width, np.uint8)
    for seed in range(60):
        rng = np.random.default_rng(seed)
        size = transforms.random_size(*height_width, rng, RESIZE)
        (top, left, height, width), part = transforms.choose_crop(labels, size, rng, CROP)
        assert (height, width) == (min(CROP[0], size[0]), min(CROP[1], size[1]))
        whole = cv2.resize(labels, size[::-1], interpolation=cv2.INTER_NEAREST)
        assert np.array_equal(part, whole[top : top + height, left : left + width])


def test_brightness_and_contrast_by_hand():
    image = noise(6, 7)
    for first in (True, False):
        found = transforms.distort_colours(
            image, Fixed(first, [True, True, False, False], [20.0, 1.25, 1.0], 0)
        )
        expected = np.floor((np.floor(np.clip(image + 20.0, 0, 255)) * 1.25).clip(0, 255))
        assert np.array_equal(found, expected)


def test_saturation_and_hue_are_those_of_hsv():
    image = noise(8, 9)
    found = transforms.distort_colours(
        image, Fixed(True, [False, False, True, True], [0.0, 1.0, 1.4], 13)
    ).astype(int)
    for pixel, changed in zip(image.reshape(-1, 3) / 255, found.reshape(-1, 3), strict=True):
        hue, saturation, value = colorsys.rgb_to_hsv(*pixel)
        expected = colorsys.hsv_to_rgb((hue + 13 / 180) % 1, min(1, saturation * 1.4), value)
        assert (
            np.abs(np.array(expected) * 255 - changed).max() <= 7
        )  # HSV is kept in 8 bits, here as in the recipe


def test_nothing_changed_is_nothing_changed():
    image = noise(5, 5)
    assert (
        transforms.distort_colours(image, Fixed(True, [False] * 4, [9.0, 1.4, 1.4], 5)).tolist()
        == image.tolist()
    )


def test_colours_are_the_recipe_s_to_the_bit():
    image = noise(40, 50)
    for seed in range(200):
        ours, recipe = (
            form(image, np.random.default_rng(seed))
            for form in (transforms.distort_colours, samples._recipe_colours)
        )
        assert np.array_equal(ours, recipe)


def scene(height, width, seed):
    """A smooth picture and its labels, half of one class, some unlabelled."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (5, 6, 3), np.uint8))
    labels = rng.integers(0, 5, (height // 6 + 1, width // 6 + 1), np.uint8)
    labels[rng.random(labels.shape) < 0.6] = 0
    labels[rng.random(labels.shape) < 0.05] = IGNORE
    return np.array(coarse.resize((width, height), Image.Resampling.BICUBIC)), labels.repeat(
        6, 0
    ).repeat(6, 1)[:height, :width].copy()


@pytest.mark.parametrize(
    "height_width", [(60, 83), (21, 33)], ids=str
)  # the second smaller than its crop at most scales
def test_a_thousand_draws_are_the_recipe_s(height_width):
    """Equal labels and padding, pixels within a grey level before the colours, equal mean after."""
    means, tries = [], []
    for seed in range(1000):
        image, labels = scene(*height_width, seed % 10)
        ours, (pixels, target) = (
            form(image, labels, np.random.default_rng(seed), CROP, RESIZE)
            for form in (transforms.augment, samples.recipe_augment)
        )
        assert (ours.pixels.shape, ours.pixels.dtype, ours.labels.dtype) == (
            (*CROP, 3),
            np.uint8,
            np.uint8,
        )
        assert np.array_equal(ours.labels, target.numpy())
        normalised = transforms.normalise_crops(
            torch.tensor(ours.pixels)[None], torch.tensor([ours.inside])
        )[0]
        top, bottom, left, right = ours.inside
        padded = torch.ones(CROP, dtype=torch.bool)
        padded[top:bottom, left:right] = False
        assert not pixels[:, padded].any()
        assert not normalised[:, padded].any()
        levels = [
            (part * torch.tensor(transforms.STD)[:, None, None])[:, ~padded]
            for part in (normalised, pixels)
        ]
        means.append([(part.mean().item(), part.std().item()) for part in levels])
        tries.append((levels[0] - levels[1]).abs().quantile(0.9).item())
    ours, recipe = np.array(means).transpose(1, 2, 0)  # (mean or deviation, draws) each
    assert np.abs(ours.mean(1) - recipe.mean(1)).max() < 0.2  # of 255
    assert np.abs(ours.std(1) - recipe.std(1)).max() < 0.2
    assert np.median(tries) < 2


def test_the_pixels_of_a_draw_are_the_recipe_s_but_for_a_grey_level(monkeypatch):
    """Without the change of colours, which would make more of a grey level."""
    for module, name in ((transforms, "distort_colours"), (samples, "_recipe_colours")):
        monkeypatch.setattr(module, name, lambda image, _: image)
    std = torch.tensor(transforms.STD)[:, None, None]
    for seed in range(100):
        image, labels = noise(60, 83, seed), scene(60, 83, seed)[1]
        ours, (pixels, _) = (
            form(image, labels, np.random.default_rng(seed), CROP, RESIZE)
            for form in (transforms.augment, samples.recipe_augment)
        )
        normalised = transforms.normalise_crops(
            torch.tensor(ours.pixels)[None], torch.tensor([ours.inside])
        )[0]
        assert ((normalised - pixels) * std).abs().max() < 1.01


def test_crops_are_normalised_as_the_recipe_does_it_before_padding():
    boxes = [(0, 20, 0, 30), (3, 17, 5, 6), (10, 20, 0, 30), (0, 20, 29, 30)]
    images = torch.tensor(np.stack([noise(20, 30, seed) for seed in range(4)]))
    found = transforms.normalise_crops(images, torch.tensor(boxes))
    assert found.is_contiguous(memory_format=torch.channels_last)
    for image, one, (top, bottom, left, right) in zip(images, found, boxes, strict=True):
        expected = torch.zeros(3, 20, 30)
        expected[:, top:bottom, left:right] = transforms.normalise(image)[:, top:bottom, left:right]
        assert torch.equal(one, expected)
        assert not one.signbit()[expected == 0].any()


def test_a_crop_avoids_one_class_covering_it():
    labels = np.zeros((100, 100), np.uint8)
    labels[:, 50:] = 1
    labels[:5] = IGNORE
    for seed in range(30):
        (_, _, height, width), part = transforms.choose_crop(
            labels, (100, 100), np.random.default_rng(seed), (40, 60)
        )
        assert (height, width) == part.shape == (40, 60)
        counts = np.bincount(part.ravel(), minlength=256)[:255]
        assert counts.max() < 0.75 * counts.sum()


@pytest.mark.parametrize("value", [0, IGNORE])
def test_a_crop_of_one_class_only_is_taken_after_ten_tries(value):
    box, part = transforms.choose_crop(
        np.full((50, 50), value, np.uint8), (70, 70), np.random.default_rng(0), (20, 20)
    )
    assert box[2:] == part.shape == (20, 20)
    assert (part == value).all()


def test_labels_stay_with_their_pixels():
    """Colours tell the labels: whatever scale, crop and flip, they still do."""
    labels = np.kron(
        np.random.default_rng(1).integers(0, 4, (6, 12)), np.ones((10, 10), int)
    ).astype(np.uint8)
    image = np.repeat((labels * 60)[..., None], 3, axis=-1)
    for seed in range(20):
        pixels, target, _ = transforms.augment(
            image, labels, np.random.default_rng(seed), CROP, RESIZE
        )
        order = [
            float(np.median(pixels.mean(2)[target == k]))
            for k in range(4)
            if (target == k).sum() > 20
        ]
        assert all(a < b for a, b in pairwise(order))


def test_what_is_padded_is_ignored_and_told():
    image, labels = noise(20, 40), np.zeros((20, 40), np.uint8)
    pixels, target, (top, bottom, left, right) = transforms.augment(
        image, labels, np.random.default_rng(3), (100, 300), (40, 20)
    )
    padded = np.ones((100, 300), bool)
    padded[top:bottom, left:right] = False
    assert np.array_equal(target == IGNORE, padded)
    assert not pixels[padded].any()
    assert abs((top + bottom) - 100) <= 1  # centred
    assert abs((left + right) - 300) <= 1


def test_scales_cover_the_range_and_half_are_flipped():
    image, labels = noise(60, 120), np.arange(120, dtype=np.uint8)[None].repeat(60, 0)
    heights, flips = [], 0
    for seed in range(200):
        heights.append(transforms.random_size(60, 120, np.random.default_rng(seed), RESIZE)[0])
        target = transforms.augment(image, labels, np.random.default_rng(seed), CROP, RESIZE).labels
        seen = target[target != IGNORE]
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
        assert all(torch.equal(a, b) for a, b in zip(x[1:], y[1:], strict=True))


def test_a_batch_is_bytes_until_it_is_normalised(split):
    batch = drawn(split, range(1))[0]
    assert (batch.images.shape, batch.images.dtype, batch.labels.dtype) == (
        (4, 24, 32, 3),
        torch.uint8,
        torch.uint8,
    )
    found = batch.normalised(slice(1, 3), torch.device("cpu"))
    assert torch.equal(found, transforms.normalise_crops(batch.images, batch.inside)[1:3])


def test_batches_do_not_depend_on_workers_or_where_one_begins(split):
    whole = drawn(split, range(8))
    assert_equal(whole, drawn(split, range(8), workers=2))
    assert_equal(whole[5:], drawn(split, range(5, 8), workers=1))
    other = drawn(split, range(8), seed=1)
    assert [batch.names for batch in other] != [batch.names for batch in whole]


def test_an_epoch_has_every_image_once_and_the_next_another_order(split):
    batches = drawn(split, range(6))  # 12 images, 3 steps per epoch
    first, second = (
        [name for batch in part for name in batch.names] for part in (batches[:3], batches[3:])
    )
    assert sorted(first) == sorted(second) == sorted(pair.name for pair in split.pairs)
    assert first != second
    again = {
        name: image
        for batch in batches[3:]
        for name, image in zip(batch.names, batch.images, strict=True)
    }
    assert not any(
        torch.equal(again[n], i)
        for b in batches[:3]
        for n, i in zip(b.names, b.images, strict=True)
    )


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
    with pytest.raises(
        ConfigError,
        match="a batch of 8 cannot be shared by 3 processes; change --batch-size or their number",
    ):
        steps_per_epoch(2_975, 8, 3)
    for processes in (2, 4, 8):  # as published
        assert [
            steps_per_epoch(*of, processes) for of in ((10_582, 16), (20_210, 16), (2_975, 8))
        ] == [661, 1_263, 372]
    with pytest.raises(DataError, match="lower --batch-size"):
        steps_per_epoch(3, 4)


def test_several_processes_repeat_images_until_all_have_as_many(split):
    of_7 = replace(split, pairs=split.pairs[:7])
    batches = [
        list(
            training_batches(
                of_7,
                replace(get_config("street8"), batch_size=2, crop_size=(16, 16)),
                range(4),
                rank=rank,
                world=2,
            )
        )
        for rank in range(2)
    ]
    names = [name for pair in zip(*batches, strict=True) for batch in pair for name in batch.names]
    assert len(names) == 8 == len(set(names)) + 1
    assert names[-1] == names[0]
