"""Labels of pictures as files, in the data set's own ids; who predicts them is handed in, what they score is evaluation.py's."""

import io
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ccnet_lab.data.catalog import Dataset
from ccnet_lab.data.images import PROMISED
from ccnet_lab.errors import ImageError, MissingFileError, RunError
from ccnet_lab.files import write_text, write_whole

ENDINGS = (
    *(
        ".png",
        ".jpg",
        ".jpeg",
        ".jpe",
        ".jfif",
        ".webp",
        ".avif",
        ".tif",
        ".tiff",
        ".bmp",
        ".gif",
        ".mpo",
    ),
    *(".ppm", ".pgm", ".pbm", ".pnm", ".heic", ".heif"),
)
RECORD = "predicted.json"  # beside the labels: what made them


class Wanted(NamedTuple):
    """A picture and where its labels go."""

    picture: Path
    labels: Path


def pictures_of(source: Path, out: Path) -> list[Wanted]:
    """The picture `source`, or all in that folder and its subfolders, which are kept below `out`; `a.jpg` becomes `a.png`.

    Where two would become the same file, both keep their endings: `a.jpg.png`, `a.webp.png`.

    Raises:
        MissingFileError: there is no such file, or no picture in the folder.
        RunError: `out` is that folder.
    """
    if source.is_file():
        return [Wanted(source, out / f"{source.stem}.png")]
    if not source.is_dir():
        raise MissingFileError(f"there is no picture or folder {source}; give one that exists")
    if out.resolve() == source.resolve():
        raise RunError(
            f"--out is the folder of the pictures, {source}; give another, so that labels are not taken for pictures"
        )
    found = [
        path
        for path in sorted(source.rglob("*"))
        if path.suffix.lower() in ENDINGS and path.is_file()
    ]
    found = [
        path
        for path in found
        if not _hidden(path.relative_to(source)) and out.resolve() not in path.resolve().parents
    ]
    if not found:
        raise MissingFileError(
            f"there is no picture in {source}; expected {PROMISED} files, in it or in its subfolders"
        )
    names = [path.relative_to(source).with_suffix(".png") for path in found]
    return [
        Wanted(path, out / (name if names.count(name) == 1 else name.with_name(f"{path.name}.png")))
        for path, name in zip(found, names, strict=True)
    ]


def begin(out: Path, record: Mapping[str, Any]) -> None:
    """Note in `out` what makes the labels; raises `RunError` where others are there, made otherwise, which would be mixed."""
    if out.exists() and not out.is_dir():
        raise RunError(
            f"{out} is a file; expected a folder for the labels, which is made where there is none"
        )
    out.mkdir(parents=True, exist_ok=True)
    path = out / RECORD
    if path.is_file():
        try:
            before = json.loads(path.read_text(encoding="utf-8"))
            differing = [
                name
                for name in {**before, **record}
                if before.get(name) != json.loads(json.dumps(record.get(name)))
            ]
        except (OSError, ValueError, AttributeError) as error:
            raise RunError(f"{path} cannot be read ({error}); give another --out") from None
        if differing:
            raise RunError(
                f"{out} holds labels that were made otherwise ({', '.join(differing)} in {RECORD}); give another --out"
            )
    write_text(path, json.dumps(record, indent=1) + "\n", RunError)


def label_files(
    wanted: Iterable[Wanted],
    predict: Callable[[Path], NDArray[np.uint8]],
    dataset: Dataset,
    colour: bool = False,
) -> Iterator[tuple[Wanted, str]]:
    """Write the labels of each picture that has none yet; gives each with "" or, where it cannot be read, the reason.

    Args:
        wanted: as `pictures_of` gives them.
        predict: a picture's file to its class ids (H, W); raises `ImageError` for one that cannot be read.
        colour: whether to write RGB in the data set's colours instead of ids.
    """
    for one in wanted:
        fault = ""
        if not one.labels.is_file():
            try:
                content = labels_png(predict(one.picture), dataset, colour)
                one.labels.parent.mkdir(parents=True, exist_ok=True)
                write_whole(one.labels, partial(Path.write_bytes, data=content), RunError)
            except (ImageError, MissingFileError) as error:
                fault = str(error)
            except PermissionError as error:
                fault = f"{error.filename or one.picture} cannot be read ({error.strerror}); look at its rights"
        yield one, fault


def labels_png(labels: NDArray[np.uint8], dataset: Dataset, colour: bool = False) -> bytes:
    """A PNG file of class ids (H, W): the ids of the data set's mask files under its palette, or its colours as RGB."""
    palette = np.array(dataset.palette, np.uint8)  # (K, 3)
    if colour:
        picture = Image.fromarray(palette[labels])
    else:
        ids = np.array(dataset.label_ids or range(dataset.num_classes), np.uint8)  # (K,)
        colours = np.zeros((256, 3), np.uint8)
        colours[ids] = palette
        picture = _with_palette(ids[labels], colours)
    file = io.BytesIO()
    picture.save(file, "PNG")
    return file.getvalue()


def _with_palette(ids: NDArray[np.uint8], colours: NDArray[np.uint8]) -> Image.Image:
    picture = Image.frombytes(
        "P", (ids.shape[1], ids.shape[0]), np.ascontiguousarray(ids).tobytes()
    )
    picture.putpalette(colours.tobytes())
    return picture


def _hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)
