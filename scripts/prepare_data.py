"""Get a data set, check it and decode it once; what is called is in ccnet_lab/data: prepare.py, doctor.py, cache.py."""

import argparse
import io
import sys
from difflib import get_close_matches
from pathlib import Path

from ccnet_lab.ending import ending

from ccnet_lab.data.cache import build_cache
from ccnet_lab.data.catalog import get_dataset
from ccnet_lab.data.check import examine, histogram_figure, report_text
from ccnet_lab.data.datasets import open_own, open_split
from ccnet_lab.data.prepare import KEYS, prepare
from ccnet_lab.downloads import progress_bar
from ccnet_lab.errors import DataError, LabError


def main() -> int:
    """0: every pair can be trained on. 1: faults were found. 2: nothing could be examined."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "what", help=f"{', '.join(KEYS)}, or the folder of a data set of your own, see the README"
    )
    parser.add_argument(
        "--data",
        type=Path,
        help="the data root: the folder above VOCdevkit/, ADEChallengeData2016/, cityscapes/, camvid/",
    )
    parser.add_argument(
        "--check", action="store_true", help="only examine what is there; fetch nothing"
    )
    words = "also store the training images decoded (25 GB for Cityscapes) in the data set's folder cache/; training then reads them"
    parser.add_argument("--cache", action="store_true", help=words)
    parser.add_argument(
        "--figure",
        type=Path,
        metavar="FILE",
        help="where to save the pixels per class as a picture (.png, .pdf, .svg)",
    )
    parser.add_argument(
        "--base-url",
        default="",
        metavar="URL",
        help="a mirror that has the archives under their own names",
    )
    parser.add_argument(
        "--workers", type=int, metavar="N", help="threads that read files in the check"
    )
    args = parser.parse_args()
    if args.workers is not None and args.workers < 1:
        parser.error(f"--workers {args.workers}: expected at least 1")
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a terminal without block characters
    try:
        own = args.what not in KEYS and (
            Path(args.what).is_dir() or not get_close_matches(args.what, KEYS)
        )
        if not own and args.data is None:
            raise DataError(
                f"--data is missing: python scripts/prepare_data.py {args.what} --data ROOT"
            )
        dataset = open_own(args.what) if own else get_dataset(args.what)
        if not own and not args.check:
            prepare(args.what, args.data, base_url=args.base_url)
        report = examine(
            dataset,
            args.data or "",
            workers=args.workers,
            progress=progress_bar("checking", "pair"),
        )
        print(report_text(report))
        if args.figure:
            try:
                histogram_figure(report).savefig(args.figure, dpi=150)
            except (OSError, ValueError) as error:
                raise DataError(f"the figure cannot be saved as {args.figure}: {error}") from None
            print(f"the pixels per class are drawn in {args.figure}")
        if args.cache:
            build_cache(
                open_split(dataset, args.data or ""), progress=progress_bar("decoding", "pair")
            )
    except LabError as error:
        print(f"{parser.prog}: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(
            "\nstopped; what came so far is kept, and the next call goes on from there",
            file=sys.stderr,
        )
        return 130
    return 0 if report.fine else 1


if __name__ == "__main__":
    ending(main)
