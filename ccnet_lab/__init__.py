"""Explore criss-cross attention for semantic segmentation; public names load on first use."""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"
_HOMES = {
    "configs": ("CONFIGS", "Config", "get_config"),
    "errors": ("ConfigError", "ImageError", "LabError", "WeightsError"),
    "explore.explorer": ("Explorer", "View"),
    "model.attention": ("CrissCrossAttention", "criss_cross_attention"),
    "model.ccnet": ("CCNet", "Segmentation", "build_model"),
    "model.weights": ("load_weights", "save_weights"),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}
__all__ = list(_HOME_OF)


def __getattr__(name: str) -> Any:
    """Import a public name on first use, so that training need not wait for matplotlib."""
    if name not in _HOME_OF:
        raise AttributeError(f"module 'ccnet_lab' has no attribute {name!r}")
    globals()[name] = found = getattr(import_module(f"ccnet_lab.{_HOME_OF[name]}"), name)
    return found


def __dir__() -> list[str]:
    """The public names, for completion."""
    return sorted({*globals(), *__all__})
