"""`genrec.run` and `genrec.compare` return what the command line prints, as tables for a notebook."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from worlds import cyclic

import genrec
from genrec import run_experiments, studies
from genrec.__main__ import main
from genrec.baselines import ItemKNN, Popularity
from genrec.errors import UsageError
from genrec.evaluation.comparison.comparison_tables import tables
from genrec.experiment import Experiment, seed_numbers
from genrec.results import Results

EXPERIMENTS = [replace(cyclic(), name=f"cyclic-{name}", policy=policy) for name, policy in (("knn", ItemKNN()), ("pop", Popularity()))]


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Results]:
    home = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GENREC_HOME", str(home))
        return home, genrec.run(EXPERIMENTS)


def test_run_returns_the_table_of_its_rows(results: tuple[Path, Results], monkeypatch: pytest.MonkeyPatch) -> None:
    home, found = results
    monkeypatch.setenv("GENREC_HOME", str(home))
    table = found.table
    assert list(table.index) == ["cyclic-knn", "cyclic-pop"]
    assert table.loc["cyclic-knn", "value"] == pytest.approx(table.loc["cyclic-knn", "ndcg@10"])
    difference = table.loc["cyclic-pop", "ndcg@10"] - table.loc["cyclic-knn", "ndcg@10"]
    assert table.loc["cyclic-pop", "difference"] == pytest.approx(difference)
    assert table.loc["cyclic-pop", "difference_low"] <= difference <= table.loc["cyclic-pop", "difference_high"]
    again = genrec.compare(["cyclic-knn", "cyclic-pop"])
    assert again.table.equals(table)
    assert len(genrec.run(EXPERIMENTS[0], seeds=3).table) == 1  # a baseline runs once


def test_compare_writes_what_it_returns(
    results: tuple[Path, Results], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("GENREC_HOME", str(results[0]))
    path = tmp_path / "table.md"
    assert main(["compare", "cyclic-pop", "cyclic-knn", "--metric", "recall@5", "--markdown", str(path)]) == 0
    found = genrec.compare(["cyclic-pop", "cyclic-knn"], metric="recall@5")
    assert path.read_text() == found.markdown() == repr(found)
    assert "Recall@5" in capsys.readouterr().out
    html = found._repr_html_()
    assert html.count("<table") == html.count("<h4>") == len(tables(found.comparisons[0]))
    assert "cyclic-knn" in html


def test_wrong_arguments_are_explained() -> None:
    with pytest.raises(UsageError, match=r"run needs an Experiment, a list of them or 'FILE.py:FUNCTION', got an empty list"):
        genrec.run([])
    with pytest.raises(UsageError, match=r"there is no file experiments/mine.py"):
        genrec.run("experiments/mine.py:sft")
    for wrong in (cyclic, [cyclic]):
        with pytest.raises(UsageError, match=r"got the function cyclic; call it: genrec.run\(cyclic\(\)\)"):
            genrec.run(wrong)  # type: ignore[arg-type]
    for value, shown in ((None, "None"), (7, "7"), (Experiment, r"the class Experiment; write Experiment\(...\)")):
        with pytest.raises(UsageError, match=f"'FILE.py:FUNCTION', got {shown}"):
            genrec.run(value)  # type: ignore[arg-type]
    for seeds in ("a", 1.5, True):
        with pytest.raises(
            UsageError, match=r"seeds must be a number of seeds, such as 5, or a list of seeds, such as \(5, 6, 7\), got"
        ):
            genrec.run(cyclic(), seeds=seeds)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match=r"on must be local:N .*, got 3"):
        genrec.run(cyclic(), on=3)  # type: ignore[arg-type]
    for names in (None, 3, ["cyclic-pop", 3]):
        with pytest.raises(UsageError, match="compare needs the name of a row or a list of names, got"):
            genrec.compare(names)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="metric must be the name of a metric, such as 'recall@10', got 3"):
        genrec.compare("cyclic-pop", metric=3)  # type: ignore[arg-type]


def test_seeds_may_be_integers_of_numpy() -> None:
    assert seed_numbers(np.int64(3)) == range(3)  # type: ignore[arg-type]
    found = seed_numbers(np.array([5, 6]))  # type: ignore[arg-type]
    assert found == (5, 6)
    assert {type(seed) for seed in found} == {int}


def test_run_takes_the_function_of_a_file_as_the_command_line_does(
    results: tuple[Path, Results], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The study has the name of the function. A file that is edited is read anew, as in a notebook."""
    monkeypatch.setenv("GENREC_HOME", str(results[0]))
    file, recorded, run = tmp_path / "own_rows.py", list[str](), run_experiments.run

    def spied(experiments: Any, refresh: Any, replaces: Any, study: str, *others: Any) -> None:
        recorded.append(study)
        run(experiments, refresh, replaces, study, *others)

    monkeypatch.setattr(run_experiments, "run", spied)
    source = "from worlds import cyclic\nfrom dataclasses import replace\nfrom genrec.baselines import Popularity\n"
    for name in ("one", "other"):
        file.write_text(f"{source}def rows():\n    return [replace(cyclic(), name='named-{name}', policy=Popularity())]\n")
        assert list(genrec.run(f"{file}:rows", seeds=np.int64(1)).table.index) == [f"named-{name}"]  # type: ignore[arg-type]
    assert recorded == [studies.study_name(f"{file}:rows")] * 2
