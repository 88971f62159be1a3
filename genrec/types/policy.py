"""Recommenders: what they are given, what they return, and what a policy can do."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol, runtime_checkable

if TYPE_CHECKING:
    from pandas import DataFrame
    from torch import Tensor

    from genrec.semantic_ids import SemanticIds


class SequenceBatch(NamedTuple):
    """Users' histories and the item each took next."""

    user: Tensor  # int64 [B]
    history: Tensor  # int64 [B, T]  items, oldest first, left-padded with 0
    target: Tensor  # int64 [B]


class WindowBatch(NamedTuple):
    """Windows of users' sequences: every item in one may have a target, the item that comes after it."""

    user: Tensor  # int64 [B]
    history: Tensor  # int64 [B, T]  items, oldest first, left-padded with 0; repeated padding has a 0 between repeats
    target: Tensor  # int64 [B, T]  the item after each; 0 = not a target


class Ranking(NamedTuple):
    """The best items of each user."""

    items: Tensor  # int64 [B, n]  best first, 0 where there are fewer than n
    scores: Tensor  # float32 [B, n]  -inf where there is no item


@runtime_checkable
class Recommender(Protocol):
    """Whatever can be evaluated."""

    def recommend(self, history: Tensor, n: int, exclude: Tensor | None = None) -> Ranking:
        """int64 [B, T] -> the best `n` items of each user; `exclude` int64 [B, E] (0 = none) are never recommended."""
        ...


@runtime_checkable
class ExactRecommender(Recommender, Protocol):
    """A recommender whose `recommend` prunes (a beam) and that can also score the whole catalog."""

    def recommend_exactly(self, history: Tensor, n: int, exclude: Tensor | None = None) -> Ranking:
        """What `recommend` returns if nothing is pruned: the `n` best of all items."""
        ...


@runtime_checkable
class Policy(Recommender, Protocol):
    """A generative recommender, an nn.Module: p(item | history) over the Semantic IDs' codes."""

    def level_log_prob(self, history: Tensor, items: Tensor) -> Tensor:
        """History int64 [B, T], candidates int64 [B, M] -> float32 [B, M, L]; the history is encoded once for all M."""
        ...

    def log_prob(self, history: Tensor, items: Tensor) -> Tensor:
        """The sum of `level_log_prob` over levels, float32 [B, M]; -inf where the candidate is 0."""
        ...


@runtime_checkable
class SequencePolicy(Policy, Protocol):
    """A policy that reads a history causally, item by item, so that one pass scores the item after every prefix of it."""

    def sequence_log_prob(self, history: Tensor, targets: Tensor) -> Tensor:
        """History int64 [B, T], the item after each place int64 [B, T] (0 = none) -> float32 [B, T, L].

        Place `t` holds `level_log_prob(history[:, : t + 1], targets[:, t])`, and -inf where its target is 0.
        """
        ...


@runtime_checkable
class ConstrainedPolicy(Policy, Protocol):
    """A policy that can also normalize over the codes that lead to a real item: the probabilities of all items then add up to 1."""

    def constrained_level_log_prob(self, history: Tensor, items: Tensor) -> Tensor:
        """`level_log_prob` with every level's softmax over the children of the candidate's prefix alone, float32 [B, M, L]."""
        ...


@runtime_checkable
class PrefixPolicy(Policy, Protocol):
    """A policy that can search below a prefix."""

    def recommend_below(self, history: Tensor, items: Tensor, depth: int, n: int) -> Ranking:
        """The `n` best items that share the first `depth` codes with items int64 [B]; int64 [B, T] -> Ranking [B, n]."""
        ...


@runtime_checkable
class VectorPolicy(Policy, Protocol):
    """A policy that has learned a vector for every item."""

    def item_vectors(self) -> Tensor:
        """float32 [N + 1, D], row 0 zeros; detached."""
        ...


@runtime_checkable
class PolicySpecification(Protocol):
    """A policy's architecture; `build` makes it, untrained.

    A specification that builds a `SequencePolicy` has an attribute `causal` that is true. One that fits some experiments only has a method
    `check` (see `genrec.types.CheckedSpecification`).
    """

    def build(self, semantic_ids: SemanticIds) -> Policy:
        """The policy that writes these Semantic IDs. Its initial weights come from torch's global generator."""
        ...


@runtime_checkable
class Baseline(Protocol):
    """A recommender with nothing to train: it is fitted on the training interactions whenever it is evaluated."""

    def fit(self, interactions: DataFrame, item_count: int) -> Recommender:
        """Training interactions (user, item, time; sorted by user and time) -> a recommender over items 1..item_count."""
        ...


@runtime_checkable
class Metric(Protocol):
    """A ranking metric of one held-out target per user."""

    def __call__(self, rank: Tensor, n: int) -> Tensor:
        """int64 [U], 1-based, 0 = missed -> float32 [U]."""
        ...
