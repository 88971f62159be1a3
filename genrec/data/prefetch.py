"""Prefetch an iterator in a background thread. Decompression and parsing release the GIL, so reading overlaps with processing."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from queue import Queue
from typing import NamedTuple, TypeVar

Item = TypeVar("Item")
DEPTH = 2  # items in the queue, at most


class _End(NamedTuple):
    """The last entry of the queue."""

    error: BaseException | None  # the error that ended the iteration; None at the regular end


def prefetch(items: Iterable[Item]) -> Iterator[Item]:
    """Yield the same items in the same order, read ahead by a thread.

    An error of `items` is raised at its position. The thread stops when the generator is closed.
    """
    queue: Queue[Item | _End] = Queue(DEPTH)
    stopped = threading.Event()

    def read() -> None:
        end = _End(None)
        try:
            for item in items:
                queue.put(item)
                if stopped.is_set():
                    break
        except BaseException as error:  # raised again by the consumer
            end = _End(error)
        queue.put(end)

    thread = threading.Thread(target=read, name="prefetch", daemon=True)
    thread.start()
    try:
        while not isinstance(item := queue.get(), _End):
            yield item
        if item.error is not None:
            raise item.error
    finally:
        stopped.set()
        while thread.is_alive():  # empty the queue so that a blocked put returns
            if not queue.empty():
                queue.get()
            thread.join(0.001)
