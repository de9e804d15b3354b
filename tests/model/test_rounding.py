"""Weights rounded for a small file: the same network but for rounding; those that are shipped."""

import numpy as np
import pytest
import torch

from ccnet_lab import Explorer, build_model
from ccnet_lab.configs import MINIATURES
from ccnet_lab.data.generated.worlds import SEED, make_scene
from ccnet_lab.hub import available_models
from ccnet_lab.model import rounding
from ccnet_lab.model.weights import load_weights, save_weights

NAME = "ccnet_resnet50os8_voc_mini"


@pytest.fixture
def model():
    """With batch norms that have seen something."""
    torch.manual_seed(0)
    model = build_model(NAME).train()
    with torch.no_grad():
        for _ in range(8):
            model(torch.randn(4, 3, 64, 64))
    return model.eval()


@pytest.mark.parametrize(("kind", "most"), [(torch.float16, 2e-3), (torch.float8_e4m3fn, 0.2)])
def test_only_the_rounding_is_between(model, monkeypatch, tmp_path, kind, most):
    """The batch norms take the scales up: with finer numbers next to nothing changes."""
    monkeypatch.setattr(rounding, "EIGHT", kind)
    path = tmp_path / "a.safetensors"
    save_weights(rounding.rounded(model), path, NAME)
    again = build_model(NAME).eval()
    load_weights(again, path)
    pictures = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        before, after = model(pictures).logits, again(pictures).logits
    assert (before - after).norm() / before.norm() < most


def test_the_shipped_ones_are_small_and_label_scenes_that_no_one_trained_on():
    """One for each data set, in three megabytes, each far better than its largest class."""
    shipped = {name: path for name, path in available_models().items() if name in MINIATURES}
    assert [MINIATURES[name].dataset for name in shipped] == [
        "voc_mini",
        "ade20k_mini",
        "cityscapes_mini",
    ]
    assert sum(path.stat().st_size for path in shipped.values()) < 3_000_000
    for name in shipped:
        explorer, right, largest = Explorer.open(name), [], []
        reader = reader_of(MINIATURES[name].dataset)
        for number in range(6):
            image, ids = make_scene(MINIATURES[name].dataset, SEED, "val", number)
            labels = reader[ids]
            known = labels != 255
            right.append((explorer.look(image).labels == labels)[known].mean())
            largest.append(np.bincount(labels[known]).max() / known.sum())
        assert np.mean(right) > 0.75
        assert np.mean(right) > np.mean(largest) + 0.2


def reader_of(dataset):
    """(256,) class by a mask's id."""
    from ccnet_lab.data.catalog import get_dataset
    from ccnet_lab.data.datasets import label_table

    return np.asarray(label_table(get_dataset(dataset), False))
