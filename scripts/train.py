"""Train one configuration, or resume a run; the training itself is in ccnet_lab/training/loop.py.

One GPU or CPU: python scripts/train.py CONFIG --data ROOT --runs runs
Several GPUs:   torchrun --nproc_per_node 4 scripts/train.py CONFIG --data ROOT --runs runs
"""

import argparse
import os
import sys
from pathlib import Path

from ccnet_lab.ending import ending

from ccnet_lab.configs import get_config
from ccnet_lab.errors import RunBusyError
from ccnet_lab.importing import importing
from ccnet_lab.training.settings import add_options, from_options, varied


def main() -> None:
    """Parse, train, print the scores."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("config", help="one of the twelve, or an extra such as street")
    place = "the run's folder is made in it, under the configuration's name"
    parser.add_argument("--runs", type=Path, default=Path("runs"), help=place)
    parser.add_argument("--name", help="another name for the run's folder")
    add_options(parser)
    args = parser.parse_args()

    # These import torch, which --help need not wait for.
    with importing():
        import torch._dynamo  # noqa: F401  torch's optimisers import it

        from ccnet_lab.causes import cause
        from ccnet_lab.evaluation.metrics import miou_text
        from ccnet_lab.training.loop import train
        from ccnet_lab.training.signals import BUSY, Stopped

    folder = args.runs
    try:
        config = varied(get_config(args.config), args)
        folder = args.runs / (args.name or config.name)
        scores = train(folder, config, from_options(args))
    except Stopped as stopped:
        leave(str(stopped), 128 + stopped.number)
    except Exception as error:
        message = cause(error, folder)
        if message != str(error) and "--resume" not in message:
            message += "; what was saved is kept, continue with --resume"
        leave(f"{parser.prog}: error: {message}", BUSY if isinstance(error, RunBusyError) else 2)
    if scores is not None:
        accuracy = f"{100 * scores['pixel_accuracy']:.2f} %"
        print(f"{miou_text(scores)}, pixel accuracy {accuracy}", flush=True)
    if several():
        os._exit(0)  # what torch tears down at an interpreter's end can hang


def several() -> bool:
    """Whether torchrun started several processes."""
    return int(os.environ.get("WORLD_SIZE", 1)) > 1


def leave(message: str, code: int) -> None:
    """Print why and exit; of several processes at once, which would wait for each other."""
    print(message, file=sys.stderr, flush=True)
    if several():
        os._exit(code)
    sys.exit(code)


if __name__ == "__main__":
    ending(main)
