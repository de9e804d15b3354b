"""The published backbones, apart: torchvision takes a second to import. More are in backbone.py."""

from typing import Any

from torch import Tensor, nn
from torchvision.models.resnet import Bottleneck, ResNet

from ccnet_lab.model.backbone import BLOCKS, Features, conv_norm_relu


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
            *conv_norm_relu(3, narrow, stride=2),
            *conv_norm_relu(narrow, narrow),
            *conv_norm_relu(narrow, wide),
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
