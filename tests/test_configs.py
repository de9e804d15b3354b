"""configs.py: the twelve and their recipe."""

import dataclasses
import subprocess
import sys
from pathlib import Path

import pytest

from ccnet_lab import CONFIGS, Config, ConfigError, get_config
from ccnet_lab.data.catalog import DATASETS

TABLE = {  # name: crop, batch, epochs, published mIoU; FACTS of the published table
    "ccnet_resnet50os8_voc": ((512, 512), 16, 60, 77.43),
    "ccnet_resnet50os16_voc": ((512, 512), 16, 60, 76.01),
    "ccnet_resnet101os8_voc": ((512, 512), 16, 60, 78.02),
    "ccnet_resnet101os16_voc": ((512, 512), 16, 60, 77.33),
    "ccnet_resnet50os8_ade20k": ((512, 512), 16, 130, 42.47),
    "ccnet_resnet50os16_ade20k": ((512, 512), 16, 130, 40.78),
    "ccnet_resnet101os8_ade20k": ((512, 512), 16, 130, 44.00),
    "ccnet_resnet101os16_ade20k": ((512, 512), 16, 130, 42.95),
    "ccnet_resnet50os8_cityscapes": ((512, 1024), 8, 220, 79.15),
    "ccnet_resnet50os16_cityscapes": ((512, 1024), 8, 220, 77.94),
    "ccnet_resnet101os8_cityscapes": ((512, 1024), 8, 220, 80.08),
    "ccnet_resnet101os16_cityscapes": ((512, 1024), 8, 220, 78.45),
}


def test_exactly_the_twelve_in_order():
    assert list(CONFIGS) == list(TABLE)


@pytest.mark.parametrize("name", TABLE)
def test_recipe_and_published_numbers(name):
    config = get_config(name)
    assert (config.crop_size, config.batch_size, config.epochs, config.published_miou) == TABLE[
        name
    ]
    assert config.name == name
    assert (config.lr, config.momentum, config.weight_decay, config.power, config.aux_weight) == (
        0.01,
        0.9,
        5e-4,
        0.9,
        0.4,
    )
    assert config.recurrence == 2
    assert config.published_url == (
        f"https://github.com/SegmentationBLWX/modelstore/releases/download/ssseg_ccnet/{name}_train.pth"
    )
    assert config.num_classes == {"voc": 21, "ade20k": 150, "cityscapes": 19}[config.dataset]


def test_frozen_and_the_mapping_too():
    with pytest.raises(dataclasses.FrozenInstanceError):
        get_config("demo").lr = 1
    with pytest.raises(TypeError):
        CONFIGS["mine"] = get_config("demo")


def test_a_variation_claims_no_published_score():
    varied = dataclasses.replace(get_config("ccnet_resnet50os8_voc"), recurrence=1)
    assert varied.name == "ccnet_resnet50os8_voc_r1"
    assert varied.published_miou is None
    assert dataclasses.replace(get_config("ccnet_resnet50os8_voc"), lr=0.02).published_url is None


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: get_config("ccnet_resnet50os8_vok"), "ccnet_resnet50os8_voc"),
        (lambda: get_config("zzz"), "demo"),
        (lambda: Config.from_dict(get_config("demo").to_dict() | {"recurence": 3}), "recurrence"),
        (lambda: Config.from_dict({"dataset": "voc", "deph": 50}), "depth"),
        (lambda: dataclasses.replace(get_config("demo"), dataset="vocs"), "'voc'"),
        (lambda: dataclasses.replace(get_config("demo"), depth=34), "50 or 101"),
        (
            lambda: dataclasses.replace(CONFIGS["ccnet_resnet50os8_voc"], output_stride=32),
            "8 or 16",
        ),
        (lambda: dataclasses.replace(get_config("demo"), recurrence=-1), "0 to 64"),
        (lambda: dataclasses.replace(get_config("demo"), crop_size=(512,)), "two whole numbers"),
        (lambda: Config.from_dict({"dataset": "voc"}), "missing"),
        (
            lambda: Config.from_dict(get_config("demo").to_dict() | {"crop_size": [1e999, 8]}),
            "two whole numbers",
        ),
    ],
)
def test_wrong_ones_are_refused_with_a_remedy(call, words):
    with pytest.raises(ConfigError, match=words):
        call()


@pytest.mark.parametrize(
    ("field", "value", "expected"),
    [
        ("lr", float("inf"), "a finite number"), ("lr", "fast", "a finite number"),
        ("lr", [0.1], "a finite number"), ("depth", True, "a whole number"),
        ("depth", 50.0, "a whole number"), ("channels", 10**9, "1 to 65,536"),
        ("recurrence", 10**9, "0 to 64"), ("alias", 5, "a text"), ("alias", "../x", "a name"),
        ("alias", "a\x1b", "a name"), ("ohem", 1, "true or false"), ("dataset", {}, "a text"),
    ],
)  # fmt: skip
def test_values_of_another_type_or_range_are_refused(field, value, expected):
    """As they may stand in a config.json that somebody sends."""
    values = get_config("ccnet_resnet50os8_voc").to_dict() | {field: value}
    with pytest.raises(ConfigError, match=expected):
        Config.from_dict(values)


def test_a_misspelt_field_is_refused():
    with pytest.raises(TypeError, match="'recurence'"):
        dataclasses.replace(get_config("demo"), recurence=3)


def test_round_trip_through_plain_values():
    import json

    for config in (*CONFIGS.values(), get_config("demo")):
        assert Config.from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_catalogue_names_and_colours():
    counts = {"voc": 21, "ade20k": 150, "cityscapes": 19, "camvid": 11, "beacons": 5}
    counts |= {"voc_mini": 13, "ade20k_mini": 26, "cityscapes_mini": 16}
    published = {
        key: dataset for key, dataset in DATASETS.items() if not dataset.classes
    }  # the others are tests' own
    assert list(published) == list(counts)
    for key, dataset in published.items():
        assert dataset.num_classes == counts[key] == len(set(dataset.class_names))
        assert len(set(dataset.palette)) == counts[key] or key == "ade20k"
        assert not dataset.label_ids or len(dataset.label_ids) == dataset.num_classes
    assert DATASETS["voc"].palette[15] == (
        192,
        128,
        128,
    )  # person, in the development kit's colour map


ROOT = Path(__file__).parent.parent
SCRIPTS = ["app.py", *(f"scripts/{path.name}" for path in (ROOT / "scripts").glob("*.py"))]


@pytest.mark.parametrize("script", SCRIPTS)
def test_the_help_of_a_script_needs_nothing_that_is_slow_to_import(script):
    code = "import runpy, sys; sys.argv = sys.argv[1:]; sys.path.insert(0, '.')\n"
    slow = ("torch", "torchvision", "gradio", "cv2", "nbclient", "seaborn", "pandas", "matplotlib")
    code += f"sys.modules |= dict.fromkeys({slow})\n"
    code += "runpy.run_path(sys.argv[0], run_name='__main__')"
    command = [sys.executable, "-c", code, script, "--help"]
    subprocess.run(command, check=True, cwd=ROOT, capture_output=True)
