"""Operations and bytes of attention by formula; what torch is asked for in a whole network is counted in costs.py.

A multiplication and an addition are 2 operations. Height and width are those of the feature map, in cells.
"""


def criss_cross_flops(
    height: int, width: int, channels: int = 512, query_channels: int = 64, recurrence: int = 1
) -> int:
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
