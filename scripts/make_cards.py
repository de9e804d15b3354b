"""Write the model cards of the twelve and the extras into results/cards; what stands on them is made in ccnet_lab/reports/cards.py."""

import argparse
from pathlib import Path

from ccnet_lab.ending import ending

from ccnet_lab.errors import LabError
from ccnet_lab.evaluation.evaluate import published_line
from ccnet_lab.evaluation.protocol import deviations
from ccnet_lab.reports.cards import write_cards
from ccnet_lab.runs import Run

STORED = Path("results/runs")


def main() -> None:
    """Parse, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    words = f"folders of runs whose scores go onto the cards, besides {STORED}"
    parser.add_argument("--runs", type=Path, nargs="*", default=[], help=words)
    parser.add_argument(
        "--out", type=Path, default=Path("results/cards"), help="where the cards go"
    )
    args = parser.parse_args()
    try:
        written = write_cards(args.out, [*args.runs, STORED], compared)
    except (LabError, OSError) as error:
        parser.exit(2, f"{parser.prog}: error: {error}\n")
    print(f"{len(written)} files are in {args.out}")


def compared(run: Run) -> str:
    """What a run's score says beside the published one, or why it says nothing."""
    changed = [] if run.config.published_miou is None else deviations(run)
    return (
        f"not comparable: {', '.join(changed)}"
        if changed
        else published_line(run.config, run.scores or {})
    )


if __name__ == "__main__":
    ending(main)
