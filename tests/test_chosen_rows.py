"""`genrec run --rows`: some rows of a list, by name or pattern."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from worlds import own_project

from genrec.__main__ import main
from genrec.experiment_commands import ListedExperiments

EXPERIMENTS = """
from dataclasses import replace
from genrec.endpoints import endpoint
from genrec.experiment import baselines, seeds
from worlds import cyclic

@endpoint("cyclic-aligned", reference="cyclic-control")
def rows():
    sft = replace(cyclic(steps=3), name="cyclic-sft")
    control, aligned = (replace(cyclic(steps=3, align_steps=2), name=f"cyclic-{name}") for name in ("control", "aligned"))
    return baselines(sft) + seeds([control, sft, aligned], 2)
"""


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with an experiment file and its own data folder."""
    return own_project(tmp_path, monkeypatch, EXPERIMENTS)


def chosen(rows: str) -> list[tuple[str, int]]:
    return [(each.name, each.seed) for each in ListedExperiments("mine.py:rows", (), None, rows)()]


def test_rows_are_chosen_by_name_and_pattern_in_the_order_of_the_list() -> None:
    assert chosen("cyclic-sft") == [("cyclic-sft", 0), ("cyclic-sft", 1)]
    assert chosen(" cyclic-sft , cyclic-c* ") == [("cyclic-control", 0), ("cyclic-control", 1), ("cyclic-sft", 0), ("cyclic-sft", 1)]
    assert {name for name, _ in chosen("*popular*,*knn")} == {"cyclic-popularity", "cyclic-itemknn"}


@pytest.mark.parametrize("rows", ["cyclic-alined", "cyclic-sft,cyclic-alined", "nothing-*", ","])
def test_a_name_that_no_row_has_is_refused_with_the_names_there_are(rows: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "mine.py:rows", "--rows", rows]) == 2
    printed = capsys.readouterr().err
    wrong = rows.rpartition(",")[2] or rows
    assert f"--rows: mine.py:rows returns no row {wrong!r}" in printed
    assert "its rows: cyclic-popularity, cyclic-itemknn, cyclic-control, cyclic-sft, cyclic-aligned" in printed
    assert ("did you mean 'cyclic-aligned'?" in printed) == (wrong == "cyclic-alined")
    assert not Path("data").exists()


def test_only_chosen_rows_are_run_and_endpoints_are_recorded_as_for_all_rows() -> None:
    assert main(["run", "mine.py:rows", "--rows", "cyclic-sft"]) == 0
    assert [path.stem for path in Path("data/runs").glob("*.json")] == ["cyclic-sft"]
    (path,) = Path("data/studies").glob("*.json")
    study = json.loads(path.read_text())
    assert [row["name"] for row in study["rows"]] == ["cyclic-sft"]
    assert [(each["row"], each["reference"]) for each in study["endpoints"]] == [("cyclic-aligned", "cyclic-control")]


def test_a_single_chosen_row_takes_a_name_and_settings_of_its_own() -> None:
    """The other rows lack the setting or would make the name a prefix."""
    flags = ["--name", "mine", "--align.optimization.max-steps", "1"]
    assert main(["run", "mine.py:rows", "--rows", "cyclic-aligned", "--seed", "0", *flags]) == 0
    assert json.loads(Path("data/runs/mine.json").read_text())["configuration"]["align.optimization.max_steps"] == 1


def test_the_command_for_more_seeds_keeps_the_rows(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "mine.py:rows", "--rows", "cyclic-control,cyclic-sft", "--seeds", "1"]) == 0
    assert "genrec run mine.py:rows --rows cyclic-control,cyclic-sft --seeds 5" in capsys.readouterr().out
