"""hub.py: a name or "PATH as NAME" becomes a model and its configuration; the file is read once."""

import shutil

import pytest
import torch

from ccnet_lab import get_config, load_weights
from ccnet_lab.errors import ConfigError, DeviceError, MissingFileError
from ccnet_lab.hub import find_weights, load
from ccnet_lab.model import weights


def test_a_model_comes_with_its_configuration():
    model, config = load("demo")
    assert config == get_config("demo")
    assert not model.training
    other = load("demo_r1")[0]
    load_weights(other, find_weights("demo"))
    for a, b in zip(model.state_dict().values(), other.state_dict().values(), strict=True):
        assert torch.equal(a, b)


def test_a_file_is_opened_as_another_configuration(tmp_path):
    path = shutil.copy(find_weights("demo"), tmp_path / "a.safetensors")
    assert load(path)[1].recurrence == 2
    assert load(f"{path} as demo_r1")[1].recurrence == 1
    assert load(path, config="demo_r1")[1].recurrence == 1


def test_the_file_is_read_once(monkeypatch):
    read, real = [], weights.safe_open
    monkeypatch.setattr(weights, "safe_open", lambda *a, **k: read.append(a[0]) or real(*a, **k))
    load("demo")
    assert read == [find_weights("demo")]


def test_what_cannot_be_opened():
    with pytest.raises(ConfigError, match="did you mean 'demo'"):
        load("demmo")
    with pytest.raises(ConfigError, match="neither a model's name nor a file"):
        load("x" * 3000)  # longer than the name of a file may be
    with pytest.raises(DeviceError, match="cpu"):
        load("demo", "cuda:99")


def test_a_miniature_by_name_says_what_trains_it():
    with pytest.raises(MissingFileError, match=r"train_all\.py --miniature` trains it"):
        find_weights("ccnet_resnet101os8_voc_mini")
