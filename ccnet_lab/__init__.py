"""ccnet_lab: explore criss-cross attention for semantic segmentation. This file only gathers the public names, loaded when first used."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ccnet_lab.configs import CONFIGS, Config, get_config
    from ccnet_lab.errors import ConfigError, ImageError, LabError, WeightsError
    from ccnet_lab.explore.explorer import Explorer, View
    from ccnet_lab.model.attention import CrissCrossAttention, criss_cross_attention
    from ccnet_lab.model.ccnet import CCNet, Segmentation, build_model
    from ccnet_lab.model.weights import load_weights, save_weights

__version__ = "0.1.0"

_HOMES = {
    "configs": ("CONFIGS", "Config", "get_config"),
    "errors": ("ConfigError", "ImageError", "LabError", "WeightsError"),
    "explore.explorer": ("Explorer", "View"),
    "model.attention": ("CrissCrossAttention", "criss_cross_attention"),
    "model.ccnet": ("CCNet", "Segmentation", "build_model"),
    "model.weights": ("load_weights", "save_weights"),
}
__all__ = [
    "CONFIGS",
    "CCNet",
    "Config",
    "ConfigError",
    "CrissCrossAttention",
    "Explorer",
    "ImageError",
    "LabError",
    "Segmentation",
    "View",
    "WeightsError",
    "build_model",
    "criss_cross_attention",
    "get_config",
    "load_weights",
    "save_weights",
]


def __getattr__(name: str) -> Any:
    """Load a public name from where it is defined; a script that trains need not wait for what draws figures."""
    for home, names in _HOMES.items():
        if name in names:
            globals()[name] = found = getattr(import_module(f"ccnet_lab.{home}"), name)
            return found
    raise AttributeError(f"module 'ccnet_lab' has no attribute {name!r}")


def __dir__() -> list[str]:
    """The public names, for completion."""
    return sorted({*globals(), *__all__})
