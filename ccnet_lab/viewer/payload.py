"""A view as bytes for viewer.js: a header in JSON, then arrays; the page computes all maps itself.

b"CCNV", the header's length (uint32, little endian), the header, the arrays; each array begins at
a multiple of 8 bytes after the header, which is padded with blanks to such a length, too.
"""

import gzip
import io
import json
import struct
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ccnet_lab.draw.pictures import SCALE, label_ids, png, resized, shown_size
from ccnet_lab.explore.explorer import View
from ccnet_lab.explore.maps import Step, dense_weights
from ccnet_lab.explore.measures import beacon_cells, first_pixel
from ccnet_lab.explore.subject import cell_classes

MAGIC = b"CCNV"
RECURRENCES = (1, 2, 3)
STAGE = 640  # longer side of the picture as the page lays it out
NARROWEST = 20  # a picture's longer side, in shorter ones, up to which it has its true shape
PICTURE = 1280  # longer side of the picture that is sent, at most
LARGEST = 2_400_000  # attention weights of a step that are sent; beyond, its queries and keys
SCALED = 2.0**15  # times every attention weight: small ones keep their digits in float16
BEGIN = {  # of the settings
    **{"labels": 0.45, "photo": 0.25, "clip": 0.35, "pinned": False},
    **{"kind": "attention", "scale": "clipped"},
}
CHOICES = {"kind": ("attention", "listeners"), "scale": ("raw", "clipped", "log")}
PRECISIONS = {"float16": np.float16, "float32": np.float32}


class Body(NamedTuple):
    """What the payload of a view holds whatever it begins with: kept, it needn't be made again."""

    header: dict[str, Any]
    data: bytes  # the arrays, as the header lists them


def encode(
    view: View,
    recurrences: Iterable[int] = RECURRENCES,
    precision: str = "float16",
    *,
    pixel: tuple[int, int] | None = None,
    settings: Mapping[str, Any] | None = None,
    title: str = "",
    compress: bool = False,
    tables: bool = True,
) -> bytes:
    """A view as bytes for viewer.js.

    Args:
        view: an image as a model sees it.
        recurrences: the R of the maps, each 1 or more.
        precision: of attention and logits, "float16" or "float32"; the header's `error` says how
            far an attention weight is from the view's own at most.
        pixel: (x, y) that is shown first; None for a telling one.
        settings: what the viewer begins with: `recurrence`, `clip`, `labels`, `photo`, `kind`
            ("attention" or "listeners"), `scale` ("raw", "clipped" or "log"), `pinned`.
        title: a line above the pictures.
        compress: gzip the whole, for a file.
        tables: whether attention is sent as tables of weights; without, its queries and keys are, a
            third of the bytes, and the page's host makes the tables.

    Raises:
        ValueError: a recurrence below 1, an unknown precision, or an impossible setting.
        ImageError: a pixel outside the image.
    """
    made = body(view, recurrences, precision, tables)
    data = with_header(view, made, pixel=pixel, settings=settings, title=title)
    return gzip.compress(data, 6, mtime=0) if compress else data


def body(
    view: View,
    recurrences: Iterable[int] = RECURRENCES,
    precision: str = "float16",
    tables: bool = True,
) -> Body:
    """The arrays of a view and what the header says of them; arguments and errors as `encode`."""
    recurrences = list(dict.fromkeys(recurrences))
    if len(recurrences) == 0 or any(r < 1 or r != int(r) for r in recurrences):
        raise ValueError(f"recurrences are {recurrences}; expected one or more, each 1 or more")
    if precision not in PRECISIONS:
        raise ValueError(f"precision is {precision!r}; expected {' or '.join(PRECISIONS)}")
    recurrences = [int(r) for r in recurrences]
    picture, kind = _picture(view)
    arrays, error = _attention(view, max(recurrences), precision, tables)
    header = {
        **_about(view),
        "recurrences": recurrences,
        "precision": precision,
        "error": error,
        "scaled": SCALED,
        "tabulate": not tables and _small(view),
        "picture_type": kind,
    }
    logits = view.logits()[0].cpu().float().numpy()
    logits = logits - logits.max(axis=0)  # the same softmax; the largest are exact in float16
    arrays |= {
        "logits": logits.astype(PRECISIONS[precision]),
        "labels": label_ids(view.labels, header["frame"]),
        "cell_labels": cell_classes(view),
        "scale": SCALE,
        "picture": np.frombuffer(picture, np.uint8),
    }
    if (beacon := beacon_cells(view)) is not None:
        # It belongs to no class of discs, so it stands for itself: a class of cells alone.
        arrays["marked"] = beacon.astype(np.uint8)
        header["palette"].append([128, 128, 128])
    header["arrays"], data = _packed(arrays)
    return Body(header, data)


def with_header(
    view: View,
    made: Body,
    *,
    pixel: tuple[int, int] | None = None,
    settings: Mapping[str, Any] | None = None,
    title: str = "",
) -> bytes:
    """The payload of a view's body; arguments and errors as `encode`."""
    recurrences = made.header["recurrences"]
    settings = _checked(view, recurrences, settings or {})
    x, y = map(int, pixel if pixel is not None else first_pixel(view))
    view.cell(x, y)  # raises outside the image
    begin = {"x": x, "y": y, "recurrence": view.recurrence, **BEGIN, **settings}
    if begin["recurrence"] not in recurrences:
        begin["recurrence"] = recurrences[-1]
    text = json.dumps({**made.header, "title": title, **begin}).encode()
    text += b" " * (-len(text) % 8)
    return b"".join([MAGIC, struct.pack("<I", len(text)), text, made.data])


def _checked(view: View, recurrences: list[int], settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings; `ValueError` for one that is unknown or impossible."""
    for name, value in settings.items():
        if name in CHOICES:
            fine, expected = value in CHOICES[name], f"one of {', '.join(CHOICES[name])}"
        elif name in ("x", "y"):
            side = view.size[name == "x"]
            fine, expected = 0 <= value < side, f"0 to {side - 1}"
        elif name == "recurrence":
            fine, expected = value in (*recurrences, view.recurrence), f"one of {recurrences}"
        elif name == "pinned":
            fine, expected = isinstance(value, bool), "True or False"
        else:
            fine = name in BEGIN and 0 <= value <= 1
            expected = "0 to 1" if name in BEGIN else f"a setting: {', '.join(BEGIN)}"
        if not fine:
            raise ValueError(f"{name} is {value!r}; expected {expected}")
    return dict(settings)


def _about(view: View) -> dict[str, Any]:
    """What the header says of the model and the picture."""
    explorer = view.explorer
    return {
        "model": explorer.config.name,
        "trained": view.recurrence,
        "alt": "the image",
        "size": view.size,
        "grid": view.grid,
        "frame": shown_size(*view.size, STAGE, NARROWEST),
        "sharp": max(view.size) * 3 <= STAGE,
        "classes": list(explorer.class_names),
        "palette": [list(map(int, colour)) for colour in explorer.palette],
        "marked": "the beacon",
    }


def header_of(data: bytes) -> dict[str, Any]:
    """The header of what `encode` returned."""
    data = gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data
    (length,) = struct.unpack_from("<I", data, len(MAGIC))
    return dict(json.loads(data[len(MAGIC) + 4 :][:length]))


def _small(view: View) -> bool:
    """Whether the page can hold the tables of attention weights."""
    h, w = view.grid
    return h * w * (h + w) <= LARGEST


def _attention(
    view: View, steps: int, precision: str, tables: bool
) -> tuple[dict[str, NDArray[Any]], float]:
    """Each step's attention (h, w, h + w), or query and key (h, w, d); the weights' largest error.

    Of queries and keys that are too large for tables, the page computes single rows.
    """
    dtype, error = PRECISIONS[precision], 0.0
    arrays: dict[str, NDArray[Any]] = {}
    if tables and _small(view):
        for n, step in enumerate(view.steps(steps), 1):
            exact = Step(step.query.double(), step.key.double()) if precision == "float32" else step
            weights = dense_weights(exact).cpu().numpy()
            arrays[f"attention{n}"] = rounded = (weights * SCALED).astype(dtype)
            error = max(error, float(np.abs(rounded.astype(float) / SCALED - weights).max()))
    else:  # scores are sums of many products: float16 would be felt
        for n, step in enumerate(view.steps(steps), 1):
            arrays[f"query{n}"] = step.query.cpu().numpy()
            arrays[f"key{n}"] = step.key.cpu().numpy()
    return arrays, error


def _picture(view: View) -> tuple[bytes, str]:
    """The image as a file, and its type."""
    size = shown_size(*view.size, min(PICTURE, max(view.size)), NARROWEST)
    image = resized(view.image, size)
    if max(size) <= 256:
        return png(image), "image/png"
    file = io.BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=90)
    return file.getvalue(), "image/jpeg"


def _packed(arrays: Mapping[str, NDArray[Any]]) -> tuple[dict[str, Any], bytes]:
    """Where each array lies, by name; and all of them in a row."""
    parts, offset, listed = [], 0, {}
    for name, array in arrays.items():
        data = np.ascontiguousarray(array).tobytes()
        listed[name] = {"dtype": str(array.dtype), "shape": array.shape, "offset": offset}
        parts += [data, bytes(-len(data) % 8)]
        offset += len(data) + -len(data) % 8
    return listed, b"".join(parts)
