"""evaluation/score_published.py: interrupted evaluations resume, a failure stops nothing."""

import json
import os
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from layouts import make_camvid, make_cityscapes, make_voc

from ccnet_lab import CONFIGS, build_model, get_config, store
from ccnet_lab.data.catalog import get_dataset
from ccnet_lab.data.datasets import open_split
from ccnet_lab.evaluation import score_published as published
from ccnet_lab.evaluation.evaluate import evaluate
from ccnet_lab.runs import Run

ROOT = Path(__file__).parents[2]
SMALL = replace(
    get_config("street8"), width=8, channels=8, query_channels=4, resize=(64, 48), alias="small"
)


@pytest.fixture(scope="module")
def split(tmp_path_factory):
    root = tmp_path_factory.mktemp("camvid")
    make_camvid(root, test=7)
    return open_split(get_dataset("camvid"), root, "test")


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return build_model(SMALL)


class BrokenOffError(Exception):
    pass


def broken_off_after(images):
    def progress(done, _):
        if done == images:
            raise BrokenOffError

    return progress


def test_an_evaluation_goes_on_where_it_was_broken_off(model, split, tmp_path):
    whole = evaluate(model, split, SMALL)
    keep = tmp_path / "counted.npz"
    for images in (3, 5):
        with pytest.raises(BrokenOffError):
            evaluate(model, split, SMALL, progress=broken_off_after(images), keep=keep, key="a")
    seen = []
    found = evaluate(
        model,
        split,
        SMALL,
        progress=lambda done, total: seen.append((done, total)),
        keep=keep,
        key="a",
    )
    assert seen == [(6, 7), (7, 7)]
    assert found.miou == whole.miou
    assert found.confusions.names == whole.confusions.names
    np.testing.assert_array_equal(found.confusions.counts, whole.confusions.counts)
    np.testing.assert_array_equal(found.confusion, whole.confusion)
    np.testing.assert_array_equal(found.boundaries, whole.boundaries)
    assert found.seconds > 0
    assert not keep.exists()


@pytest.mark.parametrize("why", ["another model", "another protocol", "a damaged file", "a bomb"])
def test_what_does_not_belong_is_counted_anew(model, split, tmp_path, why):
    keep = tmp_path / "counted.npz"
    with pytest.raises(BrokenOffError):
        evaluate(model, split, SMALL, progress=broken_off_after(4), keep=keep, key="a")
    if why == "a damaged file":
        keep.write_bytes(keep.read_bytes()[:200])
    if why == "a bomb":  # all that belongs, and what fills the memory
        with np.load(keep) as file:
            arrays = {name: file[name] for name in file.files}
        np.savez_compressed(keep, padding=np.zeros(150_000_000, np.uint8), **arrays)
    seen = []
    evaluate(
        model, split, SMALL, progress=lambda done, _: seen.append(done), keep=keep,
        key="b" if why == "another model" else "a", flip=why == "another protocol",
    )  # fmt: skip
    assert seen == [1, 2, 3, 4, 5, 6, 7]


@pytest.fixture
def script(door):
    return partial(door, "scripts/evaluate.py")


def test_the_zoo_is_scored_as_far_as_it_is_here(script, published_file, tmp_path, monkeypatch):
    monkeypatch.setenv("CCNET_LAB_HOME", str(tmp_path / "home"))
    data, runs, good = tmp_path / "data", tmp_path / "runs", "ccnet_resnet50os16_voc"
    make_voc(data, val=3)
    make_cityscapes(data)
    (tmp_path / "home" / "checkpoints").mkdir(parents=True)
    for name in (
        good,
        "ccnet_resnet50os16_ade20k",
        "ccnet_resnet50os16_cityscapes",
    ):  # VOC's classes under the other names, too
        os.link(published_file(good), store.find(name).path)
    words = ["--published", "--data", data, "--runs", runs, "--only", "*50os16*", "*101os16_voc"]
    words += ["--workers", 0, "--device", "cpu"]
    code, out, err = script(*words)
    assert code == 1
    rows = {
        line.split("|")[1].strip(): line for line in out.splitlines() if line.startswith("| ccnet")
    }
    assert "76.01 | " in rows[good]
    assert "not comparable" in rows[good]  # 3 images, not VOC's 1,449
    assert "no data: " in rows["ccnet_resnet50os16_ade20k"]
    assert f"zoo.py get {'ccnet_resnet101os16_voc'}" in rows["ccnet_resnet101os16_voc"]
    assert "misshapen" in rows["ccnet_resnet50os16_cityscapes"]
    run = Run.open(runs / good)
    assert run.config == CONFIGS[good]
    assert run.scores["protocol"]["images"] == 3
    assert (
        run.scores["weights"]["sha256"]
        == json.loads(store.find(good).path.with_name(f"{good}_train.pth.json").read_text())[
            "sha256"
        ]
    )
    assert run.confusions.is_file()
    written = (run.folder / "scores.json").stat().st_mtime_ns

    code, out, err = script(*words[:6], good)
    assert code == 0
    assert f"{100 * run.scores['miou']:.2f}" in out
    assert "scored before" in out + err
    assert (run.folder / "scores.json").stat().st_mtime_ns == written


def test_what_fails_stops_nothing(script, published_file, tmp_path, monkeypatch):
    monkeypatch.setenv("CCNET_LAB_HOME", str(tmp_path / "home"))
    make_voc(tmp_path / "data", val=2)
    (tmp_path / "home" / "checkpoints").mkdir(parents=True)
    for name in ("ccnet_resnet50os16_voc", "ccnet_resnet50os8_voc"):
        os.link(published_file("ccnet_resnet50os16_voc"), store.find(name).places[1])
    ran = []

    def evaluate_once(*given, **how):
        if not ran.append(1) and len(ran) == 1:
            raise RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed.")
        return evaluate(*given, **how)

    monkeypatch.setattr(published, "evaluate", evaluate_once)
    code, out, _ = script(
        "--published",
        "--data",
        tmp_path / "data",
        "--runs",
        tmp_path / "runs",
        "--only",
        "*50os*_voc",
        "--workers",
        0,
        "--device",
        "cpu",
    )
    assert code == 1
    assert len(ran) == 2
    rows = {
        line.split("|")[1].strip(): line for line in out.splitlines() if line.startswith("| ccnet")
    }
    assert (
        "a worker was killed, by hand or because memory ran out" in rows["ccnet_resnet50os16_voc"]
    )
    assert "not comparable" in rows["ccnet_resnet50os8_voc"]


def test_one_source_or_the_zoo(script, tmp_path):
    for words in ([], ["demo", "--published"]):
        code, _, err = script(*words, "--data", tmp_path)
        assert code == 2
        assert "one source, or --published" in err
    code, _, err = script("--published", "--data", tmp_path, "--only", "*vok")
    assert code == 2
    assert "matches none of the twelve" in err
