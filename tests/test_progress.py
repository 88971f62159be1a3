"""Progress: a bar on a terminal, lines in a log, and one bar at a time."""

from __future__ import annotations

import io
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from genrec import pipeline, progress
from genrec.baselines import Popularity
from genrec.errors import InputError
from genrec.experiment import Experiment
from genrec.progress import Progress, State, contained, pace, track, watched
from genrec.types import RawTables

OPEN: list[Iterator[int]] = []  # generators that nothing closes


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def no_other_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forget what the errors of other tests, which pytest keeps for a while, have left open."""
    monkeypatch.setattr(Progress, "_depth", 0)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make every reading of the clock 10 s later than the last."""
    now = iter(range(0, 10_000, 10))
    monkeypatch.setattr(progress.time, "monotonic", lambda: float(next(now)))


def test_lines_in_a_log(clock: None, capsys: pytest.CaptureFixture[str]) -> None:
    """10 s per step and a line after more than 15 s: the first line is at 20 s, after step 2 of 4, with 20 s left."""
    assert list(track(range(4), "counting")) == [0, 1, 2, 3]
    assert capsys.readouterr().err.splitlines() == [
        "counting: 2/4 (20 s, 10 s each, about 20 s left)",
        "counting: 4/4 (40 s, 10 s each)",
    ]


def test_no_time_is_estimated_from_few_steps(clock: None, capsys: pytest.CaptureFixture[str]) -> None:
    """5 % of 500 steps are 25, so ten steps after the first have to be timed: line 1 to 5 (steps 2 to 10) give none, step 12 does."""
    list(track(range(500), "SFT"))
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "SFT: 2/500 (20 s)"
    assert lines[4] == "SFT: 10/500 (100 s)"
    assert lines[5] == "SFT: 12/500 (120 s, 10 s each, about 1 h 21 min left)"  # 488 steps of 10 s


def test_the_estimate_leaves_out_a_slow_first_step(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """100 s to the first step, then 10 s per step: after step 3 the other 17 take 170 s, not 120 / 3 * 17 = 680 s."""
    now = iter([0.0, *(100.0 + 10 * step for step in range(20))])
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(now))
    list(track(range(20), "slow start"))
    first, second = capsys.readouterr().err.splitlines()[:2]
    assert (first, second) == ("slow start: 1/20 (100 s)", "slow start: 3/20 (120 s, 10 s each, about 3 min left)")


def test_the_estimate_leaves_out_the_steps_before_a_resume(clock: None, capsys: pytest.CaptureFixture[str]) -> None:
    """Resumed at step 96 of 200; ten steps of 10 s after the first, and 92 are left after step 108: 920 s."""
    with Progress("SFT", 200) as bar:
        bar.done = 96
        for _ in range(12):
            bar.advance()
    assert capsys.readouterr().err.splitlines()[-1] == "SFT: 108/200 (120 s, 10 s each, about 15 min left)"


def test_without_a_total(clock: None, capsys: pytest.CaptureFixture[str]) -> None:
    assert list(track(iter("abc"), "reading")) == ["a", "b", "c"]
    assert capsys.readouterr().err == "reading: 2 (20 s)\n"


def test_a_nested_bar_is_silent(clock: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """A terminal shows one live display; a validation during training must not start another."""
    monkeypatch.setattr(sys, "stderr", Terminal())
    with Progress("outer", 3) as outer:
        outer.advance()
        assert list(track(range(3), "inner")) == [0, 1, 2]
        outer.advance(note="still here")
    assert "outer" in sys.stderr.getvalue()  # type: ignore[attr-defined]
    assert "inner" not in sys.stderr.getvalue()  # type: ignore[attr-defined]


def test_an_error_closes_the_bar(clock: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", Terminal())
    with pytest.raises(RuntimeError), Progress("failing", 3) as bar:
        bar.advance()
        raise RuntimeError
    assert Progress._depth == 0


def test_work_that_an_error_leaves_open_is_forgotten(clock: None, capsys: pytest.CaptureFixture[str]) -> None:
    """A kept traceback keeps generators open. When they are closed at last, they change nothing either."""
    left_open = track(range(4), "left open")
    with pytest.raises(RuntimeError), contained():
        next(left_open)
        raise RuntimeError
    with Progress("other", 3):
        left_open.close()  # type: ignore[attr-defined]
    assert Progress._depth == 0
    capsys.readouterr()
    list(track(range(4), "counting"))
    assert [line.split(" (")[0] for line in capsys.readouterr().err.splitlines()] == ["counting: 2/4", "counting: 4/4"]


def test_outer_work_ends_what_is_open_inside_of_it(clock: None) -> None:
    inner = track(range(4), "inner")
    with Progress("outer", 3):
        next(inner)
        assert Progress._depth == 2
    assert Progress._depth == 0
    inner.close()  # type: ignore[attr-defined]
    assert Progress._depth == 0


@dataclass(frozen=True)
class BreaksOff:
    """A source that begins to read and fails, and leaves its progress open."""

    def load(self, root: Path) -> RawTables:
        OPEN.append(track(range(4), "reading"))
        next(OPEN[-1])
        raise InputError("the file ends within a line")


def test_a_stage_that_fails_while_it_reads_leaves_no_work_open() -> None:
    with pytest.raises(InputError, match="ends within a line"):
        pipeline.run(Experiment(name="breaks-off", source=BreaksOff(), policy=Popularity()))
    assert Progress._depth == 0


def test_a_closed_standard_error_is_ignored(clock: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Some daemons close standard error; its lines must not appear on standard output."""
    monkeypatch.setattr(sys, "stderr", None)
    assert list(track(range(4), "counting")) == [0, 1, 2, 3]
    progress.say("hello")
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("rate", "left", "words"),
    [
        (None, None, ""),
        (2.5, 420.0, "2.5/s, about 7 min left"),
        (1234.5, 3.0, "1,234/s, about 3 s left"),
        (0.25, 7200.0, "4 s each, about 2 h left"),
        (2.5, None, "2.5/s"),
        (2.5, 0.0, "2.5/s"),
    ],
)
def test_rate_and_time_left_in_words(rate: float | None, left: float | None, words: str) -> None:
    assert pace(rate, left) == words


def test_watchers_get_the_state_of_the_outermost_work(clock: None) -> None:
    """The step after the first is timed at step 2, and 18 of 20 are left."""
    states: list[State] = []
    with watched(states.append), Progress("SFT", 20) as bar:
        bar.advance(note="loss 3")
        list(track(range(3), "validation"))
        bar.advance()
    list(track(range(3), "later"))
    assert states[0] == State("SFT", 1, 20, None, None, "loss 3")
    assert [state.description for state in states] == ["SFT", "SFT"]
    assert states[1].rate is not None
    assert states[1].seconds_left == 18 / states[1].rate
    assert progress._watchers == []


def test_the_bar_shows_rate_and_note_without_markup(clock: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", Terminal())
    monkeypatch.setenv("COLUMNS", "200")
    with Progress("SFT [red]", 30) as bar:
        for _ in range(20):
            bar.advance(note="loss [bold]3.2")
        bar._bar.refresh()  # type: ignore[union-attr]
    shown = sys.stderr.getvalue()  # type: ignore[attr-defined]
    for text in ("SFT [red]", "20/30", "10 s each, about 2 min left", "loss [bold]3.2"):  # 100 s
        assert text in shown
