"""The miniatures' data sets: in their siblings' layouts, reproducible, resumed, never mixed."""

import hashlib
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from ccnet_lab.data import catalog
from ccnet_lab.data.catalog import IGNORE, get_dataset
from ccnet_lab.data.check import examine
from ccnet_lab.data.datasets import open_split
from ccnet_lab.data.generated.worlds import MARK, WORLDS, generate, make_scene
from ccnet_lab.data.prepare import prepare
from ccnet_lab.errors import DataError


@pytest.fixture
def few(monkeypatch):
    """The data sets with six and three scenes."""
    for key in WORLDS:
        small = replace(get_dataset(key), train_images=6, val_images=3)
        monkeypatch.setitem(catalog.DATASETS, key, small)


def digests(root):
    """The hash of every file below a folder."""
    files = sorted(path for path in root.rglob("*") if path.is_file())
    return {str(p.relative_to(root)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def test_they_are_in_the_layouts_of_their_siblings(tmp_path, few):
    """The names on disk are the published ones'; the doctor finds nothing; pixels come back."""
    root = tmp_path / "data"
    generate(root, seed=3)
    assert (root / "objects/VOCdevkit/VOC2012/ImageSets/Segmentation/trainaug.txt").is_file()
    assert (
        root / "rooms/ADEChallengeData2016/annotations/training/ADE_train_00000001.png"
    ).is_file()
    label = "streets/cityscapes/gtFine/val/dale/dale_000000_000019_gtFine_labelIds.png"
    assert (root / label).is_file()
    for key in WORLDS:
        data = get_dataset(key)
        assert examine(data, root).fine
        for name, count in ((data.train_split, 6), (data.val_split, 3)):
            split = open_split(data, root, name)
            assert len(split) == count
        pixels, ids = make_scene(key, 3, data.val_split, 1)
        found = open_split(data, root, data.val_split).read(1)
        classes = np.full(256, IGNORE)
        classes[list(data.ids)] = range(data.num_classes)
        assert (found.labels == classes[ids]).all()
        assert np.abs(found.image.astype(int) - pixels).mean() < 4  # JPEG


def test_the_same_seed_makes_the_same_files(tmp_path, few):
    """And another seed others."""
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        generate(tmp_path / name, seed)
    a, b, c = (digests(tmp_path / name) for name in "abc")
    assert a == b
    assert not {*a.items()} & {(name, digest) for name, digest in c.items() if "txt" not in name}


def test_a_killed_generation_is_finished(tmp_path, few):
    """Missing files are written, the others stay as they are."""
    root = tmp_path / "data"
    generate(root, 3)
    whole = digests(root)
    mark = root / MARK
    mark.write_text(mark.read_text().replace('"complete": true', '"complete": false'))
    for path in sorted(root.rglob("*.png"))[::3]:
        path.unlink()
    generate(root, 3)
    assert digests(root) == whole


def test_a_generation_killed_before_its_first_file_is_no_other_data(tmp_path, few):
    """All that is there is the mark that was being written."""
    (tmp_path / f"{MARK}.writing").write_text("{")
    generate(tmp_path, 3)
    assert len(open_split(get_dataset("voc_mini"), tmp_path)) == 6


def test_data_that_is_not_there_says_what_generates_it(tmp_path):
    """Nothing that is generated can be downloaded."""
    command = "`python scripts/train_all.py --miniature --data"
    with pytest.raises(DataError, match=f"there is no Objects .*{command}"):
        open_split(get_dataset("voc_mini"), tmp_path)
    with pytest.raises(DataError, match=f"generated, not downloaded: {command}"):
        prepare("cityscapes_mini", tmp_path)


@pytest.mark.parametrize("other", ["VOCdevkit", "notes.txt"])
def test_a_folder_with_other_data_is_refused(tmp_path, few, other):
    """Real data sets, or anything else."""
    (tmp_path / other).mkdir()
    with pytest.raises(DataError, match="holds other files"):
        generate(tmp_path)


def test_another_seed_is_refused(tmp_path, few):
    """What is there stays as it is."""
    generate(tmp_path / "data", 3)
    before = digests(tmp_path / "data")
    with pytest.raises(DataError, match=r"seed 3, version \d+, not of seed 4"):
        generate(tmp_path / "data", 4)
    assert digests(tmp_path / "data") == before
    (tmp_path / "data" / MARK).write_text("{")
    with pytest.raises(DataError, match="cannot be read"):
        generate(tmp_path / "data", 3)


@pytest.mark.parametrize("key", WORLDS)
def test_every_class_can_be_learned(key):
    """Every class occurs in several of 60 scenes, and what tells the long-range ones is there."""
    data, seen = get_dataset(key), np.zeros(256, int)
    for number in range(60):
        pixels, ids = make_scene(key, 5, data.train_split, number)
        assert pixels.shape == (*ids.shape, 3)
        counts = np.bincount(ids.ravel(), minlength=256)
        seen += counts > 8
        assert {*np.flatnonzero(counts)} <= {*data.ids, *data.ignored_ids, IGNORE}
        at = {name: counts[data.ids[k]] for k, name in enumerate(data.class_names)}
        kinds = [name for name in WORLDS[key].long_range if at[name]]
        assert len(kinds) <= 1  # one cue, one meaning
    assert (seen[list(data.ids)] >= 3).all(), seen


def test_long_range_things_look_alike():
    """A gem's own pixels do not tell its class: the classes' mean colours are the same."""
    data, means = get_dataset("voc_mini"), {}
    for number in range(150):
        pixels, ids = make_scene("voc_mini", 6, "trainaug", number)
        for name in WORLDS["voc_mini"].long_range:
            there = ids == data.class_names.index(name)
            if there.any():
                means.setdefault(name, []).append(pixels[there].mean(0))
    found = np.array([np.mean(each, axis=0) for each in means.values()])
    error = max(np.std(each, axis=0).max() / len(each) ** 0.5 for each in means.values())
    assert len(found) == 3
    assert np.ptp(found, axis=0).max() < 4 * error


def test_voc_masks_have_the_palette(tmp_path, few):
    """So that any viewer shows the classes' colours."""
    generate(tmp_path / "data", 3)
    mask = next((tmp_path / "data/objects").rglob("SegmentationClass/*.png"))
    with Image.open(mask) as drawn:
        palette = np.array(drawn.getpalette()).reshape(-1, 3)
    assert (palette[: get_dataset("voc_mini").num_classes] == get_dataset("voc_mini").palette).all()
