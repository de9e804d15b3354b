"""data/cache.py: decoded pairs give the same samples; no stale, damaged or foreign one is used."""

import json
import os
import shutil
from collections import namedtuple
from dataclasses import replace

import numpy as np
import pytest
import torch
from layouts import blocks, make_cityscapes, make_voc, write
from safetensors.numpy import load_file, save_file

from ccnet_lab import get_config
from ccnet_lab.data import cache
from ccnet_lab.data.batches import training_batches
from ccnet_lab.data.cache import build_cache, read_pair
from ccnet_lab.data.catalog import get_dataset
from ccnet_lab.data.datasets import open_split
from ccnet_lab.errors import DataError


@pytest.fixture
def split(tmp_path):
    make_cityscapes(tmp_path, train=5)
    return open_split(get_dataset("cityscapes"), tmp_path)


def files(split):
    return sorted(split.cache.iterdir())


def drawn(split, **options):
    config = replace(
        get_config("ccnet_resnet50os8_cityscapes"),
        crop_size=(24, 70),
        resize=(64, 48),
        batch_size=2,
    )
    return list(training_batches(split, config, range(6), **options))


@pytest.mark.parametrize("key", ["voc", "cityscapes"])
def test_samples_are_the_same_with_half_a_cache_and_a_whole_one(tmp_path, key):
    {"voc": make_voc, "cityscapes": make_cityscapes}[key](tmp_path)
    split = open_split(get_dataset(key), tmp_path)
    decoded = drawn(split)
    build_cache(split, say=lambda _: None)
    for workers in (0, 2):
        for before, now in zip(decoded, drawn(split, workers=workers), strict=True):
            assert before.names == now.names
            assert all(torch.equal(a, b) for a, b in zip(before[1:], now[1:], strict=True))
        files(split)[0].unlink()


def test_a_file_is_mapped_whole_and_readable_without_this_program(split):
    build_cache(split, say=lambda _: None)
    for index, pair in enumerate(split.pairs):
        sample, mapped = split.read(index), read_pair(split, index)
        assert not mapped.image.flags.owndata
        assert not mapped.image.flags.writeable
        assert np.array_equal(sample.image, mapped.image)
        assert np.array_equal(sample.labels, mapped.labels)
        stored = load_file(split.cache / f"{pair.name}.safetensors")
        assert np.array_equal(stored["image"], sample.image)
        assert np.array_equal(stored["labels"], sample.labels)


def test_its_size_is_told_before_and_is_its_size(split):
    said = []

    def say(line):
        said.append(line)
        assert list(split.cache.iterdir()) == []

    build_cache(split, say=say)
    wanted = 5 * 4 * 48 * 64
    assert (
        f"5 of the 5 pairs of train are still to be decoded, which takes {wanted / 1e9:,.2f} GB"
        in said[0]
    )
    assert sum(cache._bytes(pair) for pair in split.pairs) == wanted
    assert wanted < sum(file.stat().st_size for file in files(split)) < wanted + 5 * 1000  # headers


def test_too_little_room_is_refused_before_anything_is_written(split, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(0, 0, 5 * 4 * 48 * 64 - 1))
    with pytest.raises(
        DataError, match=r"needs 0\.00 GB more than are free; free some room, or make it a link"
    ):
        build_cache(split, say=lambda _: None)
    assert files(split) == []
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(0, 0, 5 * 4 * 48 * 64))
    build_cache(split, say=lambda _: None)


def test_a_folder_that_cannot_be_made(split):
    split.cache.parent.write_text("in its way")
    with pytest.raises(DataError, match=r"cache.train cannot be made"):
        build_cache(split, say=lambda _: None)


def test_killed_it_goes_on_with_what_is_whole(split):
    build_cache(split, say=lambda _: None)
    kept, cut, gone = files(split)[:3]
    before = kept.stat().st_mtime_ns
    cut.write_bytes(cut.read_bytes()[:-1])
    gone.unlink()
    gone.with_name(f"{gone.name}.writing").write_bytes(b"half")
    seen, said = [], []
    build_cache(split, said.append, lambda done, total: seen.append((done, total)))
    assert "2 of the 5 pairs" in said[0]
    assert seen == [(1, 2), (2, 2)]
    assert kept.stat().st_mtime_ns == before
    assert len(files(split)) == 5
    assert [np.array_equal(read_pair(split, i).image, split.read(i).image) for i in range(5)] == [
        True
    ] * 5


def test_a_changed_image_mask_or_label_table_is_noticed_and_made_anew(split):
    build_cache(split, say=lambda _: None)
    for pair, file, content in (
        (0, "image", blocks(9, 5)[0]),
        (1, "mask", np.full((48, 64), 7, np.uint8)),
    ):
        write(getattr(split.pairs[pair], file), content)
    os.utime(split.pairs[2].image, ns=(1, 1))
    for index in range(3):
        with pytest.raises(
            DataError,
            match=rf"{split.pairs[index].name}\.safetensors was made from another image, mask .* "
            "--cache again",
        ):
            read_pair(split, index)
    fewer = replace(
        split, dataset=replace(split.dataset, ignored_ids=(*split.dataset.ignored_ids, 99))
    )
    with pytest.raises(DataError, match="table of labels"):
        read_pair(fewer, 4)
    build_cache(split, say=lambda _: None)
    assert np.array_equal(read_pair(split, 0).image, blocks(9, 5)[0])
    assert (read_pair(split, 1).labels == 0).all()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"short",
        b"\xff" * 8 + b"{}",
        b"\x02" + bytes(7) + b"[]",
        b"\x02" + bytes(7) + b"{}" + bytes(40),
        json.dumps({"labels": {"shape": [48, 64]}}).encode(),
    ],
)
def test_a_damaged_or_foreign_file_is_named(split, content):
    build_cache(split, say=lambda _: None)
    files(split)[0].write_bytes(content)
    with pytest.raises(
        DataError,
        match=rf"{files(split)[0].name} is damaged, or of another program: .*; call .* "
        "or delete it",
    ):
        read_pair(split, 0)
    with pytest.raises(DataError, match="is damaged"):
        drawn(split, workers=1)


@pytest.mark.parametrize("place", [0, 0.3, 0.9, 1])
def test_a_changed_byte_is_noticed(split, place):
    """Anywhere in the arrays, in every process that reads the file; building makes it anew."""
    build_cache(split, say=lambda _: None)
    file = files(split)[0]
    content = bytearray(file.read_bytes())
    content[-1 - int(place * (48 * 64 * 4 - 1))] ^= 1
    file.write_bytes(content)
    with pytest.raises(DataError, match=r"is damaged.*checksum"):
        read_pair(split, 0)
    with pytest.raises(DataError, match="is damaged"):
        drawn(split, workers=1)
    build_cache(split, say=lambda _: None)
    assert np.array_equal(read_pair(split, 0).labels, split.read(0).labels)


def test_of_two_files_that_changed_places_neither_is_taken(split):
    build_cache(split, say=lambda _: None)
    first, second = files(split)[:2]
    first.rename(first.with_suffix(".x"))
    second.rename(first)
    with pytest.raises(DataError, match="made from another image"):
        read_pair(split, 0)
    save_file(
        {"image": np.zeros((48, 64, 3), np.uint8), "labels": np.zeros((48, 64), np.uint8)}, first
    )  # nothing says from what
    with pytest.raises(DataError, match="of another program"):
        read_pair(split, 0)


def test_a_pair_whose_files_are_gone_is_named(split):
    build_cache(split, say=lambda _: None)
    split.pairs[0].mask.unlink()
    with pytest.raises(DataError, match=rf"pair {split.pairs[0].name} cannot be found: .*labelIds"):
        read_pair(split, 0)


def test_the_door_builds_it_and_training_takes_it(split, tmp_path, door):
    code, out, err = door(
        "scripts/prepare_data.py", "cityscapes", "--data", tmp_path, "--check", "--cache"
    )
    assert code == 0, err
    assert "5 of the 5 pairs of train are still to be decoded" in out
    assert len(files(split)) == 5
    before = drawn(split)
    for pair in (
        split.pairs
    ):  # same size and time, other pixels: only a cache that is not used would show them
        stat = pair.image.stat()
        pair.image.write_bytes(bytes(stat.st_size))
        os.utime(pair.image, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert all(torch.equal(a.images, b.images) for a, b in zip(before, drawn(split), strict=True))
