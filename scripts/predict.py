"""Label a picture, or all in a folder, with PNGs of class ids; what is written is made in ccnet_lab/evaluation/label_files.py.

python scripts/predict.py street photograph.jpg --out labels --colour
python scripts/predict.py runs/NAME path/to/folder --out labels
"""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

from ccnet_lab.ending import ending

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from ccnet_lab.data.catalog import get_dataset
from ccnet_lab.data.datasets import open_own
from ccnet_lab.data.images import read_image
from ccnet_lab.data.transforms import fit
from ccnet_lab.device import arithmetic, choose_device, fast_precision, out_of_memory
from ccnet_lab.errors import DeviceError, LabError
from ccnet_lab.evaluation.label_files import begin, label_files, pictures_of
from ccnet_lab.evaluation.predict import Item, predict
from ccnet_lab.evaluation.protocol import Protocol
from ccnet_lab.explore.explorer import Explorer
from ccnet_lab.files import sha256
from ccnet_lab.hub import obtain_weights
from ccnet_lab.model.folding import ready
from ccnet_lab.model.weights import read_config


def main() -> int:
    """Open the model, label what has no labels yet; exit code 1 where pictures could not be read, each with a sentence."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", help="a run folder, a checkpoint, or the name of a model on disk")
    parser.add_argument(
        "source", type=Path, metavar="PICTURE_OR_FOLDER", help="subfolders are kept"
    )
    words = "folder for the labels: PNGs of the ids that the data set's masks have; those that are there already stay as they are"
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help=words)
    parser.add_argument(
        "--colour", action="store_true", help="the data set's colours instead of its ids"
    )
    parser.add_argument(
        "--config",
        metavar="NAME",
        help="what a checkpoint was made for, where the file itself leaves that open",
    )
    words = "a folder whose classes.json names the classes, for a checkpoint of your own classes that names none"
    parser.add_argument("--own", type=Path, metavar="FOLDER", help=words)
    parser.add_argument("--device", default="auto", help="auto: CUDA where there is one")
    words = "auto: fp32, as the app has it; fast: batch norms folded, bf16 where the device has units for it"
    parser.add_argument(
        "--precision", choices=("auto", "fp32", "bf16", "fast"), default="auto", help=words
    )
    args = parser.parse_args()
    try:
        wanted = pictures_of(args.source, args.out)
        own = open_own(args.own) if args.own else None
        weights = obtain_weights(args.model)
        explorer = Explorer.open(
            args.model, choose_device(args.device), read_config(weights, args.config, own)
        )
        config, dataset = explorer.config, get_dataset(explorer.config.dataset)
        precision = {"auto": "fp32", "fast": fast_precision(explorer.device)}.get(
            args.precision, args.precision
        )
        made = {
            "weights_sha256": sha256(weights),
            "config": config.name,
            "colour": args.colour,
            "precision": precision,
        }
        begin(
            args.out,
            made
            | {
                "classes": list(dataset.class_names),
                "ids": list(dataset.label_ids or range(dataset.num_classes)),
            },
        )
        faults = 0
        with tqdm(wanted, desc=config.name, unit="picture") as bar:
            for _, fault in label_files(bar, labeller(explorer, precision), dataset, args.colour):
                if fault:
                    faults += 1
                    tqdm.write(fault, file=sys.stderr)
    except LabError as error:
        parser.exit(2, f"{parser.prog}: error: {error}\n")
    print(f"labels of {len(wanted) - faults} of {len(wanted)} pictures are in {args.out}")
    return 1 if faults else 0


def labeller(explorer: Explorer, precision: str) -> Callable[[Path], NDArray[np.uint8]]:
    """A picture's file to its class ids (H, W); in float32 exactly those of `Explorer.look`."""
    config, device = explorer.config, explorer.device
    protocol = Protocol(
        dataset=config.dataset, split="", images=1, resize=config.resize, precision=precision, recurrence=config.recurrence
    )  # fmt: skip
    network = ready(explorer.model, device) if precision.startswith("fast") else explorer.model

    def labels(path: Path) -> NDArray[np.uint8]:
        try:
            with arithmetic(device, precision):
                if precision == "fp32":
                    return explorer.look(path).labels
                image = read_image(path)
                size = torch.empty(image.shape[:2], dtype=torch.uint8)
                return predict(
                    network,
                    Item(path.name, size, torch.from_numpy(fit(image, *config.resize))),
                    protocol,
                    device,
                )
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error):
                raise
            raise DeviceError(
                f"{device} ran out of memory on {path}; use --precision bf16 or --device cpu, or make it smaller"
            ) from None

    return labels


if __name__ == "__main__":
    ending(main)
