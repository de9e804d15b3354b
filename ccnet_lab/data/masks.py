"""THE reader of masks: a file of ids or colours -> labels.

Which file is whose mask is decided in datasets.py and own.py; pictures are read in images.py.
"""

import re
import struct
from collections import Counter
from contextlib import suppress
from functools import cache, lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile, ImageOps, UnidentifiedImageError

from ccnet_lab.data.catalog import IGNORE, Dataset
from ccnet_lab.data.class_files import BORDER
from ccnet_lab.data.decoders import decode
from ccnet_lab.errors import DataError

Values = NDArray[np.uint8]

LOSSLESS = "PNG, TIFF, BMP, GIF, PPM or lossless WebP"
_FORMATS = ("PNG", "TIFF", "BMP", "GIF", "PPM", "WEBP", "JPEG", "AVIF")  # the last two: to refuse
_LOSSY = {  # by Pillow's format or, of a TIFF, its compression
    "JPEG": "JPEG", "MPO": "JPEG", "AVIF": "AVIF", "jpeg": "JPEG in a TIFF",
    "tiff_jpeg": "JPEG in a TIFF", "webp": "WebP in a TIFF",
}  # fmt: skip
_MODES = {"P", "L", "1", "I", "F", "RGB", "RGBA", "RGBX", "LA", "PA"}
MAX_PIXELS = 196_000_000  # 14,000 x 14,000; a mask takes a byte a pixel, a picture three
_CODE = np.array([1 << 16, 1 << 8, 1], np.int32)  # a colour @ this is 0xRRGGBB
_STRIP = 1 << 22  # pixels whose colours are looked up at a time


class Stored(NamedTuple):
    """The content of a mask's file."""

    values: Values  # ids (H, W) or colours (H, W, 3)
    palette: Values | None = None  # (N, 3) the colours of the ids


def read_labels(path: Path, dataset: Dataset) -> Values:
    """(H, W) class ids and `IGNORE` from a mask of ids or of the data set's colours.

    A palette or grey picture holds ids, as does a grey one in three channels, unless the data
    set's class file states colours and all of the mask's are among them; if all those colours are
    grey, they count in any grey picture. Other colours are looked up in the data set's palette,
    with VOC's border as ignored. SBD's `.mat` files are read, too.

    Raises:
        DataError: not readable, stored with loss, or ids or colours the data set doesn't have.
    """
    values, palette = Stored(_read_mat(path)) if path.suffix == ".mat" else read_stored(path)
    if values.ndim == 3:
        return _from_colours(path, values, dataset)
    if dataset.coloured:
        if palette is None and all(r == g == b for r, g, b in dataset.palette):
            palette = np.repeat(np.arange(256, dtype=np.uint8)[:, None], 3, axis=1)
        if palette is not None:
            labels = _through_palette(values, palette, dataset)
            if labels is not None:
                return labels
    return _from_ids(path, values, dataset)


@cache
def label_table(dataset: Dataset, train_ids: bool = False) -> NDArray[np.int16]:
    """(256,) the label of every id in a mask: a class, `IGNORE`, or -1 for one that must not occur.

    With `train_ids` the file holds classes already (Cityscapes' `_labelTrainIds.png`).
    """
    table = np.full(256, -1, np.int16)
    table[[IGNORE, *(() if train_ids else dataset.ignored_ids)]] = IGNORE
    ids = range(dataset.num_classes) if train_ids else dataset.ids
    table[list(ids)] = np.arange(dataset.num_classes)
    return table


def _from_ids(path: Path, ids: Values, dataset: Dataset) -> Values:
    table = label_table(dataset, train_ids=path.stem.endswith("TrainIds"))
    labels = cv2.LUT(ids, table)
    if (labels < 0).any():
        strange, known = np.unique(ids[labels < 0])[:10], np.flatnonzero(table >= 0)[:40]
        found, expected = (", ".join(map(str, some)) for some in (strange, known))
        raise DataError(
            f"{path} holds label ids that {dataset.title} does not have: {found}; expected "
            f"{expected} (is it a mask of another data set, or saved with smoothing?)"
        )
    return np.asarray(labels, np.uint8)


def _from_colours(path: Path, colours: Values, dataset: Dataset) -> Values:
    """Labels of (H, W, 3): by colour or, if every pixel is grey, by id."""
    ids = colours[..., 0]
    if grey := np.array_equal(ids, colours[..., 1]) and np.array_equal(ids, colours[..., 2]):
        ids = np.ascontiguousarray(ids)
        if dataset.label_ids and not dataset.coloured:
            with suppress(DataError):
                return _from_ids(path, ids, dataset)
    labels, unknown = _looked_up(colours, dataset)
    if not unknown:
        return labels
    if grey:
        return _from_ids(path, ids, dataset)
    (code, count), *others = unknown.most_common()
    more = f" (and {len(others):,} more, in {_pixels(unknown.total() - count)})" if others else ""
    raise DataError(
        f"{path} is a colour picture with the colour {tuple(code.to_bytes(3, 'big'))} in "
        f"{_pixels(count)}{more}, which is no class of {dataset.title}; name it in the class file, "
        "or was it saved with smoothing, as JPEG or for another data set?"
    )


def _pixels(count: int) -> str:
    return f"{count:,} pixel" + "s" * (count != 1)


def _looked_up(colours: Values, dataset: Dataset) -> tuple[Values, Counter[int]]:
    """(H, W) labels of (H, W, 3) colours, and the pixels of each unknown one, 0xRRGGBB."""
    table, unknown = _colour_table(dataset), Counter[int]()
    labels = np.empty(colours.shape[:2], np.uint8)
    rows = max(1, _STRIP // max(1, colours.shape[1]))
    for top in range(0, len(colours), rows):
        codes = colours[top : top + rows].astype(np.int32) @ _CODE
        labels[top : top + rows] = found = table[codes]
        some = np.unique(codes[found < 0], return_counts=True)
        unknown.update(dict(zip(*(part.tolist() for part in some), strict=True)))
    return labels, unknown


def _through_palette(ids: Values, palette: Values, dataset: Dataset) -> Values | None:
    """Labels by the colours of a palette picture, whose ids a program may have renumbered.

    None if the colours say what the ids say, or are not the data set's.
    """
    meant = np.full(256, -1, np.int16)
    meant[: len(palette)] = _colour_table(dataset)[palette @ _CODE]
    labels = cv2.LUT(ids, meant)
    as_ids = not ((meant >= 0) & (meant != label_table(dataset))).any()
    return None if as_ids or (labels < 0).any() else labels.astype(np.uint8)


@lru_cache(4)
def _colour_table(dataset: Dataset) -> NDArray[np.int16]:
    """(2^24,) the label of every colour 0xRRGGBB; -1 for one of no class, or of several."""
    table, codes = np.full(1 << 24, -1, np.int16), np.array(dataset.palette) @ _CODE
    table[np.array(BORDER) @ _CODE] = IGNORE
    kinds, first, counts = np.unique(codes, return_index=True, return_counts=True)
    table[kinds] = np.where(counts == 1, first, -1)
    return table


# Files


def stated_size(path: Path) -> tuple[int, int] | None:
    """(H, W) that a mask's file states, as it is stored; None where it can't be told."""
    with suppress(Exception), path.open("rb") as file, _opened(file) as picture:
        return picture.height, picture.width
    return None


def read_stored(path: Path) -> Stored:
    """The ids or colours in a mask's file; `DataError` if it is damaged or stored with loss."""
    failed = f"{path} cannot be read as a mask"
    try:
        if not path.stat().st_size:
            raise DataError(f"{failed}: the file is empty; save it again")
        with path.open("rb") as file, _opened(file) as picture:
            _refuse_lossy(path, picture)
            if (pixels := picture.width * picture.height) > MAX_PIXELS:
                raise DataError(
                    f"the mask {path} has {picture.width} x {picture.height} = {pixels:,} pixels; "
                    f"at most {MAX_PIXELS:,} are read, so cut picture and mask into tiles"
                )
            return _decoded(path, picture)
    except DataError:
        raise
    except FileNotFoundError:
        raise DataError(f"there is no mask {path}") from None
    except UnidentifiedImageError:
        why = f"it is none of {LOSSLESS}, or of a sort not read here"
        raise DataError(f"{failed}: {why}; save it as PNG") from None
    except Exception as error:  # a damaged file can make a decoder raise anything
        if isinstance(error, OSError) and error.errno:
            raise DataError(f"{failed}: {error.strerror}") from None
        remedy = "it is damaged, save it again or get a whole copy"
        raise DataError(f"{failed}: {error}; {remedy}") from None


def _opened(file: Any) -> ImageFile.ImageFile:
    """The picture in a file, as Pillow opens it, but without Pillow's limit of pixels."""
    Image.init()
    head = file.read(16)
    for name in _FORMATS:
        factory, accept = Image.OPEN.get(name, (None, None))  # AVIF depends on Pillow's build
        if factory and (accept is None or accept(head) is True):
            file.seek(0)
            # what Pillow skips, too
            with suppress(SyntaxError, IndexError, TypeError, KeyError, EOFError, struct.error):
                return factory(file, "")  # type: ignore[return-value]
    raise UnidentifiedImageError


def _refuse_lossy(path: Path, picture: ImageFile.ImageFile) -> None:
    kind = _LOSSY.get(picture.format or "")
    if picture.format == "TIFF":
        kind = _LOSSY.get(str(picture.info.get("compression")))
    if picture.format == "WEBP":  # its first chunk of pixels says
        chunk = re.search(rb"VP8[L ]", path.read_bytes()[12:])
        kind = None if chunk and chunk.group() == b"VP8L" else "lossy WebP"
    if kind:
        raise DataError(
            f"the mask {path} is stored as {kind}, which changes values as it stores them; "
            f"export or draw it again as {LOSSLESS} (converting it mends nothing)"
        )


def _decoded(path: Path, picture: ImageFile.ImageFile) -> Stored:
    """Upright, as its EXIF orientation says, since pictures are; Pillow turns TIFFs itself."""
    turned = picture.format != "TIFF" and "exif" in picture.info
    orientation = picture.getexif().get(274, 1) if turned else 1
    coding = [tile[3] for tile in picture.tile]
    if picture.format == "PNG" and orientation == 1 and coding in (["L"], ["P"]):
        with suppress(RuntimeError, OSError):  # damaged, which Pillow reports
            ids = decode(np.fromfile(path, np.uint8), rgb=False)
            if ids is not None:
                return Stored(ids[..., 0], _palette(picture))
    values, palette = _values(path, picture), _palette(picture)
    if orientation != 1:
        stored = Image.fromarray(values)
        stored.getexif()[274] = orientation
        values = np.array(ImageOps.exif_transpose(stored))
    if picture.format == "GIF" and palette is not None and (palette == palette[:, :1]).all():
        greys = np.zeros(256, np.uint8)  # GIF has no grey but this
        greys[: len(palette)] = palette[:, 0]
        return Stored(greys[values])
    return Stored(values, palette)


def _values(path: Path, picture: ImageFile.ImageFile) -> Values:
    """Ids (H, W) or colours (H, W, 3) as they are stored."""
    mode, coding = picture.mode, picture.tile[0][3] if picture.tile else ""
    coding = coding if isinstance(coding, tuple) else (coding,)
    if mode not in _MODES and not mode.startswith("I;16"):
        expected = "a mask of ids or of the classes' colours in RGB; save it as PNG"
        raise DataError(f"{path} is a picture of {mode} colours; expected {expected}")
    if mode in ("RGB", "RGBA", "LA") and "16" in str(*coding[:1]):
        expected = "8; save it as a grey or palette PNG"
        raise DataError(f"{path} has 16 bits a channel in a colour picture; expected {expected}")
    values = np.asarray(picture)
    if mode in ("RGBA", "LA", "PA") and (clear := int((values[..., -1] != 255).sum())):
        why = "where the label can't be known; save it without transparency"
        raise DataError(f"{path} is transparent in {_pixels(clear)}, {why}")
    if values.ndim == 3:
        values = values[..., 0] if mode in ("LA", "PA") else values[..., :3]
    top = coding[1] if picture.format == "PPM" and len(coding) > 1 else 0
    if top:  # the file's largest value, which Pillow makes 255 or 65,535
        values = np.rint(values * (top / (255 if top < 256 else 65535))).astype(np.int64)
    if mode == "F" and not (np.isfinite(values).all() and (values == np.rint(values)).all()):
        raise DataError(f"{path} holds fractions; expected whole ids, 0 to {IGNORE}")
    if values.dtype not in (np.uint8, np.bool_) and values.size:
        low, high = values.min(), values.max()
        if low < 0 or high > IGNORE:
            found = f"holds ids up to {high:g} (the least is {low:g})"
            raise DataError(f"{path} {found}; expected 0 to {IGNORE}")
    return np.ascontiguousarray(values.astype(np.uint8, copy=False))


def _palette(picture: ImageFile.ImageFile) -> Values | None:
    """(N, 3) the colours of a palette picture; None for another."""
    if picture.mode != "P" or picture.palette is None:
        return None
    kind, data = picture.palette.getdata()
    content = bytes(data if kind == "RGB" else picture.getpalette("RGB") or ())  # this decodes
    return np.frombuffer(content[: len(content) // 3 * 3], np.uint8).reshape(-1, 3)[:256]


def _read_mat(path: Path) -> Values:
    """SBD's masks: `GTcls.Segmentation` of a MATLAB file."""
    try:
        from scipy.io import loadmat
    except ImportError:
        remedy = "pip install scipy, or put PNGs into SegmentationClassAug/"
        raise DataError(f"{path} needs SciPy to be read: {remedy}") from None
    if not path.is_file():
        raise DataError(f"there is no mask {path}")
    try:
        ids = loadmat(path, mat_dtype=True)["GTcls"][0]["Segmentation"][0]
        return np.asarray(ids).astype(np.uint8)
    except Exception as error:  # SciPy raises many kinds for damaged files
        why = f"cannot be read as an SBD mask: {error}"
        raise DataError(f"{path} {why}; download it again") from None
