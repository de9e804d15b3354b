"""Timings: every sub-command runs and stores what it says; the forms that are timed side by side give the same."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from ccnet_lab import build_model, get_config
from ccnet_lab.configs import Config
from ccnet_lab.data.timing import cv2, recipe_augment, summary
from ccnet_lab.data.transforms import augment
from ccnet_lab.explore.maps import Step, dense_weights
from ccnet_lab.explore.timing import dense_map, dense_matrix, time_maps
from ccnet_lab.model.attention import CrissCrossAttention
from ccnet_lab.model.fast import folded, has_bf16
from ccnet_lab.model.timing import as_published

RATIOS = {  # of each sub-command: the baseline's median, and ours
    "train": lambda row: 1 / row["published"]["images_per_second"] * row["ours"]["images_per_second"],
    "data": lambda row: (row["recipe_read"] + row["recipe_transform"]) / (row["read"] + row["transform"]),
    "explore": lambda row: row["dense_median"] / row["median"],
    "attention": lambda row: row["plain_total"] / row["fast_total"],
}


@pytest.mark.parametrize("what", [*RATIOS, "infer"])
def test_every_part_runs_and_stores(door, tmp_path, what):
    files = ("--json", tmp_path / "found.json", "--figure", tmp_path / "found.png")
    only = ("--only", "street") if what == "train" else ()
    code, out, err = door("scripts/benchmark.py", what, "--small", "--repeats", 2, *only, *files)
    assert code == 0, err
    stored = json.loads((tmp_path / "found.json").read_text())
    assert {"commit", "versions", "machine", "repeats", what} <= set(stored)
    rows = stored[what]
    ratio = RATIOS.get(what, lambda row: rows[0]["median"] / row["median"])
    for row in rows:
        assert row.get("ratio", row.get("total_ratio")) == pytest.approx(ratio(row))
    assert out.count("\n") >= 2 + len(rows)
    assert ("no bf16 units here" in out) == (what == "infer" and not has_bf16(torch.device("cpu")))
    assert Image.open(tmp_path / "found.png").size[0] > 600


def test_a_device_that_is_not_there(door):
    code, _, err = door("scripts/benchmark.py", "explore", "--device", "cuda:77")
    assert code == 2
    assert "cuda:77" in err


def test_the_spread_is_the_middle_half():
    assert summary([1.0, 2.0, 4.0, 6.0, 100.0]) == (4.0, 1.0)


def _used(config: str | Config):
    """A network whose batch norms have seen something."""
    torch.manual_seed(0)
    model = build_model(config)
    with torch.no_grad():
        model.attention.gamma.fill_(0.7)
        model.train()(torch.randn(2, 3, 48, 48))
    return model.eval()


@pytest.mark.parametrize(
    ("config", "size"), [("demo", (37, 50)), ("street", (75, 53)), ("street8", (49, 98)), ("ccnet_resnet50os8_voc", (65, 49))]
)
@torch.no_grad()
def test_folded_networks_agree(config, size):
    model = _used(config)
    images = torch.randn(1, 3, *size)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    fast = folded(model)
    torch.testing.assert_close(fast(images).logits, model(images).logits, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(fast(images, recurrence=3).logits, model(images, recurrence=3).logits, rtol=1e-4, atol=1e-4)
    assert not [module for module in fast.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    assert fast.aux_classifier is None
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@torch.no_grad()
def test_the_published_form_is_the_same_network():
    model, images = _used("street"), torch.randn(1, 3, 41, 60)
    expected = model(images).logits
    published = as_published(model)
    assert type(published.attention) is not CrissCrossAttention
    torch.testing.assert_close(published(images).logits, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("seed", range(4))
def test_the_recipe_in_its_order_gives_what_ours_gives(seed):
    """Same draws, same crop: labels equal, pixels but for rounding (smooth pictures of a size that every scale enlarges)."""
    config = get_config("ccnet_resnet50os8_voc")
    coarse = Image.fromarray(np.random.default_rng(seed).integers(0, 256, (5, 6, 3), np.uint8))
    image = np.asarray(coarse.resize((150, 120), Image.Resampling.BICUBIC))
    labels = np.random.default_rng(seed).integers(0, 21, (12, 15), np.uint8).repeat(10, 0).repeat(10, 1)
    ours, theirs = (form(image, labels, np.random.default_rng(seed), (256, 320), config.resize) for form in (augment, recipe_augment))
    assert ours[0].shape == theirs[0].shape == (3, 256, 320)
    assert (ours[1] == theirs[1]).float().mean() > (0.99 if cv2 else 0.95)  # Pillow's nearest is of the pixel's centre
    assert (ours[0] - theirs[0]).abs().mean() * 58 < (2.5 if cv2 else 1.5)  # grey levels


@pytest.mark.parametrize("grid", [(5, 8), (1, 4), (6, 1)])
def test_dense_matrices_give_the_same_map(grid):
    assert all(timing.difference < 1e-6 for timing in time_maps(grid, 1, torch.device("cpu"), query_channels=3))
    generator = torch.Generator().manual_seed(0)
    step = Step(*(torch.randn(*grid, 3, generator=generator) for _ in range(2)))
    matrix = dense_matrix(step)
    assert torch.allclose(matrix.sum(1), torch.ones(len(matrix)))
    assert float(matrix.max()) == pytest.approx(float(dense_weights(step).max()))
    assert torch.allclose(dense_map([step], 0, 0).flatten(), matrix[0])
