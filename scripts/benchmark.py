"""Measure ours beside its baseline in one interleaved run; what is measured is in ccnet_lab/model/timing.py."""

import argparse
import json
import platform
import subprocess
from pathlib import Path

import torch

from ccnet_lab.model.timing import SHAPES, time_attention


def main() -> None:
    """Print a table and, with --json, store it with the machine and the versions."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=["attention"], help="attention: the fast op against the plain einsum form, float32, CPU")
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--small", action="store_true", help="a quick try on small features")
    parser.add_argument("--json", type=Path, help="where to store the measurements")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    timings = [
        time_attention(shape, layout, args.repeats) for shape in (((1, 128, 24, 32),) if args.small else SHAPES) for layout in (True, False)
    ]
    print("| features | layout | forward, plain / fast ms | ratio | forward + backward, plain / fast ms | ratio |")
    print("| --- | --- | --- | --- | --- | --- |")
    for t in timings:
        forward = f"{1e3 * t.plain_forward:.1f} / {1e3 * t.fast_forward:.1f} | {t.forward_ratio:.2f}"
        total = f"{1e3 * t.plain_total:.1f} / {1e3 * t.fast_total:.1f} | {t.total_ratio:.2f}"
        print(f"| {t.shape} | {t.layout} | {forward} | {total} |")
    if args.json:
        commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False).stdout.strip()
        machine = {"cpu": torch.backends.cpu.get_cpu_capability(), "threads": args.threads, "system": platform.platform()}
        ratios = [{**t._asdict(), "forward_ratio": t.forward_ratio, "total_ratio": t.total_ratio} for t in timings]
        content = {"commit": commit, "torch": torch.__version__, "machine": machine, "attention": ratios}
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
