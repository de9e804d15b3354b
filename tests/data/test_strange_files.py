"""Files that are not what their names say start no program; masks of 0 and 255 are explained."""

import io
import itertools
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import EpsImagePlugin, Image

from ccnet_lab.data.check import check_learnable, examine, report_text
from ccnet_lab.data.datasets import open_own, open_split
from ccnet_lab.data.images import read_image
from ccnet_lab.errors import DataError, LabError
from ccnet_lab.evaluation.metrics import miou_text

ROOT = Path(__file__).parents[2]
COUNT = itertools.count()
EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 40 30\n%%EndComments\nshowpage\n"


def own(folder, names, masks, images=None, **more):
    """Your own data, of arrays as masks and bytes as pictures, in a folder of a new name."""
    folder = folder.with_name(f"{folder.name}{next(COUNT)}")
    for part in ("images", "masks"):
        (folder / part).mkdir(parents=True)
    rng = np.random.default_rng(0)
    for i, mask in enumerate(masks):
        picture = Image.fromarray(rng.integers(0, 255, (*mask.shape, 3), np.uint8))
        picture.save(folder / "images" / f"{i:04}.png")
        if images and i in images:
            (folder / "images" / f"{i:04}.png").write_bytes(images[i])
        Image.fromarray(mask).save(folder / "masks" / f"{i:04}.png")
    (folder / "classes.json").write_text(json.dumps({"names": names, **more}))
    return folder


def gif(left):
    """64 x 48, its one frame moved to the right, which no encoder writes."""
    file = io.BytesIO()
    Image.fromarray(np.full((48, 64), 7, np.uint8)).save(file, "GIF")
    data = bytearray(file.getvalue())
    at = data.index(
        b"\x2c", 13 + 3 * (2 << (data[10] & 7))
    )  # the image descriptor, after the colour table
    data[at + 1 : at + 3] = left.to_bytes(2, "little")
    return bytes(data)


@pytest.mark.parametrize("left", [60, 5000])
def test_a_frame_beside_the_canvas_harms_nothing(tmp_path, left):
    mask = np.zeros((48, 64), np.uint8)
    mask[:20] = 1
    folder = own(tmp_path / "own", ["a", "b"], [mask] * 10, {2: gif(left)})
    words = [sys.executable, str(ROOT / "scripts" / "prepare_data.py"), str(folder), "--check"]
    found = subprocess.run(words, capture_output=True, text=True, check=False, timeout=120)
    assert found.returncode in (0, 1), found.stderr  # a negative one is a signal's
    assert found.returncode == 0 or "0002.png" in found.stdout


def test_no_picture_starts_a_program(tmp_path, monkeypatch):
    started = tmp_path / "started"
    script = tmp_path / "bin" / "gs"
    script.parent.mkdir()
    script.write_text(f"#!/bin/sh\ntouch {started}\n")
    script.chmod(0o755)
    monkeypatch.setenv("PATH", str(script.parent), prepend=":")
    monkeypatch.setattr(EpsImagePlugin, "gs_binary", None)
    monkeypatch.setattr(EpsImagePlugin, "gs_windows_binary", None)
    sources = [EPS]
    for name in ("a.eps", "a.jpg", "a.png"):
        (tmp_path / name).write_bytes(EPS)
        sources.append(tmp_path / name)
    for source in sources:
        with pytest.raises(
            LabError, match="PostScript file, which is not read here; expected JPEG, PNG"
        ):
            read_image(source)
    mask = np.zeros((30, 40), np.uint8)
    mask[:9] = 1
    folder = own(tmp_path / "own", ["a", "b"], [mask] * 6, dict.fromkeys(range(6), EPS))
    (folder / "masks" / "0001.png").write_bytes(EPS)
    report = report_text(examine(open_own(folder), ""))
    assert "is a PostScript file" in report
    assert not started.exists()


@pytest.mark.parametrize(
    ("names", "value", "cure"),
    [
        (["ground", "thing"], 255, r'"ids": \[0, 255\] to classes.json'),
        (["thing"], 255, r'"ids": \[0, 255\] and 2 names'),
        (["a", "b", "c"], 255, r'"ids": \[0, 255\] and 2 names'),
        (["a", "b"], 0, "look at the masks"),
    ],
)
def test_masks_of_one_class_are_stopped(tmp_path, names, value, cure):
    mask = np.zeros((24, 32), np.uint8)
    mask[4:12, 4:20] = value
    dataset = open_own(own(tmp_path / "own", names, [mask] * 10))
    with pytest.raises(DataError, match=cure):
        check_learnable(open_split(dataset, ""))
    report = examine(dataset, "")
    assert not report.fine
    assert "every pair can be read and fits" not in report_text(report)


def test_the_cure_works_and_sound_masks_pass(tmp_path):
    mask = np.zeros((24, 32), np.uint8)
    mask[4:12, 4:20] = 255
    dataset = open_own(own(tmp_path / "own", ["ground", "thing"], [mask] * 10, ids=[0, 255]))
    check_learnable(open_split(dataset, ""))
    assert (open_split(dataset, "").read(0).labels == mask // 255).all()
    assert examine(dataset, "").fine


def test_a_score_over_one_class_says_so():
    assert (
        miou_text({"miou": 1.0, "per_class_iou": {"a": 1.0, "b": None}})
        == "mIoU 100.00 % (a single class: nothing was told apart)"
    )
    assert miou_text({"miou": 0.5, "per_class_iou": {"a": 1.0, "b": 0.0}}) == "mIoU 50.00 %"
