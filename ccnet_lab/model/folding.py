"""A network made ready for inference alone; quicker 3x3 convolutions are in winograd.py, what it gains in timing.py."""

import copy

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from ccnet_lab.device import has_bf16
from ccnet_lab.model.ccnet import CCNet
from ccnet_lab.model.winograd import use_winograd


def ready(model: CCNet, device: torch.device) -> CCNet:
    """`folded` on the device; on a CPU without units for bfloat16 its wide 3x3 convolutions are Winograd's, at four times their memory."""
    network = folded(model).to(device)
    if device.type == "cpu" and not has_bf16(device):
        use_winograd(network)
    return network


def folded(model: CCNet) -> CCNet:
    """A copy for inference: eval mode, no gradients, batch norms folded into the convolutions before them, channels-last in memory.

    The auxiliary classifier and the embedding, which only training needs, are left out. Logits differ by rounding. The copy's state dict
    has other names than the model's and is not for saving.
    """
    network = copy.deepcopy(model).eval().requires_grad_(False)
    network.aux_classifier = network.embedding = None
    _fold(network)
    return network.to(memory_format=torch.channels_last)  # type: ignore[no-any-return, call-overload]


def _fold(module: nn.Module) -> None:
    before: tuple[str, nn.Module] | None = None
    for name, child in list(module.named_children()):
        if (
            isinstance(child, nn.BatchNorm2d)
            and before is not None
            and isinstance(before[1], nn.Conv2d)
        ):
            setattr(module, before[0], fuse_conv_bn_eval(before[1], child))
            setattr(module, name, nn.Identity())
        before = (name, child)
        _fold(child)
