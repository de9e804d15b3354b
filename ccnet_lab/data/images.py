"""THE reader of pictures: a file, bytes, a Pillow image or an array, as the eye sees them, into RGB; colours are in colours.py.

The same picture is the same array in app, notebooks, training and evaluation, but for the published data sets: the scores published on them
were measured on pictures as OpenCV decodes them, see `read_image`.
"""

import io
import warnings
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile, ImageOps, UnidentifiedImageError

from ccnet_lab.data.colours import depth_of, eight_bits, note_coding, to_srgb
from ccnet_lab.errors import ImageError, MissingFileError

# What is opened, whatever the file is called. Pillow knows more formats, and one of them, EPS, starts a program.
FORMATS = (
    "JPEG",
    "PNG",
    "WEBP",
    "AVIF",
    "TIFF",
    "BMP",
    "GIF",
    "PPM",
)  # JPEG's reader opens MPO, too
PROMISED = "JPEG, PNG, WebP, AVIF, TIFF, BMP, GIF, MPO or PPM"
MAX_PIXELS = 50_000_000  # a 50-megapixel photograph; more is refused from the file's header, before anything is decoded
_OTHERS = {  # how files of other kinds begin, from which byte on
    (0, b"%PDF"): "PDF", (0, b"%!PS"): "PostScript", (0, b"\xc5\xd0\xd3\xc6"): "PostScript", (0, b"8BPS"): "Photoshop",
    (0, b"\x89HDF"): "HDF5", (0, b"<?xml"): "XML or SVG", (0, b"<svg"): "SVG", (0, b"<"): "HTML or SVG", (0, b"\x93NUMPY"): "NumPy",
    (0, b"PK\x03\x04"): "zip", (0, b"\x1f\x8b"): "gzip", (0, b"\x00\x00\x01\x00"): "icon", (4, b"jP  "): "JPEG 2000",
    (4, b"ftyphei"): "HEIC", (4, b"ftyphev"): "HEIC", (4, b"ftypmif1"): "HEIF", (4, b"ftypmsf1"): "HEIF", (4, b"ftypcrx"): "Canon raw",
    (4, b"ftyp"): "film", (0, b"\x1aE\xdf\xa3"): "film",
    (0, b"\xff\x0a"): "JPEG XL", (4, b"JXL "): "JPEG XL", (0, b"MM\x00+"): "BigTIFF", (0, b"II+\x00"): "BigTIFF",
}  # fmt: skip
_STARTS = {
    b"\xff\xd8": "JPEG",
    b"\x89PNG": "PNG",
    b"II*\x00": "TIFF",
    b"MM\x00*": "TIFF",
    b"RIFF": "WebP",
    b"BM": "BMP",
    b"GIF8": "GIF",
}


def read_image(source: Any, as_published: bool = False, turned: bool = True) -> NDArray[np.uint8]:
    """A picture as (H, W, 3) uint8 RGB, turned as its EXIF orientation says.

    Colours are sRGB by the file's profile; grey, palette, CMYK, 16-bit and floating-point pictures are converted, see `colours.eight_bits`;
    transparent ones are laid on white; of an animation the first frame is taken, of a Pillow image the one it stands at.

    Args:
        source: a path, the file's bytes, a Pillow image, or an array (H, W), (H, W, 3) or (H, W, 4) of uint8.
        as_published: as OpenCV decodes it, for VOC, ADE20K and Cityscapes: profiles are ignored and transparency is dropped.
        turned: False leaves the picture as it is stored.

    Raises:
        MissingFileError: there is no such file.
        ImageError: no picture of the `FORMATS`, a damaged one, or one of more than `MAX_PIXELS` pixels.
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
        raise ImageError(
            f"a {type(source).__name__} is no picture; expected a path, bytes, a Pillow image or an array"
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore", Image.DecompressionBombWarning
            )  # the cap below is the lower one
            picture = open_picture(file)
    except Image.DecompressionBombError:
        raise ImageError(
            f"{name} has more than {MAX_PIXELS:,} pixels, the most that is decoded here; reduce it first"
        ) from None
    except UnidentifiedImageError:
        raise ImageError(f"{name} {unsupported(file)}") from None
    except Exception as error:  # decoders raise many kinds
        raise ImageError(f"{name} cannot be read as a picture: {error}") from None
    with picture:
        return _decode(picture, name, as_published, turned)


def open_picture(file: Any) -> ImageFile.ImageFile:
    """The picture in a file of one of the `FORMATS`, told by its content, not decoded yet; `UnidentifiedImageError` for any other file.

    HEIC, which iPhones write, is opened where the package pillow-heif is installed.
    """
    Image.init()
    try:
        import pillow_heif  # type: ignore[import-not-found,unused-ignore]
    except ImportError:
        pass
    else:
        pillow_heif.register_heif_opener()
    return Image.open(
        file, formats=[known for known in (*FORMATS, "HEIF") if known in Image.OPEN]
    )  # AVIF depends on how Pillow was built


def is_plain(path: Path) -> bool:
    """Whether a file is a JPEG or PNG that any decoder reads alike: grey or RGB of 8 bits, nothing said of its colours, no transparency."""
    with suppress(Exception), open_picture(path) as picture:
        said = {"icc_profile", "gamma", "transparency"} & picture.info.keys()
        return picture.format in ("JPEG", "PNG") and picture.mode in ("L", "RGB") and not said
    return False


def unsupported(file: Any) -> str:
    """What a file (a path or an open one) is that no reader knows, and what is expected: goes on where a sentence has named it."""
    try:
        if isinstance(file, Path):
            with file.open("rb") as opened:
                start = opened.read(64)
        else:
            file.seek(0)
            start = file.read(64)
    except OSError as error:
        return f"cannot be read: {error}"
    if not start:
        return "is empty; save or download it again"
    kind = next(
        (
            kind
            for (first, mark), kind in _OTHERS.items()
            if start.lstrip()[first:].startswith(mark)
        ),
        "",
    )
    if kind in ("HEIC", "HEIF"):
        return f"is a {kind} picture: pip install pillow-heif, or save it as JPEG"
    if promised := next((kind for mark, kind in _STARTS.items() if start.startswith(mark)), ""):
        return f"is a {promised} file, but damaged, or of a sort that is not read here; save it again as PNG or JPEG with 8 bits a channel"
    what = (
        f"is a {kind} file, which is not read here"
        if kind
        else "is no picture that can be read here"
    )
    return f"{what}; expected {PROMISED}"


def _decode(picture: Image.Image, name: str, as_published: bool, turned: bool) -> NDArray[np.uint8]:
    width, height = picture.size
    if width < 1 or height < 1:
        raise ImageError(f"{name} is {width} x {height} pixels; expected at least 1 x 1")
    if width * height > MAX_PIXELS:
        most = f"at most {MAX_PIXELS:,} are decoded here, so reduce it first"
        raise ImageError(f"{name} is {width} x {height} = {width * height:,} pixels; {most}")
    try:
        if not as_published:
            note_coding(picture)
        picture.load()
        depth = depth_of(picture)
        picture = eight_bits(as_seen(picture, name) if turned else picture, depth)
        if as_published:
            return np.array(picture.convert("RGB"))
        transparent = picture.has_transparency_data
        if transparent or picture.mode == "P":
            about, grey = picture.info, picture.mode in ("1", "L", "LA", "La")
            picture = picture.convert(("L" if grey else "RGB") + "A" * transparent)
            picture.info = about
        alpha = picture.getchannel("A") if transparent else None
        seen = to_srgb(picture)
        if alpha is not None:
            seen.putalpha(alpha)
            seen = Image.alpha_composite(Image.new("RGBA", seen.size, "white"), seen).convert("RGB")
        return np.array(seen)
    except MemoryError:
        raise
    except ImageError as error:
        raise ImageError(f"{name} {error}") from None
    except Exception as error:  # decoders raise many kinds
        way = (
            f" ({picture.info['compression']})"
            if picture.format == "TIFF" and "compression" in picture.info
            else ""
        )
        why = f"is damaged or cut short, or stored in a way that is not read here{way}"
        raise ImageError(
            f"{name} {why}: {error}; save it again as PNG or JPEG, or download it again"
        ) from None


def as_seen(picture: Image.Image, name: str) -> Image.Image:
    """The picture turned as its EXIF orientation says; as it is stored, with a warning, where that cannot be read."""
    try:
        return ImageOps.exif_transpose(picture)
    except (
        Exception
    ):  # broken metadata, of any kind, over sound pixels: viewers show such a picture unturned
        warnings.warn(
            f"the EXIF data of {name} cannot be read; the picture is shown as it is stored",
            stacklevel=3,
        )
        return picture


def _from_array(array: NDArray[Any]) -> NDArray[np.uint8]:
    if (
        array.dtype != np.uint8
        or array.ndim not in (2, 3)
        or (array.ndim == 3 and array.shape[2] not in (3, 4))
        or array.size == 0
    ):
        raise ImageError(
            f"an array of {array.dtype} {array.shape} is no picture; expected uint8 (H, W), (H, W, 3) or (H, W, 4), not empty"
        )
    if array.shape[0] * array.shape[1] > MAX_PIXELS:
        raise ImageError(
            f"the array has {array.shape[0] * array.shape[1]:,} pixels; at most {MAX_PIXELS:,} are taken here"
        )
    if array.ndim == 2:
        return np.repeat(array[..., None], 3, axis=-1)
    if array.shape[2] == 4:
        return _decode(
            Image.fromarray(array, "RGBA"), "the array", as_published=False, turned=False
        )
    return np.ascontiguousarray(array)
