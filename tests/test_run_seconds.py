"""After a run: one line with the seconds per stage was made, and nothing where nothing was."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
from worlds import cyclic

from genrec import run_experiments
from genrec.store import Artifact


def test_a_run_ends_with_the_seconds_of_what_it_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("GENREC_HOME", str(tmp_path))
    first = cyclic(steps=2)
    run_experiments.run([first])
    line = capsys.readouterr().err.splitlines()[-1]
    assert re.fullmatch(r"seconds per stage: data \d+\.\d, embed \S+, tokenize \S+, sft \S+, evaluate \d+\.\d", line)
    run_experiments.run([first])
    assert "seconds per stage" not in capsys.readouterr().err
    run_experiments.run([first, replace(first, seed=1), replace(first, seed=2)])  # what they share was there
    line = capsys.readouterr().err.splitlines()[-1]
    assert re.fullmatch(r"seconds per stage: sft \d+\.\d \(2 artifacts\), evaluate \d+\.\d \(2 artifacts\)", line)
    run_experiments.run([first], refresh="evaluate")
    assert re.fullmatch(r"seconds per stage: evaluate \d+\.\d", capsys.readouterr().err.splitlines()[-1])


def test_seconds_of_a_stage_are_summed() -> None:
    """1.26 s and 2 s of two seeds are 3.3 s; stages come in their order."""
    made = [Artifact(stage, str(key), Path(), {"seconds": seconds}) for key, (stage, seconds) in enumerate(
        [("evaluate", 0.5), ("sft", 1.26), ("sft", 2.0)]
    )]  # fmt: skip
    assert run_experiments.seconds_line(made) == "seconds per stage: sft 3.3 (2 artifacts), evaluate 0.5"


def test_all_alignments_of_a_chain_are_counted() -> None:
    stages = ["evaluate", "align-2", "align", "sft"]
    made = [Artifact(stage, str(key), Path(), {"seconds": 1.0}) for key, stage in enumerate(stages)]
    assert run_experiments.seconds_line(made) == "seconds per stage: sft 1.0, align 1.0, align-2 1.0, evaluate 1.0"
