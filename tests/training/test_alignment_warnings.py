"""Warnings of alignments on curves made by hand: each one is given once where it should be, and not elsewhere."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from genrec.objectives.curve_warnings import SaturatedLoss
from genrec.training.alignment_warnings import (
    EmptyGroups,
    EntropyCollapse,
    FarFromSft,
    NarrowedLists,
    OverOptimization,
    alignment_watchers,
)
from genrec.training.curves import VALIDATION, Row, Watcher
from genrec.training.policy_divergence import KL


def told(watcher: Watcher, rows: Sequence[Row]) -> list[int]:
    """Return the places of the rows with a warning."""
    return [place for place, row in enumerate(rows) if watcher(row) is not None]


def validated(step: int, ndcg: float, **others: float) -> Row:
    return {"step": step, "validation_ndcg@10": ndcg, **others}


@pytest.mark.parametrize("signal", ["reward", "accuracy", "validation_preference_accuracy"])
def test_a_rising_signal_with_a_falling_metric_is_over_optimization(signal: str) -> None:
    """The best is 0.20 at step 20, 5 % below it is 0.19. Steps 60 and 80 are below, with a signal of 0.5 -> 0.65, a rise of 30 %."""
    values = [(20, 0.20, 0.5), (40, 0.195, 0.55), (60, 0.18, 0.65), (80, 0.17, 0.65), (100, 0.1, 0.9)]
    rows = [validated(0, 0.15), *(validated(step, ndcg, **{signal: value}) for step, ndcg, value in values)]
    assert told(OverOptimization("ndcg@10"), rows) == [4]
    watcher = OverOptimization("ndcg@10")
    message = [watcher(row) for row in rows][4]
    assert message is not None
    assert "from step 20 to step 80" in message
    assert "rose from 0.500 to 0.650, but ndcg@10 on validation users fell from 0.2000 to 0.1700" in message


@pytest.mark.parametrize("signal", ["accuracy", "validation_preference_accuracy"])
@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [(0.5, 0.59, []), (0.5, 0.61, [2]), (0.9, 0.91, []), (0.9, 0.93, [2]), (0.3, 0.43, []), (0.3, 0.45, [2])],
)
def test_an_accuracy_rises_by_a_fifth_of_the_way_to_1(signal: str, before: float, after: float, expected: list[int]) -> None:
    """Half of the pairs are right by chance: 0.5 -> 0.525 is no preference. The limits are 0.5 + 0.1, 0.9 + 0.02 and 0.3 + 0.14."""
    rows = [validated(step, ndcg, **{signal: value}) for step, ndcg, value in ((0, 0.2, before), (20, 0.1, after), (40, 0.1, after))]
    assert told(OverOptimization("ndcg@10"), rows) == expected


def test_after_a_best_step_of_0_the_signal_begins_with_the_first_row_that_has_it() -> None:
    """Step 0 has no reward. It begins at 0.3 in the row of step 20, which has no validation."""
    rows = [validated(0, 0.2), {"step": 20, "reward": 0.3}, validated(40, 0.1, reward=0.4), validated(60, 0.1, reward=0.4)]
    assert told(OverOptimization("ndcg@10"), rows) == [3]


@pytest.mark.parametrize(
    "values",
    [
        [(20, 0.20, 0.5), (40, 0.21, 0.6), (60, 0.22, 0.7), (80, 0.23, 0.8)],  # both rise
        [(20, 0.20, 0.5), (40, 0.18, 0.5), (60, 0.17, 0.5), (80, 0.16, 0.5)],  # the signal stays
        [(20, 0.20, 0.5), (40, 0.18, 0.6), (60, 0.199, 0.7), (80, 0.18, 0.8)],  # never two validations in turn
        [(20, 0.20, 0.5), (40, 0.191, 0.6), (60, 0.191, 0.7), (80, 0.191, 0.8)],  # a fall of 4.5 %
        [(20, 0.20, -0.5), (40, 0.18, -0.51), (60, 0.17, -0.6), (80, 0.16, -0.7)],  # a negative reward that falls
    ],
)
def test_no_over_optimization(values: list[tuple[int, float, float]]) -> None:
    assert told(OverOptimization("ndcg@10"), [validated(step, ndcg, reward=reward) for step, ndcg, reward in values]) == []


def test_a_fall_within_the_standard_error_is_no_over_optimization() -> None:
    """0.20 -> 0.17 exceeds an error of 0.02, but not one of 0.04."""
    for error, expected in ((0.02, [2]), (0.04, [])):
        others = {"validation_ndcg@10_standard_error": error}
        rows = [
            validated(step, ndcg, reward=reward, **others) for step, ndcg, reward in ((20, 0.2, 0.5), (40, 0.17, 0.6), (60, 0.17, 0.7))
        ]
        assert told(OverOptimization("ndcg@10"), rows) == expected


def recalls(step: int, first: float, last: float) -> Row:
    return {"step": step, "validation_recall@1": first, "validation_recall@10": 0.5, "validation_recall@50": last}


def test_lists_narrow_when_recall_at_1_rises_and_at_50_falls() -> None:
    rows = [recalls(0, 0.10, 0.4), recalls(20, 0.12, 0.37), {"step": 30, "loss": 1.0}, recalls(40, 0.13, 0.35), recalls(60, 0.2, 0.3)]
    assert told(NarrowedLists(), rows) == [3]
    watcher = NarrowedLists()
    message = [watcher(row) for row in rows][3]
    assert message is not None
    assert "recall@1 rose from 0.1000 to 0.1300, but recall@50 fell from 0.4000 to 0.3500" in message
    for first, last in ((0.12, 0.41), (0.09, 0.35), (0.104, 0.35), (0.12, 0.381)):  # one side moves the other way, or by under 5 %
        assert told(NarrowedLists(), [recalls(0, 0.10, 0.4), *[recalls(step, first, last) for step in (20, 40, 60)]]) == []
    assert told(NarrowedLists(), [{"step": 0, "validation_recall@1": 0.1, "validation_recall@1_filter_seen": 0.2}]) == []


def test_entropy_collapses_below_half() -> None:
    def rows(*values: float) -> list[Row]:
        return [{"step": 20 * place, "validation_user_entropy": value} for place, value in enumerate(values)]

    assert told(EntropyCollapse(), rows(4.0, 3.0, 2.01, 1.99, 0.5)) == [3]
    assert told(EntropyCollapse(), rows(4.0, 2.5, 2.1, 3.0)) == []
    assert told(EntropyCollapse(), rows(0.6, 0.2)) == []  # certain from the start: 0.4 nats are lost


def test_a_divergence_from_sft_above_the_bound() -> None:
    rows: list[Row] = [{"step": 20 * place, "validation_kl_to_sft": value} for place, value in enumerate([0.0, 1.9, 2.1, 9.0])]
    assert told(FarFromSft(), rows) == [2]
    assert told(FarFromSft(), rows[:2]) == []


def test_groups_without_a_hit_or_a_spread_and_rows_without_a_preference() -> None:
    """Three rows in turn have a share below 5 %."""

    def message(*rows: Row) -> str:
        watcher = EmptyGroups()
        found = [text for row in rows if (text := watcher(row)) is not None]
        assert len(found) == 1
        return found[0]

    hit: list[Row] = [{"step": step, "hit_share": 0.02, "gradient_share": 0.015} for step in (20, 40, 60, 80)]
    assert "by step 60 only 2.0% of the groups hold the target, and 1.5% have a gradient" in message(*hit)
    equal: list[Row] = [{"step": step, "hit_share": 0.9, "gradient_share": 0.01} for step in (20, 40, 60)]
    assert "only 1.0% of the groups have a gradient, because the rewards of the others are equal" in message(*equal)
    gated: list[Row] = [{"step": step, "preference_share": 0.03} for step in (20, 40, 60)]
    assert "only 3.0% of the rows have a preference" in message(*gated)
    for quiet in (
        hit[:2],
        [*hit[:2], {"step": 60, "hit_share": 0.2, "gradient_share": 0.2}, *hit[:2]],
        [{"step": 20, "loss": 1.0}] * 5,
    ):
        assert told(EmptyGroups(), quiet) == []


def test_a_saturated_loss() -> None:
    def row(step: int, gap: float, accuracy: float) -> Row:
        return {"step": step, "chosen_reward": gap - 1, "rejected_reward": -1.0, "accuracy": accuracy}

    assert told(SaturatedLoss(), [row(20, 4.0, 0.99), row(40, 5.5, 0.99), row(60, 6.0, 0.99), row(80, 9.0, 1.0)]) == [2]
    for gap, accuracy in ((4.9, 0.99), (6.0, 0.9)):
        assert told(SaturatedLoss(), [row(step, gap, accuracy) for step in (20, 40, 60)]) == []


def test_every_alignment_has_all_watchers_and_they_skip_rows_of_other_metrics() -> None:
    watchers = alignment_watchers("ndcg@10")
    assert {type(each) for each in watchers} == {OverOptimization, NarrowedLists, EntropyCollapse, FarFromSft, EmptyGroups}
    assert [watcher({"step": 20, "loss": 1.0, "hit_log_prob": float("nan")}) for watcher in watchers] == [None] * 5


def test_the_advice_fits_the_objective() -> None:
    """A control, which continues the likelihood, has neither beta nor reference."""
    row = {"step": 10, f"{VALIDATION}{KL}": 3.0}
    bound, free = (alignment_watchers("ndcg@10", has)[3](row) for has in (True, False))
    assert bound is not None
    assert free is not None
    assert "a larger beta or kl" in bound
    assert "beta" not in free
    assert free.endswith("What to try: a smaller learning rate or fewer steps")
