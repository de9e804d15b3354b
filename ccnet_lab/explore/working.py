"""Working: a slow call in a thread of its own, with how far it is given a few times per second, so that a page can show it."""

import queue
import threading
from collections.abc import Callable, Generator
from typing import TypeVar

T = TypeVar("T")
Told = Callable[[int, int], None]  # done, of how many


def watched(call: Callable[[Told], T], seconds: float = 0.2) -> Generator[tuple[int, int], None, T]:
    """Run `call(told)`; gives (done, total) as it tells them, not more often than every `seconds`, and returns what it returns.

    Where nobody reads on (a visitor who has left), the call ends at the next thing it tells.
    """
    so_far: queue.SimpleQueue[tuple[int, int] | None] = queue.SimpleQueue()
    found: list[T] = []
    failed: list[BaseException] = []
    left = threading.Event()

    def told(done: int, total: int) -> None:
        if left.is_set():
            raise GeneratorExit
        so_far.put((done, total))

    def run() -> None:
        try:
            found.append(call(told))
        except BaseException as error:
            failed.append(error)
        so_far.put(None)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        yield 0, 0
        while thread.is_alive():
            thread.join(seconds)
            newest = None
            while not so_far.empty():
                newest = so_far.get() or newest
            if newest is not None and thread.is_alive():
                yield newest
    finally:
        left.set()
    if failed:
        raise failed[0]
    return found[0]
