"""Write the model cards of the twelve and the extras, which ccnet_lab/reports/cards.py makes."""

import argparse
from pathlib import Path

from ccnet_lab.ending import ending

from ccnet_lab.errors import LabError

STORED = Path("results/runs")


def main() -> None:
    """Parse, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    about = f"folders of runs whose scores go onto the cards, besides {STORED}"
    parser.add_argument("--runs", type=Path, nargs="*", default=[], help=about)
    about = "where the cards go"
    parser.add_argument("--out", type=Path, default=Path("results/cards"), help=about)
    args = parser.parse_args()
    from ccnet_lab.reports.cards import write_cards  # slow, so after --help

    try:
        written = write_cards(args.out, [*args.runs, STORED])
    except (LabError, OSError) as error:
        parser.exit(2, f"{parser.prog}: error: {error}\n")
    print(f"{len(written)} files are in {args.out}")


if __name__ == "__main__":
    ending(main)
