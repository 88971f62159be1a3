"""Pictures of training curves: the panels of each stage, intervals, horizontal lines, and the smallest ranges of the axes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.collections import PolyCollection
from matplotlib.figure import Figure

from genrec.training import curve_panels, curve_plots
from genrec.training.curve_panels import LABELS, label, panels
from genrec.training.curves import table

ALIGNED: Sequence[str] = (
    *("loss", "chosen_reward", "rejected_reward", "margin", "margin_level_1", "margin_level_2", "accuracy", "accuracy_all"),
    *("chosen_drift", "rejected_drift", "chosen_log_prob", "rejected_log_prob"),
    *("drawn_depth", "drawn_popularity", "drawn_cosine", "drawn_shortfall", "validation_ndcg@10", "validation_recall@1"),
    *("validation_preference_accuracy", "validation_margin", "validation_likelihood_accuracy"),
    *("validation_recall@50", "validation_entropy", "validation_kl", "validation_valid_share", "validation_chosen_log_prob"),
    *("validation_user_entropy", "validation_kl_to_sft"),
    *("validation_ndcg@10_filter_seen", "validation_ndcg@10_filter_seen_standard_error", "validation_ndcg@10_standard_error", "mine"),
)
ERRORS = [name for name in ALIGNED if name.endswith("_standard_error")]


def curves(shift: float = 0.0, names: Sequence[str] = ALIGNED) -> pd.DataFrame:
    return table([{"step": step, **dict.fromkeys(names, step / 100 + shift)} for step in (0, 20, 40)])


def drawn(
    monkeypatch: pytest.MonkeyPatch, runs: Mapping[str, Sequence[pd.DataFrame]], path: Path, stage: str, lines: dict[str, float]
) -> dict[str, Axes]:
    """Return the axes of a picture by their title; twin axes have none."""
    figures: list[Figure] = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, path, **_: figures.append(figure))
    curve_plots.draw(runs, "title", path, stage, lines=lines)
    return {axes.get_title(): axes for axes in figures[0].axes if axes.get_title()}


def test_an_alignment_has_its_panels_and_the_rest_on_demand() -> None:
    """NDCG; recall at 1 beside 50; entropy beside the divergence from SFT; margin beside accuracy; log-probabilities; negatives.

    `everything` has every column once, but the standard errors.
    """
    standard = panels(["step", *ALIGNED], "align")
    assert [each.left for each in standard] == [
        ["validation_ndcg@10", "validation_ndcg@10_filter_seen"],
        ["validation_recall@1"],
        ["validation_user_entropy"],
        ["margin", "validation_margin"],
        ["chosen_log_prob", "rejected_log_prob", "validation_chosen_log_prob"],
        ["drawn_popularity", "drawn_cosine", "drawn_shortfall"],
    ]
    assert [each.right for each in standard] == [
        [],
        ["validation_recall@50"],
        ["validation_kl_to_sft"],
        ["accuracy", "accuracy_all", "validation_preference_accuracy", "validation_likelihood_accuracy"],
        [],
        ["drawn_depth"],
    ]
    everything = panels(["step", *ALIGNED], "align", everything=True)
    names = [name for each in everything for name in each.names]
    assert sorted(names) == sorted(set(ALIGNED) - set(ERRORS))
    assert everything[: len(standard)] == standard
    assert everything[-1].left == ["mine"]


def test_the_panels_of_sft_of_a_tokenizer_and_of_an_unknown_stage() -> None:
    assert [each.names for each in panels(["step", "loss", "validation_ndcg@20", "validation_recall@1"], "sft")] == [
        ["loss"],
        ["validation_ndcg@20"],
    ]
    columns = ["epoch", "loss", "reconstruction", "usage_level_1", "usage_level_2", "collided"]
    assert [each.names for each in panels(columns, "tokenize")] == [
        ["loss"],
        ["reconstruction", "collided"],
        ["usage_level_1", "usage_level_2"],
    ]
    assert [each.names for each in panels(["step", "mine", "loss"])] == [["loss"], ["mine"]]
    assert [each.names for each in panels(["step", "mine"], "sft")] == [["mine"]]


def test_a_policy_gradient_has_its_reward_beside_ndcg_its_groups_and_schedules() -> None:
    """Recall at 1 has an axis of its own, also with seen items filtered; recall at 10 is at another cut-off."""
    columns = ["step", "loss", "reward", "hit_share", "gradient_share", "no_hit_gradient", "clip_share", "scheduled_kl"]
    columns += ["scheduled_loss.beta", "validation_ndcg@10", "validation_recall@1", "validation_recall@1_filter_seen"]
    found = panels([*columns, "validation_recall@10", "validation_recall@50_filter_seen"], "align")
    assert [each.names for each in found] == [
        ["validation_ndcg@10"],
        ["reward"],
        ["validation_recall@1", "validation_recall@1_filter_seen", "validation_recall@10", "validation_recall@50_filter_seen"],
        ["hit_share", "gradient_share", "no_hit_gradient", "clip_share"],
        ["scheduled_kl", "scheduled_loss.beta"],
    ]
    assert len(found[2].left) == 2


def test_columns_of_several_objectives_stand_in_their_panels_without_the_mean() -> None:
    columns = ["step", "margin", "margin_part_1", "margin_part_2", "accuracy_part_2", "hit_share", "hit_share_part_2", "loss_part_1"]
    found = {shown.panel.title: (shown.left, shown.right) for shown in panels([*columns, "validation_margin_part_2"], "align")}
    assert found["Is the user's item preferred to the negatives?"] == (
        ["margin_part_1", "margin_part_2", "validation_margin_part_2"],
        ["accuracy_part_2"],
    )
    assert found["What trains the policy"][0] == ["hit_share_part_2"]
    assert len(found) == 2
    assert label("margin_part_2") == "margin, training batches, objective 2"
    assert label("validation_margin_part_12") == "margin, validation pairs, objective 12"
    assert label("drawn_depth") == "shared codes"


def test_every_panel_has_a_title_in_words_and_labels_with_units() -> None:
    """No title or label is the name of a column."""
    for panel in {*curve_panels.ALL, *(each for stage in curve_panels.DEFAULT.values() for each in stage)}:
        for text in (panel.title, panel.left.label, panel.right.label if panel.right else "share"):
            assert text
            assert "_" not in text
    assert not any("_" in words for words in LABELS.values())
    assert label("validation_ndcg@10_filter_seen") == "ndcg@10, seen items filtered"
    assert label("validation_recall@50") == "recall@50"


def test_ndcg_has_its_interval_and_the_line_of_the_sft_policy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """NDCG 0.4 +- 1.96 * 0.01 at step 0; two seeds with 0.4 and 0.5 at step 0 start from 0.45; a baseline at 0.3."""
    one = pd.DataFrame({"step": [0, 20], "validation_ndcg@10": [0.4, 0.6], "validation_ndcg@10_standard_error": [0.01, 0.02]})
    ndcg = drawn(monkeypatch, {"row": [one]}, tmp_path / "one.png", "align", {"ItemKNN": 0.3})[curve_panels.RANKING.title]
    (band,) = [each for each in ndcg.collections if isinstance(each, PolyCollection)]
    heights = sorted({round(float(y), 4) for _, y in band.get_paths()[0].vertices})
    assert heights == [0.3804, 0.4196, 0.5608, 0.6392]
    lines = {str(line.get_label()): float(line.get_ydata()[0]) for line in ndcg.get_lines() if not line.get_label().startswith("_")}  # type: ignore[union-attr, index, arg-type]
    assert lines == {"SFT (step 0)": 0.4, "ItemKNN": 0.3}
    low, high = ndcg.get_ylim()
    assert low < 0.3
    assert high > 0.64
    legend = ndcg.get_legend()
    assert legend is not None
    assert [text.get_text() for text in legend.get_texts()] == ["ndcg@10", "95 % interval over users", "SFT (step 0)", "ItemKNN"]
    seeds = [one, one.assign(**{"validation_ndcg@10": [0.5, 0.7]})]
    both = drawn(monkeypatch, {"row": seeds}, tmp_path / "both.png", "align", {})[curve_panels.RANKING.title]
    assert [float(line.get_ydata()[0]) for line in both.get_lines() if line.get_label() == "SFT (step 0)"] == [0.45]  # type: ignore[arg-type, index]


def test_sft_and_rows_with_different_sft_policies_have_no_sft_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one, other = (pd.DataFrame({"step": [0, 20], "validation_ndcg@10": [start, 0.6]}) for start in (0.4, 0.5))
    for runs, stage in (({"a": [one]}, "sft"), ({"a": [one], "b": [other]}, "align")):
        ndcg = drawn(monkeypatch, runs, tmp_path / "picture.png", stage, {})[curve_panels.RANKING.title]
        assert not [line for line in ndcg.get_lines() if str(line.get_label()).startswith("SFT")]


def test_axes_are_not_scaled_to_noise(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """NDCG that varies by 0.001 fills a twentieth of its axis of 0.02; log-probabilities have 1 nat, margins 0.1; shares 0 to 1."""
    noise = table([{"step": step, **dict.fromkeys(set(ALIGNED) - set(ERRORS), 0.5 + 0.001 * (step == 20))} for step in (0, 20, 40)])
    found = drawn(monkeypatch, {"row": [noise]}, tmp_path / "noise.png", "align", {})
    heights = {title: axes.get_ylim()[1] - axes.get_ylim()[0] for title, axes in found.items()}
    assert heights[curve_panels.RANKING.title] == pytest.approx(0.02)
    assert heights[curve_panels.PREFERENCE.title] == pytest.approx(0.1)
    assert heights[curve_panels.SPREAD.title] == pytest.approx(1)
    assert heights[curve_panels.PROBABILITY.title] == pytest.approx(1)
    low, high = found[curve_panels.NEGATIVES.title].get_ylim()
    assert low <= 0
    assert high >= 1


def test_data_beyond_the_smallest_range_stay_visible(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cosine of -0.4 is below 0, and 2.5 shared codes are above 1."""
    rows = pd.DataFrame({"step": [20, 40], "drawn_cosine": [-0.4, 0.2], "drawn_depth": [2.5, 0.5]})
    axes = drawn(monkeypatch, {"row": [rows]}, tmp_path / "far.png", "align", {})[curve_panels.NEGATIVES.title]
    assert axes.get_ylim()[0] < -0.4
    (twin,) = [each for each in axes.figure.axes if each is not axes]
    assert twin.get_ylim()[1] > 2.5


def test_one_run_and_several_rows_are_plotted(tmp_path: Path) -> None:
    """Every panel has its title. The legend of the figure names the rows and their seeds, those of the panels the metrics."""
    curve_plots.draw({"one": [curves(0.0)]}, "one $training$", tmp_path / "folder" / "one.svg", "align", everything=True)
    one = (tmp_path / "folder" / "one.svg").read_text()
    for each in panels(list(ALIGNED), "align", everything=True):
        assert f"<!-- {each.panel.title} -->" in one
    assert "<!-- one (1) -->" not in one
    assert "Smallest height of a y axis" in one
    some = ("loss", "validation_recall@1", "validation_recall@50")
    runs = {"one": [curves(0.0, some)], "two": [curves(1.0, some), curves(1.5, some)]}
    curve_plots.draw(runs, "both", tmp_path / "both.svg", "align", everything=True)
    both = (tmp_path / "both.svg").read_text()
    assert "<!-- one (1) -->" in both
    assert "<!-- two (2) -->" in both
    assert "<!-- recall@50 (right axis) -->" in both
    assert "Smallest height of a y axis" in both


def test_the_mean_over_seeds_is_plotted_with_thin_lines_for_the_seeds() -> None:
    """Losses 1 and 3 at step 20 have the mean 2; at step 40, which one seed alone reaches, the mean is its 5."""
    axes = Figure().subplots()
    seeds = [pd.DataFrame({"step": [20], "loss": [1.0]}), pd.DataFrame({"step": [20, 40], "loss": [3.0, 5.0]})]
    (shown,) = panels(["loss"], "sft")
    curve_plots._panel(axes, shown, {"row": seeds})
    mean, *thin = axes.get_lines()
    assert (list(mean.get_xdata()), list(mean.get_ydata())) == ([20, 40], [2.0, 5.0])
    assert [list(line.get_ydata()) for line in thin] == [[1.0], [3.0, 5.0]]
    assert all(line.get_linewidth() < mean.get_linewidth() for line in thin)


def test_the_curve_of_a_tokenizer_is_drawn_by_epoch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = pd.DataFrame({"epoch": [1, 2], "loss": [3.0, 2.0], "reconstruction": [0.9, 0.4], "collided": [0.5, 0.1]})
    found = drawn(monkeypatch, {"row": [rows]}, tmp_path / "rqvae.png", "tokenize", {})
    assert list(found) == [curve_panels.TOKENIZER_LOSS.title, curve_panels.TOKENIZER_ERROR.title]
    assert all(axes.get_xlabel() == "epoch" for axes in found.values())
