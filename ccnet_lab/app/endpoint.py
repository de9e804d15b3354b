"""The endpoint /attention_at: a click's answer for programs, who can't click on a picture."""

from math import isfinite
from typing import Any

import gradio as gr

from ccnet_lab.app.callbacks import explain
from ccnet_lab.app.session import Workbench
from ccnet_lab.app.view_state import ViewState
from ccnet_lab.errors import ConfigError


def add_endpoint(bench: Workbench) -> None:
    """Add it to the app: `client.predict(handle_file(path), x, y, R, api_name="/attention_at")`."""

    def answer(
        image: str | None, x: float, y: float, recurrence: float = 2, model: str = "demo"
    ) -> dict[str, Any]:
        if image is None:
            raise gr.Error("no picture came; send one with handle_file(path)")
        for name, value in (("x", x), ("y", y), ("recurrence", recurrence)):
            if not isinstance(value, int | float) or not isfinite(value) or value != int(value):
                message = f"{name} is {value!r}; expected a whole number"
                raise gr.Error(message, print_exception=False)
        try:
            return attention_at(bench, image, int(x), int(y), int(recurrence), model or "demo")
        except Exception as error:
            raise gr.Error(explain(error), print_exception=False) from None

    with gr.Row(visible=False):
        inputs = [
            gr.File(label="image", type="filepath"),
            gr.Number(label="x"),
            gr.Number(label="y"),
            gr.Number(2, label="recurrence"),
            gr.Textbox("demo", label="model"),
        ]
        in_turn: dict[str, Any] = dict(concurrency_id="view", concurrency_limit=1)
        gr.Button().click(answer, inputs, gr.JSON(), api_name="attention_at", **in_turn)


def attention_at(
    bench: Workbench, image: str, x: int, y: int, recurrence: int, model: str
) -> dict[str, Any]:
    """The map (h rows of w) of pixel (x, y), its cell, probabilities and shares by class name.

    Raises as `Explorer.open`, `Explorer.look` and `View.cell`; `ConfigError` for a recurrence
    outside 1..8.
    """
    if not 1 <= recurrence <= 8:
        raise ConfigError(f"recurrence is {recurrence}; expected 1 to 8")
    view = bench.view(bench.with_model(ViewState(model, image), model))
    pixel = view.pixel(x, y, (recurrence,))
    names = view.explorer.class_names
    return {
        "model": model, "recurrence": recurrence, "x": x, "y": y,
        "size": view.size, "grid": view.grid, "cell": pixel.cell, "box": pixel.box,
        "label": names[view.labels[y, x]], "on_cross": pixel.on_cross[0],
        "probabilities": dict(zip(names, pixel.probabilities.tolist(), strict=True)),
        "class_shares": dict(zip(names, pixel.class_shares[0].tolist(), strict=True)),
        "map": pixel.maps[0].tolist(),
    }  # fmt: skip
