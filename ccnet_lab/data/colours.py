"""What the numbers of a decoded picture mean: their range, and their colours in sRGB by what its file says of them."""

import io
from contextlib import suppress
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms

from ccnet_lab.errors import ImageError

_BITS, _PHOTOMETRIC, _PLANES, _SAMPLE = (
    258,
    262,
    284,
    339,
)  # TIFF's tags BitsPerSample, ... PlanarConfiguration, SampleFormat
_SRGB = ImageCms.createProfile("sRGB")
_SPACES = {
    "RGB": "RGB",
    "GRAY": "L",
    "CMYK": "CMYK",
}  # of profiles: the mode of pictures they are for
_TO_SRGB = np.array(
    [
        [3.2404542, -1.5371385, -0.4985314],
        [-0.9692660, 1.8760108, 0.0415560],
        [0.0556434, -0.2040259, 1.0572252],
    ]
)  # of XYZ, D65
_D65 = (0.3127, 0.3290)
_PRIMARIES = (*_D65, 0.64, 0.33, 0.3, 0.6, 0.15, 0.06)  # of sRGB: white, red, green, blue
_BRADFORD = np.array(
    [[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]]
)


def note_coding(picture: Image.Image) -> None:
    """Note what Pillow leaves unread in a file that was just opened, a PNG's chunk cICP; `ImageError` for what it would decode wrongly."""
    tags = getattr(picture, "tag_v2", {})
    if tags.get(_PLANES) == 2 and max(tags.get(_BITS, (8,))) > 8:
        raise ImageError(
            "is a TIFF with more than 8 bits a channel in separate planes, which is not read here; save it interleaved"
        )
    if any(name == b"CgBI" for name, _ in getattr(picture, "private_chunks", ())):
        raise ImageError(
            "is a PNG as Xcode packs it for iPhones, which is not read here; save it as an ordinary PNG"
        )
    file = getattr(picture, "fp", None)
    if picture.format != "PNG" or file is None:
        return
    place = file.tell()
    file.seek(8)
    while len(head := file.read(8)) == 8 and head[4:] != b"IDAT":
        length = int.from_bytes(head[:4], "big")
        if head[4:] == b"cICP" and length == 4:
            picture.info["cicp"] = file.read(4)
            break
        file.seek(length + 4, 1)
    file.seek(place)


class Depth(NamedTuple):
    """What a file says of its numbers: bits per channel, whether they have a sign, whether white is 0."""

    bits: int = 16
    signed: bool = False
    inverted: bool = False


def depth_of(picture: Image.Image) -> Depth:
    """To be asked of the picture as it was opened; 16 bits where its file says nothing."""
    tags = getattr(picture, "tag_v2", {})
    return Depth(
        int(tags.get(_BITS, (16,))[0]), tags.get(_SAMPLE, (1,))[0] == 2, tags.get(_PHOTOMETRIC) == 0
    )


def eight_bits(picture: Image.Image, depth: Depth) -> Image.Image:
    """The picture with 8 bits per channel; what has 8 already stays as it is.

    Integers are divided by what their file's depth allows (4,095 for 12 bits, 65,535 for 16, also where Pillow holds them in 32). Floating-
    point pictures have no such bound: white is the first of 1, 255 and 65,535 that 99 of 100 finite values exceed by a tenth at most, else
    the largest of those; NaN is black, infinity white.
    """
    if picture.mode not in ("I", "F") and not picture.mode.startswith("I;"):
        return picture
    values = np.asarray(picture).astype(np.float64)
    if picture.mode == "F":
        finite = values[np.isfinite(values)]
        most = float(np.quantile(finite, 0.99)) if finite.size else 1.0
        white = next((top for top in (1.0, 255.0, 65_535.0) if most <= 1.1 * top), most)
    else:
        if depth.bits == 32 and not depth.signed:
            values %= 2.0**32  # Pillow holds them with a sign
        white = 2.0 ** (depth.bits - (depth.bits == 32 and depth.signed)) - 1
        values = white - values if depth.inverted else values
    levels = np.nan_to_num(np.clip(values / white, 0, 1), nan=0.0)
    out = Image.fromarray((levels * 255 + 0.5).astype(np.uint8))
    out.info = picture.info
    return out


def to_srgb(picture: Image.Image) -> Image.Image:
    """The picture as "RGB" in sRGB, as Chromium shows it: by its ICC profile, relative colorimetric, or by a PNG's gamma and primaries.

    A profile that is damaged, or for another kind of picture, is passed over, as are primaries without a gamma. Alpha is dropped.
    """
    base = {"LA": "L", "RGBA": "RGB", "1": "L"}.get(picture.mode, picture.mode)
    info, colours = picture.info, picture if base == picture.mode else picture.convert(base)
    if cicp := info.get("cicp"):
        return _by_code_points(colours.convert("RGB"), *cicp)
    if profile := info.get("icc_profile"):
        with suppress(ImageCms.PyCMSError, OSError, ValueError, TypeError):
            source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
            mode = _SPACES.get(source.profile.xcolor_space.strip())
            if mode == "RGB" and base == "L":
                colours = colours.convert("RGB")
            if mode == colours.mode:
                how = ImageCms.Intent.RELATIVE_COLORIMETRIC
                found = ImageCms.profileToProfile(colours, source, _SRGB, how, outputMode="RGB")
                if found is not None:
                    return found
    elif (
        "srgb" not in info
        and (gamma := info.get("gamma"))
        and ("chromaticity" in info or abs(gamma - 1 / 2.2) > 1e-4)
    ):  # that is sRGB
        return _by_gamma(colours.convert("RGB"), gamma, info.get("chromaticity") or _PRIMARIES)
    return colours.convert("RGB")


def _by_code_points(
    picture: Image.Image, primaries: int, transfer: int, matrix: int, whole: int
) -> Image.Image:
    """By a PNG's chunk cICP (H.273): sRGB, Display P3 or BT.2020 with sRGB's curve, a gamma or none; `ImageError` for HDR and the like."""
    gamuts = {
        1: _PRIMARIES,
        12: (*_D65, 0.68, 0.32, 0.265, 0.69, 0.15, 0.06),
        9: (*_D65, 0.708, 0.292, 0.17, 0.797, 0.131, 0.046),
    }
    gammas = {13: 0.0, 4: 1 / 2.2, 5: 1 / 2.8, 8: 1.0}
    if primaries not in gamuts or transfer not in gammas or matrix != 0 or whole != 1:
        code = f"{primaries}-{transfer}-{matrix}"
        raise ImageError(
            f"codes its colours as {code} (cICP), such as high dynamic range, which is not read here; save it as sRGB"
        )
    return (
        picture
        if (primaries, transfer) == (1, 13)
        else _by_gamma(picture, gammas[transfer], gamuts[primaries])
    )


def _by_gamma(picture: Image.Image, gamma: float, primaries: tuple[float, ...]) -> Image.Image:
    """By gamma (0: sRGB's curve) and primaries (white, red, green, blue; x and y each), the white adapted by Bradford's matrix."""

    def xyz(x: float, y: float) -> NDArray[np.float64]:
        return np.array([x / y, 1, (1 - x - y) / y])

    try:
        white, *colours = (xyz(*primaries[i : i + 2]) for i in range(0, 8, 2))
        matrix = np.array(colours).T
        matrix = matrix * np.linalg.solve(matrix, white)
        cones = (_BRADFORD @ xyz(*_D65)) / (_BRADFORD @ white)
        matrix = _TO_SRGB @ np.linalg.inv(_BRADFORD) @ np.diag(cones) @ _BRADFORD @ matrix
        levels = np.arange(256) / 255
        linear_part = levels <= 0.04045
        curve = (
            levels ** (1 / gamma)
            if gamma
            else np.where(linear_part, levels / 12.92, ((levels + 0.055) / 1.055) ** 2.4)
        )
    except (ZeroDivisionError, np.linalg.LinAlgError, IndexError, TypeError, ValueError):
        return picture
    linear = np.clip(curve[np.asarray(picture)] @ matrix.T, 0, 1)  # (H, W, 3)
    encoded = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    return Image.fromarray((encoded * 255 + 0.5).astype(np.uint8))
