"""Get a data set, check it, decode it once: ccnet_lab/data/prepare.py, check.py and cache.py."""

import argparse
import io
import sys
from difflib import get_close_matches
from pathlib import Path

from ccnet_lab.ending import ending

from ccnet_lab.data.catalog import DATASETS, DOWNLOADED, get_dataset
from ccnet_lab.errors import DataError, LabError


def main() -> int:
    """0: every pair can be trained on. 1: faults were found. 2: nothing could be examined."""
    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    add("what", help=f"{', '.join(DOWNLOADED)}, or the folder of your own data, see the README")
    root = "the folder above VOCdevkit/, ADEChallengeData2016/, cityscapes/, camvid/"
    add("--data", type=Path, help=f"the data root: {root}")
    add("--check", action="store_true", help="only examine what is there; download nothing")
    decoded = "also store the training images decoded in the data set's folder cache/"
    add("--cache", action="store_true", help=f"{decoded}, for training (25 GB for Cityscapes)")
    picture = "where to save the pixels per class as a picture (.png, .pdf, .svg)"
    add("--figure", type=Path, metavar="FILE", help=picture)
    mirror = "a mirror that has the archives under their own names"
    add("--base-url", default="", metavar="URL", help=mirror)
    args = parser.parse_args()
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # for a terminal without block characters
    try:
        return run(args)
    except LabError as error:
        print(f"{parser.prog}: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        kept = "what came so far is kept, and the next call goes on from there"
        print(f"\nstopped; {kept}", file=sys.stderr)
        return 130


def run(args: argparse.Namespace) -> int:
    """Download, examine, draw and decode what was asked for."""
    # Slow, so after --help.
    from ccnet_lab.data.cache import build_cache
    from ccnet_lab.data.check import examine, histogram_figure, report_text
    from ccnet_lab.data.datasets import open_own, open_split
    from ccnet_lab.data.prepare import prepare
    from ccnet_lab.downloads import progress_bar

    what, root = args.what, args.data or ""
    misspelt = not Path(what).is_dir() and get_close_matches(what, DOWNLOADED)
    own = what not in DATASETS and not misspelt
    if not own and args.data is None:
        raise DataError(f"--data is missing: python scripts/prepare_data.py {what} --data ROOT")
    dataset = open_own(what) if own else get_dataset(what)
    if not own and not args.check:
        prepare(what, root, base_url=args.base_url)
    report = examine(dataset, root, progress=progress_bar("checking", "pair"))
    print(report_text(report))
    if args.figure:
        try:
            histogram_figure(report).savefig(args.figure, dpi=150)
        except (OSError, ValueError) as error:
            raise DataError(f"the figure cannot be saved as {args.figure}: {error}") from None
        print(f"the pixels per class are drawn in {args.figure}")
    if args.cache:
        build_cache(open_split(dataset, root), progress=progress_bar("decoding", "pair"))
    return 0 if report.fine else 1


if __name__ == "__main__":
    ending(main)
