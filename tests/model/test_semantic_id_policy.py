"""A complete user-defined policy, built on `Trie` and `semantic_id_policy`, keeps all contracts of Tiger and Gpt."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from policies import brute_force, catalog, histories
from torch import Tensor, nn

from genrec.errors import UsageError
from genrec.model import Trie, semantic_id_policy
from genrec.model.catalog_extension import extend_policy
from genrec.semantic_ids import SemanticIds
from genrec.testing import check_policy
from genrec.types import ConstrainedPolicy, ExactRecommender, ItemSample, PrefixPolicy, Ranking, SamplingPolicy, VectorPolicy


@dataclass(frozen=True)
class Bigram:
    """Predicts each code from the sum of the history's embeddings and the code before it."""

    d_model: int = 8
    num_beams: int = 50

    def build(self, semantic_ids: SemanticIds) -> BigramPolicy:
        return BigramPolicy(self, semantic_ids)


class BigramPolicy(nn.Module):
    def __init__(self, specification: Bigram, semantic_ids: SemanticIds) -> None:
        super().__init__()
        self.specification, self.semantic_ids = specification, semantic_ids
        self.embedding = nn.Embedding(semantic_ids.vocabulary, specification.d_model, padding_idx=0)
        self.heads = nn.ModuleList(nn.Linear(specification.d_model, size, bias=False) for size in semantic_ids.level_sizes)
        self.trie = Trie(semantic_ids)

    def encode(self, history: Tensor) -> Tensor:
        return self.embedding(self.trie.tokens[history]).sum((1, 2))  # float32 [B, D]

    def code_log_probs(self, encoded: Tensor, level: int, token: Tensor) -> Tensor:
        """Encoded histories [B, D] and the tokens before int64 [B, M] -> float32 [B, M, C]."""
        return self.heads[level]((encoded.unsqueeze(1) + self.embedding(token)).tanh()).log_softmax(-1)

    def _levels(self, history: Tensor, items: Tensor, constrained: bool) -> Tensor:
        encoded, tokens = self.encode(history), nn.functional.pad(self.trie.tokens[items], (1, 0))
        levels = (self.code_log_probs(encoded, level, tokens[..., level]) for level in range(self.semantic_ids.levels))
        return self.trie.item_log_probs(levels, items, constrained)

    def level_log_prob(self, history: Tensor, items: Tensor) -> Tensor:
        return self._levels(history, items, constrained=False)

    def constrained_level_log_prob(self, history: Tensor, items: Tensor) -> Tensor:
        return self._levels(history, items, constrained=True)

    def log_prob(self, history: Tensor, items: Tensor) -> Tensor:
        return self.level_log_prob(history, items).sum(-1)

    def decoding(self, history: Tensor) -> BigramDecoding:
        return BigramDecoding(self, self.encode(history))

    def recommend(self, history: Tensor, n: int, exclude: Tensor | None = None) -> Ranking:
        return semantic_id_policy.recommend(self, history, n, exclude, self.specification.num_beams)

    def recommend_exactly(self, history: Tensor, n: int, exclude: Tensor | None = None) -> Ranking:
        return semantic_id_policy.recommend_exactly(self, history, n, exclude)

    def recommend_below(self, history: Tensor, items: Tensor, depth: int, n: int) -> Ranking:
        return semantic_id_policy.recommend_below(self, history, items, depth, n, self.specification.num_beams)

    def sample_items(self, history: Tensor, n: int, exclude: Tensor | None, generator: torch.Generator) -> ItemSample:
        return semantic_id_policy.sample_items(self, history, n, exclude, generator)

    def item_vectors(self) -> Tensor:
        return self.trie.item_vectors(self.embedding.weight)

    def extended(self, semantic_ids: SemanticIds) -> BigramPolicy:
        return extend_policy(self, self.semantic_ids, semantic_ids, self.specification.build)


class BigramDecoding:
    """A `Decoding` without a state: a code depends on the history and on the code before it."""

    def __init__(self, policy: BigramPolicy, encoded: Tensor) -> None:
        self.policy, self.encoded = policy, encoded

    def start(self) -> tuple[Tensor, None]:
        token = torch.zeros(len(self.encoded), 1, dtype=torch.int64, device=self.encoded.device)
        return self.policy.code_log_probs(self.encoded, 0, token)[:, 0], None

    def advance(self, level: int, state: None, beam: Tensor, code: Tensor) -> tuple[Tensor, None]:
        return self.policy.code_log_probs(self.encoded, level + 1, code + self.policy.trie.first_token(level)), None


def bigram_policy(**fields: Any) -> BigramPolicy:
    torch.manual_seed(0)
    return Bigram(**fields).build(catalog(50)).eval()


def test_it_keeps_the_contract_of_policies() -> None:
    check_policy(Bigram())
    for protocol in (ConstrainedPolicy, ExactRecommender, PrefixPolicy, SamplingPolicy, VectorPolicy):
        assert isinstance(bigram_policy(), protocol)


def test_every_search_agrees_with_brute_force() -> None:
    policy, history = bigram_policy(), histories(4, 6, 50)
    items, scores = brute_force(policy, history)
    for found in (policy.recommend(history, 50), policy.recommend_exactly(history, 50)):
        torch.testing.assert_close(found.scores, scores, atol=1e-5, rtol=1e-5)
        assert not found.scores.requires_grad
    below = policy.recommend_below(history, items[:, 0], 3, 50)  # all three codes: the item itself
    assert below.items[:, 0].tolist() == items[:, 0].tolist()
    assert not below.items[:, 1:].any()


def test_more_items_than_beams_raise() -> None:
    with pytest.raises(UsageError, match=r"a list of 10 items needs at least 10 beams, got policy\.num_beams = 5"):
        bigram_policy(num_beams=5).recommend(histories(2, 6, 50), 10)


def test_it_is_extended_to_new_items() -> None:
    policy = bigram_policy()
    extended = policy.extended(policy.semantic_ids.extend(policy.semantic_ids.codes[:2, :2]))
    assert extended.semantic_ids.items == 52
    assert {51, 52} <= set(extended.recommend_exactly(histories(1, 6, 52), 52).items[0].tolist())
