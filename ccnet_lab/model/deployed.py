"""What a file for use elsewhere holds: the network made ready, and what it says of itself. Writing and checking it is in export.py."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from safetensors import safe_open
from torch import Tensor, nn
from torch.nn.utils import parametrize

from ccnet_lab.configs import Config
from ccnet_lab.data.catalog import get_dataset
from ccnet_lab.data.generated.beacons import make_scene
from ccnet_lab.data.transforms import MEAN, STD, normalise, resize
from ccnet_lab.files import sha256
from ccnet_lab.model.ccnet import CCNet
from ccnet_lab.model.folding import folded


class Deployed(nn.Module):
    """What is written: the network with its batch norms folded into the convolutions and without what only training needs."""

    def __init__(self, model: CCNet, recurrence: int, labels: bool) -> None:
        super().__init__()
        self.network, self.recurrence, self.labels = folded(model), recurrence, labels
        self.network.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, K, h, w); with labels (B, H, W, 3) uint8 -> (B, H, W) uint8."""
        if not self.labels:
            return self.logits(images)
        return enlarged(self.logits(normalise(images)), images.shape[1:3]).argmax(1).to(torch.uint8)

    def logits(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) normalised -> (B, K, h, w)."""
        return self.network(images, self.recurrence, with_aux=False).logits  # type: ignore[no-any-return]

    def smallest(self) -> int:
        """The least height and width: two cells of the coarsest features; torch.export takes one for a size that never changes."""
        features = self.network.backbone(torch.zeros(1, 3, 64, 64))
        return int(64 // min(features.stage3.shape[2], features.stage4.shape[2])) + 1

    def quantise(self) -> None:
        """Keep every convolution's weight as int8 and a scale per output channel; multiplied again where it is used."""
        for module in list(self.modules()):
            if isinstance(module, nn.Conv2d):
                parametrize.register_parametrization(module, "weight", _Int8(), unsafe=True)


def generated_picture(dataset: str, height: int, width: int, seed: int) -> NDArray[np.uint8]:
    """(H, W, 3) uint8: a scene of the beacons for their network, else smooth coloured noise with grain."""
    if dataset == "beacons":
        return resize(make_scene(seed).image, height, width)
    rng = np.random.default_rng(seed)
    smooth = resize(
        rng.integers(0, 256, (height // 24 + 2, width // 24 + 2, 3), np.uint8), height, width
    )
    return (smooth + rng.normal(0, 8, smooth.shape)).clip(0, 255).astype(np.uint8)


def enlarged(logits: Tensor, size: Sequence[int]) -> Tensor:
    """(B, K, h, w) -> (B, K, H, W)."""
    return F.interpolate(logits, size=tuple(size), mode="bilinear", align_corners=False)


def agreement(
    exact: Callable[[Tensor], Tensor],
    rounded: Callable[[Tensor], Tensor],
    batches: Sequence[Tensor],
) -> dict[str, Any]:
    """How int8 weights compare with float32 ones on batches (B, H, W, 3) of uint8 pictures: functions from normalised images to logits."""
    equal, pixels, difference, largest = 0, 0, 0.0, 0.0
    for batch in batches:
        images = normalise(batch).contiguous()
        one, other = exact(images), rounded(images)
        same = enlarged(one, batch.shape[1:3]).argmax(1) == enlarged(
            other, batch.shape[1:3]
        ).argmax(1)
        equal, pixels = equal + int(same.sum()), pixels + same.numel()
        difference, largest = (
            max(difference, float((one - other).abs().max())),
            max(largest, float(one.abs().max())),
        )
    return {
        "weights": "int8, symmetric, a scale per output channel; arithmetic in float32",
        "labels_equal": equal / pixels,
        "largest_logit_difference": difference,
        "largest_logit": largest,
        "pictures": len(batches),
    }


def describe(
    config: Config,
    deployed: Deployed,
    fixed: tuple[int, int, int] | None,
    source: str | Path | None,
) -> dict[str, Any]:
    """What a person needs to use the file, ready for JSON; `source` is the weights' file."""
    dataset, stride, labels = get_dataset(config.dataset), config.output_stride, deployed.labels
    metadata: dict[str, Any] = {
        "made_with": f"ccnet_lab, torch {torch.__version__}",
        "name": config.name,
        "input": "images (B, H, W, 3) uint8 RGB"
        if labels
        else "images (B, 3, H, W) float32: RGB 0..255, less mean, divided by std",
        "output": "labels (B, H, W) uint8, indices into class_names"
        if labels
        else f"logits (B, K, ceil(H / {stride}), ceil(W / {stride}))",
        "output_stride": stride,
        "size": "any" if fixed is None else "{} x {} x {}".format(*fixed),
        "smallest_side": deployed.smallest(),
        "normalisation": {"mean": MEAN, "std": STD},
        "recurrence": deployed.recurrence,
        "dataset": dataset.title,
        "class_names": dataset.class_names,
        "palette": dataset.palette,
        "config": config.to_dict(),
    }
    if source is not None:
        source = Path(source)
        metadata["weights"] = {"file": source.name, "sha256": sha256(source)}
        if source.suffix == ".safetensors":
            with safe_open(source, framework="pt") as stored:
                notes = stored.metadata() or {}
            metadata["weights"]["notes"] = {
                key: value for key, value in notes.items() if key not in ("config", "dataset")
            }
    return json.loads(json.dumps(metadata))  # type: ignore[no-any-return]


class _Int8(nn.Module):
    def forward(self, stored: Tensor, scale: Tensor) -> Tensor:
        return stored.float() * scale

    def right_inverse(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        scale = (
            weight.abs().amax((1, 2, 3), keepdim=True).clamp_min(1e-12) / 127
        )  # (outputs, 1, 1, 1)
        return (weight / scale).round().to(torch.int8), scale
