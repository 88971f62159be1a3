"""The seeds of experiments: `seeds`, `genrec run --seeds` and `genrec compare --seeds`."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from worlds import cyclic, own_project

from genrec import loading
from genrec.__main__ import main
from genrec.errors import UsageError
from genrec.experiment import baselines, seeds, with_seeds
from genrec.row_commands import listed_seeds

EXPERIMENTS = """
from dataclasses import replace
from genrec.experiment import baselines, seeds
from worlds import cyclic

def rows():
    first = replace(cyclic(steps=3), name="first")
    return baselines(replace(first, name="cyclic-first")) + seeds([first], (0, 1)) + [replace(first, name="second")]
"""
PROJECT = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with an experiment file and its own data folder."""
    return own_project(tmp_path, monkeypatch, EXPERIMENTS)


def stored(name: str) -> list[str]:
    return list(json.loads(Path(f"data/runs/{name}.json").read_text())["seeds"])


def test_seeds_are_five_by_default() -> None:
    row = cyclic()
    assert [each.seed for each in seeds([row])] == [0, 1, 2, 3, 4]
    assert [each.seed for each in seeds([row], 3)] == [0, 1, 2]
    assert [each.seed for each in seeds([row], (7, 5))] == [7, 5]
    assert [(each.name, each.seed) for each in seeds([row, replace(row, name="other")], 2)] == [
        ("cyclic", 0), ("cyclic", 1), ("other", 0), ("other", 1),
    ]  # fmt: skip


@pytest.mark.parametrize("numbers", [0, -1, (), (1, 1)])
def test_no_seed_and_a_repeated_seed_are_refused(numbers: int | tuple[int, ...]) -> None:
    with pytest.raises(UsageError, match="seeds must be a number of seeds of 1 or more, or different seeds"):
        seeds([cyclic()], numbers)


def test_seeds_replace_those_of_the_list_and_a_baseline_is_run_once() -> None:
    """The rows have seeds 0 and 1, and 4; popularity and ItemKNN have seed 2. All get seeds 5 and 6, the baselines seed 0."""
    row = cyclic()
    experiments = [replace(each, seed=2) for each in baselines(row)] + seeds([row], 2) + [replace(row, name="other", seed=4)]
    assert [(each.name, each.seed) for each in with_seeds(experiments, (5, 6))] == [
        ("cyclic-popularity", 0), ("cyclic-itemknn", 0), ("cyclic", 5), ("cyclic", 6), ("other", 5), ("other", 6),
    ]  # fmt: skip


@pytest.mark.parametrize(("text", "expected"), [("5", (0, 1, 2, 3, 4)), ("5,6,7", (5, 6, 7)), ("5,", (5,)), (" 1, 0 ", (1, 0))])
def test_seeds_as_text(text: str, expected: tuple[int, ...]) -> None:
    assert tuple(listed_seeds(text)) == expected


@pytest.mark.parametrize("text", ["", ",", "5,,6", "a", "-1", "1.5", "0", "3,3", str(2**63), str(2**70)])
def test_other_texts_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match="seeds"):
        listed_seeds(text)


def test_a_run_and_a_comparison_at_given_seeds(capsys: pytest.CaptureFixture[str]) -> None:
    """The run replaces the seeds of the list; the comparison leaves the others out, and keeps the one result of a baseline."""
    assert main(["run", "mine.py:rows", "--seeds", "3,4,5", "--dry-run"]) == 0
    planned = [line for line in capsys.readouterr().out.splitlines() if "(seed" in line]
    trained = [f"{name} (seed {number})" for name in ("first", "second") for number in (3, 4, 5)]
    assert planned == ["cyclic-popularity (seed 0)", "cyclic-itemknn (seed 0)", *trained]
    assert main(["run", "mine.py:rows", "--seeds", "3,4"]) == 0
    assert (stored("cyclic-popularity"), stored("first"), stored("second")) == (["0"], ["3", "4"], ["3", "4"])
    assert main(["run", "mine.py:rows", "--seed", "7"]) == 0  # an override, as before: of the baselines too
    assert (stored("cyclic-popularity"), stored("first")) == (["0", "7"], ["3", "4", "7"])
    capsys.readouterr()
    assert main(["compare", "first", "second", "cyclic-popularity", "--seeds", "4,7,9", "--markdown", "table.md"]) == 0
    said = capsys.readouterr()
    assert "first has no seed 9; it is compared at seeds 4 and 7" in said.err
    table = Path("table.md").read_text()
    assert "| first | 4, 7 |" in table
    assert "| cyclic-popularity | 7 |" in table
    assert main(["compare", "first", "cyclic-itemknn", "--seeds", "3,", "--markdown", "table.md"]) == 0
    assert "| cyclic-itemknn | 0, 7 |" in Path("table.md").read_text()
    assert main(["compare", "first", "--seeds", "5"]) == 0  # seeds 0 to 4
    assert main(["compare", "first", "second", "--seeds", "8,9"]) == 2
    assert "first has none of seeds 8 and 9; it has seeds 3, 4 and 7; run the missing ones" in capsys.readouterr().err
    # at most five seeds are named, and no list of all is made
    assert main(["compare", "first", "--seeds", "100000000"]) == 0
    said = capsys.readouterr().err
    assert "first has no seeds 0, 1, 2, 5, 6 and 99,999,992 more; it is compared at seeds 3, 4 and 7" in said
    assert main(["compare", "first", "--seeds", "0,1,2,3,5,6"]) == 0
    assert "first has no seeds 0, 1, 2, 5 and 6; it is compared at seed 3\n" in capsys.readouterr().err
    assert main(["compare", "first", "--seeds", "8,9,10,11,12,13"]) == 2
    assert "first has none of seeds 8, 9, 10, 11, 12 and 1 more; it has seeds 3, 4 and 7" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("seeds", "line"),
    [
        ("7", "--seeds 7 is a number of seeds: seeds 0 to 6; '--seeds 7,' is seed 7 alone\n"),
        ("1", "--seeds 1 is a number of seeds: seed 0; '--seeds 1,' is seed 1 alone\n"),
        ("7,", ""),
        ("1,2", ""),
    ],
)
def test_a_single_number_is_said_to_be_a_count(seeds: str, line: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "mine.py:rows", "--seeds", seeds, "--dry-run"]) == 0
    said = capsys.readouterr().err
    assert line in said
    assert ("is a number of seeds" in said) == bool(line)
    with pytest.raises(SystemExit):
        main(["run", "--help"])
    assert "7 stands for seeds 0 to 6; with a comma they are listed" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize("seed", [["--seed", "1"], ["--seed=1"]])
def test_one_seed_and_several_exclude_each_other(seed: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "mine.py:rows", "--seeds", "5", *seed, "--dry-run"]) == 2
    assert "--seed 1 and --seeds 5 exclude each other; give one of them" in capsys.readouterr().err
    assert main(["run", "mine.py:rows", *seed, "--dry-run"]) == 0
    assert "first (seed 1)" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("where", "rows", "expected"),
    [
        ("quickstart.py:comparison", 8, {0, 1, 2}),
        ("shop.py:comparison", 4, {0, 1, 2}),
        ("iterated.py:comparison", 6, {0, 1, 2, 3, 4}),
        ("movielens.py:comparison", 6, {0, 1, 2, 3, 4}),
        ("movielens.py:rivals", 3, {0, 1, 2, 3, 4}),
        ("movielens.py:grid_100k", 76, {0, 1, 2, 3, 4}),
        ("movielens.py:seen", 6, {0, 1, 2, 3, 4}),
        ("policies.py:movielens_100k", 8, {0, 1, 2, 3, 4}),
        ("policies.py:movielens_1m", 2, {0, 1, 2, 3, 4}),
        ("amazon.py:rivals", 2, {0, 1, 2, 3, 4}),
        ("amazon.py:cold", 4, {0, 1, 2}),
    ],
)
def test_comparisons_of_the_project_have_five_seeds(where: str, rows: int, expected: set[int]) -> None:
    """The quick start, the shop and the rows of cold items have three, so that they stay short."""
    found: dict[str, set[int]] = {}
    for experiment in loading.load(str(PROJECT / "experiments" / where)):
        if "sft" in experiment.stages:
            found.setdefault(experiment.name, set()).add(experiment.seed)
    assert len(found) == rows
    assert set(map(frozenset, found.values())) == {frozenset(expected)}
