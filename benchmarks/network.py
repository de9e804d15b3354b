"""Interleaved timings of the attention's forms and of inference, ours beside the published mode; the forms are in attention.py, fast.py."""

import copy
import functools
import time
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import update_bn

from benchmarks.samples import side_by_side
from ccnet_lab.configs import Config
from ccnet_lab.device import has_bf16
from ccnet_lab.model.attention import criss_cross_attention_plain, criss_cross_residual
from ccnet_lab.model.ccnet import build_model
from ccnet_lab.model.deployed import enlarged
from ccnet_lab.model.folding import folded
from ccnet_lab.model.winograd import use_winograd
from ccnet_lab.training.throughput import as_published, summary

SHAPES = (
    (1, 512, 64, 64),
    (1, 512, 97, 97),
    (1, 512, 64, 128),
    (2, 512, 64, 64),
    (1, 512, 128, 256),
)  # (B, C, H, W), on a CPU
CUDA_SHAPES = ((16, 512, 64, 64), (8, 512, 64, 128))


class Timing(NamedTuple):
    """One form of the step x + gamma * attention beside the plain one, whose figures are those of its faster layout."""

    shape: tuple[int, ...]  # (B, C, H, W)
    form: str  # what it is called
    plain_forward: float  # seconds, medians
    fast_forward: float
    plain_total: float  # forward and backward
    fast_total: float
    plain_spread: float  # of the totals, as in `Times`
    fast_spread: float
    plain_forward_spread: float
    fast_forward_spread: float
    plain_saved: int  # bytes that autograd keeps between the passes, as in `saved_bytes`
    fast_saved: int
    layouts: dict[str, tuple[float, float]]  # each layout's plain forward and total seconds

    @property
    def forward_ratio(self) -> float:
        """How many times faster the form's forward pass is."""
        return self.plain_forward / self.fast_forward

    @property
    def total_ratio(self) -> float:
        """How many times faster the form's forward and backward pass is."""
        return self.plain_total / self.fast_total


class Inference(NamedTuple):
    """One way to run a network, beside the published one."""

    form: str  # what it is called
    batch: int  # images per call
    median: float  # seconds of one call, as in `Times`
    spread: float
    ratio: float  # how many times faster than the published mode
    labels_equal: float  # the share of pixels with the published mode's label, on noise, with `time_inference`'s weights
    logit_difference: float  # the largest
    largest_logit: float  # of the published mode


def plain_step(x: Tensor, gamma: Tensor, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """`criss_cross_residual` as published: einsum, cat, and a sum."""
    return x + gamma * criss_cross_attention_plain(query, key, value)


def time_attention(
    shape: tuple[int, ...],
    repeats: int = 15,
    query_channels: int = 64,
    device: torch.device | None = None,
    compiled: bool = False,
) -> list[Timing]:
    """Time the step's forms in turn on `shape` (B, C, H, W), float32 on a CPU, bfloat16 on CUDA; the first three rounds are not counted.

    Args:
        shape: of the features. repeats: counted rounds.
        query_channels: d. device: where; None for the CPU.
        compiled: whether to time ours under torch.compile, too.

    Returns:
        A record of each of our forms, on channels-last tensors.
    """
    device = device or torch.device("cpu")
    batch, channels, height, width = shape
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32

    def tensors(layout: torch.memory_format) -> list[Tensor]:
        generator, widths = (
            torch.Generator().manual_seed(0),
            (channels, query_channels, query_channels, channels),
        )
        made = [torch.randn(batch, c, height, width, generator=generator).mul(0.5) for c in widths]
        x, *rest = (t.to(device, dtype).to(memory_format=layout).requires_grad_() for t in made)
        return [x, torch.tensor(0.5, device=device, requires_grad=True), *rest]

    def now() -> float:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter()

    last, contiguous = tensors(torch.channels_last), tensors(torch.contiguous_format)
    plain = {"channels-last": (plain_step, last), "contiguous": (plain_step, contiguous)}
    ours: dict[str, tuple[Callable[..., Tensor], list[Tensor]]] = {
        "ours": (criss_cross_residual, last)
    }
    if compiled:
        ours["ours, compiled"] = torch.compile(criss_cross_residual, dynamic=False), last
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in (*plain, *ours)}
    for _ in range(repeats + 3):
        for name, (form, inputs) in (plain | ours).items():
            seed = torch.empty_like(inputs[0]).copy_(inputs[-1].detach())
            start = now()
            out = form(*inputs)
            middle = now()
            torch.autograd.grad(out, inputs, seed)
            found[name].append((middle - start, now() - start))
            del out
    forward, total = (
        {name: summary([row[k] for row in rows[3:]]) for name, rows in found.items()}
        for k in (0, 1)
    )
    saved = {
        name: saved_bytes(functools.partial(form, *inputs))
        for name, (form, inputs) in (plain | ours).items()
    }
    first, both = min(forward[name] for name in plain), min(total[name] for name in plain)
    layouts = {name: (forward[name].median, total[name].median) for name in plain}
    return [
        Timing(
            shape, name, first.median, forward[name].median, both.median, total[name].median, both.spread, total[name].spread,
            first.spread, forward[name].spread, min(saved[layout] for layout in plain), saved[name], layouts,
        )
        for name in ours
    ]  # fmt: skip


def saved_bytes(run: Callable[[], Tensor]) -> int:
    """Bytes of memory that autograd keeps of one forward pass for the backward pass, inputs included, each once."""
    kept: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        memory = tensor.untyped_storage()
        if tensor.ndim:
            kept[memory.data_ptr()] = memory.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        run()
    return sum(kept.values())


def time_inference(
    config: Config,
    size: tuple[int, int],
    batch: int,
    repeats: int,
    device: torch.device,
    compiled: bool = False,
) -> list[Inference]:
    """Time a network's forms in turn; the published mode (eager, float32, contiguous, einsum attention, TF32 off) comes first.

    The weights are random, gamma is 0.5, the batch norms hold the statistics of the images, so that logits have a trained network's size.

    Args:
        size: (H, W) of the images. batch: of them.
        repeats: counted calls of each form.
        device: where; bfloat16 is left out where it has no units for it.
        compiled: whether to time torch.compile, too; it takes minutes to start.
    """
    torch.manual_seed(0)
    images = torch.randn(batch, 3, *size, device=device)
    model = build_model(config).to(device)
    torch.nn.init.constant_(model.attention.gamma, 0.5)
    update_bn([images], model)
    fast, published = folded(model), as_published(copy.deepcopy(model).eval())
    last = images.contiguous(memory_format=torch.channels_last)
    networks: dict[str, nn.Module] = {"folded, channels-last": fast}
    if compiled:
        networks["folded, channels-last, compiled"] = torch.compile(fast)  # type: ignore[assignment]

    @torch.no_grad()
    def as_in_the_recipe() -> Tensor:
        return published(images).logits  # type: ignore[no-any-return]

    @torch.inference_mode()
    def run(network: nn.Module, bf16: bool) -> Tensor:
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            return network(last).logits  # type: ignore[no-any-return]

    forms: dict[str, Callable[[], Tensor]] = {"published mode": as_in_the_recipe}
    for bf16 in (False, True)[: 1 + has_bf16(device)]:
        forms |= {
            name + ", bf16" * bf16: functools.partial(run, network, bf16)
            for name, network in networks.items()
        }
    if device.type == "cpu":
        forms["folded, channels-last, Winograd"] = functools.partial(
            run, use_winograd(folded(model)), False
        )
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
