"""What gradio remembers of visitors, kept small: anybody can begin a session without a page."""

import math
import time
from typing import Any

from ccnet_lab.app.gate import pages

PAGELESS, LEFT = 100, 300  # sessions that are remembered: of programs; of pages that were left
OPENING = 60  # seconds within which a page that was opened asks for something


def forget_pageless(state_holder: Any) -> int:
    """Forget sessions without an open page, longest unused first, beyond `PAGELESS` and `LEFT`.

    Gradio keeps the last inputs of each and, beyond ten thousand, forgets the oldest, whoever that
    is. A page opens a heartbeat; what `State` holds is given to its `delete_callback`.

    Args:
        state_holder: the gradio app's. Returns how many were forgotten.
    """
    known = state_holder.session_data
    for session, left in [*pages.items()]:
        if session not in known and time.time() - left > OPENING:
            pages.pop(session, None)
    unknown = [session for session in [*known] if session not in pages]
    closed = [session for session in [*known] if pages.get(session, math.inf) < math.inf]
    forgotten = unknown[: max(0, len(unknown) - PAGELESS)] + closed[: max(0, len(closed) - LEFT)]
    for session in forgotten:
        state_holder.delete_state(session)
        with state_holder.lock:
            known.pop(session, None)
            state_holder.time_last_used.pop(session, None)
    return len(forgotten)
