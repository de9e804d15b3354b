"""THE reader of masks: a file of ids or colours becomes labels. Which file is whose mask is in datasets.py and own.py."""

import struct
from collections.abc import Callable
from contextlib import suppress
from functools import cache, lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile, UnidentifiedImageError
from torchvision.io import ImageReadMode, decode_png, read_file

from ccnet_lab.data.catalog import IGNORE, Dataset
from ccnet_lab.data.class_files import BORDER
from ccnet_lab.errors import DataError

_FORMATS = (
    "PNG",
    "TIFF",
    "BMP",
    "GIF",
    "PPM",
    "WEBP",
    "JPEG",
    "AVIF",
)  # what is told from each other; the last two are refused
LOSSLESS = "PNG, TIFF, BMP, GIF, PPM or lossless WebP"
MAX_PIXELS = (
    196_000_000  # 14,000 x 14,000; more than of a picture, since a mask takes a byte a pixel
)
_FLAG = (
    IGNORE - 1
)  # the label of an id that must not occur until it is looked at; a class, too, where there are 255
_LOSSY = {
    "JPEG": "JPEG",
    "MPO": "JPEG",
    "AVIF": "AVIF",
    "jpeg": "JPEG in a TIFF",
    "tiff_jpeg": "JPEG in a TIFF",
    "webp": "WebP in a TIFF",
}
_STRIP = 1 << 22  # pixels whose colours are looked up at a time
Values = NDArray[np.uint8]


class Stored(NamedTuple):
    """What a mask's file holds: ids (H, W), or colours (H, W, 3); and the colours (N, 3) of its palette, if it has one."""

    values: Values
    palette: Values | None = None


def read_labels(path: Path, dataset: Dataset) -> Values:
    """(H, W) class ids and `IGNORE` from a mask of ids or of the data set's colours, or from one of SBD's `.mat` files.

    A palette or grey picture holds ids, as a grey one stored in three channels does, unless the data set's file of classes says
    colours and all of the mask's are among them; where those colours are all grey, they count in any grey picture. Other colours
    are looked up in the data set's palette, with VOC's border as ignored.

    Raises:
        DataError: it is not readable, stored with loss, or has ids or colours the data set doesn't have.
    """
    stored = Stored(_read_mat(path)) if path.suffix == ".mat" else read_stored(path)
    if stored.values.ndim == 3:
        return _from_colours(path, stored.values, dataset)
    palette, labels = stored.palette, None
    if dataset.coloured:
        if palette is None and all(r == g == b for r, g, b in dataset.palette):
            palette = np.repeat(
                np.arange(256, dtype=np.uint8)[:, None], 3, axis=1
            )  # then grey values are colours
        labels = None if palette is None else _through_palette(stored.values, palette, dataset)
    return _from_ids(path, stored.values, dataset) if labels is None else labels


def _from_ids(path: Path, ids: Values, dataset: Dataset) -> Values:
    table = label_table(dataset, train_ids=path.stem.endswith("TrainIds"))
    labels: Values = cv2.LUT(ids, np.where(table < 0, _FLAG, table).astype(np.uint8))
    if (labels == _FLAG).any():
        strange = np.flatnonzero((np.bincount(ids.ravel(), minlength=256) > 0) & (table < 0))
        if len(strange):
            found, expected = (
                ", ".join(map(str, some))
                for some in (strange[:10], np.flatnonzero(table >= 0)[:40])
            )
            remedy = "is it a mask of another data set, or saved with smoothing?"
            raise DataError(
                f"{path} holds label ids that {dataset.title} does not have: {found}; expected {expected} ({remedy})"
            )
    return labels


def _from_colours(path: Path, colours: Values, dataset: Dataset) -> Values:
    """Labels of (H, W, 3): by colour or, where every pixel is grey, by id."""
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
    (colour, count), *others = sorted(unknown.items(), key=lambda item: -item[1])
    more = (
        f" (and {len(others):,} more, in {_pixels(sum(count for _, count in others))})"
        if others
        else ""
    )
    remedy = (
        "give it to a class in classes.json, or labelmap.txt"
        if dataset.classes
        else "is it a mask of another data set?"
    )
    remedy = "was it saved with smoothing, or as JPEG?" if len(others) > 20 else remedy
    what = (
        f"the colour {tuple(int(v) for v in colour.to_bytes(3, 'big'))} in {_pixels(count)}{more}"
    )
    raise DataError(
        f"{path} is a colour picture with {what}, which is no class of {dataset.title}; {remedy}"
    )


def _pixels(count: int) -> str:
    return f"{count:,} pixel" + "s" * (count != 1)


def _looked_up(colours: Values, dataset: Dataset) -> tuple[Values, dict[int, int]]:
    """(H, W) the labels of (H, W, 3) colours, and how many pixels there are of each unknown one, 0xRRGGBB."""
    table, unknown = _colour_table(dataset), dict[int, int]()
    labels, known = np.empty(colours.shape[:2], np.uint8), set(_codes(dataset))
    rows = max(1, _STRIP // max(1, colours.shape[1]))
    for top in range(0, len(colours), rows):
        part = colours[top : top + rows].astype(np.int32)
        codes = part[..., 0] << 16 | part[..., 1] << 8 | part[..., 2]
        labels[top : top + rows] = found = table[codes]
        if (found == _FLAG).any():
            for code, count in zip(
                *np.unique(codes[found == _FLAG], return_counts=True), strict=True
            ):
                if int(code) not in known:
                    unknown[int(code)] = unknown.get(int(code), 0) + int(count)
    return labels, unknown


def _through_palette(ids: Values, palette: Values, dataset: Dataset) -> Values | None:
    """Labels by the colours of a palette picture; None where they say what the ids say, or are not the data set's own.

    A program that makes a colour mask smaller numbers its colours anew.
    """
    codes = [int(r) << 16 | int(g) << 8 | int(b) for r, g, b in palette]
    by_colour, table = _codes(dataset), label_table(dataset)
    meant = np.array(
        [by_colour.get(code, -1) for code in codes] + [-1] * (256 - len(codes)), np.int16
    )
    if not ((meant >= 0) & (meant != table)).any():
        return None
    if (meant[np.flatnonzero(np.bincount(ids.ravel(), minlength=256))] < 0).any():
        return None
    return np.asarray(cv2.LUT(ids, meant.clip(0).astype(np.uint8)))


def _codes(dataset: Dataset) -> dict[int, int]:
    """Colour, 0xRRGGBB, -> label. A colour of two classes is nobody's."""
    codes: dict[int, int] = {}
    for label, (r, g, b) in enumerate(dataset.palette):
        code = r << 16 | g << 8 | b
        codes[code] = -1 if code in codes else label
    codes.setdefault(BORDER[0] << 16 | BORDER[1] << 8 | BORDER[2], IGNORE)
    return {code: label for code, label in codes.items() if label >= 0}


@lru_cache(4)
def _colour_table(dataset: Dataset) -> Values:
    """(2^24,) the label of every colour."""
    table = np.full(1 << 24, _FLAG, np.uint8)
    for code, label in _codes(dataset).items():
        table[code] = label
    return table


@cache
def label_table(dataset: Dataset, train_ids: bool = False) -> NDArray[np.int16]:
    """(256,) the label of every id in a mask file: a class, `IGNORE`, or -1 for an id that must not occur.

    With `train_ids` the file holds classes already (Cityscapes' `_labelTrainIds.png`).
    """
    table = np.full(256, -1, np.int16)
    table[[IGNORE, *(() if train_ids else dataset.ignored_ids)]] = IGNORE
    ids = range(dataset.num_classes) if train_ids or not dataset.label_ids else dataset.label_ids
    table[list(ids)] = np.arange(dataset.num_classes)
    return table


def read_stored(path: Path) -> Stored:
    """What stands in a mask's file; `DataError` where it is damaged, stored with loss, or holds neither ids nor colours."""
    try:
        if not path.stat().st_size:
            raise DataError(f"{path} cannot be read as a mask: the file is empty; save it again")
        with path.open("rb") as file, _opened(file) as picture:
            _refuse_lossy(path, picture)
            if picture.width * picture.height > MAX_PIXELS:
                size = f"{picture.width} x {picture.height} = {picture.width * picture.height:,} pixels"
                raise DataError(
                    f"the mask {path} has {size}; at most {MAX_PIXELS:,} are read, so cut picture and mask into tiles"
                )
            turn = _turn(picture)
            if (
                picture.format == "PNG"
                and turn is None
                and [tile[3] for tile in picture.tile] in (["L"], ["P"])
            ):  # torchvision decodes those faster
                with suppress(RuntimeError):  # damaged; Pillow has the words
                    return Stored(
                        np.asarray(decode_png(read_file(str(path)), ImageReadMode.UNCHANGED)[0]),
                        _palette(picture),
                    )
            values, palette = _values(path, picture), _palette(picture)
            values = values if turn is None else np.ascontiguousarray(turn(values))
            if (
                picture.format == "GIF"
                and palette is not None
                and (palette == palette[:, :1]).all()
            ):
                return Stored(
                    np.append(palette[:, 0], np.zeros(256 - len(palette), np.uint8))[values]
                )  # GIF has no grey but this
            return Stored(values, palette)
    except DataError:
        raise
    except FileNotFoundError:
        raise DataError(f"there is no mask {path}") from None
    except UnidentifiedImageError:
        raise DataError(
            f"{path} cannot be read as a mask: it is none of {LOSSLESS}, or of a sort not read here; save it as PNG"
        ) from None
    except Image.DecompressionBombError:
        raise DataError(
            f"{path} cannot be read as a mask: it has a part of more pixels than are decoded; save it as PNG"
        ) from None
    except Exception as error:  # a damaged file can make a decoder raise anything
        if isinstance(error, OSError) and error.errno:
            raise DataError(f"{path} cannot be read as a mask: {error.strerror}") from None
        raise DataError(
            f"{path} cannot be read as a mask: {error}; it is damaged, save it again or get a whole copy"
        ) from None


def _turn(picture: ImageFile.ImageFile) -> Callable[[Values], Values] | None:
    """How a mask is turned as its EXIF orientation says, as its picture is; None for not at all. Pillow turns TIFFs itself."""
    if picture.format == "TIFF" or "exif" not in picture.info:
        return None
    upright: dict[int, Callable[[Values], Values]] = {
        2: np.fliplr, 3: lambda v: v[::-1, ::-1], 4: np.flipud, 5: lambda v: v.swapaxes(0, 1), 6: lambda v: v.swapaxes(0, 1)[:, ::-1],
        7: lambda v: v[::-1, ::-1].swapaxes(0, 1), 8: lambda v: v.swapaxes(0, 1)[::-1],
    }  # fmt: skip
    return upright.get(picture.getexif().get(274, 1))


def _opened(file: Any) -> ImageFile.ImageFile:
    """The picture in a file, not decoded yet: as Pillow opens it, but without its limit of pixels; `MAX_PIXELS` is ours."""
    Image.init()
    head = file.read(16)
    for factory, accept in (
        Image.OPEN[name] for name in _FORMATS if name in Image.OPEN
    ):  # AVIF depends on how Pillow was built
        if accept is None or accept(head) is True:
            file.seek(0)
            with suppress(
                SyntaxError, IndexError, TypeError, KeyError, EOFError, struct.error
            ):  # what Pillow passes over, too
                return factory(file, "")  # type: ignore[return-value]
    raise UnidentifiedImageError


def _refuse_lossy(path: Path, picture: ImageFile.ImageFile) -> None:
    kind = _LOSSY.get(picture.format or "") or _LOSSY.get(
        str(picture.info.get("compression")) if picture.format == "TIFF" else ""
    )
    if picture.format == "WEBP" and not _is_lossless_webp(path):
        kind = "lossy WebP"
    if kind:
        why = "which changes values as it stores them, so that ids come back as others"
        raise DataError(
            f"the mask {path} is stored as {kind}, {why}; export or draw it again as {LOSSLESS} (converting it mends nothing)"
        )


def _is_lossless_webp(path: Path) -> bool:
    """Whether a WebP file has a VP8L chunk, of lossless pixels."""
    data, at = path.read_bytes(), 12
    while at + 8 <= len(data):
        kind = data[at : at + 4]
        if kind in (b"VP8L", b"VP8 "):
            return kind == b"VP8L"
        at += (
            24
            if kind == b"ANMF"
            else 8 + (int.from_bytes(data[at + 4 : at + 8], "little") + 1 & ~1)
        )  # a frame has chunks of its own
    return False


def _values(path: Path, picture: ImageFile.ImageFile) -> Values:
    """Ids (H, W) or colours (H, W, 3) as they are stored."""
    coded = picture.tile[0][3] if picture.tile else ""
    raw = (
        coded
        if isinstance(coded, str)
        else str(coded[0])
        if isinstance(coded, tuple) and coded
        else ""
    )
    scaled = (
        coded[1] if picture.format == "PPM" and isinstance(coded, tuple) else 0
    )  # the largest value, which Pillow makes 255 or 65535
    mode = picture.mode
    if mode not in (
        "P",
        "L",
        "1",
        "I",
        "F",
        "RGB",
        "RGBA",
        "RGBX",
        "LA",
        "PA",
    ) and not mode.startswith("I;16"):
        raise DataError(
            f"{path} is a picture of {mode} colours; expected a mask of ids or of the classes' colours in RGB; save it as PNG"
        )
    if "16" in raw and mode in ("RGB", "RGBA", "LA"):
        raise DataError(
            f"{path} has 16 bits a channel in a colour picture; expected 8; save it as a grey or palette PNG"
        )
    values = np.asarray(picture)
    if mode in ("RGBA", "LA", "PA"):
        if clear := int((values[..., -1] != 255).sum()):
            raise DataError(
                f"{path} is transparent in {_pixels(clear)}, where the label can't be known; save it without transparency"
            )
        values = values[..., :-1]
        values = values[..., 0] if mode != "RGBA" else values
    if mode == "RGBX":
        values = values[..., :3]
    if scaled:
        values = np.rint(values * (scaled / (255 if scaled < 256 else 65535))).astype(np.int64)
    if mode == "F" and not (np.isfinite(values).all() and (values == np.rint(values)).all()):
        raise DataError(f"{path} holds fractions; expected whole ids, 0 to {IGNORE}")
    if (
        values.dtype not in (np.uint8, np.bool_)
        and values.size
        and not 0 <= values.min() <= values.max() <= IGNORE
    ):
        raise DataError(
            f"{path} holds ids up to {values.max():g} (the least is {values.min():g}); expected 0 to {IGNORE}"
        )
    return np.ascontiguousarray(values.astype(np.uint8, copy=False))


def _palette(picture: ImageFile.ImageFile) -> Values | None:
    """(N, 3) the colours of a palette picture; None for another."""
    if picture.mode != "P" or picture.palette is None:
        return None
    kind, data = picture.palette.getdata()
    colours = (
        bytes(data) if kind == "RGB" else bytes(picture.getpalette("RGB") or ())
    )  # the latter decodes
    return np.frombuffer(colours[: len(colours) // 3 * 3], np.uint8).reshape(-1, 3)[:256]


def _read_mat(path: Path) -> Values:
    """SBD's masks: `GTcls.Segmentation` of a MATLAB file."""
    try:
        from scipy.io import loadmat
    except ImportError:
        raise DataError(
            f"{path} needs SciPy to be read: pip install scipy, or put PNGs into SegmentationClassAug/"
        ) from None
    if not path.is_file():
        raise DataError(f"there is no mask {path}")
    try:
        return np.asarray(loadmat(path, mat_dtype=True)["GTcls"][0]["Segmentation"][0]).astype(
            np.uint8
        )
    except Exception as error:  # SciPy raises many kinds for damaged files
        raise DataError(
            f"{path} cannot be read as an SBD mask: {error}; download it again"
        ) from None
