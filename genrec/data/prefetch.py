"""Stage 1, reading ahead: while one piece is worked on, the next is read by another thread (unpacking and parsing hold no lock)."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from queue import Queue
from typing import NamedTuple, TypeVar

Item = TypeVar("Item")
DEPTH = 2  # pieces that wait at most


class _End(NamedTuple):
    """Nothing follows; `error` is why, where it is not the end."""

    error: BaseException | None


def ahead(items: Iterable[Item]) -> Iterator[Item]:
    """The same items in the same order; an error comes where it came. Where the reader stops early, so does the thread."""
    queue: Queue[Item | _End] = Queue(DEPTH)
    stopped = threading.Event()

    def read() -> None:
        end = _End(None)
        try:
            for item in items:
                queue.put(item)
                if stopped.is_set():
                    break
        except BaseException as error:  # passed on, whatever it is
            end = _End(error)
        queue.put(end)

    thread = threading.Thread(target=read, name="reading ahead", daemon=True)
    thread.start()
    try:
        while not isinstance(item := queue.get(), _End):
            yield item
        if item.error is not None:
            raise item.error
    finally:
        stopped.set()
        while thread.is_alive():  # room for what the thread still wants to put
            if not queue.empty():
                queue.get()
            thread.join(0.001)
