"""The app's door: the layout in gradio and short callbacks; what they show is made in ccnet_lab/explore/workbench.py."""

import argparse
import functools
import ipaddress
import os
import secrets
import tempfile
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")  # before the import: nothing leaves this machine unasked

import gradio as gr

from ccnet_lab.errors import LabError
from ccnet_lab.explore import page
from ccnet_lab.explore.pictures import png
from ccnet_lab.explore.workbench import Scene, Workbench

FONTS = ["system-ui", "-apple-system", "Segoe UI", "Roboto", "sans-serif"]
THEME = gr.themes.Base(primary_hue="orange", neutral_hue="stone", font=FONTS, font_mono=["ui-monospace", "monospace"])
SIZES = [("as evaluated", 0), ("short side 256", 256), ("short side 512", 512), ("short side 1024", 1024)]
# gradio's deferred events (trigger_mode="always_last") carry the data of the first click, so the page itself remembers the last one.
REMEMBER_CLICKS = """() => document.addEventListener("click", event => {
  const image = event.target.closest("#stage")?.querySelector("img"), box = image?.getBoundingClientRect();
  if (box) window.lastClick = [(event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height];
}, true)"""
LAST_CLICK = "(state, _) => [state, window.lastClick]"
OPEN_SAVED = "() => document.querySelector('#saved a, a#saved, #saved button, button#saved')?.click()"


def build(bench: Workbench, folder: Path) -> gr.Blocks:
    """The whole page; its first model is opened before anybody comes, pictures to keep are written into `folder`."""
    first = bench.start(bench.model)

    with gr.Blocks(title="ccnet_lab", delete_cache=(3600, 3600), analytics_enabled=False) as blocks:
        state, where = gr.State(asdict(first)), gr.JSON(visible=False)
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
            fetch, leave = gr.Button("Download", elem_id="fetch"), gr.Button("Not now", elem_id="leave")
        notice, problem = gr.HTML(elem_id="notice"), gr.HTML(elem_id="problem")
        with gr.Tab("Explore"):
            with gr.Row(elem_id="pictures"):
                with gr.Column(scale=5, min_width=300, elem_id="stage-column"):
                    stage = gr.Image(
                        label="the image with its labels; click a pixel", show_label=False, interactive=False, format="png", buttons=[],
                        elem_id="stage", type="filepath",
                    )  # fmt: skip
                    marker, legend = gr.HTML(elem_id="marker"), gr.HTML(elem_id="legend")
                with gr.Column(scale=7, min_width=300):
                    answer = gr.HTML(elem_id="answer")
            with gr.Row(elem_id="controls"):
                labels = gr.Slider(0, 1, first.labels, step=0.05, label="labels over the image", elem_id="labels")
                photo = gr.Slider(0, 1, first.photo, step=0.05, label="image under the maps", elem_id="photo")
                clip = gr.Slider(0, 1, first.clip, step=0.05, label="clip the peaks of the maps", elem_id="clip")
            with gr.Row(elem_id="inputs"):
                with gr.Column(scale=3, min_width=260):
                    upload = gr.File(label="Your photograph", type="filepath", height=150, elem_id="upload")
                with gr.Column(scale=5, min_width=300):
                    examples = gr.Gallery(
                        bench.examples, label="Examples", columns=4, height=150, allow_preview=False, format="png",
                        object_fit="cover", elem_id="examples", buttons=[],
                    )  # fmt: skip
                with gr.Column(scale=2, min_width=220):
                    size = gr.Dropdown(SIZES, value=first.short_side, label="network input", elem_id="size")
                    save = gr.Button("Save the picture (PNG)", elem_id="save")
                    saved = gr.DownloadButton("picture", elem_id="saved")
        with gr.Tab("About"):
            gr.HTML(page.ABOUT)

        def pixel(scene: Scene) -> dict[Any, Any]:
            return {state: asdict(scene), problem: "", **dict(zip([marker, answer], bench.answer(scene), strict=True))}

        def image(scene: Scene) -> dict[Any, Any]:
            return {stage: _file(Path(stage.GRADIO_CACHE), bench.stage(scene)), **pixel(scene)}

        def everything(scene: Scene) -> dict[Any, Any]:
            around = dict(zip([about_model, notice, legend], bench.around(scene), strict=True))
            return {models: scene.model, size: scene.short_side, upload: None, **around, **image(scene)}

        def told(callback: Callable[..., Any]) -> Callable[..., Any]:
            """The callback, its known errors told on the page, where everything else stays as it was."""

            @functools.wraps(callback)
            def run(*args: Any) -> Any:
                try:
                    return callback(*args)
                except LabError as error:
                    return {problem: page.problem(error), models: args[0]["model"], upload: None}

            return run

        def load(at: dict[str, Any]) -> Any:
            return everything(Scene(**at))

        def no_offer(scene: Scene) -> dict[Any, Any]:
            return {download: gr.Row(visible=False), wanted: "", models: gr.Dropdown(bench.models(), value=scene.model)}

        def choose_model(at: dict[str, Any], name: str) -> Any:
            if question := bench.offer(name):
                ask = {fetch: gr.Button(visible=True), leave: gr.Button("Not now")}
                return {download: gr.Row(visible=True), offer: question, wanted: name, problem: "", **ask}
            scene = bench.with_model(Scene(**at), name)
            return {**everything(scene), **no_offer(scene)}

        def get_model(name: str, request: gr.Request) -> Any:
            try:
                for so_far in bench.fetch(name, str(request.session_hash)):
                    yield {offer: so_far, fetch: gr.Button(visible=False), leave: gr.Button("Cancel"), problem: ""}
            except LabError as error:
                yield {problem: page.problem(error)}

        def open_model(at: dict[str, Any], name: str) -> Any:
            scene = Scene(**at) if bench.offer(name) else bench.with_model(Scene(**at), name or at["model"])
            shown = everything(scene) if scene.model == name else {}
            return {**shown, **no_offer(scene)}

        def leave_model(at: dict[str, Any], name: str, request: gr.Request) -> Any:
            bench.fetches.leave(name, str(request.session_hash))
            return no_offer(Scene(**at))

        def choose_size(at: dict[str, Any], short_side: int) -> Any:
            return everything(replace(Scene(**at), short_side=short_side))

        def take(at: dict[str, Any], path: str | None) -> Any:
            return everything(bench.with_image(Scene(**at), path or at["image"]))

        def take_example(at: dict[str, Any], event: gr.SelectData) -> Any:
            return everything(bench.with_image(Scene(**at), bench.examples[event.index]))

        def click(at: dict[str, Any], where: list[float] | None) -> Any:
            return pixel(bench.clicked(Scene(**at), where)) if where else gr.skip()

        def slide_labels(at: dict[str, Any], labels: float) -> Any:
            return image(replace(Scene(**at), labels=labels))

        def slide_maps(at: dict[str, Any], photo: float, clip: float) -> Any:
            return pixel(replace(Scene(**at), photo=photo, clip=clip))

        def keep(at: dict[str, Any]) -> Any:
            path = folder / secrets.token_hex(8) / "attention.png"
            path.parent.mkdir()
            bench.figure(Scene(**at)).savefig(path, dpi=160)
            return {saved: str(path)}

        def attention_at(image: str | None, x: float, y: float, recurrence: float = 2, model: str = "demo") -> dict[str, Any]:
            if image is None:
                raise gr.Error("no picture came; send one with handle_file(path)")
            try:
                return bench.attention_at(image, int(x), int(y), int(recurrence), model or "demo")
            except LabError as error:
                raise gr.Error(str(error), print_exception=False) from None

        on_pixel = [state, problem, marker, answer, models, upload]
        on_image = [*on_pixel, stage]
        on_all = [*on_image, size, about_model, notice, legend]
        quick: dict[str, Any] = dict(queue=False, show_progress="hidden", api_visibility="private", trigger_mode="always_last")
        slow: dict[str, Any] = dict(show_progress_on=[stage], api_visibility="private", trigger_mode="always_last")
        blocks.load(None, js=REMEMBER_CLICKS)
        blocks.load(told(load), state, on_all, **slow)
        stage.select(told(click), [state, where], on_pixel, js=LAST_CLICK, **quick)
        labels.input(told(slide_labels), [state, labels], on_image, **quick)
        for slider in (photo, clip):
            slider.input(told(slide_maps), [state, photo, clip], on_pixel, **quick)
        on_offer = [*on_all, download, offer, fetch, leave, wanted]
        models.input(told(choose_model), [state, models], on_offer, **slow)
        come = fetch.click(
            get_model, wanted, [offer, fetch, leave, problem], concurrency_limit=None, show_progress="hidden", api_visibility="private"
        )
        come.then(told(open_model), [state, wanted], on_offer, show_progress_on=[stage], api_visibility="private")
        leave.click(leave_model, [state, wanted], [download, wanted, models], **quick)
        size.input(told(choose_size), [state, size], on_all, **slow)
        upload.upload(told(take), [state, upload], on_all, **slow)
        examples.select(told(take_example), state, on_all, **slow)
        save.click(told(keep), state, [saved, problem, models, upload], api_visibility="private").then(None, js=OPEN_SAVED)

        # Clients can't send a click on a picture; this is its twin:
        # client.predict(handle_file(path), x, y, recurrence, api_name="/attention_at")
        with gr.Row(visible=False):
            asked = [gr.File(label="image", type="filepath"), gr.Number(label="x"), gr.Number(label="y")]
            asked += [gr.Number(2, label="recurrence"), gr.Textbox("demo", label="model")]
            gr.Button().click(attention_at, asked, gr.JSON(), api_name="attention_at")
    return blocks


def _file(folder: Path, picture: Any) -> str:
    """A picture as a PNG file under a name that nobody can guess."""
    path = folder / f"{secrets.token_hex(16)}.png"
    path.write_bytes(png(picture))
    return str(path)


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def main() -> None:
    """Parse the command line and serve until stopped."""
    parser = argparse.ArgumentParser(description="Explore criss-cross attention in the browser.")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: this machine only)")
    parser.add_argument("--port", type=int, default=7860)
    parser.add_argument("--model", default="demo", help="demo, one of the twelve, a run folder, or a weights file (PATH as NAME)")
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="folder of training runs, offered in the menu")
    parser.add_argument("--device", default="cpu", help="cpu, cuda, ...")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="ccnet_lab_") as folder:
        bench = Workbench(Path(folder) / "examples", args.device, any_path=_is_loopback(args.host), runs=args.runs, model=args.model)
        try:
            blocks = build(bench, Path(folder))
        except LabError as error:
            parser.exit(2, f"{error}\n")
        try:
            blocks.queue(default_concurrency_limit=2).launch(
                server_name=args.host, server_port=args.port, theme=THEME, css=page.CSS, max_file_size="100mb", footer_links=[]
            )
        except OSError as error:
            parser.exit(2, f"cannot listen on {args.host}:{args.port} ({error}); choose another port with --port\n")


if __name__ == "__main__":
    main()
