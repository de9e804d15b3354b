"""Write a model as one checked file that runs without this library; see model/export.py."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from ccnet_lab.ending import ending

from ccnet_lab.errors import LabError

if TYPE_CHECKING:
    from ccnet_lab.model.export import Exported


def main() -> None:
    """Export a model in every format asked for; a known error is one sentence and exit code 2."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("source", help="a run folder, a checkpoint, or the name of a model on disk")
    parser.add_argument("--config", help="the checkpoint's configuration, if it does not say so")
    parser.add_argument(
        "--format",
        nargs="+",
        choices=("pt2", "onnx"),
        default=["onnx"],
        help="pt2: a torch.export program",
    )
    parser.add_argument(
        "--out", type=Path, help="file name, the ending is added; by default the configuration's"
    )
    parser.add_argument(
        "--labels", action="store_true", help="uint8 RGB images in, uint8 labels of that size out"
    )
    parser.add_argument("--recurrence", type=int, help="R, by default as trained")
    parser.add_argument(
        "--fixed", type=int, nargs=3, metavar=("B", "H", "W"), help="one input size; else any"
    )
    parser.add_argument("--opset", type=int, help="of ONNX, by default 20")
    parser.add_argument("--check", type=_size, nargs="+", metavar="HxW", help="sizes to check on")
    args = parser.parse_args()
    # Slow, so after --help.
    from ccnet_lab.hub import find_weights, load
    from ccnet_lab.model.export import OPSET, SIZES, export_model

    try:
        model, config = load(args.source, config=args.config)
        out = args.out or Path(config.name)
        out.parent.mkdir(parents=True, exist_ok=True)
        stem = out.name.removesuffix(".pt2").removesuffix(".onnx")
        for kind in dict.fromkeys(args.format):
            done = export_model(
                model,
                config,
                out if out.suffix == f".{kind}" else out.with_name(f"{stem}.{kind}"),
                labels=args.labels,
                recurrence=args.recurrence,
                fixed=tuple(args.fixed) if args.fixed else None,
                opset=args.opset or OPSET,
                sizes=args.check or SIZES,
                source=find_weights(args.source),
            )
            print(_report(done))
    except (LabError, OSError) as error:
        parser.exit(2, f"{parser.prog}: error: {error}\n")


def _size(text: str) -> tuple[int, int]:
    height, width = text.lower().split("x")
    return int(height), int(width)


def _report(done: "Exported") -> str:
    """What was written and how it was checked."""
    from ccnet_lab.model.export import TOLERANCE

    facts = done.metadata
    any_size = f"any size from {facts['smallest_side']} pixels a side"
    sizes = any_size if facts["size"] == "any" else f"of size {facts['size']} only"
    differences = ", ".join(
        f"{height} x {width}: {value:.1e}" for (height, width), value in done.differences.items()
    )
    return "\n".join(
        [
            f"wrote {done.path}, {done.bytes / 1e6:.1f} MB: "
            f"{facts['name']}, R = {facts['recurrence']}",
            f"  in:  {facts['input']}, {sizes}",
            f"  out: {facts['output']}",
            "  read back, largest difference from the network, as a share of its largest logit "
            f"({TOLERANCE:.0e} is allowed): {differences}",
        ]
    )


if __name__ == "__main__":
    ending(main)
