"""A network prepared for inference: batch norms folded, wide convolutions from winograd.py."""

import copy

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from ccnet_lab.model.ccnet import CCNet
from ccnet_lab.model.winograd import use_winograd


def ready(model: CCNet, device: torch.device, bf16: bool = False) -> CCNet:
    """`folded` on the device; on a CPU, unless it is to run in bfloat16, with Winograd's products.

    Raises as the device does that has no memory for it.
    """
    network = folded(model).to(device)
    if device.type == "cpu" and not bf16:
        use_winograd(network)
    return network


def folded(model: CCNet) -> CCNet:
    """A copy in eval mode without gradients, batch norms folded into convolutions, channels-last.

    The auxiliary classifier and the embedding, which only training needs, are left out. Logits
    differ by rounding. The copy's state dict has other names and is not for saving.
    """
    network = copy.deepcopy(model).eval().requires_grad_(False)
    network.aux_classifier = network.embedding = None
    _fold(network)
    return network.to(memory_format=torch.channels_last)  # type: ignore[no-any-return, call-overload]


def _fold(module: nn.Module) -> None:
    before, last = "", None
    for name, child in list(module.named_children()):
        if isinstance(child, nn.BatchNorm2d) and isinstance(last, nn.Conv2d):
            setattr(module, before, fuse_conv_bn_eval(last, child))
            setattr(module, name, nn.Identity())
        before, last = name, child
        _fold(child)
