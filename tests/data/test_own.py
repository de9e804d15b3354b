"""data/own.py, pairs.py, class_files.py, check.py: exports of labelling tools are trained on."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import SHARED
from forked import ran
from PIL import Image

from ccnet_lab.configs import get_config
from ccnet_lab.data.cache import build_cache, read_pair
from ccnet_lab.data.catalog import DATASETS, Dataset, get_dataset
from ccnet_lab.data.check import check_learnable, examine, report_text
from ccnet_lab.data.class_files import read_classes
from ccnet_lab.data.datasets import open_own, open_split
from ccnet_lab.data.masks import read_labels
from ccnet_lab.data.own import find_own
from ccnet_lab.errors import DataError
from ccnet_lab.model.ccnet import build_model
from ccnet_lab.model.weights import open_checkpoint
from ccnet_lab.runs import Run
from ccnet_lab.training.loop import open_run
from ccnet_lab.training.settings import Settings

SIZE = (48, 64)


@pytest.fixture(autouse=True)
def _unregistered(monkeypatch):
    """Data sets of one's own are forgotten after each test."""
    monkeypatch.setattr("ccnet_lab.data.catalog.DATASETS", dict(DATASETS))


def picture(seed=0):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (*SIZE, 3), np.uint8))


def ids(k=1, second=None):
    """Zeros, a block of `k`, and a narrower one of `second`."""
    array = np.zeros(SIZE, np.uint8)
    array[10:30, 10:40] = k
    if second is not None:
        array[32:46, 5:30] = second
    return array


def put(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(content, str):
        path.write_text(content, encoding="utf-8")
    else:
        (content if isinstance(content, Image.Image) else Image.fromarray(content)).save(path)
    return path


def plain(folder, names, ending="png", classes='["ground", "thing"]', mask="{}.png"):
    """images/ and masks/ with these names."""
    for number, name in enumerate(names):
        put(folder / "images" / f"{name}.{ending}", picture(number))
        put(folder / "masks" / mask.format(name), ids())
    put(folder / "classes.json", classes)
    return folder


# What labelling tools export


def cvat(folder, lists=("default",)):
    """CVAT's and Datumaro's "Segmentation mask 1.1": one frame has no label and so no mask."""
    put(
        folder / "labelmap.txt",
        "# label:color_rgb:parts:actions\n"
        "car:250,50,83::\nbackground:0,0,0::\nroad, wet:36,179,83::\n",
    )
    names = [f"frames/frame {i:03}" for i in range(12)]
    # drawn: nothing, car, road
    colours = np.array([[0, 0, 0], [250, 50, 83], [36, 179, 83]], np.uint8)
    for i, name in enumerate(names):
        put(folder / "JPEGImages" / f"{name}.jpg", picture(i))
        if i != 11:
            put(folder / "SegmentationClass" / f"{name}.png", colours[ids(1, 2)])
            put(folder / "SegmentationObject" / f"{name}.png", colours[ids(2, 1)])
    for k, name in enumerate(lists):
        put(
            folder / "ImageSets" / "Segmentation" / f"{name}.txt",
            "".join(f"{n}\n" for n in names[k :: len(lists)]),
        )
    return folder, ("car", "background", "road, wet"), [0, 2]


def roboflow(folder):
    """Roboflow's "Semantic Segmentation Masks"."""
    for split, count in (("train", 8), ("valid", 3), ("test", 2)):
        put(
            folder / split / "_classes.csv",
            "Pixel Value, Class\n0, background\n1, apple\n2, leaf\n",
        )
        for i in range(count):
            name = f"IMG_{i}_jpg.rf.{i:032x}"
            put(folder / split / f"{name}.jpg", picture(i))
            put(folder / split / f"{name}_mask.png", ids(1, 2))
    put(folder / "README.roboflow.txt", "exported")
    return folder, ("background", "apple", "leaf"), [1, 2]


def labelme(folder, masks="SegmentationClassPNG"):
    """What labelme2voc.py writes: palette PNGs, -1 as 255; earlier also arrays."""
    put(folder / "class_names.txt", "__ignore__\n_background_\ncat\ndog")
    palette = [v for k in range(256) for v in (k * 37 % 256, k * 91 % 256, k * 151 % 256)]
    for i in range(10):
        mask = Image.fromarray(np.where(ids(1, 2) == 2, 255, ids(2)).astype(np.uint8), "P")
        mask.putpalette(palette)
        put(folder / "JPEGImages" / f"{i}.jpg", picture(i))
        put(folder / masks / f"{i}.png", mask)
        put(folder / "SegmentationClassVisualization" / f"{i}.jpg", picture(i + 50))
    if masks != "SegmentationClass":
        (folder / "SegmentationClass").mkdir()
        np.save(folder / "SegmentationClass" / "0.npy", ids())
    return folder, ("_background_", "cat", "dog"), [2, 255]


def supervisely(folder, masks="masks_machine", home="ds0"):
    """Supervisely's "Export as masks"."""
    kiwi = {"title": "kiwi", "shape": "bitmap", "color": "#FF0000"}
    classes = [kiwi, {"title": "lemon", "color": "#51C6AA"}]
    put(folder / "meta.json", json.dumps({"classes": classes, "tags": []}))
    put(folder / "obj_class_to_machine_color.json", '{"kiwi": [1, 1, 1], "lemon": [2, 2, 2]}')
    colours = {
        "masks_machine": [[0] * 3, [1] * 3, [2] * 3],
        "masks_human": [[0] * 3, [255, 0, 0], [0x51, 0xC6, 0xAA]],
    }[masks]
    for i in range(10):
        put(folder / home / "img" / f"IMG {i}.JPG", picture(i))
        put(folder / home / "ann" / f"IMG {i}.JPG.json", "{}")
        put(folder / home / masks / f"IMG {i}.png", np.array(colours, np.uint8)[ids(1, 2)])
    return folder, ("background", "kiwi", "lemon"), [1, 2]


EXPORTS = {
    "cvat": cvat,
    "datumaro": lambda folder: cvat(folder, ("Train", "Validation")),
    "roboflow": roboflow,
    "labelme": labelme,
    "labelme_new": lambda folder: labelme(folder, "SegmentationClass"),
    "supervisely": supervisely,
    "supervisely_human": lambda folder: supervisely(folder, "masks_human"),
    "supervisely_flat": lambda folder: supervisely(folder, home="."),
}


@pytest.mark.parametrize("tool", EXPORTS)
def test_exports_are_taken_as_they_are(tmp_path, tool):
    folder, names, values = EXPORTS[tool](tmp_path / tool)
    dataset = open_own(folder)
    assert dataset.class_names == names
    report = examine(dataset, "")
    assert report.fine, report_text(report)
    train, val = (open_split(dataset, "", split) for split in ("train", "val"))
    assert len(train) + len(val) == {"cvat": 11, "datumaro": 11, "roboflow": 11}.get(tool, 10)
    assert min(len(train), len(val)) > 0
    labels = train.read(0).labels
    nothing = names.index("background") if "background" in names else 0
    assert [int(labels[0, 0]), int(labels[20, 20]), int(labels[40, 20])] == [nothing, *values]


@pytest.fixture(scope="module")
def exports(tmp_path_factory):
    """What Datumaro 1.13.12 and label-studio-sdk 2.1.2 wrote of four pictures, and their labels."""
    folder = tmp_path_factory.mktemp("exports")
    shutil.unpack_archive(Path(__file__).parents[1] / "data" / "exports.zip", folder)
    return folder


@pytest.mark.parametrize(
    "layout", ["voc", "voc_ids", "voc_meta", "camvid", "camvid_meta", "kitti", "cityscapes"]
)
def test_what_datumaro_writes(exports, layout):
    dataset = open_own(exports / layout)
    assert dataset.class_names == ("background", "cat", "big dog", "tree")
    assert dataset.palette[1:3] == ((128, 0, 0), (0, 128, 64))
    report = examine(dataset, "")
    assert report.fine, report_text(report)
    splits = [open_split(dataset, "", split) for split in ("train", "val")]
    assert [len(split) for split in splits] == [3, 1]
    truth = np.load(exports / "truth.npz")
    for split in splits:
        for k in range(len(split)):
            assert np.array_equal(
                split.read(k).labels, truth[split.pairs[k].image.stem.removesuffix("_leftImg8bit")]
            )


@pytest.mark.parametrize(
    ("layout", "says"),
    [
        (
            "coco_instances",
            r"COCO.*, no masks; export it again as Segmentation mask.*datum convert -i FOLDER",
        ),
        ("datumaro", r"Datumaro.*, no masks; export it again"),
        (
            "label_studio",
            r"Label Studio's masks, one for each label .*task-1-annotation-2-by-.*; "
            "put the labels of a picture into one mask",
        ),
    ],
)
def test_exports_without_masks_of_pictures(exports, layout, says):
    with pytest.raises(DataError, match=says):
        open_own(exports / layout)


@pytest.mark.parametrize("tool", ["cvat", "roboflow", "supervisely"])
def test_an_export_goes_from_the_doctor_to_a_score(tmp_path, tool):
    folder, names, _ = EXPORTS[tool](tmp_path / tool)
    found = ran("scripts/prepare_data.py", folder, "--check", timeout=300)
    assert found.returncode == 0, found.stdout + found.stderr
    assert "every pair can be read and fits" in found.stdout
    options = "--steps=2 --batch-size=2 --crop 32 32 --resize 64 48 --workers=0 --device=cpu"
    words = ["street8", "--own", folder, *options.split(), "--data=.", "--runs", tmp_path / "runs"]
    found = ran("scripts/train.py", *words, timeout=600)
    assert found.returncode == 0, found.stdout + found.stderr
    assert "mIoU" in found.stdout
    (scores,) = tmp_path.glob("runs/*/scores.json")
    assert list(json.loads(scores.read_text())["per_class_iou"]) == list(names)


def test_pictures_without_labels_are_left_out_and_named(tmp_path):
    folder, _, _ = cvat(tmp_path / "cvat")
    notes = examine(open_own(folder), "").warnings
    assert "pictures without a mask, left out: JPEGImages/frames/frame 011.jpg" in notes


def test_supervisely_s_overlays_are_refused(tmp_path):
    folder, _, _ = supervisely(tmp_path / "s", "masks_human")
    for path in (folder / "ds0" / "masks_human").iterdir():
        put(path, np.zeros((48, 128, 3), np.uint8))
    with pytest.raises(
        DataError,
        match=r"pictures beside painted pictures, not labels; export again with machine masks",
    ):
        open_own(folder)


def test_the_folder_above_an_export(tmp_path):
    folder, _, _ = cvat(tmp_path / "up" / "task")
    with pytest.raises(DataError, match=rf"images is missing; .*; was {folder} meant\?$"):
        open_own(tmp_path / "up")


def test_an_export_without_pictures(tmp_path):
    put(tmp_path / "c" / "SegmentationClass" / "1.png", ids())
    with pytest.raises(
        DataError,
        match=r"has SegmentationClass/ but no JPEGImages/; export it again with the pictures",
    ):
        open_own(tmp_path / "c")


# Class files


@pytest.mark.parametrize(
    ("name", "text", "names", "more"),
    [
        (
            "labelmap.txt",
            "# x\na:b:1,2,3:p,q:run\nbackground:0,0,0::\nignored:224,224,192::\n",
            ["a:b", "background"],
            {"colour": (1, 2, 3)},
        ),
        ("labelmap.txt", "one:::\ntwo:::\n", ["one", "two"], {"colour": (0, 0, 0)}),
        ("class_names.txt", "__ignore__\n_background_\n\na b, c\n", ["_background_", "a b, c"], {}),
        (
            "_classes.csv",
            'Pixel Value, Class\r\n0, background\r\n7, "a, b"\r\n',
            ["background", "a, b"],
            {"ids": (0, 7)},
        ),
        (
            "label_colors.txt",
            "# r g b\n0 0 0 Void\n64 128 64 Big  Animal\n",
            ["Void", "Big  Animal"],
            {"colour": (0, 0, 0)},
        ),
        ("label_colors.txt", "Void\nAnimal\n", ["Void", "Animal"], {}),
        ("dataset_meta.json", '{"labels": ["a", "b"]}', ["a", "b"], {}),
        ("dataset_meta.json", '{"label_map": {"3": "b", "1": "a"}}', ["a", "b"], {"ids": (1, 3)}),
        (
            "meta.json",
            '{"classes": [{"title": "background", "color": "#010203"}]}',
            ["unlabeled", "background"],
            {"ids": (0, 1)},
        ),
        (
            "classes.json",
            '\ufeff["background", "_crack", "price $5", "道路"]',
            ["background", "_crack", "price $5", "道路"],
            {},
        ),
    ],
)
def test_class_files(tmp_path, name, text, names, more):
    found = read_classes(put(tmp_path / "set" / name, text))
    assert found.names == names
    assert found.ids == more.get("ids", ())
    if "colour" in more:
        assert found.colours[0] == more["colour"]


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("labelmap.txt", "a:red::\n", "a line name:r,g,b:: for each class"),
        ("labelmap.txt", "a:300,0,0::\n", "a line name:r,g,b:: for each class"),
        ("labelmap.txt", "# nothing\n", "expected 1 to 255 different names"),
        ("class_names.txt", "a\na\n", "expected 1 to 255 different names"),
        ("_classes.csv", "Pixel Value, Class\nx, y\n", "Pixel Value, Class, then a row such as"),
        ("_classes.csv", "", "Pixel Value, Class, then a row such as"),
        ("label_colors.txt", "1 2 900 a\n", "a line r g b name for each class"),
        ("dataset_meta.json", "{}", "label_map"),
        ("meta.json", "[]", '"color": "#RRGGBB"'),
        ("meta.json", '{"classes": [{"title": "a", "color": "red"}]}', '"color": "#RRGGBB"'),
    ],
)
def test_class_files_that_cannot_be(tmp_path, name, text, says):
    with pytest.raises(DataError, match=says) as caught:
        read_classes(put(tmp_path / "set" / name, text))
    assert str(caught.value).count(name) == 1


@pytest.mark.parametrize(("stated", "label"), [(True, 2), (False, 1)])
def test_a_palette_s_colours_count_where_classes_json_has_colours(tmp_path, stated, label):
    """Index 1 is drawn in the colour of class 2, a stated one or else VOC's."""
    classes = {"names": ["a", "b", "c"]} | (
        {"palette": [[0, 0, 0], [128, 0, 0], [0, 128, 0]]} if stated else {}
    )
    folder = plain(tmp_path / "own", ["x"], classes=json.dumps(classes))
    mask = Image.fromarray(ids(), "P")
    mask.putpalette([0, 0, 0, 0, 128, 0])
    put(folder / "masks" / "x.png", mask)
    pairs = [pair for split in ("train", "val") for pair in open_pairs(folder, split)]
    labels = read_labels(pairs[0].mask, open_own(folder))
    assert [int(labels[0, 0]), int(labels[20, 20])] == [0, label]


def test_roboflow_s_splits_must_have_the_same_classes(tmp_path):
    folder, _, _ = roboflow(tmp_path / "r")
    put(folder / "valid" / "_classes.csv", "Pixel Value, Class\n0, background\n1, leaf\n2, apple\n")
    with pytest.raises(DataError, match=r"valid/_classes\.csv has other classes"):
        open_own(folder)


# Every file


@pytest.mark.parametrize("ending", ["tif", "TIFF", "bmp", "webp", "gif", "JPG", "PNG", "Jpeg"])
def test_pictures_of_every_ending(tmp_path, ending):
    dataset = open_own(plain(tmp_path / "own", [f"a{i}" for i in range(10)], ending))
    report = examine(dataset, "")
    assert report.fine, report_text(report)
    assert sum(split.images for split in report.splits) == 10


@pytest.mark.parametrize("mask", [
    "{}.tif", "{}.BMP", "{}_mask.png", "{}_label.png", "{}.jpg.png", "{}-labels.tif",
    "{}.jpg_mask.png",
])  # fmt: skip
def test_masks_as_others_name_them(tmp_path, mask):
    dataset = open_own(plain(tmp_path / "own", [f"a{i}" for i in range(10)], "jpg", mask=mask))
    assert examine(dataset, "").fine
    assert open_split(dataset, "").read(0).labels[20, 20] == 1


def test_subfolders_with_equal_names_and_without(tmp_path):
    folder = plain(tmp_path / "own", ["day/1", "day/2", "night/1", "night/2"])
    put(folder / "images" / "far" / "alone.png", picture(9))
    put(folder / "masks" / "alone.png", ids())
    names = {
        pair.name: pair.mask.relative_to(folder).as_posix()
        for split in ("train", "val")
        for pair in find_own(folder, split)
    }
    assert names == {
        **{n: f"masks/{n}.png" for n in ("day/1", "day/2", "night/1", "night/2")},
        "far/alone": "masks/alone.png",
    }


def test_splits_as_folders(tmp_path):
    put(tmp_path / "own" / "classes.json", '["ground", "thing"]')
    for split, count in (("train", 4), ("validation", 2), ("test", 1)):
        for i in range(count):
            put(tmp_path / "own" / split / "images" / f"{split}{i}.jpg", picture(i))
            put(tmp_path / "own" / split / "masks" / f"{split}{i}.png", ids())
    splits = ["train", "val", "test"]
    assert [len(find_own(tmp_path / "own", split)) for split in splits] == [4, 2, 1]
    assert [split.name for split in examine(open_own(tmp_path / "own"), "").splits] == splits


def test_what_is_not_used_is_named(tmp_path):
    folder = plain(tmp_path / "own", [f"a{i}" for i in range(8)], "jpg")
    put(folder / "images" / "a1.png", picture(77))  # two of one name
    put(folder / "masks" / "b.png", ids())  # no picture
    put(folder / "masks" / "a2.tif", ids())  # a second mask
    put(folder / "images" / "notes.doc", "words")
    (folder / "images" / ".DS_Store").write_bytes(b"x")
    report = examine(open_own(folder), "")
    assert not report.fine
    text = report_text(report)
    for words in (
        f"a1.png and {folder / 'images' / 'a1.jpg'} have one name; only the last named is used",
        "a2.jpg has the masks a2.png and a2.tif; the first is used",
        "masks without a picture, not used: masks/b.png",
        "files without a picture's ending, not used: images/notes.doc",
    ):
        assert words in text
    assert ".DS_Store" not in text
    assert "a1.png" not in [
        pair.image.name for split in ("train", "val") for pair in find_own(folder, split)
    ]


def test_two_pictures_of_one_name_with_a_mask_each(tmp_path):
    folder = plain(tmp_path / "own", ["a"], "jpg", mask="{}.jpg.png")
    put(folder / "images" / "a.png", picture(3))
    put(folder / "masks" / "a.png.png", ids())
    pairs = [pair for split in ("train", "val") for pair in open_pairs(folder, split)]
    found = sorted((pair.name, pair.mask.name) for pair in pairs)
    assert found == [("a.jpg", "a.jpg.png"), ("a.png", "a.png.png")]


def open_pairs(folder, split):
    try:
        return find_own(folder, split)
    except DataError:
        return []


def test_a_picture_without_a_mask_is_a_fault(tmp_path):
    folder = plain(tmp_path / "own", [f"a{i}" for i in range(8)])
    (folder / "masks" / "a3.png").unlink()
    faults = [fault for split in examine(open_own(folder), "").splits for fault in split.faults]
    assert faults == [f"there is no mask {folder / 'masks' / 'a3.png'}"]


def test_a_full_folder_is_never_called_empty(tmp_path):
    folder = plain(tmp_path / "own", ["a", "b"])
    for path in (folder / "images").iterdir():
        path.rename(path.with_suffix(".cr2"))
    with pytest.raises(DataError, match=r"2 masks and no picture for any") as caught:
        find_own(folder, "train")
    assert "empty" not in str(caught.value)
    (folder / "masks" / "a.png").unlink()
    (folder / "masks" / "b.png").unlink()
    with pytest.raises(
        DataError,
        match=r"holds no pictures but 2 files of other kinds \(\.cr2\); "
        r"expected files such as a\.jpg",
    ):
        find_own(folder, "train")


def test_no_mask_for_any_picture(tmp_path):
    folder, _, _ = cvat(tmp_path / "cvat")
    for path in (folder / "SegmentationClass" / "frames").iterdir():
        path.rename(path.with_name(f"x{path.name}"))
    with pytest.raises(
        DataError,
        match=r"none of the 12 pictures of .* has a mask in .*SegmentationClass; "
        "names must be alike",
    ):
        find_own(folder, "train")


# Lists


def test_a_line_is_a_whole_name(tmp_path):
    names = ["photo 1", "photo 2", "sub/photo (3)", "a, b #4", "ünï"]
    folder = plain(tmp_path / "own", names, "jpg")
    text = "\ufeffphoto 1.jpg\r\nphoto 2\r\nsub\\photo (3).jpg\r\nimages/a, b #4.jpg\r\n"
    put(folder / "train.txt", text)
    assert [pair.name for pair in find_own(folder, "train")] == names[:4]
    assert [pair.name for pair in find_own(folder, "val")] == ["ünï"]  # the rest
    put(folder / "train.txt", "images/ünï.jpg masks/ünï.png\n")  # two columns, as some write them
    assert [pair.name for pair in find_own(folder, "train")] == ["ünï"]
    put(folder / "val.txt", "photo 1.jpg\ngone.jpg\n")
    assert [pair.image.name for pair in find_own(folder, "val")] == ["photo 1.jpg", "gone.jpg"]


@pytest.mark.skipif(not SHARED.is_dir(), reason="no ../shared/cases here")
def test_the_case_of_blanks(tmp_path):
    names = ["photo 1", "photo 2", "sub/photo (3)"]
    folder = plain(tmp_path / "own", names, "jpg")
    (folder / "train.txt").write_bytes((SHARED.parent / "cases" / "train_blanks.txt").read_bytes())
    assert [pair.name for pair in find_own(folder, "train")] == names
    with pytest.raises(
        DataError,
        match=r"the split 'val' of own is empty, since all its 3 pictures are in train; "
        r"write val\.txt",
    ):
        find_own(folder, "val")


def test_one_list_leaves_the_rest_for_the_other(tmp_path):
    folder = plain(tmp_path / "own", [f"a{i}" for i in range(20)])
    put(folder / "train.txt", "a0\na1\na2\n")
    put(folder / "test.txt", "a3\n")
    assert {pair.name for pair in find_own(folder, "val")} == {f"a{i}" for i in range(4, 20)}
    (folder / "train.txt").rename(folder / "val.txt")
    assert {pair.name for pair in find_own(folder, "train")} == {f"a{i}" for i in range(4, 20)}


def test_repeated_and_shared_names_are_faults(tmp_path):
    folder = plain(tmp_path / "own", [f"a{i}" for i in range(8)])
    put(folder / "train.txt", "a0\na1\na1.png\na2\n")
    put(folder / "val.txt", "a2\na3\n")
    report = examine(open_own(folder), "")
    faults = [fault for split in report.splits for fault in split.faults]
    assert faults == [
        "the list of train names a1 more than once; it is used once",
        "train and val have pictures in common: a2.png; "
        "a score would count what was trained on, so name each in one of them",
    ]
    assert (
        "pictures in no split: images/a4.png, images/a5.png, images/a6.png, images/a7.png"
        in report.warnings
    )
    assert len(find_own(folder, "train")) == 3


def test_the_same_content_in_two_splits(tmp_path):
    folder = plain(tmp_path / "own", [f"a{i}" for i in range(8)])
    (folder / "images" / "a7.png").write_bytes((folder / "images" / "a0.png").read_bytes())
    put(folder / "train.txt", "".join(f"a{i}\n" for i in range(5)))
    (note,) = [note for note in examine(open_own(folder), "").warnings if "content" in note]
    assert note.startswith("train and val have pictures of the same content: a0.png = a7.png")


# Classes


def test_classes_that_contradict_themselves_or_never_occur_are_said_before_training(tmp_path):
    classes = json.dumps({"names": ["ground", "thing", "ghost"], "ignore_id": 1})
    dataset = open_own(plain(tmp_path / "own", [f"a{i}" for i in range(8)], classes=classes))
    said = []
    check_learnable(open_split(dataset, ""), said.append)
    assert said == [
        "warning: id 1 (thing) of own: a class and ignored at once; "
        "the class counts, so take the id out of ignore_id or the class out of names",
        "warning: train has no pixel of ghost",
    ]
    assert [warning.removeprefix("warning: ") for warning in said] == list(
        examine(dataset, "").warnings[:2]
    )
    check_learnable(open_split(dataset, ""))  # nobody to tell


# Names


def test_the_cache_takes_every_name(tmp_path):
    long = "道" * 60 + "x" * 60  # 240 bytes
    folder = plain(tmp_path / "own", [long, f"{long}y", "sub/a", "sub_a", "b"])
    put(folder / "val.txt", "b\n")
    split = open_split(open_own(folder), "")
    build_cache(split, lambda _: None)
    assert len(list((folder / "cache" / "train").iterdir())) == 4
    for index, pair in enumerate(split.pairs):
        assert np.array_equal(read_pair(split, index).image, np.asarray(Image.open(pair.image)))
    assert (folder / "cache" / "train" / "sub_a.safetensors").is_file()


def test_a_list_with_a_line_that_ends_in_a_slash(tmp_path):
    folder = plain(tmp_path / "own", ["a", "b", "c"])
    put(folder / "train.txt", "a\nb/\nb\\\n")
    assert [pair.name for pair in find_own(folder, "train")] == ["a", "b"]


def test_what_is_gone_is_told_for_one_s_own_data(tmp_path):
    dataset = Dataset(
        "leaf", "Leaf", str(tmp_path / "gone"), 0, 0, classes=(("#000000", "a"), ("#ffffff", "b"))
    )
    with pytest.raises(
        DataError,
        match=r"the folder of your data set Leaf is no longer at .*gone; give its new place",
    ) as caught:
        open_split(dataset, tmp_path)
    assert "prepare_data.py" not in str(caught.value)


# Runs


def tiny(dataset):
    return replace(get_config("street8"), dataset=dataset.key, alias="")


def test_runs_of_two_folders_of_one_name_keep_their_classes(tmp_path, monkeypatch):
    """As in a process that opens both runs and has opened neither folder."""
    folders = [
        plain(tmp_path / part / "leaf", ["a"], classes=classes)
        for part, classes in (("x", '["p", "q"]'), ("y", '["r", "s"]'))
    ]
    for folder in folders:
        monkeypatch.setattr("ccnet_lab.data.catalog.DATASETS", dict(DATASETS))
        Run.create(folder.parent / "run", tiny(open_own(folder)))
    monkeypatch.setattr("ccnet_lab.data.catalog.DATASETS", dict(DATASETS))
    found = [get_dataset(Run.open(folder.parent / "run").config.dataset) for folder in folders]
    assert [dataset.class_names for dataset in found] == [("p", "q"), ("r", "s")]
    assert [dataset.root for dataset in found] == [str(folder) for folder in folders]


def test_a_run_follows_its_data_to_a_copy(tmp_path):
    folder, copy = plain(tmp_path / "x" / "leaf", ["a"]), tmp_path / "y" / "leaf"
    Run.create(tmp_path / "run", tiny(open_own(folder))).save_weights(
        build_model(tiny(open_own(folder)))
    )
    shutil.copytree(folder, copy)
    here = open_own(copy)
    run = open_run(tmp_path / "run", tiny(here), Settings(data=tmp_path, resume=True))
    assert get_dataset(run.config.dataset).root == str(copy)
    stored = open_checkpoint(run.weights).stored
    assert get_dataset(stored.dataset).class_names == ("ground", "thing")


def test_a_strange_file_among_human_masks_is_told_by_the_reader_of_masks(tmp_path):
    folder, *_ = supervisely(tmp_path / "kiwis", "masks_human")
    (folder / "ds0" / "masks_human" / "IMG 0.png").write_bytes(
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"
    )
    report = report_text(examine(open_own(folder), ""))
    assert "IMG 0.png cannot be read as a mask: it is none of PNG" in report


def test_pictures_of_one_name_in_two_splits_do_not_share_a_mask(tmp_path):
    folder = plain(tmp_path / "set", ["a", "b"])
    for split in ("train", "val"):
        put(folder / "images" / split / "0.jpg", picture(3))
    put(folder / "masks" / "0.png", ids())
    with pytest.raises(DataError, match="would have one mask"):
        examine(open_own(folder), "")
    with pytest.raises(DataError, match="would have one mask"):
        open_split(open_own(folder), "", "val")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('{"names": {"car": 1, "bg": 0}}', "names are not a list of words in quotes"),
        ('[{"name": "car", "id": 2}]', "names are not a list of words in quotes"),
        ('["car", null]', "names are not a list of words in quotes"),
        ('{"names": "abc"}', "names are not a list of words in quotes"),
        ('{"names": ["a", "b"], "ids": [0, 1.9]}', "ids has 1.9, which is no whole number"),
        (
            '{"names": ["a", "b"], "ignore_id": true}',
            "ignore_id has True, which is no whole number",
        ),
        (
            '{"names": ["a", "b"], "ignore_ids": [2]}',
            "it has 'ignore_ids'; did you mean 'ignore_id'",
        ),
        ('{"names": ["a", "b"], "pallete": [[0, 0, 0], [1, 1, 1]]}', "did you mean 'palette'"),
        ('["a", "b"', r"is no JSON .*expected \["),
    ],
)
def test_classes_json_means_what_it_says_or_is_refused(tmp_path, text, says):
    with pytest.raises(DataError, match=says):
        read_classes(put(tmp_path / "set" / "classes.json", text))


def test_lists_that_are_not_read_are_named_and_two_of_one_split_refused(tmp_path):
    folder = plain(tmp_path / "set", ["a", "b", "c"])
    put(folder / "splits" / "train.txt", "a\n")
    put(folder / "test.csv", "b\n")
    report = report_text(examine(open_own(folder), ""))
    assert "lists of splits that are not read: " in report
    assert "splits/train.txt" in report
    assert "test.csv" in report
    put(folder / "val.txt", "a\n")
    put(folder / "valid.txt", "b\n")
    with pytest.raises(DataError, match=r"val.txt and .*valid.txt both list val; keep one"):
        open_split(open_own(folder), "", "val")


def test_a_list_that_gives_a_picture_another_s_mask_is_refused(tmp_path):
    folder = plain(tmp_path / "set", ["a", "b"])
    put(folder / "train.txt", "images/a.png masks/a.png\n")
    put(folder / "val.txt", "images/b.png masks/a.png\n")
    assert len(open_split(open_own(folder), "", "train")) == 1
    with pytest.raises(DataError, match=r"val.txt gives b.png the mask a.png"):
        open_split(open_own(folder), "", "val")


def test_a_listed_name_of_nothing_and_pictures_that_are_not_read(tmp_path):
    folder = plain(tmp_path / "set", ["a", "b"])
    put(folder / "val.txt", "# the list\n")
    with pytest.raises(DataError, match=r"there is no image .*# the list.jpg, nor its mask"):
        open_split(open_own(folder), "", "val").read(0)
    for path in (folder / "images").iterdir():
        path.rename(path.with_suffix(".jp2"))
    with pytest.raises(
        DataError, match=r"2 masks and no picture for any but 2 files of other kinds \(.jp2\)"
    ):
        open_split(open_own(folder), "", "train")


@pytest.mark.parametrize("stored", ["L", "RGB"])
@pytest.mark.parametrize(
    ("colours", "drawn", "labels"),
    [([0, 2, 1], [0, 1, 2], [0, 2, 1]), ([0, 128, 255], [0, 128, 255], [0, 1, 2])],
)
def test_a_palette_of_greys_counts_however_the_mask_is_stored(
    tmp_path, stored, colours, drawn, labels
):
    folder = plain(
        tmp_path / "set",
        ["a"],
        classes=json.dumps({"names": ["a", "b", "c"], "palette": [[v] * 3 for v in colours]}),
    )
    mask = put(
        folder / "masks" / "a.png", Image.fromarray(np.array([drawn] * 4, np.uint8)).convert(stored)
    )
    assert read_labels(mask, open_own(folder))[0].tolist() == labels


def test_a_class_of_cvat_can_begin_with_a_hash(tmp_path):
    found = read_classes(
        put(
            tmp_path / "set" / "labelmap.txt",
            "# label:color_rgb:parts:actions\n#5 car, red:250,50,83::\nb:0,0,0::\n",
        )
    )
    assert found.names == ["#5 car, red", "b"]


def test_an_ignored_line_of_a_labelmap_keeps_its_place_among_ids(tmp_path):
    """Ids are positions in the list, as `datum export ... --apply-colormap False` writes them."""
    folder = cvat(tmp_path / "set")[0]
    put(
        folder / "labelmap.txt",
        "background:0,0,0::\nignored:224,224,192::\ncar:250,50,83::\nroad:36,179,83::\n",
    )
    dataset = open_own(folder)
    drawn = [0, 1, 2, 3]
    grey = put(tmp_path / "a.png", np.array([drawn] * 4, np.uint8))
    colours = np.array([[0, 0, 0], [224, 224, 192], [250, 50, 83], [36, 179, 83]], np.uint8)
    coloured = put(tmp_path / "b.png", np.array([colours] * 4, np.uint8))
    assert dataset.class_names == ("background", "car", "road")
    for path in (grey, coloured):
        assert read_labels(path, dataset)[0].tolist() == [0, 255, 1, 2]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_mask_is_turned_as_its_picture_is(tmp_path, orientation):
    folder = plain(tmp_path / "set", ["a"])
    exif = Image.Exif()
    exif[274] = orientation
    drawn = np.zeros((20, 30), np.uint8)
    drawn[:5, :9] = 1
    Image.fromarray(drawn * 255).convert("RGB").save(folder / "images" / "a.png", exif=exif)
    for ending in ("png", "webp", "tiff"):
        picture = (
            Image.fromarray(drawn) if ending != "webp" else Image.fromarray(drawn).convert("RGB")
        )
        picture.save(
            folder / "masks" / f"a.{ending}",
            exif=exif,
            **({"lossless": True} if ending == "webp" else {}),
        )
        sample = open_split(open_own(folder), "", "train").read(0)
        assert np.array_equal(sample.labels == 1, sample.image[..., 0] == 255), ending
        (folder / "masks" / f"a.{ending}").unlink()
