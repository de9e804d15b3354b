"""How a script ends, whatever ends it: in one sentence. The causes are in causes.py.

Scripts import this before anything slow, so that Ctrl-C during imports has no traceback, either.
"""

import multiprocessing
import sys
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import NoReturn, TypeVar

T = TypeVar("T")


def ending(main: Callable[[], int | None]) -> NoReturn:
    """Run `main` and exit with its code; 2 after an exception, 130 after Ctrl-C, no traceback."""
    sys.exit(guarded(main) or 0)


def guarded(call: Callable[[], T]) -> T:
    """What `call` returns; where it does not, exit as `ending` does.

    With a parser's `parse_args`, --help need not wait for what a script imports after it.
    """
    try:
        return call()
    except KeyboardInterrupt:
        code, message = 130, "stopped; what was written so far is kept"
    except Exception as error:
        from ccnet_lab.causes import cause

        code, message = 2, f"{Path(sys.argv[0]).name}: error: {cause(error, Path())}"
    except BaseException as stop:
        if not hasattr(stop, "number"):  # not signals.Stopped
            raise
        code, message = 128 + stop.number, str(stop)
    print(message, file=sys.stderr, flush=True)
    for worker in multiprocessing.active_children():  # the interpreter would wait for them
        worker.kill()
    sys.exit(code)


def _quiet(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """The exception hook of scripts: no traceback for Ctrl-C during imports, or a lost worker."""
    where = trace.tb_frame.f_code.co_filename if trace else ""
    if issubclass(kind, KeyboardInterrupt):
        print("stopped", file=sys.stderr)
    # A worker that was killed leaves a connection open; that it was killed is reported by `main`.
    elif not (
        where.endswith("resource_sharer.py") and issubclass(kind, ConnectionError | EOFError)
    ):
        sys.__excepthook__(kind, error, trace)


sys.excepthook = _quiet
