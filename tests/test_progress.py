"""Progress: a bar on a terminal, lines in a log, and one bar at a time."""

from __future__ import annotations

import io
import sys

import pytest

from genrec import progress
from genrec.progress import Progress, track


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make every reading of the clock 10 s later than the last."""
    now = iter(range(0, 10_000, 10))
    monkeypatch.setattr(progress.time, "monotonic", lambda: float(next(now)))


def test_lines_in_a_log(clock: None, capsys: pytest.CaptureFixture[str]) -> None:
    """10 s per step and a line after more than 15 s: the first line is at 20 s, after step 2 of 4, with 20 s left."""
    assert list(track(range(4), "counting")) == [0, 1, 2, 3]
    assert capsys.readouterr().err.splitlines() == [
        "counting: 2/4 (20 s, about 20 s left)",
        "counting: 4/4 (40 s, about 0 s left)",
    ]


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


def test_a_closed_standard_error_is_ignored(clock: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Some daemons close standard error; its lines must not appear on standard output."""
    monkeypatch.setattr(sys, "stderr", None)
    assert list(track(range(4), "counting")) == [0, 1, 2, 3]
    progress.say("hello")
    assert capsys.readouterr().out == ""
