"""Label a picture, or all in a folder, with PNGs of class ids; evaluation/label_files.py does it.

python scripts/predict.py street photograph.jpg --out labels --colour
python scripts/predict.py runs/NAME path/to/folder --out labels
"""

import argparse
import sys
from pathlib import Path

from ccnet_lab.ending import ending

from ccnet_lab.data.catalog import get_dataset
from ccnet_lab.errors import LabError
from ccnet_lab.importing import importing


def main() -> int:
    """Parse and label; exit code 1 where pictures could not be read."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    option = parser.add_argument
    option("model", help="a run folder, a checkpoint, or the name of a model on disk")
    option("source", type=Path, metavar="PICTURE_OR_FOLDER", help="subfolders are kept")
    out = "folder for the labels: PNGs of the ids in the data set's masks; existing ones are kept"
    option("--out", type=Path, required=True, metavar="DIR", help=out)
    option("--colour", action="store_true", help="the data set's colours instead of its ids")
    config = "a checkpoint's configuration, where the file itself leaves that open"
    option("--config", metavar="NAME", help=config)
    own = "a folder whose classes.json names the classes, for a checkpoint that names none"
    option("--own", type=Path, metavar="FOLDER", help=own)
    option("--device", default="auto", help="auto: CUDA where there is one")
    precision = "auto: fp32, as in the app; fast: batch norms folded, bf16 where the device has it"
    known = ("auto", "fp32", "bf16", "fast")
    option("--precision", choices=known, default="auto", help=precision)
    args = parser.parse_args()
    try:
        return label(args)
    except LabError as error:
        parser.exit(2, f"{parser.prog}: error: {error}\n")


def label(args: argparse.Namespace) -> int:
    """Open the model, label the pictures without labels, and print each one that is unreadable."""
    # These import torch, which --help need not wait for.
    from tqdm import tqdm

    with importing():
        from ccnet_lab.data.datasets import open_own
        from ccnet_lab.device import choose_device, inference_precision
        from ccnet_lab.evaluation.label_files import begin, label_files, labeller, pictures_of
        from ccnet_lab.files import sha256
        from ccnet_lab.hub import find_weights, load, source_and_config

    wanted = pictures_of(args.source, args.out)
    own = open_own(args.own) if args.own else None
    device = choose_device(args.device)
    model, config = load(args.model, device, args.config, own=own)
    dataset = get_dataset(config.dataset)
    precision = inference_precision(args.precision, device)
    record = {
        "weights_sha256": sha256(find_weights(source_and_config(args.model)[0])),
        "config": config.name,
        "colour": args.colour,
        "precision": precision,
        "classes": list(dataset.class_names),
        "ids": list(dataset.label_ids or range(dataset.num_classes)),
    }
    begin(args.out, record)
    predict = labeller(model, config, device, precision)
    faults = 0
    with tqdm(wanted, desc=config.name, unit="picture") as bar:
        for fault in label_files(bar, predict, dataset, args.colour):
            if fault:
                faults += 1
                tqdm.write(fault, file=sys.stderr)
    print(f"labels of {len(wanted) - faults} of {len(wanted)} pictures are in {args.out}")
    return int(faults > 0)


if __name__ == "__main__":
    ending(main)
