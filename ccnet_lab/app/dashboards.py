"""Dashboards: what the app's tabs show beside a click's answer, as HTML put together from the modules it imports; no gradio in here."""

import io
import json
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import TypeVar

import numpy as np
from matplotlib.figure import Figure

from ccnet_lab import store
from ccnet_lab.app import board_page, page, runs_page
from ccnet_lab.app.page import percent
from ccnet_lab.app.session import RECURRENCES, Scene, Workbench
from ccnet_lab.app.working import Told, watched
from ccnet_lab.configs import CONFIGS
from ccnet_lab.data.catalog import get_dataset
from ccnet_lab.draw import curves, figures, pictures
from ccnet_lab.errors import DataError, LabError
from ccnet_lab.evaluation.metrics import one_class
from ccnet_lab.explore.attention_costs import SIDES, formula_growth, measure_growth
from ccnet_lab.explore.deletion import deletion_test
from ccnet_lab.explore.measures import query_dependence
from ccnet_lab.explore.recurrence import (
    AtRecurrence,
    Comparison,
    beacon_accuracy,
    compare_recurrences,
    read_mask,
)
from ccnet_lab.model.costs import cost
from ccnet_lab.reports import board as boards
from ccnet_lab.reports import progress as training_runs
from ccnet_lab.reports.logs import read_log

T = TypeVar("T")
STEPS = (0, *RECURRENCES)
CHANGED = np.array(
    [213, 94, 0], np.uint8
)  # RGB of pixels whose label changed, over the grey picture
BLACK_WHITE = ((0, 0, 0), (255, 255, 255))
DPI = 125


def sheet(figure: Figure, name: str, alt: str) -> str:
    """A figure as HTML that can be saved as PNG."""
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=DPI)
    return page.sheet(file.getvalue(), name, alt, width=round(100 * figure.get_figwidth()))


def _working(call: Callable[[Told], T], what: str) -> Generator[str, None, T]:
    """How far a call is, as HTML; returns what it returns."""
    calls = watched(call)
    try:
        while True:
            yield page.working(*next(calls), what)
    except StopIteration as end:
        found: T = end.value
        return found


def _at_each(
    recurrences: Sequence[int], answer: Callable[[int], T], what: str
) -> Generator[str, None, dict[int, T]]:
    """As `_working`: the answer at each R."""

    def run(told: Told) -> dict[int, T]:
        found = {}
        for done, steps in enumerate(recurrences):
            told(done, len(recurrences))
            found[steps] = answer(steps)
        return found

    return (yield from _working(run, what))


# Explore


def truth(bench: Workbench, scene: Scene) -> Iterator[str]:
    """The deletion test of the scene's pixel and map: how far it is, then its curves and its number."""
    view = bench.view(scene)
    found = yield from _working(
        lambda told: deletion_test(view, scene.x, scene.y, scene.recurrence, progress=told),
        f"removing cells for pixel ({scene.x}, {scene.y}), forward pass after forward pass",
    )
    name, title = (
        view.explorer.class_names[found.label],
        f"pixel ({scene.x}, {scene.y}), R = {found.recurrence}",
    )
    words = "No better than chance: here the map doesn't show what decides the label."
    if found.area > 2 * found.noise:
        words = "The map points at what decides the label."
    figure = figures.deletion_figure(
        found.counts,
        found.attended,
        found.controls,
        found.area,
        found.noise,
        f"probability of {name}",
        title,
    )
    number = f"Area between the curves: <b>{found.area:+.2f}</b> (random orders: ±{found.noise:.2f}). {words}"
    told = "Removed are the cells' own values wherever they enter by attention; the pixel's own features stay."
    picture = sheet(
        figure, f"deletion_test_R{found.recurrence}", f"score of {name} as cells are removed"
    )
    yield f"<p class='finding' role='status'>{number} {told}</p>{picture}"


# Recurrence


def knows_beacons(bench: Workbench, scene: Scene) -> bool:
    """Whether the scene's model was trained on the generated scenes."""
    return bench.explorer(scene.model).config.dataset == "beacons"


def recurrence(bench: Workbench, scene: Scene, mask: str | None = None) -> Iterator[str]:
    """The same weights at R = 0 to 3, on the scene's picture: labels, what changed, which classes flipped, and scores where a mask is."""
    view, truth, refused = bench.view(scene), None, ""
    try:
        try:
            truth = None if mask is None else read_mask(mask, view)
        except DataError as error:  # the visitor knows the file by its name alone
            raise DataError(str(error).replace(str(mask), Path(str(mask)).name)) from None
    except LabError as error:
        refused = page.problem(error)

    yield from _at_each(STEPS, view.labels_at, "the same weights at each R")
    found, names = compare_recurrences(view, STEPS, truth), view.explorer.class_names
    size = pictures.shown_size(*view.size, page.MAP)
    image = pictures.resized(view.image, size)
    ground = (pictures.grey(image) * 0.45).astype(np.uint8)
    above = below = ""
    for at in found.at:
        words = "<span>as trained</span>" if at.recurrence == found.trained else ""
        words += (
            ""
            if at.scores is None
            else f"<span>mIoU <b>{percent(at.scores.miou)}</b> {one_class(at.scores.iou)}</span>"
        )
        labels = pictures.blend(
            image, pictures.label_picture(at.labels, view.explorer.palette, size), 0.6
        )
        above += _at(found, at, labels, "labels", words)
        changed = pictures.label_picture(at.changed.astype(np.uint8), BLACK_WHITE, size) > 0
        words = f"<span>changed: <b>{percent(at.changed_share)}</b></span>"
        below += _at(found, at, np.where(changed, CHANGED, ground), "changed", words)
    warning = f"gamma is {found.gamma:.4f}, near 0: the attention adds next to nothing, so every R gives the same."
    warning = f"<div class='notice'>{warning}</div>" if found.gamma_near_zero else ""
    head = (
        f"<p class='tabtext'>One set of weights, trained at <b>R = {found.trained}</b> (gamma {found.gamma:.2f}), run at R = 0 to 3 on the "
        "picture of the tab Explore. At another R than the trained one the weights are used outside what they learned.</p>"
    )
    scored = {f"R = {at.recurrence}": at.scores.iou for at in found.at if at.scores is not None}
    chart = (
        sheet(
            figures.iou_figure(names, scored, "IoU on this picture"),
            "iou_by_R",
            "IoU by class at each R",
        )
        if scored
        else ""
    )
    rows = f"<div class='four'>{above}</div><div class='four'>{below}</div>"
    yield f"{refused}{warning}{head}{rows}{_flips(found, names)}{chart}"


def _at(found: Comparison, at: AtRecurrence, picture: pictures.Rgb, shown: str, words: str) -> str:
    name = f"{shown}_R{at.recurrence}"
    trained = " class='trained'" if at.recurrence == found.trained else ""
    return (
        f"<figure{trained}><img alt='{escape(name)}' src='{page.inline(pictures.png(picture))}'>"
        f"<figcaption><b>R = {at.recurrence}</b>{words}{page.save_button(name)}</figcaption></figure>"
    )


def _flips(found: Comparison, names: tuple[str, ...]) -> str:
    lines = [
        f"<tr><td>R = {at.recurrence}</td><td>{escape(names[flip.before])} → {escape(names[flip.after])}</td>"
        f"<td>{percent(flip.share)}</td></tr>"
        for at in found.at
        for flip in at.flips[:3]
    ]
    head = f"<tr><th>at</th><th>class at R = {found.trained} → class there</th><th>of the pixels</th></tr>"
    return (
        f"<div class='scroll'><table class='rows'>{head}{''.join(lines)}</table></div>"
        if lines
        else ""
    )


def on_and_off_cross(bench: Workbench, scene: Scene) -> Iterator[str]:
    """Accuracy on generated scenes at each R, for discs on the beacon's cross and off it, measured on the spot."""
    explorer = bench.explorer(scene.model)
    found = yield from _working(
        lambda told: beacon_accuracy(explorer, STEPS, progress=told),
        "labelling 40 held-out scenes at each R",
    )
    series = {
        "on the beacon's cross": [found[r].on_cross for r in STEPS],
        "off it": [found[r].off_cross for r in STEPS],
    }
    groups = [
        f"R = {steps}" + (" (trained)" if steps == explorer.config.recurrence else "")
        for steps in STEPS
    ]
    figure = figures.bar_figure(groups, series, "accuracy on disc pixels", chance=0.25)
    yield sheet(
        figure, "accuracy_on_and_off_the_cross", "accuracy on and off the beacon's cross at each R"
    )


def places(bench: Workbench, scene: Scene) -> Iterator[str]:
    """How far what pixels look at depends on the pixel, at each R."""
    view = bench.view(scene)
    found = yield from _at_each(
        RECURRENCES,
        lambda steps: query_dependence(view, steps).value,
        "comparing the maps of 64 pixels",
    )
    numbers = ", ".join(f"R = {steps}: <b>{value:.2f}</b>" for steps, value in found.items())
    told = (
        "0: all pixels look at the same place; 1: each looks somewhere else. The maps of 64 pixels are compared pair by pair, on the cells "
        "both can reach, after what geometry alone would give is divided out."
    )
    yield f"<p class='finding' role='status'>Query dependence: {numbers}.</p><p class='tabtext'>{told}</p>"


# Configurations

PRICES = list(board_page.COSTS)  # what can stand against mIoU
COSTS = ("configuration", "parameters", "FLOP", "latency", "memory")  # of the board's orders


def datasets(bench: Workbench) -> list[tuple[str, str]]:
    """(title, key) of the data sets there is a board of."""
    return [(get_dataset(key).title, key) for key in boards.board_datasets(_folders(bench))]


def _folders(bench: Workbench) -> list[Path]:
    folders = [*map(Path, boards.RUNS), *([bench.runs] if bench.runs else [])]
    return [*{folder.resolve(): folder for folder in reversed(folders)}.values()]


def warm() -> None:
    """Count the twelve's operations once, some two seconds, so that the first board opens at once."""
    for config in CONFIGS.values():
        cost(config)


@dataclass(frozen=True)
class ShownBoard:
    """A data set's board as HTML, what it can be ordered by, and the labels of its rows that can be compared."""

    html: str
    orders: list[str]
    rows: list[str]


def board(
    bench: Workbench, dataset: str, order: str, price: str = PRICES[0]
) -> Iterator[ShownBoard]:
    """A data set's board, first without its pictures; the largest first where large is good, the smallest where it is a cost.

    Args:
        bench: knows the folder of runs. dataset: a key of the catalog.
        order: of `ShownBoard.orders`. price: of `PRICES`, the x axis of the scatter. What is unknown becomes the first.
    """
    found = boards.read_board(_folders(bench), dataset)
    orders = [*boards.ORDERS, *found.class_names]
    order = order if order in orders else orders[0]
    descending = order not in COSTS
    above = [board_page.board_table(found, order, descending), board_page.LEGEND]
    below = [
        board_page.problems_html(found.problems),
        board_page.missing_list(found),
        board_page.peers_table(found),
    ]
    labels = [
        row.label for row in found.rows if row.run is not None and row.run.confusions.is_file()
    ]
    yield ShownBoard("".join([*above, page.working(what="drawing"), *below]), orders, labels)
    drawn = [
        sheet(
            board_page.scatter_figure(found, price if price in PRICES else PRICES[0]),
            f"{dataset}_cost_and_miou",
            "cost against mIoU",
        ),
        sheet(
            board_page.heat_figure(found, order, descending),
            f"{dataset}_iou_by_class",
            "IoU by class",
        ),
    ]
    yield ShownBoard("".join([*above, *drawn, *below]), orders, labels)


def compare(bench: Workbench, dataset: str, one: str | None, other: str | None) -> str:
    """Two rows of a board, class by class; what to do where there are not two."""
    if not one or not other:
        return "<p class='tabtext'>Two runs with confusion matrices can be compared here, class by class; so far there are not two.</p>"
    found = boards.read_board(_folders(bench), dataset)
    try:
        compared = boards.compare(found.row(one), found.row(other))
    except LabError as error:
        return page.problem(error)
    return board_page.comparison_html(compared) + sheet(
        board_page.comparison_figure(compared), "comparison", f"{one} less {other}"
    )


def growth_by_formula() -> str:
    """What attention costs as the map grows, by formula."""
    return sheet(
        curves.growth_figure(SIDES, formula_growth(SIDES).gflop),
        "attention_cost",
        "GFLOP of criss-cross and full attention",
    )


def measured_growth() -> Iterator[str]:
    """The same beside what it takes on this machine."""
    found = yield from _working(
        lambda told: measure_growth(progress=told), "timing criss-cross and full attention in turn"
    )
    figure = curves.growth_figure(
        SIDES, formula_growth(SIDES).gflop, found.sides, found.seconds, found.machine
    )
    left_out = (
        f"<p class='tabtext'>Left out: {escape(found.left_out)}.</p>" if found.left_out else ""
    )
    yield (
        sheet(figure, "attention_cost_measured", "GFLOP by formula and time measured here")
        + left_out
    )


# Runs

DRAWN = 12  # runs whose curves are told apart


@dataclass(frozen=True)
class Shown:
    """The tab Runs: the table, the curves (None where they are as before), the runs there are, those drawn, a mark of what is drawn."""

    table: str
    curves: str | None
    known: list[str]
    drawn: list[str]
    mark: str


def runs(bench: Workbench, names: list[str] | None = None, before: str = "") -> Shown:
    """The runs folder as it is now, curves of the first twelve of the runs named beside the published logs on this machine.

    Args:
        bench: knows the folder. names: of runs; those that are gone are passed over. None for all of them.
        before: the mark of what is drawn already.
    """
    folder = bench.runs or Path("runs")
    lines, problems = training_runs.read_runs(folder)
    chosen = [line for line in lines if names is None or line.name in names]
    drawn = chosen[:DRAWN]
    mark = json.dumps([(line.name, line.step, line.miou) for line in chosen])
    picture = None
    if mark != before:
        many = f"<p class='tabtext'>The first {DRAWN} of {len(chosen)} runs are drawn; choose others above.</p>"
        picture = many if len(chosen) > DRAWN else ""
        if any(line.curves for line in drawn):
            published = {
                line.name: log for line in drawn if (log := _published_curves(line.config.name))
            }
            figure = curves.training_figure({line.name: line.curves for line in drawn}, published)
            picture += sheet(
                figure,
                "training_curves",
                "loss, learning rate, images per second and mIoU of the runs",
            )
    return Shown(
        runs_page.runs_table(folder, lines, problems),
        picture,
        [line.name for line in lines],
        [line.name for line in drawn],
        mark,
    )


def _published_curves(name: str) -> dict[str, training_runs.Curve]:
    """The curves of a configuration's published log, if that is on this machine and can be read."""
    with suppress(LabError):  # the board names it
        if name in CONFIGS and (file := store.find(f"{name}.log")).on_disk:
            return training_runs.curves_of(read_log(file.path, name).metrics)
    return {}
