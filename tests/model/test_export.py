"""Exported files, which run without the library, give what the network gives, or are not kept."""

import copy
import json
import subprocess
import sys
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from forked import ran

from ccnet_lab import Explorer, build_model, get_config
from ccnet_lab.data.catalog import get_dataset
from ccnet_lab.data.generated.beacons import make_scene
from ccnet_lab.errors import DeviceError, LabError
from ccnet_lab.hub import find_weights
from ccnet_lab.model import export
from ccnet_lab.model.export import (
    TOLERANCE,
    Deployed,
    WeightsError,
    export_model,
)

ROOT = Path(__file__).parents[2]
SMALL = dict(sizes=[(33, 50)])
SLIM = replace(get_config("street"), width=4, channels=8, query_channels=4)
RESNET = replace(get_config("ccnet_resnet50os16_voc"), channels=16, query_channels=4)
PACKAGES = ("onnx", "onnxscript", "onnxruntime")
needs_onnx = pytest.mark.skipif(
    not all(map(find_spec, PACKAGES)), reason='pip install -e ".[export]"'
)
BOTH = pytest.mark.parametrize("kind", ["pt2", pytest.param("onnx", marks=needs_onnx)])


@pytest.fixture(scope="module")
def demo():
    return Explorer.open("demo").model


def lively(config):
    """A network whose logits are far from 0 and whose batch norms do something."""
    torch.manual_seed(0)
    model = build_model(config).eval()
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.running_mean, -0.5, 0.5)
            torch.nn.init.uniform_(module.running_var, 0.5, 2)
            torch.nn.init.uniform_(module.weight, 0.5, 2)
    with torch.no_grad():
        model.attention.gamma.fill_(0.7)
    return model


def run(path, images):
    if path.suffix == ".pt2":
        return torch.export.load(path).module()(images)
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return torch.from_numpy(session.run(None, {"images": images.numpy()})[0])


def noise(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("recurrence", [0, 2])
def test_a_program_takes_any_batch_and_size(tmp_path, demo, recurrence):
    done = export_model(demo, "demo", tmp_path / "demo.pt2", recurrence=recurrence)
    assert set(done.differences) == set(export.SIZES)
    assert max(done.differences.values()) <= TOLERANCE
    for shape in ((1, 3, 5, 300), (1, 3, 64, 64), (3, 3, 47, 33)):
        with torch.inference_mode():
            expected = demo(images := noise(*shape), recurrence).logits
            torch.testing.assert_close(run(done.path, images), expected, rtol=0, atol=1e-4)
    assert done.metadata["recurrence"] == recurrence


@needs_onnx
def test_onnx_takes_any_batch_and_size(tmp_path, demo):
    import onnx

    done = export_model(demo, "demo", tmp_path / "demo.onnx", recurrence=1)
    for shape in ((1, 3, 5, 300), (1, 3, 64, 64), (3, 3, 47, 33)):
        with torch.inference_mode():
            expected = demo(images := noise(*shape), 1).logits
        torch.testing.assert_close(run(done.path, images), expected, rtol=0, atol=1e-4)
    written = onnx.load(done.path, load_external_data=False)
    onnx.checker.check_model(written)
    dims = written.graph.input[0].type.tensor_type.shape.dim
    assert [dim.dim_param or dim.dim_value for dim in dims] == ["batch", 3, "height", "width"]
    assert not {node.op_type for node in written.graph.node} & {
        "Trilu",
        "EyeLike",
        "ScatterND",
        "ScatterElements",
        "If",
        "Loop",
    }
    assert [entry.version for entry in written.opset_import if not entry.domain] == [export.OPSET]


@BOTH
def test_residual_blocks_enlarging_and_batch_norms(tmp_path, kind):
    config = replace(SLIM, output_stride=8, category_loss=0.5) if kind == "pt2" else SLIM
    model = lively(config).to(memory_format=torch.channels_last)  # as an Explorer keeps it
    done = export_model(model, config, tmp_path / f"slim.{kind}", recurrence=1, **SMALL)
    assert done.metadata["smallest_side"] == 17
    images = noise(1, 3, 17, 83)
    with torch.inference_mode():
        expected = model(images, 1).logits
    assert expected.abs().max() > 0.1
    torch.testing.assert_close(run(done.path, images), expected, rtol=0, atol=1e-4)


def assert_labels_as_the_explorer_gives_them(path):
    pictures = [make_scene(seed).image for seed in range(2)]
    found = run(path, torch.from_numpy(np.stack(pictures)))
    assert found.dtype == torch.uint8
    for picture, labels in zip(pictures, found, strict=True):
        expected = Explorer.open("demo").look(picture).labels
        assert (labels.numpy() == expected).mean() > 0.999
    assert len(np.unique(found)) > 2


@pytest.fixture(scope="module")
def labelling(tmp_path_factory, demo):
    path = tmp_path_factory.mktemp("labelling") / "demo.pt2"
    return export_model(demo, "demo", path, labels=True, **SMALL).path


def test_labels_from_pictures_as_the_explorer_gives_them(labelling):
    assert_labels_as_the_explorer_gives_them(labelling)


@needs_onnx
@pytest.mark.parametrize("opset", [export.OPSETS[0], export.OPSETS[-1]])
def test_labels_at_the_first_and_the_last_opset(tmp_path, demo, opset):
    import onnx

    done = export_model(demo, "demo", tmp_path / "demo.onnx", opset=opset, labels=True, **SMALL)
    written = onnx.load(done.path, load_external_data=False)
    onnx.checker.check_model(written)
    assert [entry.version for entry in written.opset_import if not entry.domain] == [opset]
    assert_labels_as_the_explorer_gives_them(done.path)


@needs_onnx
def test_the_file_says_what_it_is(tmp_path):
    import onnxruntime

    explorer, source = Explorer.open("demo"), find_weights("demo")
    before = {name: value.clone() for name, value in explorer.model.state_dict().items()}
    done = export_model(
        explorer.model,
        "demo",
        tmp_path / "demo.onnx",
        source=source,
        fixed=(1, 40, 56),
        labels=True,
    )
    found = onnxruntime.InferenceSession(done.path).get_modelmeta().custom_metadata_map
    assert json.loads(found["class_names"]) == list(get_dataset("beacons").class_names)
    assert json.loads(found["palette"])[1] == list(get_dataset("beacons").palette[1])
    assert json.loads(found["config"]) == json.loads(json.dumps(get_config("demo").to_dict()))
    assert json.loads(found["normalisation"])["mean"] == [123.675, 116.28, 103.53]
    assert len(json.loads(found["weights"])["sha256"]) == 64
    assert json.loads(found["weights"])["notes"]["steps"] == "1000"
    assert found["size"] == "1 x 40 x 56"
    after = explorer.model.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())


def test_a_program_runs_where_this_library_is_not(tmp_path, labelling):
    code = """
import json, sys, torch
sys.modules["ccnet_lab"] = None
extra = {"metadata.json": ""}
program = torch.export.load(sys.argv[1], extra_files=extra).module()
names = json.loads(extra["metadata.json"])["class_names"]
print(program(torch.zeros(1, 50, 70, 3, dtype=torch.uint8)).shape, names)
"""
    found = subprocess.run(
        [sys.executable, "-c", code, str(labelling)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert found.stdout == f"torch.Size([1, 50, 70]) {list(get_dataset('beacons').class_names)}\n"
    assert str(ROOT).encode() not in labelling.read_bytes()  # no path of the machine it was made on


@needs_onnx
def test_a_whole_resnet(tmp_path):
    done = export_model(lively(RESNET), RESNET, tmp_path / "resnet.onnx", recurrence=1, **SMALL)
    assert done.metadata["smallest_side"] == 17
    assert done.bytes < 100e6  # 24 million weights
    assert [path.name for path in tmp_path.iterdir()] == ["resnet.onnx"]  # nothing beside it


@BOTH
def test_a_file_that_differs_is_not_kept(tmp_path, demo, kind, monkeypatch):
    path = tmp_path / f"demo.{kind}"
    path.write_text("what was there before")
    monkeypatch.setattr(export, "TOLERANCE", 1e-12)
    with pytest.raises(
        WeightsError,
        match=r"would differ from .* logit, more than 1e-12; it was not kept",
    ):
        export_model(demo, "demo", path, recurrence=0, **SMALL)
    assert path.read_text() == "what was there before"
    assert list(tmp_path.iterdir()) == [path]


def test_differences_are_seen():
    """Logits that are off, labels that are off, and NaN."""
    pixels = torch.zeros(1, 8, 8, 3, dtype=torch.uint8)
    logits = torch.stack([torch.zeros(2, 2), torch.full((2, 2), 40.0)])[None]
    good, bad = torch.ones(1, 8, 8, dtype=torch.uint8), torch.zeros(1, 8, 8, dtype=torch.uint8)
    for given, labels, expected in (
        (logits, False, 0.0),
        (logits + 0.5, False, 0.5 / 40),
        (logits * float("nan"), False, float("inf")),
        (good, True, 0.0),
        (bad, True, 1.0),
    ):
        found = export._differences(
            lambda _, given=given: given, lambda _: logits, [pixels], labels
        )
        assert found == {(8, 8): pytest.approx(expected, rel=1e-4)}


def test_differences_count_by_the_size_of_the_logits(tmp_path, demo):
    """Logits of size 1e6 have errors of about 0.1 in float32."""
    done = export_model(scaled(demo), "demo", tmp_path / "large.pt2", recurrence=0, **SMALL)
    assert 0 < max(done.differences.values()) <= TOLERANCE


def scaled(demo):
    model = copy.deepcopy(demo)
    model.classifier[-1].weight.data *= 1e5
    model.classifier[-1].bias.data *= 1e5
    return model


def lost(network):
    network.attention.gamma.zero_()


def a_channel_off(network):
    conv = network.classifier[0]
    conv.weight[conv.weight.abs().sum((1, 2, 3)).argmax()] *= 1.01


def another_epsilon(network):
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.eps = 1e-3


@torch.no_grad()
@pytest.mark.parametrize("scale", [False, True])
@pytest.mark.parametrize("name", ["demo", "slim", "resnet"])
def test_rounding_is_allowed_with_room_and_damage_is_not(demo, name, scale):
    """Float32 is well within what is allowed, each damage well beyond."""
    config = {"demo": get_config("demo"), "slim": SLIM, "resnet": RESNET}[name]
    model = demo if name == "demo" else lively(config)
    model = scaled(model) if scale else model
    exact = copy.deepcopy(model).double()
    batches = [export._pictures(2, 33, 50, 0)]

    def differ(damage=None):
        given = copy.deepcopy(model)
        if damage is not None:
            damage(given)
        return max(
            export._differences(
                Deployed(given, 2, labels=False).logits, lambda x: exact(x).logits, batches, False
            ).values()
        )

    assert differ() < TOLERANCE / 4
    for damage in (lost, a_channel_off, another_epsilon):
        assert differ(damage) > 4 * TOLERANCE, damage


@pytest.mark.parametrize(
    ("name", "how", "words"),
    [
        ("demo.tflite", {}, r"ends in '.tflite'; expected .pt2 .* or .onnx"),
        ("demo", {}, "expected .pt2"),
        ("demo.pt2", {"sizes": [(4, 90)]}, "4 x 90 pixels is too small; expected at least 5 x 5"),
        ("demo.pt2", {"sizes": [(0, 90)]}, "expected at least 5 x 5"),
        ("demo.pt2", {"fixed": (0, 40, 40)}, "batches of 1"),
        ("demo.pt2", {"recurrence": -1}, "recurrence -1; expected .* 0 or more"),
        ("demo.onnx", {"opset": 11}, "opset is 11.* expected 18 to"),
        ("nowhere/demo.pt2", {}, r"demo.pt2 cannot be written: .*No such file or directory"),
        ("folder.pt2", {}, "is a folder"),
    ],
)
def test_what_cannot_be_is_refused(tmp_path, demo, name, how, words):
    (tmp_path / "folder.pt2").mkdir()
    with pytest.raises(WeightsError, match=words) as caught:
        export_model(demo, "demo", tmp_path / name, **{**SMALL, **how})
    assert isinstance(caught.value, LabError)
    assert [path.name for path in tmp_path.iterdir()] == ["folder.pt2"]


@pytest.mark.parametrize("package", PACKAGES)
def test_a_missing_package_is_named(tmp_path, demo, package, monkeypatch):
    for name in PACKAGES:
        monkeypatch.setitem(sys.modules, name, None if name == package else sys)
    with pytest.raises(
        DeviceError, match=rf'{package} is not installed: pip install -e "\.\[export\]"'
    ):
        export_model(demo, "demo", tmp_path / "demo.onnx", **SMALL)
    assert not list(tmp_path.iterdir())


@needs_onnx
def test_the_script_writes_and_reports(tmp_path):
    out = tmp_path / "new" / "demo.v2"
    words = ["--format", "pt2", "onnx", "--recurrence", 0, "--check", "33x50"]
    result = ran("scripts/export.py", "demo", *words, "--out", out)
    assert result.returncode == 0, result.stderr
    assert sorted(path.name for path in out.parent.iterdir()) == ["demo.v2.onnx", "demo.v2.pt2"]
    assert "33 x 50:" in result.stdout
    assert "Warning" not in result.stderr


def test_the_script_refuses_with_a_sentence(tmp_path, door):
    for words, expected in (
        (["demmo"], "did you mean"),
        (["demo", "--format", "pt2", "--check", "3x50"], "too small"),
        (["demo", "--format", "tflite"], "invalid choice"),
    ):
        code, _, err = door("scripts/export.py", *words, "--out", tmp_path / "x")
        assert code == 2
        assert expected in err
    assert not list(tmp_path.iterdir())
