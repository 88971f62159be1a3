"""The parts that all policies over items share: scores, log-probabilities, losses and the ranking of the whole catalog.

A policy over items has one level, in which item i has code i - 1. It encodes a history causally, and the score of an item is the dot
product of a state and the item's weights. `SASRec` and `GRU4Rec` use these functions, and so can other policies:

    class MyPolicy(nn.Module):
        def encode(self, history):
            ...  # int64 [B, T] -> float32 [B, T, D]; the state of a place depends on the items up to there only

        def output_weights(self):
            return self.embedding.weight  # float32 [N + 1, D]; row 0 is no item

        def level_log_prob(self, history, items):
            return item_policy.level_log_prob(self, history, items)

The other methods are one call each too. A policy with a `genrec.repeat_score.RepeatScore` in its attribute `repeat_score` adds it to
the scores of the items of the history.
"""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn.functional import embedding, pad

from genrec.errors import UsageError
from genrec.item_rows import keys, ranking
from genrec.repeat_score import RepeatScore, seen_items
from genrec.row_chunks import in_chunks
from genrec.sampled_item_loss import mean_item_loss
from genrec.semantic_ids import SemanticIds
from genrec.smoothed_log_probs import gather_smoothed
from genrec.types import ItemLoss, Ranking

MAX_LOGITS = 2**25  # logits held at once in training, 128 MB; more are computed in chunks, and recomputed in the backward pass


class CausalItemPolicy(Protocol):
    """A policy that scores items by dot products with the states of a causal encoder."""

    def encode(self, history: Tensor) -> Tensor:
        """Encode histories int64 [B, T], 0 = none: float32 [B, T, D]; the state of place t depends on places 0..t only."""
        ...

    def output_weights(self) -> Tensor:
        """Return the weights of all items, float32 [N + 1, D]; row 0 is no item."""
        ...


def check_experiment(name: str, experiment: Any) -> None:
    """Raise UsageError if the experiment has a tokenizer; `name` is the policy's, for the message."""
    if experiment.tokenize is not None:
        raise UsageError(f"{experiment.name}: {name} scores items, not Semantic IDs; set tokenize=None (--tokenize None)")


def check_loss(loss: object, repeat_score: bool = False) -> None:
    """Raise UsageError unless a policy's field `loss` is None or an `ItemLoss`, and None with a repeat score."""
    if loss is not None and not isinstance(loss, ItemLoss):
        raise UsageError(f"policy.loss must be None (softmax over all items), GBCE(...) or SampledSoftmax(...), got {loss!r}")
    if repeat_score and loss is not None:
        raise UsageError("policy.repeat_score is learned by the softmax over all items; set policy.loss None")


def catalog_size(name: str, semantic_ids: SemanticIds) -> int:
    """Return the number of items. Raise UsageError unless every item is its own code; `name` is the policy's."""
    items = semantic_ids.items
    if semantic_ids.level_sizes != (items,) or not torch.equal(semantic_ids.codes[:, 0], torch.arange(items)):
        raise UsageError(
            f"{name} scores items, not Semantic IDs: expected one level in which item i has code i - 1, got {items} items with "
            f"{semantic_ids.levels} level(s) of {', '.join(map(str, semantic_ids.level_sizes))} codes; "
            "set tokenize=None (--tokenize None)"
        )
    return items


def level_log_prob(policy: CausalItemPolicy, history: Tensor, items: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """Return log p(item | history), int64 [B, T] and candidates int64 [B, M] -> float32 [B, M, 1]; the candidate 0 gets -inf.

    With label smoothing they are those of `genrec.types.LabelSmoothing`, smoothed over all items.
    """
    scores = gather_smoothed(_log_prob(policy, history), (items - 1).clamp(min=0), label_smoothing)
    return scores.masked_fill(items == 0, -torch.inf).unsqueeze(-1)


def place_level_log_prob(policy: CausalItemPolicy, history: Tensor, places: Tensor, items: Tensor) -> Tensor:
    """Score candidates int64 [X, M] after places int64 [X, 2] of histories int64 [B, T]: float32 [X, M, 1]; see `WindowPolicy`.

    Places are scored in chunks of at most MAX_LOGITS logits.
    """

    def log_prob(states: Tensor, items: Tensor, *seen: Tensor) -> Tensor:
        return _logits(policy, states, *seen).log_softmax(-1).gather(1, (items - 1).clamp(min=0))

    states, seen = _states(policy, history, places), seen_items(_repeat_score(policy), history, places)
    scores = in_chunks(log_prob, MAX_LOGITS // len(policy.output_weights()), states, items, *seen)
    return scores.masked_fill(items == 0, -torch.inf).unsqueeze(-1)


def catalog_log_prob(policy: CausalItemPolicy, history: Tensor, places: Tensor) -> Tensor:
    """Score all items after places int64 [X, 2] of histories int64 [B, T]: float32 [X, N]; see `genrec.types.CatalogPolicy`."""
    seen = seen_items(_repeat_score(policy), history, places)
    return _logits(policy, _states(policy, history, places), *seen).log_softmax(-1)


def sequence_log_prob(policy: CausalItemPolicy, history: Tensor, targets: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """Score the target after every place: history and targets int64 [B, T] (0 = none) -> float32 [B, T, 1]; see `SequencePolicy`.

    Only places with a target are scored, in chunks of at most MAX_LOGITS logits. With label smoothing they are those of
    `genrec.types.SequenceLabelSmoothing`.
    """
    has_target = targets > 0
    states, scored = policy.encode(history)[has_target], targets[has_target]

    def log_prob(states: Tensor, targets: Tensor, *seen: Tensor) -> Tensor:
        logits = _logits(policy, states, *seen)
        return -nn.functional.cross_entropy(logits, targets - 1, reduction="none", label_smoothing=label_smoothing)

    seen = seen_items(_repeat_score(policy), history, has_target.nonzero())
    log_probs = in_chunks(log_prob, MAX_LOGITS // len(policy.output_weights()), states, scored, *seen)
    empty = log_probs.new_full(targets.shape, -torch.inf)
    return empty.masked_scatter(has_target, log_probs).unsqueeze(-1)


def sequence_loss(
    policy: CausalItemPolicy, loss: ItemLoss | None, history: Tensor, targets: Tensor, generator: torch.Generator
) -> Tensor | None:
    """Return the mean of a loss over the targets after every place, a scalar; None without a loss. See `genrec.types.LossPolicy`.

    Scores are computed in chunks that gather at most MAX_LOGITS weights of negatives.
    """
    if loss is None:
        return None
    has_target, num_items = targets > 0, len(policy.output_weights()) - 1
    states, scored = policy.encode(history)[has_target], targets[has_target]

    def score(states: Tensor, candidates: Tensor) -> Tensor:
        scores = torch.bmm(embedding(candidates, policy.output_weights()), states.unsqueeze(-1)).squeeze(-1).float()
        return scores.masked_fill(candidates == 0, -torch.inf)

    def rows(num_candidates: int) -> int:
        return MAX_LOGITS // (num_candidates * states.shape[1])

    return mean_item_loss(loss, score, rows, states, scored, num_items, generator)


@torch.no_grad()
def recommend(policy: CausalItemPolicy, history: Tensor, n: int, exclude: Tensor | None) -> Ranking:
    """Return the `n` best of all items; see `genrec.types.Recommender`."""
    scores = pad(_log_prob(policy, history), (1, 0), value=-torch.inf)
    if exclude is not None:
        scores = scores.scatter(1, exclude, -torch.inf)
    return rank_all(scores, n)


def rank_all(scores: Tensor, n: int) -> Ranking:
    """Return the `n` best items; equal scores are ordered by the lower item id.

    `scores` is float32 [B, N + 1]. Column 0, which is no item, and excluded items are -inf.
    """
    return ranking(keys(scores, torch.arange(scores.shape[1], device=scores.device)), n, scores.isnan().any(1))


def _logits(policy: CausalItemPolicy, states: Tensor, seen: Tensor | None = None) -> Tensor:
    """Return the scores of items 1..N, float32 [C, N], of states float32 [C, D] after items int64 [C, T] of the history."""
    scores, repeat_score = (states @ policy.output_weights()[1:].T).float(), _repeat_score(policy)
    return scores if repeat_score is None or seen is None else repeat_score.added(scores, seen)


def _states(policy: CausalItemPolicy, history: Tensor, places: Tensor) -> Tensor:
    """Return the states of places int64 [X, 2] of histories int64 [B, T]: float32 [X, D]."""
    row, place = places.unbind(1)
    return policy.encode(history)[row, place]


def _repeat_score(policy: CausalItemPolicy) -> RepeatScore | None:
    """Return the policy's learned score of items of the history, None without one."""
    found = getattr(policy, "repeat_score", None)
    return found if isinstance(found, RepeatScore) else None


def _log_prob(policy: CausalItemPolicy, history: Tensor) -> Tensor:
    """Return log p of items 1..N after the last place, float32 [B, N]."""
    return _logits(policy, policy.encode(history)[:, -1], *seen_items(_repeat_score(policy), history)).log_softmax(-1)
