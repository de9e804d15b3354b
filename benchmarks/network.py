"""Interleaved timings of the attention op and of inference, beside the published mode."""

import copy
import functools
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import update_bn

from benchmarks.runtimes import runtimes
from benchmarks.timing import Times, side_by_side, summary
from benchmarks.training import as_published
from ccnet_lab.configs import Config
from ccnet_lab.device import arithmetic, has_bf16
from ccnet_lab.model.attention import criss_cross_attention_plain, criss_cross_residual
from ccnet_lab.model.ccnet import build_model
from ccnet_lab.model.folding import Folded
from ccnet_lab.model.upsample import upsample
from ccnet_lab.model.winograd import use_winograd

# (B, C, H, W)
SHAPES = (
    (1, 512, 64, 64),
    (1, 512, 97, 97),
    (1, 512, 64, 128),
    (2, 512, 64, 64),
    (1, 512, 128, 256),
)
FLOOR = "the products alone"
CUDA_SHAPES = ((16, 512, 64, 64), (8, 512, 64, 128))


class Timing(NamedTuple):
    """One form of the step x + gamma * attention beside the plain one in its faster layout."""

    shape: tuple[int, ...]  # (B, C, H, W)
    form: str
    plain_forward: Times  # seconds
    fast_forward: Times
    plain_total: Times  # forward and backward
    fast_total: Times
    plain_saved: int  # as in `saved_bytes`
    fast_saved: int
    layouts: dict[str, tuple[float, float]]  # each layout's plain forward and total seconds

    @property
    def forward_ratio(self) -> float:
        """How many times faster the form's forward pass is."""
        return self.plain_forward.median / self.fast_forward.median

    @property
    def total_ratio(self) -> float:
        """How many times faster the form's forward and backward pass is."""
        return self.plain_total.median / self.fast_total.median


class Inference(NamedTuple):
    """One way to run a network, beside the published one."""

    form: str
    batch: int  # images per call
    median: float  # seconds of one call, as in `Times`
    spread: float
    ratio: float  # how many times faster than the published mode
    labels_equal: float  # the share of pixels with the published mode's label, on noise
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
    """Time the step's forms in turn, float32 on a CPU, bfloat16 on CUDA.

    Args:
        shape: of the features, (B, C, H, W).
        repeats: counted rounds, after three that are not.
        query_channels: d.
        device: None for the CPU.
        compiled: whether to time ours under torch.compile, too.

    Returns:
        A record of each of our forms, on channels-last tensors.
    """
    device = device or torch.device("cpu")
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32

    def inputs(layout: torch.memory_format) -> list[Tensor]:
        generator = torch.Generator().manual_seed(0)
        widths = (shape[1], query_channels, query_channels, shape[1])
        made = [torch.randn(shape[0], c, *shape[2:], generator=generator).mul(0.5) for c in widths]
        x, *rest = (t.to(device, dtype).to(memory_format=layout).requires_grad_() for t in made)
        return [x, torch.tensor(0.5, device=device, requires_grad=True), *rest]

    last, contiguous = inputs(torch.channels_last), inputs(torch.contiguous_format)
    forms: dict[str, tuple[Callable[..., Tensor], list[Tensor]]] = {
        "channels-last": (plain_step, last),
        "contiguous": (plain_step, contiguous),
        "ours": (criss_cross_residual, last),
    }
    plain, ours = list(forms)[:2], list(forms)[2:]
    if compiled:
        ours.append("ours, compiled")
        forms[ours[-1]] = torch.compile(criss_cross_residual, dynamic=False), last
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in forms}
    if device.type == "cpu":
        found[FLOOR] = []
        ours.append(FLOOR)
    for _ in range(repeats + 3):
        for name, (form, given) in forms.items():
            found[name].append(_seconds_of_both_passes(form, given))
        if device.type == "cpu":
            found[FLOOR].append(_seconds_of_products(*last[2:]))
    forward, total = (
        {name: summary([row[k] for row in rows[3:]]) for name, rows in found.items()}
        for k in (0, 1)
    )
    saved = {
        name: saved_bytes(functools.partial(form, *given)) for name, (form, given) in forms.items()
    }
    return [
        Timing(
            shape=shape,
            form=name,
            plain_forward=min(forward[layout] for layout in plain),
            fast_forward=forward[name],
            plain_total=min(total[layout] for layout in plain),
            fast_total=total[name],
            plain_saved=min(saved[layout] for layout in plain),
            fast_saved=saved.get(name, 0),
            layouts={layout: (forward[layout].median, total[layout].median) for layout in plain},
        )
        for name in ours
    ]


def _seconds_of_both_passes(
    form: Callable[..., Tensor], inputs: list[Tensor]
) -> tuple[float, float]:
    """Of the forward pass, and of the forward and the backward pass."""

    def now() -> float:
        if inputs[0].is_cuda:
            torch.cuda.synchronize(inputs[0].device)
        return time.perf_counter()

    seed = torch.empty_like(inputs[0]).copy_(inputs[-1].detach())
    start = now()
    out = form(*inputs)
    middle = now()
    torch.autograd.grad(out, inputs, seed)
    return middle - start, now() - start


def _seconds_of_products(query: Tensor, key: Tensor, value: Tensor) -> tuple[float, float]:
    """What the matrix products of the step take, of the forward pass and of both.

    They are those of attention_cpu.py, an image and a direction at a time, into memory that is
    there: no softmax, no sum and no copy.
    """
    rows = [t.detach().permute(0, 2, 3, 1).contiguous() for t in (query, key, value)]
    lines = [
        (*image, *map(torch.empty_like, image), image[0].new_empty(2, length, across, across))
        for turned in (rows, [t.transpose(1, 2).contiguous() for t in rows])
        for image in zip(*turned, strict=True)
        for length, across in [image[2].shape[:2]]
    ]
    start = time.perf_counter()
    for q, k, v, _, _, out, (scores, _) in lines:
        torch.bmm(q, k.mT, out=scores)
        torch.bmm(scores, v, out=out)
    middle = time.perf_counter()
    for q, k, v, d_query, d_key, out, (scores, gradients) in lines:
        torch.bmm(q, k.mT, out=scores)
        torch.bmm(scores.mT, v, out=out)  # the values' gradient
        torch.bmm(out, v.mT, out=gradients)  # the weights'
        torch.bmm(gradients, k, out=d_query)
        torch.bmm(gradients.mT, q, out=d_key)
    return middle - start, time.perf_counter() - start


def saved_bytes(run: Callable[[], Tensor]) -> int:
    """Bytes that autograd keeps of a forward pass for the backward pass, inputs included."""
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
    others: Path | None = None,
) -> list[Inference]:
    """Time a network's forms in turn, the published mode first.

    That is eager, float32, contiguous, einsum attention, TF32 off. The weights are random, gamma is
    0.5, the batch norms hold the statistics of the images, so that logits have a trained network's
    size. bfloat16 is left out where the device has no units for it.

    Args:
        size: (H, W) of the images.
        batch: how many.
        repeats: counted calls of each form.
        device: where.
        compiled: whether to time torch.compile, too; it takes minutes to start.
        others: on a CPU, a folder for a file, to time the runtimes of runtimes.py, too.
    """
    torch.manual_seed(0)
    images = torch.randn(batch, 3, *size, device=device)
    model = build_model(config).to(device)
    torch.nn.init.constant_(model.attention.gamma, 0.5)
    update_bn([images], model)
    fast, published = Folded(model), as_published(copy.deepcopy(model).eval())
    last = images.contiguous(memory_format=torch.channels_last)
    unfolded = copy.deepcopy(model).eval().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    networks: dict[str, nn.Module] = {"channels-last": unfolded, "folded, channels-last": fast}
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
        for name, network in networks.items():
            forms[name + ", bf16" * bf16] = functools.partial(run, network, bf16)
    if device.type == "cpu":
        winograd = use_winograd(Folded(model))
        forms["folded, channels-last, Winograd"] = functools.partial(run, winograd, False)
        if others is not None:
            forms |= runtimes(unfolded, images, others, has_bf16(device))
    with arithmetic(device, "fp32"):
        times = side_by_side(forms, repeats, device)
        exact = as_in_the_recipe()
        logits = {name: form().float() for name, form in forms.items()}
    labels = upsample(exact, size).argmax(1)
    slowest = times["published mode"].median
    return [
        Inference(
            form=name,
            batch=batch,
            median=times[name].median,
            spread=times[name].spread,
            ratio=slowest / times[name].median,
            labels_equal=float((upsample(found, size).argmax(1) == labels).float().mean()),
            logit_difference=float((found - exact).abs().max()),
            largest_logit=float(exact.abs().max()),
        )
        for name, found in logits.items()
    ]
