"""3x3 convolutions by Winograd's minimal filtering, for float32 inference on a CPU.

folding.py decides where they are used, once batch norms are folded away. A tile of 6 x 6 inputs
gives 4 x 4 outputs by 36 products per pair of channels, where the definition takes 144. Tiles are
transformed by matrix products: few large calls bear a busy machine, many small ones don't. A
convolution of dilation D is D * D convolutions of dilation 1, of every D-th row and column.

Source: Lavin and Gray, Fast Algorithms for Convolutional Neural Networks, CVPR 2016, section 4.3.
"""

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
WIDE = 256  # input channels from which the transforms cost less than the products saved
_BLOCK = 2**21  # values of the tiles that are transformed at a time, 8 MiB


class WinogradConv2d(nn.Module):
    """A `Conv2d` of 3x3, stride 1, padded by its dilation; channels-last, without gradients.

    It holds four times the weights and, while it runs, 2.25 times the input and the output,
    which it lays out again; it rounds about ten times as much.
    """

    def __init__(self, convolution: nn.Conv2d) -> None:
        super().__init__()
        self.dilation = convolution.dilation[0]
        kernel = convolution.weight.detach()  # (O, C, 3, 3)
        of_inputs, of_kernels, of_outputs = (
            torch.kron(one, one)
            for one in (
                torch.tensor(rows, dtype=torch.float64, device=kernel.device)
                for rows in (OF_INPUTS, OF_KERNELS, OF_OUTPUTS)
            )
        )
        weight = kernel.new_empty(36, *kernel.shape[1::-1])  # (36, C, O)
        for some, out in zip(kernel.split(64, 1), weight.split(64, 1), strict=True):
            taps = some.double().permute(2, 3, 1, 0).flatten(0, 1)  # (9, n, O)
            out.copy_((of_kernels @ taps.flatten(1)).view(out.shape))
        self.of_inputs = nn.Buffer(of_inputs.to(kernel.dtype))  # (36, 36)
        self.of_outputs = nn.Buffer(of_outputs.to(kernel.dtype))  # (16, 36)
        self.weight = nn.Buffer(weight)
        self.bias = convolution.bias

    @torch.autocast("cpu", enabled=False)  # type: ignore[untyped-decorator]
    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, O, H, W), in the weights' dtype."""
        if traced():
            raise WeightsError(
                "a network with Winograd's convolutions can't be traced or exported; "
                "trace the model, or what folding.Folded gives"
            )
        (batch, channels, height, width), d = x.shape, self.dilation
        down, across = -(-height // (4 * d)), -(-width // (4 * d))  # tiles
        margins = (0, 0, d, (4 * across + 1) * d - width, d, (4 * down + 1) * d - height)
        x = F.pad(x.to(self.weight.dtype).permute(0, 2, 3, 1), margins)
        x = x.view(batch, 4 * down + 2, d, 4 * across + 2, d, channels)
        places = x.unfold(1, 6, 4).unfold(3, 6, 4).permute(6, 7, 0, 1, 2, 3, 4, 5)
        tiles = x.new_empty(places.shape)  # (6, 6, B, down, d, across, d, C)
        step = max(1, _BLOCK // (36 * d * across * d * channels))
        for image, found in zip(places.unbind(2), tiles.unbind(2), strict=True):
            for some, out in zip(image.split(step, 2), found.split(step, 2), strict=True):
                torch.mm(self.of_inputs, some.reshape(36, -1), out=out.view(36, -1))
        products = torch.bmm(tiles.view(36, -1, channels), self.weight)  # (36, tiles, O)
        pixels = torch.mm(self.of_outputs, products.view(36, -1)).view(4, 4, *tiles.shape[2:7], -1)
        rows = pixels.permute(2, 3, 0, 4, 5, 1, 6, 7).reshape(
            batch, 4 * d * down, 4 * d * across, -1
        )
        rows = rows[:, :height, :width]
        return (rows if self.bias is None else rows + self.bias).permute(0, 3, 1, 2)


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
