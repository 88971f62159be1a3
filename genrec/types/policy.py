"""Protocols of recommenders, policies and baselines, and the tensors that they exchange."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol, runtime_checkable

from genrec.types.event_history import items_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pandas import DataFrame
    from torch import Generator, Tensor

    from genrec.semantic_ids import SemanticIds


class SequenceBatch(NamedTuple):
    """A batch of users, each with a history and the next item."""

    user: Tensor  # int64 [B]
    history: Tensor  # int64 [B, T]  items, oldest first, left-padded with 0; an `EventHistory` for a policy that asks for inputs
    target: Tensor  # int64 [B]  the item that follows the history

    @property
    def items(self) -> Tensor:
        """The items of the histories, int64 [B, T], also of a policy that asks for inputs beside them."""
        return items_of(self.history)


class WindowBatch(NamedTuple):
    """A batch of windows of users' sequences, with a target after every item."""

    user: Tensor  # int64 [B]
    history: Tensor  # int64 [B, T]  items, oldest first, left-padded with 0; repeated padding has a 0 between repetitions
    target: Tensor  # int64 [B, T]  the item that follows each place; 0 = not a target

    @property
    def items(self) -> Tensor:
        """The items of the windows, int64 [B, T], also of a policy that asks for inputs beside them."""
        return items_of(self.history)


class Ranking(NamedTuple):
    """The best items of each user."""

    items: Tensor  # int64 [B, n]  best first; 0 at the end of a list with fewer than n items
    scores: Tensor  # float32 [B, n]  -inf where there is no item


class ItemSample(NamedTuple):
    """Items drawn without replacement, in the order of the draws. Of the items of one Semantic ID only the lowest one is drawn."""

    items: Tensor  # int64 [B, n]  0 at the end of a row with fewer than n items
    log_prob: Tensor  # float32 [B, n]  log p(item | history) as `Policy.log_prob` gives it; -inf where there is no item
    constrained: Tensor  # float32 [B, n]  the same by the probabilities that were sampled: over the codes of real items only
    threshold: Tensor  # float32 [B]  kappa, the next perturbed log-probability after the last draw; -inf where nothing is left


@runtime_checkable
class Recommender(Protocol):
    """Anything that can be evaluated."""

    def recommend(self, history: Tensor, n: int, exclude: Tensor | None = None) -> Ranking:
        """Return the `n` best items of each user.

        `history` is int64 [B, T], left-padded with 0. Items of `exclude`, int64 [B, E] (0 = none), are never returned.
        """
        ...


@runtime_checkable
class UserRecommender(Recommender, Protocol):
    """A recommender that knows more about the users of its training interactions than the given history.

    Evaluation calls `recommend_to` for the test users. `recommend` gives the list of somebody without training interactions.
    """

    def recommend_to(self, user: Tensor, history: Tensor, n: int, exclude: Tensor | None = None) -> Ranking:
        """Return the `n` best items of each user; `history`, `n` and `exclude` as in `recommend`.

        `user` is int64 [B], with the numbers of the training interactions. A number without training interactions gets the list of
        `recommend`.
        """
        ...


@runtime_checkable
class ItemScorer(Protocol):
    """A recommender that scores given items, such as a fitted baseline; `genrec.preference.rewards.BaselineScore` reads it."""

    def score_items(self, user: Tensor, history: Tensor, items: Tensor) -> Tensor:
        """Return the scores of items int64 [B, M] for users int64 [B] with histories int64 [B, T]: float32 [B, M], on their device.

        They are the scores of `recommend_to`, or of `recommend` if the recommender knows no users. A user without training
        interactions, such as -1, is scored by the history alone. Item 0 has -inf, and every other item a finite score.
        """
        ...


@runtime_checkable
class ExactRecommender(Recommender, Protocol):
    """A recommender that can score the whole catalog, because its `recommend` prunes (beam search)."""

    def recommend_exactly(self, history: Tensor, n: int, exclude: Tensor | None = None) -> Ranking:
        """Return the `n` best of all items, without pruning; arguments as in `recommend`."""
        ...


@runtime_checkable
class Policy(Recommender, Protocol):
    """A generative recommender, an nn.Module that models p(item | history) as a product over the codes of a Semantic ID."""

    def level_log_prob(self, history: Tensor, items: Tensor) -> Tensor:
        """Return the log-probability of each code of each candidate, given the history and the codes before it.

        `history` is int64 [B, T], `items` int64 [B, M]; the result is float32 [B, M, L], -inf where the candidate is 0. The history is
        encoded once for all M candidates. A `CatalogPolicy` scores an item as one code: L is 1.
        """
        ...

    def log_prob(self, history: Tensor, items: Tensor) -> Tensor:
        """Return log p(item | history), the sum of `level_log_prob` over levels: float32 [B, M], -inf where the candidate is 0."""
        ...


@runtime_checkable
class SequencePolicy(Policy, Protocol):
    """A policy that reads a history causally, so that one pass scores the next item after every prefix."""

    def sequence_log_prob(self, history: Tensor, targets: Tensor) -> Tensor:
        """Return the log-probability of a target after every place of the history.

        `history` and `targets` are int64 [B, T], a target of 0 is none. Place `t` of the result, float32 [B, T, L], equals
        `level_log_prob(history[:, : t + 1], targets[:, t])`, and -inf where the target is 0.
        """
        ...


@runtime_checkable
class LossPolicy(Policy, Protocol):
    """A policy that SFT may train with another loss than its negative log-likelihood."""

    def sequence_loss(self, history: Tensor, targets: Tensor, generator: Generator) -> Tensor | None:
        """Return the mean loss of the targets after the places of the history, a scalar; None: SFT uses the log-likelihood.

        `history` and `targets` are int64 [B, T], a target of 0 is none. With one target per history it is that of the last place.
        Random numbers are drawn from `generator`, a CPU generator that depends on the seed and the step.
        """
        ...


@runtime_checkable
class ItemLoss(Protocol):
    """A loss of policies over items that compares the target with sampled negatives. Scores are unnormalized."""

    def draw_items(self, targets: Tensor, num_items: int, generator: Generator) -> Tensor:
        """Return the negatives of targets int64 [C] of a batch, int64 [C, K], each 1..num_items or 0 for none, on their device.

        A negative is never the place's own target.
        """
        ...

    def item_loss(self, positive: Tensor, negatives: Tensor, num_items: int) -> Tensor:
        """Return the loss of each target, float32 [C].

        `positive` float32 [C] holds the targets' scores, `negatives` float32 [C, K] those of their negatives, -inf for none.
        """
        ...


@runtime_checkable
class SamplingCorrection(Protocol):
    """A part of an `ItemLoss`: scores are corrected for the probability that an item is drawn as a negative (logQ).

    Callers then keep one of the equal negatives of a place, and subtract `log_inclusion` from the scores of the target and of
    the negatives before `item_loss`. See `genrec.sampled_item_loss`.
    """

    def log_inclusion(self, targets: Tensor, items: Tensor, num_items: int) -> Tensor | None:
        """Return log pi of candidates int64 [C, M] of targets int64 [C] of a batch, float32 [C, M], finite; None: no correction.

        pi is the probability, given the targets of the other places, that `draw_items` draws the item at least once if the place has
        another target. For item 0, which is none, any finite value.
        """
        ...


@runtime_checkable
class ConstrainedPolicy(Policy, Protocol):
    """A policy that can normalize over the codes of real items only, so that the probabilities of all items add up to 1."""

    def constrained_level_log_prob(self, history: Tensor, items: Tensor) -> Tensor:
        """Return `level_log_prob` with each level's softmax over the children of the candidate's prefix only, float32 [B, M, L]."""
        ...


@runtime_checkable
class PrefixPolicy(Policy, Protocol):
    """A policy that can search among the items that share a prefix."""

    def recommend_below(self, history: Tensor, items: Tensor, depth: int, n: int) -> Ranking:
        """Return the `n` best items among those that share their first `depth` codes with `items`, int64 [B]: Ranking [B, n]."""
        ...


@runtime_checkable
class SamplingPolicy(Policy, Protocol):
    """A policy that can draw items without replacement from its probabilities over the codes of real items only."""

    def sample_items(self, history: Tensor, n: int, exclude: Tensor | None, generator: Generator) -> ItemSample:
        """Draw `n` distinct items for each history int64 [B, T], without a gradient; all items if there are no more than `n`.

        Items of `exclude`, int64 [B, E] (0 = none), are never drawn: the others keep the ratios of their probabilities. `generator`
        is on the device of `history`.
        """
        ...


@runtime_checkable
class VectorPolicy(Policy, Protocol):
    """A policy that has a learned vector for every item."""

    def item_vectors(self) -> Tensor:
        """Return the item vectors, float32 [N + 1, D], detached; row 0 is zero."""
        ...


@runtime_checkable
class PolicySpecification(Protocol):
    """The architecture of a policy, a frozen dataclass.

    A specification that builds a `SequencePolicy` has an attribute `causal` that is true. A specification that does not fit every
    experiment has a method `check` (see `genrec.types.CheckedSpecification`).
    """

    def build(self, semantic_ids: SemanticIds) -> Policy:
        """Return an untrained policy for these Semantic IDs; its initial weights are drawn from torch's global generator."""
        ...


@runtime_checkable
class WholeItemSpecification(PolicySpecification, Protocol):
    """The architecture of a policy over Semantic IDs of several levels that may score an item as one code (`CatalogPolicy`).

    Log-probabilities then have one level, whatever the Semantic IDs have. Components that read levels refuse such a policy before any
    stage runs.
    """

    def scores_whole_items(self) -> bool:
        """Return whether `build` returns a `CatalogPolicy`."""
        ...


@runtime_checkable
class Baseline(Protocol):
    """A recommender without training steps: it is fitted on the training interactions at evaluation."""

    def fit(self, interactions: DataFrame, item_count: int) -> Recommender:
        """Return a recommender of items 1..item_count.

        `interactions` are the training interactions (user, item, time), sorted by user and time.
        """
        ...


@runtime_checkable
class PartsBaseline(Baseline, Protocol):
    """A baseline that chooses the parts of the data that it is fitted on. Other baselines are fitted on the training part."""

    def parts(self) -> tuple[Literal["train", "validation"], ...]:
        """Return the parts of the interactions that `fit` gets for the test: ("train",) or ("train", "validation")."""
        ...


@runtime_checkable
class RestorableBaseline(Baseline, Protocol):
    """A baseline that `genrec export` can write: lists for a history need only tensors of what was fitted, and no users."""

    def tensors(self, fitted: Any) -> dict[str, Tensor]:
        """Return what `restore` needs of a recommender that `fit` has returned. No tensor describes a single user."""
        ...

    def restore(self, tensors: Mapping[str, Tensor]) -> Recommender:
        """Return a recommender with the lists and scores (`score_items`) of a user without training interactions."""
        ...


@runtime_checkable
class Metric(Protocol):
    """A ranking metric for one held-out target per user."""

    def __call__(self, rank: Tensor, n: int) -> Tensor:
        """Return the metric at cutoff `n`, float32 [U], of ranks int64 [U] (1 = first, 0 = not in the list)."""
        ...
