"""Operations and bytes by formula, layer by layer from the shapes; what torch is asked for is counted beside it in costs.py.

A multiplication and an addition are 2 operations. h, w: size of the feature map in cells; the attention's letters are attention.py's.
"""

from collections.abc import Iterator

from ccnet_lab.configs import SLIM, TINY, Config
from ccnet_lab.model.backbone import BLOCKS, SlimBackbone

Size = tuple[int, int]  # (height, width), pixels or cells
Convolution = tuple[int, int, int, Size]  # kernel, input channels, output channels, size of its output


def forward_flops(config: Config, size: Size) -> int:
    """Operations of a forward pass on one image (H, W), without the auxiliary head."""
    found = sum(2 * kernel**2 * inputs * outputs * h * w for kernel, inputs, outputs, (h, w) in convolutions(config, size))
    return found + criss_cross_flops(*_at(size, config.output_stride), config.channels, config.query_channels, config.recurrence)


def convolutions(config: Config, size: Size) -> Iterator[Convolution]:
    """Every convolution but the attention's own: (kernel, input channels, output channels, (h, w) of its output) for an image (H, W)."""
    if config.depth == TINY:
        half = config.width // 2
        yield from ((3, 3, half, _at(size, 2)), (3, half, config.width, _at(size, 4)))
        stage4 = config.width
    elif config.depth == SLIM:
        yield from _slim(config, size)
        stage4 = (4 if config.output_stride == 8 else 2) * config.width
    else:
        yield from _resnet(config, size)
        stage4 = 2048
    k, c, cells = config.head_kernel, config.channels, _at(size, config.output_stride)
    yield k, stage4, c, cells  # reduce
    yield k, c, c, cells  # refine
    yield k, stage4 + c, c, cells  # the classifier's two
    yield 1, c, config.num_classes, cells


def _resnet(config: Config, size: Size) -> Iterator[Convolution]:
    for inputs, outputs in ((3, 32), (32, 32), (32, 64)):  # the stem; a pooling follows
        yield 3, inputs, outputs, _at(size, 2)
    inputs, before = 64, _at(size, 4)
    for stage, blocks in enumerate(BLOCKS[config.depth]):
        planes, cells = 64 * 2**stage, _at(size, min(4 * 2**stage, config.output_stride))
        for block in range(blocks):
            yield 1, inputs, planes, before  # the 3x3 convolution after it has the stride
            yield 3, planes, planes, cells
            yield 1, planes, 4 * planes, cells
            if block == 0:
                yield 1, inputs, 4 * planes, cells  # the shortcut
            inputs, before = 4 * planes, cells


def _slim(config: Config, size: Size) -> Iterator[Convolution]:
    width = config.width
    yield 3, 3, width, _at(size, 2)
    for stage, blocks in enumerate(SlimBackbone.blocks):
        inputs, outputs, cells = (2 * stage or 1) * width, 2 * (stage + 1) * width, _at(size, 4 * 2**stage)
        yield 3, inputs, outputs, cells
        yield 1, inputs, outputs, cells  # the shortcut
        for _ in range(2 * blocks - 1):
            yield 3, outputs, outputs, cells
    yield 1, 6 * width, 4 * width, _at(size, 16)
    if config.output_stride == 4:
        yield 1, 4 * width, 2 * width, _at(size, 8)
        yield 3, 2 * width, 2 * width, _at(size, 4)


def _at(size: Size, stride: int) -> Size:
    return -(-size[0] // stride), -(-size[1] // stride)


def criss_cross_flops(height: int, width: int, channels: int = 512, query_channels: int = 64, recurrence: int = 1) -> int:
    """Floating point operations of R criss-cross steps on a (1, C, H, W) map, by the authors' formula.

    Counted, with a multiplication and an addition as 2: the three 1x1 convolutions, C + 1 terms (the bias) per output number, to d query,
    d key and C value channels; the scores, H + W + 1 of d terms per pixel; the weighted sum, H + W + 1 of C terms per pixel. The op itself
    needs H + W - 1 of each; the authors' H + W + 1 stands so that their numbers come out. Softmax, gamma and residual are not counted.

    Source: the authors' answer in github.com/speedinghzl/CCNet/issues/2. At 1x512x97x97: 8.29 GFLOP, twice that for R = 2.
    """
    return recurrence * _flops(height, width, height + width + 1, channels, query_channels)


def non_local_flops(height: int, width: int, channels: int = 512, query_channels: int = 64) -> int:
    """Count the same operations for full (non-local) attention, HW scores per pixel: 108.16 GFLOP at 1x512x97x97.

    The authors publish 108 without writing this formula out; it is theirs with HW in the place of H + W + 1.
    """
    return _flops(height, width, height * width, channels, query_channels)


def criss_cross_bytes(height: int, width: int, itemsize: int = 4) -> int:
    """Bytes of one step's attention weights, (H, W, H + W), the masked entry included: 6.96 MiB at 97x97 in float32."""
    return height * width * (height + width) * itemsize


def non_local_bytes(height: int, width: int, itemsize: int = 4) -> int:
    """Bytes of full attention's weights, (HW, HW): 337.7 MiB at 97x97 in float32."""
    return (height * width) ** 2 * itemsize


def _flops(height: int, width: int, reach: int, channels: int, query_channels: int) -> int:
    projections = (channels + 1) * (2 * query_channels + channels)
    return 2 * height * width * (projections + reach * (query_channels + channels))
