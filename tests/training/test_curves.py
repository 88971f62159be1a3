"""Training curves: means per row, emitted rows, the table, and plots."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from genrec.errors import UsageError
from genrec.training import curve_plots
from genrec.training.curves import Curves, Row, best_step, last_values, means, save, scores, table


def logged(**values: float) -> dict[str, torch.Tensor]:
    return {name: torch.tensor(value) for name, value in values.items()}


def test_a_row_is_the_mean_over_the_steps_that_logged_a_metric() -> None:
    """loss (1 + 2 + 6) / 3 = 3; margin (4 + 8) / 2 = 6, without the step that logged none; names in the order of first logging."""
    found = means([logged(margin=4.0, loss=1.0), logged(loss=2.0), logged(loss=6.0, margin=8.0, late=7.0)])
    assert found == {"margin": 6.0, "loss": 3.0, "late": 7.0}
    assert list(found) == ["margin", "loss", "late"]


def test_rows_are_emitted_once_and_when_they_are_complete() -> None:
    """Validation metrics join the row of their step; at another step they make a new row."""
    emitted: list[Row] = []
    curves = Curves([], emitted.append, [lambda row: f"loss {row['loss']}" if row.get("loss", 0) > 1 else None])
    curves.add_validation(0, {"ndcg@10": 0.1, "recall@1": 0.0})
    assert curves.emit() == []
    curves.pending += [logged(loss=1.0), logged(loss=3.0)]
    curves.flush(2)
    assert len(emitted) == 1
    curves.add_validation(2, {"ndcg@10": 0.2, "recall@1": 0.1})
    assert curves.emit() == ["loss 2.0"]
    assert curves.emit() == []
    first = {"step": 0, "validation_ndcg@10": 0.1, "validation_recall@1": 0.0}
    assert emitted == curves.rows == [first, {"step": 2, "loss": 2.0, "validation_ndcg@10": 0.2, "validation_recall@1": 0.1}]
    assert scores(curves.rows) == {0: 0.1, 2: 0.2}


def test_validation_needs_the_selection_metric() -> None:
    with pytest.raises(UsageError, match=r"validate must return ndcg@10.*got recall@1$"):
        Curves([]).add_validation(0, {"recall@1": 0.5})
    with pytest.raises(UsageError, match="got nothing"):
        Curves([]).add_validation(0, {})


def replay(curves: Curves, steps: range, every: int) -> None:
    for step in steps:
        curves.pending.append(logged(loss=float(step)))
        if step % every == 0:
            curves.flush(step)
            curves.emit()


@settings(deadline=None)
@given(total=st.integers(1, 30), every=st.integers(1, 5), saved=st.integers(0, 30), stopped=st.integers(0, 30))
def test_a_resumed_run_gives_the_rows_of_an_uninterrupted_run(total: int, every: int, saved: int, stopped: int) -> None:
    """A run is killed after `stopped` steps and resumes from an earlier row. `on_row` has each row once after it drops the rows from
    the first row of the second part on. A watcher sees each row once.
    """
    stopped = min(stopped, total)
    saved = min(saved, stopped) // every * every
    whole = Curves([])
    replay(whole, range(1, total + 1), every)

    received: list[Row] = []
    first = Curves([], received.append)
    replay(first, range(1, stopped + 1), every)
    kept = [row for row in first.rows if row["step"] <= saved]
    again: list[Row] = []
    watched: list[Row] = []
    second = Curves(kept, again.append, [watched.append])  # type: ignore[list-item]
    replay(second, range(saved + 1, total + 1), every)
    void = again[0]["step"] if again else math.inf
    assert second.rows == whole.rows == watched
    if again:
        assert [row for row in received if row["step"] < void] + again == whole.rows


def test_the_table_is_ordered_and_empty_for_missing_metrics(tmp_path: Path) -> None:
    rows: list[Row] = [
        {"step": 0, "validation_ndcg@10": 0.5},
        {"step": 20, "margin": 1.5, "loss": 0.25},
        {"step": 40, "margin": 2.5, "loss": 0.125, "drawn_depth": 1.0, "validation_ndcg@10": 0.75},
    ]
    assert list(table(rows)) == ["step", "loss", "margin", "drawn_depth", "validation_ndcg@10"]
    save(rows, tmp_path)
    lines = (tmp_path / "curves.csv").read_text().splitlines()
    assert lines == ["step,loss,margin,drawn_depth,validation_ndcg@10", "0,,,,0.5", "20,0.25,1.5,,", "40,0.125,2.5,1.0,0.75"]
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "curves.csv"), pd.read_parquet(tmp_path / "curves.parquet"))


def test_the_best_step_is_the_first_of_equals_and_last_values_skip_gaps() -> None:
    """Training keeps the first step with the best score: 0.7 at step 20, not 0.7 at step 60."""
    found = table([{"step": step, "validation_ndcg@10": score} for step, score in ((0, 0.5), (20, 0.7), (40, 0.6), (60, 0.7))])
    found = pd.concat([found, pd.DataFrame({"step": [80], "loss": [2.0]})], ignore_index=True).assign(never=float("nan"))
    assert best_step(found) == (20, 0.7)
    assert last_values(found) == {"validation_ndcg@10": 0.7, "loss": 2.0}


ALIGNED: Sequence[str] = (
    *("loss", "chosen_reward", "rejected_reward", "margin", "margin_level_1", "margin_level_2", "accuracy", "accuracy_all"),
    *("chosen_drift", "rejected_drift", "chosen_log_prob", "rejected_log_prob"),
    *("drawn_depth", "drawn_popularity", "drawn_cosine", "drawn_shortfall", "validation_ndcg@10", "validation_recall@1"),
    *("validation_recall@50", "validation_entropy", "validation_kl", "validation_valid_share", "mine"),
)


def test_every_column_is_in_one_panel() -> None:
    found = curve_plots.panels(["step", *ALIGNED])
    names = [name for _, panel in found for name in panel]
    assert sorted(names) == sorted(ALIGNED)
    assert next(panel for kind, panel in found if kind.title.startswith("Margin")) == ["margin", "margin_level_1", "margin_level_2"]
    assert found[-1][1] == ["mine"]
    assert [panel for _, panel in curve_plots.panels(["step", "loss", "validation_ndcg@10"])] == [["loss"], ["validation_ndcg@10"]]


def test_one_run_and_several_rows_are_plotted(tmp_path: Path) -> None:
    """Every panel has its title. The legend of the figure names the rows and their seeds, those of the panels the metrics."""

    def curves(shift: float) -> pd.DataFrame:
        return table([{"step": step, **dict.fromkeys(ALIGNED, step / 100 + shift)} for step in (0, 20, 40)])

    curve_plots.draw({"one": [curves(0.0)]}, "one $training$", tmp_path / "folder" / "one.svg")
    one = (tmp_path / "folder" / "one.svg").read_text()
    for panel, _ in curve_plots.panels(list(ALIGNED)):
        assert f"<!-- {panel.title} -->" in one
    assert "<!-- one (1) -->" not in one
    curve_plots.draw({"one": [curves(0.0)], "two": [curves(1.0), curves(1.5)]}, "both", tmp_path / "both.svg")
    both = (tmp_path / "both.svg").read_text()
    assert "<!-- one (1) -->" in both
    assert "<!-- two (2) -->" in both
    assert "<!-- recall@50 -->" in both


def test_the_mean_over_seeds_is_plotted_with_thin_lines_for_the_seeds(tmp_path: Path) -> None:
    """Losses 1 and 3 at step 20 have the mean 2; at step 40, which one seed alone reaches, the mean is its 5."""
    from matplotlib.figure import Figure

    axes = Figure().subplots()
    seeds = [pd.DataFrame({"step": [20], "loss": [1.0]}), pd.DataFrame({"step": [20, 40], "loss": [3.0, 5.0]})]
    curve_plots._panel(axes, curve_plots.PANELS[0], ["loss"], {"row": seeds})
    mean, *thin = axes.get_lines()
    assert (list(mean.get_xdata()), list(mean.get_ydata())) == ([20, 40], [2.0, 5.0])
    assert [list(line.get_ydata()) for line in thin] == [[1.0], [3.0, 5.0]]
    assert all(line.get_linewidth() < mean.get_linewidth() for line in thin)
