"""The shipped street model: it opens offline, and photographs give its stored confusions."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import SHARED

from ccnet_lab import Explorer, get_config
from ccnet_lab.data.catalog import get_dataset
from ccnet_lab.data.datasets import open_split
from ccnet_lab.evaluation.evaluate import evaluate, score_table, scores
from ccnet_lab.evaluation.metrics import Confusions, load_confusions
from ccnet_lab.evaluation.protocol import Protocol, check_comparable, published_protocol
from ccnet_lab.hub import find_weights

ROOT = Path(__file__).parents[2]
SCORES = json.loads((ROOT / "results" / "runs" / "street" / "scores.json").read_text())


def test_it_opens_offline_and_is_small():
    explorer = Explorer.open("street")
    assert explorer.config == get_config("street")
    assert explorer.class_names == get_dataset("camvid").class_names
    assert abs(explorer.model.attention.gamma.item()) > 0.05  # the attention does something
    assert find_weights("street").stat().st_size <= 12e6


def test_its_table_is_that_of_its_scores():
    page = (ROOT / "ccnet_lab" / "assets" / "street.md").read_text()
    assert score_table(SCORES) in page
    assert "CC BY-NC 4.0" in page
    assert "scripts/train.py street" in page
    readme = (ROOT / "README.md").read_text()
    assert f"{100 * SCORES['miou']:.2f} %" in readme
    check_comparable(
        Protocol.from_dict(SCORES["protocol"]), published_protocol(get_config("street"))
    )
    assert SCORES["protocol"]["images"] == 233


def test_the_stored_matrices_give_the_stored_scores():
    stored = load_confusions(ROOT / "results" / "runs" / "street" / "confusions.npz")
    assert len(stored.names) == 233
    found = scores(stored.total())
    assert found.miou == pytest.approx(SCORES["miou"], abs=1e-9)
    assert found.iou.tolist() == pytest.approx(list(SCORES["per_class_iou"].values()), abs=1e-9)


def test_photographs_give_what_is_stored():
    if not (SHARED / "camvid").is_dir():
        pytest.skip("no ../shared/data/camvid here")
    explorer, stored = (
        Explorer.open("street"),
        load_confusions(ROOT / "results" / "runs" / "street" / "confusions.npz"),
    )
    split = open_split(get_dataset("camvid"), SHARED, "test")
    split = replace(split, pairs=split.pairs[::20])
    found = evaluate(explorer.model, split, explorer.config, boundaries=False)
    parts = [
        (stored.cells[start:end], stored.counts[start:end])
        for name, start, end in zip(stored.names, stored.starts, stored.starts[1:], strict=False)
        if name in found.confusions.names
    ]
    names = found.confusions.names
    expected = Confusions.collect(names, stored.num_classes, parts).total()
    confusion = found.confusion
    assert confusion.sum() == expected.sum()
    assert (
        np.abs(confusion - expected).sum() < 1e-4 * expected.sum()
    )  # another machine rounds differently
