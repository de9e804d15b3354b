"""The miniatures' board as HTML and figures, in a look of its own; `Study` has the numbers."""

from functools import lru_cache

from ccnet_lab import draw
from ccnet_lab.app import board_figures, miniature_figures
from ccnet_lab.app.rendering import Html, render, sheet
from ccnet_lab.data.generated.worlds import WORLDS
from ccnet_lab.evaluation.published import SPREAD
from ccnet_lab.evaluation.repeats import Effect
from ccnet_lab.reports.miniatures import COMMAND, FACTORS, PARTS, Miniatures, Study, short
from ccnet_lab.reports.trainings import is_clear

OTHER = "#6a4c93"  # of the second of two that are compared
Studies = tuple[Study, ...]


def top(studies: Studies, by: str) -> Html:
    """The heat map, the effects in numbers and words, and as a figure."""
    banner = render("miniatures.banner", seeded=all(study.seeded for study in studies))
    return Html().join([banner, heat_map(studies, by), effects(studies)])


@lru_cache(maxsize=32)
def heat_map(studies: Studies, by: str) -> Html:
    """The IoU by class, the classes by one of `ORDERS`."""
    figure = miniature_figures.heat_figure(studies, by)
    return sheet(figure, "miniatures_iou_by_class", "IoU by class, in miniature")


@lru_cache(maxsize=8)
def effects(studies: Studies) -> Html:
    """What depth, stride and recurrence change: a table in plain words, and a figure."""
    columns = [f for f in FACTORS if any((f.name, f.what) in study.effects for study in studies)]
    if not columns:
        return Html()

    def row(study: Study) -> list[Effect | None]:
        found = [study.effects.get((factor.name, factor.what)) for factor in columns]
        return [each[PARTS[0]] if each else None for each in found]

    rows = [(study.title, [(e, e and is_clear(e)) for e in row(study)]) for study in studies]
    what = "what depth, stride and recurrence change, in miniature"
    figure = sheet(miniature_figures.factors_figure(studies), "miniatures_effects", what)
    return render("miniatures.effects", columns=columns, rows=rows) + figure


def reach(studies: Studies) -> Html:
    """Which share of the long-range classes' pixels is right, by R, on the cue's cross and off."""
    if not any(len(study.reach) > 1 for study in studies):
        return Html()
    recurrences = sorted({recurrence for study in studies for recurrence in study.reach})
    rows = []
    for study in studies:
        cells = [study.reach.get(r) for r in recurrences]
        sides = [[c[:, side] if c is not None else None for c in cells] for side in (0, 1)]
        rows.append((study.title, sides))
    return render("miniatures.reach", recurrences=recurrences, rows=rows)


@lru_cache(maxsize=32)
def numbers(studies: Studies, by: str) -> Html:
    """Every cell with its interval, and how far the trainings of one configuration lie apart."""
    tables = []
    for study in studies:
        heads = [(short(c), len(study.seeds[n])) for n, c in study.configs.items()]
        rows = [("mIoU", [study.miou[name][:3] for name in study.configs])]
        rows += [
            (study.class_names[k], [tuple(study.cells[name][:, k]) for name in study.configs])
            for k in study.order(by)
        ]
        trainings = [study.each[name] for name in study.configs]
        tables.append((study.title, study.repeats.count, heads, trainings, rows))
    return render("miniatures.numbers", tables=tables)


def legend(studies: Studies) -> Html:
    """How to read the miniatures, folded: which classes are thin, which long-range."""
    worlds = [(study.title, WORLDS[study.dataset]) for study in studies]
    seeded = all(study.seeded for study in studies)
    return render("miniatures.legend", worlds=worlds, seeded=seeded, spread=SPREAD)


def missing_line(found: Miniatures) -> Html:
    """What is lacking, in one quiet line; "" where nothing is."""
    lacking = found.wanted - found.trained
    return render("miniatures.lacking", lacking=lacking, command=COMMAND) if lacking else Html()


@lru_cache(maxsize=64)
def compared(study: Study, first: str, second: str) -> Html:
    """Two configurations class by class; raises `RunError` for one without runs."""
    comparison = study.compare(first, second)
    figure = board_figures.comparison_figure(comparison, (draw.charts.GREEN, OTHER))
    names = " less ".join(comparison.labels)
    text = render("miniatures.comparison", c=comparison, title=study.title)
    return text + sheet(figure, "miniatures_comparison", f"{names}, in miniature")


@lru_cache(maxsize=32)
def scatter(study: Study, price: str) -> Html:
    """`scatter_figure` as HTML."""
    figure = miniature_figures.scatter_figure(study, price)
    return sheet(figure, f"{study.dataset}_cost_and_miou", "cost against mIoU, in miniature")
