"""Validation during training, and the seen items of users."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Literal

import torch
from torch import Tensor

from genrec.baselines import ItemKNN, Popularity
from genrec.data.corpus import Corpus
from genrec.data.examples import examples
from genrec.data.splits import BEGIN, TEST, VALIDATION
from genrec.evaluation.comparison.compared_metric import PER_USER
from genrec.evaluation.evaluate import Evaluate, evaluate
from genrec.evaluation.metrics import ndcg, recall
from genrec.evaluation.shared_id_ties import per_user
from genrec.policy_modules import device_of
from genrec.semantic_ids import SemanticIds
from genrec.training.curves import mean_and_error
from genrec.training.model_selection import FILTERED, Selection
from genrec.training.recipes import SFT, Align
from genrec.training.user_batches import batches, select_users
from genrec.training.validation_feedback import ValidationFeedback
from genrec.types import Baseline, Policy, SequenceBatch
from genrec.types.event_history import inputs_of

MAX_KNN_ITEMS = 100_000  # largest catalog for which the picture of a training shows ItemKNN


def validation_score(
    policy: Policy, corpus: Corpus, experiment: Any, recipe: SFT | Align, semantic_ids: SemanticIds
) -> Callable[[], dict[str, float]]:
    """Return a function that computes item-level metrics of the policy on the validation users.

    The metrics are ndcg@10, recall@1, @10 and @50, and the metric of `Experiment.selection`, which selects the best step. The last
    cutoff of recall is smaller if the policy has fewer beams or the catalog fewer items. Each metric is computed twice: with the
    items that a user has already taken kept in the lists, and, with the suffix `_filter_seen`, with these items left out. NDCG has a
    further metric with the suffix `_standard_error`, over users. With labels the target is a liked item, and `pairwise_accuracy` and
    disliked@10 are computed too, see `genrec.evaluation.feedback_metrics`. Raises UsageError if the cutoff of the selection exceeds
    the catalog.
    """
    selection: Selection = experiment.selection
    selection.check_catalog(semantic_ids.items)
    entries = examples(corpus, "validation", experiment.history_length, inputs=inputs_of(experiment.policy))
    validation = select_users(entries, recipe.validation.users, "validation")
    reach = max(10, min(50, semantic_ids.items, getattr(experiment.policy, "num_beams", 50)))
    metrics = {"ndcg@10": (ndcg, 10)} | {f"recall@{n}": (recall, n) for n in sorted({1, 10, reach})}
    metrics[f"{selection.metric}@{selection.cutoff}"] = PER_USER[selection.metric], selection.cutoff
    cutoffs = tuple(sorted({n for _, n in metrics.values()}))
    kept = Evaluate(cutoffs=cutoffs, batch_size=experiment.evaluate.batch_size)
    shared, seen = shared_numbers(semantic_ids), seen_items(corpus, "validation")
    feedback = ValidationFeedback(policy, corpus, experiment, len(entries), recipe.validation.users, shared)

    def score() -> dict[str, float]:
        users = batches(validation, kept.batch_size, device_of(policy))
        found = feedback.pairs(users)
        for spec, suffix in ((kept, ""), (replace(kept, filter_seen=True), FILTERED)):
            result = evaluate(policy, users, spec, seen, shared, corpus.own_ids)
            found |= {f"{name}{suffix}": value for name, value in feedback.disliked(result, spec, seen).items()}
            for name, (metric, n) in metrics.items():
                values = mean_and_error(f"{name}{suffix}", per_user(metric, result.ranks, n))
                found |= values if metric is ndcg else {f"{name}{suffix}": values[f"{name}{suffix}"]}
        return found

    return score


def baseline_scores(corpus: Corpus, experiment: Any, recipe: SFT | Align) -> dict[str, float]:
    """Return NDCG@10 of popularity and ItemKNN on the validation users, with seen items kept, by the name of the baseline.

    Pictures of training curves show them as lines. ItemKNN is left out for more than `MAX_KNN_ITEMS` items, where it takes minutes.
    """
    known: dict[str, Baseline] = {"popularity": Popularity()}
    if corpus.item_count <= MAX_KNN_ITEMS:
        known["ItemKNN"] = ItemKNN()
    users = _validation_batches(corpus, experiment, recipe)
    return {name: _score(baseline, corpus, experiment, users, Selection()) for name, baseline in known.items()}


def baseline_score(corpus: Corpus, experiment: Any) -> float:
    """Return the metric of `Experiment.selection` of the experiment's baseline on the validation users (`SFT.validation.users`).

    Raises UsageError if the cutoff of the selection exceeds the catalog.
    """
    experiment.selection.check_catalog(corpus.item_count)
    users = _validation_batches(corpus, experiment, experiment.sft)
    return _score(experiment.policy, corpus, experiment, users, experiment.selection)


def _validation_batches(corpus: Corpus, experiment: Any, recipe: SFT | Align) -> list[SequenceBatch]:
    """Return the validation users of a recipe in batches on the CPU."""
    entries = examples(corpus, "validation", experiment.history_length)
    users = select_users(entries, recipe.validation.users, "validation")
    return batches(users, experiment.evaluate.batch_size, torch.device("cpu"))


def _score(baseline: Baseline, corpus: Corpus, experiment: Any, users: list[SequenceBatch], selection: Selection) -> float:
    """Return the metric of a selection, of a baseline that is fitted on the training interactions."""
    spec = Evaluate(cutoffs=(selection.cutoff,), batch_size=experiment.evaluate.batch_size, filter_seen=selection.filter_seen)
    fitted = baseline.fit(corpus.part("train"), corpus.item_count)
    ranks = evaluate(fitted, users, spec, seen_items(corpus, "validation"), own_ids=corpus.own_ids).ranks
    return float(per_user(PER_USER[selection.metric], ranks, selection.cutoff).mean())


def shared_numbers(semantic_ids: SemanticIds) -> Tensor | None:
    """Return the number of each item's Semantic ID, int64 [N + 1], 0 for the padding row 0; None if all Semantic IDs are unique."""
    if not semantic_ids.collided:
        return None
    return torch.cat([torch.zeros(1, dtype=torch.int64), semantic_ids.leaf(torch.arange(1, semantic_ids.items + 1)) + 1])


def seen_items(corpus: Corpus, before: Literal["validation", "test"] = "test") -> Callable[[Tensor], Tensor]:
    """Return a function from users int64 [B] to all items of their events before a part, int64 [B, E], padded with 0."""
    item, bounds = torch.from_numpy(corpus.item), torch.from_numpy(corpus.bounds)
    limit = TEST if before == "test" else VALIDATION

    def seen(users: Tensor) -> Tensor:
        begin, end = bounds[users.cpu() - 1][:, [BEGIN, limit]].unbind(1)
        place = begin.unsqueeze(1) + torch.arange(int((end - begin).max()))
        taken = torch.where(place < end.unsqueeze(1), item[place.clamp(max=len(item) - 1)].long(), 0)
        return taken.to(users.device)

    return seen


def user_ids(corpus: Corpus, users: Tensor) -> list[str]:
    """Return the ids of users int64 [B], numbered from 1, as the data set has them; 0 is a history without a user, of a file."""
    return [str(corpus.user_ids[number - 1]) if number else "(a history of a pair file)" for number in users.tolist()]
