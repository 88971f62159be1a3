"""Advantages within a group, compared with values worked out by hand and with their identities."""

from __future__ import annotations

import math
from itertools import product

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from genrec.errors import UsageError
from genrec.preference.policy_gradient import (
    GroupAdvantage,
    LeaveOneOutAdvantage,
    SiblingAdvantage,
    WindowedAdvantage,
    group_advantages,
    leave_one_out_advantages,
    penalized_rewards,
    sibling_advantages,
    window_weights,
)
from genrec.types import Advantage, CandidateGroups

REWARDS = st.lists(st.integers(-8, 8).map(lambda value: value / 4), min_size=2, max_size=9)
LEVELS: list[Advantage] = [
    GroupAdvantage(),
    GroupAdvantage(std="population", epsilon=0.0),
    GroupAdvantage(std="none"),
    LeaveOneOutAdvantage(),
    SiblingAdvantage(),
    WindowedAdvantage(),
    WindowedAdvantage(advantage=SiblingAdvantage(), place=1, size=1.5),
]


def double(values: object) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def group(rewards: list[float]) -> tuple[Tensor, Tensor]:
    """Return one group without masked candidates."""
    values = double([rewards])
    return values, torch.ones_like(values, dtype=torch.bool)


def penalties(count: int) -> list[float]:
    """Return the rank penalties of MiniOneRec, `-(1 / log2(i + 2)) / sum_j 1 / log2(j + 2)`."""
    weights = [1 / math.log2(place + 2) for place in range(count)]
    return [-weight / sum(weights) for weight in weights]


@pytest.mark.parametrize(
    ("std", "epsilon", "expected"),
    [
        ("population", 0.0, [1.732050808] + [-0.577350269] * 3),  # mean 1/4, deviation sqrt(3) / 4
        ("sample", 1e-4, [1.499700060] + [-0.499900020] * 3),  # deviation 1/2: .75 / .5001
        ("none", 1e-4, [0.75] + [-0.25] * 3),
    ],
)
def test_one_hit_of_four(std: str, epsilon: float, expected: list[float]) -> None:
    values, spread = group_advantages(*group([1, 0, 0, 0]), std, epsilon)
    assert values[0].tolist() == pytest.approx(expected, abs=5e-10)
    assert spread.tolist() == [True]


def test_one_hit_of_sixteen_by_the_population() -> None:
    """sqrt(15) and -1 / sqrt(15)."""
    values = group_advantages(*group([1] + [0] * 15), "population", 0.0).values[0]
    assert values.tolist() == pytest.approx([3.872983346] + [-0.258198890] * 15, abs=5e-10)


def test_default_is_the_sample_deviation_with_epsilon() -> None:
    groups = CandidateGroups(*group([1, 0, 0, 0]), torch.zeros(1, 4, 1, dtype=torch.int64))
    values = GroupAdvantage().estimate(groups).values
    assert torch.equal(values, group_advantages(groups.rewards, groups.mask, "sample", 1e-4).values)
    assert torch.equal(values[0], double([0.75, -0.25, -0.25, -0.25]) / 0.5001)


def test_rank_penalties_and_their_advantages() -> None:
    """The hit is beam 2 and costs nothing; the rule adds 1 to it."""
    assert penalties(4) == pytest.approx([-0.390380050, -0.246302389, -0.195190025, -0.168127536], abs=5e-10)
    rewards = penalties(4)
    rewards[2] = 1.0
    values = group_advantages(*group(rewards)).values[0]
    assert values.tolist() == pytest.approx([-0.685270872, -0.460459237, 1.484209184, -0.338479075], abs=5e-10)


def test_leave_one_out() -> None:
    """1 - .5/3, -(1.5/3), .5 - 1/3, -(1.5/3)."""
    values = leave_one_out_advantages(*group([1, 0, 0.5, 0])).values[0]
    assert values.tolist() == pytest.approx([0.833333333, -0.5, 0.166666667, -0.5], abs=5e-10)


def test_leave_one_out_of_rewards_with_a_penalty() -> None:
    """1 - .1 (.5), 0 - .1 (-.2), .5, 0 - .1 (-1)."""
    rewards = penalized_rewards(*map(double, ([1, 0, 0.5, 0], [-3, -4, -3.5, -5], [-3.5, -3.8, -3.5, -4])), 0.1)
    assert rewards.tolist() == pytest.approx([0.95, 0.02, 0.5, 0.1])
    values = leave_one_out_advantages(*group(rewards.tolist())).values[0]
    assert values.tolist() == pytest.approx([0.743333333, -0.496666667, 0.143333333, -0.39], abs=5e-10)


def test_ranks_of_a_list_as_rewards() -> None:
    """NDCG of lists with the target at rank 1, 3, nowhere, 6: 1, 1/2, 0, 1/log2(7)."""
    values = group_advantages(*group([1, 0.5, 0, 1 / math.log2(7)]), "population", 0.0).values[0]
    assert values.tolist() == pytest.approx([1.492916141, 0.100135895, -1.292644352, -0.300407684], abs=5e-10)


@given(REWARDS)
def test_advantages_add_up_to_0(rewards: list[float]) -> None:
    for std in ("sample", "population", "none"):
        assert float(group_advantages(*group(rewards), std).values.sum()) == pytest.approx(0, abs=1e-9)
    assert float(leave_one_out_advantages(*group(rewards)).values.sum()) == pytest.approx(0, abs=1e-9)


@given(REWARDS)
def test_leave_one_out_is_the_reward_minus_the_mean_of_the_others(rewards: list[float]) -> None:
    expected = [reward - (sum(rewards) - reward) / (len(rewards) - 1) for reward in rewards]
    assert leave_one_out_advantages(*group(rewards)).values[0].tolist() == pytest.approx(expected, abs=1e-9)


@given(REWARDS, st.floats(0.1, 10), st.floats(-10, 10))
def test_scale_and_offset_of_the_rewards_do_not_matter(rewards: list[float], scale: float, offset: float) -> None:
    if len(set(rewards)) == 1:
        return  # rounding could give equal rewards a spread
    for std in ("sample", "population"):
        values = group_advantages(*group(rewards), std, 0.0).values
        changed = group_advantages(*group([scale * reward + offset for reward in rewards]), std, 0.0).values
        assert changed[0].tolist() == pytest.approx(values[0].tolist(), abs=1e-9)


@given(REWARDS, st.integers(1, 8))
def test_binary_rewards_compare_the_mean_scores_of_hits_and_misses(scores: list[float], hits: int) -> None:
    """With a share p of hits, sum_i A_i s_i = G sqrt(p (1 - p)) (mean score of hits - mean score of misses)."""
    count = len(scores)
    hits = min(hits, count - 1)
    values = group_advantages(*group([1.0] * hits + [0.0] * (count - hits)), "population", 0.0).values[0]
    share = hits / count
    expected = count * math.sqrt(share * (1 - share)) * (sum(scores[:hits]) / hits - sum(scores[hits:]) / (count - hits))
    assert float((values * double(scores)).sum()) == pytest.approx(expected, abs=1e-9)


def test_sibling_advantages_by_level() -> None:
    """Candidates 00, 01, 02, 10 with rewards 1, 0, 0, 0.

    Level 1: child 0 has mean 1/3, child 1 has 0, deviation 1/6. Level 2 below 0: 1, 0, 0, deviation sqrt(2)/3; 10 is alone below 1.
    """
    codes = torch.tensor([[[0, 0], [0, 1], [0, 2], [1, 0]]])
    values, spread = sibling_advantages(*group([1, 0, 0, 0]), codes)
    assert values[0, :, 0].tolist() == pytest.approx([1, 1, 1, -1])
    assert values[0, :, 1].tolist() == pytest.approx([1.414213562, -0.707106781, -0.707106781, 0], abs=5e-10)
    assert spread.tolist() == [True]


@given(REWARDS)
def test_with_one_level_siblings_are_the_group(rewards: list[float]) -> None:
    codes = torch.arange(len(rewards)).view(1, -1, 1)
    values, spread = sibling_advantages(*group(rewards), codes)
    expected = group_advantages(*group(rewards), "population", 0.0)
    assert values[0, :, 0].tolist() == pytest.approx(expected.values[0].tolist(), abs=1e-9)
    assert torch.equal(spread, expected.spread)


def by_loops(rewards: list[float], codes: list[tuple[int, ...]]) -> list[list[float]]:
    """Return sibling advantages from the definition: [M][L]."""
    result = [[0.0] * len(codes[0]) for _ in codes]
    for level, place in product(range(len(codes[0])), range(len(codes))):
        head = codes[place][:level]
        through: dict[int, list[float]] = {}
        for reward, other in zip(rewards, codes, strict=True):
            if other[:level] == head:
                through.setdefault(other[level], []).append(reward)
        means = {code: sum(values) / len(values) for code, values in through.items()}
        center = sum(means.values()) / len(means)
        deviation = math.sqrt(sum((value - center) ** 2 for value in means.values()) / len(means))
        if deviation > 1e-9:
            result[place][level] = (means[codes[place][level]] - center) / deviation
    return result


@given(st.lists(st.tuples(st.integers(-4, 4), st.tuples(*[st.integers(0, 2)] * 3)), min_size=1, max_size=8))
def test_sibling_advantages_equal_loops_over_the_definition(drawn: list[tuple[int, tuple[int, int, int]]]) -> None:
    rewards, codes = [reward / 4 for reward, _ in drawn], [code for _, code in drawn]
    values = sibling_advantages(*group(rewards), torch.tensor([codes])).values[0]
    for found, expected in zip(values.tolist(), by_loops(rewards, codes), strict=True):
        assert found == pytest.approx(expected, abs=1e-9)


def test_rounding_gives_siblings_no_spread() -> None:
    """Child 0 has the mean (.1 + .2 + .3) / 3 and child 1 the reward .2: equal but for rounding, in float32 too."""
    codes = torch.tensor([[[0, 0], [0, 1], [0, 2], [1, 0]]])
    for dtype in (torch.float32, torch.float64):
        rewards = torch.tensor([[0.1, 0.2, 0.3, 0.2]], dtype=dtype)
        values = sibling_advantages(rewards, torch.ones(1, 4, dtype=torch.bool), codes).values
        assert values[0, :, 0].tolist() == [0.0] * 4


def test_window_weights_of_six_negatives() -> None:
    """e^-|j - 2| with the largest cut to 1 and the others scaled by 2 / (2 e^-1 + 2 e^-2 + e^-3)."""
    weights = window_weights(torch.ones(1, 6, dtype=torch.bool), 2, 3.0)[0]
    assert weights.tolist() == pytest.approx([0.256264281, 0.696598539, 1, 0.696598539, 0.256264281, 0.094274361], abs=5e-10)
    scale = 2 / (2 * math.exp(-1) + 2 * math.exp(-2) + math.exp(-3))
    assert float(weights[1]) == pytest.approx(scale * math.exp(-1))


@given(st.lists(st.booleans(), min_size=1, max_size=20), st.integers(0, 6), st.floats(0.3, 12), st.floats(0.2, 5))
def test_window_weights_solve_their_equation(negative: list[bool], place: int, size: float, temperature: float) -> None:
    """They are min(1, c e^(x / temperature)) with one c, and add up to the size, or are all 1 if there are too few negatives."""
    weights = window_weights(torch.tensor([negative]), place, size, temperature)[0]
    assert all(weight == 0 for weight, is_negative in zip(weights.tolist(), negative, strict=True) if not is_negative)
    found = [weight for weight, is_negative in zip(weights.tolist(), negative, strict=True) if is_negative]
    if len(found) <= size:
        assert found == [1.0] * len(found)
        return
    assert sum(found) == pytest.approx(size)
    powers = [math.exp(-abs(rank - place) / temperature) for rank in range(len(found))]
    scales = [weight / power for weight, power in zip(found, powers, strict=True) if weight < 1 - 1e-12]
    assert scales == pytest.approx([scales[0]] * len(scales)) if scales else True
    if scales:
        assert all(scales[0] * power >= 1 - 1e-9 for weight, power in zip(found, powers, strict=True) if weight >= 1 - 1e-12)


def test_windowed_advantage_keeps_the_sum_and_the_hit() -> None:
    """Seven beams with the hit in place 3: the negatives are the beams 0, 1, 2, 4, 5, 6 and have a mean weight of 1."""
    rewards, mask = group([0, 0, 0, 1, 0, 0, 0])
    groups = CandidateGroups(rewards, mask, torch.zeros(1, 7, 1, dtype=torch.int64))
    plain, windowed = (each.estimate(groups).values[0] for each in (GroupAdvantage(), WindowedAdvantage()))
    assert float(windowed[3]) == float(plain[3])
    ratios = (windowed / plain)[[0, 1, 2, 4, 5, 6]]
    assert ratios.tolist() == pytest.approx([2 * w for w in (0.256264281, 0.696598539, 1, 0.696598539, 0.256264281, 0.094274361)])
    assert float(windowed.sum()) == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("advantage", LEVELS, ids=str)
def test_masked_candidates_have_no_effect(advantage: Advantage) -> None:
    """A group with masked candidates has the advantages of the group without them, whatever the masked places hold."""
    rewards = double([[0.5, math.nan, 0.25, math.inf, -1.0, 0.75], [-math.inf, 1.0, 0.0, 0.0, 0.5, math.nan]])
    mask = torch.tensor([[1, 0, 1, 0, 1, 1], [0, 1, 1, 1, 1, 0]], dtype=torch.bool)
    codes = torch.tensor([[[0, 0], [0, 1], [0, 2], [1, 0], [1, 1], [2, 0]], [[0, 0], [0, 0], [0, 1], [1, 0], [1, 1], [0, 2]]])
    values, spread = advantage.estimate(CandidateGroups(rewards, mask, codes))
    assert spread.tolist() == [True, True]
    for row in range(2):
        kept = mask[row]
        alone = advantage.estimate(CandidateGroups(rewards[row, kept][None], mask[row, kept][None], codes[row, kept][None])).values[0]
        assert torch.allclose(values[row, kept], alone, atol=1e-12)
        assert not values[row, ~kept].any()


@pytest.mark.parametrize("advantage", LEVELS, ids=str)
@pytest.mark.parametrize("rewards", [[0.1] * 4, [0.0] * 4, [-3.7] * 4])
def test_groups_without_spread_have_no_advantage(advantage: Advantage, rewards: list[float]) -> None:
    codes = torch.tensor([[[0, 0], [0, 1], [1, 2], [1, 0]]])
    for mask in ([1, 1, 1, 1], [1, 0, 0, 0], [0, 0, 0, 0]):
        for dtype in (torch.float32, torch.float64):
            groups = CandidateGroups(torch.tensor([rewards], dtype=dtype), torch.tensor([mask], dtype=torch.bool), codes)
            values, spread = advantage.estimate(groups)
            assert not values.any()
            assert not spread.any()


@pytest.mark.parametrize("advantage", LEVELS, ids=str)
def test_order_of_groups_and_dtype(advantage: Advantage) -> None:
    source = torch.Generator().manual_seed(3)
    rewards, codes = torch.rand(5, 7, generator=source, dtype=torch.float64), torch.randint(0, 3, (5, 7, 2), generator=source)
    mask = torch.rand(5, 7, generator=source) > 0.2
    values, spread = advantage.estimate(CandidateGroups(rewards, mask, codes))
    turned = advantage.estimate(CandidateGroups(rewards.flip(0), mask.flip(0), codes.flip(0)))
    assert torch.equal(turned.values, values.flip(0))
    assert torch.equal(turned.spread, spread.flip(0))
    half = advantage.estimate(CandidateGroups(rewards.bfloat16(), mask, codes)).values
    assert half.dtype == torch.float32
    assert values.dtype == torch.float64
    assert not advantage.estimate(CandidateGroups(rewards.clone().requires_grad_(), mask, codes)).values.requires_grad


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: GroupAdvantage(std="both"), "GroupAdvantage.std must be one of 'sample', 'population', 'none', got 'both'"),  # type: ignore[arg-type]
        (lambda: GroupAdvantage(epsilon=-1.0), "GroupAdvantage.epsilon must be 0 or more and finite"),
        (lambda: SiblingAdvantage(epsilon=math.nan), "SiblingAdvantage.epsilon must be 0 or more and finite"),
        (lambda: WindowedAdvantage(size=0.0), "WindowedAdvantage.size must be above 0 and finite"),
        (lambda: WindowedAdvantage(place=-1), "WindowedAdvantage.place must be 0 or more"),
        (lambda: WindowedAdvantage(place=1.5), "WindowedAdvantage.place must be an integer"),  # type: ignore[arg-type]
        (lambda: WindowedAdvantage(advantage=GroupAdvantage), "such as GroupAdvantage\\(\\), got the class "),  # type: ignore[arg-type]
    ],
)
def test_wrong_fields_are_refused(build: object, message: str) -> None:
    assert callable(build)
    with pytest.raises(UsageError, match=message):
        build()
