"""Train the twelve published configurations, or some; finished runs are skipped, others resumed.

One GPU:               python scripts/train_all.py --data ROOT --runs runs
Each run on four GPUs: python scripts/train_all.py --data ROOT --runs runs --nproc-per-node 4
One GPU per run:       the same command once per GPU, each with its own CUDA_VISIBLE_DEVICES;
                       they share the runs out
A Slurm array:         python scripts/train_all.py --data ROOT --runs runs
                       --slurm gpus_per_node=1 timeout_min=2880 slurm_partition=gpu
Without data or a GPU: python scripts/train_all.py --miniature
                       trains the same networks at an eighth of the channels, on generated data
"""

import argparse
import os
import sys
from pathlib import Path
from typing import Any

from ccnet_lab.ending import ending

from ccnet_lab.configs import Config
from ccnet_lab.errors import LabError
from ccnet_lab.training.settings import add_options, from_options, varied

NO_DATA = (
    "--data ROOT is missing: the folder of VOCdevkit/, ADEChallengeData2016/, cityscapes/. Without "
    "the data sets, `python scripts/train_all.py --miniature` trains the same twelve networks in "
    "miniature, on generated data and without a GPU"
)


def main() -> int:
    """Parse; then estimate, submit, or train one after another and print the table."""
    if "--miniature" in sys.argv[1:]:
        return miniature()
    own = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    option = own.add_argument
    option("--only", nargs="+", metavar="GLOB", help="such as '*os16_voc'; quote it")
    dry = "print steps, memory and hours of each run, and train nothing"
    option("--dry-run", action="store_true", help=dry)
    rate = "for --dry-run: the rate to assume, instead of a short probe of this machine"
    option("--tflops", type=float, help=rate)
    gpus = "GPUs (processes) per run, through torchrun"
    option("--nproc-per-node", type=int, default=1, metavar="N", help=gpus)
    slurm = "submit the runs as a Slurm array, with these parameters of submitit"
    option("--slurm", nargs="*", metavar="KEY=VALUE", help=slurm)
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=raw, parents=[own], allow_abbrev=False
    )
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="where the run folders are")
    parser.add_argument(
        "--miniature", action="store_true", help="see above; --help has its options"
    )
    add_options(parser, needs_data=False)
    args = parser.parse_args()
    if args.data is None:
        parser.error(NO_DATA)
    passed = own.parse_known_args()[1]
    if int(os.environ.get("WORLD_SIZE", 1)) > 1:
        parser.error(
            "train_all.py starts torchrun itself, once per run: "
            "python scripts/train_all.py --nproc-per-node N ..."
        )

    from ccnet_lab.training.signals import Stopped  # imports torch, which --help need not wait for

    try:
        return dry_run(args) if args.dry_run else train_all(args, passed)
    except LabError as error:
        parser.error(str(error))
    except Stopped as stopped:
        print(stopped, file=sys.stderr)
        return 128 + stopped.number


def miniature() -> int:
    """Generate the miniature data sets, train the twelve in miniature and print the table."""
    parser = argparse.ArgumentParser(
        description="The twelve networks at an eighth of the channels, on generated data sets.",
        allow_abbrev=False,
    )
    option = parser.add_argument
    option("--miniature", action="store_true", help=argparse.SUPPRESS)
    option("--seeds", type=int, default=1, metavar="N", help="train each with the seeds 0 to N - 1")
    again = "also train the R-50-D8 of each data set with R = 0, 1 and 3"
    option("--recurrences", action="store_true", help=again)
    option("--only", nargs="+", metavar="GLOB", help="such as '*os16_voc_mini'; quote it")
    where = "where the run folders are, one folder per seed"
    option("--runs", type=Path, default=Path("runs/miniature"), help=where)
    generated = "where the data sets are generated, a folder of its own"
    option("--data", type=Path, default=Path("data/miniature"), metavar="FOLDER", help=generated)
    args = parser.parse_args()
    if args.seeds < 1:
        parser.error(f"--seeds is {args.seeds}; expected 1 or more")

    from ccnet_lab.data.generated.worlds import generate
    from ccnet_lab.downloads import progress_bar
    from ccnet_lab.training import miniature as mini
    from ccnet_lab.training.signals import Stopped

    try:
        wanted = mini.jobs(args.seeds, args.recurrences, args.only)
        generate(args.data, progress=progress_bar("generating", "scene"))
        script = Path(__file__).with_name("train.py")
        outcomes = mini.train_miniatures(wanted, args.runs, args.data, script)
    except LabError as error:
        parser.error(str(error))
    except Stopped as stopped:
        print(stopped, file=sys.stderr)
        return 128 + stopped.number
    print(mini.miniature_table(wanted, args.runs))
    return report(outcomes)


def report(outcomes: list[Any]) -> int:
    """Print which runs failed; the exit code."""
    for outcome in outcomes:
        if outcome.status in ("failed", "busy"):
            print(f"{outcome.status}: {outcome.name}: {outcome.reason}", file=sys.stderr)
    return int(any(outcome.status == "failed" for outcome in outcomes))


def chosen(args: argparse.Namespace) -> dict[str, tuple[str, Config]]:
    """Run folder: the published configuration's name, and the configuration with the options."""
    from ccnet_lab.training.campaign import select

    found: dict[str, tuple[str, Config]] = {}
    for config in select(args.only):
        changed = varied(config, args)
        # On --own data the data sets' recipes coincide: the first counts.
        found.setdefault(changed.name, (config.name, changed))
    return found


def dry_run(args: argparse.Namespace) -> int:
    """Print what the runs would take."""
    from ccnet_lab.device import choose_device, uses_bf16
    from ccnet_lab.training.estimates import estimate, estimates_table
    from ccnet_lab.training.throughput import probe

    device, processes = choose_device(args.device), args.nproc_per_node
    bf16 = uses_bf16(args.precision, device)
    if args.tflops:
        rate, source = args.tflops * 1e12, f"a stated {args.tflops:g} TFLOP/s"
    else:
        rate = probe(device, bf16) * processes
        source = f"{rate / 1e12:.3g} TFLOP/s, from a probe of {device}"
    shares = args.accumulate * processes
    found = [
        estimate(config, rate, args.steps, max(1, config.batch_size // shares), bf16, processes)
        for _, config in chosen(args).values()
    ]
    print(estimates_table(found, source))
    return 0


def train_all(args: argparse.Namespace, passed: list[str]) -> int:
    """Train, or submit; `passed` are the options for train.py."""
    from ccnet_lab.evaluation.published import results_table
    from ccnet_lab.training import campaign

    settings, runs = from_options(args), chosen(args)

    def done(name: str) -> bool:
        return campaign.is_finished(args.runs / name, runs[name][1], settings)

    def command(name: str) -> list[str]:
        torchrun = ["-m", "torch.distributed.run", "--standalone"]
        torchrun.append(f"--nproc_per_node={args.nproc_per_node}")
        start = [sys.executable, *(torchrun if args.nproc_per_node > 1 else [])]
        script = str(Path(__file__).with_name("train.py"))
        return [*start, script, runs[name][0], *passed, "--resume"]

    if args.slurm is not None:
        names = [name for name in runs if not done(name)]
        parameters: dict[str, Any] = dict(campaign.parameter(text) for text in args.slurm)
        commands = [command(name) for name in names]
        jobs = campaign.submit(commands, args.runs / "slurm", parameters)
        for name, job in zip(names, jobs, strict=True):
            print(f"{job.job_id}  {name}")
        return 0
    outcomes = campaign.run_all(list(runs), args.runs, command, done=done)
    print(results_table(runs, args.runs))
    return report(outcomes)


if __name__ == "__main__":
    ending(main)
