"""LIGER: TIGER with a dense head, which ranks the beams of the decoder and the items without training interactions by their vectors.

The state h of a history is the encoder's output for its last token. SFT minimizes CE(Semantic ID) + CE(cos(h, e_i) / .07) over all
items with training interactions, where e_i is the item's vector, mapped by a small network. A list holds the best n by cosine of the
K beams and of all cold items, which the decoder has never written.

Departures from the authors' code: the encoder reads the codes of the history's items, without their vectors beside them; the network
has one hidden layer instead of three.

The log-probabilities (`level_log_prob`) are those of the decoder. Alignment reads and trains them alone: the dense head keeps its
weights, while the encoder that it reads moves.

Source: Yang et al. 2024, arXiv 2411.18814; the authors' code, facebookresearch/liger.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Generator, Tensor, nn
from torch.nn.functional import normalize

from genrec.errors import UsageError
from genrec.item_rows import best_items
from genrec.model.dense_head import DenseHead, cosine_loss, rank_candidates
from genrec.model.row_groups import length_groups
from genrec.model.tiger import Tiger, TigerPolicy
from genrec.semantic_ids import SemanticIds
from genrec.types import ItemSample, Ranking
from genrec.types.decoding import Decoding
from genrec.types.event_history import in_words, inputs_of
from genrec.types.specification import check_at_least, check_is


@dataclass(frozen=True)
class Liger:
    """A `Tiger` with a dense head; see the module for its loss and its lists."""

    tiger: Tiger = field(default_factory=Tiger)  # the encoder and decoder; leave its num_beams alone
    num_beams: int = 50  # K, beams that the dense head ranks beside the cold items; the longest list. The paper's is 20
    temperature: float = 0.07  # divides cosines, above 0
    dense_weight: float = 1.0  # of the dense loss beside that of the codes, 0 or more

    def __post_init__(self) -> None:
        check_is("policy.tiger", self.tiger, Tiger)
        check_at_least(self, "policy", 1, "num_beams")
        if inputs_of(self.tiger):
            raise UsageError(
                f"Liger reads the items of a history alone, and policy.tiger reads {in_words(inputs_of(self.tiger))}; leave out "
                "user_tokens, time_buckets and ratings, or choose Tiger"
            )
        if self.tiger.num_beams not in (self.num_beams, Tiger.num_beams):
            raise UsageError(
                f"policy.tiger.num_beams is not used, got {self.tiger.num_beams}; leave it out and set policy.num_beams, "
                f"got {self.num_beams}"
            )
        if self.tiger.normalization != "codes":
            raise UsageError(
                f"Liger's loss is over all codes of a level, got policy.tiger.normalization {self.tiger.normalization!r}; leave it "
                "out, or choose Tiger"
            )
        if not self.temperature > 0:
            raise UsageError(f"policy.temperature must be above 0, got {self.temperature}")
        if not self.dense_weight >= 0:
            raise UsageError(f"policy.dense_weight must be 0 or more, got {self.dense_weight}")

    def check(self, experiment: Any) -> None:
        """Raise UsageError unless the experiment has a tokenizer that resolves collisions."""
        if experiment.tokenize is None:
            raise UsageError(f"{experiment.name}: Liger writes Semantic IDs; set tokenize, such as Tokenize(), or choose SASRec")
        if experiment.tokenize.collisions == "keep":
            raise UsageError(f"{experiment.name}: Liger ranks single items; set tokenize.collisions to append or reassign")

    @property
    def causal(self) -> bool:
        """Return whether the policy is a `genrec.types.SequencePolicy`."""
        return self.tiger.causal

    def has_history_states(self) -> bool:
        """Return that the policy gives states of histories; see `genrec.types.HistoryStates`."""
        return True

    def build(self, semantic_ids: SemanticIds) -> LigerPolicy:
        """Return a policy that has read no vectors: it needs the state_dict of a trained one before it ranks."""
        return LigerPolicy(self, semantic_ids)

    def build_with_vectors(self, semantic_ids: SemanticIds, vectors: Tensor, popularity: Tensor) -> LigerPolicy:
        """Return an untrained policy for these items; see `genrec.types.VectorSpecification`."""
        policy = LigerPolicy(self, semantic_ids)
        is_cold = popularity == 0
        is_cold[0] = False
        policy.dense.read(vectors.float(), is_cold)
        return policy


class LigerPolicy(nn.Module):
    """A `genrec.types.LossPolicy` with the decoder's log-probabilities. It is an `ItemScorer`: lists are ordered by cosine."""

    def __init__(self, specification: Liger, semantic_ids: SemanticIds) -> None:
        super().__init__()
        if semantic_ids.collided:
            raise UsageError(
                f"Liger ranks single items, and {semantic_ids.collided} of {semantic_ids.items} share their Semantic ID with another; "
                "set tokenize.collisions to append or reassign"
            )
        self.tiger = TigerPolicy(replace(specification.tiger, num_beams=specification.num_beams), semantic_ids)
        self.specification = replace(specification, tiger=self.tiger.specification)
        self.semantic_ids = semantic_ids
        self.dense = DenseHead(semantic_ids.items, self.tiger.embedding.embedding_dim, specification.tiger.dropout)

    def sequence_loss(self, history: Tensor, targets: Tensor, generator: Generator) -> Tensor:
        """Return CE(Semantic ID) + dense_weight * CE(cosines) of the targets, a scalar; see `genrec.types.LossPolicy`.

        The first term is the mean over targets and codes, the second that over targets. A target without training interactions, which
        no batch of SFT has, counts in the first one only. `generator` is not used.
        """
        scored = targets[targets > 0]
        if self.specification.causal:
            levels = self.tiger.sequence_log_prob(history, targets)[targets > 0]
            states = self._states(history)[targets > 0]
        else:
            levels, states = self._score_last(history, targets[:, -1])
        loss = -levels.mean()
        if not self.specification.dense_weight:
            return loss
        self._check_vectors()
        known = ~self.dense.is_cold[scored]
        vectors: Tensor = self.dense(torch.arange(1, len(self.dense.vectors), device=history.device))
        if not bool(known.any()):
            return loss + 0.0 * (states.sum() + vectors.sum())
        dense = cosine_loss(
            states[known], vectors, scored[known] - 1, self.specification.temperature, self.dense.is_cold[1:]
        )  # fmt: skip
        return loss + self.specification.dense_weight * dense

    def _score_last(self, history: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """Return log-probabilities [X, L] of the targets int64 [B] that are not 0, and the states [X, D] of their histories."""
        scores, states, groups = [], [], length_groups(history)
        for rows, longest in groups:
            encoded = self.tiger.encode(history[rows, -longest:])
            scores.append(self.tiger.score_tokens(encoded, self.tiger.trie.tokens[target[rows].unsqueeze(1)])[:, 0])
            states.append(encoded.states[:, -1])
        order = torch.cat([rows for rows, _ in groups]).argsort()
        order = order[target > 0]
        return torch.cat(scores)[order], torch.cat(states)[order]

    def _states(self, history: Tensor) -> Tensor:
        """Return a causal encoder's state after every item of histories int64 [B, T], that of its last token: float32 [B, T, D]."""
        tokens = 1 if self.specification.tiger.history == "items" else self.semantic_ids.levels
        return self.tiger.encode(history).states[:, tokens - 1 :: tokens]

    def _check_vectors(self) -> None:
        if self.dense.is_empty:
            raise UsageError(
                "this Liger policy has read no item vectors; build it with build_with_vectors(semantic_ids, vectors, popularity), or "
                "load the state_dict of a trained one"
            )

    def _history_states(self, history: Tensor) -> Tensor:
        """Return the states of whole histories int64 [B, T], of length 1: float32 [B, D]."""
        groups = length_groups(history)
        states = torch.cat([self.tiger.encode(history[rows, -longest:]).states[:, -1] for rows, longest in groups])
        return normalize(states[torch.cat([rows for rows, _ in groups]).argsort()].float(), dim=-1)

    def score_items(self, user: Tensor, history: Tensor, items: Tensor) -> Tensor:
        """Return cosine / temperature of items int64 [B, M], float32 [B, M], -inf for item 0; `user` is not read."""
        self._check_vectors()
        return self._cosines(self._history_states(history), items).masked_fill(items == 0, -torch.inf)

    def _cosines(self, states: Tensor, items: Tensor) -> Tensor:
        """Return cosine / temperature after states float32 [B, D] of length 1: items int64 [B, M] -> float32 [B, M]."""
        distinct, place = torch.unique(items, return_inverse=True)
        vectors = normalize(self.dense(distinct), dim=-1)[place]
        cosines: Tensor = torch.einsum("bd,bmd->bm", states, vectors)
        return cosines / self.specification.temperature

    @torch.no_grad()
    def recommend(self, history: Tensor, n: int, exclude: Tensor | None = None) -> Ranking:
        """Return the `n` best by cosine of the `num_beams` beams and all cold items; with as many beams as items, of all items.

        Scores are those of `score_items`. Items of `exclude`, int64 [B, E], are no beams and are never returned.
        """
        beams = self.specification.num_beams
        if n > beams:
            raise UsageError(f"a list of {n} items needs at least {n} beams, got policy.num_beams = {beams}")
        if beams >= self.semantic_ids.items:
            return self.recommend_exactly(history, n, exclude)
        self._check_vectors()
        listed, cold = self.tiger.recommend(history, beams, exclude).items, self.dense.cold
        states = self._history_states(history)
        of_cold = states @ normalize(self.dense(cold), dim=-1).T / self.specification.temperature
        return rank_candidates(listed, cold, torch.cat([self._cosines(states, listed), of_cold], 1), n, exclude)

    @torch.no_grad()
    def recommend_exactly(self, history: Tensor, n: int, exclude: Tensor | None = None) -> Ranking:
        """Return the `n` best of all items by cosine, without the decoder: dense retrieval alone."""
        self._check_vectors()
        vectors = normalize(self.dense(torch.arange(1, self.semantic_ids.items + 1, device=history.device)), dim=-1)
        return best_items(self._history_states(history) @ vectors.T / self.specification.temperature, n, exclude)

    @torch.no_grad()
    def item_vectors(self) -> Tensor:
        """Return the items' vectors in the space of states, float32 [N + 1, D], detached; row 0 is zero."""
        self._check_vectors()
        vectors: Tensor = self.dense(torch.arange(self.semantic_ids.items + 1, device=self.dense.vectors.device))
        vectors[0] = 0.0
        return vectors

    def extended(self, semantic_ids: SemanticIds, vectors: Tensor) -> LigerPolicy:
        """Return a policy with the same weights over a larger catalog; the new items are cold, with vectors float32 [M, I].

        See `genrec.model.catalog_extension`. Raises UsageError unless the vectors are those of the new items.
        """
        self._check_vectors()
        expected = (semantic_ids.items - self.semantic_ids.items, self.dense.vectors.shape[1])
        if tuple(vectors.shape) != expected:
            raise UsageError(f"the new items need vectors float32 {list(expected)} of the same encoder, got {list(vectors.shape)}")
        tiger = self.tiger.extended(semantic_ids)
        with torch.random.fork_rng(devices=[]):  # the initial weights are overwritten
            result = LigerPolicy(self.specification, semantic_ids)
            old = self.dense
            new = torch.ones(len(vectors), dtype=torch.bool, device=old.is_cold.device)
            result.dense.read(torch.cat([old.vectors, vectors.to(old.vectors)]), torch.cat([old.is_cold, new]))
        result.dense.layers.load_state_dict(old.layers.state_dict())
        result.tiger = tiger
        return result.to(old.vectors.device).train(self.training)

    # The decoder's probabilities and searches are those of `TigerPolicy`.

    def level_log_prob(self, history: Tensor, items: Tensor) -> Tensor:
        """Return the decoder's log p(code | history, codes before); see `TigerPolicy.level_log_prob`."""
        return self.tiger.level_log_prob(history, items)

    def log_prob(self, history: Tensor, items: Tensor) -> Tensor:
        """Return the decoder's log p(item | history), which does not order the lists."""
        return self.tiger.log_prob(history, items)

    def constrained_level_log_prob(self, history: Tensor, items: Tensor) -> Tensor:
        """Return `level_log_prob` with each softmax over the children of the candidate's prefix only."""
        return self.tiger.constrained_level_log_prob(history, items)

    def sequence_log_prob(self, history: Tensor, targets: Tensor) -> Tensor:
        """Score the target after every place with a causal encoder; see `TigerPolicy.sequence_log_prob`."""
        return self.tiger.sequence_log_prob(history, targets)

    def place_level_log_prob(self, history: Tensor, places: Tensor, items: Tensor) -> Tensor:
        """Score candidates after places of histories; see `TigerPolicy.place_level_log_prob`."""
        return self.tiger.place_level_log_prob(history, places, items)

    def constrained_place_level_log_prob(self, history: Tensor, places: Tensor, items: Tensor) -> Tensor:
        """Return `place_level_log_prob` with each softmax over the children of the candidate's prefix only."""
        return self.tiger.constrained_place_level_log_prob(history, places, items)

    def code_level_log_prob(self, history: Tensor, places: Tensor, codes: Tensor) -> Tensor:
        """Score code sequences, whether an item has them or not; see `genrec.types.CodePolicy`."""
        return self.tiger.code_level_log_prob(history, places, codes)

    def history_states(self, history: Tensor) -> Tensor:
        """Return the mean of the encoder's states, as `TigerPolicy` does; the dense head reads the last one instead."""
        return self.tiger.history_states(history)

    def decoding(self, history: Tensor) -> Decoding:
        """Encode histories int64 [B, T] and return a decoding of them."""
        return self.tiger.decoding(history)

    def recommend_below(self, history: Tensor, items: Tensor, depth: int, n: int) -> Ranking:
        """Return the decoder's `n` best items below a prefix; see `genrec.types.PrefixPolicy`."""
        return self.tiger.recommend_below(history, items, depth, n)

    def sample_items(self, history: Tensor, n: int, exclude: Tensor | None, generator: Generator) -> ItemSample:
        """Draw `n` distinct items by the decoder's probabilities; see `genrec.types.SamplingPolicy`."""
        return self.tiger.sample_items(history, n, exclude, generator)
