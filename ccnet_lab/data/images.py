"""THE reader of pictures: a file, bytes, a Pillow image or an array -> RGB in sRGB, upright.

App, notebooks, training and evaluation get the same array from the same picture. Only the published
data sets are read as OpenCV decodes them, because the scores published on them were measured so.
Masks are read in masks.py.
"""

import io
import warnings
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms, ImageFile, ImageOps, UnidentifiedImageError

from ccnet_lab.errors import ImageError, MissingFileError

Pixels = NDArray[np.uint8]

# Opened whatever the file is called. Pillow knows more formats; one of them, EPS, runs a program.
FORMATS = ("JPEG", "PNG", "WEBP", "AVIF", "TIFF", "BMP", "GIF", "PPM")  # MPO opens as JPEG
PROMISED = "JPEG, PNG, WebP, AVIF, TIFF, BMP, GIF, MPO or PPM"
MAX_PIXELS = 50_000_000  # more is refused from the header, before anything is decoded
MAX_SIDE = 1_000_000  # a row costs memory of its own
_TOO_MANY = f"more than {MAX_PIXELS:,} pixels, the most that is decoded here; reduce it first"
_KINDS = {  # how files begin, and from which byte on
    (0, b"\xff\xd8"): "JPEG", (0, b"\x89PNG"): "PNG", (0, b"II*\x00"): "TIFF",
    (0, b"MM\x00*"): "TIFF", (0, b"RIFF"): "WebP", (0, b"BM"): "BMP", (0, b"GIF8"): "GIF",
    (0, b"%PDF"): "PDF", (0, b"%!PS"): "PostScript", (0, b"\xc5\xd0\xd3\xc6"): "PostScript",
    (0, b"8BPS"): "Photoshop", (0, b"\x89HDF"): "HDF5", (0, b"<"): "XML, HTML or SVG",
    (0, b"PK\x03\x04"): "zip", (4, b"jP  "): "JPEG 2000", (4, b"ftyphei"): "HEIC",
    (4, b"ftyphev"): "HEIC", (4, b"ftypmif1"): "HEIF", (4, b"ftypmsf1"): "HEIF",
    (4, b"ftyp"): "film", (0, b"\xff\x0a"): "JPEG XL", (4, b"JXL "): "JPEG XL",
}  # fmt: skip


def read_image(source: Any, as_published: bool = False, turned: bool = True) -> Pixels:
    """A picture as (H, W, 3) uint8 RGB, turned as its EXIF orientation says.

    Colours become sRGB by the file's profile; transparent pictures are laid on white. Of an
    animation the first frame is taken, of a Pillow image the one it stands at.

    Args:
        source: a path, the file's bytes, a Pillow image, or a uint8 array (H, W), (H, W, 3) or
            (H, W, 4).
        as_published: decode as OpenCV does, for VOC, ADE20K and Cityscapes: profiles are ignored
            and transparency is dropped.
        turned: False leaves the picture as it is stored.

    Raises:
        MissingFileError: there is no such file.
        ImageError: not one of the `FORMATS`, damaged, more than `MAX_PIXELS` pixels, or than
            `MAX_SIDE` in a row or a column.
    """
    if isinstance(source, np.ndarray):
        return _from_array(source)
    if isinstance(source, Image.Image):
        return _decode(source, "the picture", as_published, turned)
    if isinstance(source, bytes | bytearray):
        file: Any = io.BytesIO(source)
        name = f"a file of {len(source):,} bytes"
    elif isinstance(source, str | Path):
        file, name = Path(source), Path(source).name
        if not file.is_file():
            raise MissingFileError(f"there is no picture {source}")
    else:
        expected = "a path, bytes, a Pillow image or an array"
        raise ImageError(f"a {type(source).__name__} is no picture; expected {expected}")
    try:
        with warnings.catch_warnings():  # Pillow's, which come above the cap below
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            picture = open_picture(file)
    except Image.DecompressionBombError:
        raise ImageError(f"{name} has {_TOO_MANY}") from None
    except UnidentifiedImageError:
        raise ImageError(f"{name} {_unsupported(file)}") from None
    except Exception as error:  # decoders raise many kinds
        raise ImageError(f"{name} cannot be read as a picture: {error}") from None
    with picture:
        return _decode(picture, name, as_published, turned)


def open_picture(file: Any) -> ImageFile.ImageFile:
    """Open a file of one of the `FORMATS`, recognised by its content, without decoding it.

    HEIC, which iPhones write, where the package pillow-heif is installed. Raises
    `UnidentifiedImageError` for any other file.
    """
    Image.init()
    with suppress(ImportError):
        import pillow_heif  # type: ignore[import-not-found,unused-ignore]

        pillow_heif.register_heif_opener()
    formats = [known for known in (*FORMATS, "HEIF") if known in Image.OPEN]  # AVIF may lack
    return Image.open(file, formats=formats)


def _unsupported(file: Any) -> str:
    """Why a file that no decoder recognises is refused: the end of a sentence that names it."""
    try:
        with file.open("rb") if isinstance(file, Path) else file as opened:
            opened.seek(0)
            start = opened.read(64)
    except OSError as error:
        return f"cannot be read: {error}"
    if not start:
        return "is empty; save or download it again"
    text = start.lstrip()
    kind = next((k for (first, mark), k in _KINDS.items() if text[first:].startswith(mark)), "")
    if kind in ("HEIC", "HEIF"):
        return f"is a {kind} picture: pip install pillow-heif, or save it as JPEG"
    if kind.upper() in FORMATS:
        why = "damaged, or of a sort that is not read here"
        return f"is a {kind} file, but {why}; save it again as PNG or JPEG with 8 bits a channel"
    what = f"is a {kind} file, which is not" if kind else "is no picture that can be"
    return f"{what} read here; expected {PROMISED}"


def _decode(picture: Image.Image, name: str, as_published: bool, turned: bool) -> Pixels:
    width, height = picture.size
    if width < 1 or height < 1:
        raise ImageError(f"{name} is {width} x {height} pixels; expected at least 1 x 1")
    if width * height > MAX_PIXELS:
        raise ImageError(f"{name} is {width} x {height} pixels, {_TOO_MANY}")
    if max(width, height) > MAX_SIDE:
        most = f"at most {MAX_SIDE:,} a side are read"
        raise ImageError(f"{name} is {width} x {height} pixels; {most}, so cut it")
    way = getattr(picture, "tile", None) or [("",)]
    if way[0][0] in ("ppm", "ppm_plain") and width * height > _SLOW_PIXELS:
        why = "as text, or with other levels than 255 or 65,535, which takes a minute to read"
        raise ImageError(f"{name} is stored {why}; save it as PNG")
    try:
        if not as_published:
            _note_coding(picture)
        picture.load()
        picture = _eight_bits(picture)
        picture = _upright(picture, name) if turned else picture
        return np.array(picture.convert("RGB") if as_published else _as_seen(picture))
    except MemoryError:
        raise
    except ImageError as error:
        raise ImageError(f"{name} {error}") from None
    except Exception as error:  # decoders raise many kinds
        compression = picture.info.get("compression") if picture.format == "TIFF" else None
        way = f" ({compression})" if compression is not None else ""
        why = f"is damaged or cut short, or stored in a way that is not read here{way}"
        remedy = "save it again as PNG or JPEG, or download it again"
        raise ImageError(f"{name} {why}: {error}; {remedy}") from None


def _upright(picture: Image.Image, name: str) -> Image.Image:
    """Turned as its EXIF orientation says; as stored, with a warning, if that cannot be read."""
    try:
        return ImageOps.exif_transpose(picture)
    except Exception:  # broken metadata, of any kind, over sound pixels
        why = f"the EXIF data of {name} cannot be read; the picture is shown as it is stored"
        warnings.warn(why, stacklevel=3)
        return picture


def _as_seen(picture: Image.Image) -> Image.Image:
    """In sRGB, on white where it is transparent."""
    transparent = picture.has_transparency_data
    if transparent or picture.mode == "P":
        info, grey = picture.info, picture.mode in ("1", "L", "LA", "La")
        picture = picture.convert(("L" if grey else "RGB") + "A" * transparent)
        picture.info = info
    seen = _to_srgb(picture)
    if not transparent:
        return seen
    seen.putalpha(picture.getchannel("A"))
    return Image.alpha_composite(Image.new("RGBA", seen.size, "white"), seen).convert("RGB")


def _from_array(array: NDArray[Any]) -> Pixels:
    shaped = array.ndim == 2 or (array.ndim == 3 and array.shape[2] in (3, 4))
    if array.dtype != np.uint8 or not shaped or array.size == 0:
        expected = "uint8 (H, W), (H, W, 3) or (H, W, 4), not empty"
        raise ImageError(f"{array.dtype} {array.shape} is no picture; expected {expected}")
    if array.shape[0] * array.shape[1] > MAX_PIXELS:
        raise ImageError(f"the array has {_TOO_MANY}")
    if max(array.shape[:2]) > MAX_SIDE:
        raise ImageError(f"the array is {array.shape}; at most {MAX_SIDE:,} pixels a side are read")
    if array.ndim == 2:
        return np.repeat(array[..., None], 3, axis=-1)
    if array.shape[2] == 4:
        return _decode(Image.fromarray(array, "RGBA"), "the array", False, False)
    return np.ascontiguousarray(array)


# Depth: what the numbers of a decoded picture mean

# TIFF's tags BitsPerSample, PhotometricInterpretation, PlanarConfiguration, SampleFormat
_BITS, _PHOTOMETRIC, _PLANES, _SAMPLE = 258, 262, 284, 339


def _eight_bits(picture: Image.Image) -> Image.Image:
    """The picture with 8 bits per channel.

    Integers are divided by the maximum of the file's depth (4,095 for 12 bits, 65,535 for 16, also
    where Pillow holds them in 32, or the file states none). Floating point has no maximum: white is
    the first of 1, 255 and 65,535 that 99 % of the finite values exceed by a tenth at most, else
    their 99th percentile; NaN is black, infinity white.
    """
    if picture.mode not in ("I", "F") and not picture.mode.startswith("I;"):
        return picture
    values = np.asarray(picture)
    unsigned = turned = False
    if picture.mode == "F":
        most = _quantile(values, 0.99)
        white = next((top for top in (1.0, 255.0, 65_535.0) if most <= 1.1 * top), most)
    else:
        tags = getattr(picture, "tag_v2", {})
        bits, signed = int(tags.get(_BITS, (16,))[0]), tags.get(_SAMPLE, (1,))[0] == 2
        unsigned = bits == 32 and not signed
        white = 2.0 ** (bits - (bits == 32 and signed)) - 1
        turned = tags.get(_PHOTOMETRIC) == 0
    levels = np.empty(values.shape, np.uint8)
    flat, out = values.reshape(-1), levels.reshape(-1)
    for first in range(0, len(flat), _STRIP):  # in 64 bits each takes eight times its level
        part = flat[first : first + _STRIP].astype(np.float64)
        if unsigned:
            part %= 2.0**32  # Pillow holds them with a sign
        part = white - part if turned else part
        part = np.nan_to_num(np.clip(part / white, 0, 1), nan=0.0)
        out[first : first + _STRIP] = part * 255 + 0.5
    found = Image.fromarray(levels)
    found.info = picture.info
    return found


def _quantile(values: NDArray[np.float32], share: float) -> float:
    """`np.quantile` of the finite ones in 64 bits, without copying all into 64; 1.0 of none."""
    finite = values[np.isfinite(values)]
    if not finite.size:
        return 1.0
    place = (finite.size - 1) * share
    below = int(place)
    above = min(below + 1, finite.size - 1)
    finite.partition((below, above))
    return float(np.quantile(finite[[below, above]].astype(np.float64), place - below))


# Colour: into sRGB, by what the file says

_SRGB = ImageCms.createProfile("sRGB")
_SPACES = {"RGB": "RGB", "GRAY": "L", "CMYK": "CMYK"}  # a profile's colour space: Pillow's mode
_TO_SRGB = np.array([  # from XYZ, D65
    [3.2404542, -1.5371385, -0.4985314],
    [-0.9692660, 1.8760108, 0.0415560],
    [0.0556434, -0.2040259, 1.0572252],
])  # fmt: skip
_BRADFORD = np.array([
    [0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296],
])  # fmt: skip
_D65 = (0.3127, 0.3290)
_SLOW_PIXELS = 4_000_000  # of a picture that Pillow decodes value by value
_STRIP = 1 << 20  # pixels whose colours are computed at a time
# x and y of white, red, green, blue, by their number in H.273: sRGB, Display P3, BT.2020
_GAMUTS = {
    1: (*_D65, 0.64, 0.33, 0.3, 0.6, 0.15, 0.06),
    12: (*_D65, 0.68, 0.32, 0.265, 0.69, 0.15, 0.06),
    9: (*_D65, 0.708, 0.292, 0.17, 0.797, 0.131, 0.046),
}
_GAMMAS = {13: 0.0, 4: 1 / 2.2, 5: 1 / 2.8, 8: 1.0}  # H.273's transfer curves; 0: sRGB's


def _note_coding(picture: Image.Image) -> None:
    """Put a PNG's chunk cICP into `info`; `ImageError` for what Pillow would decode wrongly."""
    tags = getattr(picture, "tag_v2", {})
    if tags.get(_PLANES) == 2 and max(tags.get(_BITS, (8,))) > 8:
        what = "is a TIFF with more than 8 bits a channel in separate planes"
        raise ImageError(f"{what}, which is not read here; save it interleaved")
    if any(name == b"CgBI" for name, _ in getattr(picture, "private_chunks", ())):
        raise ImageError("is a PNG as Xcode packs it for iPhones; save it as an ordinary PNG")
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


def _to_srgb(picture: Image.Image) -> Image.Image:
    """The picture as "RGB" in sRGB, without alpha, as Chromium shows it.

    By its ICC profile, relative colorimetric, or by a PNG's cICP, or its gamma and primaries. A
    profile that is damaged or of another kind, and primaries without a gamma, are ignored.
    """
    base = {"LA": "L", "RGBA": "RGB", "1": "L"}.get(picture.mode, picture.mode)
    info, colours = picture.info, picture if base == picture.mode else picture.convert(base)
    if cicp := info.get("cicp"):
        primaries, transfer, matrix, whole = cicp  # of H.273
        if primaries not in _GAMUTS or transfer not in _GAMMAS or matrix != 0 or whole != 1:
            what = f"codes its colours as {primaries}-{transfer}-{matrix} (cICP)"
            raise ImageError(f"{what}, such as high dynamic range; save it as sRGB")
        if (primaries, transfer) != (1, 13):  # else it is sRGB
            return _by_gamma(colours.convert("RGB"), _GAMMAS[transfer], _GAMUTS[primaries])
        return colours.convert("RGB")
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
    elif (gamma := info.get("gamma")) and "srgb" not in info:
        primaries = info.get("chromaticity")
        if primaries is not None or abs(gamma - 1 / 2.2) > 1e-4:  # else it is sRGB
            return _by_gamma(colours.convert("RGB"), gamma, primaries or _GAMUTS[1])
    return colours.convert("RGB")


def _by_gamma(picture: Image.Image, gamma: float, primaries: tuple[float, ...]) -> Image.Image:
    """By gamma (0 for sRGB's curve) and primaries; the white is adapted by Bradford's matrix."""

    def xyz(x: float, y: float) -> NDArray[np.float64]:
        return np.array([x / y, 1, (1 - x - y) / y])

    try:
        white, *colours = (xyz(*primaries[i : i + 2]) for i in range(0, 8, 2))
        matrix = np.array(colours).T
        matrix = matrix * np.linalg.solve(matrix, white)
        cones = (_BRADFORD @ xyz(*_D65)) / (_BRADFORD @ white)
        matrix = _TO_SRGB @ np.linalg.inv(_BRADFORD) @ np.diag(cones) @ _BRADFORD @ matrix
        levels = np.arange(256) / 255
        srgb = np.where(levels <= 0.04045, levels / 12.92, ((levels + 0.055) / 1.055) ** 2.4)
        curve = levels ** (1 / gamma) if gamma else srgb
    except (ZeroDivisionError, np.linalg.LinAlgError, IndexError, TypeError, ValueError):
        return picture
    pixels = np.array(picture)  # (H, W, 3)
    rows = max(1, _STRIP // max(1, picture.width))  # so that large pictures take little memory
    for top in range(0, picture.height, rows):
        linear = np.clip(curve[pixels[top : top + rows]] @ matrix.T, 0, 1)
        encoded = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
        pixels[top : top + rows] = encoded * 255 + 0.5
    return Image.fromarray(pixels)
