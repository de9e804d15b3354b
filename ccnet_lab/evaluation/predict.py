"""Class ids of images as a protocol says: whole or by windows, at several scales, flipped.

What they score is in evaluate.py; how they are written to files in label_files.py.
"""

from collections.abc import Generator
from contextlib import nullcontext
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from ccnet_lab.data.batches import fault, given, leave_signals_to_the_parent, shared
from ccnet_lab.data.datasets import Split
from ccnet_lab.data.transforms import fit, normalise
from ccnet_lab.device import out_of_memory, too_narrow_for_bf16
from ccnet_lab.errors import DeviceError, LabError, RunError
from ccnet_lab.evaluation.protocol import Protocol
from ccnet_lab.model.upsample import check_finite, upsample, upsampled_labels


class Item(NamedTuple):
    """One image: labels (H, W) uint8 at its own size, pixels (H', W', 3) uint8 RGB at scale 1."""

    name: str
    labels: Tensor
    pixels: Tensor


def load(
    split: Split, protocol: Protocol, workers: int = 0, first: int = 0
) -> Generator[Item, None, None]:
    """The images of a split in order, from number `first` on; raises as `Split.read` does.

    `workers` processes read ahead. They live until the generator is closed or at its end.
    """
    loader = DataLoader(
        _Items(split, protocol),
        batch_size=None,
        sampler=range(first, len(split)),
        num_workers=workers,
        collate_fn=shared,
        worker_init_fn=leave_signals_to_the_parent,
    )
    return given(loader)


class _Items(Dataset[Any]):
    def __init__(self, split: Split, protocol: Protocol) -> None:
        self.split, self.protocol = split, protocol

    def __getitem__(self, index: int) -> Item | LabError:
        """An image, or its error: raised here, a worker's traceback would bury it."""
        try:
            name, image, labels = self.split.read(index)
            pixels = torch.from_numpy(fit(image, *self.protocol.resize))
            return Item(name, torch.from_numpy(labels), pixels)
        except Exception as error:
            return fault(self.split.pairs[index], error)


@torch.inference_mode()
def predict(
    model: nn.Module, item: Item, protocol: Protocol, device: torch.device
) -> NDArray[np.uint8]:
    """(H, W) class ids of one image at its labels' size.

    The model is in eval mode on `device`. The normalised image is scaled, each scale is predicted
    as it is and mirrored, and the raw logits of all passes are averaged at the labels' size.

    Raises:
        RunError: a scale leaves nothing of the image.
        DeviceError: memory does not suffice; the message says what to lower.
        WeightsError: the network gives logits that are not finite.

    Source: SSSegmentation's `auginference` and tester.
    """
    forward = _slide if protocol.mode == "slide" else _logits
    smallest, largest = min(protocol.scales), max(protocol.scales)
    height, width = item.pixels.shape[:2]
    if min(height, width) * smallest < 1:
        raise RunError(
            f"{item.name} is {width} x {height} pixels as the network takes it, "
            f"of which --scales {smallest:g} leaves none; give a larger scale"
        )
    passes: list[Tensor] = []
    try:
        image = normalise(item.pixels.to(device))[None]  # (1, 3, H', W')
        for scale in protocol.scales:
            scaled = image if scale == 1 else _scaled(image, scale)
            passes.append(forward(model, scaled, protocol))
            if protocol.flip:
                passes.append(forward(model, scaled.flip(-1), protocol).flip(-1))
            check_finite(passes[-2:], model, f"logits for {item.name}", protocol.precision)
        return upsampled_labels(passes, (item.labels.shape[0], item.labels.shape[1])).cpu().numpy()
    except (RuntimeError, MemoryError) as error:
        if not out_of_memory(error):
            raise
        raise DeviceError(
            f"{device} ran out of memory on {item.name}, {int(width * largest)} x "
            f"{int(height * largest)} as the network takes it, mode {protocol.mode}; "
            "use --mode slide, smaller --scales, --precision bf16 or --device cpu"
        ) from None


def _scaled(image: Tensor, scale: float) -> Tensor:
    return F.interpolate(image, scale_factor=scale, mode="bilinear", align_corners=False)


def _logits(model: nn.Module, image: Tensor, protocol: Protocol) -> Tensor:
    """(K, h, w) float32 of (1, 3, H', W')."""
    narrow, kind = too_narrow_for_bf16(image), image.device.type
    with torch.autocast(kind, enabled=False) if narrow else nullcontext():
        logits: Tensor = model(image, recurrence=protocol.recurrence).logits
    return logits[0].float()


def _slide(model: nn.Module, image: Tensor, protocol: Protocol) -> Tensor:
    """(K, H', W') float32: the windows' upsampled logits, averaged where they overlap.

    A window ends where the image does.
    """
    size = tuple(image.shape[2:])
    window, stride = protocol.window or size, protocol.stride or size
    tops, lefts = map(_starts, size, window, stride)
    total, times = torch.empty(0), image.new_zeros(size)
    for top in tops:
        for left in lefts:
            here = (..., slice(top, top + window[0]), slice(left, left + window[1]))
            part = image[here]
            logits = upsample(_logits(model, part, protocol)[None], part.shape[2:])[0]
            total = total if total.numel() else logits.new_zeros((len(logits), *size))
            total[here] += logits
            times[here] += 1
    return total.div_(times)


def _starts(length: int, window: int, stride: int) -> list[int]:
    """Where windows begin so that they cover `length`; the last one is moved back to end there."""
    last = max(0, length - window)
    return sorted({min(start, last) for start in range(0, last + stride, stride)})
