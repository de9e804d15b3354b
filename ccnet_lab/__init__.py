"""ccnet_lab: explore criss-cross attention for semantic segmentation. This file only gathers the public names."""

from ccnet_lab.configs import CONFIGS, Config, get_config
from ccnet_lab.errors import ConfigError, ImageError, LabError, WeightsError
from ccnet_lab.explore.explorer import Explorer, View
from ccnet_lab.model.attention import CrissCrossAttention, criss_cross_attention
from ccnet_lab.model.ccnet import CCNet, Segmentation, build_model
from ccnet_lab.model.weights import load_weights, save_weights

__version__ = "0.1.0"

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
