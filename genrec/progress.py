"""Progress of long work: a bar on a terminal, a plain line every so often elsewhere (logs, CI)."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator, Sized
from typing import TypeVar

Item = TypeVar("Item")
LINE_EVERY = 15.0  # seconds between plain lines


def say(message: str) -> None:
    """One line for the person who watches, on standard error, so that standard output stays the result."""
    if sys.stderr is not None:  # closed by whoever started this
        print(message, file=sys.stderr, flush=True)


class Progress:
    """A bar of `total` steps that `advance` moves; use as a context manager. Nothing is shown for work under two seconds.

    Inside another one (a validation inside a training) it shows nothing: a terminal has room for one bar, and a log for one voice.
    """

    _depth = 0  # how many are entered

    def __init__(self, description: str, total: int | None) -> None:
        self.description, self.total, self.done = description, total, 0
        self._began = self._spoke = time.monotonic()
        self._bar: object | None = None

    def __enter__(self) -> Progress:
        self._nested = Progress._depth > 0
        Progress._depth += 1
        return self

    def advance(self, steps: int = 1, note: str = "") -> None:
        """Move on by `steps`; `note` is shown beside the count."""
        self.done += steps
        now = time.monotonic()
        if self._nested:
            return
        if sys.stderr is not None and sys.stderr.isatty():
            if now - self._began > 2.0:
                self._draw(note)
        elif now - self._spoke > LINE_EVERY:
            self._spoke = now
            say(self._line(note, now))

    def _line(self, note: str, now: float) -> str:
        seconds = now - self._began
        if not self.total:
            return f"{self.description}: {self.done} ({seconds:.0f} s) {note}".rstrip()
        left = seconds * (self.total - self.done) / max(self.done, 1)
        return f"{self.description}: {self.done}/{self.total} ({seconds:.0f} s, about {left:.0f} s left) {note}".rstrip()

    def _draw(self, note: str) -> None:
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
    """Iterate with progress shown; `total` is the count where `items` has no length."""
    if total is None and isinstance(items, Sized):
        total = len(items)
    with Progress(description, total) as progress:
        for item in items:
            yield item
            progress.advance()
