"""Files that are not what their names say start no program; masks of 0 and 255 are explained."""

import io
import itertools
import json
import os
import re
import tarfile
import time
import zipfile

import numpy as np
import pytest
from forked import ran
from PIL import EpsImagePlugin, Image

from ccnet_lab.data.check import check_learnable, examine, report_text
from ccnet_lab.data.class_files import read_classes
from ccnet_lab.data.datasets import open_own, open_split
from ccnet_lab.data.images import read_image
from ccnet_lab.data.prepare import unpack
from ccnet_lab.errors import DataError, LabError
from ccnet_lab.evaluation.metrics import miou_text

COUNT = itertools.count()
UNUSED = ("background", "unlabeled", "no label")  # names of Supervisely's id 0
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
    found = ran("scripts/prepare_data.py", folder, "--check")
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


def test_a_long_path_in_a_list_takes_no_time(tmp_path):
    """280 kB that took a minute: each part was looked up with all that follow."""
    folder = own(tmp_path / "own", ["a", "b"], [np.eye(8, dtype=np.uint8)] * 3)
    (folder / "train.txt").write_text("0000\n0001\n")
    (folder / "val.txt").write_text("images/" * 40_000 + "x\n")
    start = time.perf_counter()
    report_text(examine(open_own(folder), ""))
    assert time.perf_counter() - start < 5


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("meta.json", json.dumps({"classes": [{"title": n, "color": "#010101"} for n in UNUSED]})),
        ("_classes.csv", "Pixel Value, Class\n0, " + "a" * 200_000 + "\n"),
        ("dataset_meta.json", '{"label_map": {"0": "a", "00": "b"}}'),
    ],
)  # fmt: skip
def test_odd_class_files_are_read_or_refused(tmp_path, name, content):
    (tmp_path / name).write_text(content)
    if name == "meta.json":
        assert read_classes(tmp_path / name).names == ["nothing", *UNUSED]
        return
    with pytest.raises(DataError, match=re.escape(name)):
        read_classes(tmp_path / name)


def test_what_no_terminal_should_be_sent_is_not(tmp_path):
    """Of a class, and of a folder whose name is no text."""
    folder = own(
        tmp_path / os.fsdecode(b"own \xff"), ["a\x1b[31m", "b\x9b"], [np.eye(8, dtype=np.uint8)] * 3
    )
    dataset = open_own(folder)
    text = report_text(examine(dataset, ""))
    text.encode("utf-8")
    assert not {*text} & {"\x1b", "\x9b"}
    json.dumps(dataset.to_dict(), ensure_ascii=False)
    dataset.title.encode("utf-8")


def test_a_file_without_a_name_in_an_archive(tmp_path):
    """A zip's names end at a zero."""
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as packed:
        packed.writestr("abc", "text")
    path.write_bytes(path.read_bytes().replace(b"abc", b"\0bc"))
    with pytest.raises(DataError, match="cannot be unpacked: a file in it has no name"):
        unpack(path, {"top": tmp_path / "there"})


@pytest.mark.parametrize("name", ["a.zip", "a.tar.xz", "a.tar.bz2"])
def test_a_flipped_byte_in_any_kind_of_archive(tmp_path, name):
    path = tmp_path / name
    if name == "a.zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_LZMA) as packed:
            packed.writestr("top/a.txt", "text " * 4000)
    else:
        with tarfile.open(path, f"w:{path.suffix[1:]}") as tape:
            about = tarfile.TarInfo("top/a.txt")
            about.size = 20_000
            tape.addfile(about, io.BytesIO(np.random.default_rng(0).bytes(20_000)))
    content = bytearray(path.read_bytes())
    content[len(content) // 3] ^= 0xFF
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"cannot be unpacked|lacks"):
        unpack(path, {"top": tmp_path / "there"})
