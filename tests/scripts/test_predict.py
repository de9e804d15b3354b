"""scripts/predict.py: labels are those of the app; an unreadable picture is named, no more."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ccnet_lab import Explorer
from ccnet_lab.data.catalog import get_dataset
from ccnet_lab.data.datasets import read_labels
from ccnet_lab.data.generated.beacons import make_scene
from ccnet_lab.evaluation import label_files
from ccnet_lab.evaluation.label_files import labels_png, pictures_of

SCRIPT = "scripts/predict.py"


@pytest.fixture
def folder(tmp_path, picture):
    (tmp_path / "in" / "deep" / "er").mkdir(parents=True)
    Image.fromarray(make_scene(3).image).save(tmp_path / "in" / "scene.png")
    Image.fromarray(picture(40, 70)).save(tmp_path / "in" / "deep" / "er" / "noise.JPG", "JPEG")
    (tmp_path / "in" / "deep" / "bad.jpg").write_text("no picture")
    (tmp_path / "in" / ".hidden.png").write_text("not looked at")
    return tmp_path / "in"


def test_labels_are_the_explorers_and_a_bad_picture_is_named(door, folder, tmp_path):
    out = tmp_path / "out"
    code, said, err = door(SCRIPT, "demo", folder, "--out", out, "--device", "cpu")
    assert code == 1
    assert "bad.jpg is no picture that can be read here" in err
    assert "labels of 2 of 3 pictures" in said
    assert sorted(path.relative_to(out).as_posix() for path in out.rglob("*.png")) == [
        "deep/er/noise.png",
        "scene.png",
    ]
    explorer = Explorer.open("demo")
    for name, picture in (("scene.png", "scene.png"), ("deep/er/noise.png", "deep/er/noise.JPG")):
        labels = explorer.look(folder / picture).labels
        assert np.array_equal(read_labels(out / name, get_dataset("beacons")), labels)
        shown = np.asarray(Image.open(out / name).convert("RGB"))
        assert np.array_equal(shown, np.array(get_dataset("beacons").palette, np.uint8)[labels])


def test_it_goes_on_where_it_stopped_and_mixes_nothing(door, folder, tmp_path, monkeypatch):
    out = tmp_path / "out"
    door(SCRIPT, "demo", folder, "--out", out)
    (out / "scene.png").unlink()
    looked, read = [], label_files.read_image
    monkeypatch.setattr(
        label_files, "read_image", lambda path: looked.append(path.name) or read(path)
    )
    door(SCRIPT, "demo", folder, "--out", out)
    assert looked == ["bad.jpg", "scene.png"]
    for words in (["demo_r1"], ["demo", "--colour"]):
        code, _, err = door(SCRIPT, words[0], folder, "--out", out, *words[1:])
        assert code == 2
        assert "holds labels that were made otherwise" in err
    assert json.loads((out / "predicted.json").read_text())["config"] == "demo"


def test_one_picture_in_colour_and_in_other_precisions(door, folder, tmp_path):
    for precision in ("auto", "bf16", "fast"):
        code, _, err = door(
            SCRIPT,
            "demo",
            folder / "scene.png",
            "--out",
            tmp_path / precision,
            "--colour",
            "--precision",
            precision,
        )
        assert code == 0, err
        shown = np.asarray(Image.open(tmp_path / precision / "scene.png"))
        expected = np.array(get_dataset("beacons").palette, np.uint8)[
            Explorer.open("demo").look(folder / "scene.png").labels
        ]
        assert (shown == expected).all(-1).mean() > (0.9999 if precision == "auto" else 0.98)


def test_ids_are_those_of_the_mask_files():
    cityscapes, labels = get_dataset("cityscapes"), np.array([[0, 18], [13, 2]], np.uint8)
    import io

    picture = Image.open(io.BytesIO(labels_png(labels, cityscapes)))
    assert np.asarray(picture).tolist() == [[7, 33], [26, 11]]
    ade = replace(get_dataset("ade20k"))
    assert np.asarray(Image.open(io.BytesIO(labels_png(labels, ade)))).tolist() == [
        [1, 19],
        [14, 3],
    ]


def test_names_that_would_meet_keep_their_endings(tmp_path):
    for name in ("a.jpg", "a.png", "b.tif", "c.txt"):
        (tmp_path / name).touch()
    found = pictures_of(tmp_path, tmp_path / "labels")
    assert [wanted.labels.name for wanted in found] == ["a.jpg.png", "a.png.png", "b.png"]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("demo", "nowhere"), "there is no picture or folder nowhere"),
        (("demmo", "app.py"), "did you mean"),
        (("demo", "docs"), ""),
    ],
)
def test_what_cannot_be_is_told(door, tmp_path, words, expected):
    if words[1] == "docs":
        words, expected = ("demo", tmp_path), "there is no picture in"
    code, _, err = door(SCRIPT, *words, "--out", tmp_path / "out")
    assert code == 2
    assert expected in err
    assert err.count("\n") == 1


def test_a_full_disk_ends_it_in_a_sentence(door, folder, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    code, _, err = door(SCRIPT, "demo", folder / "scene.png", "--out", tmp_path / "out")
    assert code == 2
    assert "scene.png cannot be written" in err
