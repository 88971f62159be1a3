"""The hit rate among drawn candidates: the draw, scores by policies and by other recommenders, ties, and users without candidates."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chi2
from torch import Tensor

from genrec.baselines import BPR, ItemKNN
from genrec.errors import NumericsError, UsageError
from genrec.evaluation import CandidateHitRate
from genrec.evaluation.candidate_hit_rate import draw_candidates
from genrec.evaluation.scored_lists import recommend_batch
from genrec.testing import evaluated_world
from genrec.types import Evaluated, Ranking, SequenceBatch

NAN = pytest.approx(math.nan, nan_ok=True)
NAME = "hit_rate@1[20 candidates]"


def drawn(evaluated: Evaluated, count: int = 19, seed: int = 0) -> Tensor:
    return draw_candidates(evaluated.user, evaluated.target, evaluated.seen(evaluated.user), 60, count, seed)


@given(st.integers(0, 2**16), st.integers(1, 12), st.integers(2, 40))
def test_candidates_are_distinct_allowed_items(seed: int, count: int, items: int) -> None:
    """A user who could take any item but has too few left gets none; all others get `count` of them."""
    random = np.random.default_rng(seed)
    user, target = torch.arange(1, 6), torch.from_numpy(random.integers(1, items + 1, 5))
    taken = torch.from_numpy(random.integers(0, items + 1, (5, int(random.integers(0, items)))))
    found = draw_candidates(user, target, taken, items, count, seed)
    for row, aim, gone in zip(found.tolist(), target.tolist(), taken.tolist(), strict=True):
        allowed = set(range(1, items + 1)) - {aim} - set(gone)
        if len(allowed) < count:
            assert row == [0] * count
        else:
            assert len(set(row)) == count
            assert set(row) <= allowed


def test_the_draw_depends_on_seed_and_user_alone() -> None:
    """The first 19 of a user's order without the target: another target changes at most this one place, and no other user's."""
    evaluated = evaluated_world()
    first = drawn(evaluated)
    assert torch.equal(first, drawn(evaluated))
    assert not torch.equal(first, drawn(evaluated, seed=1))
    assert torch.equal(first[:, :5], drawn(evaluated, count=5))
    order = torch.randperm(40, generator=torch.Generator().manual_seed(0))
    permuted = replace(evaluated, target=evaluated.target[order])
    second = drawn(permuted)
    for before, after, old, new in zip(
        first.tolist(), second.tolist(), evaluated.target.tolist(), permuted.target.tolist(), strict=True
    ):
        assert [item for item in before if item != new][:18] == [item for item in after if item != old][:18]
    one = replace(evaluated, target=torch.where(evaluated.user == 7, 60 - evaluated.target, evaluated.target))
    assert torch.equal(first[evaluated.user != 7], drawn(one)[evaluated.user != 7])
    half = evaluated.user % 2 == 0
    user, target = evaluated.user[half].flip(0), evaluated.target[half].flip(0)  # other users, and another order
    alone = draw_candidates(user, target, evaluated.seen(user), 60, 19, 0)
    assert torch.equal(alone.flip(0), first[half])


def test_the_draw_is_uniform() -> None:
    """4,000 users draw 5 of 9 items beside the target 10: the count of an item has the variance 4,000 x 5/9 x 4/9.

    The counts add up to 20,000, so that 8/9 of the sum of their standardized squares is chi-square with 8 degrees of freedom.
    """
    user = torch.arange(4000)
    found = draw_candidates(user, torch.full_like(user, 10), torch.zeros(4000, 0, dtype=torch.int64), 10, 5, 0)
    counts = torch.bincount(found.flatten(), minlength=11)[1:10].double()
    statistic = float(((counts - 4000 * 5 / 9).square() / (4000 * 5 / 9 * 4 / 9)).sum() * 8 / 9)
    assert int(counts.sum()) == 20_000
    assert statistic < chi2.ppf(0.999, 8)
    first = torch.bincount(found[:, 0], minlength=11)[1:10].double()
    assert float(((first - 4000 / 9).square() / (4000 / 9)).sum()) < chi2.ppf(0.999, 8)


@pytest.mark.parametrize("filter_seen", [False, True])
def test_a_policy_is_judged_by_its_log_probabilities(filter_seen: bool) -> None:
    """In a loop: 1 / ties if no candidate is more likely than the target. In this world some share the target's Semantic ID."""
    evaluated = evaluated_world(filter_seen=filter_seen)
    found = CandidateHitRate().measure(evaluated)[NAME]
    history = {user: row for batch in evaluated.batches for user, row in zip(batch.user.tolist(), batch.history, strict=True)}
    ties = []
    for user, target, others, value in zip(
        evaluated.user.tolist(), evaluated.target.tolist(), drawn(evaluated).tolist(), found.tolist(), strict=True
    ):
        scores = evaluated.recommender.log_prob(history[user].unsqueeze(0), torch.tensor([[target, *others]]))[0].tolist()  # type: ignore[attr-defined]
        best, equal = max(scores), sum(math.isclose(score, scores[0], abs_tol=1e-6) for score in scores)
        assert value == (1 / equal if math.isclose(best, scores[0], abs_tol=1e-6) else 0)
        ties.append(equal)
    assert max(ties) > 1
    assert 0 < float(found.mean()) < 1


@pytest.mark.parametrize("baseline", [ItemKNN(), BPR(epochs=1)], ids=lambda each: type(each).__name__)
def test_other_recommenders_rank_the_candidates_in_their_own_order(baseline: object) -> None:
    """The first of the candidates in the list of the whole catalog; some recommenders know the user, not the history alone."""
    evaluated = evaluated_world()
    fitted = baseline.fit(evaluated.train(), 60)  # type: ignore[attr-defined]
    evaluated = replace(evaluated, recommender=fitted)
    lists = evaluated.by_user(lambda batch: recommend_batch(fitted, batch, 60, None).items)
    expected = []
    for target, others, row in zip(evaluated.target.tolist(), drawn(evaluated).tolist(), lists.tolist(), strict=True):
        expected.append(float(next(item for item in row if item in {target, *others}) == target))
    assert CandidateHitRate().measure(evaluated)[NAME].tolist() == expected
    assert 0 < sum(expected) < 40


def test_small_chunks_give_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    evaluated = evaluated_world()
    baseline = replace(evaluated, recommender=ItemKNN().fit(evaluated.train(), 60))
    before = [CandidateHitRate().measure(each)[NAME].tolist() for each in (evaluated, baseline)]
    monkeypatch.setattr("genrec.evaluation.candidate_hit_rate.EXCLUDE_BYTES", 8 * 60 * 3)
    monkeypatch.setattr("genrec.evaluation.candidate_hit_rate.MAX_DRAWS", 100)
    assert [CandidateHitRate().measure(each)[NAME].tolist() for each in (evaluated, baseline)] == before


def test_users_without_enough_items_are_not_counted() -> None:
    """60 items less the target and those taken, at least one: a user with 11 has 48 others. 50 candidates need 49, 60 need 59."""
    evaluated = evaluated_world()
    found = CandidateHitRate(num_candidates=50).measure(evaluated)["hit_rate@1[50 candidates]"]
    for length, value in zip(evaluated.history_length.tolist(), found.tolist(), strict=True):
        assert math.isnan(value) == (60 - 1 - length < 49)
    assert bool(found.isnan().any())
    assert bool((CandidateHitRate(num_candidates=60).measure(evaluated)["hit_rate@1[60 candidates]"]).isnan().all())


def test_a_random_order_hits_one_in_twenty() -> None:
    """Scores drawn for each user and item: 4,000 users hit with 1/20, standard error sqrt(0.05 x 0.95 / 4,000) = 0.0034."""

    class Random(torch.nn.Module):
        def level_log_prob(self, history: Tensor, items: Tensor) -> Tensor:
            return self.log_prob(history, items).unsqueeze(-1)

        def log_prob(self, history: Tensor, items: Tensor) -> Tensor:
            return torch.rand(items.shape, generator=torch.Generator().manual_seed(int(history.sum()))).log()

        def recommend(self, history: Tensor, n: int, exclude: Tensor | None = None) -> Ranking:
            raise AssertionError

    user = torch.arange(1, 4001)
    batch = SequenceBatch(user, user.unsqueeze(1), torch.ones_like(user))
    evaluated = replace(
        evaluated_world(), user=user, target=batch.target, batches=[batch], recommender=Random(), shared=None,
        seen=lambda users: torch.zeros(len(users), 0, dtype=torch.int64),
    )  # fmt: skip
    assert float(CandidateHitRate().measure(evaluated)[NAME].mean()) == pytest.approx(0.05, abs=3 * 0.0034)


def test_nan_scores_and_wrong_fields_are_refused() -> None:
    evaluated = evaluated_world()

    class Broken(torch.nn.Module):
        def log_prob(self, history: Tensor, items: Tensor) -> Tensor:
            return torch.full(items.shape, math.nan)

        def level_log_prob(self, history: Tensor, items: Tensor) -> Tensor:
            return self.log_prob(history, items).unsqueeze(-1)

        def recommend(self, history: Tensor, n: int, exclude: Tensor | None = None) -> Ranking:
            raise AssertionError

    with pytest.raises(NumericsError, match=r"Broken.*: log_prob returned NaN for a candidate of CandidateHitRate"):
        CandidateHitRate().measure(replace(evaluated, recommender=Broken()))  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="num_candidates must be at least 2, the target and an item, got 1"):
        CandidateHitRate(num_candidates=1)
    with pytest.raises(UsageError, match=r"num_candidates must be an integer, got 2\.5"):
        CandidateHitRate(num_candidates=2.5)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match=r"CandidateHitRate\.seed must be 0 or more, got -1"):
        CandidateHitRate(seed=-1)
