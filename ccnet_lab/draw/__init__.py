"""Arrays in, pictures and figures out; nothing here knows of torch.

`draw.charts` and `draw.figures` are imported when they are first used: matplotlib takes a third of
a second, which a page needs no sooner than its first figure.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ccnet_lab.draw import charts, figures

__all__ = ["charts", "figures"]


def __getattr__(name: str) -> Any:
    """One of the modules in `__all__`."""
    if name in __all__:
        return import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
