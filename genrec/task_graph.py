"""Runs tasks that depend on each other in a pool: each is submitted when all that it needs is done."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping

from genrec.engines import Future, Pool, Report, Task

POLL_SECONDS = 0.1  # between two looks at the tasks that run


def run(
    pool: Pool,
    needs: Mapping[str, Collection[str]],
    task_of: Callable[[str], Task | None],
    on_end: Callable[[str, Report], bool],
) -> None:
    """Run tasks until none can be submitted. What needs a task that failed is left out.

    An exception in this process, such as Ctrl-C, interrupts the tasks that run, waits for them and submits nothing new.

    Args:
        pool: the workers.
        needs: key -> keys of the tasks that have to be done before.
        task_of: returns the task of a key, or None if nothing needs it any longer.
        on_end: called with each key that has ended and its report; returns whether to submit the key's task again.

    """
    waiting, done = dict(needs), set[str]()
    running: dict[str, Future] = {}

    def collect() -> None:
        for key in [key for key, future in running.items() if future.done()]:
            report = running.pop(key).report()
            if on_end(key, report):
                waiting[key] = needs[key]
            elif report.error is None:
                done.add(key)

    try:
        while True:
            ready = {key: task_of(key) for key, before in waiting.items() if done.issuperset(before)}
            waiting = {key: before for key, before in waiting.items() if key not in ready}
            tasks = {key: task for key, task in ready.items() if task is not None}
            running.update(zip(tasks, pool.submit(list(tasks.values())), strict=True) if tasks else ())
            if not running:
                return
            time.sleep(POLL_SECONDS)
            collect()
    except BaseException:
        for future in running.values():
            future.cancel()
        while running:
            time.sleep(POLL_SECONDS)
            collect()
        raise
