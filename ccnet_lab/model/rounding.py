"""Weights rounded for a small file: eight bits for convolutions whose batch norm takes the scale.

The result is a state dict as any other; weights.py writes and reads it.
"""

import torch
from torch import Tensor, nn

from ccnet_lab.model.ccnet import CCNet

EIGHT = torch.float8_e4m3fn  # 4 bits of exponent, 3 of mantissa
LARGE = 10_000  # weights of a convolution; smaller ones stay in float16


def rounded(model: CCNet) -> dict[str, Tensor]:
    """The state dict with the stages' and the head's large convolutions in float8, else float16.

    Each output channel is multiplied by a power of two that uses float8's range, and the batch
    norm behind it, which stays in float32, is changed so that the result is the same.
    """
    entries = {name: value.clone() for name, value in model.state_dict().items()}
    pairs = _pairs(model)
    normed = {conv: norm for conv, norm in pairs if entries[f"{conv}.weight"].numel() >= LARGE}
    for conv, norm in normed.items():
        weight = entries[f"{conv}.weight"]
        largest = weight.abs().amax((1, 2, 3)).clamp(min=1e-12)
        scale = torch.exp2(torch.floor(torch.log2(torch.finfo(EIGHT).max / largest)))
        entries[f"{conv}.weight"] = (weight * scale[:, None, None, None]).to(EIGHT)
        eps = model.get_submodule(norm).eps
        variance = entries[f"{norm}.running_var"]
        entries[f"{norm}.running_mean"] *= scale
        entries[f"{norm}.running_var"] = variance * scale**2
        entries[f"{norm}.weight"] *= ((variance * scale**2 + eps) / (variance + eps)).sqrt() / scale
    norms = set(normed.values())
    for name, value in entries.items():
        if value.dtype == torch.float32 and name.rpartition(".")[0] not in norms:
            entries[name] = value.half()
    return entries


def _pairs(model: nn.Module, prefix: str = "") -> list[tuple[str, str]]:
    """The names of the convolutions directly before a batch norm, and of that."""
    found, before = [], ""
    for name, child in model.named_children():
        if isinstance(child, nn.BatchNorm2d) and isinstance(
            getattr(model, before, None), nn.Conv2d
        ):
            found.append((prefix + before, prefix + name))
        before = name
        found += _pairs(child, f"{prefix}{name}.")
    return found
