"""The app's door: the layout in gradio and short callbacks; what they show is made in ccnet_lab/app/session.py and dashboards.py."""

import argparse
import functools
import inspect
import ipaddress
import os
import secrets
import shutil
import sys
import tempfile
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from ccnet_lab.ending import ending

os.environ.setdefault(
    "GRADIO_ANALYTICS_ENABLED", "False"
)  # before the import: nothing leaves this machine unasked

import gradio as gr

from ccnet_lab.app import dashboards, page
from ccnet_lab.app.session import RECURRENCES, SHORT_SIDES, Scene, Workbench
from ccnet_lab.draw.pictures import png
from ccnet_lab.errors import ConfigError, ImageError, LabError
from ccnet_lab.training.signals import handling

FONTS = ["system-ui", "-apple-system", "Segoe UI", "Roboto", "sans-serif"]
THEME = gr.themes.Base(
    primary_hue="orange", neutral_hue="stone", font=FONTS, font_mono=["ui-monospace", "monospace"]
)
SIZES = [(f"short side {side}" if side else "as evaluated", side) for side in SHORT_SIDES]
LAST_CLICK = "(state, _) => [state, window.lastClick]"
OPEN_SAVED = (
    "() => document.querySelector('#saved a, a#saved, #saved button, button#saved')?.click()"
)
TABS = ("Explore", "Recurrence", "Configurations", "Runs", "About")
QUICK: dict[str, Any] = dict(
    queue=False, show_progress="hidden", api_visibility="private", trigger_mode="always_last"
)
WORK: dict[str, Any] = dict(
    show_progress="hidden", api_visibility="private", concurrency_limit=None
)
HEAVY: dict[str, Any] = WORK | dict(
    concurrency_limit=1, concurrency_id="measuring", trigger_mode="multiple"
)


def build(bench: Workbench, folder: Path) -> gr.Blocks:
    """The whole page; its first model is opened before anybody comes, pictures to keep are written into `folder`."""
    first = bench.start(bench.model)

    with gr.Blocks(title="ccnet_lab", delete_cache=(3600, 3600), analytics_enabled=False) as blocks:

        def left(at: dict[str, Any]) -> None:
            """A visitor has gone: the picture that was on show is as old as any other."""
            stage.keep_in_cache.discard(at["file"])

        state = gr.State(asdict(first), delete_callback=left)
        where, tab = gr.JSON(visible=False), gr.State(TABS[0])
        with gr.Row(elem_id="top"):
            gr.HTML(page.BRAND, elem_id="brand")
            models = gr.Dropdown(
                bench.models(), value=bench.model, label="model", info="the twelve: published mIoU, size; or type a path", elem_id="model",
                allow_custom_value=bench.any_path,
            )  # fmt: skip
            about_model = gr.HTML(elem_id="about-model")
        wanted = gr.State("")  # a model that is not on this machine yet
        with gr.Row(visible=False, elem_id="download") as download:
            offer = gr.HTML(elem_id="offer")
            fetch, leave = (
                gr.Button("Download", elem_id="fetch"),
                gr.Button("Not now", elem_id="leave"),
            )
        notice, problem = gr.HTML(elem_id="notice"), gr.HTML(elem_id="problem")

        with gr.Tabs(elem_id="tabs") as tabs:
            with gr.Tab("Explore", id="Explore") as explore:
                with gr.Row(elem_id="pictures"):
                    with gr.Column(scale=5, min_width=300, elem_id="stage-column"):
                        stage = gr.Image(
                            label="the image with its labels; click a pixel", show_label=False, interactive=False, format="png", buttons=[],
                            elem_id="stage", type="filepath",
                        )  # fmt: skip
                        marker, legend = gr.HTML(elem_id="marker"), gr.HTML(elem_id="legend")
                    with gr.Column(scale=7, min_width=300):
                        answer = gr.HTML(elem_id="answer")
                        with gr.Row(elem_id="ask"):
                            steps = gr.Radio(
                                list(RECURRENCES),
                                value=first.recurrence,
                                label="facts and test for R",
                                elem_id="steps",
                            )
                            ask = gr.Button("Is it true? Run the deletion test", elem_id="test")
                        truth = gr.HTML(elem_id="truth")
                with gr.Row(elem_id="controls"):
                    labels = gr.Slider(
                        0,
                        1,
                        first.labels,
                        step=0.05,
                        label="labels over the image",
                        elem_id="labels",
                    )
                    photo = gr.Slider(
                        0, 1, first.photo, step=0.05, label="image under the maps", elem_id="photo"
                    )
                    clip = gr.Slider(
                        0,
                        1,
                        first.clip,
                        step=0.05,
                        label="clip the peaks of the maps",
                        elem_id="clip",
                    )
                with gr.Row(elem_id="inputs"):
                    with gr.Column(scale=3, min_width=260):
                        upload = gr.File(
                            label="Your photograph", type="filepath", height=150, elem_id="upload"
                        )
                    with gr.Column(scale=5, min_width=300):
                        examples = gr.Gallery(
                            bench.examples, label="Examples", columns=5, height=150, allow_preview=False, format="png",
                            object_fit="cover", elem_id="examples", buttons=[],
                        )  # fmt: skip
                    with gr.Column(scale=2, min_width=220):
                        size = gr.Dropdown(
                            SIZES, value=first.short_side, label="network input", elem_id="size"
                        )
            with gr.Tab("Recurrence", id="Recurrence") as recurrence_tab:
                recurrence = _recurrence(bench, state, tab)
            with gr.Tab("Configurations", id="Configurations") as configurations_tab:
                board, on_board = _configurations(bench, tab)
            with gr.Tab("Runs", id="Runs") as runs_tab:
                runs, picked = _runs(bench, tab)
            with gr.Tab("About", id="About") as about_tab:
                gr.HTML(page.ABOUT)
        with gr.Row(elem_id="share"):
            save = gr.Button("Save the picture (PNG)", elem_id="save", size="sm")
            saved = gr.DownloadButton("picture", elem_id="saved")
            link = gr.Button("Copy the link", elem_id="link", size="sm")
            python = gr.Button("Copy the Python that made this", elem_id="python", size="sm")
        shared = gr.Textbox(
            visible=False,
            show_label=False,
            lines=1,
            max_lines=10,
            buttons=["copy"],
            elem_id="shared",
        )

        def shown(scene: Scene) -> dict[Any, Any]:
            return {
                state: asdict(scene),
                problem: "",
                **dict(zip([marker, answer], bench.answer(scene), strict=True)),
            }

        def pixel(scene: Scene) -> dict[Any, Any]:
            return {truth: "", **shown(scene)}

        def image(scene: Scene) -> dict[Any, Any]:
            file = _file(Path(stage.GRADIO_CACHE), bench.stage(scene))
            found = {stage: file, **shown(replace(scene, file=file))}
            stage.keep_in_cache.add(file)  # whatever its age, until another one is on show
            stage.keep_in_cache.discard(scene.file)
            return found

        def everything(scene: Scene) -> dict[Any, Any]:
            around = dict(zip([about_model, notice, legend], bench.around(scene), strict=True))
            return {
                models: scene.model,
                size: scene.short_side,
                steps: scene.recurrence,
                upload: None,
                truth: "",
                **around,
                **image(scene),
            }

        def on_show(at: dict[str, Any]) -> Scene:
            """The visitor's scene; `ImageError` where gradio lost it and gives what every visitor begins with."""
            if not at["file"]:
                raise ImageError(
                    "the app was restarted, or this page lay idle too long, and your picture is gone; load the page again"
                )
            return Scene(**at)

        def told(
            callback: Callable[..., Any], **emptied: gr.components.Component
        ) -> Callable[..., Any]:
            """The callback; what goes wrong in it is told above the picture, and everything but what is `emptied` stays as it was."""

            def failed(words: str, *args: Any) -> dict[Any, Any]:
                at = args[0] if args and isinstance(args[0], dict) else {}
                return {
                    problem: words,
                    **({models: at["model"], upload: None} if "model" in at else {}),
                    **dict.fromkeys(emptied.values()),
                }

            @functools.wraps(callback)
            def known(at: Any, *args: Any) -> Any:
                if callback is not load and isinstance(at, dict):
                    on_show(at)
                return callback(at, *args)

            return _safely(callback if inspect.isgeneratorfunction(callback) else known, failed)

        def load(at: dict[str, Any], request: gr.Request) -> Any:
            scene, opened, more, trouble = Scene(**at), TABS[0], {}, ""
            try:
                if "image" in request.query_params:
                    scene, link = bench.reopen(dict(request.query_params))
                    opened = link.tab if link.tab in TABS else TABS[0]
                    values = [
                        link.board or "voc",
                        link.order or "configuration",
                        link.one or None,
                        link.other or None,
                    ]
                    more = {
                        part: gr.Dropdown(value=value)
                        for part, value in zip(on_board, values, strict=True)
                    }
                    more[picked] = link.drawn.split("|") if link.drawn else None
            except (
                Exception
            ) as error:  # what the link asks for cannot be shown: the page begins as without it
                trouble = _words(error)
            sliders = {labels: scene.labels, photo: scene.photo, clip: scene.clip}
            return {
                **everything(scene),
                **sliders,
                **more,
                problem: trouble,
                tabs: gr.Tabs(selected=opened),
                tab: opened,
            }

        def no_offer(scene: Scene) -> dict[Any, Any]:
            return {
                download: gr.Row(visible=False),
                wanted: "",
                models: gr.Dropdown(bench.models(), value=scene.model),
            }

        def choose_model(at: dict[str, Any], name: str) -> Any:
            if question := bench.offer(name):
                asked = {fetch: gr.Button(visible=True), leave: gr.Button("Not now")}
                return {
                    download: gr.Row(visible=True),
                    offer: question,
                    wanted: name,
                    problem: "",
                    **asked,
                }
            scene = bench.with_model(Scene(**at), name)
            return {**everything(scene), **no_offer(scene)}

        def get_model(name: str, request: gr.Request) -> Any:
            for so_far in bench.fetch(name, str(request.session_hash)):
                yield {
                    offer: so_far,
                    fetch: gr.Button(visible=False),
                    leave: gr.Button("Cancel"),
                    problem: "",
                }

        def open_model(at: dict[str, Any], name: str) -> Any:
            scene = (
                Scene(**at)
                if bench.offer(name)
                else bench.with_model(Scene(**at), name or at["model"])
            )
            shown = everything(scene) if scene.model == name else {}
            return {**shown, **no_offer(scene)}

        def leave_model(at: dict[str, Any], name: str, request: gr.Request) -> Any:
            bench.fetches.leave(name, str(request.session_hash))
            return no_offer(Scene(**at))

        def choose_size(at: dict[str, Any], short_side: int) -> Any:
            return everything(replace(Scene(**at), short_side=short_side))

        def take(at: dict[str, Any], path: str | None) -> Any:
            if not path:
                return everything(Scene(**at))
            with _kept(folder, path, at["image"]) as copy:
                return everything(bench.with_image(Scene(**at), copy))

        def take_example(at: dict[str, Any], event: gr.SelectData) -> Any:
            return everything(bench.with_image(Scene(**at), bench.examples[event.index]))

        def click(at: dict[str, Any], where: list[float] | None) -> Any:
            return pixel(bench.clicked(Scene(**at), where)) if where else gr.skip()

        def slide_labels(at: dict[str, Any], labels: float) -> Any:
            return image(replace(Scene(**at), labels=labels))

        def slide_maps(at: dict[str, Any], photo: float, clip: float) -> Any:
            return shown(replace(Scene(**at), photo=photo, clip=clip))

        def choose_steps(at: dict[str, Any], recurrence: int) -> Any:
            return pixel(replace(Scene(**at), recurrence=recurrence))

        def keep(at: dict[str, Any]) -> Any:
            path = _fresh(folder, "saved") / "attention.png"
            bench.figure(Scene(**at)).savefig(path, dpi=160)
            return {saved: str(path)}

        def give_link(at: dict[str, Any], opened: str, *more: Any) -> Any:
            *board, drawn = more
            on_tabs = dict(
                zip(("board", "order", "one", "other"), [part or "" for part in board], strict=True)
            )
            return {
                shared: gr.Textbox(
                    bench.link(Scene(**at), opened, **on_tabs, drawn="|".join(drawn or [])),
                    visible=True,
                )
            }

        def give_python(at: dict[str, Any]) -> Any:
            return {shared: gr.Textbox(bench.python(Scene(**at)), visible=True)}

        def attention_at(
            image: str | None, x: float, y: float, recurrence: float = 2, model: str = "demo"
        ) -> dict[str, Any]:
            if image is None:
                raise gr.Error("no picture came; send one with handle_file(path)")
            for name, value in (("x", x), ("y", y), ("recurrence", recurrence)):
                if not isinstance(value, int | float) or value != int(value):
                    raise gr.Error(
                        f"{name} is {value!r}; expected a whole number", print_exception=False
                    )
            try:
                return bench.attention_at(image, int(x), int(y), int(recurrence), model or "demo")
            except Exception as error:
                raise gr.Error(_said(error), print_exception=False) from None

        on_shown = [state, problem, marker, answer, models, upload]
        on_image, on_pixel = [*on_shown, stage], [*on_shown, truth]
        on_all = [*on_image, truth, size, steps, about_model, notice, legend]
        slow: dict[str, Any] = dict(
            show_progress_on=[stage], api_visibility="private", trigger_mode="always_last"
        )
        blocks.load(None, js=page.SCRIPT)
        loaded = blocks.load(
            told(load), state, [*on_all, labels, photo, clip, tabs, tab, *on_board, picked], **slow
        )
        loaded.then(**recurrence).then(**board).then(**runs)
        asked_at, found = gr.State({}), gr.State("")

        def test(at: dict[str, Any]) -> Any:
            for html in dashboards.truth(bench, on_show(at)):
                yield {truth: html if "<img" not in html else gr.skip(), found: html, asked_at: at}

        def not_tested(words: str, at: dict[str, Any]) -> dict[Any, Any]:
            return {truth: words, found: words, asked_at: at}

        def answer_to_what_is_on_show(
            at: dict[str, Any], asked_at: dict[str, Any], html: str
        ) -> str:
            """The deletion test's answer, unless the visitor has gone on to another pixel, R, picture or model meanwhile."""
            question = ("model", "image", "short_side", "x", "y", "recurrence")
            return html if all(at[name] == asked_at.get(name) for name in question) else ""

        ask.click(
            _safely(test, not_tested),
            state,
            [truth, found, asked_at],
            **WORK | {"trigger_mode": "multiple"},
        ).then(answer_to_what_is_on_show, [state, asked_at, found], truth, **QUICK)
        stage.select(told(click), [state, where], on_pixel, js=LAST_CLICK, **QUICK)
        labels.input(told(slide_labels), [state, labels], on_image, **QUICK)
        for slider in (photo, clip):
            slider.input(told(slide_maps), [state, photo, clip], on_shown, **QUICK)
        steps.input(told(choose_steps), [state, steps], on_pixel, **QUICK)
        on_offer = [*on_all, download, offer, fetch, leave, wanted]
        models.input(told(choose_model), [state, models], on_offer, **slow).then(**recurrence)
        come = fetch.click(
            told(get_model),
            wanted,
            [offer, fetch, leave, problem],
            concurrency_limit=None,
            show_progress="hidden",
            api_visibility="private",
        )
        come.then(
            told(open_model),
            [state, wanted],
            on_offer,
            show_progress_on=[stage],
            api_visibility="private",
        ).then(**recurrence)
        leave.click(
            told(leave_model), [state, wanted], [download, wanted, models, problem, upload], **QUICK
        )
        size.input(told(choose_size), [state, size], on_all, **slow)
        upload.upload(told(take), [state, upload], on_all, **slow)
        examples.select(told(take_example), state, on_all, **slow)
        told_save = [problem, models, upload]
        save.click(
            told(keep, old=saved), state, [saved, *told_save], api_visibility="private"
        ).then(None, js=OPEN_SAVED)
        link.click(
            told(give_link),
            [state, tab, *on_board, picked],
            [shared, *told_save],
            api_visibility="private",
        ).then(None, shared, shared, js="window.copiedLink")
        python.click(told(give_python), state, [shared, *told_save], api_visibility="private").then(
            None, shared, shared, js="window.copied"
        )
        explore.select(lambda: TABS[0], None, tab, **QUICK)
        about_tab.select(lambda: TABS[4], None, tab, **QUICK)
        recurrence_tab.select(lambda: TABS[1], None, tab, **QUICK).then(**recurrence)
        configurations_tab.select(lambda: TABS[2], None, tab, **QUICK).then(**board)
        runs_tab.select(lambda: TABS[3], None, tab, **QUICK).then(**runs)

        # Clients can't send a click on a picture; this is its twin:
        # client.predict(handle_file(path), x, y, recurrence, api_name="/attention_at")
        with gr.Row(visible=False):
            asked = [
                gr.File(label="image", type="filepath"),
                gr.Number(label="x"),
                gr.Number(label="y"),
            ]
            asked += [gr.Number(2, label="recurrence"), gr.Textbox("demo", label="model")]
            gr.Button().click(attention_at, asked, gr.JSON(), api_name="attention_at")
    return blocks


def _recurrence(bench: Workbench, state: gr.State, tab: gr.State) -> dict[str, Any]:
    """The tab "Recurrence": the same weights at R = 0 to 3. Returns the event that fills it."""
    shown = gr.HTML(elem_id="recurrence")
    with gr.Row(elem_id="recurrence-inputs"):
        mask = gr.File(label="A mask of this picture", type="filepath", height=130, elem_id="mask")
        with gr.Column(min_width=260):
            places = gr.Button("Do all pixels look at the same place?", elem_id="places")
            cross = gr.Button(
                "Accuracy on and off the beacon's cross", elem_id="cross", visible=False
            )
    spread, accuracy = gr.HTML(elem_id="spread"), gr.HTML(elem_id="accuracy")

    def refresh(at: dict[str, Any], tab: str) -> Any:
        if tab != TABS[1]:
            yield {shown: gr.skip()}
        else:
            beacons = dashboards.knows_beacons(bench, Scene(**at))
            yield {
                mask: None,
                spread: "",
                accuracy: "",
                cross: gr.Button(visible=beacons),
                shown: page.working(),
            }
            for html in dashboards.recurrence(bench, Scene(**at)):
                yield {shown: html}

    mask.upload(
        _shown(lambda at, path: dashboards.recurrence(bench, Scene(**at), path)),
        [state, mask],
        shown,
        **WORK,
    )
    mask.clear(_shown(lambda at: dashboards.recurrence(bench, Scene(**at))), state, shown, **WORK)
    cross.click(
        _shown(lambda at: dashboards.on_and_off_cross(bench, Scene(**at))), state, accuracy, **HEAVY
    )
    places.click(_shown(lambda at: dashboards.places(bench, Scene(**at))), state, spread, **HEAVY)
    refresh = _safely(refresh, lambda words, *_: {shown: words})
    return dict(
        fn=refresh, inputs=[state, tab], outputs=[shown, mask, spread, accuracy, cross], **WORK
    )


def _configurations(bench: Workbench, tab: gr.State) -> tuple[dict[str, Any], list[Any]]:
    """The tab "Configurations": a data set's board, two of its rows by class, what attention costs.

    Returns the event that fills it, and what a visitor chooses: data set, order, two rows to compare.
    """
    with gr.Row(elem_id="board-controls"):
        dataset = gr.Dropdown(
            dashboards.datasets(bench), value="voc", label="data set", elem_id="board-dataset"
        )
        order = gr.Dropdown(
            ["configuration"],
            value="configuration",
            label="sorted by",
            elem_id="board-order",
            allow_custom_value=True,
        )
        price = gr.Dropdown(
            dashboards.PRICES, value=dashboards.PRICES[0], label="cost", elem_id="board-cost"
        )
    board = gr.HTML(elem_id="board")
    with gr.Row(elem_id="compare-controls"):
        one = gr.Dropdown([], label="compare", elem_id="one", allow_custom_value=True)
        other = gr.Dropdown([], label="with", elem_id="other", allow_custom_value=True)
    compared = gr.HTML(elem_id="compared")
    gr.HTML(page.GROWTH, elem_id="growth-words")
    grow = gr.Button("Measure it on this machine", elem_id="grow", elem_classes="quiet")
    growth = gr.HTML(dashboards.growth_by_formula(), elem_id="growth")

    def refresh(
        tab: str, key: str, by: str, cost: str, first: str | None, second: str | None
    ) -> Any:
        if tab != TABS[2]:
            yield {board: gr.skip()}  # a generator that gives nothing would empty all its outputs
            return
        yield {board: page.working(what="reading the runs")}
        for found in dashboards.board(bench, key, by, cost):
            chosen = gr.Dropdown(found.orders, value=by if by in found.orders else found.orders[0])
            yield {
                board: found.html,
                order: chosen,
                dataset: gr.Dropdown(dashboards.datasets(bench), value=key),
            }
        pair = (
            [first, second]
            if {first, second} <= {*found.rows} and first != second
            else [*found.rows, None, None][:2]
        )
        choices = {
            one: gr.Dropdown(found.rows, value=pair[0]),
            other: gr.Dropdown(found.rows, value=pair[1]),
        }
        yield {**choices, compared: dashboards.compare(bench, key, *pair)}

    def compare(key: str, first: str | None, second: str | None) -> str:
        return dashboards.compare(bench, key, first, second)

    choices = [dataset, order, price, one, other]
    refresh = _safely(refresh, lambda words, *_: {board: words})
    filled: dict[str, Any] = dict(
        fn=refresh,
        inputs=[tab, *choices],
        outputs=[board, dataset, order, one, other, compared],
        **WORK,
    )
    for choice in (dataset, order, price):
        choice.input(**filled)
    for choice in (one, other):
        choice.input(
            _safely(compare, lambda words, *_: words), [dataset, one, other], compared, **WORK
        )
    grow.click(_shown(dashboards.measured_growth), None, growth, **HEAVY)
    return filled, [dataset, order, one, other]


def _runs(bench: Workbench, tab: gr.State) -> tuple[dict[str, Any], gr.State]:
    """The tab "Runs": the folder of runs, again every few seconds while it is looked at.

    Returns the event that fills it, and the runs a visitor has picked: None as long as it is all of them.
    """
    table, chosen = (
        gr.HTML(elem_id="runs"),
        gr.Dropdown([], multiselect=True, label="curves of", elem_id="chosen-runs"),
    )
    curves, timer, mark, picked = (
        gr.HTML(elem_id="curves"),
        gr.Timer(3),
        gr.State(""),
        gr.State(None),
    )

    def refresh(tab: str, names: list[str] | None, before: str) -> Any:
        if tab != TABS[3]:
            return {mark: before}
        found = dashboards.runs(bench, names, before)
        if found.curves is None:
            return {table: found.table}
        return {
            table: found.table,
            chosen: gr.Dropdown(found.known, value=found.drawn),
            mark: found.mark,
            curves: found.curves,
        }

    refresh = _safely(refresh, lambda words, *_: {table: words})
    filled: dict[str, Any] = dict(
        fn=refresh, inputs=[tab, picked, mark], outputs=[table, chosen, curves, mark], **WORK
    )
    timer.tick(**filled)
    chosen.input(lambda names: names or [], chosen, picked, **QUICK).then(**filled)
    return filled, picked


def _safely(callback: Callable[..., Any], failed: Callable[..., Any]) -> Callable[..., Any]:
    """A callback whose every exception becomes an answer of the page: `failed(words as HTML, *what the callback was given)`."""

    @functools.wraps(callback)
    def answer(*args: Any) -> Any:
        try:
            return callback(*args)
        except Exception as error:
            return failed(_words(error), *args)

    @functools.wraps(callback)
    def stream(*args: Any) -> Iterator[Any]:  # gradio looks for a generator function
        try:
            yield from callback(*args)
        except Exception as error:
            yield failed(_words(error), *args)

    return stream if inspect.isgeneratorfunction(callback) else answer


def _words(error: Exception) -> str:
    return page.problem(_said(error))


def _said(error: Exception) -> str:
    """What a visitor is told of an exception; the terminal gets the details of one that this library didn't raise on purpose."""
    if not isinstance(error, LabError):
        traceback.print_exception(error)
    return page.said(error)


def _shown(answers: Callable[..., Iterator[str]]) -> Callable[..., Iterator[str]]:
    """A callback that streams answers into one piece of HTML."""

    def stream(*args: Any) -> Iterator[str]:
        yield from answers(*args)

    return _safely(stream, lambda words, *_: words)


def _file(folder: Path, picture: Any) -> str:
    """A picture as a PNG file under a name that nobody can guess."""
    path = folder / f"{secrets.token_hex(16)}.png"
    path.write_bytes(png(picture))
    return str(path)


def _fresh(folder: Path, kind: str) -> Path:
    """A new folder that nobody can guess; nothing a visitor sends is part of its path."""
    found = folder / kind / secrets.token_hex(16)
    found.mkdir(parents=True)
    return found


@contextmanager
def _kept(folder: Path, path: str, before: str) -> Iterator[str]:
    """An upload's copy, which stays as long as its visitor looks at it: until the next one, or if it cannot be shown."""
    copy = _fresh(folder, "uploads") / "upload"
    shutil.copyfile(path, copy)
    gone = copy
    try:
        yield str(copy)
        gone = Path(before)
    except ImageError as error:  # the visitor knows the file by another name
        raise ImageError(str(error).replace(copy.name, Path(path).name, 1)) from None
    finally:
        if gone.parent.parent == folder / "uploads":
            shutil.rmtree(gone.parent, ignore_errors=True)


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def main() -> None:
    """Parse the command line and serve until stopped."""
    parser = argparse.ArgumentParser(description="Explore criss-cross attention in the browser.")
    parser.add_argument(
        "--host", default="127.0.0.1", help="address to listen on (default: this machine only)"
    )
    parser.add_argument("--port", type=int, default=7860)
    parser.add_argument(
        "--model",
        default="demo",
        help="demo, one of the twelve, a run folder, or a weights file (PATH as NAME)",
    )
    parser.add_argument(
        "--runs",
        type=Path,
        default=Path("runs"),
        help="folder of training runs, offered in the menu",
    )
    parser.add_argument("--device", default="cpu", help="cpu, cuda, ...")
    words = "where a reverse proxy shows the app, such as /lab; by default $GRADIO_ROOT_PATH, or the top"
    parser.add_argument("--root-path", metavar="/PREFIX", help=words)
    args = parser.parse_args()
    if args.root_path and not args.root_path.startswith(("/", "http://", "https://")):
        parser.error(
            f"--root-path is {args.root_path!r}; expected a path that begins with / or a whole address, such as --root-path /lab"
        )
    try:
        # The folder below is removed whatever ends the app; what torch still computes in other threads is not waited for.
        with (
            handling(lambda number, _: sys.exit(128 + number)),
            tempfile.TemporaryDirectory(prefix="ccnet_lab_") as folder,
        ):
            gr.routes.DEFAULT_TEMP_DIR = os.environ["GRADIO_TEMP_DIR"] = (
                f"{folder}/gradio"  # else what visitors send stays on the disk
            )
            serve(args, Path(folder))
    except (LabError, OSError) as error:
        parser.exit(2, f"{error}\n")
    except SystemExit as stop:
        print("stopped", file=sys.stderr, flush=True)
        os._exit(int(stop.code or 0))


def serve(args: argparse.Namespace, folder: Path) -> None:
    """Serve until stopped; everything that is written on the way is in `folder`."""
    bench = Workbench(
        folder / "examples",
        args.device,
        any_path=_is_loopback(args.host),
        runs=args.runs,
        model=args.model,
    )
    blocks = build(bench, folder)
    try:
        blocks.queue(default_concurrency_limit=2).launch(
            server_name=args.host, server_port=args.port, theme=THEME, css=page.CSS, max_file_size="100mb", footer_links=[],
            prevent_thread_lock=True, root_path=args.root_path,
        )  # fmt: skip
    except OSError as error:
        raise ConfigError(
            f"cannot listen on {args.host}:{args.port} ({error}); choose another port with --port"
        ) from None
    threading.Thread(target=dashboards.warm, daemon=True).start()
    try:
        blocks.block_thread()
    finally:
        blocks.close(verbose=False)  # nothing is written any more


if __name__ == "__main__":
    ending(main)
