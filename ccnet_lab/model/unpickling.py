"""Harmless names that checkpoints hold beside tensors, read as inert stand-ins.

torch's reader refuses every name it does not know. For those below it gets a class of this file:
nothing that a file names is imported, made or run.
"""

import threading
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

_NAMES = {
    "numpy": "dtype ndarray bool_ bool str_ int32 int64 float16 float32 float64",
    "numpy.core.multiarray": "scalar _reconstruct _frombuffer",
    "numpy._core.multiarray": "scalar _reconstruct _frombuffer",
    "numpy.core.numeric": "_frombuffer",
    "numpy._core.numeric": "_frombuffer",
    "numpy.dtypes": "BoolDType StrDType Int32DType Int64DType "
    "Float16DType Float32DType Float64DType",
    "argparse": "Namespace",
    "types": "SimpleNamespace",
    "mmengine.logging.history_buffer": "HistoryBuffer",
    "pathlib": "Path PosixPath WindowsPath PurePath PurePosixPath PureWindowsPath",
    "pathlib._local": "Path PosixPath WindowsPath PurePosixPath PureWindowsPath",
    "datetime": "datetime date time timedelta timezone",
    "builtins": "slice range frozenset complex list dict int float str tuple",
}
_DICTS = (
    "easydict.EasyDict",
    "yacs.config.CfgNode",
    "mmcv.utils.config.ConfigDict",
    "mmengine.config.config.ConfigDict",
    "addict.addict.Dict",
)
_LOCK = threading.Lock()  # torch keeps one list of safe names for all threads


class Aside:
    """Something that was not read; `repr` gives its name in the file."""

    name = ""

    def __new__(cls, *_: Any) -> "Aside":
        """Forget the arguments."""
        return super().__new__(cls)

    def __init__(self, *_: Any) -> None:
        pass

    def __setstate__(self, _: Any) -> None:
        pass

    def __repr__(self) -> str:
        return self.name


def _dict(*_: Any) -> dict[Any, Any]:
    return {}


def _list(*_: Any) -> list[Any]:
    return []


def _stand_in(name: str) -> tuple[Any, str]:
    return type("Aside", (Aside,), {"name": name}), name


_STAND_INS: list[Any] = [
    *(_stand_in(f"{module}.{n}") for module, names in _NAMES.items() for n in names.split()),
    *((OrderedDict, name) for name in _DICTS),
    (_dict, "collections.defaultdict"),
    (_list, "collections.deque"),
]


@contextmanager
def harmless() -> Iterator[None]:
    """Within it, `torch.load(weights_only=True)` reads the harmless names as stand-ins."""
    with _LOCK, torch.serialization.safe_globals(_STAND_INS):
        yield
