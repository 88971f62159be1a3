"""The picture of a comparison: what is drawn where, which rows are left out, and names with any characters."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from pandas import DataFrame

from genrec.evaluation.compare import Comparison, Run, compare
from genrec.evaluation.comparison import comparison_plots
from genrec.evaluation.comparison.comparison_plots import GRAY, REFERENCE, ROW
from genrec.written_files import PICTURES, is_own_picture

TRAINED: dict[str, object] = {"sft.class": "a"}


def run(
    name: str, seed: int, hits: float, configuration: dict[str, object] | None = None, cutoffs: tuple[int, ...] = (1, 10, 50)
) -> Run:
    """A run of 200 users, of whom about a share of `hits` finds the target on the first place."""
    found = np.random.default_rng([seed, int(hits * 100)]).random(200) < hits
    ranks = DataFrame({"user": np.arange(1, 201), "target": 1, "rank": found.astype(np.int64)})
    recalls = {f"recall@{cutoff}": float(found.mean()) + cutoff / 1000 for cutoff in cutoffs}
    settings = (TRAINED if configuration is None else configuration) | {"policy.class": f"own:{name}"}
    return Run(name, seed, ranks, recalls | {"ndcg@10": float(found.mean())}, {"data": "A", "cutoffs": list(cutoffs)}, settings)


def compared(*more: Run, reference: str = "low") -> Comparison:
    rows = (("low", 0.2), ("same", 0.21), ("high", 0.8))
    return compare([*(run(name, seed, hits) for name, hits in rows for seed in (0, 1, 2)), *more], reference=reference, resamples=200)


def drawn(monkeypatch: pytest.MonkeyPatch, comparison: Comparison, folder: Path) -> list[Axes]:
    """Return the panels of a picture."""
    figures: list[Figure] = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, path, **_: figures.append(figure))
    comparison_plots.draw(comparison, folder / "picture.png")
    return figures[0].axes


def test_differences_intervals_and_seeds(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Row 2 has its interval, its three seeds and its mean, which is filled if p (Holm) is below 0.05; the reference has its line."""
    comparison = compared()
    left, _ = drawn(monkeypatch, comparison, tmp_path)
    same, high = (row.test for row in comparison.rows[1:])
    assert same is not None
    assert high is not None
    lines = {tuple(map(float, line.get_xdata())): line for line in left.lines}
    assert set(lines) == {same.interval, same.by_seed, (same.difference,), high.interval, high.by_seed, (high.difference,), (0.0, 0.0)}
    assert lines[(same.difference,)].get_markerfacecolor() == "white"
    assert lines[(high.difference,)].get_markerfacecolor() == ROW
    assert lines[high.by_seed].get_color() == GRAY
    assert [float(lines[(test.difference,)].get_ydata()[0]) for test in (same, high)] == [2, 3]
    assert [label.get_text() for label in left.get_yticklabels()] == ["1  low", "2  same", "3  high"]
    assert [label.get_color() for label in left.get_yticklabels()] == [REFERENCE, "black", "black"]
    assert left.get_xlabel() == "difference in NDCG@10 from low"
    assert left.get_ylim() == (3.6, 0.4)  # the first row is at the top


def test_recall_at_the_smallest_and_the_largest_cutoff(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    comparison = compared(reference="high")
    _, right = drawn(monkeypatch, comparison, tmp_path)
    points = [(float(line.get_xdata()[0]), float(line.get_ydata()[0])) for line in right.lines]
    assert points == [(row.metrics["recall@50"].mean, row.metrics["recall@1"].mean) for row in comparison.rows]
    assert (right.get_xlabel(), right.get_ylabel()) == ("Recall@50", "Recall@1")
    assert [text.get_text() for text in right.texts] == ["1", "2", "3"]
    assert [line.get_color() for line in right.lines] == [ROW, ROW, REFERENCE]


def test_one_cutoff_has_no_second_panel(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    comparison = compare([run(name, 0, hits, cutoffs=(10,)) for name, hits in (("a", 0.2), ("b", 0.3))], resamples=20)
    assert len(drawn(monkeypatch, comparison, tmp_path)) == 1


@pytest.mark.parametrize(("reference", "shown"), [("low", ["low", "same", "high"]), ("pop", ["low", "same", "high", "pop"])])
def test_baselines_are_shown_beside_a_baseline_alone(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, reference: str, shown: list[str]
) -> None:
    comparison = compared(run("pop", 0, 0.1, configuration={}), reference=reference)
    left, _ = drawn(monkeypatch, comparison, tmp_path)
    assert [label.get_text().split("  ")[1] for label in left.get_yticklabels()] == shown
    assert ("Not shown: pop." in left.figure.get_supxlabel()) == (reference == "low")


@pytest.mark.parametrize("ending", PICTURES)
def test_pictures_have_the_mark_of_genrec(tmp_path: Path, ending: str) -> None:
    path = tmp_path / "new" / f"picture{ending}"
    comparison_plots.draw(compared(), path)
    assert is_own_picture(path)


@settings(max_examples=10, deadline=None)
@given(st.text(min_size=1, max_size=90))
@example("$x$ \\frac{" + "n" * 90)
def test_names_with_any_characters(tmp_path_factory: pytest.TempPathFactory, name: str) -> None:
    """A name is plain text, no formula; a long one loses its middle."""
    comparison = compare([run("a", 0, 0.2), run(f"a{name}", 0, 0.3)], resamples=20)
    path = tmp_path_factory.mktemp("names") / "picture.svg"
    comparison_plots.draw(comparison, path)
    assert path.stat().st_size > 0


def test_a_long_name_loses_its_middle() -> None:
    assert comparison_plots._short("x" * 30 + "y" * 30) == "x" * 22 + "…" + "y" * 21
    assert comparison_plots._short("x" * 44) == "x" * 44
