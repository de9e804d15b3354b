"""data/masks.py: lossless masks give the ids that were drawn; lossy ones are refused."""

import zlib

import cv2
import numpy as np
import pytest
from conftest import SHARED
from PIL import Image, features
from profiles import png_of
from web import jpg, png

from ccnet_lab.data.catalog import IGNORE, Dataset, get_dataset
from ccnet_lab.data.masks import read_labels, read_stored
from ccnet_lab.errors import DataError

CASES = SHARED.parent / "cases"
IDS = np.array([[0, 1, 2, 1], [2, 2, 0, 0], [1, 0, 2, 255]], np.uint8)
THREE = Dataset(
    "three",
    "Three",
    "",
    0,
    0,
    classes=(("#000000", "ground"), ("#ff0000", "leaf"), ("#0000fe", "sky")),
    coloured=True,
)
COLOURS = {0: (0, 0, 0), 1: (255, 0, 0), 2: (0, 0, 254), 255: (224, 224, 192)}


def painted(ids, colours):
    """(H, W, 3) of ids (H, W)."""
    return np.array([[colours[int(i)] for i in row] for row in ids], np.uint8)


def saved(path, array, mode=None, **options):
    Image.fromarray(array, mode).save(path, **options)
    return path


@pytest.mark.parametrize(
    ("ending", "options"),
    [
        ("png", {}),
        ("tif", {}),
        ("tiff", {"compression": "tiff_lzw"}),
        ("TIF", {"format": "TIFF", "compression": "tiff_adobe_deflate"}),
        ("bmp", {}),
        ("gif", {}),
        ("pgm", {}),
        ("png", {"format": "TIFF"}),  # told by its content, not by its name
    ],
)
def test_grey_masks_of_every_lossless_kind(tmp_path, ending, options):
    assert np.array_equal(read_labels(saved(tmp_path / f"m.{ending}", IDS, **options), THREE), IDS)


@pytest.mark.parametrize("ending", ["png", "tif", "bmp", "webp", "ppm"])
@pytest.mark.parametrize("alpha", [False, True])
def test_grey_in_three_channels_and_full_alpha_are_ids(tmp_path, ending, alpha):
    if (ending == "webp" and not features.check("webp")) or (alpha and ending == "ppm"):
        pytest.skip("not this combination here")
    rgb = np.repeat(IDS[..., None], 3, -1)
    array = np.dstack([rgb, np.full(IDS.shape, 255, np.uint8)]) if alpha else rgb
    path = saved(
        tmp_path / f"m.{ending}", array, **({"lossless": True} if ending == "webp" else {})
    )
    assert np.array_equal(read_labels(path, THREE), IDS)


def test_grey_with_alpha_and_what_is_transparent(tmp_path):
    full = np.dstack([IDS, np.full(IDS.shape, 255, np.uint8)])
    assert np.array_equal(read_labels(saved(tmp_path / "m.png", full, "LA"), THREE), IDS)
    full[0, :2, 1] = 128
    with pytest.raises(DataError, match=r"m\.png is transparent in 2 pixels"):
        read_labels(saved(tmp_path / "m.png", full, "LA"), THREE)


@pytest.mark.parametrize("ending", ["png", "bmp", "tif", "webp", "gif"])
def test_colours_are_looked_up_in_the_palette(tmp_path, ending):
    picture = Image.fromarray(painted(IDS, COLOURS))
    picture = picture.quantize(8) if ending == "gif" else picture  # whose colours are numbered anew
    picture.save(
        path := tmp_path / f"m.{ending}", **({"lossless": True} if ending == "webp" else {})
    )
    assert np.array_equal(read_labels(path, THREE), IDS)  # and VOC's border is ignored


def test_voc_s_own_colours(tmp_path):
    ids = np.array([[0, 15, 20, 255]], np.uint8)
    # background, person, tv, border: VOC's devkit
    colours = {0: (0, 0, 0), 15: (192, 128, 128), 20: (0, 64, 128), 255: (224, 224, 192)}
    path = saved(tmp_path / "m.png", painted(ids, colours))
    assert read_labels(path, get_dataset("voc")).tolist() == ids.tolist()


def test_background_that_is_not_the_first_class(tmp_path):
    """All background is black, as all id 0 would be: the palette decides, unless ids are given."""
    rows = (("#00ff00", "apple"), ("#000000", "background"))
    black = saved(tmp_path / "m.png", np.zeros((2, 3, 3), np.uint8))
    colours = Dataset("cvat", "CVAT", "", 0, 0, classes=rows, coloured=True)
    ids = Dataset("ids", "Ids", "", 0, 0, (0, 1), classes=rows)
    assert read_labels(black, colours).tolist() == [[1, 1, 1], [1, 1, 1]]
    assert read_labels(black, ids).tolist() == [[0, 0, 0], [0, 0, 0]]
    few = Image.fromarray(np.zeros((2, 3, 3), np.uint8)).quantize(2)
    few.save(tmp_path / "p.png")
    assert read_labels(tmp_path / "p.png", colours).min() == 1


def test_an_unknown_colour_is_named_with_its_count(tmp_path):
    array = painted(IDS, COLOURS)
    array[0, 1:3] = 9, 8, 7
    array[2, 0] = 1, 2, 3
    with pytest.raises(DataError) as caught:
        read_labels(saved(tmp_path / "m.png", array), THREE)
    what = "is a colour picture with the colour (9, 8, 7) in 2 pixels (and 1 more, in 1 pixel), "
    what += "which is no class of Three"
    assert str(caught.value).startswith(f"{tmp_path / 'm.png'} {what}")
    twins = Dataset(
        "twins", "Twins", "", 0, 0, classes=(("#000000", "a"), ("#ff0000", "b"), ("#ff0000", "c"))
    )
    with pytest.raises(DataError, match=r"the colour \(255, 0, 0\) in 1 pixel,"):
        read_labels(
            saved(tmp_path / "m.png", np.array([[[255, 0, 0], [0, 0, 0]]], np.uint8)), twins
        )


def test_a_class_whose_label_marks_what_is_strange(tmp_path):
    many = Dataset(
        "many", "Many", "", 0, 0, classes=tuple((f"#0000{i:02x}", f"c{i}") for i in range(255))
    )
    array = np.zeros((1, 3, 3), np.uint8)
    array[0, :, 2] = 254, 3, 0
    assert read_labels(saved(tmp_path / "m.png", array), many).tolist() == [[254, 3, 0]]


@pytest.mark.parametrize(
    ("form", "options", "kind"),
    [
        ("JPEG", {"quality": 95}, "JPEG"),
        ("TIFF", {"compression": "jpeg"}, "JPEG in a TIFF"),
        ("WEBP", {"quality": 90}, "lossy WebP"),
        ("AVIF", {}, "AVIF"),
    ],
)
@pytest.mark.parametrize("name", ["m.jpg", "m.png"])
def test_what_loses_ids_is_refused(tmp_path, form, options, kind, name):
    if form in ("WEBP", "AVIF") and not features.check(form.lower()):
        pytest.skip(f"this Pillow writes no {form}")
    array = np.repeat(np.kron(IDS % 3, np.ones((8, 8), np.uint8))[..., None], 3, -1)
    path = saved(tmp_path / name, array, format=form, **options)
    with pytest.raises(
        DataError, match=f"is stored as {kind}, which changes values as it stores them"
    ) as caught:
        read_labels(path, THREE)
    assert str(caught.value).count(str(path)) == 1


def test_a_grey_map_of_few_levels_is_not_stretched(tmp_path):
    """A PGM says its largest value; Pillow makes that 255."""
    path = tmp_path / "m.pgm"
    path.write_bytes(b"P5 4 3 2\n" + (IDS % 3).tobytes())
    assert np.array_equal(read_labels(path, THREE), IDS % 3)
    path.write_bytes(b"P2 4 1 20\n0 1 2 1\n")
    assert read_labels(path, THREE).tolist() == [[0, 1, 2, 1]]


def test_numbers_of_other_kinds(tmp_path):
    kinds = ((np.uint16, "tif"), (np.int32, "tif"), (np.float32, "tif"), (np.uint16, "png"))
    for dtype, ending in kinds:
        path = saved(tmp_path / f"{dtype.__name__}.{ending}", IDS.astype(dtype))
        assert np.array_equal(read_labels(path, THREE), IDS)
    with pytest.raises(DataError, match=r"h\.tif holds fractions; expected whole ids, 0 to 255"):
        read_labels(saved(tmp_path / "h.tif", IDS.astype(np.float32) + 0.5), THREE)
    with pytest.raises(DataError, match=r"n\.tif holds ids up to 1 \(the least is -1\)"):
        read_labels(saved(tmp_path / "n.tif", np.array([[-1, 1]], np.int32)), THREE)
    cv2.imwrite(
        str(tmp_path / "deep.png"), np.repeat(IDS.astype(np.uint16)[..., None], 3, -1)
    )  # Pillow would read zeros
    with pytest.raises(DataError, match=r"deep\.png has 16 bits a channel"):
        read_labels(tmp_path / "deep.png", THREE)
    with pytest.raises(DataError, match=r"c\.tif is a picture of CMYK colours"):
        read_labels(saved(tmp_path / "c.tif", np.zeros((2, 2, 4), np.uint8), "CMYK"), THREE)


def huge(width, height):
    """A grey PNG of zeros, its rows packed as they are made."""
    packer = zlib.compressobj(1)
    rows = b"".join(packer.compress(bytes(width + 1)) for _ in range(height)) + packer.flush()
    return png_of((width, height), 8, 0, rows)


def test_masks_of_196_megapixels(tmp_path):
    (tmp_path / "m.png").write_bytes(huge(14_000, 14_000))
    labels = read_labels(tmp_path / "m.png", THREE)
    assert labels.shape == (14_000, 14_000)
    assert not labels.any()
    (tmp_path / "n.png").write_bytes(huge(14_001, 14_000))
    with pytest.raises(
        DataError,
        match=r"has 14001 x 14000 = 196,014,000 pixels; at most 196,000,000 are read, so cut",
    ):
        read_labels(tmp_path / "n.png", THREE)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "the file is empty"),
        (b"<html>no such file</html>", "it is none of PNG, TIFF"),
        (png(np.random.default_rng(0).integers(0, 9, (32, 32), np.uint8))[:200], "damaged"),
        (jpg()[:60], "is stored as JPEG|cannot be read"),
        (b"RIFF\x10\x00\x00\x00WEBPVP8 \x00\x00\x00\x00", "cannot be read|is stored as"),
        (b"P5 0 0 255\n", "cannot be read"),
        (b"GIF89a", "cannot be read"),
        (b"II*\0\x08\0\0\0", "cannot be read"),
        (b"BM" + bytes(40), "cannot be read"),
    ],
)
def test_each_fault_is_one_sentence(tmp_path, content, says):
    path = tmp_path / "m.png"
    path.write_bytes(content)
    with pytest.raises(DataError, match=says) as caught:
        read_labels(path, THREE)
    assert str(caught.value).count("m.png") == 1
    assert "download" not in str(caught.value)


def test_a_folder_and_a_file_without_rights(tmp_path):
    (tmp_path / "m.png").mkdir()
    with pytest.raises(DataError, match=r"m\.png cannot be read as a mask: Is a directory$"):
        read_labels(tmp_path / "m.png", THREE)


@pytest.mark.skipif(not CASES.is_dir(), reason="no ../shared/cases here")
def test_the_cases():
    two = Dataset("two", "Two", "", 0, 0, classes=(("#000000", "a"), ("#800000", "b")))
    with pytest.raises(DataError, match="is stored as JPEG"):
        read_labels(CASES / "mask_lossy.jpg", two)
    colours = np.asarray(Image.open(CASES / "mask_colours.png").convert("RGB"))
    assert np.array_equal(
        read_labels(CASES / "mask_colours.png", two), (colours[..., 0] == 128).astype(np.uint8)
    )
    assert set(np.unique(read_labels(CASES / "mask_la.png", two))) == {0, 1}
    assert set(np.unique(read_labels(CASES / "mask_0_255.png", two))) == {0, IGNORE}
    with Image.open(CASES / "mask_la.png") as picture:
        assert np.array_equal(
            read_stored(CASES / "mask_la.png").values, np.asarray(picture)[..., 0]
        )
