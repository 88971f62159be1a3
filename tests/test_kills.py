"""SIGKILL at random moments of each stage and in the writing of a checkpoint, and a full disk at each write: nothing is lost."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from pandas import read_parquet
from pandas.testing import assert_frame_equal
from safetensors.torch import load_file

PROJECT = Path(__file__).parents[1]
FILE = """
from dataclasses import replace
from genrec.experiment import Align, Optimization, Validation
from genrec.objectives import Preference
from genrec.preference.candidates import Sampled, TopItems
from genrec.preference.losses import KTO, SoftmaxDPO
from genrec.preference.negatives import Uniform
from worlds import cyclic

def row():
    optimization, validation = Optimization(max_steps=4, batch_size=32, learning_rate=1e-3), Validation(every=2)
    sampled = Preference(loss=KTO(), candidates=Sampled(Uniform(), 1))
    gated = Preference(loss=SoftmaxDPO(), candidates=TopItems(size=8), likelihood=1.0)
    chain = tuple(Align(objective=each, optimization=optimization, validation=validation) for each in (sampled, gated))
    short = cyclic(steps=6)
    return replace(short, sft=replace(short.sft, validation=Validation(every=2)), align=chain)
"""
TRAININGS = ("sft", "align", "align-2")
WRITES = 118  # files and folders that the row writes
Run = tuple[str, str, float]
pytestmark = pytest.mark.slow  # minutes each


def outcomes(folder: Path, runs: list[Run]) -> list[list[int]]:
    """Run `killed_runs.py` and return the exit codes of each run and of the same command after it."""
    (folder / "mine.py").write_text(FILE, encoding="utf-8")
    plan = folder / "plan.json"
    plan.write_text(json.dumps({"command": ["run", f"{folder / 'mine.py'}:row"], "folder": str(folder), "runs": runs}))
    path = os.pathsep.join([str(PROJECT), str(PROJECT / "tests")])
    environment = os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        [sys.executable, str(PROJECT / "tests" / "killed_runs.py"), str(plan)],
        env=environment, stdout=subprocess.PIPE, text=True, check=True,
    )  # fmt: skip
    return [json.loads(line) for line in done.stdout.splitlines()]


def assert_like_the_whole_run(folder: Path, number: int) -> None:
    """Weights, curves, Semantic IDs and each user's rank are those of the uninterrupted run; nothing unfinished is left."""
    whole, again = folder / "whole" / "artifacts", folder / str(number) / "artifacts"
    files = {path.relative_to(whole) for path in whole.glob("*/[!.]*/*") if path.suffix in (".safetensors", ".parquet")}
    assert {path.parts[0] for path in files} == {"data", "embed", "tokenize", "sft", "align", "align-2", "evaluate"}
    for name in files:
        if name.suffix == ".parquet":
            assert_frame_equal(read_parquet(whole / name), read_parquet(again / name))
            continue
        expected, found = load_file(whole / name), load_file(again / name)
        assert expected.keys() == found.keys()
        assert all(value.equal(found[key]) for key, value in expected.items()), f"{name} after run {number}"
    assert not list(again.glob("*/.*.partial"))


def check(folder: Path, runs: list[Run], code: int) -> None:
    """Check that each run ends with `code`, that the same command then ends well, and that its results are those of the whole run."""
    found = outcomes(folder, runs)
    assert found == [[code, 0]] * len(runs), [(run, codes) for run, codes in zip(runs, found, strict=True) if codes != [code, 0]]
    for number in range(len(runs)):
        assert_like_the_whole_run(folder, number)


@pytest.mark.parametrize("stage", ["tokenize", "sft", "align", "align-2", "evaluate"])
def test_twenty_kills_in_a_stage(stage: str, tmp_path: Path) -> None:
    draw = random.Random(stage)
    check(tmp_path, [("call", stage, draw.random()) for _ in range(20)], -signal.SIGKILL)


def test_twenty_kills_while_a_checkpoint_is_saved(tmp_path: Path) -> None:
    """Between the files of a checkpoint, and in the renaming of the whole one."""
    draw = random.Random(0)
    check(tmp_path, [("save", draw.choice(TRAININGS), draw.random()) for _ in range(20)], -signal.SIGKILL)


def test_twenty_kills_within_a_file_of_a_checkpoint(tmp_path: Path) -> None:
    draw = random.Random(1)
    check(tmp_path, [("write", draw.choice(TRAININGS), draw.random()) for _ in range(20)], -signal.SIGXFSZ)


@pytest.mark.parametrize("stage", TRAININGS)
def test_ctrl_c_twice(stage: str, tmp_path: Path) -> None:
    """The second one ends a training at once, wherever it is; outside the steps the first one does."""
    draw = random.Random(stage)
    runs: list[Run] = [("interrupt", stage, draw.random()) for _ in range(20)]
    found = outcomes(tmp_path, runs)
    assert [code for _, code in found] == [0] * len(runs)
    codes = [code for code, _ in found]
    assert set(codes) <= {-signal.SIGINT, 130}, codes
    assert codes.count(-signal.SIGINT) >= 5, codes
    for number in range(len(runs)):
        assert_like_the_whole_run(tmp_path, number)
        assert "Traceback" not in (tmp_path / str(number) / "printed.txt").read_text(encoding="utf-8")


def test_a_full_disk_at_every_write(tmp_path: Path) -> None:
    """From each new file or folder on: one message and exit code 5. The same command on a disk with space goes on."""
    check(tmp_path, [("open", "", place / WRITES) for place in range(WRITES)], 5)
    for number in range(WRITES):
        printed = (tmp_path / str(number) / "printed.txt").read_text(encoding="utf-8")
        assert "genrec: the disk is full" in printed
        assert "Traceback" not in printed


def test_a_file_of_any_size_that_cannot_be_written(tmp_path: Path) -> None:
    """As on a disk that fills within a file, of Parquet or safetensors too: exit code 5, and the same command goes on."""
    check(tmp_path, [("size", "", place / 20) for place in range(1, 20)], 5)
