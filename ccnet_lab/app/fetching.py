"""Fetching: published checkpoints that come in the background while the page shows how far they are. What is fetched is store.py's."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

from ccnet_lab import store
from ccnet_lab.errors import LabError


class _CancelledError(Exception):
    """Nobody waits for it any more."""


@dataclass
class Fetch:
    """One file that is coming, in a thread of its own."""

    name: str  # of the published file
    done: int = 0  # bytes so far
    total: int | None = None  # bytes in all, None until the host has said so
    error: LabError | None = None  # what ended it, if anything did
    _waiting: set[str] = field(default_factory=set)
    _thread: threading.Thread | None = None

    @property
    def running(self) -> bool:
        """Whether it still comes."""
        return self._thread is not None and self._thread.is_alive()

    def wait(self, seconds: float) -> None:
        """Until it has come or failed, but no longer than that."""
        if self._thread is not None:
            self._thread.join(seconds)

    def waited_for_by(self, visitor: str) -> bool:
        """Whether this visitor has not left."""
        return visitor in self._waiting

    def _run(self) -> None:
        def progress(done: int, total: int | None) -> None:
            if not self._waiting:
                raise _CancelledError
            self.done, self.total = done, total

        try:
            with suppress(_CancelledError):
                store.obtain(self.name, progress)
        except LabError as error:
            self.error = error


class Fetches:
    """The files that are coming for all visitors of a process: each once, as long as somebody waits for it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running: dict[str, Fetch] = {}

    @contextmanager
    def waiting(self, name: str, visitor: str) -> Iterator[Fetch]:
        """The fetch of a file, begun if nobody has; it ends early when the last visitor has left, and what came is kept."""
        while True:
            with self._lock:
                fetch = self._running.get(name)
                if fetch is None or not fetch.running:
                    fetch = self._running[name] = Fetch(name, _waiting={visitor})
                    fetch._thread = threading.Thread(
                        target=fetch._run, name=f"fetch {name}", daemon=True
                    )
                    fetch._thread.start()
                    break
                if fetch._waiting:
                    fetch._waiting.add(visitor)
                    break
            fetch.wait(0.1)  # it was left by all and is about to end
        try:
            yield fetch
        finally:
            self.leave(name, visitor)

    def leave(self, name: str, visitor: str) -> None:
        """This visitor waits no longer."""
        with self._lock:
            if name in self._running:
                self._running[name]._waiting.discard(visitor)
