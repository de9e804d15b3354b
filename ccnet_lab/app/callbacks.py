"""What the page's callbacks share: errors become answers, slow calls stream their progress."""

import functools
import inspect
import threading
import traceback
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future, wait
from typing import Any, TypeVar

from ccnet_lab.app.rendering import Html, render, told
from ccnet_lab.errors import LabError

T = TypeVar("T")
Shown = TypeVar("Shown")
Progress = Callable[[int, int | None], None]  # done, in all (None while that isn't known)
LONGEST = 600  # characters of an error's message that are shown
_at_once = threading.BoundedSemaphore(2)  # slow calls that compute, whoever asked for them


def safely(
    callback: Callable[..., Any], failed: Callable[..., Any] = lambda html, *_: html
) -> Callable[..., Any]:
    """A callback whose exceptions become an answer: `failed(the message as HTML, *arguments)`."""

    @functools.wraps(callback)
    def answer(*args: Any) -> Any:
        try:
            return callback(*args)
        except Exception as error:
            return failed(problem(error), *args)

    @functools.wraps(callback)
    def stream(*args: Any) -> Iterator[Any]:  # gradio looks for a generator function
        try:
            yield from callback(*args)
        except Exception as error:
            yield failed(problem(error), *args)

    return stream if inspect.isgeneratorfunction(callback) else answer


def problem(error: Exception) -> Html:
    """An exception as the page shows it: its message, long lists of names cut."""
    text = explain(error)
    if len(text) > LONGEST:
        text = f"{text[:LONGEST]} … ({len(text) - LONGEST:,} characters more)"
    return render("page.problem", message=text)


def explain(error: Exception) -> str:
    """One sentence on any exception; unless this library raised it, its traceback is printed."""
    return told(_explained(error))


def _explained(error: Exception) -> str:
    if isinstance(error, LabError):
        return str(error)
    if isinstance(error, OSError) and error.errno:  # a full disk, say
        return f"a file could not be read or written ({error}), so nothing has changed"
    traceback.print_exception(error)
    text = " ".join(str(error).split())[:300]
    out_of_memory = ("out of memory", "allocate memory")
    if isinstance(error, MemoryError) or any(known in text.lower() for known in out_of_memory):
        return (
            "memory ran out while this was computed, so nothing has changed; "
            "choose a smaller network input or a smaller picture"
        )
    what = f"{type(error).__name__}: {text}" if text else type(error).__name__
    return (
        f"something unforeseen happened ({what}), so nothing has changed; "
        "the terminal that this app runs in shows the details"
    )


def watched(
    call: Callable[[Progress], T],
    show: Callable[[int, int], Shown],
    seconds: float = 0.2,
    name: str | None = None,
) -> Generator[Shown, None, T]:
    """Run `call(progress)` in a thread; yields `show(done, total)`, returns the call's result.

    Yields at most once in `seconds`. When the generator is closed (the visitor has cancelled or
    left), the call ends the next time it reports progress.
    """
    newest = last = (0, 0)
    found: Future[T] = Future()
    closed = threading.Event()

    def progress(done: int, total: int | None) -> None:
        nonlocal newest
        if closed.is_set():
            raise GeneratorExit
        newest = (done, total or 0)

    def run() -> None:
        try:
            found.set_result(call(progress))
        except BaseException as error:
            found.set_exception(error)

    threading.Thread(target=run, name=name, daemon=True).start()
    try:
        yield show(*last)
        while wait([found], seconds).not_done:
            if newest is not last:  # reported since, be it the same numbers
                last = newest
                yield show(*last)
    finally:
        closed.set()
    return found.result()


def working(call: Callable[[Progress], T], what: str) -> Generator[Html, None, T]:
    """As `watched`, the progress as HTML; waits while two other such calls compute."""

    def in_turn(progress: Progress) -> T:
        while not _at_once.acquire(timeout=0.2):
            progress(0, None)  # ends here if the visitor has left
        try:
            return call(progress)
        finally:
            _at_once.release()

    return watched(in_turn, functools.partial(_bar, what))


def _bar(what: str, done: int, total: int) -> Html:
    return render("page.working", what=what, done=done, total=total)
