"""The small backbones, and what all are built of; ResNets are in resnet.py, the rest in ccnet.py.

A backbone gives the features of its last two stages.
"""

from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor, nn

from ccnet_lab.model.upsample import upsample

BLOCKS = {50: [3, 4, 6, 3], 101: [3, 4, 23, 3]}


class Features(NamedTuple):
    """stage3 (B, C3, h, w) feeds the auxiliary classifier, stage4 (B, C4, h, w) the head."""

    stage3: Tensor
    stage4: Tensor


def conv_norm_relu(inputs: int, outputs: int, kernel: int = 3, stride: int = 1) -> nn.Sequential:
    """Convolution without bias, batch norm, ReLU; the output's size is ceil(input / stride)."""
    convolution = _conv(kernel, inputs, outputs, stride)
    return nn.Sequential(convolution, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True))


def _conv(kernel: int, inputs: int, outputs: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, bias=False)


class TinyBackbone(nn.Sequential):
    """Two strided 3x3 convolutions: output stride 4, a receptive field of 7 pixels.

    It sees a disc's colour, never its surroundings.
    """

    def __init__(self, width: int) -> None:
        super().__init__(
            conv_norm_relu(3, width // 2, stride=2),
            conv_norm_relu(width // 2, width, stride=2),
        )
        self.channels = (width, width)

    def forward(self, images: Tensor) -> Features:
        """(B, 3, H, W) -> both entries the same (B, width, ceil(H / 4), ceil(W / 4))."""
        features = super().forward(images)
        return Features(features, features)


class SlimBackbone(nn.Module):
    """Residual stages down to stride 16, upsampled and added to the finer ones; trains on a CPU.

    Args:
        width: channels at stride 2; 2, 4 and 6 times as many at strides 4, 8 and 16.
        output_stride: of stage 4, 8 or 4.
    """

    def __init__(self, width: int, output_stride: int = 8) -> None:
        super().__init__()
        outer, inner, deep = 2 * width, 4 * width, 6 * width  # channels at strides 4, 8, 16
        self.channels = (deep, inner if output_stride == 8 else outer)
        self.stem = conv_norm_relu(3, width, stride=2)
        self.layer1 = _stage(width, outer, blocks=1)
        self.layer2 = _stage(outer, inner, blocks=2)
        self.layer3 = _stage(inner, deep, blocks=2)
        self.lateral = nn.Sequential(_conv(1, deep, inner), nn.BatchNorm2d(inner))
        self.finer = self.smooth = None
        if output_stride == 4:
            self.finer = nn.Sequential(_conv(1, inner, outer), nn.BatchNorm2d(outer))
            self.smooth = conv_norm_relu(outer, outer)

    def forward(self, images: Tensor) -> Features:
        """(B, 3, H, W) -> stage 3 at ceil(H / 16), stage 4 at ceil(H / output_stride)."""
        stage1 = self.layer1(self.stem(images))
        stage2 = self.layer2(stage1)
        stage3 = self.layer3(stage2)
        merged = _add_upsampled(stage2, self.lateral(stage3))
        if self.finer is not None and self.smooth is not None:
            merged = self.smooth(_add_upsampled(stage1, self.finer(merged)))
        return Features(stage3, merged)


class ResidualBlock(nn.Module):
    """The basic block of He et al., CVPR 2016, figure 5 (left), its entries named as torchvision's.

    Args:
        shortcut: what the input goes through before it is added; None for nothing.
    """

    def __init__(
        self, inputs: int, outputs: int, stride: int = 1, shortcut: nn.Module | None = None
    ) -> None:
        super().__init__()
        self.conv1 = _conv(3, inputs, outputs, stride)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = _conv(3, outputs, outputs)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.downsample = shortcut

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, H, W) -> (B, outputs, ceil(H / stride), ceil(W / stride))."""
        out = F.relu(self.bn1(self.conv1(x)), inplace=True)
        out = self.bn2(self.conv2(out))
        out += x if self.downsample is None else self.downsample(x)
        return F.relu(out, inplace=True)


def _add_upsampled(fine: Tensor, coarse: Tensor) -> Tensor:
    return F.relu(fine + upsample(coarse, fine.shape[2:]))


def _stage(inputs: int, outputs: int, blocks: int) -> nn.Sequential:
    """Basic residual blocks, the first with stride 2."""
    shortcut = nn.Sequential(_conv(1, inputs, outputs, stride=2), nn.BatchNorm2d(outputs))
    return nn.Sequential(
        ResidualBlock(inputs, outputs, 2, shortcut),
        *(ResidualBlock(outputs, outputs) for _ in range(blocks - 1)),
    )
