"""Logits on the feature grid to class ids at the image's size, in bounded memory: the one place where a prediction is upsampled.

Logits that are not finite have no labels, and are refused here, too.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ccnet_lab.errors import WeightsError

RESIZED_AT_ONCE = 2**22  # logits, 16 MiB: how many classes are resized together follows from it
FEWEST = 4  # classes resized together: for fewer torch takes another kernel, which rounds otherwise
LARGEST = 2**23  # pixels, beyond which some rows are done at a time: a photograph of 8 megapixels


def upsampled_labels(passes: Sequence[Tensor], size: tuple[int, int]) -> Tensor:
    """(H, W) uint8 argmax over the classes of logits upsampled to `size` (bilinear, align_corners False) and averaged over the passes.

    Each pass's logits are (K, h, w), the grids may differ. Some classes are upsampled at a time, which leaves every value and so the argmax
    as it is; at a tie the first class counts. Of more than `LARGEST` pixels some rows are done at a time, whose sums round otherwise.

    Source: SSSegmentation's tester, which averages the raw logits, not probabilities.
    """
    height, width = size
    if height * width > LARGEST and height > 1:
        labels = torch.empty(size, dtype=torch.uint8, device=passes[0].device)
        step = max(1, LARGEST // width)
        for top in range(0, height, step):
            bottom = min(top + step, height)
            rows = [resized_rows(logits[None], height, top, bottom)[0] for logits in passes]
            labels[top:bottom] = _labels(rows, (bottom - top, width))
        return labels
    return _labels(passes, size)


def resized_rows(logits: Tensor, height: int, first: int, last: int) -> Tensor:
    """Rows first..last of (B, K, h, w) resized to `height` rows, bilinear, align_corners False: (B, K, last - first, w)."""
    rows = logits.shape[2]
    centre = (
        (torch.arange(first, last, device=logits.device) + 0.5) * (rows / height) - 0.5
    ).clamp(min=0)
    above = centre.long().clamp(max=rows - 1)
    below = (above + 1).clamp(max=rows - 1)
    share = (centre - above).to(logits.dtype)[:, None]
    return logits[:, :, above] * (1 - share) + logits[:, :, below] * share


def _labels(passes: Sequence[Tensor], size: tuple[int, int]) -> Tensor:
    count = max(1, len(passes[0]) // max(FEWEST, RESIZED_AT_ONCE // (size[0] * size[1])))
    best = labels = None
    first = 0
    for parts in zip(
        *(logits.contiguous().tensor_split(count) for logits in passes), strict=True
    ):  # some classes of each pass
        score = _upsampled(parts[0], size)
        for part in parts[1:]:
            score += _upsampled(part, size)  # the sum has the mean's argmax
        value, index = score.max(0)
        index = index.to(torch.uint8)
        if best is None or labels is None:
            best, labels = value, index
        else:
            labels = torch.where(value > best, index + first, labels)
            best = torch.maximum(best, value)
        first += len(score)
    assert labels is not None
    return labels


def check_finite(found: Sequence[Tensor], model: nn.Module, what: str, precision: str = "") -> None:
    """Raise `WeightsError` where a network's output, called `what`, holds NaN or infinity; it says whether the weights do, too."""
    if all(bool(tensor.isfinite().all()) for tensor in found):
        return
    fine = all(bool(tensor.isfinite().all()) for tensor in model.state_dict().values())
    remedy = "its weights are finite, so they are too large: try --precision fp32 or an earlier checkpoint"
    if not fine:
        remedy = "its weights are, too: take an earlier checkpoint"
    raise WeightsError(
        f"the network's {what} are NaN or infinite{f' ({precision})' if precision else ''}; {remedy}"
    )


def _upsampled(logits: Tensor, size: tuple[int, int]) -> Tensor:
    return F.interpolate(logits[None], size=size, mode="bilinear", align_corners=False)[0]
