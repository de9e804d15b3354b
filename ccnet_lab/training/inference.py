"""Prediction over a split as a protocol says: whole image or sliding window, scales, flip. What the labels score is in evaluation.py."""

from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from ccnet_lab.data.batches import fault, given, leave_signals_to_the_parent, shared
from ccnet_lab.data.datasets import Split
from ccnet_lab.data.transforms import fitted_size, normalise, resize
from ccnet_lab.errors import DeviceError, LabError, WeightsError
from ccnet_lab.model.fast import has_bf16
from ccnet_lab.scoring.protocol import Protocol
from ccnet_lab.training.guards import out_of_memory

RESIZED_AT_ONCE = 2**22  # logits, 16 MiB: how many classes are resized to the size of the labels together follows from it
FEWEST = 4  # classes resized together: for fewer torch takes another kernel, which rounds otherwise


class Item(NamedTuple):
    """One image of a split as the network takes it: labels (H, W) uint8, inputs (H', W', 3) uint8, one per scale."""

    name: str
    labels: Tensor
    inputs: list[Tensor]


def load(split: Split, protocol: Protocol, workers: int = 0, first: int = 0) -> Generator[Item, None, None]:
    """The images of a split in order, from number `first` on, decoded and fitted ahead by `workers`; raises as `Split.read` does.

    To be closed where they are not read to their end, since the workers live until then.
    """
    how: dict[str, Any] = dict(num_workers=workers, collate_fn=shared, worker_init_fn=leave_signals_to_the_parent)
    return given(DataLoader(_Items(split, protocol), None, sampler=range(first, len(split)), **how))


class _Items(Dataset[Any]):
    """An error is an item, too, since a loader would bury its sentence in a worker's traceback."""

    def __init__(self, split: Split, protocol: Protocol) -> None:
        self.split, self.protocol = split, protocol

    def __getitem__(self, index: int) -> Item | LabError:
        try:
            sample = self.split.read(index)
            (height, width), (long, short) = sample.labels.shape, self.protocol.resize
            sizes = [fitted_size(height, width, long * scale, short * scale) for scale in self.protocol.scales]
            return Item(sample.name, torch.from_numpy(sample.labels), [torch.from_numpy(resize(sample.image, *size)) for size in sizes])
        except Exception as error:
            return fault(self.split.pairs[index], error)


def fast_precision(device: torch.device) -> str:
    """The protocol's precision of fast inference on a device: "fast bf16" where it has units for that, else "fast fp32"."""
    return f"fast {'bf16' if has_bf16(device) else 'fp32'}"


@contextmanager
def arithmetic(device: torch.device, precision: str) -> Iterator[None]:
    """Within it, "bf16" is autocast, "fp32" is float32 with TF32 off, with "fast" before it or not."""
    switches: tuple[Any, ...] = (torch.backends.cudnn, torch.backends.cuda.matmul) if device.type == "cuda" else ()
    before = [switch.allow_tf32 for switch in switches]
    try:
        for switch in switches:
            switch.allow_tf32 = False
        with torch.autocast(device.type, torch.bfloat16, enabled=precision.endswith("bf16")):
            yield
    finally:
        for switch, value in zip(switches, before, strict=True):
            switch.allow_tf32 = value


@torch.inference_mode()
def predict(model: nn.Module, item: Item, protocol: Protocol, device: torch.device) -> NDArray[np.uint8]:
    """(H, W) class ids of one image at its labels' size.

    The model is in eval mode on `device`. Mode, flip and recurrence are the protocol's, the scales are in the item's inputs.

    Raises:
        DeviceError: memory does not suffice; the message says what to lower.
        WeightsError: the network gives logits that are not finite.
    """
    forward = _slide if protocol.mode == "slide" else _logits
    passes = []
    try:
        for pixels in item.inputs:
            image = normalise(pixels.to(device))[None]  # (1, 3, H', W')
            passes.append(forward(model, image, protocol))
            if protocol.flip:
                passes.append(forward(model, image.flip(-1), protocol).flip(-1))
            if not all(logits.isfinite().all() for logits in passes[-2:]):
                fine = all(tensor.isfinite().all() for tensor in model.state_dict().values())
                remedy = "try --precision fp32" if fine else "its weights are, too: take an earlier checkpoint"
                raise WeightsError(f"the network's logits for {item.name} are NaN or infinite ({protocol.precision}); {remedy}")
        return most_likely(passes, (item.labels.shape[0], item.labels.shape[1])).cpu().numpy()
    except (RuntimeError, MemoryError) as error:
        if not out_of_memory(error):
            raise
        height, width = max(tuple(pixels.shape[:2]) for pixels in item.inputs)
        raise DeviceError(
            f"{device} ran out of memory on {item.name}, {width} x {height} as the network takes it, mode {protocol.mode}; "
            "use --mode slide, smaller --scales, --precision bf16 or --device cpu"
        ) from None


def most_likely(passes: Sequence[Tensor], size: tuple[int, int]) -> Tensor:
    """(H, W) uint8 argmax over the classes of logits resized to `size` (bilinear, align_corners False), in bounded memory.

    Of the one pass's logits (K, h, w), or of the sum of the softmax probabilities of several. Some classes are resized at a time, which
    leaves every value and so the argmax as it is.
    """
    count = max(1, len(passes[0]) // max(FEWEST, RESIZED_AT_ONCE // (size[0] * size[1])))
    parts = [logits.tensor_split(count) for logits in passes]  # per pass, some classes each

    def resized(part: Tensor) -> Tensor:
        return F.interpolate(part[None], size=size, mode="bilinear", align_corners=False)[0]

    totals = []  # (H, W) per pass: log of the sum of exp over all classes
    for group in parts if len(passes) > 1 else ():
        totals.append(passes[0].new_full(size, -torch.inf))
        for part in group:
            torch.logaddexp(totals[-1], resized(part).logsumexp(0), out=totals[-1])
    best = passes[0].new_full(size, -torch.inf)
    labels, first = torch.zeros(size, dtype=torch.uint8, device=best.device), 0
    for now in zip(*parts, strict=True):
        score = resized(now[0])
        if totals:
            score = score.sub_(totals[0]).exp_()
            for part, total in zip(now[1:], totals[1:], strict=True):
                score += resized(part).sub_(total).exp_()
        value, index = score.max(0)
        labels = torch.where(value > best, (index + first).to(torch.uint8), labels)  # at a tie the first class, as argmax
        best, first = torch.maximum(best, value), first + len(score)
    return labels


def _logits(model: nn.Module, image: Tensor, protocol: Protocol) -> Tensor:
    """(K, h, w) float32 of (1, 3, H', W')."""
    logits: Tensor = model(image, recurrence=protocol.recurrence).logits
    return logits[0].float().contiguous()


def _slide(model: nn.Module, image: Tensor, protocol: Protocol) -> Tensor:
    """(K, H', W') float32: the windows' logits resized to the windows, averaged where they overlap. A window ends where the image does."""
    window, stride = protocol.window or tuple(image.shape[2:]), protocol.stride or tuple(image.shape[2:])
    tops, lefts = map(_starts, image.shape[2:], window, stride)
    total, times = torch.empty(0), image.new_zeros(tuple(image.shape[2:]))
    for top in tops:
        for left in lefts:
            here = (..., slice(top, top + window[0]), slice(left, left + window[1]))
            part = image[here]
            logits = F.interpolate(_logits(model, part, protocol)[None], size=part.shape[2:], mode="bilinear", align_corners=False)[0]
            total = total if total.numel() else logits.new_zeros((len(logits), *times.shape))
            total[here] += logits
            times[here] += 1
    return total.div_(times)


def _starts(length: int, window: int, stride: int) -> list[int]:
    """Where windows begin so that they cover `length`; the last one is moved back to end with it."""
    last = max(0, length - window)
    return sorted({min(start, last) for start in range(0, last + stride, stride)})
