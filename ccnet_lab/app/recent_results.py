"""The last results of slow calls, shared by all visitors, within a number or a number of bytes."""

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from concurrent.futures import Future
from typing import Any


class RecentResults:
    """Results by key; one call per key at a time, other keys go on.

    Args:
        most: how many are kept.
        budget: how many bytes they may take together, by `size`; the newest is kept in any case.
    """

    def __init__(
        self, most: int, budget: int | None = None, size: Callable[[Any], int] = lambda _: 0
    ) -> None:
        self._most, self._budget, self._size = most, budget, size
        self._lock = threading.Lock()
        self._found: OrderedDict[Hashable, Future[Any]] = OrderedDict()

    def get(self, key: Hashable, make: Callable[[], Any]) -> Any:
        """What `make` returned for this key; errors are not kept."""
        with self._lock:
            known = key in self._found
            found = self._found.setdefault(key, Future())
            self._found.move_to_end(key)
        if not known:
            try:
                found.set_result(make())
            except BaseException as error:
                with self._lock:
                    self._found.pop(key, None)
                found.set_exception(error)
            with self._lock:
                self._make_room()
        return found.result()

    def _make_room(self) -> None:
        """Forget the oldest beyond the limits."""
        while len(self._found) > self._most or (len(self._found) > 1 and self._is_over()):
            self._found.popitem(last=False)

    def _is_over(self) -> bool:
        if self._budget is None:
            return False
        there = [each for each in self._found.values() if each.done() and not each.exception()]
        return sum(self._size(each.result()) for each in there) > self._budget
