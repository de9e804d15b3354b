"""Networks set by hand, whose results are known: features are given, classes follow two rules."""

from dataclasses import replace

import numpy as np
import torch

from ccnet_lab import Explorer, build_model, get_config
from ccnet_lab.explore.explorer import View


def planted(
    features, query, key, value, *, recurrence=2, gamma=1.0, painted=None, stride=4
) -> View:
    """A view of features (C, h, w) under projections query and key (d, C), value (C, C).

    A cell is class 1 where channel 1 ends above 0.5, class 2 where `painted` (h, w) is true,
    whatever the features; else class 0.
    """
    features, query, key, value = (
        torch.as_tensor(np.asarray(t), dtype=torch.float32) for t in (features, query, key, value)
    )
    channels, height, width = features.shape
    config = replace(
        get_config("demo"),
        channels=channels,
        query_channels=len(query),
        recurrence=recurrence,
        alias="planted",
    )
    model = build_model(config)
    with torch.no_grad():
        for parameter in (
            *model.attention.parameters(),
            *model.refine.parameters(),
            *model.classifier.parameters(),
        ):
            parameter.zero_()
        for norm in (model.refine[1], model.classifier[1]):
            norm.weight.fill_(1)
        model.attention.gamma.fill_(gamma)
        for part, weight in (
            (model.attention.query, query),
            (model.attention.key, key),
            (model.attention.value, value),
        ):
            part.weight[..., 0, 0] = weight
        model.refine[0].weight[..., 0, 0] = torch.eye(channels)
        seen = model.backbone.channels[1]  # channels of stage 4, which the classifier sees first
        model.classifier[0].weight[0, seen + 1] = 1
        model.classifier[0].weight[1, 0] = 1
        model.classifier[4].weight[1, 0] = 20
        model.classifier[4].weight[2, 1] = 100
        model.classifier[4].bias[0] = 10
        stage4 = torch.zeros(1, seen, height, width)
        if painted is not None:
            stage4[0, 0] = torch.as_tensor(painted)
        image = np.zeros((stride * height, stride * width, 3), np.uint8)
        explorer = Explorer(model, config)
        _, context = explorer.network.begin(stage4)
        return View(explorer, image, image.shape[:2], context, features[None])


def beacon_view(height, width, beacon, recurrence=2, seed=0, **options) -> View:
    """One bright cell decides: every pixel that can, looks at it and becomes class 1.

    The other cells shine a little, at random.

    Channels: light, what was gathered, one. Scores depend on the key alone: 30 times the light.
    """
    light = 0.05 * np.random.default_rng(seed).random((height, width))
    light[beacon] = 1
    features = np.stack([light, 0 * light, 0 * light + 1])
    return planted(
        features,
        [[0, 0, 1]],
        [[30, 30, 0]],
        [[0, 0, 0], [1, 1, 0], [0, 0, 0]],
        recurrence=recurrence,
        **options,
    )
