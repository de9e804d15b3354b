"""What the numbers of a decoded picture mean: their range, and their colours in sRGB by what its file says of them."""

import io
from contextlib import suppress

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms

_BITS = 258  # TIFF's tag BitsPerSample
_SRGB = ImageCms.createProfile("sRGB")
_SPACES = {"RGB": "RGB", "GRAY": "L", "CMYK": "CMYK"}  # of profiles: the mode of pictures they are for
_TO_SRGB = np.array(
    [[3.2404542, -1.5371385, -0.4985314], [-0.9692660, 1.8760108, 0.0415560], [0.0556434, -0.2040259, 1.0572252]]
)  # of XYZ, D65
_D65 = (0.3127, 0.3290)
_PRIMARIES = (*_D65, 0.64, 0.33, 0.3, 0.6, 0.15, 0.06)  # of sRGB: white, red, green, blue
_BRADFORD = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]])


def bits_per_sample(picture: Image.Image) -> int:
    """What a file says of its depth, to be asked of the picture as it was opened; 16 where it says nothing."""
    return int(getattr(picture, "tag_v2", {}).get(_BITS, (16,))[0])


def eight_bits(picture: Image.Image, bits: int) -> Image.Image:
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
        white = 2.0**bits - 1 if bits <= 16 else float(2**31 - 1)
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
    elif "srgb" not in info and (gamma := info.get("gamma")) and ("chromaticity" in info or abs(gamma - 1 / 2.2) > 1e-4):  # that is sRGB
        return _by_gamma(colours.convert("RGB"), gamma, info.get("chromaticity") or _PRIMARIES)
    return colours.convert("RGB")


def _by_gamma(picture: Image.Image, gamma: float, primaries: tuple[float, ...]) -> Image.Image:
    """By the chunks gAMA and cHRM (white, red, green, blue; x and y each) of a PNG, the white adapted by Bradford's matrix."""

    def xyz(x: float, y: float) -> NDArray[np.float64]:
        return np.array([x / y, 1, (1 - x - y) / y])

    try:
        white, *colours = (xyz(*primaries[i : i + 2]) for i in range(0, 8, 2))
        matrix = np.array(colours).T
        matrix = matrix * np.linalg.solve(matrix, white)
        cones = (_BRADFORD @ xyz(*_D65)) / (_BRADFORD @ white)
        matrix = _TO_SRGB @ np.linalg.inv(_BRADFORD) @ np.diag(cones) @ _BRADFORD @ matrix
        curve = (np.arange(256) / 255) ** (1 / gamma)
    except (ZeroDivisionError, np.linalg.LinAlgError, IndexError, TypeError, ValueError):
        return picture
    linear = np.clip(curve[np.asarray(picture)] @ matrix.T, 0, 1)  # (H, W, 3)
    encoded = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    return Image.fromarray((encoded * 255 + 0.5).astype(np.uint8))
