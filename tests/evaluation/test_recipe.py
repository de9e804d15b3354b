"""Evaluation and explorer feed and label images as the reference does; older runs and scores."""

import json
import zlib
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import PARITY, SHARED
from PIL import Image

from ccnet_lab import CONFIGS, Explorer, build_model, get_config
from ccnet_lab.data.catalog import DATASETS, get_dataset
from ccnet_lab.data.datasets import open_own, open_split
from ccnet_lab.data.transforms import MEAN, STD, fit, resize
from ccnet_lab.errors import ConfigError, RunError
from ccnet_lab.evaluation import predict as inference
from ccnet_lab.evaluation.protocol import Protocol, check_comparable, differences, plan
from ccnet_lab.runs import Run
from ccnet_lab.training.loop import open_run
from ccnet_lab.training.settings import Settings

INPUTS = json.loads((PARITY / "eval_inputs.json").read_text())
EXPECTED = {
    f"{name.split('/')[0]}/{name.split('/')[-1].removesuffix('_leftImg8bit')}": known
    for name, known in INPUTS.items()
}
SPLITS = [
    ("voc", "trainaug"),
    ("voc", "val"),
    ("ade20k", "training"),
    ("ade20k", "validation"),
    ("cityscapes", "train"),
    ("cityscapes", "val"),
]
real = pytest.mark.skipif(
    not SHARED.is_dir(), reason="the real photographs lie beside the repository, not in it"
)


def small(dataset):
    """A small network for the data set whose predictions vary over the image."""
    resized = (2048, 1024) if dataset == "cityscapes" else (2048, 512)
    config = replace(
        get_config("demo"),
        dataset=dataset,
        channels=16,
        query_channels=8,
        resize=resized,
        alias=f"small_{dataset}",
    )
    torch.manual_seed(0)
    model = build_model(config).eval()
    with torch.inference_mode():
        model.classifier[-1].bias.data -= model(torch.randn(1, 3, 64, 96)).logits.mean((0, 2, 3))
    return model, config


class Fed:
    """What a network is fed, as crc32 of the grey levels it was normalised from."""

    def __init__(self, model):
        self.inputs = []
        self.hook = model.backbone.register_forward_pre_hook(
            lambda _, given: self.inputs.append(given[0])
        )

    def crc32(self):
        (image,) = self.inputs.pop()
        levels = image.movedim(0, -1) * torch.tensor(STD) + torch.tensor(MEAN)
        assert (levels - levels.round()).abs().max() < 0.01
        return (
            f"{zlib.crc32(levels.round().to(torch.uint8).contiguous().numpy().tobytes()):08x}",
            levels.shape[:2],
        )


@real
def test_the_recorded_inputs_are_of_these_images():
    names = {
        f"{key}/{pair.name}"
        for key, part in SPLITS
        for pair in open_split(get_dataset(key), SHARED, part).pairs
    }
    assert names >= {*EXPECTED}
    assert len(EXPECTED) == 17


@real
@pytest.mark.parametrize(("dataset", "part"), SPLITS)
def test_evaluation_and_explorer_feed_what_the_reference_feeds_and_agree_on_every_pixel(
    dataset, part
):
    model, config = small(dataset)
    fed, explorer = Fed(model), Explorer(model, config)
    split = open_split(get_dataset(dataset), SHARED, part)
    protocol = plan(split, config)
    for pair, item in zip(split.pairs, inference.load(split, protocol), strict=True):
        expected = EXPECTED.get(f"{dataset}/{pair.name}")
        if expected is None:
            continue
        labels = inference.predict(model, item, protocol, torch.device("cpu"))
        for _ in range(2):
            assert fed.crc32() == (expected["crc32"], (expected["height"], expected["width"]))
            view = None if fed.inputs else explorer.look(pair.image)
            if view is None:
                break
            assert view.size == item.labels.shape
            assert (view.labels == labels).mean() > 0.9999  # its network rounds otherwise
            labels = inference.predict(explorer.network, item, protocol, torch.device("cpu"))
            assert np.array_equal(view.labels, labels)
            fed.inputs.pop()


def fixed_point(image, height, width):
    """OpenCV's 8-bit bilinear by its definition, in integers: 11-bit weights, rounded once."""

    def along(old, new):
        centre = ((np.arange(new) + 0.5) * (old / new) - 0.5).astype(np.float32)
        first = np.floor(centre).astype(int)
        share = centre - first
        share[(first < 0) | (first >= old - 1)] = 0
        first = first.clip(0, old - 1)
        one = np.rint(share.astype(np.float32) * 2048).astype(np.int64)
        return first, (first + 1).clip(max=old - 1), 2048 - one, one

    (top, bottom, up, down), (left, right, before, after) = (
        along(image.shape[0], height),
        along(image.shape[1], width),
    )
    rows = image.astype(np.int64)
    rows = rows[:, left] * before[:, None] + rows[:, right] * after[:, None]
    upper, lower = rows[top] >> 4, rows[bottom] >> 4
    return (
        ((upper * up[:, None, None]) >> 16) + ((lower * down[:, None, None]) >> 16) + 2 >> 2
    ).astype(np.uint8)


@pytest.mark.parametrize("size", [(50, 71), (61, 200), (20, 30), (1, 1), (48, 300), (300, 64)])
def test_resizing_is_opencv_s_fixed_point_arithmetic(picture, size):
    image = picture(48, 64)
    difference = np.abs(resize(image, *size).astype(int) - fixed_point(image, *size))
    assert difference.max() <= 1
    assert (difference == 0).mean() > 0.99
    assert fit(image, 64, 48) is image


def test_labels_of_a_view_are_those_of_the_evaluation(tmp_path, picture, monkeypatch):
    for part in ("images", "masks"):
        (tmp_path / "agreeing" / part).mkdir(parents=True)
    for name, height, width in (("large", 700, 1000), ("small", 40, 60), ("tall", 400, 150)):
        Image.fromarray(picture(height, width)).save(
            tmp_path / "agreeing" / "images" / f"{name}.png"
        )
        Image.fromarray(np.zeros((height, width), np.uint8)).save(
            tmp_path / "agreeing" / "masks" / f"{name}.png"
        )
    (tmp_path / "agreeing" / "classes.json").write_text(
        json.dumps([f"class {i}" for i in range(30)])
    )
    (tmp_path / "agreeing" / "val.txt").write_text("large\nsmall\ntall\n")
    monkeypatch.setattr("ccnet_lab.data.catalog.DATASETS", dict(DATASETS))
    dataset = open_own(tmp_path / "agreeing")
    model, config = small(dataset.key)
    split = open_split(dataset, "", "val")
    protocol, explorer = plan(split, config), Explorer(model, config)
    for pair, item in zip(split.pairs, inference.load(split, protocol), strict=True):
        labels = inference.predict(model, item, protocol, torch.device("cpu"))
        assert len(np.unique(labels)) > 3
        found = explorer.look(pair.image).labels
        assert (found == labels).mean() > 0.9999  # its network rounds otherwise
        labels = inference.predict(explorer.network, item, protocol, torch.device("cpu"))
        assert np.array_equal(found, labels)


# The schedule's floor


def test_the_twelve_have_a_floor_and_the_small_models_none():
    assert {config.min_lr for config in CONFIGS.values()} == {0.0001}
    assert {get_config(name).min_lr for name in ("demo", "demo_r1", "street8", "street")} == {0.0}
    changed = replace(get_config("ccnet_resnet50os8_voc"), lr=0.02)
    assert (changed.min_lr, json.loads(json.dumps(changed.to_dict()))["min_lr"]) == (0.0002, 0.0002)
    assert (
        replace(changed, min_lr=0.001).min_lr
        == replace(replace(changed, min_lr=0.001), lr=0.005).min_lr
        == 0.001
    )
    for wrong in (-1e-4, 0.02):
        with pytest.raises(ConfigError, match=r"min_lr is .*; expected 0 to lr, which is 0.01"):
            replace(get_config("ccnet_resnet50os8_voc"), min_lr=wrong)


def test_a_run_of_the_earlier_schedule_says_how_it_is_finished(tmp_path):
    config = get_config("ccnet_resnet50os16_voc")
    run = Run.create(tmp_path / "old", config)
    stored = {name: value for name, value in config.to_dict().items() if name != "min_lr"}
    (run.folder / "config.json").write_text(json.dumps(stored))
    assert (
        Run.open(run.folder).config == config
    )  # nothing was trained in it: published weights that were scored before there was the field
    run.write_training({"seed": 0})
    run.save_checkpoint({"step": 3}, 3)
    settings = Settings(data=tmp_path, resume=True)
    with pytest.raises(
        RunError,
        match=r"min_lr was 0\.0 and is 0\.0001\. --min-lr 0 finishes a run with its own schedule",
    ):
        open_run(run.folder, config, settings)
    assert open_run(run.folder, replace(config, min_lr=0.0), settings).config.min_lr == 0
    assert Run.open(run.folder).config.published_miou is None


# Scores that were measured by the earlier rules


def test_scores_of_the_earlier_rules_are_not_compared():
    now = Protocol(
        dataset="voc", split="val", images=3, resize=(2048, 512), scales=(0.5, 1.0), flip=True
    )
    stored = {
        name: value
        for name, value in now.to_dict().items()
        if name not in ("averaging", "resizing")
    }
    before = Protocol.from_dict(json.loads(json.dumps(stored)))
    assert (before.averaging, before.resizing) == ("softmax", "torchvision")
    with pytest.raises(
        RunError,
        match=r"averaging 'softmax' and 'logits'; resizing 'torchvision' and 'opencv'",
    ):
        check_comparable(before, now)
    assert differences(before, now) == ("softmax averaged", "resized by torchvision")
    assert Protocol.from_dict({**stored, "scales": [1.0], "flip": False}).averaging == "logits"
    assert Protocol.from_dict(json.loads(json.dumps(now.to_dict()))) == now


def test_a_scale_that_leaves_nothing_of_the_image():
    model, _config = small("voc")
    item = inference.Item(
        "a", torch.zeros(9, 9, dtype=torch.uint8), torch.zeros(9, 9, 3, dtype=torch.uint8)
    )
    protocol = Protocol(dataset="voc", split="val", images=1, resize=(9, 9), scales=(0.1, 1))
    with pytest.raises(RunError, match=r"a is 9 x 9 pixels .* of which --scales 0.1 leaves none"):
        inference.predict(model, item, protocol, torch.device("cpu"))
