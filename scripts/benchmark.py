"""Measure ours beside its baseline in one interleaved run; what is measured is in model/timing.py and data/timing.py."""

import argparse
import json
import platform
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import torch

from ccnet_lab.data.timing import CORES, time_samples
from ccnet_lab.model.timing import SHAPES, time_attention


def main() -> None:
    """Print a table and, with --json, store it with the machine and the versions."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "what",
        choices=["attention", "data"],
        help="attention: the fast op against the plain einsum form, float32, CPU; data: training samples per second and core",
    )
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--small", action="store_true", help="a quick try: small features, few files")
    parser.add_argument("--json", type=Path, help="where to store the measurements")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    measured = {"attention": attention, "data": data}[args.what](args)
    if args.json:
        commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False).stdout.strip()
        machine = {"cpu": torch.backends.cpu.get_cpu_capability(), "threads": args.threads, "system": platform.platform()}
        content = {"commit": commit, "torch": torch.__version__, "machine": machine, args.what: measured}
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps(content, indent=1) + "\n")


def attention(args: argparse.Namespace) -> list[dict[str, Any]]:
    """The attention's forms."""
    shapes = ((1, 128, 24, 32),) if args.small else SHAPES
    timings = [time_attention(shape, layout, args.repeats) for shape in shapes for layout in (True, False)]
    print("| features | layout | forward, plain / fast ms | ratio | forward + backward, plain / fast ms | ratio |")
    print("| --- | --- | --- | --- | --- | --- |")
    for t in timings:
        forward = f"{1e3 * t.plain_forward:.1f} / {1e3 * t.fast_forward:.1f} | {t.forward_ratio:.2f}"
        total = f"{1e3 * t.plain_total:.1f} / {1e3 * t.fast_total:.1f} | {t.total_ratio:.2f}"
        print(f"| {t.shape} | {t.layout} | {forward} | {total} |")
    return [{**t._asdict(), "forward_ratio": t.forward_ratio, "total_ratio": t.total_ratio} for t in timings]


def data(args: argparse.Namespace) -> list[dict[str, Any]]:
    """The input pipeline."""
    found = []
    print(f"| data set | file, kB | read, ms | transforms, ms | images/s per core | needed of each of {CORES} cores |")
    print("| --- | --- | --- | --- | --- | --- |")
    for key in ("voc", "cityscapes"):
        with tempfile.TemporaryDirectory() as folder:
            t = time_samples(key, Path(folder), *((2, 1) if args.small else (6, args.repeats)))
        times = f"{1e3 * t.read:.1f} | {1e3 * t.transform:.1f} | {t.images_per_second:.1f} | {t.needed:.1f}"
        print(f"| {t.dataset} | {t.file_bytes / 1e3:.0f} | {times} |")
        found.append({**t._asdict(), "images_per_second": t.images_per_second})
    return found


if __name__ == "__main__":
    main()
