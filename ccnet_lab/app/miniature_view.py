"""What the tab Configurations shows of the miniatures; miniature_page.py makes the HTML."""

from collections.abc import Sequence
from pathlib import Path

from ccnet_lab.app import board_page, miniature_figures, miniature_page
from ccnet_lab.app.callbacks import problem
from ccnet_lab.app.rendering import Html, render
from ccnet_lab.errors import LabError
from ccnet_lab.reports.miniatures import COMMAND, ORDERS, read_miniatures, short


class MiniatureView:
    """The miniatures: all three data sets at once, one of them for the pair and the costs."""

    def __init__(self, folders: Sequence[Path], dataset: str | None) -> None:
        self.found = read_miniatures(folders)
        self.studies = tuple(self.found.studies.values())
        self.datasets = [(study.title, key) for key, study in self.found.studies.items()]
        wanted = f"{(dataset or '').removesuffix('_mini')}_mini"
        self.dataset = (
            wanted if wanted in self.found.studies else next(iter(self.found.studies), "")
        )
        self.orders, self.prices = [*ORDERS], miniature_figures.PRICES
        study = self.found.studies.get(self.dataset)
        self.rows = (
            [(short(config), name) for name, config in study.configs.items()] if study else []
        )

    def top(self, order: str) -> Html:
        """The heat map, the effects, what is missing in one line."""
        if not self.studies:
            return render("miniatures.nothing", command=COMMAND)
        return miniature_page.top(self.studies, order) + miniature_page.missing_line(self.found)

    def compare(self, one: str | None, other: str | None) -> Html:
        """Two configurations with intervals over images and seeds."""
        if not one or not other:
            return Html()
        try:
            return miniature_page.compared(self.found.studies[self.dataset], one, other)
        except LabError as error:
            return problem(error)

    def scatter(self, price: str) -> Html:
        """Cost against mIoU of the data set's configurations."""
        study = self.found.studies.get(self.dataset)
        return miniature_page.scatter(study, price) if study else Html()

    def rest(self, order: str) -> Html:
        """Every cell with its interval, folders that are left out."""
        parts = [board_page.problems_html(self.found.problems)]
        if self.studies:
            numbers = miniature_page.numbers(self.studies, order)
            parts = [numbers, miniature_page.legend(self.studies), *parts]
            parts = [miniature_page.reach(self.studies), *parts]
        return Html().join(parts)
