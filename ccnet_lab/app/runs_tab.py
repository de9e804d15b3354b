"""The tab Runs: training runs and their curves, read again while it is open."""

import json
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import gradio as gr

from ccnet_lab import draw, store
from ccnet_lab.app.callbacks import safely
from ccnet_lab.app.events import QUICK, STREAM
from ccnet_lab.app.page import TABS, Page, Updates
from ccnet_lab.app.rendering import Html, render, sheet
from ccnet_lab.app.runs_page import runs_table
from ccnet_lab.configs import CONFIGS
from ccnet_lab.errors import LabError
from ccnet_lab.reports.logs import read_log
from ccnet_lab.reports.progress import Curve, RunLine, curves_of, read_runs

DRAWN = 12  # runs whose curves can be told apart
SECONDS = 3  # between two readings


def lay_out(page: Page) -> tuple[dict[str, Any], gr.State]:
    """Make the tab's components and wire their events.

    Returns the event that fills it, and the runs a visitor has picked: None for all of them.
    """
    table = gr.HTML(elem_id="runs")
    chosen = gr.Dropdown([], multiselect=True, label="curves of", elem_id="chosen-runs")
    curves, timer = gr.HTML(elem_id="curves"), gr.Timer(SECONDS)
    mark, picked = gr.State(""), gr.State(None)  # the mark changes with what is drawn

    def refresh(tab: str, names: list[str] | None, before: str) -> Updates:
        if tab != TABS[3]:
            return {mark: before}
        folder = page.bench.runs or Path("runs")
        lines, problems = read_runs(folder)
        updates: Updates = {table: runs_table(folder, lines, problems)}
        wanted = [line for line in lines if names is None or line.name in names]
        now = json.dumps([(line.name, line.step, line.miou) for line in wanted])
        if now != before:
            shown = [line.name for line in wanted[:DRAWN]]
            updates[chosen] = gr.Dropdown([line.name for line in lines], value=shown)
            updates |= {mark: now, curves: curves_html(wanted)}
        return updates

    filled: dict[str, Any] = dict(
        fn=safely(refresh, lambda html, *_: {table: html}),
        inputs=[page.tab, picked, mark],
        outputs=[table, chosen, curves, mark],
        **STREAM,
    )
    timer.tick(**filled)
    chosen.input(lambda names: names or [], chosen, picked, **QUICK).then(**filled)
    return filled, picked


def curves_html(lines: Sequence[RunLine]) -> Html:
    """The curves of the first twelve runs beside their published logs; "" without any."""
    html, drawn = Html(), lines[:DRAWN]
    if len(lines) > DRAWN:
        many = f"The first {DRAWN} of {len(lines)} runs are drawn; choose others above."
        html += render("page.text", message=many)
    if any(line.curves for line in drawn):
        found = {line.name: _published_curves(line.config.name) for line in drawn}
        published = {name: log for name, log in found.items() if log}
        figure = draw.charts.training_figure({line.name: line.curves for line in drawn}, published)
        alt = "loss, learning rate, images per second and mIoU of the runs"
        html += sheet(figure, "training_curves", alt)
    return html


def _published_curves(name: str) -> dict[str, Curve]:
    """The curves of a configuration's published log, if it is on this machine and readable."""
    with suppress(LabError):  # the board names it
        if name in CONFIGS and (file := store.find(f"{name}.log")).on_disk:
            return curves_of(read_log(file.path, name).metrics)
    return {}
