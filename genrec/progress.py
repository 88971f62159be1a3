"""Progress of long work: a progress bar on a terminal, and a plain line every `LINE_INTERVAL` seconds in logs and CI."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator, Sized
from typing import TypeVar

Item = TypeVar("Item")
LINE_INTERVAL = 15.0  # seconds between plain lines
BAR_DELAY = 2.0  # seconds before a bar appears
TIMED_STEPS, TIMED_SHARE = 10, 0.05  # steps after the first, or their share of the total, before an estimate of the time left


def say(message: str) -> None:
    """Print a line to standard error, so that standard output holds the result only."""
    if sys.stderr is not None:  # None if the parent process closed it
        print(message, file=sys.stderr, flush=True)


class Progress:
    """A progress bar, used as a context manager.

    Nothing is shown for work under two seconds, or inside another `Progress` (a validation during training): a terminal shows one
    bar at a time.

    - `description`: text in front of the bar.
    - `total`: number of steps; None if unknown.
    """

    _depth = 0  # number of active instances

    def __init__(self, description: str, total: int | None) -> None:
        self.description, self.total, self.done = description, total, 0
        self._started = self._last_line = time.monotonic()
        self._first: tuple[float, int] | None = None  # time and count after the first steps, which may be slow or resumed
        self._bar: object | None = None

    def __enter__(self) -> Progress:
        self._nested = Progress._depth > 0
        Progress._depth += 1
        return self

    def advance(self, steps: int = 1, note: str = "") -> None:
        """Advance by `steps` and show `note` after the count."""
        self.done += steps
        now = time.monotonic()
        if self._first is None:
            self._first = now, self.done
        if self._nested:
            return
        if sys.stderr is not None and sys.stderr.isatty():
            if now - self._started > BAR_DELAY:
                self._draw(note)
        elif now - self._last_line > LINE_INTERVAL:
            self._last_line = now
            say(self._line(note, now))

    def _line(self, note: str, now: float) -> str:
        """Return the plain line."""
        count = f"{self.done}/{self.total}" if self.total else f"{self.done}"
        return f"{self.description}: {count} ({now - self._started:.0f} s{self._left(now)}) {note}".rstrip()

    def _left(self, now: float) -> str:
        """Return the estimated remaining time in words: nothing before `TIMED_STEPS` steps or `TIMED_SHARE` of the total are timed."""
        if not self.total or self._first is None:
            return ""
        began, before = self._first
        timed = self.done - before
        if timed < 1 or timed < min(TIMED_STEPS, TIMED_SHARE * self.total):
            return ""
        return f", about {(now - began) * (self.total - self.done) / timed:.0f} s left"

    def _draw(self, note: str) -> None:
        """Show or update the bar."""
        from rich.console import Console
        from rich.progress import Progress as Bar

        if self._bar is None:
            self._bar = Bar(console=Console(stderr=True), transient=True)
            self._bar.start()
            self._task = self._bar.add_task(self.description, total=self.total)
        assert isinstance(self._bar, Bar)
        self._bar.update(self._task, completed=self.done, description=f"{self.description} {note}".rstrip())

    def __exit__(self, *_: object) -> None:
        Progress._depth -= 1
        if self._bar is not None:
            self._bar.stop()  # type: ignore[attr-defined]


def track(items: Iterable[Item], description: str, total: int | None = None) -> Iterator[Item]:
    """Iterate over `items` and show progress. Pass `total` if `items` has no length."""
    if total is None and isinstance(items, Sized):
        total = len(items)
    with Progress(description, total) as progress:
        for item in items:
            yield item
            progress.advance()
