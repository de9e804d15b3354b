"""model/unpickling.py: checkpoints of other trainers; harmless things are skipped, nothing runs."""

import argparse
import datetime
import pathlib
import types
import warnings
import zipfile
from collections import OrderedDict, defaultdict, deque
from contextlib import suppress
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from test_foreign import META, as_mmseg
from test_weights import Trap

from ccnet_lab import ConfigError, Explorer, WeightsError, build_model, get_config, load_weights
from ccnet_lab.data.catalog import DATASETS, get_dataset, register
from ccnet_lab.model.diagnosis import diagnose
from ccnet_lab.model.foreign import unwrap
from ccnet_lab.model.unpickling import harmless
from ccnet_lab.model.weights import open_checkpoint, read_config

EXTRAS = {
    "best": np.float64(0.5),
    "seen": np.int64(3),
    "history": np.arange(4.0),
    "names": np.array(["a", "b"]),
    "args": argparse.Namespace(lr=0.1, out=pathlib.PurePosixPath("a/b")),
    "more": types.SimpleNamespace(a=1),
    "when": datetime.datetime(2024, 1, 1),
    "path": pathlib.PureWindowsPath("c:/x"),
    "queue": deque([1, 2]),
    "span": range(3),
    "set": {1, 2},
    "counts": defaultdict(list, a=[1]),
}


def deep(path, about):
    """A safetensors file with this metadata."""
    save_file({"a": torch.zeros(1)}, path, metadata=about)
    return path


@pytest.fixture
def own():
    return OrderedDict(build_model("demo").state_dict())


def same(path, own):
    model = build_model("demo")
    load_weights(model, path)
    return all(torch.equal(value, own[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("extra", EXTRAS)
def test_harmless_things_beside_the_tensors_are_left_aside(own, saved, extra):
    path = saved({"model": own, extra: EXTRAS[extra], "epoch": 3})
    assert same(path, own)
    assert f"beside    {extra}, epoch" in diagnose(path).text
    assert not [
        known for known in torch.serialization.get_safe_globals() if isinstance(known, tuple)
    ]  # nobody else's reading is changed


@pytest.mark.parametrize("key", ["model", "model_state_dict", "state_dict"])
@pytest.mark.parametrize("prefix", ["", "model.", "module.", "segmentor.", "model.module."])
def test_keys_and_prefixes_of_other_trainers(own, saved, key, prefix):
    assert same(
        saved(
            {
                key: OrderedDict((prefix + name, value) for name, value in own.items()),
                "args": EXTRAS["args"],
            }
        ),
        own,
    )


def test_a_part_that_was_wrapped_alone(own, saved):
    parts = {name.replace("backbone.", "backbone.module.", 1): value for name, value in own.items()}
    assert same(saved(parts), own)


def test_a_criterion_and_numbers_within_the_state_dict_are_named(own, saved):
    inner = {f"model.{name}": value for name, value in own.items()}
    path = saved(
        {
            "state_dict": inner
            | {"criterion.weight": torch.ones(5), "step": 7, "best": np.float64(1)}
        }
    )
    with pytest.warns(
        UserWarning,
        match=r"left aside in the weights a.pth, as no part of the network: "
        r"best, criterion.weight, step",
    ):
        assert same(path, own)
    inside = {
        f"model.{name}": value
        for name, value in [*own.items(), ("criterion.weight", torch.ones(5))]
    }
    with pytest.warns(UserWarning, match=r"criterion.weight"):
        assert same(saved(inside), own)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert same(saved({"model": own, "epoch": 1}), own)  # beside it, as in every trainer's file


def test_norms_that_count_no_batches(own, saved):
    uncounted = {
        name: value for name, value in own.items() if not name.endswith("num_batches_tracked")
    }
    assert len(uncounted) < len(own)
    path = saved(uncounted)
    model = build_model("demo")
    load_weights(model, path)
    assert all(torch.equal(model.state_dict()[name], value) for name, value in uncounted.items())
    assert diagnose(path, "demo").configs
    assert (
        Explorer.open(path, config="demo").model.state_dict()["reduce.1.num_batches_tracked"] == 0
    )


@pytest.mark.parametrize("where", ["beside", "in a namespace", "in an array", "as a path"])
def test_what_would_run_is_refused_however_it_is_wrapped(own, saved, tmp_path, where):
    trap = Trap(tmp_path / "ran")
    wrapped = {
        "beside": trap,
        "in a namespace": argparse.Namespace(a=trap),
        "in an array": np.array([trap], object),
        "as a path": {"p": [pathlib.PurePosixPath("a"), trap]},
    }[where]
    path = saved({"model": own, "extra": wrapped})
    with pytest.raises(WeightsError, match=r"mkdir\) and was refused without running any of it"):
        load_weights(build_model("demo"), path)
    assert not (tmp_path / "ran").exists()


def test_stand_ins_are_made_of_nothing(saved):
    with harmless():
        found = torch.load(saved(EXTRAS), weights_only=True)
    assert type(found["args"]).__mro__[1].__name__ == "Aside"
    assert vars(found["args"]) == {}
    assert repr(found["when"]) == "datetime.datetime"


def test_hundreds_of_names_are_shortened(saved):
    entries = build_model("street").state_dict()
    with pytest.raises(WeightsError, match=r"do not fit this model.* and \d+ more") as found:
        load_weights(build_model("ccnet_resnet50os8_voc"), entries)
    assert len(str(found.value)) < 4000


@pytest.fixture
def forgetting():
    before = dict(DATASETS)
    yield
    for key in set(DATASETS) - set(before):
        del DATASETS[key]


def mmseg(classes, meta):
    register(
        {
            **get_dataset("camvid").to_dict(),
            "key": "made",
            "classes": [("#000000", f"c{k}") for k in range(classes)],
        }
    )
    config = replace(get_config("ccnet_resnet50os8_voc"), dataset="made", aux_channels=256)
    with torch.device("meta"):
        entries = build_model(config).state_dict()
    del DATASETS["made"]
    return {
        "meta": meta,
        "state_dict": as_mmseg(
            {n: torch.zeros((), dtype=v.dtype).expand(v.shape) for n, v in entries.items()}
        ),
    }


def test_classes_that_a_file_does_not_name_come_from_own(saved, tmp_path, forgetting, door):
    path = saved(mmseg(4, {"config": META["config"]}))
    with pytest.raises(WeightsError, match=r"of 4 classes that is known .* --own FOLDER"):
        read_config(path)
    for part in ("images", "masks"):
        (tmp_path / "fields" / part).mkdir(parents=True)
    (tmp_path / "fields" / "classes.json").write_text('["a", "b", "c", "d"]')
    from ccnet_lab.data.datasets import open_own

    config = open_checkpoint(path).config(own=open_own(tmp_path / "fields"))
    assert (config.dataset, config.num_classes, config.output_stride) == ("fields", 4, 8)
    (tmp_path / "fields" / "classes.json").write_text('["a", "b", "c"]')
    del DATASETS["fields"]
    code, _, err = door("scripts/evaluate.py", path, "--own", tmp_path / "fields")
    assert code == 2
    assert "4 classes" in err


def test_where_the_stride_stays_open_the_names_can_be_typed(saved, forgetting):
    path = saved(mmseg(19, {}))
    both = "ccnet_resnet50os8_cityscapes or ccnet_resnet50os16_cityscapes"
    with pytest.raises(ValueError, match=both):
        read_config(path)
    assert open_checkpoint(path).config("ccnet_resnet50os16_cityscapes").output_stride == 16


@pytest.mark.parametrize(
    "beside", ["ce_loss.weight", "criterion_main.ce.weight", "train_metrics.confmat", "mean"]
)
def test_a_wrapped_network_beside_tensors_of_others(own, tmp_path, beside):
    wrapped = {f"model.{name}": value for name, value in own.items()} | {beside: torch.ones(3)}
    torch.save({"state_dict": wrapped}, tmp_path / "a.ckpt")
    with warnings.catch_warnings(record=True):
        assert same(tmp_path / "a.ckpt", own)
    found = unwrap({"state_dict": wrapped})
    assert found.aside == (beside,)
    two = wrapped | {f"net.{name}": value for name, value in own.items()}
    with pytest.raises(WeightsError):
        load_weights(build_model("demo"), {"state_dict": two})


def test_numpy_arrays_and_torchscript_are_called_what_they_are(own, tmp_path):
    torch.save({name: value.numpy() for name, value in own.items()}, tmp_path / "a.pth")
    with pytest.raises(WeightsError, match="is a NumPy array; expected names with tensors"):
        load_weights(build_model("demo"), tmp_path / "a.pth")
    torch.jit.save(torch.jit.script(torch.nn.Conv2d(1, 1, 1)), tmp_path / "b.pt")
    with pytest.raises(WeightsError, match=r"b.pt is a TorchScript program; expected a state dict"):
        load_weights(build_model("demo"), tmp_path / "b.pt")


ODD = {
    "expanded": torch.zeros(1, dtype=torch.float64).expand(10**9),
    "meta": torch.zeros(4, device="meta"),
    "nested": torch.nested.nested_tensor([torch.zeros(2), torch.zeros(3)]),
    "quantised": torch.quantize_per_tensor(torch.zeros(4), 0.1, 0, torch.quint8),
}


@pytest.mark.parametrize("kind", ODD)
@pytest.mark.parametrize("name", ["classifier.4.bias", "reduce.1.num_batches_tracked"])
def test_tensors_without_numbers_of_their_own_are_refused(own, saved, kind, name):
    """Nothing as large as they say is made."""
    path = saved({"model": {**own, name: ODD[kind]}})
    with pytest.raises(WeightsError):
        load_weights(build_model("demo"), path)
    with suppress(WeightsError):
        diagnose(path)


@pytest.mark.parametrize(
    "about",
    [
        {"config": "[" * 200_000}, {"dataset": "[" * 200_000}, {"dataset": "[]"},
        {"dataset": "5"}, {"config": "5"},
    ],
)  # fmt: skip
def test_metadata_that_are_none(tmp_path, about):
    with pytest.raises((WeightsError, ConfigError)):
        open_checkpoint(deep(tmp_path / "a.safetensors", about)).config()


def test_a_stored_number_of_5000_digits(own, saved):
    path = saved({"model": own, "meta": {"config": "recurrence=" + "9" * 5000}})
    assert open_checkpoint(path).hints.recurrence is None


def test_a_pickle_that_was_packed_to_nothing_is_not_unpacked(own, saved, tmp_path):
    """15 kB that would take gigabytes and minutes."""
    path, bomb = saved({"model": own}), tmp_path / "bomb.pth"
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as new:
        for info in old.infolist():
            content = old.read(info)
            if info.filename.endswith("data.pkl"):
                content = b"\x80\x02" + b"]" * 15_000_000 + content[2:]
            new.writestr(info.filename, content)
    with pytest.raises(WeightsError, match="made to do harm"):
        open_checkpoint(bomb)
