"""What happens to a picture between its file and the network: fitting and normalising. Reading files is in images.py."""

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

MEAN = (123.675, 116.28, 103.53)  # RGB, of ImageNet; SSSegmentation's recipe
STD = (58.395, 57.12, 57.375)


def fitted_size(height: int, width: int, long: int, short: int) -> tuple[int, int]:
    """(height, width) scaled by min(long / longer side, short / shorter side), rounded, at least 1: the recipe's resize."""
    factor = min(long / max(height, width), short / min(height, width))
    return max(1, int(height * factor + 0.5)), max(1, int(width * factor + 0.5))


def fit(image: NDArray[np.uint8], long: int, short: int) -> NDArray[np.uint8]:
    """(H, W, 3) resized bilinearly to `fitted_size`; the image itself where the size is already that."""
    height, width = fitted_size(image.shape[0], image.shape[1], long, short)
    if (height, width) == image.shape[:2]:
        return image
    # Pillow smooths before it reduces, so that large photographs don't alias; where it enlarges it is the recipe's plain bilinear.
    return np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR))


def normalise(images: NDArray[np.uint8] | Tensor) -> Tensor:
    """(..., H, W, 3) uint8 RGB -> (..., 3, H, W) float32 with the recipe's mean and standard deviation, channels-last in memory."""
    tensor = torch.tensor(images) if isinstance(images, np.ndarray) else images
    return ((tensor.float() - tensor.new_tensor(MEAN, dtype=torch.float)) / tensor.new_tensor(STD, dtype=torch.float)).movedim(-1, -3)
