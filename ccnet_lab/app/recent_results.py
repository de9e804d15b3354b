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
        forgotten: called with a result that makes room.
    """

    def __init__(
        self,
        most: int,
        budget: int | None = None,
        size: Callable[[Any], int] = lambda _: 0,
        forgotten: Callable[[Any], None] = lambda _: None,
    ) -> None:
        self._most, self._budget, self._size, self._forgotten = most, budget, size, forgotten
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
                gone = self._make_room()
            for each in gone:  # without the lock: others go on
                self._forgotten(each)
        return found.result()

    def forget(self, which: Callable[[Any], bool]) -> None:
        """Forget the results for which it is true."""
        with self._lock:
            for key, result in self._there():
                if which(result):
                    del self._found[key]

    def _there(self) -> list[tuple[Hashable, Any]]:
        found = [(key, each) for key, each in self._found.items() if each.done()]
        return [(key, each.result()) for key, each in found if not each.exception()]

    def _make_room(self) -> list[Any]:
        """Forget the oldest beyond the limits, and return them."""
        before = self._there()
        while len(self._found) > self._most or (len(self._found) > 1 and self._is_over()):
            self._found.popitem(last=False)
        return [result for key, result in before if key not in self._found]

    def _is_over(self) -> bool:
        if self._budget is None:
            return False
        return sum(self._size(result) for _, result in self._there()) > self._budget
