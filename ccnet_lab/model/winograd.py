"""3x3 convolutions by Winograd's minimal filtering, for float32 inference on a CPU; folding the batch norms away first is in fast.py.

4 x 4 outputs come from a tile of 6 x 6 inputs by 36 products per pair of channels where the definition takes 144. Tiles go to and from the
transformed space by a few additions, and all products of one place in the tile are one matrix product. A convolution of dilation D is D * D
convolutions of dilation 1, of every D-th row and column. Source: Lavin and Gray, Fast Algorithms for Convolutional Neural Networks, CVPR
2016, section 4.3.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ccnet_lab.errors import ExportError
from ccnet_lab.model.attention import traced

OF_INPUTS = (
    (4, 0, -5, 0, 1, 0),
    (0, -4, -4, 1, 1, 0),
    (0, 4, -4, -1, 1, 0),
    (0, -2, -1, 2, 1, 0),
    (0, 2, -1, -2, 1, 0),
    (0, 4, 0, -5, 0, 1),
)
OF_KERNELS = (
    (1 / 4, 0, 0),
    (-1 / 6, -1 / 6, -1 / 6),
    (-1 / 6, 1 / 6, -1 / 6),
    (1 / 24, 1 / 12, 1 / 6),
    (1 / 24, -1 / 12, 1 / 6),
    (0, 0, 1),
)
OF_OUTPUTS = ((1, 1, 1, 1, 1, 0), (0, 1, -1, 2, -2, 0), (0, 1, 1, 4, 4, 0), (0, 1, -1, 8, -8, 1))
WIDE = 256  # input channels from which on the additions cost less than the products they save


class WinogradConv2d(nn.Module):
    """A 3x3 convolution of stride 1, padded by its dilation, from one such `Conv2d`; channels-last, no gradients, four times its weights.

    The tiles hold 2.25 times the input while it runs. Results differ from the convolution's by rounding, some ten times its own.
    """

    def __init__(self, convolution: nn.Conv2d) -> None:
        super().__init__()
        self.dilation = convolution.dilation[0]
        kernel, matrix = (
            convolution.weight.detach(),
            torch.tensor(OF_KERNELS, dtype=torch.float64, device=convolution.weight.device),
        )
        weight = torch.einsum("ia,ocab,jb->ijco", matrix, kernel.double(), matrix).flatten(
            0, 1
        )  # (36, C, O)
        self.weight, self.bias = nn.Buffer(weight.to(kernel.dtype).contiguous()), convolution.bias

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, O, H, W)."""
        if traced():
            raise ExportError(
                "fast.ready's network can't be traced or exported; trace the model, or what fast.folded gives"
            )
        (batch, channels, height, width), d = x.shape, self.dilation
        down, across = -(-height // (4 * d)), -(-width // (4 * d))  # tiles
        x = F.pad(
            x.permute(0, 2, 3, 1),
            (0, 0, d, (4 * across + 1) * d - width, d, (4 * down + 1) * d - height),
        )
        x = x.view(batch, 4 * down + 2, d, 4 * across + 2, d, channels)
        rows = x.new_empty(batch, down, d, 4 * across + 2, d, channels)
        tiles = x.new_empty(6, 6, batch, down, d, across, d, channels)
        for i in range(6):
            _combine([x[:, k : k + 4 * down - 3 : 4] for k in range(6)], OF_INPUTS[i], rows)
            for j in range(6):
                _combine(
                    [rows[:, :, :, k : k + 4 * across - 3 : 4] for k in range(6)],
                    OF_INPUTS[j],
                    tiles[i, j],
                )
        products = torch.bmm(tiles.view(36, -1, channels), self.weight).view(
            *tiles.shape[:-1], -1
        )  # (36, tiles, C) @ (36, C, O)
        out, lines = (
            x.new_empty(batch, down, 4, d, across, 4, d, products.shape[-1]),
            torch.empty_like(products[0]),
        )
        for i in range(4):
            _combine(products, OF_OUTPUTS[i], lines)
            for j in range(4):
                _combine(lines, OF_OUTPUTS[j], out[:, :, i, :, :, j])
        out = out.view(batch, 4 * d * down, 4 * d * across, -1)[:, :height, :width]
        return (out if self.bias is None else out.add_(self.bias)).permute(0, 3, 1, 2)


def use_winograd(network: nn.Module) -> nn.Module:
    """The network itself, its wide 3x3 convolutions replaced; for one from `fast.folded`, on a CPU."""
    for name, child in network.named_children():
        if isinstance(child, nn.Conv2d):
            dilation = child.dilation[0]
            shape = child.kernel_size, child.stride, child.padding, child.dilation, child.groups
            if child.in_channels >= WIDE and shape == (
                (3, 3),
                (1, 1),
                (dilation, dilation),
                (dilation, dilation),
                1,
            ):
                setattr(network, name, WinogradConv2d(child))
        else:
            use_winograd(child)
    return network


def _combine(parts: Sequence[Tensor] | Tensor, factors: Sequence[int], out: Tensor) -> None:
    """The sum of factor times part into `out`; one factor at least is 1."""
    first = factors.index(1)
    total = parts[first]
    for k, factor in enumerate(factors):
        if factor and k != first:
            total = torch.add(total, parts[k], alpha=factor, out=out)
