"""Any metric can be compared: from ranks, a value per user, or one figure of all lists."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from pandas import DataFrame
from scipy.stats import ttest_1samp

from genrec.errors import ArtifactError, UsageError
from genrec.evaluation.compare import Comparison, PairedTest, Run, compare
from genrec.evaluation.comparison import comparison_report
from genrec.evaluation.comparison.compared_metric import read_user_metric
from genrec.evaluation.statistics.crossed_test import crossed_test, pooled_variance

SFT: dict[str, object] = {"sft.optimization.max_steps": 5}
NAN = float("nan")


def run(name: str, seed: int, novelty: list[float], coverage: float = 0.5, configuration: dict[str, object] = SFT) -> Run:
    """Return a run of users 1, 2, ... with a value per user and a figure of all lists."""
    users = np.arange(1, len(novelty) + 1)
    metrics = {"recall@10": 0.0, "novelty@10": float(np.nanmean(novelty)), "coverage@10": coverage, "gini@10": 0.1}
    per_user = DataFrame({"user": users, "novelty@10": novelty})
    return Run(
        name, seed, DataFrame({"user": users, "target": 1, "rank": 0}), metrics, {}, configuration, user_metrics=per_user.iloc[::-1]
    )


def against(comparison: Comparison, name: str) -> PairedTest:
    found = next(row.test for row in comparison.rows if row.name == name)
    assert found is not None
    return found


def test_a_column_of_user_metrics_is_tested_over_users_and_seeds() -> None:
    rng = np.random.default_rng(0)
    values = {(name, seed): rng.normal(5, 1, 30) for name in ("sft", "dpo") for seed in range(3)}
    comparison = compare([run(*key, found.tolist()) for key, found in values.items()], "novelty@10", resamples=50)
    difference = np.stack([values["dpo", seed] - values["sft", seed] for seed in range(3)], 1)
    expected = crossed_test(difference, pooled_variance({"dpo": difference}))
    assert expected is not None
    test = against(comparison, "dpo")
    assert (test.difference, test.p, test.users) == (pytest.approx(expected.difference), pytest.approx(expected.p), 30)
    assert comparison.per_user
    assert comparison.rows[0].value == pytest.approx(np.mean([values["sft", seed] for seed in range(3)]))


def test_users_enter_if_they_are_counted_in_both_rows_at_all_seeds() -> None:
    """Users 1 and 3 of 4: SFT lacks user 2 at seed 1, DPO user 4. Differences 1 and 2 at seed 0, 3 and 2 at seed 1: mean 2."""
    runs = [
        run("sft", 0, [1, 1, 1, 1]), run("sft", 1, [1, NAN, 1, 1]),
        run("dpo", 0, [2, 9, 3, NAN]), run("dpo", 1, [4, 9, 3, NAN]),
    ]  # fmt: skip
    comparison = compare(runs, "novelty@10", resamples=50)
    test = against(comparison, "dpo")
    assert (test.users, test.difference, test.by_seed) == (2, 2.0, (1.5, 2.5))
    assert test.wins == 2
    assert comparison.rows[1].value == pytest.approx((14 / 3 + 16 / 3) / 2)  # the mean of all counted users
    about = "Users with a value of novelty@10 in both rows at all compared seeds, the users of the test: "
    assert f"{about}2 of 4." in comparison_report.markdown(comparison)
    full = [run("full", seed, [1, 2, 3, 5]) for seed in (0, 1)]
    assert f"{about}2 (dpo), 3 (full) of 4." in comparison_report.markdown(compare([*runs, *full], "novelty@10", resamples=9))
    nobody = compare([entry for entry in runs if entry.name == "sft"] + [run("dpo", 1, [NAN, 1, NAN, NAN])], "novelty@10", resamples=9)
    assert against(nobody, "dpo").reason == "no user is counted in both rows at every compared seed"
    assert "novelty" in comparison_report.markdown(nobody)


def test_a_figure_of_all_lists_is_tested_over_seeds() -> None:
    """One row against the reference is the paired t-test. Two rows share their variance; a baseline's test has its own."""
    rng = np.random.default_rng(1)
    figures = {(name, seed): float(rng.random()) for name in ("sft", "dpo", "kto") for seed in range(4)}
    runs = [run(*key, [1.0, 1.0], coverage) for key, coverage in figures.items()]
    difference = {name: np.array([figures[name, seed] - figures["sft", seed] for seed in range(4)]) for name in ("dpo", "kto")}
    alone = compare(runs[:8], "coverage@10")
    test = against(alone, "dpo")
    assert test.p == pytest.approx(ttest_1samp(difference["dpo"], 0).pvalue)
    assert (test.wins, test.ties, test.losses, test.users, test.users_only) == (0, 0, 0, 0, None)
    assert test.by_seed == pytest.approx(tuple(difference["dpo"]))
    both = compare(runs, "coverage@10")
    assert both.pool.seeds == pytest.approx((difference["dpo"].var(ddof=1) + difference["kto"].var(ddof=1)) / 2)
    assert both.pool.degrees_of_freedom == 6
    assert not both.per_user
    assert both.rows[0].interval is None
    popularity = run("pop", 0, [1.0, 1.0], 0.01, {"policy.class": "Popularity"})
    below = against(compare([*runs, popularity], "coverage@10"), "pop")
    assert below.p == pytest.approx(ttest_1samp([figures["sft", seed] - 0.01 for seed in range(4)], 0).pvalue)
    text = comparison_report.markdown(both)
    assert "t-test over seeds." in text
    assert "interval over users" not in text
    assert "Users only" not in text


def test_a_figure_of_all_lists_without_variation_has_no_p() -> None:
    def found(*runs: Run) -> PairedTest:
        return against(compare(runs, "coverage@10"), "b")

    same = found(*(run(name, seed, [1.0], level) for name, level in (("a", 0.5), ("b", 0.75)) for seed in (0, 1)))
    assert (same.difference, same.p, same.reason) == (0.25, None, "the difference does not vary over seeds")
    equal = found(*(run(name, seed, [1.0], 0.5) for name in "ab" for seed in (0, 1)))
    assert (equal.p, equal.interval) == (1.0, (0.0, 0.0))
    popularity: dict[str, object] = {"policy.class": "Popularity"}
    baselines = found(run("a", 0, [1.0], 0.5, popularity), run("b", 0, [1.0], 0.6, popularity))
    assert baselines.reason == "two baselines have no trainings to vary, and the metric has no value per user"
    assert found(run("a", 0, [1.0]), run("b", 0, [1.0], 0.4)).reason == "one seed in common; run at least three seeds, better five"


def test_unknown_metrics_name_the_nearest() -> None:
    runs = [run("a", 0, [1.0]), run("b", 0, [1.0])]
    for name, nearest in (("covrage@10", "coverage@10"), ("ndgc@10", "ndcg@10"), ("novelty@5", "novelty@10")):
        with pytest.raises(UsageError, match=f"metric must be recall, ndcg or mrr .* got '{name}'.*; did you mean '{nearest}'"):
            compare(runs, name)
    for name in ("hit@10", "ndcg", "ndcg@0", "ndcg@ten", "user", ""):
        with pytest.raises(UsageError, match="these rows also have novelty@10, coverage@10, gini@10"):
            compare(runs, name)
    lacking = runs[1]._replace(metrics={"recall@10": 0.0}, user_metrics=None)
    with pytest.raises(UsageError, match=r"metric novelty@10 is missing from b \(seed 0\)"):
        compare([runs[0], lacking], "novelty@10")


def test_a_metric_without_stored_values_per_user_is_tested_over_seeds() -> None:
    """An artifact may lack the file, for example one of an earlier version."""
    runs = [run(name, seed, [1.0, 2.0 + seed]) for name in "ab" for seed in (0, 1)]
    assert compare(runs, "novelty@10").per_user
    assert not compare([*runs[:3], runs[3]._replace(user_metrics=None)], "novelty@10").per_user


def test_values_of_other_users_are_refused() -> None:
    one = run("a", 0, [1.0, 2.0])
    with pytest.raises(
        ArtifactError, match=r"the metrics per user of a \(seed 0\) are of 1 user, expected each of the 2 test users once"
    ):
        compare([one._replace(user_metrics=one.user_metrics.head(1))], "novelty@10")  # type: ignore[union-attr]


def test_only_the_compared_column_is_read(tmp_path: Path) -> None:
    path = tmp_path / "user_metrics.parquet"
    assert read_user_metric(path, "novelty@10") is None
    DataFrame({"user": [1, 2], "novelty@10": [0.5, NAN], "other": [1.0, 2.0]}).to_parquet(path)
    found = read_user_metric(path, "novelty@10")
    assert found is not None
    assert list(found.columns) == ["user", "novelty@10"]
    assert read_user_metric(path, "ndcg@10") is None
    assert read_user_metric(path, "user") is None
    assert read_user_metric(path, None) is None
