"""Kill a run at random moments, resume it, and compare it bit by bit with an unbroken one."""

import argparse
import random
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

from ccnet_lab.ending import ending

TIMED = ("images_per_second", "seconds")  # what two equal runs may differ in
OPTIONS = "--resume --steps 30 --crop 64 64 --batch-size 4 --log-every 1 --save-every 2 --workers 1"


def main() -> int:
    """One unbroken run, then broken ones, each killed a few times before it gets through."""
    parser = argparse.ArgumentParser(description=__doc__)
    option = parser.add_argument
    option("--data", type=Path, required=True, help="a data root with CamVid")
    option("--kills", type=int, default=20, help="kills in all")
    option("--per-run", type=int, default=4, help="kills before a run is let through")
    option("--seed", type=int, default=0)
    option("--options", nargs=argparse.REMAINDER, default=[], help="of train.py")
    args = parser.parse_args()
    draw = random.Random(args.seed)
    script = str(Path(__file__).with_name("train.py"))
    command = [sys.executable, script, "street", "--data", str(args.data)]
    command += [*OPTIONS.split(), *args.options]
    with tempfile.TemporaryDirectory() as temporary:
        expected = Path(temporary) / "unbroken"
        start = time.monotonic()
        check_call([*command, "--runs", str(expected)])
        length = time.monotonic() - start
        kills = wrong = number = 0
        while kills < args.kills:
            number += 1
            runs = Path(temporary) / f"broken{number}"
            for _ in range(min(args.per_run, args.kills - kills)):
                delay = draw.uniform(0.02, 0.98) * length
                where = kill_after(delay, [*command, "--runs", str(runs)], runs / "street")
                if where is None:
                    break
                kills += 1
                print(f"kill {kills:2}: run {number}, after {delay:5.1f} s, {where}", flush=True)
            check_call([*command, "--runs", str(runs)])
            same = equal(runs / "street", expected / "street")
            wrong += not same
            result = "bit-identical, with the same log" if same else "DIFFERENT"
            print(f"        run {number} ended {result}", flush=True)
    print(f"{kills} kills, {number} runs, {wrong} of them different from the unbroken one")
    return 1 if wrong else 0


def kill_after(seconds: float, command: list[str], folder: Path) -> str | None:
    """Start, wait, SIGKILL; where the run then was, None if it got through before."""
    with suppress(subprocess.TimeoutExpired):  # then it was sent SIGKILL
        subprocess.run(command, capture_output=True, timeout=seconds, check=False)
        return None
    if not (folder / "config.json").exists():
        return "before there was a folder"
    from ccnet_lab.runs import Run

    run = Run(folder)
    saved = run.checkpoints()
    step = max((record["step"] for record in run.metrics()), default=0)
    last = saved[0].name.split("-")[1].lstrip("0") if saved else "none"
    where = f"log at step {step}, last checkpoint {last}"
    writing = [path.name for path in folder.iterdir() if path.name.endswith(".writing")]
    if writing:
        where += f", while writing {writing[0]}"
    return where + (", weights written" if run.weights.exists() else "")


def check_call(command: list[str]) -> None:
    """Run to the end; its stderr is shown only where it fails."""
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode:
        sys.exit(result.stderr)


def equal(one: Path, other: Path) -> bool:
    """Whether two run folders have equal weights, logs (except times) and scores."""
    import torch
    from safetensors.torch import load_file

    from ccnet_lab.runs import Run

    a, b = load_file(Run(one).weights), load_file(Run(other).weights)
    logs = [
        [{k: v for k, v in r.items() if k not in TIMED} for r in Run(folder).metrics()]
        for folder in (one, other)
    ]
    scores = [(Run(folder).scores or {})["per_class_iou"] for folder in (one, other)]
    same_weights = a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)
    return same_weights and logs[0] == logs[1] and scores[0] == scores[1]


if __name__ == "__main__":
    ending(main)
