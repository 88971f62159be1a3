"""After a run: one line with the seconds of what was made, and nothing where nothing was."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
from worlds import cyclic

from genrec import runs
from genrec.store import Artifact


def test_a_run_ends_with_the_seconds_of_what_it_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("GENREC_HOME", str(tmp_path))
    first = cyclic(steps=2)
    runs.run([first])
    line = capsys.readouterr().err.splitlines()[-1]
    assert re.fullmatch(r"seconds of what was made: data \d+\.\d, embed \S+, tokenize \S+, sft \S+, evaluate \d+\.\d", line)
    runs.run([first])
    assert "seconds of what" not in capsys.readouterr().err
    runs.run([first, replace(first, seed=1), replace(first, seed=2)])  # what they share was there
    line = capsys.readouterr().err.splitlines()[-1]
    assert re.fullmatch(r"seconds of what was made: sft \d+\.\d \(2 times\), evaluate \d+\.\d \(2 times\)", line)
    runs.run([first], refresh="evaluate")
    assert re.fullmatch(r"seconds of what was made: evaluate \d+\.\d", capsys.readouterr().err.splitlines()[-1])


def test_seconds_of_a_stage_are_summed() -> None:
    """1.26 s and 2 s of two seeds are 3.3 s; stages come in their order."""
    made = [Artifact(stage, str(key), Path(), {"seconds": seconds}) for key, (stage, seconds) in enumerate(
        [("evaluate", 0.5), ("sft", 1.26), ("sft", 2.0)]
    )]  # fmt: skip
    assert runs.seconds_line(made) == "seconds of what was made: sft 3.3 (2 times), evaluate 0.5"
