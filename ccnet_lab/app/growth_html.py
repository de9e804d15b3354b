"""What attention costs as the picture grows, by formula and measured here, as HTML."""

from collections.abc import Iterator

from ccnet_lab import draw
from ccnet_lab.app.callbacks import working
from ccnet_lab.app.rendering import Html, render, sheet
from ccnet_lab.explore.attention_costs import SIDES, formula_growth, measure_growth


def growth_by_formula() -> Html:
    """What attention costs as the map grows, by formula."""
    figure = draw.charts.growth_figure(SIDES, formula_growth(SIDES))
    return sheet(figure, "attention_cost", "GFLOP of criss-cross and full attention")


def measured_growth() -> Iterator[Html]:
    """The same beside what it takes on this machine."""
    found = yield from working(
        lambda progress: measure_growth(progress=progress),
        "timing criss-cross and full attention in turn",
    )
    gflop = formula_growth(SIDES)
    figure = draw.charts.growth_figure(SIDES, gflop, found.sides, found.seconds, found.machine)
    html = sheet(figure, "attention_cost_measured", "GFLOP by formula and time measured here")
    if found.left_out:
        html += render("page.text", message=f"Left out: {found.left_out}.")
    yield html
