"""One picture from a file, bytes, Pillow or an array, as the eye sees it, into RGB; fitting it to a network is in transforms.py."""

import io
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile, ImageOps, UnidentifiedImageError

from ccnet_lab.errors import ImageError, MissingFileError

# What is opened, whatever the file is called. Pillow knows more formats, and one of them, EPS, starts a program.
FORMATS = ("JPEG", "PNG", "WEBP", "AVIF", "TIFF", "BMP", "GIF", "PPM")  # JPEG's reader opens MPO, too
PROMISED = "JPEG, PNG, WebP, AVIF, TIFF, BMP, GIF, MPO or PPM"
MAX_PIXELS = 50_000_000  # a 50-megapixel photograph; more is refused from the file's header, before anything is decoded


def read_image(source: Any) -> NDArray[np.uint8]:
    """A picture as (H, W, 3) uint8 RGB, turned as its EXIF orientation says.

    Grey, palette, CMYK and 16-bit pictures are converted; transparent ones are laid on white; of an animation the first frame is taken.

    Args:
        source: a path, the file's bytes, a Pillow image, or an array (H, W), (H, W, 3) or (H, W, 4) of uint8.

    Raises:
        MissingFileError: there is no such file.
        ImageError: no picture of the `FORMATS`, a damaged one, or one of more than `MAX_PIXELS` pixels.
    """
    if isinstance(source, np.ndarray):
        return _from_array(source)
    if isinstance(source, Image.Image):
        return _decode(source, "the picture")
    if isinstance(source, bytes | bytearray):
        file: Any = io.BytesIO(source)
        name = f"these {len(source):,} bytes"
    elif isinstance(source, str | Path):
        file, name = Path(source), Path(source).name
        if not file.is_file():
            raise MissingFileError(f"there is no picture {source}")
    else:
        raise ImageError(f"a {type(source).__name__} is no picture; expected a path, bytes, a Pillow image or an array")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # the cap below is the lower one
            picture = open_picture(file)
    except Image.DecompressionBombError:
        raise ImageError(f"{name} has more than {MAX_PIXELS:,} pixels, the most that is decoded here; reduce it first") from None
    except UnidentifiedImageError:
        raise ImageError(f"{name} is no picture that can be read here; expected {PROMISED}") from None
    except (OSError, ValueError, SyntaxError) as error:
        raise ImageError(f"{name} cannot be read as a picture: {error}") from None
    with picture:
        return _decode(picture, name)


def open_picture(file: Any) -> ImageFile.ImageFile:
    """The picture in a file of one of the `FORMATS`, told by its content, not decoded yet; `UnidentifiedImageError` for any other file."""
    Image.init()
    return Image.open(file, formats=[known for known in FORMATS if known in Image.OPEN])  # AVIF depends on how Pillow was built


def _decode(picture: Image.Image, name: str) -> NDArray[np.uint8]:
    width, height = picture.size
    if width < 1 or height < 1:
        raise ImageError(f"{name} is {width} x {height} pixels; expected at least 1 x 1")
    if width * height > MAX_PIXELS:
        most = f"at most {MAX_PIXELS:,} are decoded here, so reduce it first"
        raise ImageError(f"{name} is {width} x {height} = {width * height:,} pixels; {most}")
    try:
        if getattr(picture, "is_animated", False):
            picture.seek(0)
        picture.load()
    except (OSError, ValueError, SyntaxError, EOFError) as error:
        raise ImageError(f"{name} is damaged or cut short: {error}; save or download it again") from None
    picture = as_seen(picture, name)
    if picture.mode in ("I", "F") or picture.mode.startswith("I;"):
        # Integers of 16 bits and floats 0..1 become 0..255; smaller integers are taken as 8 bits already.
        values = np.asarray(picture).astype(np.float64)
        top = float(values.max(initial=0))
        factor = 1 / 257 if top > 255 else (255 if 0 < top <= 1 else 1)
        return _from_array(np.clip(values * factor + 0.5, 0, 255).astype(np.uint8))
    if picture.has_transparency_data:
        picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture.convert("RGBA"))
    return np.array(picture.convert("RGB"))


def as_seen(picture: Image.Image, name: str) -> Image.Image:
    """The picture turned as its EXIF orientation says; as it is stored, with a warning, where that cannot be read."""
    try:
        return ImageOps.exif_transpose(picture)
    except Exception:  # broken metadata, of any kind, over sound pixels: viewers show such a picture unturned
        warnings.warn(f"the EXIF data of {name} cannot be read; the picture is shown as it is stored", stacklevel=3)
        return picture


def _from_array(array: NDArray[Any]) -> NDArray[np.uint8]:
    if array.dtype != np.uint8 or array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (3, 4)) or array.size == 0:
        raise ImageError(f"an array of {array.dtype} {array.shape} is no picture; expected uint8 (H, W), (H, W, 3) or (H, W, 4), not empty")
    if array.shape[0] * array.shape[1] > MAX_PIXELS:
        raise ImageError(f"the array has {array.shape[0] * array.shape[1]:,} pixels; at most {MAX_PIXELS:,} are taken here")
    if array.ndim == 2:
        return np.repeat(array[..., None], 3, axis=-1)
    if array.shape[2] == 4:
        return _decode(Image.fromarray(array, "RGBA"), "the array")
    return np.ascontiguousarray(array)
