"""While nobody does anything, an open page and the app rest; gradio alone would keep both busy.

Its loading signs count their seconds in every frame, and the page's own, which is taken away while
it counts, never stops: a tenth of a core for as long as the page is open. Its queue looks for work
a thousand times a second, half of what the idle process computes.
"""

from contextlib import suppress

import gradio as gr
from jinja2 import ChoiceLoader, DictLoader, TemplateNotFound

PAGE = "frontend/index.html"
# Before gradio's own scripts, which keep the function: signs count twice a second.
SCRIPT = r"""<script>{
const frame = requestAnimationFrame, counts = /\(performance\.now\(\)-.{1,20}\)\/1e3/;
requestAnimationFrame = call => counts.test(call) ? setTimeout(call, 500) : frame(call);
}</script>"""
LOOKS = 0.005  # seconds between the queue's looks for work


def let_rest(blocks: gr.Blocks) -> None:
    """Have an app rest that has its queue and is not launched yet."""
    environment = gr.routes.templates.env
    with suppress(TemplateNotFound):  # of another gradio: then it does not rest
        source: str = environment.loader.get_source(environment, PAGE)[0]
        if SCRIPT not in source:
            page = source.replace("<head>", f"<head>{SCRIPT}", 1)
            environment.loader = ChoiceLoader([DictLoader({PAGE: page}), environment.loader])
    blocks._queue.sleep_when_free = max(LOOKS, blocks._queue.sleep_when_free)
