"""Train the twelve published configurations, or some; finished ones are skipped, interrupted ones gone on with. A run itself is train.py's.

One GPU:               python scripts/train_all.py --data ROOT --runs runs
Each run on four GPUs: python scripts/train_all.py --data ROOT --runs runs --nproc-per-node 4
One GPU per run:       the same command once per GPU, each with its own CUDA_VISIBLE_DEVICES; they share the runs out
A Slurm array:         python scripts/train_all.py --data ROOT --runs runs --slurm gpus_per_node=1 timeout_min=2880 slurm_partition=gpu
"""

import argparse
import os
import sys
from pathlib import Path

from ccnet_lab.ending import ending

from ccnet_lab.configs import Config
from ccnet_lab.device import choose_device, uses_bf16
from ccnet_lab.errors import LabError
from ccnet_lab.training import campaign
from ccnet_lab.training.estimates import estimate, estimates_table
from ccnet_lab.training.settings import add_options, from_options, varied
from ccnet_lab.training.signals import Stopped
from ccnet_lab.training.throughput import probe


def main() -> int:
    """Parse; then estimate, submit, or train one after another and print the table."""
    own = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    own.add_argument("--only", nargs="+", metavar="GLOB", help="such as '*os16_voc'; quote it")
    own.add_argument(
        "--dry-run",
        action="store_true",
        help="print steps, memory and hours of each run, and train nothing",
    )
    own.add_argument(
        "--tflops",
        type=float,
        help="for --dry-run: the rate to reckon with, instead of a short probe of this machine",
    )
    own.add_argument(
        "--nproc-per-node",
        type=int,
        default=1,
        metavar="N",
        help="GPUs (processes) per run, through torchrun",
    )
    own.add_argument(
        "--slurm",
        nargs="*",
        metavar="KEY=VALUE",
        help="submit the runs as a Slurm array, with these parameters of submitit",
    )
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=raw, parents=[own], allow_abbrev=False
    )
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="where the run folders are")
    add_options(parser)
    args = parser.parse_args()
    passed = own.parse_known_args()[1]
    if int(os.environ.get("WORLD_SIZE", 1)) > 1:
        parser.error(
            "train_all.py starts torchrun itself, once per run: python scripts/train_all.py --nproc-per-node N ..."
        )
    try:
        return dry_run(args) if args.dry_run else carry_out(args, passed)
    except LabError as error:
        parser.error(str(error))
    except Stopped as stopped:
        print(stopped, file=sys.stderr)
        return 128 + stopped.number


def chosen(args: argparse.Namespace) -> dict[str, tuple[str, Config]]:
    """Run folder: the published configuration's name, and the configuration as the options change it."""
    found: dict[str, tuple[str, Config]] = {}
    for config in campaign.select(args.only):
        changed = varied(config, args)
        found.setdefault(
            changed.name, (config.name, changed)
        )  # on data of one's own the data sets' recipes coincide: the first counts
    return found


def dry_run(args: argparse.Namespace) -> int:
    """Print what the runs would take."""
    device = choose_device(args.device)
    bf16 = uses_bf16(args.precision, device)
    rate = args.tflops * 1e12 if args.tflops else probe(device, bf16) * args.nproc_per_node
    source = (
        f"a stated {args.tflops:g} TFLOP/s"
        if args.tflops
        else f"{rate / 1e12:.3g} TFLOP/s, from a probe of {device}"
    )
    shares = args.accumulate * args.nproc_per_node
    found = [
        estimate(
            config, rate, args.steps, max(1, config.batch_size // shares), bf16, args.nproc_per_node
        )
        for _, config in chosen(args).values()
    ]
    print(estimates_table(found, source))
    return 0


def carry_out(args: argparse.Namespace, passed: list[str]) -> int:
    """Train, or submit; `passed` are the options for train.py."""
    settings, runs = from_options(args), chosen(args)

    def done(name: str) -> bool:
        return campaign.is_finished(args.runs / name, runs[name][1], settings)

    start = [sys.executable]
    if args.nproc_per_node > 1:
        start += [
            "-m",
            "torch.distributed.run",
            "--standalone",
            f"--nproc_per_node={args.nproc_per_node}",
        ]

    def command(name: str) -> list[str]:
        return [
            *start,
            str(Path(__file__).with_name("train.py")),
            runs[name][0],
            *passed,
            "--resume",
        ]

    if args.slurm is not None:
        todo = [name for name in runs if not done(name)]
        parameters = dict(campaign.parameter(word) for word in args.slurm)
        for name, job in zip(
            todo,
            campaign.submit([command(n) for n in todo], args.runs / "slurm", parameters),
            strict=True,
        ):
            print(f"{job.job_id}  {name}")
        return 0
    outcomes = campaign.run_all(list(runs), args.runs, command, done=done)
    print(campaign.results_table(runs, args.runs))
    for outcome in outcomes:
        if outcome.status in ("failed", "busy"):
            print(f"{outcome.status}: {outcome.name}: {outcome.reason}", file=sys.stderr)
    return int(any(outcome.status == "failed" for outcome in outcomes))


if __name__ == "__main__":
    ending(main)
