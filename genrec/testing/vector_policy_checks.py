"""Policies that read item vectors, built for their checks, and the scores that a policy's lists must have."""

from __future__ import annotations

import torch
from torch import Tensor

from genrec.semantic_ids import SemanticIds
from genrec.testing.plugin_watch import call_plugin
from genrec.testing.specification_checks import ContractError
from genrec.types import ItemScorer, Policy, PolicySpecification, VectorSpecification
from genrec.value_forms import form_of

WIDTH = 6  # of the item vectors
COLD_EVERY = 5  # every fifth item has no training interaction


def built(specification: PolicySpecification, semantic_ids: SemanticIds, read: bool = True) -> Policy:
    """Return the policy of a specification; one that reads vectors gets random ones, unless its weights will be loaded (`read`)."""
    if not read or not isinstance(specification, VectorSpecification):
        return specification.build(semantic_ids)
    generator, items = torch.Generator().manual_seed(2), semantic_ids.items
    vectors = torch.randn(items + 1, WIDTH, generator=generator)
    vectors[0] = 0.0
    popularity = torch.arange(items + 1) % COLD_EVERY
    return specification.build_with_vectors(semantic_ids, vectors, popularity)


def list_scores(name: str, policy: Policy, history: Tensor, log_probs: Tensor) -> Tensor:
    """Return the scores that lists must have, float32 [B, 1 + N]: `score_items` of an `ItemScorer`, else the log-probabilities.

    Column 0 is no item. Raises ContractError for scores of a wrong form.
    """
    if not isinstance(policy, ItemScorer):
        return log_probs
    items = torch.arange(log_probs.shape[1]).expand(len(history), -1).contiguous()
    unknown = torch.zeros(len(history), dtype=torch.int64)
    scores = call_plugin(name, "score_items", lambda: policy.score_items(unknown, history, items))
    if not isinstance(scores, Tensor) or scores.dtype != torch.float32 or scores.shape != items.shape:
        raise ContractError(f"{name}: score_items must return a tensor float32 {list(items.shape)}, got {form_of(scores)}")
    if not bool((scores[:, 0] == -torch.inf).all()) or not bool(scores[:, 1:].isfinite().all()):
        raise ContractError(f"{name}: score_items must return -inf for item 0, which is padding, and a finite score for every item")
    return scores
