"""Every script ends soon and in one sentence, whatever comes."""

import os
import shlex
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from forked import Forked, ran
from layouts import make_camvid, write

from ccnet_lab import ConfigError, Explorer, WeightsError, build_model, get_config, save_weights
from ccnet_lab.app import server
from ccnet_lab.app.session import Workbench
from ccnet_lab.causes import cause
from ccnet_lab.data.catalog import DATASETS
from ccnet_lab.data.generated.beacons import make_scene
from ccnet_lab.errors import RunError
from ccnet_lab.explore.deletion import deletion_test
from ccnet_lab.files import write_whole
from ccnet_lab.runs import Run
from ccnet_lab.training.loop import check_single_image

ROOT = Path(__file__).parents[2]
SCRIPTS = sorted(path.name for path in (ROOT / "scripts").glob("*.py"))
STRIKING = """
import os, runpy, signal, sys, threading
import argparse

kind, *sys.argv = sys.argv[1:]
plain = argparse.ArgumentParser.parse_args

def strike(*args, **given):
    if kind == "stop":
        os.kill(os.getpid(), signal.SIGINT)
    raise ZeroDivisionError("a mistake of ours")

argparse.ArgumentParser.parse_args = strike
sys.path.insert(0, "scripts")
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.mark.parametrize("script", SCRIPTS)
@pytest.mark.parametrize(
    ("kind", "code", "words"),
    [("stop", 130, "stopped"), ("fault", 2, "error: something unforeseen (ZeroDivision")],
)
def test_every_script_ends_in_one_sentence(tmp_path, script, kind, code, words):
    (tmp_path / "striking.py").write_text(STRIKING)
    start = time.monotonic()
    result = ran(tmp_path / "striking.py", kind, ROOT / "scripts" / script, folder=tmp_path)
    assert result.returncode == code, result.stderr
    assert result.stderr.startswith(words if kind == "stop" else f"{script}: {words}")
    assert result.stderr.count("\n") == 1
    assert (
        ("a mistake of ours" in (tmp_path / "error.txt").read_text()) == (kind == "fault")
        if kind == "fault"
        else True
    )
    assert time.monotonic() - start < 50  # most of it imports on a busy machine


def test_one_picture_on_one_cell_is_refused_beforehand(door, tmp_path):
    make_camvid(tmp_path)
    sizes = shlex.split(
        "--crop 8 8 --batch-size 1 --weights none --workers 0 --device cpu --steps 1"
    )
    code, _, err = door(
        "scripts/train.py", "street8", "--data", tmp_path, "--runs", tmp_path / "runs", *sizes
    )
    assert code == 2
    assert (
        "a crop of 8 x 8 pixels shrinks to a single cell within this network, "
        "on which batch norm cannot be trained one picture at a time" in err
    )
    config = get_config("ccnet_resnet50os16_voc")
    with pytest.raises(ConfigError, match="a crop of 16 x 16 pixels shrinks to a single cell"):
        check_single_image(replace(config, crop_size=(16, 16)))
    check_single_image(replace(config, crop_size=(16, 17)))


def test_a_death_while_a_checkpoint_is_saved_is_no_full_disk(tmp_path, monkeypatch):
    run = Run.create(tmp_path / "run", get_config("demo"))
    death = RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed.")

    def die(*_, **__):
        raise death

    monkeypatch.setattr(torch, "save", die)
    with pytest.raises(RuntimeError) as found:
        run.save_checkpoint({}, 1)
    assert found.value is death
    assert "a worker was killed" in cause(found.value)
    assert not list(run.folder.glob("*.writing"))
    with pytest.raises(RuntimeError, match="CUDA error"):
        write_whole(
            tmp_path / "a",
            lambda _: (_ for _ in ()).throw(RuntimeError("CUDA error: unspecified launch failure")),
            RunError,
        )
    for full in (
        OSError(28, "No space left on device"),
        RuntimeError("[enforce fail at inline_container.cc:858] . PytorchStreamWriter"),
    ):
        death = full
        with pytest.raises(RunError, match="make room"):
            run.save_checkpoint({}, 1)


@pytest.fixture
def broken(tmp_path):
    """A model file whose classifier holds a NaN; and one whose numbers are too large."""
    paths = []
    for value in (float("nan"), 3e38):
        model = build_model("demo")
        with torch.no_grad():
            model.classifier[4].weight[2, 0] = value
            model.classifier[1].bias[0] = 1e3
        paths.append(tmp_path / f"broken{len(paths)}.safetensors")
        save_weights(model, paths[-1], "demo")
    return paths


def test_a_network_of_nan_says_so_wherever_it_is_asked(broken, tmp_path, door):
    for path, words in zip(
        broken,
        ("its weights are, too: take an earlier checkpoint", "its weights are finite"),
        strict=True,
    ):
        with pytest.raises(
            WeightsError, match=f"logits for this picture at R = 2 are NaN or infinite; {words}"
        ):
            Explorer.open(path).look(make_scene(1).image)
    bench = Workbench(tmp_path / "examples")
    scene = bench.start("demo")
    with pytest.raises(WeightsError, match="NaN or infinite"):
        bench.with_model(scene, str(broken[0]))
    code, _, err = door("app.py", "--model", broken[0])
    assert code == 2
    assert "NaN or infinite" in err
    write(tmp_path / "a.png", make_scene(1).image)
    code, _, err = door(
        "scripts/predict.py", broken[0], tmp_path / "a.png", "--out", tmp_path / "out"
    )
    assert code == 2
    assert "NaN or infinite" in err


def test_steps_and_what_ifs_that_are_no_numbers_say_so():
    view = Explorer.open("demo").look(make_scene(1).image)
    explorer = view.explorer
    for network in (explorer.model, explorer.network):
        network.refine[0].weight.data[:] = torch.nan
    with pytest.raises(
        WeightsError,
        match="probabilities with cells removed are NaN or infinite; its weights are, too",
    ):
        deletion_test(view, 40, 40)
    explorer.network.attention.query.weight.data[:] = torch.nan
    with pytest.raises(WeightsError, match="features for this picture at R = 2 are NaN"):
        view.attention(40, 40, 3)


def test_the_page_tells_of_a_network_of_nan(broken, tmp_path):
    bench = Workbench(tmp_path / "examples")
    blocks = server.build(bench, tmp_path)
    models = next(
        found for found in blocks.blocks.values() if getattr(found, "elem_id", None) == "model"
    )
    choose = next(f for f in blocks.fns.values() if (models._id, "input") in f.targets)
    (words,) = [
        value
        for value in choose.fn(
            replace(choose.inputs[0].value, file="shown.png"), None, str(broken[0])
        ).values()
        if "class='problem'" in str(value)
    ]
    assert "are NaN or infinite; its weights are, too" in words


@pytest.fixture
def own(tmp_path):
    """A data set of one's own, two classes."""
    rng = np.random.default_rng(0)
    for k in range(10):
        labels = (rng.random((6, 8)) < 0.2).astype(np.uint8).repeat(8, 0).repeat(8, 1)
        write(tmp_path / "first" / "images" / f"{k}.png", np.repeat(200 * labels[..., None], 3, 2))
        write(tmp_path / "first" / "masks" / f"{k}.png", labels)
    (tmp_path / "first" / "classes.json").write_text('["ground", "thing"]')
    yield tmp_path / "first"
    DATASETS.pop("first", None)
    DATASETS.pop("moved", None)


def test_data_of_ones_own_may_move_and_balance_is_an_option(own, door, tmp_path):
    options = shlex.split(
        "--data . --weights none --resize 64 48 --crop 32 32 --batch-size 4 --steps 2"
    )
    options += ["--workers", 0]
    code, said, err = door(
        "scripts/train.py",
        "street8",
        "--own",
        own,
        "--runs",
        tmp_path / "runs",
        "--name",
        "r",
        *options,
        "--device",
        "cpu",
        "--balance",
    )
    assert code == 0, err
    run = Run.open(tmp_path / "runs" / "r")
    assert run.config.balance
    before = run.scores
    own.rename(tmp_path / "moved")
    DATASETS.pop("first")
    code, said, err = door(
        "scripts/evaluate.py",
        tmp_path / "runs" / "r",
        "--own",
        tmp_path / "moved",
        "--workers",
        0,
        "--device",
        "cpu",
    )
    assert code == 0, err
    assert "ground" in said
    assert run.scores["miou"] == before["miou"]
    (tmp_path / "moved" / "classes.json").write_text('["ground", "sky"]')
    DATASETS.pop("moved")
    code, _, err = door(
        "scripts/evaluate.py",
        tmp_path / "runs" / "r",
        "--own",
        tmp_path / "moved",
        "--workers",
        0,
        "--device",
        "cpu",
    )
    assert code == 2
    assert (
        "has 2 classes (ground, sky) and the model was trained on 2 of first (ground, thing)" in err
    )
    code, _, err = door("scripts/evaluate.py", tmp_path / "runs" / "r")
    assert "--data ROOT is missing" in err


def test_a_training_told_to_stop_while_it_begins_ends_without_a_traceback(tmp_path):
    make_camvid(tmp_path)
    words = ["--data", tmp_path, "--runs", tmp_path / "runs", "--device", "cpu", "--crop", 32, 32]
    process = Forked("scripts/train.py", "street8", *words)
    while not (tmp_path / "runs" / "street8" / "config.json").exists():
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    err = process.communicate(timeout=20)[1]
    assert process.returncode == 130
    assert "Traceback" not in err


@pytest.mark.parametrize("script", SCRIPTS)
def test_ctrl_c_while_a_script_still_imports(tmp_path, script):
    code = """
import runpy, sys
sys.argv = sys.argv[1:]
class Finder:
    def find_spec(self, name, *_):
        if name in ("torch", "tqdm", "nbclient", "httpx", "ccnet_lab.errors"):
            raise KeyboardInterrupt
sys.meta_path.insert(0, Finder())
runpy.run_path(sys.argv[0], run_name="__main__")
"""
    command = [sys.executable, "-c", code, str(ROOT / "scripts" / script)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    result = subprocess.run(
        command,
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    if result.returncode == 2:  # it imports only once it knows what to do
        assert "the following arguments are required" in result.stderr
    else:
        assert result.returncode in (130, -signal.SIGINT)
        said = "stopped\n", "stopped; what was written so far is kept\n"
        assert result.stderr in said
