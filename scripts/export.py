"""Write a model as one file that runs without this library, and check it; the work is in ccnet_lab/model/export.py."""

import argparse
from pathlib import Path
from typing import Any

from ccnet_lab.ending import ending

from ccnet_lab.data.images import read_image
from ccnet_lab.data.transforms import fit
from ccnet_lab.errors import LabError, MissingFileError
from ccnet_lab.explore.explorer import Explorer
from ccnet_lab.hub import find_weights
from ccnet_lab.model.export import FORMATS, OPSET, SIZES, Exported, export_model

PICTURES = {".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff", ".bmp"}


def main() -> None:
    """Find the model, write it in every format asked for, say how it was checked; a known error is one sentence and exit code 2."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "source",
        help="a run folder, a checkpoint (ours or in the published format), or the name of a model on disk",
    )
    parser.add_argument(
        "--config", help="what a checkpoint was made for, where the file itself leaves that open"
    )
    parser.add_argument(
        "--format", nargs="+", choices=FORMATS, default=["onnx"], help="pt2: a torch.export program"
    )
    parser.add_argument(
        "--out",
        type=Path,
        help="the file, the format's ending is added; by default the configuration's name, here",
    )
    parser.add_argument(
        "--labels",
        action="store_true",
        help="uint8 RGB images in, uint8 labels of the same size out",
    )
    parser.add_argument(
        "--int8",
        action="store_true",
        help="keep the weights in 8 bits: a quarter of the size, float32 arithmetic",
    )
    parser.add_argument(
        "--recurrence", type=int, help="R, by default the one the model was trained with"
    )
    parser.add_argument(
        "--fixed",
        type=int,
        nargs=3,
        metavar=("B", "H", "W"),
        help="one size, for runtimes that want it; else any",
    )
    parser.add_argument("--opset", type=int, default=OPSET, help="of ONNX")
    parser.add_argument(
        "--check",
        type=_size,
        nargs="+",
        default=SIZES,
        metavar="HxW",
        help="sizes of generated pictures to check on",
    )
    parser.add_argument(
        "--images",
        type=Path,
        nargs="+",
        default=[],
        help="pictures or folders of them to check on, too",
    )
    args = parser.parse_args()
    how: dict[str, Any] = dict(
        labels=args.labels,
        int8=args.int8,
        recurrence=args.recurrence,
        opset=args.opset,
        sizes=args.check,
    )
    try:
        explorer = Explorer.open(args.source, config=args.config)
        config, out = explorer.config, args.out or Path(explorer.config.name)
        how["fixed"] = tuple(args.fixed) if args.fixed else None
        how["pictures"] = [
            fit(read_image(path), *config.resize) for path in _files(args.images)
        ]  # as the evaluation fits them
        out.parent.mkdir(parents=True, exist_ok=True)
        for kind in dict.fromkeys(args.format):
            path = (
                out
                if out.suffix == f".{kind}"
                else out.with_name(f"{out.name.removesuffix('.pt2').removesuffix('.onnx')}.{kind}")
            )
            print(
                _told(
                    export_model(
                        explorer.model, config, path, **how, source=find_weights(args.source)
                    )
                )
            )
    except (LabError, OSError) as error:
        parser.exit(2, f"{parser.prog}: error: {error}\n")


def _size(text: str) -> tuple[int, int]:
    height, width = text.lower().split("x")
    return int(height), int(width)


def _files(places: list[Path]) -> list[Path]:
    found = [
        file
        for place in places
        for file in (sorted(place.iterdir()) if place.is_dir() else [place])
    ]
    found = [file for file in found if file in places or file.suffix.lower() in PICTURES]
    if places and not found:
        expected = f"expected files that end in {' '.join(sorted(PICTURES))}"
        raise MissingFileError(f"there is no picture in {', '.join(map(str, places))}; {expected}")
    return found


def _told(done: Exported) -> str:
    """What was written and how it was checked, some lines."""
    facts = done.metadata
    sizes = (
        f"any size from {facts['smallest_side']} pixels a side"
        if facts["size"] == "any"
        else f"of size {facts['size']} only"
    )
    differences = ", ".join(
        f"{height} x {width}: {value:.1e}" for (height, width), value in done.differences.items()
    )
    lines = [
        f"wrote {done.path}, {done.bytes / 1e6:.1f} MB: {facts['name']}, R = {facts['recurrence']}",
        f"  in:  {facts['input']}, {sizes}",
        f"  out: {facts['output']}",
        f"  read back, largest difference from the network ({done.allowed:.2g} is allowed): {differences}",
    ]
    if "int8" in facts:
        int8 = facts["int8"]
        lines.append(
            f"  int8 against float32, pictures: {int8['pictures']}; labels equal on {100 * int8['labels_equal']:.2f} % of pixels, largest "
            f"difference of logits {int8['largest_logit_difference']:.2g} (logits up to {int8['largest_logit']:.3g})"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    ending(main)
