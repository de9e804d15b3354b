"""Bilinear upsampling to the image's size, of whole logits, of some rows, or to class ids."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ccnet_lab.errors import WeightsError

RESIZED_AT_ONCE = 2**22  # logits, 16 MiB: says how many classes are upsampled together
FEWEST = 4  # classes upsampled together: for fewer torch takes a kernel that rounds otherwise
LARGEST = 2**23  # pixels, beyond which some rows are done at a time: a photograph of 8 megapixels


def upsample(logits: Tensor, size: Sequence[int]) -> Tensor:
    """(B, K, h, w) -> (B, K, H, W), bilinear, align_corners False."""
    return F.interpolate(logits, size=tuple(size), mode="bilinear", align_corners=False)


def resized_rows(logits: Tensor, height: int, first: int, last: int) -> Tensor:
    """Rows first..last of (B, K, h, w) upsampled to `height` rows: (B, K, last - first, w)."""
    rows = logits.shape[2]
    centre = (torch.arange(first, last, device=logits.device) + 0.5) * (rows / height) - 0.5
    centre = centre.clamp(min=0)
    above = centre.long().clamp(max=rows - 1)
    below = (above + 1).clamp(max=rows - 1)
    share = (centre - above).to(logits.dtype)[:, None]
    return logits[:, :, above] * (1 - share) + logits[:, :, below] * share


def upsampled_labels(passes: Sequence[Tensor], size: tuple[int, int]) -> Tensor:
    """(H, W) uint8 argmax of logits upsampled to `size` and averaged over the passes.

    Each pass's logits are (K, h, w); the grids may differ. At a tie the first class counts. Memory
    is bounded: some classes are upsampled at a time and, beyond `LARGEST` pixels, some rows.

    Source: SSSegmentation's tester, which averages the raw logits, not probabilities.
    """
    height, width = size
    if height * width <= LARGEST or height == 1:
        return _labels(passes, size)
    labels = torch.empty(size, dtype=torch.uint8, device=passes[0].device)
    step = max(1, LARGEST // width)
    for top in range(0, height, step):
        bottom = min(top + step, height)
        rows = [resized_rows(logits[None], height, top, bottom)[0] for logits in passes]
        labels[top:bottom] = _labels(rows, (bottom - top, width))
    return labels


def _labels(passes: Sequence[Tensor], size: tuple[int, int]) -> Tensor:
    classes = len(passes[0])
    count = max(1, classes // max(FEWEST, RESIZED_AT_ONCE // (size[0] * size[1])))
    best = passes[0].new_full(size, float("-inf"))
    labels = torch.zeros(size, dtype=torch.uint8, device=best.device)
    first = 0
    # Some classes of each pass; the sum over the passes has the mean's argmax.
    for parts in zip(*(logits.contiguous().tensor_split(count) for logits in passes), strict=True):
        score = upsample(parts[0][None], size)[0]
        for part in parts[1:]:
            score += upsample(part[None], size)[0]
        value, index = score.max(0)
        labels = torch.where(value > best, index.to(torch.uint8) + first, labels)
        best = torch.maximum(best, value)
        first += len(score)
    return labels


def check_finite(found: Sequence[Tensor], model: nn.Module, what: str, precision: str = "") -> None:
    """Raise `WeightsError` where a network's output, called `what`, holds NaN or infinity."""
    # A sum is finite where all values are, unless it overflows; it is soon made.
    if all(bool(each.sum().isfinite()) or bool(each.isfinite().all()) for each in found):
        return
    remedy = "its weights are, too: take an earlier checkpoint"
    if all(bool(tensor.isfinite().all()) for tensor in model.state_dict().values()):
        remedy = "its weights are finite: try --precision fp32 or an earlier checkpoint"
    where = f" ({precision})" if precision else ""
    raise WeightsError(f"the network's {what} are NaN or infinite{where}; {remedy}")
