"""Everything that needs a GPU, in one call that ends in time: correctness, throughput of the twelve, CamVid trainings; results as JSON.

Each part writes its file as soon as it has something, so that a call cut short loses little:
  python scripts/gpu_check.py --out results/gpu --parts check throughput
  python scripts/gpu_check.py --out results/gpu --parts camvid --data ROOT --minutes 9
"""

import argparse
import json
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ccnet_lab.configs import CONFIGS, Config, get_config
from ccnet_lab.errors import LabError
from ccnet_lab.model.attention import criss_cross_attention, criss_cross_attention_plain
from ccnet_lab.training.distributed import choose_device
from ccnet_lab.training.loop import train
from ccnet_lab.training.settings import Settings
from ccnet_lab.training.throughput import measure

SHAPES = ((2, 64, 33, 47), (1, 512, 64, 64), (4, 512, 64, 128), (1, 512, 97, 97), (2, 8, 1, 9), (2, 8, 9, 1))  # (B, C, H, W)
TIMED = ((16, 512, 64, 64), (8, 512, 64, 128))  # (B, C, H, W), d = 64: stride 8 at the recipe's batch, VOC's and Cityscapes' crop
# other tiles of the Triton kernels to try, for lines up to 64 and up to 128 pixels: pixels, channels, warps, stages
FORWARD_TILES = {
    64: ((64, 128, 8, 2), (64, 64, 4, 2), (64, 256, 8, 2)),
    128: ((128, 128, 8, 2), (64, 128, 4, 2), (64, 128, 4, 3), (64, 64, 4, 3)),
}
BACKWARD_TILES = {
    64: ((64, 64, 4, 3), (64, 64, 8, 3), (64, 32, 4, 4), (64, 128, 8, 2)),
    128: ((128, 32, 8, 2), (128, 32, 8, 4), (128, 64, 8, 2)),
}


def main() -> int:
    """Run the parts in turn."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder for the JSON files and run folders")
    parser.add_argument("--parts", nargs="+", choices=list(PARTS), default=list(PARTS))
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--data", type=Path, help="a data root with CamVid, for the part camvid")
    parser.add_argument("--minutes", type=float, default=9.0, help="no new measurement or training begins after so long")
    parser.add_argument("--epochs", type=int, default=200, help="of each CamVid training")
    parser.add_argument("--small", action="store_true", help="a try of the script itself: tiny crops and batches")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    args.until = time.monotonic() + 60 * args.minutes
    try:
        args.device = choose_device(args.device)
    except LabError as error:
        parser.error(str(error))
    failed = False
    for part in args.parts:
        try:
            PARTS[part](args)
        except Exception as error:  # the other parts are worth their time on a lent machine
            failed = True
            print(f"{part}: {type(error).__name__}: {error}", file=sys.stderr)
    return int(failed)


def check(args: argparse.Namespace) -> None:
    """The attention's forms on the device against the plain form in float64 on the CPU, forward and backward, then their times."""
    forms: dict[str, Any] = {"default": criss_cross_attention}
    missing = _no_triton(args)
    if not missing:
        from ccnet_lab.model.attention_cuda import criss_cross_triton

        forms["triton"] = criss_cross_triton
    rows = []
    for batch, channels, height, width in SHAPES[:1] if args.small else SHAPES:
        for dtype in (torch.float32, torch.bfloat16, torch.float16):
            exact = [t.double().requires_grad_() for t in _inputs(batch, channels, height, width, max(1, channels // 8))]
            expected = criss_cross_attention_plain(*exact)
            gradients = torch.autograd.grad(expected.float().square().mean(), exact)
            for name, form in forms.items():
                if name == "triton" and dtype == torch.float32:
                    continue  # not taken: see attention_cuda.DTYPES
                given = [t.detach().to(args.device, dtype).requires_grad_() for t in exact]
                found = form(*given)
                results = (found, *torch.autograd.grad(found.float().square().mean(), given))
                errors = [_error(a, b) for a, b in zip((expected, *gradients), results, strict=True)]
                named = dict(zip(("out", "query", "key", "value"), errors, strict=True))
                rows.append({"form": name, "shape": [batch, channels, height, width], "dtype": str(dtype), **named})
                print(rows[-1], flush=True)
                store(args, "check", rows)
    store(args, "attention", {"skipped": missing} if missing else attention_times(args))


def attention_times(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Milliseconds of plain, compiled plain and the kernels with each tile, bfloat16, channels-last, in turn; (H + W)-wide tensors kept."""
    from ccnet_lab.model import attention_cuda

    rows: list[dict[str, Any]] = []
    tiles = attention_cuda.FORWARD, attention_cuda.BACKWARD
    for shape in TIMED:
        given = [t.to(args.device, torch.bfloat16, memory_format=torch.channels_last).requires_grad_() for t in _inputs(*shape, 64)]
        seed = torch.randn_like(given[2])
        forms = {"plain": criss_cross_attention_plain, "compiled": torch.compile(criss_cross_attention_plain)}
        forms |= _tiled(attention_cuda, *tiles, longest=max(shape[2:]))
        kept = {name: _wide_kept(form, given) for name, form in forms.items()}
        times: dict[str, list[tuple[float, float]]] = {name: [] for name in forms}
        for _ in range(33):
            for name, form in forms.items():
                marks = [torch.cuda.Event(enable_timing=True) for _ in range(3)]
                torch.cuda.synchronize()
                marks[0].record()
                out = form(*given)
                marks[1].record()
                torch.autograd.grad(out, given, seed)
                marks[2].record()
                torch.cuda.synchronize()
                times[name].append((marks[0].elapsed_time(marks[1]), marks[0].elapsed_time(marks[2])))
        for name, found in times.items():
            forward, total = (statistics.median(column) for column in zip(*found[3:], strict=True))
            rows.append({"shape": shape, "form": name, "forward_ms": forward, "total_ms": total, "wide_tensors_kept": kept[name]})
            print(rows[-1], flush=True)
        store(args, "attention", rows)
    attention_cuda.FORWARD, attention_cuda.BACKWARD = tiles
    return rows


def _tiled(kernels: Any, forward: dict[int, Any], backward: dict[int, Any], longest: int) -> dict[str, Callable[..., Tensor]]:
    """The kernels with the library's tiles, then with each other one in place of that for the longest lines."""

    def with_tiles(ahead: dict[int, Any], back: dict[int, Any]) -> Callable[..., Tensor]:
        def form(*given: Tensor) -> Tensor:
            kernels.FORWARD, kernels.BACKWARD = ahead, back
            out: Tensor = kernels.criss_cross_triton(*given)
            return out

        return form

    key = min if longest == 64 else max
    forms = {"triton": with_tiles(forward, backward)}
    forms |= {f"triton, forward {t}": with_tiles({**forward, key(forward): t}, backward) for t in FORWARD_TILES[longest]}
    forms |= {f"triton, backward {t}": with_tiles(forward, {**backward, key(backward): t}) for t in BACKWARD_TILES[longest]}
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


def _no_triton(args: argparse.Namespace) -> str:
    """Why the Triton kernels can't run here; empty where they can."""
    if args.device.type != "cuda":
        return "no CUDA device: the kernels run on GPUs only"
    return "" if find_spec("triton") else "triton isn't installed"


def _inputs(batch: int, channels: int, height: int, width: int, d: int) -> list[Tensor]:
    """Query, key and value."""
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(batch, c, height, width, generator=generator) for c in (d, d, channels)]


def throughput(args: argparse.Namespace) -> None:
    """Images per second and memory of the twelve at recipe crop and batch, in our mode and the published one, in one run."""
    found: dict[str, Any] = {}
    for name, config in CONFIGS.items():
        if time.monotonic() > args.until:
            break
        config = replace(config, crop_size=(64, 64), batch_size=2) if args.small else config
        found[name] = measure(config, args.device, repeats=1 if args.small else 3)
        print(name, json.dumps(found[name]), flush=True)
        store(args, "throughput", found)


def camvid(args: argparse.Namespace) -> None:
    """CamVid from scratch, the same budget for each: R-50-D8 at R = 2, 0, 1, 3, then the other depths and strides, then more seeds."""
    if args.data is None:
        raise LabError("the part camvid needs --data ROOT")
    found: dict[str, Any] = {}
    for seed in range(3):
        for depth, stride, recurrence in ((50, 8, 2), (50, 8, 0), (50, 8, 1), (50, 8, 3), (50, 16, 2), (101, 8, 2), (101, 16, 2)):
            if time.monotonic() > args.until:
                return
            config = camvid_config(depth, stride, recurrence, args)
            name = f"{config.name}_seed{seed}"
            settings = Settings(
                data=args.data, seed=seed, device=str(args.device), weights="none", log_every=100,
                workers=0 if args.small else 12, save_every=500, resume=True,
                steps=2 if args.small else None,
            )  # fmt: skip
            start = time.monotonic()
            scores = train(args.out / "runs" / name, config, settings) or {}
            found[name] = {"miou": scores["miou"], "per_class_iou": scores["per_class_iou"], "seconds": time.monotonic() - start}
            print(name, json.dumps(found[name]), flush=True)
            store(args, "camvid", found)


def camvid_config(depth: int, stride: int, recurrence: int, args: argparse.Namespace) -> Config:
    """The published recipe on CamVid: crops of the images' own size, the budget of `--epochs`."""
    recipe = replace(get_config(f"ccnet_resnet{depth}os{stride}_voc"), dataset="camvid", recurrence=recurrence, epochs=args.epochs)
    if args.small:
        return replace(recipe, crop_size=(32, 32), resize=(64, 48), batch_size=2)
    return replace(recipe, crop_size=(352, 480), resize=(480, 360))


def store(args: argparse.Namespace, part: str, content: Any) -> None:
    """Write a part's results with machine, versions and commit."""
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False).stdout.strip()
    cuda = args.device.type == "cuda"
    machine = torch.cuda.get_device_name(args.device) if cuda else f"{platform.machine()}, {torch.get_num_threads()} threads"
    record = {"machine": machine, "torch": torch.__version__, "commit": commit, part: content}
    (args.out / f"gpu_{part}.json").write_text(json.dumps(record, indent=1) + "\n")


def _error(expected: torch.Tensor, found: torch.Tensor) -> float:
    """The largest difference, as a share of the largest value."""
    return float((found.double().cpu() - expected).abs().max() / expected.abs().max().clamp(min=1e-30))


PARTS = {"check": check, "throughput": throughput, "camvid": camvid}

if __name__ == "__main__":
    sys.exit(main())
