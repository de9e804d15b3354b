"""CCNet, from images to `Segmentation`; attention.py, backbone.py and weights.py have its parts."""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._pytree import _register_namedtuple

from ccnet_lab.configs import SLIM, TINY, Config, get_config
from ccnet_lab.importing import importing
from ccnet_lab.model.attention import CrissCrossAttention, criss_cross_weights
from ccnet_lab.model.backbone import Features, SlimBackbone, TinyBackbone, conv_norm_relu

EMBEDDED = 16  # channels in which the category-consistent loss compares pixels; TPAMI section 3.3


class Segmentation(NamedTuple):
    """The result of a forward pass. K classes; h, w the size of the feature map.

    Attributes:
        logits: (B, K, h, w), at the backbone's stride, not upsampled.
        aux_logits: (B, K, h, w) of the auxiliary classifier on stage 3, or None.
        attention: one (B, h, w, h + w) per recurrence, column entries first; () unless asked for.
        embedding: (B, 16, h, w) for the category-consistent loss, or None.
    """

    logits: Tensor
    aux_logits: Tensor | None = None
    attention: tuple[Tensor, ...] = ()
    embedding: Tensor | None = None


# So that an exported program can be saved.
_register_namedtuple(Segmentation, serialized_type_name="ccnet_lab.Segmentation")


class CCNet(nn.Module):
    """A backbone, R shared steps of criss-cross attention, a classifier and an auxiliary one.

    With a category-consistent loss, the attention's output is projected to 16 channels in train
    mode.

    Source: Huang et al., TPAMI 2020, figure 2; SSSegmentation's
    ssseg/modules/models/segmentors/ccnet.
    """

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.recurrence, channels, kernel = config.recurrence, config.channels, config.head_kernel
        self.backbone: nn.Module
        if config.depth == TINY:
            self.backbone = TinyBackbone(config.width)
        elif config.depth == SLIM:
            self.backbone = SlimBackbone(config.width, config.output_stride)
        else:
            with importing():  # torchvision, a second
                from ccnet_lab.model.resnet import DilatedResNet

            self.backbone = DilatedResNet(config.depth, config.output_stride, config.divisor)
        stage3, stage4 = self.backbone.channels
        self.reduce = conv_norm_relu(stage4, channels, kernel)
        self.attention = CrissCrossAttention(channels, config.query_channels, config.gamma)
        self.refine = conv_norm_relu(channels, channels, kernel)

        def classifier(inputs: int, hidden: int) -> nn.Sequential:
            return nn.Sequential(
                *conv_norm_relu(inputs, hidden, kernel),
                nn.Dropout2d(config.dropout),
                nn.Conv2d(hidden, config.num_classes, 1),
            )

        self.classifier = classifier(stage4 + channels, channels)
        hidden = config.aux_channels or channels
        self.aux_classifier = classifier(stage3, hidden) if config.auxiliary else None
        self.embedding = nn.Conv2d(channels, EMBEDDED, 1) if config.category_loss > 0 else None

    def forward(
        self,
        images: Tensor,
        recurrence: int | None = None,
        with_aux: bool | None = None,
        return_attention: bool = False,
    ) -> Segmentation:
        """Segment a batch.

        Args:
            images: (B, 3, H, W), normalised.
            recurrence: R, 0 or more; None means as built.
            with_aux: whether to compute the auxiliary logits; None means only in train mode.
            return_attention: whether to return each step's attention weights.

        Raises:
            ValueError: a negative recurrence.
        """
        steps = self.recurrence if recurrence is None else recurrence
        if steps < 0:
            raise ValueError(f"recurrence is {steps}; expected 0 or more")
        features: Features = self.backbone(images)
        x, context = self.begin(features.stage4)
        attention = []
        for _ in range(steps):
            if return_attention:
                query, key, _ = self.attention.project(x)
                attention.append(criss_cross_weights(query, key))  # (B, h, w, h + w)
            x = self.attention(x)
        aux_logits = embedding = None
        if self.aux_classifier is not None and (self.training if with_aux is None else with_aux):
            aux_logits = self.aux_classifier(features.stage3)
        if self.embedding is not None and self.training:
            embedding = self.embedding(x)
        logits = self.decode(context, x)
        return Segmentation(logits, aux_logits, tuple(attention), embedding)

    def begin(self, stage4: Tensor) -> tuple[Tensor, Tensor]:
        """From stage 4, features x_0 (B, C, h, w) and a context (B, ., h, w) for `decode`."""
        return self.reduce(stage4), stage4

    def decode(self, context: Tensor, x: Tensor) -> Tensor:
        """Logits (B, K, h, w) from the context and the features x_R (B, C, h, w)."""
        logits: Tensor = self.classifier(torch.cat([context, self.refine(x)], dim=1))
        return logits


def build_model(config: str | Config) -> CCNet:
    """The network of a configuration, with random weights.

    Raises:
        ConfigError: no configuration has this name.
    """
    return CCNet(get_config(config))
