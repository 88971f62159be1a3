"""Rewards, compared with values worked out by hand and with a loop over examples."""

from __future__ import annotations

import math
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pandas import DataFrame
from stable_ids import stable_id
from torch import Tensor, nn

from genrec.errors import InputError, UsageError
from genrec.preference.losses import RecPO, RosePO
from genrec.preference.rewards import LogProbability, Popular, RatingRecency, Similarity, StepDiscountedRating
from genrec.semantic_ids import SemanticIds
from genrec.testing import sampler_context
from genrec.types import LogProbs, Policy, Reward, SamplerContext, SequenceBatch

DAY = 86_400
NAN = float("nan")


def context(rows: list[tuple[int, int, int, float]], policy: Policy | None = None) -> SamplerContext:
    """4 items with vectors (1, 0), (0, 2), (-3, 0), zeros; events (user, item, time, rating)."""
    interactions = DataFrame(rows, columns=["user", "item", "time", "rating"])
    popularity = torch.bincount(torch.tensor([row[1] for row in rows] or [0]), minlength=5)
    vectors = torch.tensor([[7.0, 7.0], [1.0, 0.0], [0.0, 2.0], [-3.0, 0.0], [0.0, 0.0]])  # row 0 is padding and must not be read
    return SamplerContext(4, interactions, popularity, vectors, SemanticIds(torch.tensor([[0], [1], [2], [3]]), (4,)), policy)


def batch(*rows: tuple[int, list[int], int]) -> SequenceBatch:
    """Rows of (user, history, target)."""
    users, histories, targets = zip(*rows, strict=True)
    return SequenceBatch(torch.tensor(users), torch.tensor(histories), torch.tensor(targets))


EVENTS = [(1, 1, 0, 5.0), (1, 2, 3 * DAY, 4.0), (1, 3, 11 * DAY, 2.0), (2, 3, 5 * DAY, 3.0), (2, 1, 5 * DAY, NAN)]


def test_similarity_is_the_cosine_with_the_mean_of_the_history() -> None:
    """History {1, 2}: mean (0.5, 1), of length sqrt 1.25. Item 1: 0.5 / sqrt 1.25; 2: 1 / sqrt 1.25; 3: -0.5 / sqrt 1.25; 4: zeros."""
    rate = Similarity().rate(context(EVENTS)).rate
    found = rate(batch((1, [0, 1, 2], 3), (2, [0, 0, 0], 1)), torch.tensor([[1, 2, 3, 4, 0], [1, 2, 3, 4, 0]]))
    long = math.sqrt(1.25)
    assert found[0].tolist() == pytest.approx([0.5 / long, 1 / long, -0.5 / long, 0, -math.inf])
    assert found[1].tolist() == pytest.approx([0, 0, 0, 0, -math.inf])  # an empty history


def test_popular_is_a_power_of_one_plus_the_events() -> None:
    """Events 2, 1, 2, 0 give (1 + events)^alpha with bases 3, 2, 3, 1."""
    for alpha, expected in ((1.0, [3, 2, 3, 1]), (0.5, [3**0.5, 2**0.5, 3**0.5, 1]), (-1.0, [1 / 3, 1 / 2, 1 / 3, 1]), (0.0, [1] * 4)):
        found = Popular(alpha).rate(context(EVENTS)).rate(batch((9, [1], 1)), torch.tensor([[1, 2, 3, 4, 0]]))
        assert found[0].tolist() == pytest.approx([*expected, -math.inf])


def test_rating_recency_by_hand() -> None:
    """User 1 after item 2, on day 3: item 3 follows 8 days later with 2 stars, item 1 was 3 days before with 5, item 2 has delay 0."""
    rate = RatingRecency(default=1.5, decay=0.5).rate(context(EVENTS)).rate
    found = rate(batch((1, [1, 2], 3)), torch.tensor([[3, 1, 2, 4, 0]]))
    assert found[0].tolist() == pytest.approx([2 / 3, 5 / 2, 4.0, 1.5, -math.inf])
    plain = RatingRecency(default=1.5, decay=0.0).rate(context(EVENTS)).rate
    assert plain(batch((1, [1, 2], 3)), torch.tensor([[3, 1, 2, 4, 0]]))[0].tolist() == pytest.approx([2, 5, 4, 1.5, -math.inf])


def test_unrated_items_have_the_default() -> None:
    """User 2 took item 1 without a rating and never items 2 and 4; user 7 took nothing."""
    rate = RatingRecency(default=2.5).rate(context(EVENTS)).rate
    found = rate(batch((2, [0, 3], 1), (7, [0, 1], 2)), torch.tensor([[1, 2, 3, 4], [1, 2, 3, 4]]))
    assert found.tolist() == [[2.5, 2.5, 3.0, 2.5], [2.5] * 4]


def test_without_a_last_event_the_delay_is_0() -> None:
    """The history is empty, or its last item is not in the training events."""
    rate = RatingRecency().rate(context(EVENTS)).rate
    found = rate(batch((1, [0, 0], 3), (1, [0, 4], 3)), torch.tensor([[1, 3], [1, 3]]))
    assert found.tolist() == [[5.0, 2.0], [5.0, 2.0]]


def test_the_last_of_two_events_counts() -> None:
    rows = [(1, 1, 0, 5.0), (1, 2, 9 * DAY, 1.0), (1, 2, 3 * DAY, 4.0)]
    found = RatingRecency(decay=1.0).rate(context(rows)).rate(batch((1, [1], 2)), torch.tensor([[2]]))
    assert float(found) == pytest.approx(1.0 / 10)


def test_the_last_event_counts_also_for_an_earlier_row() -> None:
    """Item 1 on days 0 and 9, item 2 on days 1 and 4. The row of days 0 and 1 gets 3 / (1 + 5), not 5 / (1 + 1)."""
    rows = [(1, 1, 0, 2.0), (1, 2, DAY, 5.0), (1, 2, 4 * DAY, 3.0), (1, 1, 9 * DAY, 1.0)]
    found = RatingRecency(decay=1.0).rate(context(rows)).rate(batch((1, [1], 2)), torch.tensor([[2]]))
    assert float(found) == pytest.approx(3.0 / 6)
    steps = StepDiscountedRating(decay=1.0).rate(context(rows)).rate(batch((1, [1], 2)), torch.tensor([[2]]))
    assert float(steps) == 5.0, "the first event after the history, at step 0"


events = st.lists(
    st.tuples(st.integers(0, 4), st.integers(1, 4), st.integers(0, 40), st.sampled_from([NAN, 1.0, 3.0, 5.0])), min_size=1
)


@given(events, st.floats(0, 2), st.integers(0, 2**31))
def test_rating_recency_equals_a_loop(rows: list[tuple[int, int, int, float]], decay: float, seed: int) -> None:
    rows = list({(user, item): (user, item, days * DAY, rating) for user, item, days, rating in rows}.values())
    source = torch.Generator().manual_seed(seed)
    items, history = (torch.randint(0, 5, (6, 3), generator=source) for _ in range(2))
    users = torch.randint(0, 6, (6,), generator=source)
    found = RatingRecency(2.0, decay).rate(context(rows)).rate(SequenceBatch(users, history, items[:, 0]), items)
    known = {(user, item): (time, rating) for user, item, time, rating in rows}
    for row in range(6):
        last = known.get((int(users[row]), int(history[row, -1])))
        for place in range(3):
            item = int(items[row, place])
            event = known.get((int(users[row]), item))
            expected = -math.inf if item == 0 else 2.0
            if event is not None and not math.isnan(event[1]):
                days = abs(event[0] - last[0]) / DAY if last is not None else 0.0
                expected = event[1] * (1 + days) ** -decay
            assert float(found[row, place]) == pytest.approx(expected, rel=1e-6)


class Fixed(nn.Module):
    """A policy with log-probability -item - (last item of the history). Item 0 looks likely; a reward must mask it."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))

    def log_prob(self, history: Tensor, items: Tensor) -> Tensor:
        return -self.weight * items - history[:, -1:]


def test_log_probability_is_the_policy_s_and_detached() -> None:
    rate = LogProbability().rate(context(EVENTS, Fixed())).rate  # type: ignore[arg-type]
    found = rate(batch((1, [0, 2], 3), (1, [0, 3], 3)), torch.tensor([[1, 4, 0], [2, 0, 3]]))
    assert found.tolist() == [[-3.0, -6.0, -math.inf], [-5.0, -math.inf, -6.0]]
    assert not found.requires_grad


def test_log_probability_of_a_real_policy() -> None:
    made = sampler_context()
    assert made.policy is not None
    history, items = torch.tensor([[0, 3, 5]]), torch.tensor([[1, 2, 60, 0]])
    found = LogProbability().rate(made).rate(SequenceBatch(torch.tensor([0]), history, items[:, 0]), items)
    torch.testing.assert_close(found, made.policy.log_prob(history, items))
    assert found[0, 3] == -math.inf


def test_missing_inputs_are_named() -> None:
    bare = context(EVENTS)
    with pytest.raises(InputError, match=r"LogProbability needs a policy, got a context without one.*the SFT policy"):
        LogProbability().rate(bare)
    with pytest.raises(InputError, match=r"RatingRecency needs ratings.* columns user, item, time: use a source with ratings"):
        RatingRecency().rate(bare._replace(interactions=bare.interactions.drop(columns="rating")))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: RatingRecency(default=0.0), r"RatingRecency.default must be above 0 and finite, got 0.0"),
        (lambda: RatingRecency(default=NAN), r"RatingRecency.default must be above 0 and finite, got nan"),
        (lambda: RatingRecency(decay=-1.0), r"RatingRecency.decay must be 0 or more and finite, got -1.0"),
        (lambda: RatingRecency(decay="x"), r"RatingRecency.decay must be 0 or more and finite, got 'x'"),
        (lambda: Popular(None), r"Popular.alpha must be finite, got None"),
        (lambda: Popular(-(10**400)), r"Popular.alpha must be finite, got an integer too large for a float"),
        (lambda: Popular(math.inf), r"Popular.alpha must be finite, got inf"),
    ],
)
def test_fields_are_checked(make: object, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        make()  # type: ignore[operator]


@pytest.mark.parametrize(
    ("loss", "reward"),
    [(RecPO(), RatingRecency()), (RosePO(), Similarity()), (RosePO(), Popular(0.2)), (RosePO(), LogProbability())],
    ids=stable_id,
)
def test_losses_accept_the_rewards(loss: RecPO | RosePO, reward: Reward) -> None:
    """As in training: rate the positive and the negatives, then compute the loss."""
    made = sampler_context()
    source = np.random.default_rng(0)
    items = torch.from_numpy(source.integers(1, 61, (5, 4)))
    items[2, 3] = 0
    histories = torch.from_numpy(source.integers(1, 61, (5, 6)))
    rows = SequenceBatch(torch.arange(5), histories, items[:, 0])
    assert made.policy is not None
    scores = made.policy.log_prob(histories, items)
    policy = LogProbs(scores[:, 0], scores[:, 1:], 3, None, reward.rate(made).rate(rows, items))
    assert loss(policy, policy).loss.isfinite().all()


@pytest.mark.parametrize("module", ["losses", "rewards"])
def test_importing_losses_and_rewards_imports_no_heavy_library(module: str) -> None:
    """Experiments import them."""
    code = f"import sys, genrec.preference.{module}; print([n for n in ('faiss', 'sklearn', 'pandas') if n in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
