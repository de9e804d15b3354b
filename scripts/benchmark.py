"""Measure ours beside its baseline in one interleaved run: training, input pipeline, inference, the map of a pixel, the attention op.

  python scripts/benchmark.py infer --json results/infer_cpu.json --figure results/infer_cpu.png

What is measured is in training/throughput.py and benchmarks/.
"""

import argparse
import json
import os
import platform
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from ccnet_lab.ending import ending

import torch

sys.path.insert(
    0, str(Path(__file__).parent.parent)
)  # for benchmarks/, which is no part of the library


from benchmarks.maps import GRIDS, time_maps
from benchmarks.network import CUDA_SHAPES, SHAPES, time_attention, time_inference
from benchmarks.samples import CORES, time_samples
from ccnet_lab.configs import CONFIGS, get_config
from ccnet_lab.device import choose_device, has_bf16
from ccnet_lab.draw.bars import Bar, speed_figure
from ccnet_lab.errors import LabError
from ccnet_lab.model.costs import commit, machine
from ccnet_lab.training.agreement import FORMS, agreement
from ccnet_lab.training.settings import Settings
from ccnet_lab.training.throughput import MODES, measure

Rows = list[dict[str, Any]]
Measured = tuple[Rows, list[Bar], str]  # for the file; for the figure; the baseline's name


def main() -> None:
    """Print a table and, with --json and --figure, store it with the machine, the versions and the commit."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="what", required=True)
    for name, (_, words, repeats) in PARTS.items():
        command = commands.add_parser(name, help=words, description=words)
        command.add_argument(
            "--repeats", type=int, default=repeats, help=f"counted rounds; {repeats}"
        )
        command.add_argument(
            "--threads", type=int, default=1 if name == "data" else torch.get_num_threads()
        )
        command.add_argument(
            "--small", action="store_true", help="a quick try: small sizes, few files"
        )
        command.add_argument("--json", type=Path, help="where to store the measurements")
        command.add_argument("--figure", type=Path, metavar="PNG", help="where to draw them")
        if name != "data":
            command.add_argument("--device", default="auto")
        if name in ("train", "infer"):
            command.add_argument(
                "--compile",
                action="store_true",
                help="ours under torch.compile, which takes minutes to start",
            )
        if name == "train":
            command.add_argument(
                "--only",
                nargs="+",
                metavar="NAME",
                default=list(CONFIGS),
                help="configurations; the twelve",
            )
            words = "instead, train a small network on CamVid in --repeats seeds and compare the precisions' losses and mIoU"
            command.add_argument("--agreement", type=Path, metavar="ROOT", help=words)
            command.add_argument(
                "--steps", type=int, default=150, help="of each training of --agreement; 150"
            )
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    try:
        args.device = choose_device("cpu" if args.what == "data" else args.device)
        rows, bars, baseline = PARTS[args.what][0](args)
    except LabError as error:
        parser.error(str(error))
    if args.json:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps({**surroundings(args), args.what: rows}, indent=1) + "\n")
    if args.figure and bars:
        args.figure.parent.mkdir(parents=True, exist_ok=True)
        speed_figure(bars, baseline, f"{PARTS[args.what][1]}\n{machine(args.device)}").savefig(
            args.figure, dpi=100
        )


def surroundings(args: argparse.Namespace) -> dict[str, Any]:
    """Commit, versions and machine."""
    packages = {
        name: version(name) for name in ("torch", "torchvision", "numpy", "opencv-python-headless")
    }
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    place = {
        "name": machine(args.device),
        "cpu": torch.backends.cpu.get_cpu_capability(),
        "threads": args.threads,
    }
    place |= {"system": platform.platform(), "load": load}
    return {
        "commit": commit(), "torch": torch.__version__, "versions": {"python": platform.python_version(), **packages}, "machine": place,
        "repeats": args.repeats, "spread": "range of the middle half of the rounds, as a share of their median",
    }  # fmt: skip


def train(args: argparse.Namespace) -> Measured:
    """Training steps."""
    if args.agreement:
        return agree(args)
    rows, bars = [], []
    table(
        "configuration",
        "batch, crop",
        "images/s, published mode",
        "ours",
        "ratio",
        "ours compiled",
        "ratio",
        "its warm-up, s",
    )
    for name in args.only[:1] if args.small else args.only:
        config = get_config(name)
        config = replace(config, crop_size=(64, 64), batch_size=2) if args.small else config
        found = measure(
            config,
            args.device,
            repeats=args.repeats,
            steps=1 if args.small else 5,
            compiled=args.compile,
        )
        rows.append({"name": name, **found})
        modes = [found.get(mode, {}) for mode in MODES]
        rates = [
            f"{mode['images_per_second']:.2f} ± {50 * mode['spread']:.0f} %"
            if "spread" in mode
            else "-"
            for mode in modes
        ]
        ratios = [
            f"{found[ratio]:.2f}" if ratio in found else "-"
            for ratio in ("ratio", "compiled_ratio")
        ]
        warm_up = f"{modes[2]['warm_up']:.0f}" if "warm_up" in modes[2] else "-"
        size = f"{found['batch']}, {found['crop'][0]} x {found['crop'][1]}"
        table_row(name, size, *rates[:2], ratios[0], rates[2], ratios[1], warm_up)
        for mode, ratio, rate in (
            ("", "ratio", rates[1]),
            (", compiled", "compiled_ratio", rates[2]),
        ):
            if ratio in found:
                bars.append(
                    Bar(
                        name + mode,
                        found[ratio],
                        f"{rates[0]} to {rate} images/s",
                        6.0 if args.device.type == "cuda" else None,
                    )
                )
    return rows, bars, "published mode: float32, contiguous, eager, einsum"


def agree(args: argparse.Namespace) -> Measured:
    """Short trainings on CamVid, float32 beside bf16 (and both compiled): losses and mIoU against the spread of the seeds."""
    forms = tuple(form for form in FORMS if args.compile or "compiled" not in form)
    settings = Settings(
        data=args.agreement, device=str(args.device), steps=args.steps, save_every=1000
    )
    with tempfile.TemporaryDirectory() as folder:
        found = agreement(Path(folder), settings, forms, args.repeats)
    table("form", "seed", "loss", "mIoU %")
    for run in found["runs"]:
        table_row(run["form"], str(run["seed"]), f"{run['loss']:.4f}", f"{100 * run['miou']:.2f}")
    for form, gap in found["difference"].items():
        words = f"{form}: loss {gap['loss']:+.4f} (seeds spread {found['spread']['loss']:.4f}), "
        words += (
            f"mIoU {100 * gap['miou']:+.2f} points (spread {100 * found['spread']['miou']:.2f})"
        )
        print(f"{words}: {'within' if found['agrees'][form] else 'BEYOND'} the spread")
    return [found], [], ""


def data(args: argparse.Namespace) -> Measured:
    """The input pipeline."""
    rows, bars = [], []
    targets = {("voc", "files"): 1.8, ("cityscapes", "files"): 1.25, ("cityscapes", "cache"): 7.0}
    per_core = f"images/s per core; needed of {CORES}"
    table(
        "data set",
        "from",
        "file, kB",
        "recipe's order from files, ms, read + transforms",
        "ours",
        "ratio",
        per_core,
    )
    for key in ("voc", "cityscapes"):
        with tempfile.TemporaryDirectory() as folder:
            found = time_samples(key, Path(folder), *((1, 1) if args.small else (6, args.repeats)))
        for t in found:
            recipe = f"{1e3 * t.recipe_read:.1f} + {1e3 * t.recipe_transform:.1f} ± {50 * t.recipe_spread:.0f} %"
            ours = f"{1e3 * t.read:.1f} + {1e3 * t.transform:.1f} ± {50 * t.spread:.0f} %"
            rate = f"{t.images_per_second:.1f}; {t.needed:.1f}"
            table_row(
                key, t.source, f"{t.file_bytes / 1e3:.0f}", recipe, ours, f"{t.ratio:.2f}", rate
            )
            rows.append({**t._asdict(), "images_per_second": t.images_per_second, "ratio": t.ratio})
            rates = f"{t.images_per_second / t.ratio:.1f} to {t.images_per_second:.1f} images/s"
            bars.append(Bar(f"{key}, {t.source}", t.ratio, rates, targets.get((key, t.source))))
    return rows, bars, f"the recipe's order, {rows[0]['tool']}"


def infer(args: argparse.Namespace) -> Measured:
    """Inference of R-50-D8 on VOC's classes."""
    cuda = args.device.type == "cuda"
    size, batch = ((64, 96), 1) if args.small else ((512, 512), 16 if cuda else 1)
    found = time_inference(
        get_config("ccnet_resnet50os8_voc"), size, batch, args.repeats, args.device, args.compile
    )
    table(
        "form",
        "ms per call",
        "images/s",
        "ratio",
        "labels equal",
        "largest difference of logits, of largest logit",
    )
    for f in found:
        time = f"{1e3 * f.median:.0f} ± {50 * f.spread:.0f} %"
        differences = f"{f.logit_difference:.2g}, {f.largest_logit:.2g}"
        table_row(
            f.form,
            time,
            f"{batch / f.median:.2f}",
            f"{f.ratio:.2f}",
            f"{100 * f.labels_equal:.2f} %",
            differences,
        )
    if not has_bf16(args.device):
        print(f"| bf16 | no bf16 units here ({machine(args.device)}) |")
    what = f"{batch} x {size[0]} x {size[1]}"
    bars = [
        Bar(
            f.form,
            f.ratio,
            f"{1e3 * f.median:.0f} ms, {what}",
            5.0 if cuda or "bf16" in f.form else 1.25,
        )
        for f in found[1:]
    ]
    return (
        [{**f._asdict(), "size": size, "bf16_units": has_bf16(args.device)} for f in found],
        bars,
        found[0].form,
    )


def explore(args: argparse.Namespace) -> Measured:
    """The map of a pixel, queries and keys cached."""
    rows: Rows = []
    bars = []
    table("cells", "R", "ours, ms", "dense matrices, ms", "ratio")
    for grid in ((24, 32),) if args.small else GRIDS:
        for t in time_maps(grid, args.repeats, args.device):
            ours, dense, name = (
                f"{1e3 * t.median:.2f} ± {50 * t.spread:.0f} %",
                "",
                f"R = {t.recurrence}, {grid[0]} x {grid[1]} cells",
            )
            if t.ratio is not None and t.dense_median is not None and t.dense_spread is not None:
                dense = f"{1e3 * t.dense_median:.1f} ± {50 * t.dense_spread:.0f} %"
                bars.append(
                    Bar(name, t.ratio, f"{1e3 * t.dense_median:.0f} to {1e3 * t.median:.2f} ms")
                )
            table_row(
                f"{grid[0]} x {grid[1]}",
                str(t.recurrence),
                ours,
                dense,
                "" if t.ratio is None else f"{t.ratio:.0f}",
            )
            rows.append({**t._asdict(), "ratio": t.ratio})
    return rows, bars, "the row through dense matrices"


def attention(args: argparse.Namespace) -> Measured:
    """The step x + gamma * attention."""
    cuda = args.device.type == "cuda"
    shapes = ((1, 128, 24, 32),) if args.small else CUDA_SHAPES if cuda else SHAPES
    rows, bars = [], []
    table(
        "features",
        "form",
        "forward, einsum / ours ms",
        "ratio",
        "forward + backward, einsum / ours ms",
        "ratio",
        "kept, MiB",
        "ratio",
    )
    for t in (
        t
        for shape in shapes
        for t in time_attention(shape, args.repeats, device=args.device, compiled=not args.small)
    ):
        place = f"{t.shape[0]} x {t.shape[2]} x {t.shape[3]}{t.form.removeprefix('ours')}"
        target = 8.0 if cuda else 3.2 if "compiled" in t.form else 2.4
        cells = []
        for what, ratio, before, loose, after, spread in (
            (
                "forward",
                t.forward_ratio,
                t.plain_forward,
                t.plain_forward_spread,
                t.fast_forward,
                t.fast_forward_spread,
            ),
            ("both", t.total_ratio, t.plain_total, t.plain_spread, t.fast_total, t.fast_spread),
        ):
            cells += [
                f"{1e3 * before:.1f} ± {50 * loose:.0f} % / {1e3 * after:.1f} ± {50 * spread:.0f} %",
                f"{ratio:.2f}",
            ]
            if not (cuda and what == "forward"):
                bars.append(
                    Bar(
                        f"{place}, {what}",
                        ratio,
                        f"{1e3 * before:.1f} to {1e3 * after:.1f} ms",
                        target,
                    )
                )
        kept, memory = (
            t.fast_saved / t.plain_saved,
            f"{t.plain_saved / 2**20:.1f} / {t.fast_saved / 2**20:.1f}",
        )
        table_row(" x ".join(map(str, t.shape)), t.form, *cells, memory, f"{kept:.2f}")
        rows.append(
            {
                **t._asdict(),
                "forward_ratio": t.forward_ratio,
                "total_ratio": t.total_ratio,
                "saved_ratio": kept,
            }
        )
    return rows, bars, "einsum in its faster layout; both: forward and backward"


def table(*names: str) -> None:
    """A table's head."""
    table_row(*names)
    table_row(*["---"] * len(names))


def table_row(*cells: str) -> None:
    """A row of it."""
    print(f"| {' | '.join(cells)} |", flush=True)


PARTS: dict[
    str, tuple[Callable[[argparse.Namespace], Measured], str, int]
] = {  # what runs, what it says of itself, rounds
    "train": (train, "training images per second", 3),
    "data": (data, "training samples per second and core, from files to tensors", 15),
    "infer": (infer, "inference, R-50-D8", 7),
    "explore": (explore, "the map of a pixel, queries and keys at hand", 25),
    "attention": (attention, "the attention op, forward and backward", 15),
}


if __name__ == "__main__":
    ending(main)
