"""model/weights.py's load_start: the weights a training starts from, whole or in part."""

import hashlib
import io
from dataclasses import replace

import pytest
import torch
from web import Served, serve

from ccnet_lab import WeightsError, build_model, get_config, save_weights, store
from ccnet_lab.errors import DownloadError
from ccnet_lab.model.weights import load_start

COARSE = replace(get_config("street8"), width=8, channels=8, query_channels=4, alias="coarse")


@pytest.fixture
def file(tmp_path):
    """Weights of the coarse network, with batch norms that are not as they begin."""
    model = build_model(COARSE)
    with torch.no_grad():
        for value in model.state_dict().values():
            value.add_(3)
    save_weights(model, tmp_path / "coarse.safetensors", COARSE)
    return tmp_path / "coarse.safetensors", model.state_dict()


def test_a_file_of_the_same_network_is_taken_whole(file):
    path, saved = file
    said = []
    started = load_start(build_model(COARSE), str(path), said.append).state_dict()
    assert all(torch.equal(started[name], saved[name]) for name in saved)
    assert said == []


def test_with_other_classes_the_last_layers_are_random_and_named(file):
    path, saved = file
    said = []
    model = build_model(replace(COARSE, dataset="voc"))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    started = load_start(model, str(path), said.append).state_dict()
    last = {name for name in started if name.startswith(("classifier.4.", "aux_classifier.4."))}
    assert len(last) == 4
    assert all(
        torch.equal(started[name], before[name] if name in last else saved[name])
        for name in started
    )
    assert len(said) == 1
    assert said[0].endswith("random at the start: aux_classifier.4, classifier.4")


def test_a_finer_network_begins_with_the_coarse_one_s_layers(file):
    path, saved = file
    said = []
    fine = load_start(
        build_model(replace(COARSE, output_stride=4)), str(path), said.append
    ).state_dict()
    assert torch.equal(
        fine["backbone.layer3.1.conv2.weight"], saved["backbone.layer3.1.conv2.weight"]
    )
    assert torch.equal(fine["attention.gamma"], saved["attention.gamma"])
    assert fine["reduce.0.weight"].shape != saved["reduce.0.weight"].shape
    for layer in ("backbone.finer", "backbone.smooth", "reduce.0"):
        assert layer in said[0]


def test_where_not_even_the_first_layers_fit_nothing_is_taken(file):
    path, _ = file
    model = build_model(replace(COARSE, width=16))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(WeightsError, match="nothing was loaded"):
        load_start(model, str(path))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.fixture
def host():
    yield from serve()


def test_imagenet_weights_are_downloaded_once_into_the_resnet(host, tmp_path, monkeypatch):
    monkeypatch.setenv("CCNET_LAB_HOME", str(tmp_path))
    monkeypatch.setenv(store.MIRROR, host.url)
    torch.manual_seed(3)
    backbone = build_model("ccnet_resnet50os8_voc").backbone.state_dict()
    buffer = io.BytesIO()
    torch.save(
        {**backbone, "fc.weight": torch.zeros(1000, 2048), "fc.bias": torch.zeros(1000)}, buffer
    )
    published = store.find("resnet50_v1c")
    host.files[published.file] = served = Served(content=buffer.getvalue())
    with pytest.raises(DownloadError, match="expected 2cccc1ad"):  # the published one it isn't
        load_start(build_model("ccnet_resnet50os16_voc"), "imagenet")
    asked = served.requests
    made = replace(published, digest=f"sha256:{hashlib.sha256(buffer.getvalue()).hexdigest()[:8]}")
    monkeypatch.setattr(store, "PUBLISHED", {**store.PUBLISHED, made.name: made})
    for _ in range(2):
        started = load_start(
            build_model("ccnet_resnet50os16_voc"), "imagenet"
        ).backbone.state_dict()
        assert all(torch.equal(started[name], backbone[name]) for name in started)
    assert served.requests == asked + 1


def test_small_networks_have_no_imagenet_weights():
    with pytest.raises(WeightsError, match="--weights none"):
        load_start(build_model(COARSE), "imagenet")
