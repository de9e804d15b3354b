"""Predicted labels of pictures as PNG files, in the data set's own ids.

What predicts them is passed in; how they score is in evaluate.py.
"""

import io
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import nn

from ccnet_lab.configs import Config
from ccnet_lab.data import pairs
from ccnet_lab.data.catalog import Dataset
from ccnet_lab.data.images import PROMISED, read_image
from ccnet_lab.data.transforms import fit
from ccnet_lab.device import arithmetic, has_bf16
from ccnet_lab.errors import DeviceError, ImageError, MissingFileError, RunError
from ccnet_lab.evaluation.predict import Item, predict
from ccnet_lab.evaluation.protocol import Protocol
from ccnet_lab.files import write_text, write_whole
from ccnet_lab.model.ccnet import CCNet
from ccnet_lab.model.folding import ready

ENDINGS = (*pairs.ENDINGS, ".jpe", ".jfif")
RECORD = "predicted.json"  # beside the labels: what made them


class Wanted(NamedTuple):
    """A picture and where its labels go."""

    picture: Path
    labels: Path


def pictures_of(source: Path, out: Path) -> list[Wanted]:
    """The picture `source`, or all in that folder; subfolders are kept, `a.jpg` becomes `a.png`.

    Where two would become the same file, both keep their endings: `a.jpg.png`, `a.webp.png`.
    Raises `MissingFileError` where there is no picture, `RunError` where `out` is that folder.
    """
    if source.is_file():
        return [Wanted(source, out / f"{source.stem}.png")]
    if not source.is_dir():
        raise MissingFileError(f"there is no picture or folder {source}; give one that exists")
    if out.resolve() == source.resolve():
        why = "so that labels are not taken for pictures"
        raise RunError(f"--out is the folder of the pictures, {source}; give another, {why}")

    def is_picture(path: Path) -> bool:
        hidden = any(part.startswith(".") for part in path.relative_to(source).parts)
        inside_out = out.resolve() in path.resolve().parents
        return path.suffix.lower() in ENDINGS and path.is_file() and not hidden and not inside_out

    found = [path for path in sorted(source.rglob("*")) if is_picture(path)]
    if not found:
        expected = f"expected {PROMISED} files, in it or its subfolders"
        raise MissingFileError(f"there is no picture in {source}; {expected}")
    names = [path.relative_to(source).with_suffix(".png") for path in found]
    return [
        Wanted(path, out / (name if names.count(name) == 1 else name.with_name(f"{path.name}.png")))
        for path, name in zip(found, names, strict=True)
    ]


def begin(out: Path, record: Mapping[str, Any]) -> None:
    """Note in `out` what makes the labels; `RunError` where labels made otherwise are there."""
    if out.exists() and not out.is_dir():
        raise RunError(f"{out} is a file; expected a folder for the labels, or none yet")
    out.mkdir(parents=True, exist_ok=True)
    path, text = out / RECORD, json.dumps(record, indent=1) + "\n"
    if path.is_file():
        try:
            before, now = json.loads(path.read_text(encoding="utf-8")), json.loads(text)
            differing = [name for name in {**before, **now} if before.get(name) != now.get(name)]
        except (OSError, ValueError, AttributeError, TypeError, RecursionError) as error:
            raise RunError(f"{path} cannot be read ({error}); give another --out") from None
        if differing:
            how = f"made otherwise ({', '.join(differing)} in {RECORD})"
            raise RunError(f"{out} holds labels that were {how}; give another --out")
    write_text(path, text, RunError)


def labeller(
    model: nn.Module, config: Config, device: torch.device, precision: str
) -> Callable[[Path], NDArray[np.uint8]]:
    """A function from a picture to its class ids (H, W); the model is in eval mode on `device`."""
    how: dict[str, Any] = {
        "resize": config.resize,
        "recurrence": config.recurrence,
        "precision": precision,
    }
    protocol = Protocol(dataset=config.dataset, split="", images=1, **how)
    network = model
    if precision.startswith("fast"):
        network = ready(cast(CCNet, model), device, has_bf16(device))

    def labels(path: Path) -> NDArray[np.uint8]:
        try:
            image = read_image(path)
            size = torch.empty(image.shape[:2], dtype=torch.uint8)
            item = Item(path.name, size, torch.from_numpy(fit(image, *config.resize)))
            with arithmetic(device, precision):
                return predict(network, item, protocol, device)
        except (DeviceError, MemoryError):
            raise DeviceError(
                f"{device} ran out of memory on {path}; "
                "use --precision bf16 or --device cpu, or make it smaller"
            ) from None

    return labels


def label_files(
    wanted: Iterable[Wanted],
    predict: Callable[[Path], NDArray[np.uint8]],
    dataset: Dataset,
    colour: bool = False,
) -> Iterator[str]:
    """Write the labels of each picture that has none yet; yields "" or an error for each.

    Args:
        wanted: from `pictures_of`. predict: from `labeller`.
        dataset: whose ids and colours are written.
        colour: whether to write RGB in the data set's colours instead of ids.
    """
    for one in wanted:
        fault = ""
        if not one.labels.is_file():
            try:
                _write(one.labels, labels_png(predict(one.picture), dataset, colour))
            except (ImageError, MissingFileError) as error:
                fault = str(error)
            except PermissionError as error:
                path = error.filename or one.picture
                fault = f"{path} cannot be read ({error.strerror}); look at its rights"
        yield fault


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, lambda temporary: temporary.write_bytes(content), RunError)


def labels_png(labels: NDArray[np.uint8], dataset: Dataset, colour: bool = False) -> bytes:
    """A PNG of class ids (H, W): ids of the data set's masks with its palette, or RGB colours."""
    palette = np.array(dataset.palette, np.uint8)  # (K, 3)
    if colour:
        picture = Image.fromarray(palette[labels])
    else:
        ids = np.array(dataset.label_ids or range(dataset.num_classes), np.uint8)  # (K,)
        colours = np.zeros((256, 3), np.uint8)
        colours[ids] = palette
        picture = Image.fromarray(ids[labels])
        picture.putpalette(colours.tobytes())
    file = io.BytesIO()
    picture.save(file, "PNG")
    return file.getvalue()
