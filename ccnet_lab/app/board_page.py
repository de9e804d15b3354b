"""The board's face: its HTML, and its figures from a board. The numbers are board.py's, the drawing charts.py's, the colours page.css's."""

from collections.abc import Callable, Mapping, Sequence
from html import escape

import numpy as np
from matplotlib.figure import Figure

from ccnet_lab.data.catalog import get_dataset
from ccnet_lab.draw.charts import Point, class_heatmap, cost_scatter, difference_bars
from ccnet_lab.evaluation.metrics import one_class
from ccnet_lab.evaluation.published import AUTHORS, CLAIMS, PAGE, SPREAD
from ccnet_lab.reports.board import Board, Comparison, Missing, Row, ordered, pareto

BACKBONES = ("R-50-D8", "R-50-D16", "R-101-D8", "R-101-D16")
COSTS: Mapping[str, Callable[[Row], float | None]] = {  # what a scatter's x axis can be
    "GFLOP of one image, by formula": lambda row: row.cost.formula_flops / 1e9,
    "GFLOP of one image, counted": lambda row: row.cost.counted_flops / 1e9,
    "parameters, million": lambda row: row.cost.parameters / 1e6,
    "seconds for one image on this machine": lambda row: row.seconds,
    "peak memory on this machine, MiB": lambda row: row.peak_bytes and row.peak_bytes / 2**20,
}
_COLUMNS = {  # title: the order of `ordered` that sorts it
    "configuration": "configuration", "published, mIoU %": "published mIoU", "measured here, mIoU %": "measured mIoU",
    "measured − published": "difference", "parameters": "parameters", "GFLOP formula": "FLOP", "GFLOP counted": "",
    "latency here": "latency", "peak memory here": "memory",
}  # fmt: skip
TIE = f"the interval holds 0, or the difference is within {SPREAD} points"
_MISSING = "<td class='missing'>missing</td>"
MEASURE = Missing(
    "latency and peak memory on this machine", "python -m ccnet_lab.model.costs --measure"
)

LEGEND = f"""<div class='kinds'>
<span><b class='published'>77.4</b> published by SSSegmentation, not checked here</span>
<span><b class='measured'>77.4</b> measured here; the small numbers are its 95 % interval over the images, small words how it was measured
otherwise</span>
<span><b class='missing'>missing</b> not measured; what to type stands below</span>
<span><b class='verdict tie'>tie</b> within {SPREAD} points: so far apart lie trainings of one and the same recipe (the authors' three runs
each, ResNet-101 on Cityscapes, <a href='{AUTHORS}' target='_blank' rel='noopener noreferrer'>{AUTHORS}</a>)</span>
<span><b class='verdict above'>above</b> <b class='verdict below'>below</b> further apart than that</span></div>"""


class Html(str):
    """HTML that a notebook shows as it is, with the few styles that tell the kinds apart; in the app page.css does that."""

    _STYLE = (
        "<style>.board td.published { font-style: italic } .board td.measured { font-weight: bold } .board small { display: block; "
        "font-weight: normal } .board td.missing { background: repeating-linear-gradient(135deg, transparent 0 5px, #ccc 5px 6px) }</style>"
    )

    def _repr_html_(self) -> str:
        return self._STYLE + self


def board_table(
    board: Board, sort_by: str = "configuration", descending: bool = False, costs: bool = True
) -> Html:
    """The rows, as `ordered` by `sort_by`, as a table in a box that scrolls by itself; raises `RunError` where there is no such order.

    With `costs` it shows what the configurations cost; the first time that takes about a second for each.
    """
    columns = dict(list(_COLUMNS.items())[: None if costs else 4])
    head = "".join(_head(title, order, sort_by, descending) for title, order in columns.items())
    if sort_by in board.class_names:
        head += _head(f"IoU of {sort_by}, %", sort_by, sort_by, descending)
    body = "".join(
        _row(row, sort_by if sort_by in board.class_names else "", costs)
        for row in ordered(board, sort_by, descending)
    )
    caption = f"<caption>{escape(get_dataset(board.dataset).title)}: mIoU in %, costs of one image</caption>"
    return Html(
        f"<div class='board'><table>{caption}<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def problems_html(problems: Sequence[str]) -> str:
    """What could not be read, folded; "" where nothing is."""
    if not problems:
        return ""
    items, many = (
        "".join(f"<li>{escape(text)}</li>" for text in problems),
        "s" if len(problems) > 1 else "",
    )
    summary = f"<summary>{len(problems)} folder{many} not shown</summary>"
    return f"<details class='lacking'>{summary}<ul>{items}</ul><p>Remove it, or evaluate again.</p></details>"


def missing_list(board: Board, costs: bool = True) -> str:
    """What is missing and the commands that bring it; "" where nothing is."""
    wanted = [(row.short, lack) for row in board.rows for lack in row.missing]
    if costs and any(row.seconds is None for row in board.rows):
        wanted.append(("all", MEASURE))
    items = "".join(
        f"<li><b>{escape(name)}</b> {escape(lack.what)}: <code>{escape(lack.command)}</code></li>"
        for name, lack in wanted
    )
    if not wanted:
        return ""
    shown = "" if any(row.miou is not None for row in board.rows) else " open"
    return (
        f"<details class='lacking'{shown}><summary>Missing: {len(wanted)} · what to type</summary><ul>{items}</ul><p>ROOT is the folder "
        "that holds VOCdevkit/, ADEChallengeData2016/, cityscapes/, camvid/. A download happens only when you type it.</p></details>"
    )


def peers_table(board: Board) -> Html:
    """Others' numbers on this data set, each line with its protocol and its source; "" where there are none."""
    if not board.peers:
        return Html()
    lines: dict[tuple[str, ...], dict[str, float]] = {}
    for row in board.rows:
        if row.published is not None:
            key = (
                "SSSegmentation",
                "CCNet",
                f"{row.config.epochs} epochs",
                "single scale, whole image, no flip: the twelve",
                PAGE,
            )
            lines.setdefault(key, {})[f"R-{row.config.depth}-D{row.config.output_stride}"] = (
                row.published
            )
    for peer in board.peers:
        key = (peer.project, peer.network, peer.schedule, peer.protocol, peer.source)
        lines.setdefault(key, {})[peer.backbone] = peer.miou
    body = "".join(
        f"<tr><th scope='row'>{escape(network)}<small>{escape(project)}, {escape(schedule)}</small></th>"
        + "".join(
            f"<td class='published'>{values[b]:.2f}</td>" if b in values else "<td>–</td>"
            for b in BACKBONES
        )
        + f"<td class='words'>{escape(protocol)}</td><td class='words'>{_link(source)}</td></tr>"
        for (project, network, schedule, protocol, source), values in lines.items()
    )
    head = "".join(
        f"<th scope='col'>{title}</th>" for title in ("network", *BACKBONES, "protocol", "source")
    )
    claims = "".join(f"<li>{escape(claim.words)} {_link(claim.source)}</li>" for claim in CLAIMS)
    return Html(
        "<div class='board peers'><table><caption>What others published, mIoU in %; nothing of it was measured here, and differences "
        f"up to {SPREAD} points are ties</caption><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
        f"<ul class='claims'>{claims}</ul>"
    )


def comparison_html(comparison: Comparison) -> Html:
    """A comparison in words, to stand beside `comparison_figure`."""
    (one, other), c = map(escape, comparison.labels), comparison
    better, worse = (
        np.count_nonzero(~c.ties & beyond) for beyond in (c.difference > 0, c.difference < 0)
    )
    low, high = c.interval
    reach = f"{low:+.2f} to {high:+.2f}, 95 % over the {c.images:,} images, the same for both"
    if np.isnan(low):
        reach = "no interval over one image"
    return Html(
        f"<div class='compared'><p>mIoU: <b>{one}</b> less <b>{other}</b> is <b>{c.miou:+.2f}</b> points ({reach}) "
        f"<b class='verdict {c.verdict}'>{c.verdict}</b>. Tie: {TIE}, the spread between trainings.</p>"
        f"<p>Of {np.count_nonzero(~np.isnan(c.difference))} classes {one} is higher in {better}, {other} in {worse}; the others are ties. "
        "The intervals say how far a difference hangs on the choice of images, class by class, so of many classes about one in twenty "
        "leaves 0 by chance. How far a class varies from one training to the next is not known: two trainings of one recipe could differ "
        "as much.</p></div>"
    )


def heat_figure(board: Board, by: str = "configuration", descending: bool = False) -> Figure:
    """`class_heatmap` of a board, its rows as `ordered`. By a class or the measured mIoU, the classes take the order of the first row.

    `by` may also be one of `Board.heat_rows`, whose order the classes then take.
    """
    rows = board.heat_rows() if by in board.heat_rows() else board.heat_rows(by, descending)
    first = (
        by
        if by in rows
        else next(iter(rows))
        if by in ("measured mIoU", *board.class_names)
        else ""
    )
    return class_heatmap(
        rows, board.class_names, first, f"IoU by class, {get_dataset(board.dataset).title}"
    )


def scatter_figure(board: Board, cost: str = "GFLOP of one image, by formula") -> Figure:
    """`cost_scatter` of a board; `cost` is one of `COSTS`. Published and measured have a Pareto front each, of comparable rows only."""
    points = []
    for measured, alike in ((False, True), (True, True), (True, False)):
        rows = [row for row in board.rows if row.alike is alike or not measured]
        found = [(row, COSTS[cost](row), row.miou if measured else row.published) for row in rows]
        kind = [
            (row, price, value)
            for row, price, value in found
            if price is not None and value is not None
        ]
        if not measured:  # one published number for however many runs
            kind = list({each[0].config.name: each for each in kind}.values())
        front = pareto([price for _, price, _ in kind], [value for _, _, value in kind])
        points += [
            Point(
                row.short.partition(" (")[0],
                price,
                value,
                measured,
                on and alike,
                row.interval if measured else None,
                alike,
            )
            for (row, price, value), on in zip(kind, front, strict=True)
        ]
    return cost_scatter(points, cost, f"{get_dataset(board.dataset).title}: cost and mIoU")


def comparison_figure(comparison: Comparison) -> Figure:
    """`difference_bars` of a comparison."""
    c = comparison
    title = f"{c.labels[0]} less {c.labels[1]}: mIoU {c.miou:+.2f} points, {c.verdict}"
    return difference_bars(
        c.class_names, c.difference, c.low, c.high, c.ties, c.labels, title, f"tie: {TIE}"
    )


def _head(title: str, order: str, sort_by: str, descending: bool) -> str:
    if order != sort_by:
        return f"<th scope='col'>{escape(title)}</th>"
    arrow, words = ("▼", "descending") if descending else ("▲", "ascending")
    return f"<th scope='col' aria-sort='{words}'>{escape(title)} {arrow}</th>"


def _row(row: Row, class_name: str, costs: bool) -> str:
    about = [row.whose, str(row.run.folder) if row.run else "", *row.changed]
    published = (
        f"<td class='published'>{row.published:.2f}</td>"
        if row.published is not None
        else "<td>–</td>"
    )
    here, verdict = (
        _MISSING,
        f"<td class='words'>{escape(row.verdict)}</td>" if row.verdict else "<td>–</td>",
    )
    if row.miou is not None:
        interval = (
            ""
            if row.interval is None
            else f"<small>{row.interval[0]:.1f} to {row.interval[1]:.1f}</small>"
        )
        words = [*filter(None, [one_class(row.iou.values())]), *row.how]
        how = f"<small>{escape(' · '.join(words))}</small>" if words else ""
        here = f"<td class='measured'>{row.miou:.2f}{interval}{how}</td>"
    if row.difference is not None:
        verdict = (
            f"<td>{row.difference:+.2f} <b class='verdict {row.verdict}'>{row.verdict}</b></td>"
        )
    name = f"<th scope='row'>{escape(row.short)}<small>{escape(' · '.join(filter(None, about)) or 'no run here')}</small></th>"
    cells = [name, published, here, verdict]
    if costs:
        cells += [f"<td>{row.cost.parameters / 1e6:.2f} M</td>"]
        cells += [
            f"<td>{flops / 1e9:.2f}</td>"
            for flops in (row.cost.formula_flops, row.cost.counted_flops)
        ]
        seconds, peak = row.seconds, row.peak_bytes
        cells += [_MISSING if seconds is None else f"<td class='measured'>{seconds:.2f} s</td>"]
        cells += [
            _MISSING if peak is None else f"<td class='measured'>{peak / 2**20:,.0f} MiB</td>"
        ]
    if class_name:
        measured, logged = row.iou.get(class_name), row.log_iou.get(class_name)
        value, kind = (logged, "published") if measured is None else (measured, "measured")
        cells.append(_MISSING if value is None else f"<td class='{kind}'>{value:.2f}</td>")
    return f"<tr>{''.join(cells)}</tr>"


def _link(address: str) -> str:
    return f"<a href='{escape(address)}' target='_blank' rel='noopener noreferrer'>{escape(address)}</a>"
