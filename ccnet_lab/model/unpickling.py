"""What checkpoints hold beside tensors and does no harm, read as inert stand-ins: nothing a file names is imported, made or run.

torch's reader refuses every name it doesn't know. For the names below it is given a class of ours instead of what they mean elsewhere.
"""

import threading
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

_NUMPY = ("scalar", "_reconstruct", "_frombuffer")
NAMES = (
    *(f"numpy.{core}.multiarray.{name}" for core in ("core", "_core") for name in _NUMPY),
    *(f"numpy.{core}.numeric._frombuffer" for core in ("core", "_core")),
    *(
        f"numpy.{name}"
        for name in (
            "dtype",
            "ndarray",
            "bool_",
            "bool",
            "str_",
            "int32",
            "int64",
            "float16",
            "float32",
            "float64",
        )
    ),
    *(
        f"numpy.dtypes.{name}DType"
        for name in ("Bool", "Int32", "Int64", "Float16", "Float32", "Float64", "Str")
    ),
    *(
        "argparse.Namespace",
        "types.SimpleNamespace",
        "mmengine.logging.history_buffer.HistoryBuffer",
    ),
    *(
        f"pathlib.{name}"
        for name in (
            "Path",
            "PosixPath",
            "WindowsPath",
            "PurePath",
            "PurePosixPath",
            "PureWindowsPath",
        )
    ),
    *(
        f"pathlib._local.{name}"
        for name in ("Path", "PosixPath", "WindowsPath", "PurePosixPath", "PureWindowsPath")
    ),
    *(f"datetime.{name}" for name in ("datetime", "date", "time", "timedelta", "timezone")),
    *(
        f"builtins.{name}"
        for name in (
            "slice",
            "range",
            "frozenset",
            "complex",
            "list",
            "dict",
            "int",
            "float",
            "str",
            "tuple",
        )
    ),
)
DICTS = (
    *("collections.defaultdict", "easydict.EasyDict", "yacs.config.CfgNode"),
    *("mmcv.utils.config.ConfigDict", "mmengine.config.config.ConfigDict", "addict.addict.Dict"),
)
LISTS = ("collections.deque",)
_LOCK = threading.Lock()


class Aside:
    """Something that was not read; what it is called in the file."""

    what = ""

    def __new__(cls, *_: Any) -> "Aside":
        """Whatever it is made from is forgotten."""
        return super().__new__(cls)

    def __init__(self, *_: Any) -> None:
        pass

    def __setstate__(self, _: Any) -> None:
        pass

    def __repr__(self) -> str:
        return self.what


def _dict(*_: Any) -> dict[Any, Any]:
    return {}


def _list(*_: Any) -> list[Any]:
    return []


_STAND_INS: list[Any] = [
    *((type("Aside", (Aside,), {"what": name}), name) for name in NAMES),
    *((OrderedDict if name != "collections.defaultdict" else _dict, name) for name in DICTS),
    *((_list, name) for name in LISTS),
]


@contextmanager
def harmless() -> Iterator[None]:
    """Within it, `torch.load(weights_only=True)` reads the `NAMES` as stand-ins."""
    with _LOCK, torch.serialization.safe_globals(_STAND_INS):
        yield
