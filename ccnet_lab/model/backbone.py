"""Backbones: images to the features of the last two stages; what is made of them is in ccnet.py."""

from typing import Any, NamedTuple

import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, Bottleneck, ResNet, conv1x1

# 3x3 convolution without bias, batch norm, ReLU; the output's size is ceil(input / stride).
from torchvision.ops import Conv2dNormActivation

from ccnet_lab.model.upsample import upsample

BLOCKS = {50: [3, 4, 6, 3], 101: [3, 4, 23, 3]}


class Features(NamedTuple):
    """stage3 (B, C3, h, w) feeds the auxiliary classifier, stage4 (B, C4, h, w) the head."""

    stage3: Tensor
    stage4: Tensor


class DilatedResNet(ResNet):
    """torchvision's ResNet with a stem of three 3x3 convolutions and dilated last stages.

    Output stride 8 dilates stages 3 and 4 (by 2 and 4), 16 only stage 4 (by 2). The first block of
    a dilated stage has half its dilation, as in torchvision and the published networks.
    """

    def __init__(self, depth: int, output_stride: int, divisor: int = 1) -> None:
        self.divisor = divisor  # of all channels
        self.channels = (1024 // divisor, 2048 // divisor)  # C3, C4
        dilate = [False, output_stride == 8, output_stride in (8, 16)]
        super().__init__(Bottleneck, BLOCKS[depth], replace_stride_with_dilation=dilate)
        del self.conv1, self.bn1, self.relu, self.avgpool, self.fc
        narrow, wide = 32 // divisor, 64 // divisor
        self.stem = nn.Sequential(
            *Conv2dNormActivation(3, narrow, stride=2),
            *Conv2dNormActivation(narrow, narrow),
            *Conv2dNormActivation(narrow, wide),
        )

    def _make_layer(self, block: Any, planes: int, *more: Any, **options: Any) -> nn.Sequential:
        if planes == 64:  # the first stage, which follows the stem
            self.inplanes = 64 // self.divisor
        layer: nn.Sequential = super()._make_layer(block, planes // self.divisor, *more, **options)
        return layer

    def forward(self, images: Tensor) -> Features:  # type: ignore[override]
        """(B, 3, H, W) -> features at ceil(H / output_stride)."""
        stage2 = self.layer2(self.layer1(self.maxpool(self.stem(images))))
        stage3 = self.layer3(stage2)
        return Features(stage3, self.layer4(stage3))


class TinyBackbone(nn.Sequential):
    """Two strided 3x3 convolutions: output stride 4, a receptive field of 7 pixels.

    It sees a disc's colour, never its surroundings.
    """

    def __init__(self, width: int) -> None:
        super().__init__(
            Conv2dNormActivation(3, width // 2, stride=2),
            Conv2dNormActivation(width // 2, width, stride=2),
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
        self.stem = Conv2dNormActivation(3, width, stride=2)
        self.layer1 = _stage(width, outer, blocks=1)
        self.layer2 = _stage(outer, inner, blocks=2)
        self.layer3 = _stage(inner, deep, blocks=2)
        self.lateral = nn.Sequential(conv1x1(deep, inner), nn.BatchNorm2d(inner))
        self.finer = self.smooth = None
        if output_stride == 4:
            self.finer = nn.Sequential(conv1x1(inner, outer), nn.BatchNorm2d(outer))
            self.smooth = Conv2dNormActivation(outer, outer)

    def forward(self, images: Tensor) -> Features:
        """(B, 3, H, W) -> stage 3 at ceil(H / 16), stage 4 at ceil(H / output_stride)."""
        stage1 = self.layer1(self.stem(images))
        stage2 = self.layer2(stage1)
        stage3 = self.layer3(stage2)
        merged = _add_upsampled(stage2, self.lateral(stage3))
        if self.finer is not None and self.smooth is not None:
            merged = self.smooth(_add_upsampled(stage1, self.finer(merged)))
        return Features(stage3, merged)


def _add_upsampled(fine: Tensor, coarse: Tensor) -> Tensor:
    return F.relu(fine + upsample(coarse, fine.shape[2:]))


def _stage(inputs: int, outputs: int, blocks: int) -> nn.Sequential:
    """Basic residual blocks, the first with stride 2."""
    shortcut = nn.Sequential(conv1x1(inputs, outputs, stride=2), nn.BatchNorm2d(outputs))
    return nn.Sequential(
        BasicBlock(inputs, outputs, 2, shortcut),
        *(BasicBlock(outputs, outputs) for _ in range(blocks - 1)),
    )
