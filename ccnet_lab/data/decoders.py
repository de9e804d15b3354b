"""Torchvision's decoders of JPEG and PNG without the rest of it, which takes a second to import.

Its other decoders must not be used: that of GIF writes beyond its memory for a frame that starts
beside the canvas.
"""

from contextlib import suppress
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

_DECODERS = {b"\xff\xd8\xff": "decode_jpeg", b"\x89PNG\r\n\x1a\n": "decode_png"}  # by first bytes
_UNCHANGED, _RGB = 0, 3  # torchvision.io.ImageReadMode


def decode(data: NDArray[np.uint8], *, rgb: bool) -> NDArray[Any] | None:
    """A file's bytes as (H, W, C), several times faster than Pillow; None of any other format.

    Args:
        data: the whole file.
        rgb: three channels, turned as EXIF says; else as stored.

    Raises:
        RuntimeError: the file is damaged.
    """
    for start, name in _DECODERS.items():
        if data[: len(start)].tobytes() == start:
            decoder = getattr(_operators(), name)
            image = decoder(torch.from_numpy(data), _RGB if rgb else _UNCHANGED, rgb)
            return np.ascontiguousarray(image.permute(1, 2, 0).numpy())
    return None


@cache
def _operators() -> Any:
    package = find_spec("torchvision")
    beside = Path(str(package.origin)).parent.glob("image*") if package else ()
    for file in beside:
        if file.suffix in (".so", ".pyd", ".dylib"):
            with suppress(OSError):
                torch.ops.load_library(str(file))
                return torch.ops.image
    import torchvision.io  # noqa: F401  knows where else it may be

    return torch.ops.image
