"""data/images.py, transforms.py: pictures of every kind, as the eye sees them, or an error."""

import io
import struct
import tracemalloc
import zlib

import cv2
import numpy as np
import pytest
from conftest import SHARED
from PIL import Image
from profiles import png_of, profile, saved, scene, with_chunks

from ccnet_lab import ImageError
from ccnet_lab.data import images
from ccnet_lab.data.images import MAX_PIXELS, MAX_SIDE, read_image
from ccnet_lab.data.transforms import fit, fitted_size, normalise
from ccnet_lab.errors import MissingFileError


def half_red(mode="RGB", size=(8, 6)):
    """Left half red, right half white."""
    array = np.full((size[1], size[0], 3), 255, np.uint8)
    array[:, : size[0] // 2] = (255, 0, 0)
    return Image.fromarray(array).convert(mode)


def test_plain_png_is_itself(picture):
    array = picture(6, 8)
    assert np.array_equal(read_image(saved(Image.fromarray(array))), array)
    assert np.array_equal(read_image(array), array)
    assert np.array_equal(read_image(Image.fromarray(array)), array)


@pytest.mark.parametrize("mode", ["P", "CMYK", "YCbCr", "LAB", "HSV"])
def test_other_colour_spaces(mode):
    form = {"P": "PNG", "CMYK": "JPEG", "YCbCr": "JPEG", "LAB": "TIFF", "HSV": None}[mode]
    source = half_red(mode) if mode != "LAB" else half_red()
    image = read_image(saved(source, form) if form else source)
    assert image.shape == (6, 8, 3)
    assert image[3, 0, 0] > 200
    assert image[3, 0, 1:].max() < 60
    assert image[3, 7].min() > 230


def test_grey_sixteen_bit_bilevel_and_float():
    ramp = np.linspace(0, 65535, 48).reshape(6, 8)
    sixteen = read_image(saved(Image.fromarray(ramp.astype(np.uint16))))
    assert sixteen.min() == 0
    assert sixteen.max() == 255
    assert np.abs(sixteen[..., 0] - ramp / 257).max() <= 1
    assert read_image(saved(Image.fromarray((ramp / 257).astype(np.uint8)))).shape == (6, 8, 3)
    assert (
        np.abs(
            read_image(saved(Image.fromarray((ramp / 65535).astype(np.float32)), "TIFF"))[..., 1]
            - ramp / 257
        ).max()
        <= 1
    )
    assert set(np.unique(read_image(saved(half_red().convert("1"))))) <= {0, 255}


def test_transparency_lies_on_white():
    array = np.zeros((4, 4, 4), np.uint8)
    array[:, :2, 3] = 255  # opaque black beside transparent black
    for source in (
        saved(Image.fromarray(array)),
        array,
        saved(Image.fromarray(array[..., [0, 3]], "LA")),
    ):
        image = read_image(source)
        assert image[0, 0].tolist() == [0, 0, 0]
        assert image[0, 3].tolist() == [255, 255, 255]


def test_first_frame_of_an_animation():
    frames = [half_red(), Image.new("RGB", (8, 6), "blue")]
    image = read_image(saved(frames[0], "GIF", save_all=True, append_images=frames[1:]))
    assert image[3, 0].tolist() == [255, 0, 0]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(orientation):
    upright = np.zeros((6, 8, 3), np.uint8)
    upright[0, 0] = 255  # the top left corner, as the eye should see it
    turn = {1: None, 2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}[
        orientation
    ]  # how a camera held so stores it
    stored = (
        Image.fromarray(upright)
        if turn is None
        else Image.fromarray(upright).transpose(Image.Transpose(turn))
    )
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = read_image(saved(stored, exif=exif))
    assert image.shape == (6, 8, 3)
    assert image[0, 0, 0] == 255


def png_header(width, height):
    """A PNG that claims a size and holds next to nothing."""
    return png_of((width, height), 8, 2, zlib.compress(b""))


@pytest.mark.parametrize("size", [(9000, 9000), (30_000, 30_000), (1, MAX_PIXELS + 1)])
def test_too_many_pixels_are_refused_before_decoding_with_the_cap(size):
    with pytest.raises(ImageError, match=f"{MAX_PIXELS:,}"):
        read_image(png_header(*size))
    with pytest.raises(
        ImageError, match="damaged"
    ):  # the same file at a modest size does get decoded
        read_image(png_header(90, 90))


def test_a_real_9000_by_9000_file():
    with pytest.raises(ImageError, match="9000 x 9000"):
        read_image(saved(Image.new("1", (9000, 9000))))


@pytest.mark.parametrize("size", [(1, 1), (4000, 1), (1, 4000)])
def test_thin_pictures(size):
    assert read_image(saved(Image.new("RGB", size))).shape == (size[1], size[0], 3)


@pytest.mark.parametrize("share", [0.02, 0.4, 0.9])
def test_truncated_jpeg(picture, share):
    whole = saved(Image.fromarray(picture(60, 80)), "JPEG")
    with pytest.raises(ImageError, match=r"damaged or cut short|no picture|cannot be read"):
        read_image(whole[: int(len(whole) * share)])


@pytest.mark.parametrize(
    "source",
    [
        b"",
        b"hello",
        b"%PDF-1.4",
        7,
        None,
        np.zeros((4, 4)),
        np.zeros((0, 4, 3), np.uint8),
        np.zeros((2, 2, 5), np.uint8),
    ],
)
def test_things_that_are_no_picture(source):
    with pytest.raises(ImageError, match=r"picture|is empty|is a PDF file, which is not read here"):
        read_image(source)


def test_a_path_that_is_not_there(tmp_path):
    with pytest.raises(MissingFileError, match="nowhere"):
        read_image(tmp_path / "nowhere.jpg")


def test_fitting_is_the_recipe_s():
    assert fitted_size(375, 500, 2048, 512) == (512, 683)
    assert fitted_size(100, 4000, 2048, 512) == (51, 2048)
    assert fitted_size(1, 4000, 2048, 512) == (1, 2048)
    assert fitted_size(1024, 2048, 2048, 1024) == (1024, 2048)


def test_enlarging_is_plain_bilinear_and_nothing_happens_at_the_right_size(picture):
    import torch

    array = picture(10, 14)
    assert fit(array, 14, 10) is array
    enlarged = fit(array, 28, 20)
    plain = torch.nn.functional.interpolate(
        torch.tensor(array).movedim(-1, 0)[None].float(),
        size=(20, 28),
        mode="bilinear",
        align_corners=False,
    )
    assert np.abs(enlarged - plain[0].movedim(0, -1).numpy()).max() <= 1


def test_normalise():
    tensor = normalise(np.array([[[123, 116, 103]]], np.uint8))
    assert tensor.shape == (3, 1, 1)
    assert abs(tensor[0].item() - (123 - 123.675) / 58.395) < 1e-6


CASES = SHARED.parent / "cases"


@pytest.mark.skipif(
    not CASES.is_dir(), reason="the small inputs lie beside the repository, not in it"
)
def test_small_inputs_that_failed():
    def difference(name, expected):
        return np.abs(read_image(CASES / name).astype(int) - expected).mean()

    assert difference("display_p3_like.png", read_image(CASES / "srgb.png")) < 1.5
    assert difference("float_with_one_nan.tiff", 127) < 70  # a ramp
    for name in ("float_with_one_nan.tiff", "float_to_1.02.tiff"):
        assert abs(read_image(CASES / name).mean() - 127) < 3
    assert read_image(CASES / "grey16.png")[0, ::9, 0].tolist() == list(range(0, 246, 35))
    assert read_image(CASES / "transparent_top.png")[0, 0].tolist() == [255, 255, 255]
    with pytest.raises(ImageError, match="PostScript file, which is not read here"):
        read_image(CASES / "postscript_in_jpeg_clothes.jpg")


def tiff(values, bits):
    """A grey TIFF of 12 or 16 bits per sample, written by hand."""
    if bits == 16:
        raw = np.asarray(values, "<u2").tobytes()
    else:  # two samples in three bytes
        a, b = np.asarray(values, np.uint16).reshape(-1, 2).T
        raw = np.stack([a >> 4, (a & 15) << 4 | b >> 8, b & 255], -1).astype(np.uint8).tobytes()
    (height, width), long = np.shape(values), 4
    entries = [
        (256, 3, width),
        (257, 3, height),
        (258, 3, bits),
        (259, 3, 1),
        (262, 3, 1),
        (273, long, 8),
        (277, 3, 1),
        (278, 3, height),
    ]
    data = b"II*\0" + struct.pack("<I", 8 + len(raw)) + raw + struct.pack("<H", len(entries) + 1)
    return (
        data
        + b"".join(
            struct.pack("<HHII", tag, kind, 1, value)
            for tag, kind, value in [*entries, (279, long, len(raw))]
        )
        + bytes(4)
    )


def test_a_range_is_the_file_s_depth_not_its_largest_value():
    dark = np.linspace(0, 2000, 48).reshape(6, 8)
    assert (
        read_image(saved(Image.fromarray(dark.astype(np.uint16)), "TIFF")).max() == 8
    )  # of 65,535
    assert read_image(saved(Image.fromarray(dark.astype(np.uint16)))).max() == 8
    assert read_image(tiff(dark, 16)).max() == 8
    assert read_image(tiff(dark, 12)).max() == 125  # of 4,095
    assert read_image(Image.fromarray(np.full((2, 2), 300, np.int32))).max() == 1


@pytest.mark.parametrize(("values", "expected"), [
    ([0.0, 0.5, 1.0], [0, 128, 255]), ([0.0, 0.5, 1.02], [0, 128, 255]),
    ([0.0, 127.5, 255.0], [0, 128, 255]), ([0.0, 32767.5, 65535.0], [0, 128, 255]),
    ([np.nan, 0.5, np.inf], [0, 128, 255]), ([-1.0, 0.5, -np.inf], [0, 128, 0]),
    ([np.nan] * 3, [0, 0, 0]), ([0.0, 0.0, 0.0], [0, 0, 0]),
])  # fmt: skip
def test_floating_point_pictures(values, expected):
    assert read_image(Image.fromarray(np.array([values], np.float32)))[0, :, 0].tolist() == expected


@pytest.mark.parametrize("size", [(1, MAX_SIDE + 1), (MAX_SIDE + 1, 1)])
def test_longer_sides_are_refused(size):
    for picture in (saved(Image.new("L", size)), np.zeros(size, np.uint8)):
        with pytest.raises(ImageError, match=f"{MAX_SIDE:,}"):
            read_image(picture)


def test_a_floating_point_picture_s_white_is_numpy_s_quantile():
    """Of any number of values; and what is computed in strips is the whole."""
    draw = np.random.default_rng(0)
    for shape in ((1, 1), (1, 2), (1, 99), (10, 10), (1, 101), (3, 700_001)):
        values = (draw.random(shape) * 1e6).astype(np.float32)
        white = np.quantile(values.astype(np.float64), 0.99)
        expected = (np.clip(values / white, 0, 1) * 255 + 0.5).astype(np.uint8)
        assert np.array_equal(read_image(Image.fromarray(values))[..., 0], expected)


def test_what_pillow_reads_value_by_value_is_refused_where_it_is_large(monkeypatch):
    monkeypatch.setattr(images, "_SLOW_PIXELS", 6)
    for kind, level in ((b"P2", 255), (b"P5", 254)):
        small = b"%b 3 2 %d " % (kind, level) + (b"1 " * 6 if kind == b"P2" else bytes(6))
        assert read_image(small).shape == (2, 3, 3)
        with pytest.raises(ImageError, match="save it as PNG"):
            read_image(small.replace(b" 3 2 ", b" 3 3 ") + b"1 1 1 ")
    assert read_image(b"P5 3 3 255 " + bytes(9)).shape == (3, 3, 3)


def test_a_pillow_image_stays_on_its_page():
    frames = [half_red(), Image.new("RGB", (8, 6), "blue")]
    with Image.open(
        io.BytesIO(saved(frames[0], "TIFF", save_all=True, append_images=frames[1:]))
    ) as opened:
        opened.seek(1)
        assert read_image(opened)[3, 0].tolist() == [0, 0, 255]
        assert opened.tell() == 1


def test_a_pillow_image_keeps_its_file_s_depth_and_is_not_decoded_beyond_the_cap(monkeypatch):
    dark = np.linspace(0, 2000, 48).reshape(6, 8)
    with Image.open(io.BytesIO(tiff(dark, 12))) as opened:
        assert read_image(opened).max() == 125
    with Image.open(io.BytesIO(saved(Image.new("1", (9000, 9000))))) as opened:
        monkeypatch.setattr(type(opened), "load", lambda *_: pytest.fail("decoded"))
        with pytest.raises(ImageError, match="9000 x 9000"):
            read_image(opened)


@pytest.mark.parametrize(("start", "kind"), [
    (b"8BPS\0\1", "Photoshop"), (b"\x89HDF\r\n", "HDF5"), (b"%PDF-1.7", "PDF"),
    (b"<svg xmlns=''>", "SVG"), (b"\0\0\0\x18ftypheic", "HEIC"),
    (b"\n<!DOCTYPE html>", "HTML"), (b"\0\0\0\x0cjP  \r\n", "JPEG 2000"), (b"PK\3\4", "zip"),
])  # fmt: skip
def test_intact_files_of_other_kinds_are_not_called_damaged(tmp_path, start, kind):
    (tmp_path / "a.png").write_bytes(start + bytes(500))
    with pytest.raises(ImageError, match=rf"^a.png is a .*{kind}") as found:
        read_image(tmp_path / "a.png")
    assert not any(word in str(found.value) for word in ("damaged", "download", "cut short"))


def test_as_published_is_what_opencv_decodes(tmp_path):
    for number, name in enumerate(("P3", "none")):
        content = saved(
            scene(), "JPEG", quality=95, **({"icc_profile": profile()} if name == "P3" else {})
        )
        expected = cv2.cvtColor(
            cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB
        )
        assert np.array_equal(read_image(content, as_published=True), expected)
        assert np.array_equal(read_image(content), expected) == bool(number)


def by_hand(samples, bits, **tags):
    """A little-endian TIFF with one strip for each plane of `samples`, (planes, H, W)."""
    planes, height, width = samples.shape
    data = samples.astype(f"<u{bits // 8}").tobytes()
    entries = {
        256: (4, [width]),
        257: (4, [height]),
        258: (3, [bits] * planes),
        259: (3, [1]),
        262: (3, [tags.get("photometric", 1)]),
    }
    size = len(data) // planes
    entries |= {
        273: (4, [8 + k * size for k in range(planes)]),
        277: (3, [planes]),
        278: (4, [height]),
        279: (4, [size] * planes),
    }
    entries |= {284: (3, [2 if planes > 1 else 1]), 339: (3, [1] * planes)}
    at = 8 + len(data) + 2 + 12 * len(entries) + 4
    table, more = struct.pack("<H", len(entries)), b""
    for tag, (kind, values) in sorted(entries.items()):
        packed = b"".join(struct.pack("<H" if kind == 3 else "<I", v) for v in values)
        field = packed.ljust(4, b"\0") if len(packed) <= 4 else struct.pack("<I", at + len(more))
        more += packed if len(packed) > 4 else b""
        table += struct.pack("<HHI", tag, kind, len(values)) + field
    return b"II*\0" + struct.pack("<I", 8 + len(data)) + data + table + struct.pack("<I", 0) + more


@pytest.mark.parametrize("bits", [8, 16, 32])
@pytest.mark.parametrize("photometric", [0, 1])
def test_tiffs_of_every_depth_with_white_at_either_end(bits, photometric):
    ramp = np.linspace(0, 2**bits - 1, 48).round().reshape(1, 6, 8)
    if (bits, photometric) == (32, 0):
        with pytest.raises(ImageError, match="of a sort that is not read here"):
            read_image(by_hand(ramp, bits, photometric=0))
        return
    seen = read_image(by_hand(ramp, bits, photometric=photometric))[..., 0]
    wanted = ramp[0] * 255 / (2**bits - 1)
    assert np.abs(seen - (wanted if photometric else 255 - wanted)).max() <= 1


def test_what_pillow_would_decode_wrongly_is_refused_in_words(picture):
    planes = np.moveaxis(picture(6, 8), -1, 0)
    assert np.array_equal(read_image(by_hand(planes, 8, photometric=2)), picture(6, 8))
    with pytest.raises(
        ImageError, match="is a TIFF with more than 8 bits a channel in separate planes"
    ):
        read_image(by_hand(planes.astype(int) * 257, 16, photometric=2))
    png = saved(Image.fromarray(picture(6, 8)))
    with pytest.raises(ImageError, match="is a PNG as Xcode packs it for iPhones"):
        read_image(with_chunks(png, (b"CgBI", b"P\0 \6"), at=8))
    with pytest.raises(
        ImageError, match=r"codes its colours as 9-16-0 \(cICP\), such as high dynamic range"
    ):
        read_image(with_chunks(png, (b"cICP", bytes((9, 16, 0, 1)))))
    with pytest.raises(
        ImageError, match="is a TIFF file, but damaged, or of a sort that is not read here"
    ):
        read_image(by_hand(np.zeros((1, 6, 8)), 64))


def test_colours_are_computed_strip_by_strip(picture, monkeypatch):
    """So that a large picture takes little memory; the strips don't show."""
    source = Image.fromarray(picture(61, 47))
    source.info["gamma"], source.info["chromaticity"] = 0.55, images._GAMUTS[12]
    whole = read_image(source)
    monkeypatch.setattr(images, "_STRIP", 100)
    assert np.array_equal(read_image(source), whole)
    assert not np.array_equal(whole, picture(61, 47))
    monkeypatch.undo()
    large = Image.new("RGB", (3000, 2000), (10, 200, 90))
    large.info.update(source.info)
    tracemalloc.start()
    read_image(large)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 30 * 6_000_000, peak / 6_000_000  # bytes a pixel; 109 as a whole
