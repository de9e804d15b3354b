"""What the tab Configurations shows of each kind of score: published, measured, miniature."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Protocol

from ccnet_lab import draw
from ccnet_lab.app import board_figures, board_page
from ccnet_lab.app.callbacks import problem
from ccnet_lab.app.miniature_view import MiniatureView
from ccnet_lab.app.rendering import Html, render, sheet
from ccnet_lab.configs import CONFIGS
from ccnet_lab.data.catalog import get_dataset
from ccnet_lab.errors import LabError
from ccnet_lab.reports import board as boards
from ccnet_lab.reports.miniatures import read_miniatures
from ccnet_lab.reports.trainings import compare_recipes

KINDS = ("published", "measured", "miniature")


class View(Protocol):
    """A kind of score of one data set, as the tab shows it; menus as (what is shown, value)."""

    datasets: list[tuple[str, str]]
    dataset: str  # a key, the one that was asked for where it is among them
    orders: list[str]
    prices: list[str]
    rows: list[tuple[str, str]]  # that can be compared

    def top(self, order: str) -> Html:
        """What is seen first."""

    def compare(self, one: str | None, other: str | None) -> Html:
        """Two of the rows, class by class."""

    def scatter(self, price: str) -> Html:
        """Cost against mIoU."""

    def rest(self, order: str) -> Html:
        """What is folded at the end."""


def first_kind(folders: Sequence[Path]) -> str:
    """Miniature where there are such runs, else measured where there are, else published."""
    if read_miniatures(folders).studies:
        return KINDS[2]
    return KINDS[1] if _measured_datasets(folders) else KINDS[0]


def open_view(
    kind: str | None, folders: Sequence[Path], dataset: str | None, switched: bool = False
) -> tuple[str, View]:
    """The kind, by default the first that has something to show, and its view of a data set.

    With `switched` a data set that has nothing of this kind gives way to one that has.
    """
    kind = kind if kind in KINDS else first_kind(folders)
    if kind == KINDS[2]:
        return kind, MiniatureView(folders, dataset)
    found = _measured_datasets(folders) if kind == KINDS[1] and (switched or not dataset) else []
    plain = (dataset or "").removesuffix("_mini")
    chosen = found[0] if found and plain not in found else plain
    return kind, BoardView(folders, chosen, kind == KINDS[1])


class BoardView:
    """The published scores of a data set's configurations, or those that were measured here."""

    def __init__(self, folders: Sequence[Path], dataset: str, measured: bool) -> None:
        self.measured = measured
        twelve = [config.dataset for config in CONFIGS.values()]
        keys = boards.board_datasets(folders) if measured else [*dict.fromkeys(twelve)]
        self.datasets = [(get_dataset(key).title, key) for key in keys]
        self.dataset = dataset if dataset in keys else keys[0]
        self.board = boards.read_board(folders, self.dataset)
        shown = [row for row in self.board.rows if row.run]
        if not measured:  # one row for all runs of a configuration, without them
            twelve_rows = {row.config.name: row for row in self.board.rows if row.published}
            shown = [boards.Row(n, r.config, log_iou=r.log_iou) for n, r in twelve_rows.items()]
        self.shown = replace(self.board, rows=tuple(shown))
        self.orders = [*boards.ORDERS, *self.board.class_names]
        self.prices = [*board_figures.COSTS]
        scored = [row.label for row in shown if row.run and row.run.confusions.is_file()]
        self.rows = [(label, label) for label in scored]

    def top(self, order: str) -> Html:
        """The heat map where a class's IoU is known, the table, what is missing in one line."""
        descending, found = order not in board_page.ASCENDING, Html()
        known = [row for row in self.shown.rows if row.iou or row.log_iou]
        if known:
            heated = replace(self.shown, rows=tuple(known))
            figure = board_figures.heat_figure(heated, order, descending)
            found += sheet(figure, f"{self.dataset}_iou_by_class", "IoU by class")
        if self.shown.rows:
            found += board_page.board_table(self.shown, order, descending, True, self.measured)
        return found + board_page.missing_list(self.board)

    def compare(self, one: str | None, other: str | None) -> Html:
        """Two rows, class by class; "" where there are not two."""
        if not one or not other:
            return Html()
        try:
            rows = self.board.row(one), self.board.row(other)
            compared = compare_recipes(self.board, *rows)
            scores = [boards.image_scores(row) for row in rows]
        except LabError as error:
            return problem(error)
        figure = board_figures.comparison_figure(compared)
        two = dict(zip((one, other), scores, strict=True))
        spread = sheet(
            draw.charts.distribution_figure(two, "mIoU of an image, %"),
            "image_scores",
            f"mIoU of the images, {one} and {other}",
        )
        drawn = sheet(figure, "comparison", f"{one} less {other}")
        images = render("board.folded", title="Image by image", content=spread)
        return Html().join([board_page.comparison_html(compared), drawn, images])

    def scatter(self, price: str) -> Html:
        """Rings and their front; dots and theirs where it is what was measured; "" without."""
        if self.measured and all(row.miou is None for row in self.shown.rows):
            return Html()
        figure = board_figures.scatter_figure(self.shown, price)
        return sheet(figure, f"{self.dataset}_cost_and_miou", "cost against mIoU")

    def rest(self, order: str) -> Html:
        """Others' numbers, the legend, folders that can't be read."""
        peers = board_page.peers_table(self.board)
        parts = [render("board.folded", title="What others published", content=peers)]
        legend = render("board.folded", title="How to read it", content=board_page.LEGEND)
        problems = board_page.problems_html(self.board.problems if self.measured else ())
        return Html().join([*(parts if peers else []), legend, problems])


def _measured_datasets(folders: Sequence[Path]) -> list[str]:
    """The data sets of which something was scored here."""
    found = []
    for key in boards.board_datasets(folders):
        if any(row.miou is not None for row in boards.read_board(folders, key).rows):
            found.append(key)
    return found
