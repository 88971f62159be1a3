"""Judges of groups of candidates: hits, rank penalties, prefixes, ratings, novelty, baselines and weighted sums, by hand."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pandas import DataFrame
from stable_ids import stable_id
from torch import Tensor
from worlds import cyclic

from genrec.baselines import BPR, EASE, ItemKNN, Popularity
from genrec.errors import InputError, UsageError
from genrec.evaluation.user_metrics import novelty
from genrec.preference.policy_gradient import GroupAdvantage
from genrec.preference.rewards import (
    BaselineScore,
    Hit,
    LogProbability,
    Novelty,
    Popular,
    PrefixMatch,
    RankPenalty,
    Rated,
    WeightedSum,
)
from genrec.preference.rewards.logged_item_rewards import rank_weights
from genrec.semantic_ids import SemanticIds
from genrec.testing import batches_of, sampler_context
from genrec.types import (
    Baseline,
    CandidateGroups,
    ItemScorer,
    Ranking,
    Rating,
    Recommender,
    Reward,
    SamplerContext,
    SequenceBatch,
    UserRecommender,
)

NAN = float("nan")
CODES = [[0, 0, 0], [0, 0, 1], [0, 1, 0], [1, 0, 0], [0, 0, 1]]  # items 2 and 5 share a Semantic ID
PENALTIES = [-0.390380050, -0.246302389, -0.195190025, -0.168127536]  # MATH: rank penalties of a group of 4


def context(rows: list[tuple[int, int, int, float]] | None = None) -> SamplerContext:
    """5 items with the codes above; events (user, item, time, rating)."""
    events = DataFrame(rows or [(1, 1, 0, 5.0)], columns=["user", "item", "time", "rating"])
    popularity = torch.bincount(torch.from_numpy(events["item"].to_numpy(copy=True)), minlength=6)
    return SamplerContext(5, events, popularity, torch.zeros(6, 2), SemanticIds(torch.tensor(CODES), (2, 2, 2)))


def rate(reward: Reward, items: list[list[int]], targets: list[int], world: SamplerContext | None = None) -> Tensor:
    """Rate the items of users 1, 2, ... with the history [0, 1]."""
    count = len(targets)
    batch = SequenceBatch(torch.arange(1, count + 1), torch.tensor([[0, 1]] * count), torch.tensor(targets))
    return reward.rate(context() if world is None else world).rate(batch, torch.tensor(items))


def test_a_hit_has_the_semantic_id_of_the_logged_item() -> None:
    """Items 2 and 5 share one, so both are hits where either is the target."""
    found = rate(Hit(), [[1, 2, 5, 0], [1, 2, 5, 3]], [5, 3])
    assert found.tolist() == [[0.0, 1.0, 1.0, -math.inf], [0.0, 0.0, 0.0, 1.0]]
    assert found.dtype == torch.float32


def test_rank_penalties_are_the_vectors() -> None:
    """Groups of 4: a hit at place 2, a hit at place 0 and none. A miss at place i gets -w_i."""
    found = rate(RankPenalty(), [[1, 3, 2, 4], [2, 1, 3, 4], [1, 2, 3, 5]], [2, 2, 4])
    assert found[0].tolist() == pytest.approx([*PENALTIES[:2], 0.0, PENALTIES[3]], abs=1.5e-8)
    assert found[1].tolist() == pytest.approx([0.0, *PENALTIES[1:]], abs=1.5e-8)
    assert found[2].tolist() == [0.0] * 4  # a group without a hit
    total = sum(1 / math.log2(j + 2) for j in range(4))
    assert [-(1 / math.log2(i + 2)) / total for i in range(4)] == pytest.approx(PENALTIES, abs=1.5e-8)
    assert RankPenalty().rate(context()).compares


def test_rule_and_rank_rewards_give_the_vector_of_advantages() -> None:
    """A hit at beam 2 of 4, rule plus rank: A with the sample's deviation and eps 1e-4."""
    rewards = rate(WeightedSum((Hit(), RankPenalty())), [[1, 3, 2, 4]], [2]).double()
    assert rewards[0].tolist() == pytest.approx([*PENALTIES[:2], 1.0, PENALTIES[3]], abs=5e-8)
    groups = CandidateGroups(rewards, torch.ones(1, 4, dtype=torch.bool), torch.zeros(1, 4, 3, dtype=torch.int64))
    found = GroupAdvantage().estimate(groups).values
    assert found[0].tolist() == pytest.approx([-0.685270872, -0.460459237, 1.484209184, -0.338479075], abs=2e-6)


def test_item_0_takes_no_place_among_the_beams() -> None:
    full = rate(RankPenalty(), [[1, 3, 2]], [2])[0]
    holes = rate(RankPenalty(), [[0, 1, 0, 3, 2, 0]], [2])[0]
    assert holes[[1, 3, 4]].tolist() == full.tolist()
    assert holes[[0, 2, 5]].isneginf().all()
    assert rate(RankPenalty(), [[0, 0]], [2]).isneginf().all()


@given(st.integers(1, 20), st.integers(0, 2**20 - 1))
def test_rank_weights_fall_and_sum_to_one(size: int, bits: int) -> None:
    valid = torch.tensor([[bool(bits >> place & 1) for place in range(size)]])
    weights = rank_weights(valid)[0]
    kept = weights[valid[0]]
    assert not weights[~valid[0]].any()
    assert float(weights.sum()) == pytest.approx(1.0 if valid.any() else 0.0)
    assert (kept[1:] < kept[:-1]).all()


def test_prefix_match_by_hand() -> None:
    """Target 2 has codes 0 0 1. Prefixes shared by items 1 to 5: 0 0 (2 of 3), all, 0, none, all."""
    assert rate(PrefixMatch(), [[1, 2, 3, 4, 5, 0]], [2])[0].tolist() == pytest.approx([2 / 3, 1.0, 1 / 3, 0.0, 1.0, -math.inf])
    recast = PrefixMatch((0, 0.01, 0.1, 1))
    assert rate(recast, [[1, 2, 3, 4, 5, 0]], [2])[0].tolist() == pytest.approx([0.1, 1.0, 0.01, 0.0, 1.0, -math.inf])


def test_a_later_code_that_agrees_is_no_prefix() -> None:
    """Item 4 (1 0 0) and item 1 (0 0 0) agree in two codes, but not in the first."""
    assert rate(PrefixMatch(), [[4]], [1]).tolist() == [[0.0]]


@given(st.integers(1, 60), st.lists(st.integers(0, 60), min_size=1, max_size=8))
def test_a_whole_prefix_is_a_hit(target: int, items: list[int]) -> None:
    world = sampler_context()
    hit, prefix = (rate(each, [items], [target], world) for each in (Hit(), PrefixMatch()))
    assert (prefix == 1).equal(hit == 1)
    depth = world.semantic_ids.prefix_depth(torch.tensor(items), torch.tensor(target))
    expected = (depth / 3).masked_fill(torch.tensor(items) == 0, -math.inf)
    torch.testing.assert_close(prefix[0], expected.float())


def test_rated_is_the_last_rating_of_the_user() -> None:
    """User 1 rated item 1 with 5, item 2 with 4 and later with 1, and took item 3 without a rating; user 2 rated item 1 with 2."""
    rows = [(1, 1, 0, 5.0), (1, 2, 9, 1.0), (1, 2, 3, 4.0), (1, 3, 5, NAN), (2, 1, 4, 2.0)]
    found = rate(Rated(), [[1, 2, 3, 4, 0], [1, 2, 3, 4, 5]], [1, 1], context(rows))
    assert found.tolist() == [[5.0, 1.0, 3.0, 3.0, -math.inf], [2.0, 3.0, 3.0, 3.0, 3.0]]
    assert rate(Rated(-1.5), [[2, 4]], [1], context(rows)).tolist() == [[1.0, -1.5]]


def test_rated_needs_ratings() -> None:
    world = context()
    with pytest.raises(InputError, match=r"Rated needs ratings, got training interactions with the columns user, item, time: use a"):
        Rated().check_context(world._replace(interactions=world.interactions.drop(columns="rating")))
    with pytest.raises(UsageError, match=r"Rated needs ratings, but the source Cyclic.* has none"):
        Rated().check(cyclic())


def test_novelty_is_the_metric_s_self_information() -> None:
    """Events 4, 2, 1, 1, 0 of 8: 1, 2, 3, 3 bits, and 3 for the item that counts as one with a single event."""
    rows = [(user, item, 0, 3.0) for item, count in ((1, 4), (2, 2), (3, 1), (4, 1)) for user in range(count)]
    world = context(rows)
    found = rate(Novelty(), [[1, 2, 3, 4, 5, 0]], [1], world)
    assert found.tolist() == [[1.0, 2.0, 3.0, 3.0, 3.0, -math.inf]]
    items = torch.tensor([[1, 3, 5], [2, 2, 1]])
    metric = novelty(items, world.popularity)
    assert rate(Novelty(), items.tolist(), [1, 1], world).mean(1).tolist() == pytest.approx(metric.tolist())


BASELINES = [
    BaselineScore(ItemKNN()), BaselineScore(ItemKNN(num_neighbors=3), "user"), BaselineScore(EASE(l2=20.0)),
    BaselineScore(EASE(l2=20.0), "user"), BaselineScore(BPR(epochs=3), "user"), BaselineScore(BPR(epochs=3)),
    BaselineScore(Popularity()),
]  # fmt: skip


def listed(fitted: Recommender, reads: str, batch: SequenceBatch, count: int) -> Ranking:
    """Return the list of all items, as evaluation ranks them."""
    if reads == "user" and isinstance(fitted, UserRecommender):
        return fitted.recommend_to(batch.user, batch.history, count)
    return fitted.recommend(batch.history, count)


@pytest.mark.parametrize("reward", BASELINES, ids=stable_id)
def test_baseline_scores_are_those_of_its_lists(reward: BaselineScore) -> None:
    """An oracle: the scores of the whole list, put in the order of the items."""
    world = sampler_context()
    batch = next(batches_of(world, 16))
    fitted = reward.baseline.fit(world.interactions[["user", "item", "time"]], world.item_count)
    ranking = listed(fitted, reward.reads, batch, world.item_count)
    by_item = torch.full((16, 61), -math.inf).scatter(1, ranking.items, ranking.scores)
    items = torch.randint(0, 61, (16, 9), generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(reward.rate(world).rate(batch, items), by_item.gather(1, items), rtol=0, atol=0)
    assert isinstance(fitted, ItemScorer)


def test_item_knn_by_hand() -> None:
    """Users 1, 2 and 3 have items {1, 2}, {1, 3} and {1, 2}: cos(1, 2) = 2 / sqrt(3 * 2), cos(1, 3) = 1 / sqrt(3 * 1); history 1."""
    rows = [(1, 1, 0, 3.0), (1, 2, 1, 3.0), (2, 1, 0, 3.0), (2, 3, 1, 3.0), (3, 1, 0, 3.0), (3, 2, 1, 3.0)]
    found = rate(BaselineScore(ItemKNN(decay=0.5)), [[1, 2, 3, 4, 0]], [2], context(rows))
    assert found[0].tolist() == pytest.approx([0.0, 2 / math.sqrt(6), 1 / math.sqrt(3), 0.0, -math.inf])


def test_the_user_s_other_events_are_read_on_request_only() -> None:
    """With the history emptied, only `reads="user"` can know anything: other users get other scores."""
    world = sampler_context()
    items = torch.arange(1, 61).expand(8, -1)
    batch = SequenceBatch(torch.arange(8), torch.zeros(8, 2, dtype=torch.int64), torch.ones(8, dtype=torch.int64))
    alone, known = (BaselineScore(EASE(l2=20.0), reads).rate(world).rate(batch, items) for reads in ("history", "user"))
    assert (alone == 0).all()
    assert (known != 0).any(1).all()


def test_many_rows_are_scored_in_parts() -> None:
    world = sampler_context()
    rating = BaselineScore(ItemKNN()).rate(world)
    batch = next(batches_of(world, 50))
    items = torch.randint(0, 61, (50, 3), generator=torch.Generator().manual_seed(1))
    repeated = SequenceBatch(*(part.repeat(30, *[1] * (part.ndim - 1)) for part in batch))
    torch.testing.assert_close(rating.rate(repeated, items.repeat(30, 1)), rating.rate(batch, items).repeat(30, 1), rtol=0, atol=0)


@dataclass(frozen=True)
class Lists:
    """A baseline of lists alone."""

    def fit(self, interactions: DataFrame, item_count: int) -> Recommender:
        return OnlyLists()


class OnlyLists:
    def recommend(self, history: Tensor, n: int, exclude: Tensor | None = None) -> Ranking:
        raise NotImplementedError


def test_a_baseline_without_scores_is_refused_with_the_remedy() -> None:
    with pytest.raises(InputError, match=r"Lists .* fits a OnlyLists without score_items\(user, history, items\); add .*ItemScorer"):
        BaselineScore(Lists()).rate(context())
    with pytest.raises(UsageError, match=r"fits its baseline on training events alone, but Popularity\(count_validation=True\) is"):
        BaselineScore(Popularity(count_validation=True))
    for wrong in (Hit(), ItemKNN, None):
        with pytest.raises(UsageError, match=r"BaselineScore\.baseline must be a baseline, such as ItemKNN\(\), got "):
            BaselineScore(wrong)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match=r"BaselineScore\.reads must be one of 'history', 'user', got 'all'"):
        BaselineScore(ItemKNN(), "all")  # type: ignore[arg-type]


@pytest.mark.parametrize("baseline", [ItemKNN(), EASE(), BPR(epochs=1), Popularity()], ids=stable_id)
def test_scored_items_must_be_in_the_catalog(baseline: Baseline) -> None:
    fitted = baseline.fit(context().interactions, 5)
    assert isinstance(fitted, ItemScorer)
    user, history = torch.tensor([1]), torch.tensor([[0, 1]])
    for wrong in (6, -1):
        with pytest.raises(InputError, match=r"items: items must lie in 0\.\.5, got"):
            fitted.score_items(user, history, torch.tensor([[1, wrong]]))


def test_a_weighted_sum_by_hand() -> None:
    """2 * hit - 0.5 * prefix; item 0 stays -inf, also with weights of 0 and below."""
    total = WeightedSum((Hit(), PrefixMatch()), (2.0, -0.5))
    assert rate(total, [[1, 2, 4, 0]], [2])[0].tolist() == pytest.approx([-1 / 3, 1.5, 0.0, -math.inf])
    assert rate(WeightedSum((Hit(),), (0.0,)), [[2, 0]], [2]).tolist() == [[0.0, -math.inf]]


def test_a_weighted_sum_has_the_capabilities_of_its_rewards() -> None:
    world = sampler_context()
    for rewards, reads_policy, compares in (
        ((Hit(), Popular()), False, False),
        ((Hit(), LogProbability()), True, False),
        ((RankPenalty(), WeightedSum((LogProbability(),))), True, True),
    ):
        rating = WeightedSum(rewards).rate(world)
        assert (rating.reads_policy, rating.compares) == (reads_policy, compares)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: WeightedSum(()), r"WeightedSum\.rewards must be a tuple of rewards, such as .*, got \(\)"),
        (lambda: WeightedSum([Hit()]), r"WeightedSum\.rewards must be a tuple"),  # type: ignore[arg-type]
        (lambda: WeightedSum((Hit,)), r"WeightedSum\.rewards must be a tuple"),  # type: ignore[arg-type]
        (lambda: WeightedSum((3,)), r"WeightedSum\.rewards must be a tuple"),  # type: ignore[arg-type]
        (lambda: WeightedSum((Hit(), Novelty()), (1.0,)), r"a finite number for each of the 2 rewards, or nothing .*, got \(1\.0,\)"),
        (lambda: WeightedSum((Hit(),), (NAN,)), r"a finite number for each of the 1 rewards"),
        (lambda: WeightedSum((Hit(),), (True,)), r"a finite number for each of the 1 rewards"),
        (lambda: PrefixMatch((1.0, math.inf)), r"PrefixMatch\.values must be a tuple of finite numbers, .*, got \(1\.0, inf\)"),
        (lambda: PrefixMatch(0.5), r"PrefixMatch\.values must be a tuple"),  # type: ignore[arg-type]
        (lambda: Rated(NAN), r"Rated\.default must be finite, got nan"),
    ],
)
def test_fields_are_checked(make: object, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        make()  # type: ignore[operator]


def test_values_of_prefixes_must_fit_the_levels() -> None:
    with pytest.raises(UsageError, match=r"PrefixMatch\.values needs 4 numbers, for .* 0 to 3 codes .* 3 levels, got 2: \(0, 1\)"):
        PrefixMatch((0, 1)).check_context(context())


def test_a_broken_reward_in_a_sum_is_named() -> None:
    @dataclass(frozen=True)
    class Scalar:
        def rate(self, context: SamplerContext) -> Rating:
            return replace(Hit().rate(context), rate=lambda batch, items: torch.zeros(3))

    with pytest.raises(InputError, match=r"Scalar .*: must return float32 \[1, 2\], one reward per item; got torch\.float32 \[3\]"):
        rate(WeightedSum((Hit(), Scalar())), [[1, 2]], [1])
