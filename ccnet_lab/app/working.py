"""Working: a slow call in a thread of its own, with how far it is given a few times per second, so that a page can show it."""

import threading
from collections.abc import Callable, Generator
from concurrent.futures import Future, wait
from typing import TypeVar

T = TypeVar("T")
Told = Callable[[int, int], None]  # done, of how many


def watched(call: Callable[[Told], T], seconds: float = 0.2) -> Generator[tuple[int, int], None, T]:
    """Run `call(told)`; gives (done, total) as it tells them, not more often than every `seconds`, and returns what it returns.

    Where nobody reads on (a visitor who has left), the call ends at the next thing it tells.
    """
    newest = shown = (0, 0)
    found: Future[T] = Future()
    left = threading.Event()

    def told(done: int, total: int) -> None:
        nonlocal newest
        if left.is_set():
            raise GeneratorExit
        newest = (done, total)

    def run() -> None:
        try:
            found.set_result(call(told))
        except BaseException as error:
            found.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    try:
        yield shown
        while wait([found], seconds).not_done:
            if newest is not shown:  # told since, be it the same numbers
                shown = newest
                yield shown
    finally:
        left.set()
    return found.result()
