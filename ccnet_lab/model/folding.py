"""A network prepared for inference: batch norms folded, wide convolutions from winograd.py."""

import copy
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from ccnet_lab.device import too_narrow_for_bf16
from ccnet_lab.model.backbone import Features
from ccnet_lab.model.ccnet import CCNet
from ccnet_lab.model.winograd import use_winograd


class Folded(CCNet):
    """A copy in eval mode without gradients, batch norms folded into convolutions, channels-last.

    One convolution of stage 4 gives the features x_0 and what stage 4 adds to the classifier's
    first convolution, the context: it is the same for any R. The auxiliary classifier and the
    embedding, which only training needs, are left out. Logits differ by rounding. The state dict
    has other names and is not for saving.
    """

    def __init__(self, model: CCNet) -> None:
        nn.Module.__init__(self)
        self.recurrence = model.recurrence
        for name, child in copy.deepcopy(model).named_children():
            self.add_module(name, child)
        self.aux_classifier = self.embedding = None
        self.eval().requires_grad_(False)
        if isinstance(model, Folded):
            return
        _fold(self)
        reduce: Any = self.reduce[0]
        first: Any = self.classifier[0]
        of_stage4, of_features = first.weight.split([reduce.in_channels, reduce.out_channels], 1)
        both = torch.cat([reduce.weight, of_stage4]), torch.cat([reduce.bias, first.bias])
        self.from_stage4 = _convolution(reduce, *both)
        self.classifier[0] = _convolution(reduce, of_features, None)
        del self.reduce
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def begin(self, stage4: Tensor) -> tuple[Tensor, Tensor]:
        """As `CCNet.begin`; the context is (B, C, h, w)."""
        first, context = self.from_stage4(stage4).chunk(2, dim=1)
        if not torch.is_autocast_enabled(stage4.device.type):
            first, context = first.float(), context.float()  # of bfloat16
        return F.relu(first), context

    def decode(self, context: Tensor, x: Tensor) -> Tensor:
        """As `CCNet.decode`."""
        logits: Tensor = self.classifier[1:](self.classifier[0](self.refine(x)) + context)
        return logits


def ready(model: CCNet, device: torch.device, bf16: bool = False) -> Folded:
    """`Folded` on the device in float32, on a CPU with Winograd's products.

    With `bf16`, what comes before the attention is computed in bfloat16, and without Winograd's.
    Raises as the device does that has no memory for it.
    """
    network = Folded(model).to(device, torch.float32)
    if bf16:
        network.backbone = InBfloat16(network.backbone)
        network.from_stage4.to(torch.bfloat16)
    elif device.type == "cpu":
        use_winograd(network)
    return network


class InBfloat16(nn.Module):
    """A backbone in bfloat16: weights, features and, unless a picture is narrow, products."""

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone.to(torch.bfloat16)

    def forward(self, images: Tensor) -> Features:
        """(B, 3, H, W) of any dtype -> features in bfloat16."""
        if not too_narrow_for_bf16(images):
            features: Features = self.backbone(images.to(torch.bfloat16))
            return features
        with torch.autocast(images.device.type, enabled=False):
            exact = {name: value.float() for name, value in self.backbone.state_dict().items()}
            features = torch.func.functional_call(self.backbone, exact, images.float())
        return Features(*(each.to(torch.bfloat16) for each in features))


def _convolution(like: nn.Conv2d, weight: Tensor, bias: Tensor | None) -> nn.Conv2d:
    """A convolution as `like`, of other weights."""
    outputs, inputs = weight.shape[:2]
    found = nn.Conv2d(inputs, outputs, like.kernel_size, padding=like.padding, device="meta")  # type: ignore[arg-type]
    found.weight = nn.Parameter(weight, requires_grad=False)
    found.bias = None if bias is None else nn.Parameter(bias, requires_grad=False)
    return found


def _fold(module: nn.Module) -> None:
    before, last = "", None
    for name, child in list(module.named_children()):
        if isinstance(child, nn.BatchNorm2d) and isinstance(last, nn.Conv2d):
            setattr(module, before, fuse_conv_bn_eval(last, child))
            setattr(module, name, nn.Identity())
        before, last = name, child
        _fold(child)
