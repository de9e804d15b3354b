"""The app as a whole: the page made of its tabs, serving it until stopped."""

import argparse
import os
import threading
import time
from importlib.resources import files
from pathlib import Path
from typing import Any

import gradio as gr

from ccnet_lab import store
from ccnet_lab.app import (
    configurations_tab,
    explore_tab,
    recurrence_tab,
    runs_tab,
    share_row,
)
from ccnet_lab.app.endpoint import add_endpoint
from ccnet_lab.app.events import QUICK
from ccnet_lab.app.gate import (
    LOOPBACK,
    fetch_nothing,
    gate,
    hosts_of,
    is_full,
    is_loopback,
)
from ccnet_lab.app.model_menu import ModelMenu
from ccnet_lab.app.page import TABS, Page
from ccnet_lab.app.rendering import hide, render
from ccnet_lab.app.resting import let_rest
from ccnet_lab.app.session import Workbench
from ccnet_lab.app.visitor_files import sweep
from ccnet_lab.app.visitor_sessions import forget_pageless
from ccnet_lab.errors import ConfigError

WAITING = 1000  # calls, of all visitors together; more are refused
FONTS = ["system-ui", "-apple-system", "Segoe UI", "Roboto", "sans-serif"]
THEME = gr.themes.Base(
    primary_hue="orange", neutral_hue="stone", font=FONTS, font_mono=["ui-monospace", "monospace"]
)
CSS, SCRIPT = (
    files("ccnet_lab.app").joinpath(name).read_text(encoding="utf-8")
    for name in ("app.css", "app.js")
)


def build(bench: Workbench, folder: Path) -> gr.Blocks:
    """The whole page, its first model opened; pictures to keep are written into `folder`."""
    return lay_out(bench, folder)[0]


def lay_out(bench: Workbench, folder: Path) -> tuple[gr.Blocks, Page]:
    """As `build`, with what knows the visitors."""
    with gr.Blocks(title="ccnet_lab", delete_cache=(3600, 3600), analytics_enabled=False) as blocks:
        page = Page(bench, folder)
        menu = ModelMenu(page)
        with gr.Tabs(elem_id="tabs") as tabs:
            with gr.Tab("Explore", id="Explore") as explore:
                explore_tab.lay_out(page)
            with gr.Tab("Recurrence", id="Recurrence") as recurrence:
                fill_recurrence = recurrence_tab.lay_out(page)
            with gr.Tab("Configurations", id="Configurations") as configurations:
                fill_board, on_board = configurations_tab.lay_out(page)
            with gr.Tab("Runs", id="Runs") as runs:
                fill_runs, picked = runs_tab.lay_out(page)
            with gr.Tab("About", id="About") as about:
                gr.HTML(render("about.about"))
        share_row.lay_out(page, on_board, picked)
        menu.connect(fill_recurrence)

        fills: list[Any] = [None, fill_recurrence, fill_board, fill_runs, None]
        blocks.load(None, js=SCRIPT)
        loaded = share_row.connect_load(page, blocks, tabs, on_board, picked)
        loaded.then(**fill_recurrence).then(**fill_board).then(**fill_runs)
        opened = [explore, recurrence, configurations, runs, about]
        for name, tab, fill in zip(TABS, opened, fills, strict=True):
            selected = tab.select(lambda name=name: name, None, page.tab, **QUICK)
            if fill:
                selected.then(**fill)
        add_endpoint(bench)
    return blocks, page


def serve(args: argparse.Namespace, folder: Path) -> None:
    """Serve until stopped; everything that is written on the way is in `folder`."""
    uploads = f"{folder}/gradio"  # else what visitors send stays on the disk
    gr.routes.DEFAULT_TEMP_DIR = os.environ["GRADIO_TEMP_DIR"] = uploads
    local = is_loopback(args.host)
    if not local:
        own = [Path.cwd(), Path.home(), Path(__file__).parents[1], store.home(), args.runs, folder]
        given = Path(args.model.partition(" as ")[0])
        hide([*own, *([given.parent] if given.exists() else [])])
    examples = folder / "examples"
    bench = Workbench(examples, args.device, local, args.runs, args.model, args.precision)
    blocks, page = lay_out(bench, folder)
    try:
        root = args.root_path or os.environ.get("GRADIO_ROOT_PATH")
        hosts = hosts_of(local, root, args.allow_host)
        launch(blocks, hosts, server_name=args.host, server_port=args.port, root_path=root)
    except OSError as error:
        raise ConfigError(
            f"cannot listen on {args.host}:{args.port} ({error}); choose another port with --port"
        ) from None
    preparing = threading.Thread(target=configurations_tab.prepare, args=(bench,), daemon=True)
    try:
        stay = {*(folder / "gradio").glob("*/*")}  # the examples'
        while True:
            time.sleep(10)
            if not preparing.ident and page.is_idle():  # else who asks for a picture waits for it
                preparing.start()
            page.forget_unused()
            forget_pageless(blocks.state_holder)
            if sweep(folder, stay, page.on_show()):
                is_full.set()
            else:
                is_full.clear()
    finally:
        blocks.close(verbose=False)  # nothing is written any more


def launch(
    blocks: gr.Blocks,
    hosts: frozenset[str] | None = LOOPBACK,
    root_path: str | None = None,
    **options: Any,
) -> str:
    """Start to serve the page, in its look, to `hosts` as of `Gate`; returns its address."""
    blocks.queue(default_concurrency_limit=2, api_open=False, max_size=WAITING)
    let_rest(blocks)
    gr.processing_utils.async_ssrf_protected_download = fetch_nothing
    _, address, _ = blocks.launch(
        theme=THEME,
        css=CSS,
        max_file_size="100mb",
        footer_links=[],
        run_history=False,
        enable_monitoring=False,
        root_path=root_path,
        app_kwargs={"middleware": [gate(hosts, root_path)]},
        prevent_thread_lock=True,
        **options,
    )
    return str(address)
