"""Everything that needs a GPU, in one call of eight minutes, the most valuable first.

Each part is a process with a deadline, and writes its results as they come, as JSON into --out:
  python -m benchmarks.gpu --out results/gpu --data ROOT
  python -m benchmarks.gpu --out results/gpu --parts train --only '*_cityscapes' --minutes 9
While the first parts run, other processes compile the twelve networks, so that `train` finds their
programs in a cache.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from itertools import product
from pathlib import Path
from typing import Any

from ccnet_lab.ending import ending, guarded

SECONDS = {  # of each part; the first six are the call of eight minutes
    "op": 60,
    "exact": 60,
    "train": 180,
    "attention": 60,
    "infer": 30,
    "camvid": 90,
    "feed": 60,
    "agreement": 180,
}
PARTS = list(SECONDS)[:6]
GRACE = 20  # seconds that a part may take longer, to write what it has
COMPILING = 3  # networks at once, beside the first parts
FEW: dict[str, Any] = {"divisor": 8, "channels": 64, "query_channels": 8}  # channels, for --small


def options() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    option = parser.add_argument
    option("--out", type=Path, required=True, help="folder for JSON files and runs")
    option("--parts", nargs="+", choices=[*SECONDS, "compile"], default=PARTS)
    option("--device", default="cuda")
    option("--data", type=Path, help="a data root with CamVid, for the parts agreement and camvid")
    option("--minutes", type=float, help="of all parts together, instead of their own seconds")
    option("--only", nargs="+", metavar="GLOB", help="for the part train, such as '*os8_voc'")
    option("--epochs", type=int, default=60, help="of each training of camvid")
    option("--small", action="store_true", help="a rehearsal: all is tiny, no programs")
    return parser


if __name__ == "__main__":
    guarded(options().parse_args)  # --help need not wait for what follows

import torch
from torch import Tensor, nn

from benchmarks.network import CUDA_SHAPES, time_inference
from benchmarks.precisions import agreement
from benchmarks.samples import make_files
from benchmarks.timing import commit
from benchmarks.training import feeding, measure, without_dropout
from ccnet_lab.configs import Config, get_config
from ccnet_lab.device import choose_device, has_bf16, set_arithmetic
from ccnet_lab.errors import LabError
from ccnet_lab.model.attention import FORM, criss_cross_attention, criss_cross_attention_plain
from ccnet_lab.model.ccnet import build_model
from ccnet_lab.model.costs import machine
from ccnet_lab.training.campaign import select
from ccnet_lab.training.distributed import Processes
from ccnet_lab.training.loop import train
from ccnet_lab.training.settings import Settings
from ccnet_lab.training.step import Stepper
from ccnet_lab.training.throughput import made_batch, new_stepper, training_step

# (B, C, H, W), checked against float64.
SHAPES: tuple[tuple[int, int, int, int], ...] = (
    (2, 64, 33, 47),
    (4, 512, 64, 64),
    (2, 512, 64, 128),
    (1, 512, 97, 97),
    (2, 8, 1, 9),
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
    seconds = 60 * args.minutes if args.minutes else sum(map(_seconds, args.parts))
    args.out.mkdir(parents=True, exist_ok=True)
    args.until = time.monotonic() + seconds
    try:
        args.device = choose_device(args.device)
        if len(args.parts) > 1:
            return one_by_one(args, seconds)
        if args.parts[0] in ("agreement", "camvid") and args.data is None:
            raise LabError(f"the part {args.parts[0]} needs --data ROOT")
        RUN[args.parts[0]](args)
    except LabError as error:
        options().error(str(error))
    return 0


def _seconds(part: str) -> int:
    return SECONDS.get(part, 600)


def one_by_one(args: argparse.Namespace, seconds: float) -> int:
    """Run each part in a process with its share of the seconds; what others leave is for the last.

    Raises `Stopped` on SIGTERM or Ctrl-C.
    """
    begun, failed, took = time.monotonic(), list[str](), dict[str, float]()
    unit = seconds / sum(map(_seconds, args.parts))
    environment = {**os.environ, "TORCHINDUCTOR_CACHE_DIR": str((args.out / "programs").absolute())}
    with _compiling(args, environment) as compilers:
        for part in args.parts:
            if part == "train":  # it has the GPU to itself
                _end(compilers, begun + unit * sum(map(_seconds, ("op", "exact"))))
            share = unit * _seconds(part)
            if part == args.parts[-1]:
                share = max(share, begun + seconds - time.monotonic())
            print(f"{part}: at most {share:.0f} s", flush=True)
            start = time.monotonic()
            process = _start(part, share / 60, environment)
            # It may hang in a call that takes no signal.
            for patience, end in ((share + GRACE, process.terminate), (5, process.kill)):
                try:
                    process.wait(patience)
                except subprocess.TimeoutExpired:
                    end()
            if process.wait():
                failed.append(part)
            took[part] = round(time.monotonic() - start, 1)
            (args.out / "gpu.json").write_text(json.dumps({"seconds": took, "failed": failed}))
    if failed:
        print(f"failed, or out of time: {', '.join(failed)}", file=sys.stderr)
    return int(bool(failed))


def _start(part: str, minutes: float, environment: dict[str, str]) -> "subprocess.Popen[bytes]":
    # The last --parts and --minutes of a command line count.
    last = ["--parts", part, "--minutes", str(minutes)]
    command = [sys.executable, "-m", "benchmarks.gpu", *sys.argv[1:], *last]
    path = f"{Path(__file__).parents[1]}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"
    return subprocess.Popen(command, env={**environment, "PYTHONPATH": path})


@contextmanager
def _compiling(
    args: argparse.Namespace, environment: dict[str, str]
) -> "Iterator[list[subprocess.Popen[bytes]]]":
    """Processes that compile the networks of the part train, if it comes and they are compiled."""
    wanted = "train" in args.parts and not args.small and args.device.type == "cuda"
    found = []
    for number in range(COMPILING if wanted else 0):
        found.append(_start("compile", 10, {**environment, "COMPILES": str(number)}))
    try:
        yield found
    finally:
        _end(found, 0)


def _end(processes: "list[subprocess.Popen[bytes]]", until: float) -> None:
    """Wait for processes, and end those that are not through in time."""
    for process in processes:
        with suppress(subprocess.TimeoutExpired):
            process.wait(max(0.1, until - time.monotonic()))
        process.kill()
        process.wait()


def compile_networks(args: argparse.Namespace) -> None:
    """One step of every third of the networks, so that its program is in the cache."""
    number = int(os.environ.get("COMPILES", 0))
    for config in list(select(args.only))[number::COMPILING]:
        training_step(without_dropout(config), args.device, has_bf16(args.device), True)()
        torch.cuda.empty_cache()


def op(args: argparse.Namespace) -> None:
    """The attention's forms on the device against the plain form in float64, both passes."""
    forms: dict[str, Any] = {
        "plain": criss_cross_attention_plain,
        "default": criss_cross_attention,
    }
    if not args.small:
        forms["compiled"] = torch.compile(criss_cross_attention, dynamic=False)
    if kernels := _kernels(args):
        forms["triton"] = kernels.criss_cross_triton
    rows = []
    dtypes = (torch.bfloat16, torch.float32, torch.float16)
    for dtype, shape in product(dtypes, SHAPES[:1] if args.small else SHAPES):
        if time.monotonic() > args.until:
            return
        given = _inputs(*shape, max(1, shape[1] // 8))
        exact = [t.to(args.device).double().requires_grad_() for t in given]
        expected = _with_gradients(criss_cross_attention_plain, exact)
        for name, form in forms.items():
            if name == "triton" and dtype == torch.float32:
                continue  # not taken: see attention_cuda.DTYPES
            row: dict[str, Any] = {"form": name, "shape": list(shape), "dtype": str(dtype)}
            try:
                found = _with_gradients(
                    form, [t.to(dtype).detach().requires_grad_() for t in exact]
                )
                row |= {  # the largest difference, as a share of the largest value
                    what: float((b.double() - a).abs().max() / a.abs().max().clamp(min=1e-30))
                    for what, a, b in zip(
                        ("out", "query", "key", "value"), expected, found, strict=True
                    )
                }
            except RuntimeError as error:  # no compiler, or a kernel that does not run
                row["error"] = " ".join(str(error).split())[:300]
            rows.append(row)
            print(row, flush=True)
            store(args, "op", rows)


def _with_gradients(form: Callable[..., Tensor], given: list[Tensor]) -> tuple[Tensor, ...]:
    out = form(*given)
    return tuple(
        t.detach() for t in (out, *torch.autograd.grad(out.float().square().mean(), given))
    )


def attention(args: argparse.Namespace) -> None:
    """Time plain, compiled plain and the kernels with each tile, in turn, bfloat16, channels-last.

    Rows hold milliseconds and how many tensors with an axis of H + W are kept.
    """
    rows: list[dict[str, Any]] = []
    kernels = _kernels(args)
    forward, backward = (kernels.FORWARD, kernels.BACKWARD) if kernels else ({}, {})
    for shape in ((1, 64, 16, 24),) if args.small else CUDA_SHAPES:
        if time.monotonic() > args.until:
            return
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
        for turn in range(5 if args.small else 33):
            if turn > 4 and time.monotonic() > args.until:
                break
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


def exact(args: argparse.Namespace) -> None:
    """What a training promises: the host never waits, resuming is exact, SyncBN compiles."""
    found: dict[str, Any] = {}
    small = replace(get_config("ccnet_resnet50os16_voc"), crop_size=(64, 64), batch_size=2)
    small = _shrunk(small, args)
    street = replace(get_config("street"), crop_size=(64, 64), batch_size=2)
    losses = replace(street, ohem=True, category_loss=0.1)
    checks: dict[str, Callable[[], str]] = {
        "resumed bit by bit, deterministic": partial(_resumed, street, args.device),
        "waits, street with every loss": partial(_waits, losses, args.device, False),
        "waits, R-50-D16": partial(_waits, small, args.device, False),
    }
    if not args.small:
        checks["waits, street with every loss, compiled"] = partial(
            _waits, losses, args.device, True
        )
        checks["SyncBatchNorm, compiled"] = partial(_synchronised, small, args.device)
        checks["waits, R-50-D16, compiled"] = partial(_waits, small, args.device, True)
    for name, run in checks.items():
        if time.monotonic() > args.until:
            return
        try:
            found[name] = run()
        except Exception as error:  # torch raises many kinds
            found[name] = f"failed: {type(error).__name__}: {' '.join(str(error).split())[:300]}"
        print(name, found[name], flush=True)
        store(args, "exact", found)


def _resumed(config: Config, device: torch.device) -> str:
    """Six steps, and three with three more after saving and loading, with the same numbers."""
    set_arithmetic(deterministic=True)
    batch = made_batch(config, device)
    try:

        def begin() -> Stepper:
            torch.manual_seed(0)
            return new_stepper(config, device, has_bf16(device), False)

        def advance(stepper: Stepper, steps: range) -> Stepper:
            for step in steps:
                torch.manual_seed(step)
                stepper(batch)
            return stepper

        whole, first = advance(begin(), range(6)), advance(begin(), range(3))
        with tempfile.TemporaryFile() as file:
            torch.save([first.model.state_dict(), first.optimizer.state_dict()], file)
            file.seek(0)
            state = torch.load(file, map_location="cpu", weights_only=True)
        second = begin()
        second.model.load_state_dict(state[0])
        second.optimizer.load_state_dict(state[1])
        resumed = advance(second, range(3, 6)).model.state_dict()
    finally:
        set_arithmetic()
    other = [n for n, value in whole.model.state_dict().items() if not value.equal(resumed[n])]
    return "equal" if not other else f"{len(other)} tensors differ, such as {other[0]}"


def _synchronised(config: Config, device: torch.device) -> str:
    """A compiled step with synchronised batch norms, in a group of one process."""
    backend, losses = "nccl" if device.type == "cuda" else "gloo", []
    batch, folder = made_batch(config, device), tempfile.mkdtemp()
    where = (Path(folder) / "group").as_uri()
    torch.distributed.init_process_group(backend, where, rank=0, world_size=1)
    try:
        for synchronised in (False, True):
            torch.manual_seed(0)
            model = build_model(without_dropout(config)).to(device)
            if synchronised:
                model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
            stepper = Stepper(
                model, config, Processes(0, 1, device), bf16=has_bf16(device), compiled=synchronised
            )
            losses.append(float(stepper(batch)[0][0]))
    finally:
        torch.distributed.destroy_process_group()
    return f"losses {losses[0]:.4f} and {losses[1]:.4f}"


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
    """Images per second, memory and first loss of the twelve beside the published mode."""
    found: dict[str, Any] = {}
    repeats, steps = (1, 1) if args.small else (2, 3)
    for config in select(args.only):
        if time.monotonic() > args.until:
            return
        config = _shrunk(config, args)
        modes = ("published", "ours" if args.small else "compiled")
        found[config.name] = measure(without_dropout(config), args.device, repeats, steps, modes)
        print(config.name, json.dumps(found[config.name]), flush=True)
        store(args, "train", found)


def _shrunk(config: Config, args: argparse.Namespace) -> Config:
    """The configuration; for --small with few channels, a tiny crop and batch."""
    return replace(config, **FEW, crop_size=(64, 64), batch_size=2) if args.small else config


def infer(args: argparse.Namespace) -> None:
    """Inference of R-50-D8 in every form, batch 16 at 512x512."""
    size, batch, repeats = ((64, 96), 1, 1) if args.small else ((512, 512), 16, 7)
    config = _shrunk(get_config("ccnet_resnet50os8_voc"), args)
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

    R-50-D16, R-50-D8 at R = 2, 0, 1, 3, then the deeper ones.
    """
    found: dict[str, Any] = {}
    r50_d8 = ((50, 8, 2), (50, 8, 0), (50, 8, 1), (50, 8, 3))  # depth, output stride, recurrence
    networks: list[tuple[int, int, int]] = [(50, 16, 2), *r50_d8, (101, 8, 2), (101, 16, 2)]
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
        recipe |= {**FEW, "crop_size": (32, 32), "resize": (64, 48), "batch_size": 2}
        networks = networks[::3]
    seeds = range(1 if args.small else 3)
    for seed, (depth, stride, recurrence) in product(seeds, networks):
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


RUN: dict[str, Callable[[argparse.Namespace], None]] = {
    "op": op,
    "exact": exact,
    "train": throughput,
    "attention": attention,
    "infer": infer,
    "camvid": camvid,
    "feed": feed,
    "agreement": agree,
    "compile": compile_networks,
}

if __name__ == "__main__":
    ending(main)
