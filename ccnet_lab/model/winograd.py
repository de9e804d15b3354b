"""3x3 convolutions by Winograd's minimal filtering, for float32 inference on a CPU.

folding.py decides where they are used, once batch norms are folded away. A tile of 6 x 6 inputs
gives 4 x 4 outputs by 36 products per pair of channels, where the definition takes 144. Tiles are
transformed by a few additions, and all products of one place in the tile are one matrix product. A
convolution of dilation D is D * D convolutions of dilation 1, of every D-th row and column.

Source: Lavin and Gray, Fast Algorithms for Convolutional Neural Networks, CVPR 2016, section 4.3.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ccnet_lab.errors import WeightsError
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
WIDE = 256  # input channels from which the additions cost less than the products saved


class WinogradConv2d(nn.Module):
    """A `Conv2d` of 3x3, stride 1, padded by its dilation; channels-last, without gradients.

    It holds four times the weights and, while it runs, 2.25 times the input; it rounds about ten
    times as much.
    """

    def __init__(self, convolution: nn.Conv2d) -> None:
        super().__init__()
        self.dilation = convolution.dilation[0]
        kernel = convolution.weight.detach()  # (O, C, 3, 3)
        matrix = torch.tensor(OF_KERNELS, dtype=torch.float64, device=kernel.device)
        matrix = torch.kron(matrix, matrix)  # (36, 9)
        weight = kernel.new_empty(36, *kernel.shape[1::-1])  # (36, C, O)
        for some, out in zip(kernel.split(64, 1), weight.split(64, 1), strict=True):
            taps = some.double().permute(2, 3, 1, 0).flatten(0, 1)  # (9, n, O)
            out.copy_((matrix @ taps.flatten(1)).view(out.shape))
        self.weight = nn.Buffer(weight)
        self.bias = convolution.bias

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, O, H, W)."""
        if traced():
            raise WeightsError(
                "a network with Winograd's convolutions can't be traced or exported; "
                "trace the model, or what folding.folded gives"
            )
        (batch, channels, height, width), d = x.shape, self.dilation
        down, across = -(-height // (4 * d)), -(-width // (4 * d))  # tiles
        margins = (0, 0, d, (4 * across + 1) * d - width, d, (4 * down + 1) * d - height)
        x = F.pad(x.permute(0, 2, 3, 1), margins)
        x = x.view(batch, 4 * down + 2, d, 4 * across + 2, d, channels)
        rows = x.new_empty(batch, down, d, 4 * across + 2, d, channels)
        tiles = x.new_empty(6, 6, batch, down, d, across, d, channels)
        for i in range(6):
            _combine([x[:, k : k + 4 * down - 3 : 4] for k in range(6)], OF_INPUTS[i], rows)
            columns = [rows[:, :, :, k : k + 4 * across - 3 : 4] for k in range(6)]
            for j in range(6):
                _combine(columns, OF_INPUTS[j], tiles[i, j])
        products = torch.bmm(tiles.view(36, -1, channels), self.weight)  # (36, tiles, O)
        products = products.view(*tiles.shape[:-1], -1)
        lines = torch.empty_like(products[0])
        out = x.new_empty(batch, down, 4, d, across, 4, d, products.shape[-1])
        for i in range(4):
            _combine(products, OF_OUTPUTS[i], lines)
            for j in range(4):
                _combine(lines, OF_OUTPUTS[j], out[:, :, i, :, :, j])
        out = out.view(batch, 4 * d * down, 4 * d * across, -1)[:, :height, :width]
        return (out if self.bias is None else out.add_(self.bias)).permute(0, 3, 1, 2)


def use_winograd(network: nn.Module) -> nn.Module:
    """Replace the wide 3x3 convolutions of a folded network on a CPU, and return it."""
    for name, child in network.named_children():
        if not isinstance(child, nn.Conv2d):
            use_winograd(child)
        elif (
            child.in_channels >= WIDE
            and (child.kernel_size, child.stride, child.groups) == ((3, 3), (1, 1), 1)
            and child.padding == child.dilation == (child.dilation[0],) * 2
        ):
            setattr(network, name, WinogradConv2d(child))
    return network


def _combine(parts: Sequence[Tensor] | Tensor, factors: Sequence[int], out: Tensor) -> None:
    """The sum of factor times part into `out`; at least one factor is 1."""
    first = factors.index(1)
    total = parts[first]
    for k, factor in enumerate(factors):
        if factor and k != first:
            total = torch.add(total, parts[k], alpha=factor, out=out)
