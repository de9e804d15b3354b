"""model/weights: files in, strictly; nothing is loaded from a file that does not fit."""

import json
import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import filled, published_shapes, to_published_names
from safetensors import safe_open

from ccnet_lab import ConfigError, WeightsError, build_model, get_config, load_weights, save_weights
from ccnet_lab.data.catalog import get_dataset
from ccnet_lab.errors import MissingFileError
from ccnet_lab.hub import find_weights
from ccnet_lab.model.diagnosis import convert
from ccnet_lab.model.weights import read_config
from ccnet_lab.runs import Run


def test_own_file_round_trip_is_bit_equal(tmp_path):
    model, other = build_model("demo"), build_model("demo")
    save_weights(model, tmp_path / "m.safetensors", "demo", note="mine")
    load_weights(other, tmp_path / "m.safetensors")
    assert all(
        torch.equal(a, b)
        for a, b in zip(model.state_dict().values(), other.state_dict().values(), strict=True)
    )
    assert read_config(tmp_path / "m.safetensors") == get_config("demo")


def test_what_is_saved_has_the_rights_of_any_new_file_and_is_whole_or_untouched(tmp_path):
    (tmp_path / "plain").touch()
    rights, demo = (tmp_path / "plain").stat().st_mode, build_model("demo")
    save_weights(demo, tmp_path / "m.safetensors", "demo")
    convert(tmp_path / "m.safetensors", tmp_path / "c.safetensors")
    Run.create(tmp_path / "run", get_config("demo")).save_weights(demo)
    for path in (
        tmp_path / "m.safetensors",
        tmp_path / "c.safetensors",
        tmp_path / "run" / "model.safetensors",
    ):
        assert path.stat().st_mode == rights
    assert not list(tmp_path.rglob("*.writing"))
    with pytest.raises(WeightsError, match=r"m.safetensors cannot be written: "):
        save_weights(demo, tmp_path / "nowhere" / "m.safetensors", "demo")


def test_a_file_says_what_may_be_done_with_it(tmp_path):
    save_weights(build_model("street"), tmp_path / "m.safetensors", "street")
    for path in (tmp_path / "m.safetensors", find_weights("street")):
        with safe_open(path, "pt") as file:
            terms = json.loads(file.metadata()["terms"])
        assert terms == f"trained on CamVid: {get_dataset('camvid').terms}"
        assert "CC BY-NC 4.0" in terms


def test_published_names_are_the_recorded_ones():
    for name in (
        "ccnet_resnet50os8_voc",
        "ccnet_resnet101os8_voc",
        "ccnet_resnet50os16_cityscapes",
    ):
        with torch.device("meta"):
            ours = to_published_names(build_model(name).state_dict())
        assert {key: tuple(value.shape) for key, value in ours.items()} == published_shapes(name)


def test_published_file_says_its_configuration_by_name_or_asks(published_file, tmp_path):
    path = published_file("ccnet_resnet50os8_cityscapes")
    assert read_config(path).name == "ccnet_resnet50os8_cityscapes"
    os.link(path, tmp_path / "best.pth")
    with pytest.raises(
        ConfigError, match="ccnet_resnet50os8_cityscapes or ccnet_resnet50os16_cityscapes"
    ):
        read_config(tmp_path / "best.pth")


@pytest.fixture
def good():
    return dict(build_model("demo").state_dict())


def broken(good, how):
    entries = dict(good)
    if how == "missing":
        del entries["refine.0.weight"]
    elif how == "extra":
        entries["head.weight"] = torch.zeros(1)
    else:
        entries["classifier.4.bias"] = torch.zeros(7)
    return entries


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("missing", "1 missing: refine.0.weight"),
        ("extra", "1 extra: head.weight"),
        ("misshapen", r"classifier.4.bias \(7,\), expected \(5,\)"),
    ],
)
def test_every_wrong_entry_is_named_and_nothing_is_loaded(good, how, words):
    model = build_model("demo")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(WeightsError, match=words):
        load_weights(model, broken(good, how))
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_another_configuration_is_refused():
    with pytest.raises(
        WeightsError, match=r"classifier.4.weight \(21, 512, 1, 1\), expected \(19, 512, 1, 1\)"
    ):
        load_weights(
            build_model("ccnet_resnet50os16_cityscapes"),
            filled(published_shapes("ccnet_resnet50os16_voc")),
        )


class Trap:
    """Unpickled, it makes a file: the proof that code ran."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize(
    "writer", [torch.save, lambda content, path: path.write_bytes(pickle.dumps(content))]
)
def test_a_pickle_that_would_run_code_is_refused_and_does_not_run(tmp_path, writer):
    writer({"model": {"a": torch.zeros(1)}, "extra": Trap(tmp_path / "ran")}, tmp_path / "evil.pth")
    with pytest.raises(WeightsError, match="refused without running"):
        load_weights(build_model("demo"), tmp_path / "evil.pth")
    assert not (tmp_path / "ran").exists()
    pickle.loads(pickle.dumps(Trap(tmp_path / "ran")))  # the trap itself works
    assert (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.pth", b"<!doctype html><html>not found</html>", "no readable checkpoint"),
        ("a.pth", b"", "no readable checkpoint"),
        ("a.safetensors", b"<!doctype html>", "no readable safetensors"),
        ("a.safetensors", b"", "no readable safetensors"),
    ],
)
def test_damaged_files(tmp_path, name, content, words):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(WeightsError, match=words):
        load_weights(build_model("demo"), tmp_path / name)


@pytest.mark.parametrize("ending", ["pth", "safetensors"])
def test_truncated_files(tmp_path, good, ending):
    path = tmp_path / f"whole.{ending}"
    save_weights(build_model("demo"), path, "demo") if ending == "safetensors" else torch.save(
        good, path
    )
    for share in (0.1, 0.5, 0.99):
        cut = tmp_path / f"cut.{ending}"
        cut.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
        with pytest.raises(WeightsError, match="no readable"):
            load_weights(build_model("demo"), cut)


def test_missing_file_and_things_that_are_no_state_dict(tmp_path):
    with pytest.raises(MissingFileError, match="nowhere"):
        load_weights(build_model("demo"), tmp_path / "nowhere.pth")
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(WeightsError, match="list"):
        load_weights(build_model("demo"), tmp_path / "list.pth")
    with pytest.raises(WeightsError, match="'lr' is a float"):
        load_weights(build_model("demo"), {"lr": 0.1})


# The growth of a fresh process while it opens a file: VmHWM, the kernel's peak of resident memory
# (touched pages of mapped files count), after it, less VmRSS before it, with everything imported.
# An earlier peak can only make the answer larger.
GROWTH = """
import sys
import torch
import torchvision
from ccnet_lab import Explorer

def kilobytes(key):
    with open("/proc/self/status") as file:
        return int(next(line for line in file if line.startswith(key)).split()[1])

before = kilobytes("VmRSS")
explorer = Explorer.open(sys.argv[1], config="ccnet_resnet101os8_voc")
assert not any(value.is_meta for value in explorer.model.state_dict().values())
print(1024 * (kilobytes("VmHWM") - before))
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads /proc/self/status")
@pytest.mark.parametrize("ending", ["pth", "safetensors"])
def test_opening_a_large_file_takes_at_most_one_and_a_half_times_its_size(tmp_path, ending):
    path, config = tmp_path / f"big.{ending}", "ccnet_resnet101os8_voc"
    with torch.device("meta"):
        model = build_model(config)
    model.to_empty(device="cpu")
    save_weights(model, path, config) if ending == "safetensors" else torch.save(
        {"model": to_published_names(model.state_dict())}, path
    )
    assert path.stat().st_size > 280e6
    done = subprocess.run(
        [sys.executable, "-c", GROWTH, str(path)], capture_output=True, text=True, check=True
    )
    assert 0.9 < int(done.stdout) / path.stat().st_size < 1.5
    path.unlink()
