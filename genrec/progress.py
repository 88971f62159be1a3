"""Progress of long work: a progress bar on a terminal, and a plain line every `LINE_INTERVAL` seconds in logs and CI.

The state of the outermost work is also passed on to the functions of `watched`, on a terminal or not.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sized
from contextlib import contextmanager
from typing import NamedTuple, TypeVar

from genrec.terminal_text import LINES, printable

Item = TypeVar("Item")
LINE_INTERVAL = 15.0  # seconds between plain lines
BAR_DELAY = 2.0  # seconds before a bar appears
TIMED_STEPS, TIMED_SHARE = 10, 0.05  # steps after the first, or their share of the total, before an estimate of the time left


class State(NamedTuple):
    """How far the outermost work has come."""

    description: str
    done: int  # steps
    total: int | None  # steps; None if unknown
    rate: float | None  # steps per second; None before it is timed (`TIMED_STEPS`)
    seconds_left: float | None  # None without a rate or a total
    note: str


Watcher = Callable[[State], None]
_watchers: list[Watcher] = []
_labels: list[str] = []
_silenced: list[bool] = []


@contextmanager
def watched(watcher: Watcher) -> Iterator[None]:
    """Call `watcher` with each `State` of the outermost work within this context."""
    _watchers.append(watcher)
    try:
        yield
    finally:
        _watchers.remove(watcher)


@contextmanager
def labeled(label: str) -> Iterator[None]:
    """Write plain lines that begin with `label` within this context, also on a terminal, which other processes write to as well."""
    _labels.append(label)
    try:
        yield
    finally:
        _labels.pop()


def duration(seconds: float) -> str:
    """Return a time in words: `0.3 s`, `45 s`, `7 min`, `6 h 40 min`, `3 d 4 h`."""
    if seconds < 90:
        return f"{seconds:.2g} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f"{hours} h {minutes} min" if minutes else f"{hours} h"
    return f"{hours // 24} d {hours % 24} h"


def pace(rate: float | None, seconds_left: float | None) -> str:
    """Return the rate and the time left in words, `2.5/s, about 7 min left` or `4.1 s each, about 2 h left`; '' without a rate."""
    if not rate:
        return ""
    number = f"{rate:,.0f}" if rate >= 100 else f"{rate:.3g}"
    each = f"{number}/s" if rate >= 1 else f"{duration(1 / rate)} each"
    return f"{each}, about {duration(seconds_left)} left" if seconds_left else each


@contextmanager
def silenced() -> Iterator[None]:
    """Print nothing within this context: another process prints the same."""
    _silenced.append(True)
    try:
        yield
    finally:
        _silenced.pop()


@contextmanager
def contained() -> Iterator[None]:
    """Forget, at the end of this context, every `Progress` that was entered within it and is still open.

    A generator that shows progress stays open after an error while somebody keeps the error's traceback, as notebooks do. Later work
    would count as work inside it, and show nothing.
    """
    depth = Progress._depth
    try:
        yield
    finally:
        Progress._depth = min(Progress._depth, depth)


def say(message: str) -> None:
    """Print a line to standard error, so that standard output holds the result only. Control characters become spaces."""
    if sys.stderr is not None and not _silenced:  # None if the parent process closed it
        print(printable(message, LINES), file=sys.stderr, flush=True)


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
        self._around = Progress._depth
        self._nested = self._around > 0
        Progress._depth += 1
        return self

    def begin(self, done: int) -> None:
        """Begin at `done` steps, those of a run that is resumed, and pass this on before the first step, which may take long."""
        self.done = done
        if not self._nested:
            for watcher in _watchers:
                watcher(self._state("", time.monotonic()))

    def advance(self, steps: int = 1, note: str = "") -> None:
        """Advance by `steps` and show `note` after the count."""
        self.done += steps
        now = time.monotonic()
        if self._first is None:
            self._first = now, self.done
        if self._nested or _silenced:
            return
        for watcher in _watchers:
            watcher(self._state(note, now))
        if sys.stderr is not None and sys.stderr.isatty() and not _labels:
            if now - self._started > BAR_DELAY:
                self._draw(self._state(note, now))
        elif now - self._last_line > LINE_INTERVAL:
            self._last_line = now
            say(self._line(self._state(note, now), now))

    def _state(self, note: str, now: float) -> State:
        """Return the state of this work."""
        rate = self._rate(now)
        left = (self.total - self.done) / rate if rate and self.total else None
        return State(self.description, self.done, self.total, rate, left, note)

    def _line(self, state: State, now: float) -> str:
        """Return the plain line."""
        count = f"{self.done}/{self.total}" if self.total else f"{self.done}"
        times = ", ".join(filter(None, [f"{now - self._started:.0f} s", pace(state.rate, state.seconds_left)]))
        return ": ".join([*_labels, self.description, f"{count} ({times}) {state.note}".rstrip()])

    def _rate(self, now: float) -> float | None:
        """Return the steps per second, or None before `TIMED_STEPS` steps or `TIMED_SHARE` of the total are timed."""
        if self._first is None:
            return None
        began, before = self._first
        timed = self.done - before
        needed = min(TIMED_STEPS, TIMED_SHARE * self.total) if self.total else TIMED_STEPS
        return timed / (now - began) if timed >= max(1, needed) and now > began else None

    def _draw(self, state: State) -> None:
        """Show or update the bar, with the rate, the time left and the note."""
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
        from rich.progress import Progress as Bar

        if self._bar is None:
            texts = [TextColumn(text, markup=False) for text in ("{task.description}", "{task.fields[text]}")]
            self._bar = Bar(
                texts[0], BarColumn(bar_width=24), MofNCompleteColumn(), texts[1], console=Console(stderr=True), transient=True
            )
            self._bar.start()
            self._task = self._bar.add_task(self.description, total=self.total, text="")
        assert isinstance(self._bar, Bar)
        text = "  ".join(filter(None, [pace(state.rate, state.seconds_left), state.note]))
        self._bar.update(self._task, completed=self.done, text=text)

    def __exit__(self, *_: object) -> None:
        Progress._depth = min(Progress._depth, self._around)  # what is left open inside of it no longer counts, see `contained`
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
