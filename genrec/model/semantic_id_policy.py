"""Recommendation with any policy that generates Semantic IDs code by code: beam search, exact scoring, search below a prefix,
samples without replacement.

`Tiger` and `Gpt` use these functions, and so can other policies. A policy holds a `Trie` and has a method `decoding(history)`, which
encodes the histories and returns a `Decoding`. Its other methods are then one call each:

    class MyPolicy(nn.Module):
        def __init__(self, semantic_ids):
            super().__init__()
            self.semantic_ids, self.trie = semantic_ids, Trie(semantic_ids)
            ...

        def level_log_prob(self, history, items):
            levels = ...  # for each level the log-probabilities of all codes, float32 [B, M or 1, C]
            return self.trie.item_log_probs(levels, items, constrained=False)

        def log_prob(self, history, items):
            return self.level_log_prob(history, items).sum(-1)

        def decoding(self, history):
            return MyDecoding(self, history)  # has start() and advance(), see `genrec.model.beam_search.Decoding`

        def recommend(self, history, n, exclude=None):
            return semantic_id_policy.recommend(self, history, n, exclude, num_beams=50)

`recommend_exactly`, `recommend_below`, `sample_items` and `constrained_level_log_prob` (`constrained=True`) are optional and work
the same way; they make the policy an `ExactRecommender`, a `PrefixPolicy`, a `SamplingPolicy` and a `ConstrainedPolicy`. A causal
policy with `decoding_after(history, places)`, `recommend_after` and `sample_items_after` is a `PlaceSearchPolicy`.
`trie.item_vectors` makes it a `VectorPolicy`, and `catalog_extension.extend_policy` adds items to the catalog of a trained policy.
tests/model/test_semantic_id_policy.py has a complete policy.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Generator, Tensor

from genrec.model.beam_search import Decoding
from genrec.model.trie import Trie
from genrec.types import ItemSample, Ranking


class SemanticIdPolicy(Protocol):
    """A policy that generates Semantic IDs code by code."""

    trie: Trie  # of the Semantic IDs that it was built for

    def decoding(self, history: Tensor) -> Decoding:
        """Encode histories int64 [B, T] and return a decoding of them."""
        ...


class PlaceDecodingPolicy(SemanticIdPolicy, Protocol):
    """A policy that also decodes after any place of a history, with the history encoded once for all of its places."""

    def decoding_after(self, history: Tensor, places: Tensor) -> Decoding:
        """Encode histories int64 [B, T] and return a decoding of X rows: the prefixes that end at places int64 [X, 2]."""
        ...


@torch.no_grad()
def recommend(policy: SemanticIdPolicy, history: Tensor, n: int, exclude: Tensor | None, num_beams: int) -> Ranking:
    """Return the `n` best items of histories int64 [B, T] by constrained beam search, n <= num_beams.

    Items of `exclude`, int64 [B, E] (0 = none), are never returned.
    """
    return policy.trie.recommend(policy.decoding(history), num_beams, n, exclude)


@torch.no_grad()
def recommend_exactly(policy: SemanticIdPolicy, history: Tensor, n: int, exclude: Tensor | None) -> Ranking:
    """Return the `n` best of all items, without pruning; arguments as in `recommend`."""
    return policy.trie.recommend_exactly(policy.decoding(history), n, exclude)


@torch.no_grad()
def recommend_below(policy: SemanticIdPolicy, history: Tensor, items: Tensor, depth: int, n: int, num_beams: int) -> Ranking:
    """Return the `n` best items among those that share the first `depth` codes with items int64 [B], by beam search."""
    return policy.trie.recommend_below(policy.decoding(history), num_beams, items, depth, n)


@torch.no_grad()
def sample_items(policy: SemanticIdPolicy, history: Tensor, n: int, exclude: Tensor | None, generator: Generator) -> ItemSample:
    """Draw `n` distinct items for each history int64 [B, T] by stochastic beam search; see `genrec.types.SamplingPolicy`.

    The width of the search follows from `n`, whatever the policy's number of beams is.
    """
    return policy.trie.sample(policy.decoding(history), n, exclude, generator)


@torch.no_grad()
def recommend_after(
    policy: PlaceDecodingPolicy, history: Tensor, places: Tensor, n: int, exclude: Tensor | None, num_beams: int
) -> Ranking:
    """Return the `n` best items after places int64 [X, 2] of histories; see `genrec.types.PlaceSearchPolicy`."""
    return policy.trie.recommend(policy.decoding_after(history, places), num_beams, n, exclude)


@torch.no_grad()
def sample_items_after(
    policy: PlaceDecodingPolicy, history: Tensor, places: Tensor, n: int, exclude: Tensor | None, generator: Generator
) -> ItemSample:
    """Draw `n` distinct items after each of places int64 [X, 2] of histories; see `genrec.types.PlaceSearchPolicy`."""
    return policy.trie.sample(policy.decoding_after(history, places), n, exclude, generator)
