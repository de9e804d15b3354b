"""Everything that needs a GPU, in one call of under 20 minutes, or part by part; results as JSON.

Each part runs in a process of its own, so that one that fails or hangs costs only its own minutes:
  python scripts/gpu_check.py --out results/gpu --data ROOT
  python scripts/gpu_check.py --out results/gpu --parts check attention sync --minutes 9
  python scripts/gpu_check.py --out results/gpu --parts train --only '*_cityscapes' --minutes 9
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from itertools import product
from pathlib import Path
from typing import Any

from ccnet_lab.ending import ending

SHARES = {  # minutes of each part
    "check": 1.0,
    "attention": 1.5,
    "sync": 1.5,
    "train": 6.0,
    "infer": 1.5,
    "feed": 1.0,
    "agreement": 3.0,
    "camvid": 2.5,
}


def options() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="folder for JSON files and runs")
    parser.add_argument("--parts", nargs="+", choices=list(SHARES), default=list(SHARES))
    parser.add_argument("--device", default="cuda")
    parser.add_argument(
        "--data", type=Path, help="a data root with CamVid, for the parts agreement and camvid"
    )
    parser.add_argument(
        "--minutes", type=float, help="of all parts together; nothing starts after its part's share"
    )
    parser.add_argument(
        "--only", nargs="+", metavar="GLOB", help="for the part train, such as '*os8_voc'"
    )
    parser.add_argument("--epochs", type=int, default=60, help="of each training of camvid")
    parser.add_argument(
        "--small", action="store_true", help="a rehearsal: tiny crops and batches, nothing compiled"
    )
    return parser


if __name__ == "__main__":
    options().parse_args()  # --help need not wait for what follows

import torch

sys.path.insert(0, str(Path(__file__).parent.parent))  # for benchmarks/, outside the library

from torch import Tensor

from benchmarks.network import CUDA_SHAPES, time_inference
from benchmarks.precisions import agreement
from benchmarks.samples import make_files
from benchmarks.timing import commit
from benchmarks.training import feeding, measure
from ccnet_lab.configs import Config, get_config
from ccnet_lab.device import choose_device, has_bf16
from ccnet_lab.errors import LabError
from ccnet_lab.model.attention import FORM, criss_cross_attention, criss_cross_attention_plain
from ccnet_lab.model.costs import machine
from ccnet_lab.training.campaign import select
from ccnet_lab.training.loop import train
from ccnet_lab.training.settings import Settings
from ccnet_lab.training.throughput import training_step

# (B, C, H, W), checked against float64.
SHAPES: tuple[tuple[int, int, int, int], ...] = (
    (2, 64, 33, 47),
    (1, 512, 64, 64),
    (4, 512, 64, 128),
    (1, 512, 97, 97),
    (2, 8, 1, 9),
    (2, 8, 9, 1),
)
# Other tiles of the Triton kernels to try, for lines up to 64 and up to 128 pixels: pixels,
# channels, warps, stages.
FORWARD_TILES = {
    64: ((64, 128, 8, 2), (64, 64, 4, 2), (64, 256, 8, 2)),
    128: ((128, 128, 8, 2), (64, 128, 4, 2), (64, 128, 4, 3), (64, 64, 4, 3)),
}
BACKWARD_TILES = {
    64: ((64, 64, 4, 3), (64, 64, 8, 3), (64, 32, 4, 4), (64, 128, 8, 2)),
    128: ((128, 32, 8, 2), (128, 32, 8, 4), (128, 64, 8, 2)),
}


def main() -> int:
    """One part here, or several, each in a process."""
    args = options().parse_args()
    minutes = args.minutes or sum(SHARES[part] for part in args.parts)
    args.out.mkdir(parents=True, exist_ok=True)
    args.until = time.monotonic() + 60 * minutes
    try:
        args.device = choose_device(args.device)
        if len(args.parts) > 1:
            return one_by_one(args.parts, minutes)
        if args.parts[0] in ("agreement", "camvid") and args.data is None:
            raise LabError(f"the part {args.parts[0]} needs --data ROOT")
        PARTS[args.parts[0]](args)
    except LabError as error:
        options().error(str(error))
    return 0


def one_by_one(parts: list[str], minutes: float) -> int:
    """Run this script once per part with its share of the minutes; a minute more ends a part."""
    unit, failed = minutes / sum(SHARES[part] for part in parts), []
    for part in parts:
        share = SHARES[part] * unit
        print(f"{part}: at most {share:.1f} minutes", flush=True)
        # The last --parts and --minutes of a command line count.
        last = ["--parts", part, "--minutes", str(share)]
        process = subprocess.Popen([sys.executable, __file__, *sys.argv[1:], *last])
        # It may hang in a call that takes no signal.
        for seconds, end in ((60 * share + 60, process.terminate), (60, process.kill)):
            try:
                process.wait(seconds)
            except subprocess.TimeoutExpired:
                end()
        if process.wait():
            failed.append(part)
    if failed:
        print(f"failed, or out of time: {', '.join(failed)}", file=sys.stderr)
    return int(bool(failed))


def check(args: argparse.Namespace) -> None:
    """The attention's forms on the device against the plain form in float64 on the CPU."""
    forms: dict[str, Any] = {"default": criss_cross_attention}
    if kernels := _kernels(args):
        forms["triton"] = kernels.criss_cross_triton
    rows = []
    dtypes = (torch.float32, torch.bfloat16, torch.float16)
    for shape, dtype in product(SHAPES[:1] if args.small else SHAPES, dtypes):
        exact = [t.double().requires_grad_() for t in _inputs(*shape, max(1, shape[1] // 8))]
        expected = _with_gradients(criss_cross_attention_plain, exact)
        for name, form in forms.items():
            if name == "triton" and dtype == torch.float32:
                continue  # not taken: see attention_cuda.DTYPES
            given = [t.detach().to(args.device, dtype).requires_grad_() for t in exact]
            found = _with_gradients(form, given)
            differences = {  # the largest, as a share of the largest value
                what: float((b.double().cpu() - a).abs().max() / a.abs().max().clamp(min=1e-30))
                for what, a, b in zip(
                    ("out", "query", "key", "value"), expected, found, strict=True
                )
            }
            rows.append({"form": name, "shape": list(shape), "dtype": str(dtype), **differences})
            print(rows[-1], flush=True)
            store(args, "check", rows)


def _with_gradients(form: Callable[..., Tensor], given: list[Tensor]) -> tuple[Tensor, ...]:
    out = form(*given)
    return out, *torch.autograd.grad(out.float().square().mean(), given)


def attention(args: argparse.Namespace) -> None:
    """Time plain, compiled plain and the kernels with each tile, in turn, bfloat16, channels-last.

    Rows hold milliseconds and how many tensors with an axis of H + W are kept.
    """
    rows: list[dict[str, Any]] = []
    kernels = _kernels(args)
    forward, backward = (kernels.FORWARD, kernels.BACKWARD) if kernels else ({}, {})
    for shape in ((1, 64, 16, 24),) if args.small else CUDA_SHAPES:
        given = [
            t.to(args.device, torch.bfloat16, memory_format=torch.channels_last).requires_grad_()
            for t in _inputs(*shape, 64)
        ]
        forms: dict[str, Callable[..., Tensor]] = {"plain": criss_cross_attention_plain}
        if not args.small:
            forms["compiled"] = torch.compile(criss_cross_attention_plain, dynamic=False)
        if kernels:
            forms |= _tiled(kernels, forward, backward, max(shape[2:]))
        kept = {}
        for name in list(forms):
            try:
                kept[name] = _wide_kept(forms[name], given)
            except Exception as error:  # a tile too large for the device, no compiler
                del forms[name]
                why = f"{type(error).__name__}: {str(error)[:300]}"
                rows.append({"shape": shape, "form": name, "error": why})
        times: dict[str, list[tuple[float, float]]] = {name: [] for name in forms}
        for _ in range(5 if args.small else 33):
            for name, form in forms.items():
                times[name].append(_milliseconds_of_both_passes(args, form, given))
        for name, found in times.items():
            ahead, total = (statistics.median(column) for column in zip(*found[3:], strict=True))
            row = {"shape": shape, "form": name, "forward_ms": ahead, "total_ms": total}
            rows.append({**row, "wide_tensors_kept": kept[name]})
            print(rows[-1], flush=True)
        store(args, "attention", rows)


def _tiled(
    kernels: Any, forward: dict[int, Any], backward: dict[int, Any], longest: int
) -> dict[str, Callable[..., Tensor]]:
    """The kernels with the library's tiles, then with others in place of that for long lines."""

    def with_tiles(ahead: dict[int, Any], back: dict[int, Any], *given: Tensor) -> Any:
        kernels.FORWARD, kernels.BACKWARD = ahead, back
        return kernels.criss_cross_triton(*given)

    key = min if longest == 64 else max
    forms: dict[str, Callable[..., Tensor]] = {"triton": partial(with_tiles, forward, backward)}
    for tile in FORWARD_TILES[longest]:
        tiles = {**forward, key(forward): tile}
        forms[f"triton, forward {tile}"] = partial(with_tiles, tiles, backward)
    for tile in BACKWARD_TILES[longest]:
        tiles = {**backward, key(backward): tile}
        forms[f"triton, backward {tile}"] = partial(with_tiles, forward, tiles)
    return forms


def _wide_kept(form: Callable[..., Tensor], given: list[Tensor]) -> int:
    """How many tensors with an axis of H + W a call keeps for its backward pass."""
    kept: list[tuple[int, ...]] = []

    def keep(tensor: Tensor) -> Tensor:
        kept.append(tuple(tensor.shape))
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        form(*given)
    return sum(given[2].shape[2] + given[2].shape[3] in shape for shape in kept)


def _milliseconds_of_both_passes(
    args: argparse.Namespace, form: Callable[..., Tensor], given: list[Tensor]
) -> tuple[float, float]:
    """Of the forward pass, and of both passes, by the GPU's own clock where there is one."""
    begin = _mark(args)
    out = form(*given)
    middle = _mark(args)
    torch.autograd.grad(out, given, given[2].detach())
    end = _mark(args)
    if args.device.type == "cuda":
        torch.cuda.synchronize(args.device)
        return begin.elapsed_time(middle), begin.elapsed_time(end)
    return 1e3 * (middle - begin), 1e3 * (end - begin)


def _mark(args: argparse.Namespace) -> Any:
    """A moment."""
    if args.device.type != "cuda":
        return time.perf_counter()
    event = torch.cuda.Event(enable_timing=True)
    event.record()
    return event


def _kernels(args: argparse.Namespace) -> Any:
    """The module of the Triton kernels; None where they can't run."""
    if args.device.type == "cuda" and find_spec("triton"):
        return import_module("ccnet_lab.model.attention_cuda")
    return None


def _inputs(batch: int, channels: int, height: int, width: int, d: int) -> list[Tensor]:
    """Query, key and value."""
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(batch, c, height, width, generator=generator) for c in (d, d, channels)]


def sync(args: argparse.Namespace) -> None:
    """Whether a training step makes the host wait for the GPU; torch raises where it does."""
    found = {}
    networks = {
        "street with every loss": replace(get_config("street"), ohem=True, category_loss=0.1),
        "R-50-D16": get_config("ccnet_resnet50os16_voc"),
    }
    names = list(networks)[:1] if args.small else list(networks)
    for name, compiled in product(names, (False,) if args.small else (False, True)):
        label = name + ", compiled" * compiled
        config = replace(networks[name], crop_size=(64, 64), batch_size=2)
        try:
            found[label] = _waits(config, args.device, compiled)
        except RuntimeError as error:
            found[label] = f"waits, or does not run: {str(error).splitlines()[0]}"
        print(label, found[label], flush=True)
        store(args, "sync", found)


def _waits(config: Config, device: torch.device, compiled: bool) -> str:
    cuda = device.type == "cuda"
    step = training_step(config, device, has_bf16(device), compiled)
    step()  # what is tried out, compiled and allocated at first may wait
    step()
    if cuda:
        torch.cuda.synchronize(device)
        torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(3):
            step()
    finally:
        if cuda:
            torch.cuda.set_sync_debug_mode("default")
    return "no wait in 3 steps" if cuda else "ran; only a GPU can be waited for"


def throughput(args: argparse.Namespace) -> None:
    """Images per second and memory of the twelve beside the published mode; then compiled, too."""
    found: dict[str, Any] = {}
    repeats, steps = (1, 1) if args.small else (2, 3)
    for compiled, config in product((False,) if args.small else (False, True), select(args.only)):
        if time.monotonic() > args.until:
            return
        config = _shrunk(config, args)
        found[config.name] = measure(config, args.device, repeats, steps, compiled)
        print(config.name, json.dumps(found[config.name]), flush=True)
        store(args, "train", found)


def _shrunk(config: Config, args: argparse.Namespace) -> Config:
    """The configuration, with a tiny crop and batch for --small."""
    return replace(config, crop_size=(64, 64), batch_size=2) if args.small else config


def infer(args: argparse.Namespace) -> None:
    """Inference of R-50-D8 in every form, batch 16 at 512x512."""
    size, batch, repeats = ((64, 96), 1, 1) if args.small else ((512, 512), 16, 7)
    config = get_config("ccnet_resnet50os8_voc")
    found = time_inference(config, size, batch, repeats, args.device, not args.small)
    print(*found, sep="\n", flush=True)
    store(args, "infer", [row._asdict() for row in found])


def feed(args: argparse.Namespace) -> None:
    """The share of a step that the GPU waits for images from 16 workers, on made-up files."""
    found = {}
    workers, steps = (0, 3) if args.small else (16, 60)
    for key in ("voc",) if args.small else ("voc", "cityscapes"):
        if time.monotonic() > args.until:
            return
        config = _shrunk(get_config(f"ccnet_resnet50os16_{key}"), args)
        with tempfile.TemporaryDirectory() as folder:
            split = make_files(key, Path(folder), config.batch_size)
            found[config.name] = feeding(config, split, args.device, workers, steps)
        print(config.name, found[config.name], flush=True)
        store(args, "feed", found)


def agree(args: argparse.Namespace) -> None:
    """A small network on CamVid in float32, bf16 and bf16 compiled, three seeds each."""
    forms: tuple[str, ...] = ("float32", "bf16", "bf16, compiled")
    seeds, steps, workers = 3, 300, 12
    if args.small:
        forms, seeds, steps, workers = forms[:2], 1, 2, 0
    settings = Settings(
        data=args.data,
        device=str(args.device),
        steps=steps,
        workers=workers,
        save_every=100 * steps,
    )
    found = agreement(args.out / "runs" / "agreement", settings, forms, seeds)
    print(json.dumps(found), flush=True)
    store(args, "agreement", found)


def camvid(args: argparse.Namespace) -> None:
    """The published recipe on CamVid, from scratch, crops of the images' own size, three seeds.

    R-50-D8 at R = 2, 0, 1, 3, then the other depths and strides.
    """
    found: dict[str, Any] = {}
    r50_d8 = ((50, 8, 2), (50, 8, 0), (50, 8, 1), (50, 8, 3))  # depth, output stride, recurrence
    networks = (*r50_d8, (50, 16, 2), (101, 8, 2), (101, 16, 2))
    workers, steps = (0, 2) if args.small else (12, None)
    settings = Settings(
        data=args.data,
        device=str(args.device),
        weights="none",
        log_every=100,
        workers=workers,
        steps=steps,
        resume=True,
    )
    recipe: dict[str, Any] = {
        "dataset": "camvid",
        "epochs": args.epochs,
        "crop_size": (352, 480),
        "resize": (480, 360),
    }
    if args.small:
        recipe |= {"crop_size": (32, 32), "resize": (64, 48), "batch_size": 2}
    for seed, (depth, stride, recurrence) in product(range(3), networks):
        if time.monotonic() > args.until:
            return
        base = get_config(f"ccnet_resnet{depth}os{stride}_voc")
        config = replace(base, recurrence=recurrence, **recipe)
        name = f"{config.name}_seed{seed}"
        start = time.monotonic()
        scores = train(args.out / "runs" / name, config, replace(settings, seed=seed)) or {}
        found[name] = {
            "miou": scores["miou"],
            "per_class_iou": scores["per_class_iou"],
            "seconds": time.monotonic() - start,
        }
        print(name, json.dumps(found[name]), flush=True)
        store(args, "camvid", found)


def store(args: argparse.Namespace, part: str, content: Any) -> None:
    """Write a part's results with machine, versions and commit."""
    record = {
        "machine": machine(args.device),
        "torch": torch.__version__,
        "commit": commit(),
        "attention on CUDA": FORM,
        part: content,
    }
    (args.out / f"gpu_{part}.json").write_text(json.dumps(record, indent=1) + "\n")


# What runs, and its share of the minutes.
PARTS: dict[str, Callable[[argparse.Namespace], None]] = {
    "check": check,
    "attention": attention,
    "sync": sync,
    "train": throughput,
    "infer": infer,
    "feed": feed,
    "agreement": agree,
    "camvid": camvid,
}

if __name__ == "__main__":
    ending(main)
