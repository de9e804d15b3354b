"""Write the weights of one miniature per data set for the app, rounded to fit in three megabytes.

`python scripts/train_all.py --miniature` trains them; this rounds, scores again and tells both.
"""

import argparse
from dataclasses import replace
from pathlib import Path

from ccnet_lab.ending import ending

from ccnet_lab.configs import MINIATURES
from ccnet_lab.data.catalog import get_dataset

NAMES = tuple(name for name in MINIATURES if "resnet50os8" in name)


def main() -> None:
    """Round each, score it, write it."""
    parser = argparse.ArgumentParser(description=__doc__)
    option = parser.add_argument
    option("--runs", type=Path, default=Path("results/miniature/seed0"), help="where they are")
    option("--data", type=Path, default=Path("data/miniature"), help="where they were trained")
    option("--out", type=Path, default=Path("ccnet_lab/assets"))
    args = parser.parse_args()
    # Slow, so after --help.
    from ccnet_lab.data.datasets import open_split
    from ccnet_lab.evaluation.evaluate import evaluate
    from ccnet_lab.hub import load
    from ccnet_lab.model.rounding import rounded
    from ccnet_lab.model.weights import save_weights
    from ccnet_lab.runs import Run

    rows = ["| model | mIoU of the run | mIoU as rounded | bytes |", "| --- | --- | --- | --- |"]
    for name in NAMES:
        run = Run.open(args.runs / name)
        model, config = load(run.folder)
        config = replace(config, auxiliary=False)
        model.aux_classifier = None
        entries = rounded(model)
        path = args.out / f"{name}.safetensors"
        save_weights(entries, path, config, rounded="see ccnet_lab/model/rounding.py")
        dataset = get_dataset(config.dataset)
        split = open_split(dataset, args.data, dataset.val_split)
        found = evaluate(load(path)[0], split, config)
        before = (run.scores or {})["miou"]
        size = path.stat().st_size
        rows.append(f"| {name} | {100 * before:.2f} | {100 * found.miou:.2f} | {size:,} |")
        print(rows[-1])
    what = (
        f"R-50-D8 of {args.runs}, its weights rounded as ccnet_lab/model/rounding.py says, scored"
    )
    about = f"{what} on the generated validation scenes; weights MIT as the rest."
    made = "Made by `python scripts/make_miniatures.py`"
    (args.out / "miniatures.md").write_text(
        "\n".join(["# The embedded miniatures", "", f"{made}: {about}", "", *rows, ""])
    )


if __name__ == "__main__":
    ending(main)
