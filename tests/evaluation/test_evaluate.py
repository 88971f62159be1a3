"""Evaluation: ranks of targets, invalid slots, batch sizes, excluded items and errors (E1, E2, T5)."""

from __future__ import annotations

from collections.abc import Callable

import pandas as pd
import pytest
import torch
from torch import Tensor, nn

from genrec.errors import InputError, NumericsError, ResourceError, UsageError
from genrec.evaluation.evaluate import Evaluate, Evaluation, evaluate, metrics_of
from genrec.types import Ranking, SequenceBatch


class Fixed:
    """Recommends the list of the user whose id is the last item of the history, and records the histories that it is given."""

    def __init__(self, lists: list[list[int]]) -> None:
        self.lists = torch.tensor(lists)
        self.histories: list[Tensor] = []
        self.sizes: list[int] = []

    def recommend(self, history: Tensor, n: int, exclude: Tensor | None = None) -> Ranking:
        self.histories.append(history)
        self.sizes.append(len(history))
        items = self.lists[history[:, -1] - 1][:, :n]
        if exclude is not None:
            items = items.masked_fill((items[:, :, None] == exclude[:, None, :]).any(-1), 0)
        scores = -torch.arange(float(items.shape[1])).expand(items.shape)
        return Ranking(items, scores.masked_fill(items == 0, -torch.inf))


def users(targets: list[int], first: int = 1, width: int = 3) -> SequenceBatch:
    """Return users first, first + 1, ...; the last item of each history is the id of the user."""
    user = torch.arange(first, first + len(targets))
    history = torch.zeros(len(targets), width, dtype=torch.int64)
    history[:, -1] = user
    return SequenceBatch(user, history, torch.tensor(targets))


def ranks(result: Evaluation) -> list[int]:
    return result.ranks["rank"].tolist()


def test_ranks_and_lists() -> None:
    result = evaluate(Fixed([[7, 8, 9], [8, 7, 9], [9, 8, 7]]), [users([7, 7, 6])], Evaluate(cutoffs=(1, 3)))
    assert ranks(result) == [1, 2, 0]
    assert result.ranks.columns.tolist() == ["user", "target", "rank"]
    assert result.ranks.dtypes.astype(str).tolist() == ["int64"] * 3
    assert result.recommendations.head(4).to_dict("list") == {
        "user": [1, 1, 1, 2], "position": [1, 2, 3, 1], "item": [7, 8, 9, 8], "score": [0, -1, -2, 0],
    }  # fmt: skip
    assert (result.invalid, result.excluded_targets) == (0, 0)


def test_invalid_slots_keep_their_position() -> None:
    """E1: item 0 and repeated items are misses and are counted. Items behind them do not move up."""
    result = evaluate(Fixed([[5, 5, 7, 7], [0, 7, 0, 7], [0, 0, 0, 0]]), [users([7, 7, 7])], Evaluate(cutoffs=(4,)))
    assert ranks(result) == [3, 2, 0]
    assert result.invalid == 2 + 3 + 4
    assert result.recommendations[["user", "position", "item"]].to_numpy().tolist() == [[1, 1, 5], [1, 3, 7], [2, 2, 7]]
    metrics = metrics_of(result.ranks, result.recommendations, (2, 4), 9)
    assert metrics["invalid"] == result.invalid
    assert metrics["recall@2"] == pytest.approx(1 / 3)
    assert metrics["recall@4"] == pytest.approx(2 / 3)
    assert metrics["coverage@2"] == pytest.approx(2 / 9)  # items 5 and 7
    assert all(0 <= value <= 1 for key, value in metrics.items() if key.startswith(("recall", "ndcg", "mrr", "coverage")))


def test_slots_beyond_the_size_of_the_catalog_are_not_counted_as_invalid() -> None:
    """Lists of 4 slots over 2 items: the first is full, the second lacks an item, the third repeats one."""
    result = evaluate(Fixed([[1, 2, 0, 0], [1, 0, 0, 0], [1, 1, 0, 0]]), [users([1, 1, 1])], Evaluate(cutoffs=(1, 4)))
    assert metrics_of(result.ranks, result.recommendations, (1, 4), 2)["invalid"] == 2
    assert metrics_of(result.ranks.head(1), result.recommendations.head(2), (1, 4), 2)["invalid"] == 0
    assert metrics_of(result.ranks, result.recommendations, (1, 4), 9)["invalid"] == 2 + 3 + 3


def test_repeating_the_target_gains_nothing() -> None:
    honest, repeating = Fixed([[7, 8, 9]]), Fixed([[7, 7, 7]])
    spec = Evaluate(cutoffs=(1, 3))
    scores = [metrics_of(*evaluate(model, [users([7])], spec)[:2], spec.cutoffs, 9) for model in (honest, repeating)]
    assert scores[0]["ndcg@3"] == scores[1]["ndcg@3"] == 1


def test_means_are_over_users_not_over_batches() -> None:
    """E2: three hits of five users are 0.6; the mean over batches of 2, 2 and 1 users would be (1 + 0.5 + 0) / 3 = 0.5."""
    model, spec = Fixed([[1], [2], [3], [9], [9]]), Evaluate(cutoffs=(1,))
    whole = users([1, 2, 3, 4, 5])
    found = []
    for size in (1, 2, 5):
        parts = [SequenceBatch(*columns) for columns in zip(*(column.split(size) for column in whole), strict=True)]
        result = evaluate(model, parts, spec)
        found.append(metrics_of(result.ranks, result.recommendations, spec.cutoffs, 9))
    assert found[0] == found[1] == found[2]
    assert (found[0]["recall@1"], found[0]["users"]) == (0.6, 5)


def test_order_of_users_does_not_matter() -> None:
    model, spec = Fixed([[1, 2], [2, 1], [3, 1], [1, 9]]), Evaluate(cutoffs=(2,))
    whole = users([1, 1, 1, 4])
    reversed_users = SequenceBatch(*(column.flip(0) for column in whole))
    one, other = evaluate(model, [whole], spec), evaluate(model, [reversed_users], spec)
    pd.testing.assert_frame_equal(one.ranks, other.ranks)
    pd.testing.assert_frame_equal(one.recommendations, other.recommendations)


def test_each_user_must_occur_once() -> None:
    with pytest.raises(InputError, match="user 2 occurs twice"):
        evaluate(Fixed([[1]] * 3), [users([1, 1]), users([1, 1], first=2)], Evaluate(cutoffs=(1,)))
    with pytest.raises(InputError, match="no users"):
        evaluate(Fixed([[1]]), [], Evaluate())
    with pytest.raises(InputError, match="user 2 has the target 0"):
        evaluate(Fixed([[1]] * 2), [users([1, 0])], Evaluate(cutoffs=(1,)))


def test_the_recommender_gets_at_most_batch_size_users_and_the_histories_as_they_are() -> None:
    model, batch = Fixed([[1]] * 7), users([1] * 7, width=9)
    evaluate(model, [batch], Evaluate(cutoffs=(1,), batch_size=3))
    assert model.sizes == [3, 3, 1]
    assert torch.equal(torch.cat(model.histories), batch.history)


def test_filter_seen_excludes_items_and_counts_excluded_targets() -> None:
    lists = [[7, 8, 9], [7, 8, 9]]
    taken = torch.tensor([[7, 0], [8, 7]])  # user 1 took 7 and has the target 8; user 2 took its target 8

    def seen(user: Tensor) -> Tensor:
        return taken[user - 1]

    spec = Evaluate(cutoffs=(3,))
    assert ranks(evaluate(Fixed(lists), [users([8, 8])], spec, seen)) == [2, 2]
    result = evaluate(Fixed(lists), [users([8, 8])], Evaluate(cutoffs=(3,), filter_seen=True), seen)
    assert ranks(result) == [2, 0]
    assert (result.excluded_targets, result.invalid) == (1, 3)


def test_filter_seen_needs_seen_and_checks_the_recommender() -> None:
    class IgnoresExclude(Fixed):
        def recommend(self, history: Tensor, n: int, exclude: Tensor | None = None) -> Ranking:
            return super().recommend(history, n)

    spec = Evaluate(cutoffs=(2,), filter_seen=True)
    with pytest.raises(UsageError, match="got none"):
        evaluate(Fixed([[1, 2]]), [users([1])], spec)
    with pytest.raises(InputError, match="item 2 to user 1"):
        evaluate(IgnoresExclude([[1, 2]]), [users([1])], spec, lambda user: torch.tensor([[2]]))
    with pytest.raises(InputError, match=r"int64 items \[1, E\]"):
        evaluate(Fixed([[1, 2]]), [users([1])], spec, lambda user: torch.tensor([2]))


class Constant:
    """Returns a fixed ranking."""

    def __init__(self, items: Tensor, scores: Tensor) -> None:
        self.ranking = Ranking(items, scores)

    def recommend(self, history: Tensor, n: int, exclude: Tensor | None = None) -> Ranking:
        return self.ranking


@pytest.mark.parametrize(
    ("items", "scores", "error", "message"),
    [
        (torch.ones(1, 2, dtype=torch.int64), torch.zeros(1, 2), InputError, r"\(1, 3\).*got \(1, 2\)"),
        (torch.ones(1, 3, dtype=torch.int64), torch.zeros(1, 2), InputError, r"and \(1, 2\)"),
        (torch.ones(1, 3), torch.zeros(1, 3), InputError, "int64 items, got torch.float32"),
        (torch.full((1, 3), -1), torch.zeros(1, 3), InputError, "item -1"),
        (torch.ones(1, 3, dtype=torch.int64), torch.full((1, 3), torch.nan), NumericsError, "NaN scores for user 1"),
    ],
)
def test_invalid_rankings_are_refused(items: Tensor, scores: Tensor, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        evaluate(Constant(items, scores), [users([1])], Evaluate(cutoffs=(3,)))


class Limited(Fixed):
    """Raises an out-of-memory error for more than `limit` users."""

    def __init__(self, lists: list[list[int]], limit: int, error: Callable[[], BaseException]) -> None:
        super().__init__(lists)
        self.limit, self.error = limit, error

    def recommend(self, history: Tensor, n: int, exclude: Tensor | None = None) -> Ranking:
        if len(history) > self.limit:
            raise self.error()
        return super().recommend(history, n, exclude)


@pytest.mark.parametrize(
    "error",
    [
        lambda: torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
        lambda: RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes"),
        MemoryError,
    ],
)
def test_out_of_memory_halves_the_batch(error: Callable[[], BaseException], capsys: pytest.CaptureFixture[str]) -> None:
    """T5: the results stay the same, and the smaller batch size is used from then on."""
    lists = [[user % 3 + 1, 4] for user in range(20)]
    batches = [users([1] * 10), users([1] * 10, first=11)]
    small = Limited(lists, 3, error)
    result, expected = (evaluate(model, batches, Evaluate(cutoffs=(2,))) for model in (small, Fixed(lists)))
    pd.testing.assert_frame_equal(result.ranks, expected.ranks)
    pd.testing.assert_frame_equal(result.recommendations, expected.recommendations)
    assert small.sizes == [2] * 10  # 10 -> 5 -> 2, then always 2
    assert "out of memory with 10 users" in capsys.readouterr().err


def test_out_of_memory_with_one_user_and_other_errors() -> None:
    with pytest.raises(ResourceError, match="single user"):
        evaluate(Limited([[1]] * 4, 0, MemoryError), [users([1] * 4)], Evaluate(cutoffs=(1,)))
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        evaluate(Limited([[1]] * 4, 0, lambda: RuntimeError("shapes cannot be multiplied")), [users([1] * 4)], Evaluate(cutoffs=(1,)))


def test_dropout_is_off_during_evaluation() -> None:
    class Module(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.frozen, self.dropout = nn.Dropout(0.5).eval(), nn.Dropout(0.5)
            self.modes: list[bool] = []

        def recommend(self, history: Tensor, n: int, exclude: Tensor | None = None) -> Ranking:
            self.modes += [self.training, self.dropout.training, torch.is_grad_enabled()]
            return Ranking(torch.ones(len(history), n, dtype=torch.int64), torch.zeros(len(history), n))

    module = Module()
    evaluate(module, [users([1])], Evaluate(cutoffs=(1,)))
    assert module.modes == [False, False, False]
    assert (module.training, module.dropout.training, module.frozen.training) == (True, True, False)


def test_metrics_of_keys_and_popularity() -> None:
    result = evaluate(Fixed([[1, 2], [2, 1]]), [users([1, 1])], Evaluate(cutoffs=(1, 2)))
    found = metrics_of(result.ranks, result.recommendations, (1, 2), 2, torch.tensor([0, 30, 10]))
    names = ("recall", "ndcg", "mrr", "coverage", "gini", "entropy", "div_ratio", "or_ratio", "popularity")
    assert set(found) == {f"{name}@{n}" for name in names for n in (1, 2)} | {"users", "invalid"}
    assert found["mrr@2"] == pytest.approx(0.75)  # ranks 1 and 2
    assert found["popularity@1"] == 20  # items 1 and 2 once each
    assert "popularity@1" not in metrics_of(result.ranks, result.recommendations, (1,), 2)


def test_metrics_of_refuses_inconsistent_tables() -> None:
    result = evaluate(Fixed([[1, 2], [2, 1]]), [users([1, 1])], Evaluate(cutoffs=(2,)))
    with pytest.raises(InputError, match="user 2 has recommendations but no rank"):
        metrics_of(result.ranks.head(1), result.recommendations, (2,), 2)
    with pytest.raises(InputError, match="no users"):
        metrics_of(result.ranks.head(0), result.recommendations.head(0), (2,), 2)
    with pytest.raises(InputError, match=r"0\.\.1, got 1\.\.2"):
        metrics_of(result.ranks, result.recommendations, (2,), 1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"cutoffs": ()}, "cutoffs"),
        ({"cutoffs": (0, 5)}, "cutoffs"),
        ({"cutoffs": (10, 5)}, r"ascending.*\(10, 5\)"),
        ({"cutoffs": (5, 5)}, "cutoffs"),
        ({"batch_size": 0}, r"evaluate\.batch_size must be at least 1, got 0"),
    ],
)
def test_specification_is_checked(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Evaluate(**arguments)  # type: ignore[arg-type]
