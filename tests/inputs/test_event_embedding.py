"""The inputs of `Tiger` and `Gpt`: buckets by hand, the place of the user, no leak of a target, and weights without inputs."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from genrec.errors import UsageError
from genrec.model import Gpt, Liger, Tiger
from genrec.model.event_embedding import USER, EventEmbedding, with_user_place
from genrec.semantic_ids import SemanticIds
from genrec.store import describe
from genrec.testing import ContractError, check_policy
from genrec.testing.event_histories import shake_weights, with_random_inputs
from genrec.types import EventHistory, Ranking

NAN = float("nan")
IDS = SemanticIds(torch.stack(torch.unravel_index(torch.arange(40), (4, 2, 5)), 1), (4, 2, 5))
ALL: dict[str, Any] = {"user_tokens": 50, "time_buckets": 24, "ratings": (1, 2, 3, 4, 5)}
SMALL: dict[str, Any] = {"d_model": 16, "d_ff": 32, "num_heads": 2, "d_kv": 8}
SMALL_TIGER = Tiger(**SMALL, num_encoder_layers=1, num_decoder_layers=1)
CAUSAL = replace(SMALL_TIGER, encoder="causal")
SMALL_GPT = Gpt(**SMALL, num_layers=1)
CHOICES = [ALL, {"user_tokens": 50}, {"time_buckets": 24}, {"ratings": (1.0, 3.5)}]


def built(specification: Any) -> Any:
    torch.manual_seed(0)
    return specification.build(IDS).eval()


@pytest.mark.parametrize("choice", CHOICES, ids=["all", "user", "time", "rating"])
@pytest.mark.parametrize(
    "base", [SMALL_TIGER, replace(SMALL_TIGER, history="items"), CAUSAL, SMALL_GPT], ids=lambda each: repr(each)[:5]
)
def test_policies_with_inputs_keep_the_contract(base: Any, choice: dict[str, Any]) -> None:
    """Padding, the batch and later events change nothing, every prefix of a window equals the prefix alone, and inputs are read."""
    check_policy(replace(base, **choice))


def test_time_buckets_by_hand() -> None:
    """Gaps of 0, 1, 2, 3, 7 seconds have the buckets 1 + floor(log2(1 + gap)) = 1, 2, 2, 3, 4; the first event of a row has 0."""
    time = torch.tensor([[0, 10, 10, 11, 13, 16, 23, 5]])
    items = torch.tensor([[0, 1, 2, 3, 4, 5, 6, 7]])
    events = EventEmbedding(Tiger(time_buckets=3), 4)
    assert events.time_bucket(EventHistory(items, time=time)).tolist() == [[0, 0, 1, 2, 2, 3, 3, 1]]  # the last bucket is 3
    events = EventEmbedding(Tiger(time_buckets=62), 4)
    assert events.time_bucket(EventHistory(items, time=time)).tolist() == [[0, 0, 1, 2, 2, 3, 4, 1]]
    hidden = EventHistory(items.masked_fill(items == 3, 0), time=time.masked_fill(items == 3, 0))
    assert events.time_bucket(hidden).tolist() == [[0, 0, 1, 0, 0, 3, 4, 1]]  # 0 after a hidden event


def test_rating_buckets_by_hand() -> None:
    """Of the ratings 1, 3 and 4.5 a rating of 3.5 is the second, one of 0.5 is the lowest, and none is 0."""
    events = EventEmbedding(Tiger(ratings=(1, 3, 4.5)), 4)
    rating = torch.tensor([[NAN, NAN, 0.5, 1.0, 2.9, 3.0, 3.5, 4.5, 9.0]])
    items = torch.tensor([[0, 1, 2, 3, 4, 5, 6, 7, 8]])
    assert events.rating_bucket(EventHistory(items, rating=rating)).tolist() == [[0, 0, 1, 1, 1, 2, 2, 3, 3]]


def test_the_place_of_the_user_by_hand() -> None:
    """It is directly before the oldest item, whatever the padding, and last in a history without items."""
    items = torch.tensor([[0, 0, 7], [5, 6, 7], [0, 0, 0], [0, 8, 0]])
    found = with_user_place(EventHistory(items, torch.arange(4)))
    assert found.items.tolist() == [[0, 0, USER, 7], [USER, 5, 6, 7], [0, 0, 0, USER], [0, USER, 8, 0]]


@pytest.mark.parametrize("base", [SMALL_TIGER, CAUSAL, SMALL_GPT], ids=["tiger", "causal", "gpt"])
def test_inputs_change_no_other_weight_and_none_exist_by_default(base: Any) -> None:
    """Without inputs the weights and the description for the key are those of before; with inputs the others keep their values."""
    without, with_all = (built(each).state_dict() for each in (base, replace(base, **ALL)))
    assert not [key for key in without if key.startswith("events.")]
    assert set(with_all) - set(without) == {f"events.{name}.weight" for name in ("user", "time", "rating")}
    assert all(torch.equal(without[key], with_all[key]) for key in without)
    described: Any = describe(base, Path(), "policy")
    assert not set(ALL) & set(described)
    assert set(ALL) <= set(describe(replace(base, **ALL), Path(), "policy"))  # type: ignore[arg-type, call-overload]


@pytest.mark.parametrize("base", [CAUSAL, SMALL_GPT], ids=["tiger", "gpt"])
@given(seed=st.integers(0, 10_000), place=st.integers(0, 4))
def test_a_target_and_what_follows_it_is_not_read(base: Any, seed: int, place: int) -> None:
    """A target has the same score whatever the times and ratings of its own event and of later ones; later targets do change."""
    policy = built(replace(base, **ALL))
    shake_weights(policy)
    items = torch.randint(1, 41, (2, 6), generator=torch.Generator().manual_seed(seed))
    first: Any = with_random_inputs(items, ("user", "time", "rating"), seed)
    other: Any = with_random_inputs(items, ("user", "time", "rating"), seed + 1)
    later = torch.arange(6) > place
    rating = torch.where(later & first.rating.isnan(), 3.0, first.rating.masked_fill(later & ~first.rating.isnan(), NAN))
    second = EventHistory(items, first.user, torch.where(later, other.time, first.time), rating)
    targets = nn.functional.pad(items[:, 1:], (0, 1), value=3)
    before, after = (policy.sequence_log_prob(each, targets) for each in (first, second))
    assert torch.allclose(before[:, : place + 1], after[:, : place + 1], atol=1e-5)
    assert not torch.allclose(before[:, place + 1 :], after[:, place + 1 :], atol=1e-5)


def test_a_user_has_the_token_of_the_hash() -> None:
    """Users 3 and 53 share one of 50 tokens, and user 4 has another."""
    policy = built(replace(SMALL_TIGER, user_tokens=50))
    history: Any = EventHistory(torch.tensor([[1, 2]]).expand(3, -1), torch.tensor([3, 53, 4]))
    scores = policy.log_prob(history, torch.arange(1, 41).expand(3, -1))
    assert torch.allclose(scores[0], scores[1])
    assert not torch.allclose(scores[0], scores[2], atol=1e-4)


@pytest.mark.parametrize("base", [SMALL_TIGER, SMALL_GPT], ids=["tiger", "gpt"])
def test_items_alone_are_refused(base: Any) -> None:
    policy, items = built(replace(base, time_buckets=8)), torch.tensor([[1, 2]])
    for history in (items, EventHistory(items, user=torch.tensor([1]))):
        with pytest.raises(UsageError, match=r"reads time of a history beside its items, and got (items alone|user)"):
            policy.recommend(history, 5)


def test_a_larger_catalog_keeps_the_inputs() -> None:
    policy = built(replace(SMALL_GPT, **ALL))
    larger = policy.extended(IDS.extend(torch.tensor([[0, 0, 0]])))
    assert torch.equal(larger.events.user.weight, policy.events.user.weight)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Tiger(user_tokens=-1), "policy.user_tokens must be at least 0"),
        (lambda: Gpt(time_buckets=-1), "policy.time_buckets must be at least 0"),
        (lambda: Tiger(ratings=(1, 1)), r"policy.ratings must be finite numbers that ascend, such as \(1, 2, 3, 4, 5\), got \(1, 1\)"),
        (lambda: Tiger(ratings=(NAN,)), "policy.ratings must be finite numbers"),
        (lambda: Liger(tiger=Tiger(user_tokens=2_000)), "Liger reads the items of a history alone, and policy.tiger reads user"),
    ],
)
def test_wrong_fields_are_refused(make: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        make()


class Own(nn.Module):
    """A policy of a user in a few lines: a softmax over each level's codes from the last item, its rating and the user."""

    def __init__(self, semantic_ids: SemanticIds, reads_rating: bool, refuses: bool) -> None:
        super().__init__()
        self.semantic_ids, self.reads_rating, self.refuses = semantic_ids, reads_rating, refuses
        self.last, self.user, self.rating = nn.Embedding(semantic_ids.items + 1, 8), nn.Embedding(100, 8), nn.Embedding(6, 8)
        self.heads = nn.ModuleList(nn.Linear(8, size) for size in semantic_ids.level_sizes)
        self.register_buffer("codes", nn.functional.pad(semantic_ids.codes, (0, 0, 1, 0)), persistent=False)

    def level_log_prob(self, history: Any, items: Tensor) -> Tensor:
        if not self.refuses and isinstance(history, Tensor):
            history = EventHistory(history, torch.zeros(len(history), dtype=torch.int64), rating=torch.full(history.shape, NAN))
        state = self.last(history.items[:, -1]) + self.user(history.user % 100)
        if self.reads_rating:
            state = state + self.rating(history.rating[:, -1].nan_to_num(0).long())
        levels = [head(state).log_softmax(-1) for head in self.heads]
        codes = self.codes[items]
        found = torch.stack([each.gather(1, codes[..., level]) for level, each in enumerate(levels)], -1)
        return found.masked_fill((items == 0).unsqueeze(-1), -torch.inf)

    def log_prob(self, history: Any, items: Tensor) -> Tensor:
        return self.level_log_prob(history, items).sum(-1)

    @torch.no_grad()
    def recommend(self, history: Any, n: int, exclude: Tensor | None = None) -> Ranking:
        scores = self.log_prob(history, torch.arange(self.semantic_ids.items + 1).expand(len(history), -1))
        scores = scores if exclude is None else scores.scatter(1, exclude, -torch.inf)
        scores, items = scores.sort(dim=1, descending=True, stable=True)
        return Ranking(items[:, :n].masked_fill(scores[:, :n] == -torch.inf, 0), scores[:, :n])


@dataclass(frozen=True)
class OwnPolicy:
    """The specification of `Own`."""

    inputs: tuple[Any, ...] = ("user", "rating")
    reads_rating: bool = True
    refuses: bool = True

    def history_inputs(self) -> tuple[Any, ...]:
        return self.inputs

    def build(self, semantic_ids: SemanticIds) -> Own:
        return Own(semantic_ids, self.reads_rating, self.refuses)


def test_an_own_policy_may_ask() -> None:
    check_policy(OwnPolicy())


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (OwnPolicy(reads_rating=False), r"OwnPolicy: history_inputs\(\) asks for rating, and the log-probabilities are the same"),
        (OwnPolicy(refuses=False), "asks for user, rating, and level_log_prob takes items alone without an error"),
        (OwnPolicy(inputs=("age",)), r"history_inputs\(\) must return a tuple of user, time, rating"),
    ],
)
def test_a_policy_that_drops_an_input_is_found(broken: Any, message: str) -> None:
    with pytest.raises(ContractError, match=message):
        check_policy(broken)


@pytest.mark.parametrize("ratings", [True, 5, "12345", (True, 2), (2, 1), (1, float("nan")), (1, float("inf"))])
def test_ratings_that_do_not_ascend_are_refused(ratings: Any) -> None:
    with pytest.raises(UsageError, match=r"^policy\.ratings must be finite numbers that ascend, such as \(1, 2, 3, 4, 5\), got "):
        Gpt(ratings=ratings)


def test_one_token_of_all_users_is_refused() -> None:
    with pytest.raises(UsageError, match=r"policy\.user_tokens must be 0 or at least 2, got 1"):
        Gpt(user_tokens=1)


@pytest.mark.parametrize("time_buckets", [2, 8])
def test_few_buckets_of_times_are_found_to_be_read(time_buckets: int) -> None:
    check_policy(Gpt(d_model=16, d_ff=16, num_heads=2, d_kv=8, num_layers=1, time_buckets=time_buckets))
