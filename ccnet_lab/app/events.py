"""Options of gradio's events, by how long an answer takes."""

from typing import Any

# Puts what the viewer shows into the second input of an event.
SEEN = "(state, _, ...others) => [state, window.ccnetLooked?.() ?? null, ...others]"

# Options of gradio's events. QUICK: an answer within a moment, the newest call wins. SLOW: the
# network runs, one after the other: each begins from what the one before has chosen. STREAM:
# several answers. LAST: as STREAM, what is chosen meanwhile follows. MEASURE: as STREAM, but one
# after the other.
QUICK: dict[str, Any] = dict(
    queue=False, show_progress="hidden", api_visibility="private", trigger_mode="always_last"
)
SLOW: dict[str, Any] = dict(
    api_visibility="private", trigger_mode="always_last", concurrency_id="view", concurrency_limit=1
)
STREAM: dict[str, Any] = dict(
    show_progress="hidden", api_visibility="private", concurrency_limit=None
)
LAST = STREAM | dict(trigger_mode="always_last")
MEASURE: dict[str, Any] = STREAM | dict(
    concurrency_limit=1, concurrency_id="measuring", trigger_mode="multiple"
)
# As SEEN; the pixel that is asked about stays on show.
PINNED = SEEN.replace("()", "({ pinned: true, mode: 'pixel', region: null })")
