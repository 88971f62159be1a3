"""Errors of libraries and plug-ins reach the terminal without the characters that it would act on."""

from __future__ import annotations

import sys
import warnings
from pathlib import Path

import pytest
from worlds import cyclic

from genrec import failed_runs, row_commands
from genrec.__main__ import main
from genrec.progress import say
from genrec.terminal_text import LINES, printable

HOSTILE = "\x1b]0;title\x07\x1b[2J red\u202e\x9b1m"
SHOWN = " ]0;title  [2J red  1m"


def test_characters_that_a_terminal_acts_on_become_spaces() -> None:
    assert printable(HOSTILE) == SHOWN
    assert printable("a\nb\tc") == "a b c"
    assert printable("a\nb\tc\r", LINES) == "a\nb\tc "
    assert printable("Größe 大 🫖 \ud800") == "Größe 大 🫖  "


def test_messages(capsys: pytest.CaptureFixture[str]) -> None:
    say(f"{HOSTILE}\nnext")
    assert capsys.readouterr().err == f"{SHOWN}\nnext\n"


def test_the_error_of_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """The file cannot be imported; its own traceback keeps its lines."""
    monkeypatch.setenv("GENREC_HOME", str(tmp_path))
    path = tmp_path / "hostile_plugin.py"
    path.write_text(f"raise ValueError({HOSTILE!r})\n")
    assert main(["run", f"{path}:rows"]) == 2
    shown = capsys.readouterr().err
    assert f"ValueError: {SHOWN}\n" in shown
    assert printable(shown, LINES) == shown


def test_a_warning(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def warn(*_: object) -> int:
        warnings.warn(HOSTILE, stacklevel=1)
        return 0

    monkeypatch.setattr(row_commands, "doctor", warn)
    assert main(["doctor"]) == 0
    assert capsys.readouterr().err == f"genrec: warning: {SHOWN}\n"


def test_the_error_of_a_failed_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("GENREC_HOME", str(tmp_path))
    monkeypatch.setattr(sys, "argv", ["genrec", "run", "mine.py:rows"])
    failed_runs.record(cyclic(), ["data"], ValueError(HOSTILE))
    for command in ("status", "list"):
        assert main([command]) == 0
        shown = capsys.readouterr().out
        assert printable(shown, LINES) == shown
        assert "cyclic" in shown
    assert main(["status"]) == 0
    assert SHOWN in capsys.readouterr().out
