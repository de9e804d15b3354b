"""Time this library beside its baselines, interleaved: training, data, inference, maps, attention.

  python scripts/benchmark.py infer --json results/infer_cpu.json --figure results/infer_cpu.png

What is timed is in benchmarks/.
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
from importlib.resources import files
from pathlib import Path
from typing import Any

from ccnet_lab.ending import ending, guarded

from ccnet_lab.configs import CONFIGS

TITLES = {  # and how many rounds count
    "train": ("training images per second", 3),
    "data": ("training samples per second and core, from files to tensors", 15),
    "infer": ("inference, R-50-D8", 7),
    "look": ("a picture in the explorer, in bfloat16 beside float32", 3),
    "explore": ("the map of a pixel, queries and keys cached", 25),
    "attention": ("the attention op, forward and backward", 15),
}


def options() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.set_defaults(error=parser.error)
    commands = parser.add_subparsers(dest="part", required=True)
    for name, (title, repeats) in TITLES.items():
        command = commands.add_parser(name, help=title, description=title)
        command.add_argument(
            "--repeats", type=int, default=repeats, help=f"counted rounds; {repeats}"
        )
        command.add_argument("--threads", type=int, default=1 if name == "data" else None)
        command.add_argument("--small", action="store_true", help="a quick try: small sizes")
        command.add_argument("--json", type=Path, help="where to store the measurements")
        command.add_argument("--figure", type=Path, metavar="PNG", help="where to draw them")
        if name != "data":
            command.add_argument("--device", default="auto")
        if name in ("train", "infer"):
            command.add_argument(
                "--compile", action="store_true", help="also under torch.compile; slow to start"
            )
        if name == "infer":
            command.add_argument(
                "--runtimes",
                action="store_true",
                help="also ONNX Runtime and OpenVINO, if installed",
            )
        if name == "look":
            command.add_argument(
                "--data",
                type=Path,
                metavar="ROOT",
                help="look at CamVid's test pictures there; without, at the packaged ones",
            )
        if name == "train":
            command.add_argument(
                "--only",
                nargs="+",
                metavar="NAME",
                default=list(CONFIGS),
                help="configurations; the twelve",
            )
            command.add_argument(
                "--agreement",
                type=Path,
                metavar="ROOT",
                help="instead, train a small network on CamVid in --repeats seeds and compare the "
                "precisions' losses and mIoU",
            )
            command.add_argument(
                "--steps", type=int, default=150, help="of each training of --agreement; 150"
            )
    return parser


if __name__ == "__main__":
    guarded(options().parse_args)  # --help need not wait for what follows

import torch

sys.path.insert(0, str(Path(__file__).parent.parent))  # for benchmarks/, outside the library

from benchmarks.maps import GRIDS, time_maps
from benchmarks.network import CUDA_SHAPES, FLOOR, SHAPES, Timing, time_attention, time_inference
from benchmarks.precisions import FORMS, agreement, compare_looks
from benchmarks.samples import CORES, time_samples
from benchmarks.timing import Times, commit
from benchmarks.training import MODES, measure
from ccnet_lab.configs import get_config
from ccnet_lab.data.catalog import get_dataset
from ccnet_lab.data.datasets import open_split
from ccnet_lab.device import choose_device, has_bf16
from ccnet_lab.draw.charts import Bar, speed_figure
from ccnet_lab.errors import LabError
from ccnet_lab.hub import load
from ccnet_lab.model.ccnet import build_model
from ccnet_lab.model.costs import machine
from ccnet_lab.training.settings import Settings

Rows = list[dict[str, Any]]
Result = tuple[Rows, list[Bar], str]  # for the file; for the figure; the baseline's name


def main() -> None:
    """Print a table and, with --json and --figure, store it with machine, versions and commit."""
    args = options().parse_args()
    args.threads = args.threads or torch.get_num_threads()
    torch.set_num_threads(args.threads)
    run, (title, _) = PARTS[args.part], TITLES[args.part]
    try:
        args.device = choose_device("cpu" if args.part == "data" else args.device)
        rows, bars, baseline = run(args)
    except LabError as error:
        args.error(str(error))
    if args.json:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps({**_circumstances(args), args.part: rows}, indent=1) + "\n")
    if args.figure and bars:
        args.figure.parent.mkdir(parents=True, exist_ok=True)
        figure = speed_figure(bars, baseline, f"{title}\n{machine(args.device)}")
        figure.savefig(args.figure, dpi=100)


def _circumstances(args: argparse.Namespace) -> dict[str, Any]:
    """Commit, versions and machine."""
    packages = ("torch", "torchvision", "numpy", "opencv-python-headless")
    return {
        "commit": commit(),
        "torch": torch.__version__,
        "versions": {
            "python": platform.python_version(),
            **{name: version(name) for name in packages},
        },
        "machine": {
            "name": machine(args.device),
            "cpu": torch.backends.cpu.get_cpu_capability(),
            "threads": args.threads,
            "system": platform.platform(),
            "load": os.getloadavg()[0],
        },
        "repeats": args.repeats,
        "spread": "range of the middle half of the rounds, as a share of their median",
    }


def train(args: argparse.Namespace) -> Result:
    """Training steps."""
    if args.agreement:
        return _agreement(args)
    rows, bars = [], []
    _table(
        "configuration",
        "batch, crop",
        "images/s, published mode",
        "ours",
        "ratio",
        "ours compiled",
        "ratio",
        "its warm-up, s",
    )
    target = 6.0 if args.device.type == "cuda" else None
    for name in args.only[:1] if args.small else args.only:
        config = get_config(name)
        if args.small:
            config = replace(config, crop_size=(64, 64), batch_size=2)
        steps = 1 if args.small else 5
        found = measure(config, args.device, args.repeats, steps, MODES[: 2 + args.compile])
        rows.append({"name": name, **found})
        modes = [found.get(mode, {}) for mode in MODES]
        rates = [
            f"{mode['images_per_second']:.2f}{_spread(mode['spread'])}" if "spread" in mode else "-"
            for mode in modes
        ]
        kinds = ("ratio", "compiled_ratio")
        ratios = [f"{found[kind]:.2f}" if kind in found else "-" for kind in kinds]
        warm_up = f"{modes[2]['warm_up']:.0f}" if "warm_up" in modes[2] else "-"
        size = f"{found['batch']}, {found['crop'][0]} x {found['crop'][1]}"
        _row(name, size, *rates[:2], ratios[0], rates[2], ratios[1], warm_up)
        for label, kind, rate in zip((name, f"{name}, compiled"), kinds, rates[1:], strict=True):
            if kind in found:
                bars.append(Bar(label, found[kind], f"{rates[0]} to {rate} images/s", target))
    return rows, bars, "published mode: float32, contiguous, eager, einsum"


def _agreement(args: argparse.Namespace) -> Result:
    """Short trainings on CamVid: float32 beside bf16 (and both compiled), against the seeds."""
    forms = tuple(form for form in FORMS if args.compile or "compiled" not in form)
    settings = Settings(
        data=args.agreement, device=str(args.device), steps=args.steps, save_every=1000
    )
    with tempfile.TemporaryDirectory() as folder:
        found = agreement(Path(folder), settings, forms, args.repeats)
    _table("form", "seed", "loss", "mIoU %")
    for run in found["runs"]:
        _row(run["form"], str(run["seed"]), f"{run['loss']:.4f}", f"{100 * run['miou']:.2f}")
    loss, miou = found["spread"]["loss"], 100 * found["spread"]["miou"]
    for form, gap in found["difference"].items():
        print(
            f"{form}: loss {gap['loss']:+.4f} (seeds spread {loss:.4f}), "
            f"mIoU {100 * gap['miou']:+.2f} points (spread {miou:.2f}): "
            f"{'within' if found['agrees'][form] else 'BEYOND'} the spread"
        )
    return [found], [], ""


def data(args: argparse.Namespace) -> Result:
    """The input pipeline."""
    rows, bars = [], []
    targets = {("voc", "files"): 1.8, ("cityscapes", "files"): 1.25, ("cityscapes", "cache"): 7.0}
    _table(
        "data set",
        "from",
        "file, kB",
        "recipe's order from files, ms, read + transforms",
        "ours",
        "ratio",
        f"images/s per core; needed of {CORES}",
    )
    images, repeats = (1, 1) if args.small else (6, args.repeats)
    for key in ("voc", "cityscapes"):
        with tempfile.TemporaryDirectory() as folder:
            found = time_samples(key, Path(folder), images, repeats)
        for t in found:
            recipe = f"{1e3 * t.recipe_read:.1f} + {1e3 * t.recipe_transform:.1f}"
            ours = f"{1e3 * t.read:.1f} + {1e3 * t.transform:.1f}"
            _row(
                key,
                t.source,
                f"{t.file_bytes / 1e3:.0f}",
                recipe + _spread(t.recipe_spread),
                ours + _spread(t.spread),
                f"{t.ratio:.2f}",
                f"{t.images_per_second:.1f}; {t.needed:.1f}",
            )
            rows.append({**t._asdict(), "images_per_second": t.images_per_second, "ratio": t.ratio})
            rates = f"{t.images_per_second / t.ratio:.1f} to {t.images_per_second:.1f} images/s"
            bars.append(Bar(f"{key}, {t.source}", t.ratio, rates, targets.get((key, t.source))))
    return rows, bars, f"the recipe's order, {rows[0]['tool']}"


def infer(args: argparse.Namespace) -> Result:
    """Inference of R-50-D8 on VOC's classes."""
    cuda, bf16 = args.device.type == "cuda", has_bf16(args.device)
    size, batch = ((64, 96), 1) if args.small else ((512, 512), 16 if cuda else 1)
    config = get_config("ccnet_resnet50os8_voc")
    with tempfile.TemporaryDirectory() as folder:
        others = Path(folder) if args.runtimes else None
        found = time_inference(config, size, batch, args.repeats, args.device, args.compile, others)
    differences = "largest difference of logits, of largest logit"
    _table("form", "ms per call", "images/s", "ratio", "labels equal", differences)
    for f in found:
        _row(
            f.form,
            f"{1e3 * f.median:.0f}{_spread(f.spread)}",
            f"{batch / f.median:.2f}",
            f"{f.ratio:.2f}",
            f"{100 * f.labels_equal:.2f} %",
            f"{f.logit_difference:.2g}, {f.largest_logit:.2g}",
        )
    if not bf16:
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
    rows = [{**f._asdict(), "size": size, "bf16_units": bf16} for f in found]
    return rows, bars, found[0].form


def look(args: argparse.Namespace) -> Result:
    """Pictures in the explorer: the street model, and R-50-D8 with random weights."""
    street, wide = load("street", args.device), get_config("ccnet_resnet50os8_voc")
    pictures = sorted(Path(str(files("ccnet_lab").joinpath("assets"))).glob("*.jpg"))
    if args.data:
        split = open_split(get_dataset("camvid"), args.data, "test")
        pictures = [pair.image for pair in split.pairs]
    several = [path for path in pictures[:1] for _ in range(1 if args.small else args.repeats)]
    found = compare_looks(*street, pictures[: 2 if args.small else None], args.device)
    if not args.small:
        torch.manual_seed(0)
        found += compare_looks(build_model(wide), wide, several, args.device, short=512)
    _table(
        "model", "precision", "pictures", "ms", "ratio", "labels equal", "map's weight elsewhere"
    )
    for f in found:
        _row(
            f.model,
            f.precision,
            str(f.pictures),
            f"{1e3 * f.median:.0f}{_spread(f.spread)}",
            f"{f.ratio:.2f}",
            f"{100 * f.labels_equal:.2f} %, least {100 * f.fewest_equal:.2f} %",
            f"{100 * f.map_difference:.2f} %, most {100 * f.largest_map_difference:.2f} %",
        )
    bars = [Bar(f.model, f.ratio, f"{1e3 * f.median:.0f} ms") for f in found[1::2]]
    return [f._asdict() for f in found], bars, "float32"


def explore(args: argparse.Namespace) -> Result:
    """The map of a pixel, queries and keys cached."""
    rows: Rows = []
    bars = []
    _table("cells", "R", "ours, ms", "dense matrices, ms", "ratio")
    for grid in ((24, 32),) if args.small else GRIDS:
        cells = f"{grid[0]} x {grid[1]}"
        for t in time_maps(grid, args.repeats, args.device):
            ours = f"{1e3 * t.median:.2f}{_spread(t.spread)}"
            dense = ratio = ""
            if t.ratio is not None and t.dense_median is not None and t.dense_spread is not None:
                dense = f"{1e3 * t.dense_median:.1f}{_spread(t.dense_spread)}"
                ratio = f"{t.ratio:.0f}"
                times = f"{1e3 * t.dense_median:.0f} to {1e3 * t.median:.2f} ms"
                bars.append(Bar(f"R = {t.recurrence}, {cells} cells", t.ratio, times))
            _row(cells, str(t.recurrence), ours, dense, ratio)
            rows.append({**t._asdict(), "ratio": t.ratio})
    return rows, bars, "the row through dense matrices"


def attention(args: argparse.Namespace) -> Result:
    """The step x + gamma * attention."""
    cuda = args.device.type == "cuda"
    rows, bars = [], []
    _table(
        "features",
        "form",
        "forward, einsum / ours ms",
        "ratio",
        "forward + backward, einsum / ours ms",
        "ratio",
        "kept, MiB",
        "ratio",
    )
    for shape in ((1, 128, 24, 32),) if args.small else CUDA_SHAPES if cuda else SHAPES:
        for t in time_attention(shape, args.repeats, device=args.device, compiled=not args.small):
            kept = t.fast_saved / t.plain_saved
            ratios = {"forward_ratio": t.forward_ratio, "total_ratio": t.total_ratio}
            rows.append({**t._asdict(), **ratios, "saved_ratio": kept})
            _row(
                " x ".join(map(str, shape)),
                t.form,
                f"{_milliseconds(t.plain_forward)} / {_milliseconds(t.fast_forward)}",
                f"{t.forward_ratio:.2f}",
                f"{_milliseconds(t.plain_total)} / {_milliseconds(t.fast_total)}",
                f"{t.total_ratio:.2f}",
                f"{t.plain_saved / 2**20:.1f} / {t.fast_saved / 2**20:.1f}",
                f"{kept:.2f}",
            )
            if t.form != FLOOR:
                bars += _attention_bars(t, cuda)
    return rows, bars, "einsum in its faster layout; both: forward and backward"


def _attention_bars(t: Timing, cuda: bool) -> list[Bar]:
    place = f"{t.shape[0]} x {t.shape[2]} x {t.shape[3]}{t.form.removeprefix('ours')}"
    target = 8.0 if cuda else 3.2 if "compiled" in t.form else 2.4
    total = f"{1e3 * t.plain_total.median:.1f} to {1e3 * t.fast_total.median:.1f} ms"
    both = Bar(f"{place}, both", t.total_ratio, total, target)
    if cuda:
        return [both]
    forward = f"{1e3 * t.plain_forward.median:.1f} to {1e3 * t.fast_forward.median:.1f} ms"
    return [Bar(f"{place}, forward", t.forward_ratio, forward, target), both]


def _milliseconds(times: Times) -> str:
    return f"{1e3 * times.median:.1f}{_spread(times.spread)}"


def _spread(spread: float) -> str:
    return f" ± {50 * spread:.0f} %"


def _table(*names: str) -> None:
    """A table's head."""
    _row(*names)
    _row(*["---"] * len(names))


def _row(*cells: str) -> None:
    print(f"| {' | '.join(cells)} |", flush=True)


# What runs, its title, rounds.
PARTS: dict[str, Callable[[argparse.Namespace], Result]] = {
    "train": train,
    "data": data,
    "infer": infer,
    "look": look,
    "explore": explore,
    "attention": attention,
}


if __name__ == "__main__":
    ending(main)
