"""data/datasets.py: files of a split, their ids, and a clear error for what can't be used."""

import json
import shutil
import zlib

import cv2
import numpy as np
import pytest
from conftest import SHARED
from layouts import make_ade20k, make_cityscapes, make_voc
from PIL import Image
from profiles import png_of, profile, saved, scene
from web import jpg, png

from ccnet_lab.data import datasets
from ccnet_lab.data.catalog import DATASETS, IGNORE, Dataset, get_dataset, register
from ccnet_lab.data.datasets import (
    Pair,
    Split,
    describe,
    label_table,
    open_own,
    open_split,
    read_labels,
)
from ccnet_lab.data.images import read_image
from ccnet_lab.data.masks import read_stored
from ccnet_lab.errors import DataError

IDS = np.arange(256, dtype=np.uint8).reshape(16, 16)


@pytest.fixture(autouse=True)
def _unregistered(monkeypatch):
    """Data sets of one's own are forgotten after each test."""
    monkeypatch.setattr("ccnet_lab.data.catalog.DATASETS", dict(DATASETS))


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def palette_png(ids):
    """Indices with a palette whose grey values are others than the indices."""
    picture = Image.fromarray(ids, "P")
    picture.putpalette([255 - i // 3 for i in range(768)])
    return saved(picture)


# Masks


def test_a_palette_mask_gives_its_indices_and_a_grey_one_its_values(tmp_path):
    ids = np.array([[0, 1, 20], [255, 15, 7]], np.uint8)
    for name, content in (("palette", palette_png(ids)), ("grey", png(ids))):
        labels = read_labels(write(tmp_path / f"{name}.png", content), get_dataset("voc"))
        assert labels.dtype == np.uint8
        assert np.array_equal(labels, ids)
        assert labels[1, 0] == IGNORE


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
@pytest.mark.parametrize("transparent", [False, True])
def test_ids_are_pillow_s_at_every_depth(tmp_path, bits, transparent):
    """Those of 8 bits are decoded by torchvision, which would give others at lower depths."""
    rows = np.random.default_rng(bits).integers(0, 256, (6, 16), np.uint8)
    palette = (b"PLTE", bytes((255 - i // 3) % 256 for i in range(3 * 2**bits)))
    clear = {True: [(b"tRNS", bytes(2))], False: []}[transparent]
    for colour_type, chunks in ((0, clear), (3, [palette, *clear])):
        packed = zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows))
        content = png_of((16 * 8 // bits, 6), bits, colour_type, packed, *chunks)
        path = write(tmp_path / f"{colour_type}.png", content)
        with Image.open(path) as picture:
            expected = np.asarray(picture).astype(np.uint8)
        assert np.array_equal(read_stored(path).values, expected)
        assert colour_type == 0 or expected.max() < 2**bits


def test_a_class_with_the_number_that_marks_strange_ids(tmp_path):
    """With 255 classes there is a class 254; without, an id mapped there is still refused."""
    classes = tuple((f"#0000{i:02x}", f"c{i}") for i in range(255))
    many = register(Dataset("many", "Many", str(tmp_path), 0, 0, classes=classes))
    path = write(tmp_path / "m.png", png(np.array([[254, 255, 0]], np.uint8)))
    assert read_labels(path, many).tolist() == [[254, IGNORE, 0]]
    with pytest.raises(DataError, match="does not have: 254; expected"):
        read_labels(path, get_dataset("voc"))


def test_masks_of_one_and_of_sixteen_bits(tmp_path):
    one = np.eye(4, dtype=bool)
    assert np.array_equal(
        read_labels(write(tmp_path / "1.png", saved(Image.fromarray(one))), get_dataset("voc")), one
    )
    sixteen = np.array([[0, 20], [255, 3]], np.uint16)
    assert np.array_equal(
        read_labels(write(tmp_path / "16.png", png(sixteen)), get_dataset("voc")), sixteen
    )
    with pytest.raises(DataError, match="ids up to 256"):
        read_labels(write(tmp_path / "17.png", png(sixteen + 1)), get_dataset("voc"))


@pytest.mark.parametrize("key", ["voc", "ade20k", "cityscapes", "camvid"])
def test_every_id_of_a_file_becomes_what_the_catalog_says(tmp_path, key):
    dataset = get_dataset(key)
    table = label_table(dataset)
    legal = IDS[table[IDS] >= 0]
    labels = read_labels(write(tmp_path / "m.png", png(legal[None])), dataset)[0]
    expected = {
        "voc": lambda i: i,
        "ade20k": lambda i: IGNORE if i in (0, 255) else i - 1,
        "cityscapes": lambda i: dataset.label_ids.index(i) if i in dataset.label_ids else IGNORE,
        "camvid": lambda i: IGNORE if i == 11 else i,
    }[key]
    assert [int(label) for label in labels] == [expected(int(i)) for i in legal]
    assert sorted(set(labels.tolist()) - {IGNORE}) == list(range(dataset.num_classes))
    for strange in IDS[table[IDS] < 0][::40]:
        with pytest.raises(
            DataError,
            match=rf"m\.png holds label ids that .* does not have: {strange}; expected 0, 1",
        ):
            read_labels(write(tmp_path / "m.png", png(np.full((2, 2), strange))), dataset)


def test_cityscapes_from_label_ids_and_from_train_ids(tmp_path):
    dataset, folder = get_dataset("cityscapes"), tmp_path / "cityscapes"
    ids = np.array([[7, 8, 33, 0, 29]], np.uint8)
    train_ids = np.array([[0, 1, 18, 255, 255]], np.uint8)
    for city, name, kinds in (
        ("aachen", "aachen_1", {"labelIds": ids}),
        ("bochum", "bochum_1", {"labelTrainIds": train_ids}),
        ("ulm", "ulm_1", {"labelIds": ids, "labelTrainIds": train_ids}),
    ):
        write(
            folder / "leftImg8bit" / "train" / city / f"{name}_leftImg8bit.png",
            png(np.zeros((1, 5, 3), np.uint8)),
        )
        for kind, mask in kinds.items():
            write(folder / "gtFine" / "train" / city / f"{name}_gtFine_{kind}.png", png(mask))
    split = open_split(dataset, tmp_path)
    assert [pair.name for pair in split.pairs] == ["aachen_1", "bochum_1", "ulm_1"]
    for i in range(3):
        assert split.read(i).labels.tolist() == [[0, 1, 18, 255, 255]]
    with pytest.raises(DataError, match="does not have: 29, 33"):
        read_labels(write(tmp_path / "x_gtFine_labelTrainIds.png", png(ids)), dataset)


def test_a_mat_of_sbd(tmp_path, monkeypatch):
    savemat = pytest.importorskip(
        "scipy.io", reason="SciPy (the extra `data`) reads and writes SBD's .mat files"
    ).savemat
    labels = np.array([[0, 20, 3], [7, 7, 0]], np.uint8)
    more = {"Boundaries": np.zeros(2), "CategoriesPresent": [3, 7, 20]}
    savemat(tmp_path / "1.mat", {"GTcls": {"Segmentation": labels, **more}})
    assert np.array_equal(read_labels(tmp_path / "1.mat", get_dataset("voc")), labels)
    cut = (tmp_path / "1.mat").read_bytes()[:150]
    for content in (b"", b"MATLAB 5.0 MAT-file" + bytes(200), cut):
        with pytest.raises(DataError, match=r"2\.mat cannot be read as an SBD mask"):
            read_labels(write(tmp_path / "2.mat", content), get_dataset("voc"))
    monkeypatch.setitem(__import__("sys").modules, "scipy.io", None)
    with pytest.raises(DataError, match="pip install scipy"):
        read_labels(tmp_path / "1.mat", get_dataset("voc"))


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "cannot be read as a mask"),
        (b"<html>no such file</html>", "cannot be read as a mask"),
        (
            png(np.random.default_rng(0).integers(0, 9, (32, 32), np.uint8))[:200],
            "cannot be read as a mask",
        ),
        (png(IDS).replace(b"IHDR", b"IHDX"), "cannot be read as a mask"),
        (jpg(), "is stored as JPEG"),
        (png(np.zeros((2, 2, 4), np.uint8)), "is transparent in 4 pixels"),
    ],
    ids=["empty", "html", "cut", "crc", "jpeg", "rgba"],
)
def test_unreadable_masks(tmp_path, content, says):
    with pytest.raises(DataError, match=rf"m\.png {says}"):
        read_labels(write(tmp_path / "m.png", content), get_dataset("voc"))
    with pytest.raises(DataError, match=r"no mask .*gone\.png"):
        read_labels(tmp_path / "gone.png", get_dataset("voc"))


def test_a_huge_picture_is_refused_not_decoded(tmp_path, monkeypatch):
    monkeypatch.setattr("ccnet_lab.data.masks.MAX_PIXELS", 40)
    mask = write(tmp_path / "m.png", png(np.zeros((6, 8), np.uint8)))
    image = write(tmp_path / "i.jpg", jpg())
    with pytest.raises(DataError, match=r"m\.png has 8 x 6 = 48 pixels; at most 40 are read"):
        Split(get_dataset("voc"), "x", (Pair("x", image, mask),)).read(0)


# Pairs


def pair(tmp_path, image, mask, ending="jpg"):
    return Split(
        get_dataset("voc"),
        "train",
        (Pair("a", write(tmp_path / f"a.{ending}", image), write(tmp_path / "a.png", mask)),),
    )


def test_a_pair_is_read_as_rgb_and_labels(tmp_path):
    array = np.random.default_rng(0).integers(0, 256, (6, 8, 3), np.uint8)
    sample = pair(tmp_path / "rgb", png(array), png(np.zeros((6, 8), np.uint8)), "jpeg").read(0)
    assert sample.name == "a"
    assert np.array_equal(sample.image, array)
    assert sample.labels.shape == (6, 8)
    mask = png(np.zeros((6, 8), np.uint8))
    grey = pair(tmp_path / "grey", png(array[..., 0]), mask, "jpeg").read(0)
    assert np.array_equal(grey.image, np.repeat(array[..., :1], 3, -1))


@pytest.mark.parametrize("ending", ["JPEG", "PNG"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_images_are_turned_as_opencv_turns_them(tmp_path, picture, ending, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = saved(Image.fromarray(picture(16, 24)), ending, exif=exif)
    expected = cv2.cvtColor(
        cv2.imdecode(np.frombuffer(image, np.uint8), cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB
    )
    found = pair(tmp_path, image, png(np.zeros(expected.shape[:2], np.uint8))).read(0).image
    assert np.array_equal(found, expected)


def test_exif_turns_an_image_only_where_it_then_fits_its_mask(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # stored lying, to be turned a quarter
    array = np.zeros((6, 8, 3), np.uint8)
    array[:3] = 200
    image = saved(Image.fromarray(array), "JPEG", exif=exif, quality=95)
    stored = pair(tmp_path / "stored", image, png(np.zeros((6, 8), np.uint8))).read(0).image
    assert stored.shape == (6, 8, 3)
    turned = pair(tmp_path / "turned", image, png(np.zeros((8, 6), np.uint8))).read(0).image
    assert turned.shape == (8, 6, 3)
    assert turned[:, 4:].min() > 150 > 50 > turned[:, :2].max()
    with pytest.raises(DataError, match=r"6 x 8 pixels and its mask .* 5 x 5"):
        pair(tmp_path / "neither", image, png(np.zeros((5, 5), np.uint8))).read(0)


def test_pairs_that_cannot_be_trained_on(tmp_path):
    mask = png(np.zeros((6, 8), np.uint8))
    with pytest.raises(
        DataError,
        match=r"a\.jpg is 8 x 6 pixels and its mask .*a\.png 8 x 5; "
        "make the sizes equal or take the pair out",
    ):
        pair(tmp_path, jpg(), png(np.zeros((5, 8), np.uint8))).read(0)
    for damaged in (jpg()[:200], b"", b"no picture"):
        with pytest.raises(
            DataError, match=r"a\.jpg (cannot be read as a picture|is empty|is no picture)"
        ):
            pair(tmp_path, damaged, mask).read(0)
    (tmp_path / "a.jpg").unlink()
    with pytest.raises(DataError, match=r"no image .*a\.jpg"):
        Split(get_dataset("voc"), "x", (Pair("a", tmp_path / "a.jpg", tmp_path / "a.png"),)).read(0)


# Layouts


@pytest.fixture
def voc(tmp_path):
    """VOC: own masks for 1 and 2, in SegmentationClassAug 2 and 3; lists 1, 2 and trainaug 1 3."""
    folder = tmp_path / "VOCdevkit" / "VOC2012"
    for name in "123":
        write(folder / "JPEGImages" / f"{name}.jpg", jpg())
    for part, names, value in (("SegmentationClass", "12", 5), ("SegmentationClassAug", "23", 9)):
        for name in names:
            write(folder / part / f"{name}.png", palette_png(np.full((6, 8), value, np.uint8)))
    for split, names in (("train", "1"), ("val", "2"), ("trainaug", "1\n3")):
        write(folder / "ImageSets" / "Segmentation" / f"{split}.txt", names + "\n")
    return folder


def test_voc_takes_its_own_masks_before_those_of_sbd(voc, tmp_path):
    split = open_split(get_dataset("voc"), tmp_path)
    assert split.name == "trainaug"
    found = [(p.name, int(split.read(i).labels[0, 0])) for i, p in enumerate(split.pairs)]
    assert found == [("1", 5), ("3", 9)]
    val = open_split(get_dataset("voc"), tmp_path, "val")
    assert val.read(0).labels[0, 0] == 5  # scored on VOC's own, never on SBD's
    lists = voc / "ImageSets/Segmentation"
    (lists / "trainaug.txt").rename(lists / "train_aug.txt")
    assert len(open_split(get_dataset("voc"), tmp_path)) == 2


def test_lists_of_every_make(voc, tmp_path):
    listed = voc / "ImageSets/Segmentation/val.txt"
    for content in (
        b"1\r\n2\r\n\r\n",
        b"\xef\xbb\xbf1\n2",
        b"1.jpg 1.png\n2.JPG 2.png\n",
        b"/JPEGImages/1.jpg /x/1.png\n2  1\n",
    ):
        listed.write_bytes(content)
        assert [p.name for p in open_split(get_dataset("voc"), tmp_path, "val").pairs] == ["1", "2"]
    listed.write_bytes("1\n2".encode("utf-16"))
    with pytest.raises(DataError, match=r"val\.txt is no UTF-8 text"):
        open_split(get_dataset("voc"), tmp_path, "val")
    listed.write_text(" \n\n")
    with pytest.raises(DataError, match=r"val\.txt is empty; .*prepare_data"):
        open_split(get_dataset("voc"), tmp_path, "val")
    listed.unlink()
    with pytest.raises(DataError, match=r"no list .*val\.txt; .*prepare_data"):
        open_split(get_dataset("voc"), tmp_path, "val")
    (voc / "ImageSets/Segmentation/trainaug.txt").unlink()
    with pytest.raises(DataError, match=r"no list .*trainaug\.txt or .*train_aug\.txt"):
        open_split(get_dataset("voc"), tmp_path)


def test_a_listed_id_without_files_is_named_when_read(voc, tmp_path):
    write(voc / "ImageSets/Segmentation/val.txt", "2008_000001\n")
    with pytest.raises(DataError, match=r"SegmentationClass.2008_000001\.png"):
        open_split(get_dataset("voc"), tmp_path, "val").read(0)


def test_ade20k_and_camvid(tmp_path):
    for i in (2, 1):
        write(tmp_path / f"ADEChallengeData2016/images/training/ADE_train_{i}.jpg", jpg())
        write(
            tmp_path / f"ADEChallengeData2016/annotations/training/ADE_train_{i}.png",
            png(np.full((6, 8), 150, np.uint8)),
        )
    split = open_split(get_dataset("ade20k"), tmp_path)
    assert [p.name for p in split.pairs] == ["ADE_train_1", "ADE_train_2"]
    assert split.read(0).labels[0, 0] == 149
    for part, count in (("train", 3), ("val", 2), ("test", 1)):
        for i in range(count):
            write(tmp_path / f"camvid/{part}/{part}{i}.png", png(np.zeros((6, 8, 3), np.uint8)))
            write(
                tmp_path / f"camvid/{part}annot/{part}{i}.png", png(np.full((6, 8), 11, np.uint8))
            )
    camvid = get_dataset("camvid")
    sizes = [len(open_split(camvid, tmp_path, name)) for name in (None, "train", "val", "test")]
    assert sizes == [5, 3, 2, 1]
    assert open_split(camvid, tmp_path).read(4).labels[0, 0] == IGNORE


@pytest.mark.parametrize(
    ("key", "belongs", "lies"),
    [
        ("cityscapes", "cityscapes", "CityScapes"),
        ("cityscapes", "cityscapes", "Cityscapes"),
        ("ade20k", "ADEChallengeData2016", "ADE20k"),
        ("ade20k", "ADEChallengeData2016", "ADE20k/ADEChallengeData2016"),
        ("ade20k", "ADEChallengeData2016", "ADE20K"),
        ("voc", "VOCdevkit/VOC2012", "vocdevkit/VOC2012"),
    ],
)
def test_folders_as_others_name_them(tmp_path, key, belongs, lies):
    {"cityscapes": make_cityscapes, "ade20k": make_ade20k, "voc": make_voc}[key](tmp_path)
    (tmp_path / belongs).rename(tmp_path / "moved")
    for left in (path for path in tmp_path.iterdir() if path.name != "moved"):
        left.rmdir()
    (tmp_path / lies).parent.mkdir(exist_ok=True)
    (tmp_path / "moved").rename(tmp_path / lies)
    split = open_split(get_dataset(key), tmp_path)
    assert len(split) == 4
    assert split.pairs[0].image.is_relative_to(tmp_path / lies)
    assert split.read(0).image.ndim == 3


def test_wrong_roots_and_splits(voc, tmp_path):
    dataset = get_dataset("voc")
    below = tmp_path / "up" / "data"
    (below / dataset.root).mkdir(parents=True)
    for wrong, meant in (
        (tmp_path / "VOCdevkit", tmp_path),
        (voc, tmp_path),
        (tmp_path / "up", below),
    ):
        with pytest.raises(
            DataError,
            match=rf"--data names the folder above VOCdevkit/VOC2012, was --data {meant} meant",
        ):
            open_split(dataset, wrong)
    with pytest.raises(
        DataError, match=r"there is no ADE20K at .*prepare_data\.py ade20k --data .* downloads it"
    ):
        open_split(get_dataset("ade20k"), tmp_path)
    write(tmp_path / "ADEChallengeData2016/images/validation/x.txt", "")
    with pytest.raises(DataError, match=r"no folder .*images.training; known are validation"):
        open_split(get_dataset("ade20k"), tmp_path)
    with pytest.raises(DataError, match=r"the split 'validation' of ADE20K at .* is empty"):
        open_split(get_dataset("ade20k"), tmp_path, "validation")
    with pytest.raises(DataError, match="generated"):
        open_split(get_dataset("beacons"), tmp_path)


def test_a_split_says_what_it_is_in_one_line(voc, tmp_path):
    first = describe(open_split(get_dataset("voc"), tmp_path))
    expected = {"dataset": "voc", "split": "trainaug", "images": 2}
    assert first == {**expected, "names_crc32": first["names_crc32"]}
    write(voc / "ImageSets/Segmentation/trainaug.txt", "3\n1\n")
    assert describe(open_split(get_dataset("voc"), tmp_path))["names_crc32"] != first["names_crc32"]


# A data set of one's own


@pytest.fixture
def own(tmp_path):
    folder = tmp_path / "my Leaves 2"
    for i in range(40):
        write(folder / "images" / f"{i}.jpg", jpg())
        write(folder / "masks" / f"{i}.png", png(np.full((6, 8), i % 2, np.uint8)))
    write(folder / "classes.json", '["soil", "leaf"]')
    return folder


def test_without_lists_one_image_in_five_is_for_val(own):
    dataset = open_own(own)
    assert (dataset.key, dataset.title) == ("myleaves2", "my Leaves 2")
    assert dataset.class_names == ("soil", "leaf")
    assert dataset.palette == ((0, 0, 0), (128, 0, 0))
    train, val = (open_split(dataset, "", name) for name in ("train", "val"))
    names = [{p.name for p in split.pairs} for split in (train, val)]
    assert not names[0] & names[1]
    assert len(names[0] | names[1]) == 40
    assert 2 <= len(val) <= 16
    assert train.read(0).labels.max() <= 1
    for i in range(0, 40, 2):  # chosen by name: others may come or go
        (own / "images" / f"{i}.jpg").unlink()
    left = {p.name for p in open_split(dataset, "", "val").pairs}
    assert left == {name for name in names[1] if int(name) % 2}
    with pytest.raises(DataError, match=r"no split 'test'; it has train and val"):
        open_split(dataset, "", "test")


def test_lists_and_subfolders(own):
    dataset = open_own(own)
    write(own / "val.txt", "3\n4.jpg\n")
    write(own / "test.txt", "99\n")
    assert [p.name for p in open_split(dataset, "", "val").pairs] == ["3", "4"]
    with pytest.raises(DataError, match=r"99"):
        open_split(dataset, "", "test").read(0)
    write(own / "images" / "val" / "7.png", png(np.zeros((6, 8, 3), np.uint8)))
    write(own / "masks" / "val" / "7.png", png(np.ones((6, 8), np.uint8)))
    split = open_split(dataset, "", "val")
    assert [p.name for p in split.pairs] == ["7"]
    assert split.read(0).labels.min() == 1


def test_classes_with_palette_ids_and_ignored_ids(own):
    more = {"palette": [[1, 2, 3], [255, 0, 9]], "ids": [1, 0], "ignore_id": [7]}
    write(own / "classes.json", json.dumps({"names": ["soil", "leaf"], **more}))
    dataset = open_own(own)
    assert dataset.palette == ((1, 2, 3), (255, 0, 9))
    split = open_split(dataset, "", "train")
    write(split.pairs[0].mask, png(np.array([[0, 1, 7, 255] * 2] * 6, np.uint8)))
    assert split.read(0).labels[0, :4].tolist() == [1, 0, 255, 255]
    again = Dataset(**{**dataset.to_dict()})
    assert again == open_own(own) == dataset


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{",
        "[]",
        "3",
        '["a", "a"]',
        '{"classes": ["a"]}',
        '{"names": ["a"], "palette": ["red"]}',
        '{"names": ["a", "b"], "palette": [[0, 0, 0]]}',
        '{"names": ["a", "b"], "ids": [0]}',
        '{"names": ["a", "b"], "ids": [0, 0]}',
        '{"names": ["a"], "ids": [300]}',
        '{"names": ["a"], "ignore_id": -1}',
        '{"names": ["a"], "ignore_id": "void"}',
        json.dumps([str(i) for i in range(256)]),
    ],
)
def test_classes_that_cannot_be(own, content):
    write(own / "classes.json", content)
    with pytest.raises(DataError, match=r"classes\.json .*expected"):
        open_own(own)


def test_parts_that_are_missing(own, tmp_path):
    for part in ("classes.json", "masks"):
        (own / part).rename(tmp_path / part)
        with pytest.raises(
            DataError,
            match=rf"{part} is missing; a data set of your own is a folder with images/, masks/ "
            "and classes.json",
        ):
            open_own(own)
        (tmp_path / part).rename(own / part)
    with pytest.raises(DataError, match="gone is missing"):
        open_own(tmp_path / "gone")


def test_a_folder_with_the_name_of_a_known_data_set(own, tmp_path):
    own.rename(tmp_path / "voc")
    assert open_own(tmp_path / "voc").key == "ownvoc"
    other = tmp_path / "elsewhere" / "voc"
    other.parent.mkdir()
    (tmp_path / "voc").rename(other)
    assert open_own(other).root == str(other)  # moved, with the same classes
    earlier = open_own(other)
    write(other / "classes.json", '["other"]')
    assert open_own(other).key == "voc_2"  # what knows the earlier classes by their key keeps them
    assert get_dataset("ownvoc") == earlier


def test_two_folders_of_one_name_are_two_data_sets(own, tmp_path):
    again = tmp_path / "again" / own.name
    shutil.copytree(own, again)
    first, second = open_own(own), open_own(again)
    assert (first.key, second.key) == ("myleaves2", "myleaves2_2")
    assert (first.root, second.root) == (str(own), str(again))
    assert (open_own(own), open_own(again)) == (first, second)  # in any order, any number of times
    write(again / "classes.json", '["bark", "moss"]')
    third = open_own(again)
    assert (third.key, third.class_names) == ("myleaves2_3", ("bark", "moss"))
    assert get_dataset("myleaves2").class_names == ("soil", "leaf")
    assert register(second.to_dict()) == second
    elsewhere = register(
        {**first.to_dict(), "root": str(tmp_path / "gone")}
    )  # of a run that was made on another machine
    assert elsewhere == first


# Real files


@pytest.mark.skipif(not SHARED.is_dir(), reason="no ../shared/data here")
@pytest.mark.parametrize(
    ("key", "split", "images", "classes"),
    [
        ("voc", "trainaug", 5, 9),
        ("voc", "val", 2, 5),
        ("ade20k", "validation", 9, 50),
        ("cityscapes", "train", 1, 12),
        ("camvid", "test", 233, 10),
    ],
)
def test_real_files(key, split, images, classes):
    opened = open_split(get_dataset(key), SHARED, split)
    assert len(opened) == images
    seen = set()
    for i in range(min(images, 9)):
        sample = opened.read(i)
        assert sample.image.shape == (*sample.labels.shape, 3)
        assert sample.image.dtype == sample.labels.dtype == np.uint8
        seen |= set(np.unique(sample.labels).tolist())
    assert len(seen - {IGNORE}) >= classes
    assert max(seen - {IGNORE}) < get_dataset(key).num_classes


@pytest.mark.skipif(not SHARED.is_dir(), reason="no ../shared/data here")
def test_real_label_ids_and_train_ids_agree():
    dataset = get_dataset("cityscapes")
    for pair in open_split(dataset, SHARED, "val").pairs:
        other = pair.mask.with_name(pair.mask.name.replace("labelIds", "labelTrainIds"))
        assert np.array_equal(read_labels(pair.mask, dataset), read_labels(other, dataset))


def test_one_s_own_pictures_are_read_as_everywhere_else(tmp_path):
    """In training as in the app; the published data sets as OpenCV reads them."""
    kinds = {
        "profile": saved(scene(), "PNG", icc_profile=profile()),
        "transparent": saved(scene("RGBA"), "PNG"),
        "deep": saved(
            Image.fromarray(np.linspace(0, 65535, 24 * 16).reshape(16, 24).astype(np.uint16)), "PNG"
        ),
        "jpeg": saved(scene(), "JPEG", icc_profile=profile()),
        "plain": saved(scene(), "JPEG"),
    }
    for name, content in kinds.items():
        write(tmp_path / "seen" / "images" / f"{name}.png", content)
        write(tmp_path / "seen" / "masks" / f"{name}.png", png(np.zeros((16, 24), np.uint8)))
    write(tmp_path / "seen" / "classes.json", '["a", "b"]')
    write(tmp_path / "seen" / "train.txt", "\n".join(kinds))
    split = open_split(open_own(tmp_path / "seen"), "", "train")
    for index, pair in enumerate(split.pairs):
        assert np.array_equal(split.read(index).image, read_image(kinds[pair.name]))
        published = Split(get_dataset("voc"), "val", (pair,)).read(0).image
        expected = cv2.cvtColor(cv2.imread(str(pair.image)), cv2.COLOR_BGR2RGB)
        if pair.name != "deep":  # cut to 8 bits there, rounded here
            assert np.array_equal(published, expected), pair.name


def test_a_plain_png_is_decoded_by_imagecodecs_and_others_as_before(tmp_path, monkeypatch):
    """To the pixels that Pillow gives; nothing but 8 bits of RGB, not turned, not transparent."""
    imagecodecs = pytest.importorskip("imagecodecs")
    decode, seen = imagecodecs.png_decode, []
    monkeypatch.setattr(imagecodecs, "png_decode", lambda data: seen.append(1) or decode(data))
    draw = np.random.default_rng(0)
    rgb = Image.fromarray(draw.integers(0, 256, (37, 53, 3), np.uint8))
    path, exif = tmp_path / "a.png", Image.Exif()
    exif[0x0112] = 6
    for options in ({}, {"optimize": True}, {"icc_profile": b"nothing"}):
        rgb.save(path, **options)
        assert np.array_equal(datasets._decoded(path), np.asarray(rgb))
    interlaced = cv2.imencode(".png", np.asarray(rgb)[..., ::-1], [cv2.IMWRITE_PNG_FILTER, 8])[1]
    path.write_bytes(interlaced.tobytes())
    assert np.array_equal(datasets._decoded(path), np.asarray(rgb))
    assert len(seen) == 4
    rgb.save(path, exif=exif)
    assert datasets._decoded(path).shape == (53, 37, 3)
    for mode in ("L", "P", "RGBA", "LA", "1"):
        rgb.convert(mode).save(path)
        expected = np.asarray(Image.open(path).convert("RGB"))
        assert np.array_equal(datasets._decoded(path), expected), mode
    rgb.save(path, transparency=(1, 2, 3))
    assert datasets._decoded(path).shape == (37, 53, 3)
    assert len(seen) == 4
    rgb.save(path)
    path.write_bytes(path.read_bytes()[:3000])
    assert datasets._decoded(path) is None
    with pytest.raises(DataError, match="damaged or cut short"):
        datasets._read_photograph(path, get_dataset("cityscapes"), (37, 53))
