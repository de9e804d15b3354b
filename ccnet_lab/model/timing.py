"""Interleaved timings of the attention's forms and of inference, ours beside the published mode; the forms are in attention.py, fast.py."""

import copy
import statistics
import time
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ccnet_lab.configs import Config
from ccnet_lab.data.timing import side_by_side, summary
from ccnet_lab.model.attention import CrissCrossAttention, criss_cross_attention, criss_cross_attention_plain
from ccnet_lab.model.ccnet import CCNet, build_model
from ccnet_lab.model.deployed import enlarged
from ccnet_lab.model.fast import folded, has_bf16

SHAPES = ((1, 512, 64, 64), (1, 512, 97, 97), (1, 512, 64, 128), (2, 512, 64, 64), (1, 512, 128, 256))  # (B, C, H, W), on a CPU
CUDA_SHAPES = ((16, 512, 64, 64), (8, 512, 64, 128))


class Timing(NamedTuple):
    """Medians over the repeats, in seconds, of the plain and the fast form on the same tensors; spreads as in `Times`, of the totals."""

    shape: tuple[int, ...]
    layout: str
    plain_forward: float
    fast_forward: float
    plain_total: float
    fast_total: float
    plain_spread: float
    fast_spread: float

    @property
    def forward_ratio(self) -> float:
        """How many times faster the fast form's forward pass is."""
        return self.plain_forward / self.fast_forward

    @property
    def total_ratio(self) -> float:
        """How many times faster the fast form's forward and backward pass is."""
        return self.plain_total / self.fast_total


class Inference(NamedTuple):
    """One way to run a network, beside the published one.

    Attributes:
        form: what it is called. batch: images per call.
        median, spread: seconds of one call, as in `Times`. ratio: how many times faster than the published mode.
        labels_equal: the share of pixels with the published mode's label, on noise with random weights and measured batch-norm statistics.
        logit_difference: the largest; largest_logit: of the published mode.
    """

    form: str
    batch: int
    median: float
    spread: float
    ratio: float
    labels_equal: float
    logit_difference: float
    largest_logit: float


class PublishedAttention(CrissCrossAttention):
    """The module as published: three projections, einsum and cat."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        return x + self.gamma * criss_cross_attention_plain(self.query(x), self.key(x), self.value(x))


def as_published(model: CCNet) -> CCNet:
    """The model itself, its attention replaced by `PublishedAttention` with the same weights, contiguous in memory."""
    attention = PublishedAttention(model.attention.value.out_channels, model.attention.query.out_channels)
    attention.load_state_dict(model.attention.state_dict())
    model.attention = attention
    return model.to(memory_format=torch.contiguous_format)  # type: ignore[no-any-return, call-overload]


def time_attention(
    shape: tuple[int, ...], channels_last: bool, repeats: int = 15, query_channels: int = 64, device: torch.device | None = None
) -> Timing:
    """Time both forms in turn on `shape` (B, C, H, W), float32 on a CPU, bfloat16 on CUDA; the first three rounds are not counted."""
    device = device or torch.device("cpu")
    batch, channels, height, width = shape
    layout = torch.channels_last if channels_last else torch.contiguous_format
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    generator = torch.Generator().manual_seed(0)

    def tensor(c: int) -> Tensor:
        values = torch.randn(batch, c, height, width, generator=generator).mul(0.5)
        return values.to(device, dtype).to(memory_format=layout).requires_grad_()

    def now() -> float:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter()

    inputs = (tensor(query_channels), tensor(query_channels), tensor(channels))
    seed = tensor(channels).detach()
    forms: dict[str, Callable[..., Tensor]] = {"plain": criss_cross_attention_plain, "fast": criss_cross_attention}
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in forms}
    for _ in range(repeats + 3):
        for name, form in forms.items():
            start = now()
            out = form(*inputs)
            middle = now()
            torch.autograd.grad(out, inputs, seed)
            found[name].append((middle - start, now() - start))
            del out
    forward, total = ({name: [row[k] for row in rows[3:]] for name, rows in found.items()} for k in (0, 1))
    (plain, plain_spread), (fast, fast_spread) = (summary(total[name]) for name in forms)
    before, after = (statistics.median(forward[name]) for name in forms)
    return Timing(shape, "channels-last" if channels_last else "contiguous", before, after, plain, fast, plain_spread, fast_spread)


def time_inference(
    config: Config, size: tuple[int, int], batch: int, repeats: int, device: torch.device, compiled: bool = False
) -> list[Inference]:
    """Time a network's forms in turn; the published mode (eager, float32, contiguous, einsum attention, TF32 off) comes first.

    Args:
        config: of the network; its weights are random, gamma is 0.5, the batch norms hold the statistics of the images.
        size: (H, W) of the images. batch: of them.
        repeats: counted calls of each form.
        device: where. bfloat16 is left out where it has no units for it.
        compiled: whether to time torch.compile, too; it takes minutes to start.
    """
    torch.manual_seed(0)
    images = torch.randn(batch, 3, *size, device=device)
    model = build_model(config).to(device)
    torch.nn.init.constant_(model.attention.gamma, 0.5)
    _measure_statistics(model, images)
    fast, published = folded(model), as_published(copy.deepcopy(model).eval())
    last = images.contiguous(memory_format=torch.channels_last)
    networks: dict[str, nn.Module] = {"folded, channels-last": fast}
    if compiled:
        networks["folded, channels-last, compiled"] = torch.compile(fast)  # type: ignore[assignment]

    @torch.no_grad()
    def as_in_the_recipe() -> Tensor:
        return published(images).logits  # type: ignore[no-any-return]

    def call(network: nn.Module, bf16: bool) -> Callable[[], Tensor]:
        @torch.inference_mode()
        def run() -> Tensor:
            with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
                return network(last).logits  # type: ignore[no-any-return]

        return run

    forms = {"published mode": as_in_the_recipe}
    for bf16 in (False, True)[: 1 + has_bf16(device)]:
        forms |= {name + ", bf16" * bf16: call(network, bf16) for name, network in networks.items()}
    tf32 = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    try:
        times = side_by_side(forms, repeats, device)
        exact = as_in_the_recipe()
        logits = {name: form().float() for name, form in forms.items()}
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = tf32
    labels = enlarged(exact, size).argmax(1)
    slowest = times["published mode"].median
    return [
        Inference(
            name, batch, *times[name], slowest / times[name].median,
            float((enlarged(found, size).argmax(1) == labels).float().mean()),
            float((found - exact).abs().max()), float(exact.abs().max()),
        )
        for name, found in logits.items()
    ]  # fmt: skip


@torch.no_grad()
def _measure_statistics(model: CCNet, images: Tensor) -> None:
    """Give every batch norm the statistics of these images, so that random weights make logits of a trained network's size."""
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = 1.0
    model.train()(images)
    for norm in norms:
        norm.momentum = 0.1
    model.eval()
