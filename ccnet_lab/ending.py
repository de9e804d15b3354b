"""How a script ends, whatever ends it: in one sentence. Causes are told by training/signals.py.

Scripts import this before anything that takes seconds, since Ctrl-C may come in those, too.
"""

import multiprocessing
import sys
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import NoReturn


def ending(main: Callable[[], int | None]) -> NoReturn:
    """Run a script's `main` and end with its exit code; an exception is told in one sentence (2), Ctrl-C without a traceback (130)."""
    try:
        sys.exit(main() or 0)
    except KeyboardInterrupt:
        code, words = 130, "stopped; what was written so far is kept"
    except Exception as error:
        from ccnet_lab.training.signals import cause

        code, words = 2, f"{Path(sys.argv[0]).name}: error: {cause(error, Path())}"
    except BaseException as stop:
        if not hasattr(stop, "number"):  # not guards.Stopped
            raise
        code, words = 128 + stop.number, str(stop)
    print(words, file=sys.stderr, flush=True)
    for worker in multiprocessing.active_children():  # an interpreter waits for them at its end
        worker.kill()
    sys.exit(code)


def _silently(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """What is told of an exception that comes while a script still imports: of Ctrl-C nothing but that."""
    if issubclass(kind, KeyboardInterrupt):
        print("stopped", file=sys.stderr)
    else:
        sys.__excepthook__(kind, error, trace)


sys.excepthook = _silently
