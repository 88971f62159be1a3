"""`genrec.run` and `genrec.compare` return what the command line prints, as tables for a notebook."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from worlds import cyclic

import genrec
from genrec.__main__ import main
from genrec.baselines import ItemKNN, Popularity
from genrec.errors import UsageError
from genrec.evaluation.comparison.comparison_tables import tables
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
    with pytest.raises(UsageError, match="run needs an Experiment or a list of them, got 'an empty list'"):
        genrec.run([])
    with pytest.raises(UsageError, match="run needs an Experiment or a list of them"):
        genrec.run("experiments/mine.py:sft")  # type: ignore[arg-type]
