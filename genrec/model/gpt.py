"""A decoder-only policy: one causal transformer reads the history's Semantic IDs and generates the next item's.

A sequence is the history's codes, L tokens per item, oldest item first, then the codes of the next item. Each level's output is a
softmax over the codes of that level only. One pass over a history also gives the log-probabilities of the item after each of its
places. The layers are T5's (see `shared_history_layers`).

Positions are relative: a learned attention bias per head, of T5's buckets of the distance in tokens, and of the exact distance in
items. A bias of distances does not depend on where a sequence starts. Left padding therefore changes nothing, and an item has the
same part in every prefix that holds it, which scoring all prefixes in one pass needs. Absolute positions, or ages counted from the
history's end, do not have this property. Levels need no embedding, since every level has its own tokens.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import ClassVar, cast

import torch
from torch import Generator, Tensor, nn
from torch.nn.functional import pad

from genrec.item_rows import targets_follow_history
from genrec.model import semantic_id_policy
from genrec.model.catalog_extension import extend_policy
from genrec.model.event_embedding import EventEmbedding, check_inputs, chosen_inputs, item_numbers, with_next_item
from genrec.model.gpt_decoding import EncodedHistory, GptDecoding, encoded_prefixes
from genrec.model.shared_history_layers import CausalLayer, KeysValues
from genrec.model.t5_layers import MASK_VALUE, Dropout, RelativeBias, RMSNorm, additive_mask, code_log_probs
from genrec.model.trie import Trie
from genrec.semantic_ids import SemanticIds, rank_in_group
from genrec.store import NEW_IN_KEY
from genrec.types import HistoryInput, ItemSample, Ranking
from genrec.types.event_history import items_of, padded
from genrec.types.specification import check_at_least, check_dropout


@dataclass(frozen=True)
class Gpt:
    """The architecture of a decoder-only policy. The defaults are TIGER's sizes, with the number of its encoder layers."""

    causal: ClassVar[bool] = True  # the policy is a `genrec.types.SequencePolicy`

    d_model: int = 128  # width of the residual stream
    d_ff: int = 1024  # width of the feed-forward layers
    num_heads: int = 6  # attention heads
    d_kv: int = 64  # width of one head
    num_layers: int = 4  # blocks of attention and feed-forward
    dropout: float = 0.1  # rate, in [0, 1)
    recency_positions: int = 20  # distances in items with a bias each, larger ones share the last; 0: T5's distances in tokens only
    num_beams: int = 50  # of constrained beam search; the longest list of `recommend`
    user_tokens: int = field(default=0, metadata=NEW_IN_KEY)  # tokens that users are hashed to, one before the history; 0: none (2000)
    time_buckets: int = field(default=0, metadata=NEW_IN_KEY)  # buckets of log2 of the seconds since the event before; 0: no times
    ratings: tuple[float, ...] = field(default=(), metadata=NEW_IN_KEY)  # ratings with a vector each, as (1, 2, 3, 4, 5); (): none

    def __post_init__(self) -> None:
        check_at_least(self, "policy", 1, "d_model", "d_ff", "num_heads", "d_kv", "num_layers", "num_beams")
        check_at_least(self, "policy", 0, "recency_positions")
        check_dropout(self.dropout, "policy")
        check_inputs(self, "policy")

    def has_history_states(self) -> bool:
        """Return that the policy gives states of histories; see `genrec.types.HistoryStates`."""
        return True

    def has_label_smoothing(self) -> bool:
        """Return that the policy gives smoothed log-probabilities; see `genrec.types.LabelSmoothing`."""
        return True

    def history_inputs(self) -> tuple[HistoryInput, ...]:
        """Return what the policy reads beside the items; see `genrec.types.InputSpecification`."""
        return chosen_inputs(self)

    def build(self, semantic_ids: SemanticIds) -> GptPolicy:
        """Return an untrained policy for these Semantic IDs."""
        return GptPolicy(self, semantic_ids)


class GptPolicy(nn.Module):
    """A `genrec.types.SequencePolicy` over the Semantic IDs it was built for."""

    def __init__(self, specification: Gpt, semantic_ids: SemanticIds) -> None:
        super().__init__()
        self.specification, self.semantic_ids = specification, semantic_ids
        layer = (specification.d_model, specification.d_ff, specification.num_heads, specification.d_kv, specification.dropout)
        self.embedding = nn.Embedding(semantic_ids.vocabulary, specification.d_model)
        self.layers = nn.ModuleList(CausalLayer(*layer) for _ in range(specification.num_layers))
        self.token_bias = RelativeBias(specification.num_heads, bidirectional=False)
        self.item_bias = (
            nn.Embedding(specification.recency_positions, specification.num_heads) if specification.recency_positions else None
        )
        self.norm = RMSNorm(specification.d_model)
        self.dropout = Dropout(specification.dropout)
        self.heads = nn.ModuleList(nn.Linear(specification.d_model, size, bias=False) for size in semantic_ids.level_sizes)
        if self.item_bias is not None:
            nn.init.zeros_(self.item_bias.weight)  # a distance beyond all training histories then has no effect
        for module in (self.embedding, self.token_bias.table, *self.heads):
            nn.init.normal_(module.weight, std=specification.d_model**-0.5)
        self.trie = Trie(semantic_ids)
        self.events = EventEmbedding(specification, specification.d_model)  # the last weights: without inputs all others stay

    def level_log_prob(self, history: Tensor, items: Tensor) -> Tensor:
        """Return log p(code | history, codes before) of every level: int64 [B, T] and candidates int64 [B, M] -> float32 [B, M, L].

        The candidate 0 (none) gets -inf. The history is encoded once: the first level follows from its last token, the other levels
        from the candidate's codes.
        """
        return self._level_log_prob(history, self.trie.tokens[items])

    def smoothed_level_log_prob(self, history: Tensor, items: Tensor, label_smoothing: float) -> Tensor:
        """Return `level_log_prob` with label smoothing, float32 [B, M, L]; see `genrec.types.LabelSmoothing`."""
        return self._level_log_prob(history, self.trie.tokens[items], label_smoothing=label_smoothing)

    def constrained_level_log_prob(self, history: Tensor, items: Tensor) -> Tensor:
        """Return `level_log_prob` with each softmax over the children of the candidate's prefix only: all items add up to 1."""
        return self._level_log_prob(history, self.trie.tokens[items], items)

    def _level_log_prob(self, history: Tensor, tokens: Tensor, items: Tensor | None = None, label_smoothing: float = 0.0) -> Tensor:
        encoded = self._encode(self.events.read(history), num_states=1)
        queries, keys = encoded.token_positions(self.semantic_ids.levels - 1)
        bias = (self.bias(queries, keys) + additive_mask(encoded.empty)[:, None, None, :]).unsqueeze(2)
        states, _ = self.encode_branches(tokens[..., :-1], encoded, bias)
        return self._token_log_probs(encoded.states, states, tokens, items, label_smoothing)

    def log_prob(self, history: Tensor, items: Tensor) -> Tensor:
        """Return log p(item | history), int64 [B, T] and candidates int64 [B, M] -> float32 [B, M]; -inf where the candidate is 0."""
        return self.level_log_prob(history, items).sum(-1)

    def sequence_log_prob(self, history: Tensor, targets: Tensor) -> Tensor:
        """Score the target after every place: history and targets int64 [B, T] (0 = none) -> float32 [B, T, L]; see `SequencePolicy`.

        The target of a place is usually the next item of the history, which the pass over the history scores at no extra cost. On a
        CPU this is checked, and halves the time. On other devices the check would make the host wait, and is skipped. With times or
        ratings it must not: the codes of the next item in the history have those of its own event, which no prediction may see.
        """
        return self.smoothed_sequence_log_prob(history, targets, 0.0)

    def smoothed_sequence_log_prob(self, history: Tensor, targets: Tensor, label_smoothing: float) -> Tensor:
        """Return `sequence_log_prob` with label smoothing, float32 [B, T, L]; see `genrec.types.SequenceLabelSmoothing`."""
        history, targets = self.events.read(history), pad(targets, (self.events.places, 0))
        one_pass = history.device.type == "cpu" and not self.events.describes_events
        if one_pass and targets_follow_history(items_of(history), targets):
            return self._one_pass(history, targets, label_smoothing)[:, self.events.places :]
        return self._pass_and_branches(history, targets, label_smoothing)[:, self.events.places :]

    def _one_pass(self, history: Tensor, targets: Tensor, label_smoothing: float = 0.0) -> Tensor:
        """Score targets that are the history's next items or 0, except for the last one: one pass over history and last target."""
        levels = self.semantic_ids.levels
        states = self._encode(with_next_item(history, targets[:, -1:]), None, drop_last=1).states
        states = states[:, levels - 1 :].reshape(*targets.shape, levels, -1)
        return self._token_log_probs(states[:, :, 0], states[:, :, 1:], self.trie.tokens[targets], None, label_smoothing)

    def _pass_and_branches(self, history: Tensor, targets: Tensor, label_smoothing: float = 0.0) -> Tensor:
        """Score any targets: one pass over the history, and a branch at each place that attends to no later place."""
        levels, encoded = self.semantic_ids.levels, self._encode(history, None)
        queries, keys = encoded.token_positions(levels - 1)
        end = torch.arange(levels, len(keys) + 1, levels, device=keys.device)  # number of tokens that each branch attends to
        queries = end[:, None] + queries - len(keys)
        bias = self.bias(queries.flatten(), keys).view(1, self.specification.num_heads, *queries.shape, len(keys))
        mask = additive_mask(encoded.empty[:, None, :] | (keys >= end[:, None]))
        tokens = self.trie.tokens[targets]
        states, _ = self.encode_branches(tokens[..., :-1], encoded, bias + mask[:, None, :, None, :])
        return self._token_log_probs(encoded.states[:, levels - 1 :: levels], states, tokens, None, label_smoothing)

    def place_level_log_prob(self, history: Tensor, places: Tensor, items: Tensor) -> Tensor:
        """Score candidates int64 [X, M] after places int64 [X, 2] of histories int64 [B, T]: float32 [X, M, L]; see `WindowPolicy`.

        One pass over the history, and M branches for each place, which attend to no later place.
        """
        return self._place_level_log_prob(history, places, self.trie.tokens[items])

    def constrained_place_level_log_prob(self, history: Tensor, places: Tensor, items: Tensor) -> Tensor:
        """Return `place_level_log_prob` with each softmax over the children of the candidate's prefix only."""
        return self._place_level_log_prob(history, places, self.trie.tokens[items], items)

    def code_level_log_prob(self, history: Tensor, places: Tensor, codes: Tensor) -> Tensor:
        """Score code sequences int64 [X, M, L], -1 for none, whether an item has them or not; see `genrec.types.CodePolicy`."""
        return self._place_level_log_prob(history, places, self.trie.code_tokens(codes))

    def _place_level_log_prob(self, history: Tensor, places: Tensor, tokens: Tensor, items: Tensor | None = None) -> Tensor:
        history, places = self.events.read(history), self.events.shifted(places)
        levels, encoded, (row, place) = self.semantic_ids.levels, self._encode(history, None), places.unbind(1)
        slot, (batch, count) = rank_in_group(row), tokens.shape[:2]
        num_slots = int(slot.max()) + 1 if batch else 0
        place_of_slot = place.new_zeros(len(history), num_slots).index_put((row, slot), place)
        packed = tokens.new_zeros(len(history), num_slots, count, levels).index_put((row, slot), tokens)
        queries, keys = encoded.token_positions(levels - 1)
        ends = torch.arange(levels, len(keys) + 1, levels, device=keys.device)  # number of tokens up to each place
        places_queries = ends[:, None] + queries - len(keys)
        bias = self.bias(places_queries.flatten(), keys).view(-1, *places_queries.shape, len(keys))  # [H, T, Q, S]
        mask = additive_mask(encoded.empty[:, None, :] | (keys >= ends[place_of_slot].unsqueeze(-1)))
        history_bias = bias[:, place_of_slot].transpose(0, 1) + mask[:, None, :, None, :]  # [B, H, slots, Q, S]
        states, _ = self.encode_branches(packed.flatten(1, 2)[..., :-1], encoded, history_bias.repeat_interleave(count, 2))
        states = states.view(len(history), num_slots, count, *states.shape[2:])[row, slot]
        return self._token_log_probs(encoded.states[row, ends[place] - 1].unsqueeze(1), states, tokens, items)

    def decoding(self, history: Tensor) -> GptDecoding:
        """Encode histories int64 [B, T] and return a decoding of them."""
        return GptDecoding(self, self._encode(self.events.read(history), num_states=1))

    def decoding_after(self, history: Tensor, places: Tensor) -> GptDecoding:
        """Encode histories int64 [B, T] once, and return a decoding of the next item after places int64 [X, 2]."""
        history, places = self.events.read(history), self.events.shifted(places)
        encoded = self._encode(history, None)
        return GptDecoding(self, encoded_prefixes(encoded, items_of(history), places, self.semantic_ids.levels))

    def recommend(self, history: Tensor, n: int, exclude: Tensor | None = None) -> Ranking:
        """Return the `n` best items by constrained beam search; see `genrec.types.Recommender`."""
        return semantic_id_policy.recommend(self, history, n, exclude, self.specification.num_beams)

    def recommend_exactly(self, history: Tensor, n: int, exclude: Tensor | None = None) -> Ranking:
        """Return the `n` best of all items, whatever `num_beams` is; see `genrec.types.ExactRecommender`."""
        return semantic_id_policy.recommend_exactly(self, history, n, exclude)

    def recommend_below(self, history: Tensor, items: Tensor, depth: int, n: int) -> Ranking:
        """Return the `n` best items below a prefix by beam search; see `genrec.types.PrefixPolicy`."""
        return semantic_id_policy.recommend_below(self, history, items, depth, n, self.specification.num_beams)

    def sample_items(self, history: Tensor, n: int, exclude: Tensor | None, generator: Generator) -> ItemSample:
        """Draw `n` distinct items by stochastic beam search; see `genrec.types.SamplingPolicy`."""
        return semantic_id_policy.sample_items(self, history, n, exclude, generator)

    def recommend_after(self, history: Tensor, places: Tensor, n: int, exclude: Tensor | None = None) -> Ranking:
        """Return the `n` best items after places by constrained beam search; see `genrec.types.PlaceSearchPolicy`."""
        return semantic_id_policy.recommend_after(self, history, places, n, exclude, self.specification.num_beams)

    def sample_items_after(self, history: Tensor, places: Tensor, n: int, exclude: Tensor | None, generator: Generator) -> ItemSample:
        """Draw `n` distinct items after places; see `genrec.types.PlaceSearchPolicy`."""
        return semantic_id_policy.sample_items_after(self, history, places, n, exclude, generator)

    def history_states(self, history: Tensor) -> Tensor:
        """Return the state that scores the next item, float32 [B, D], of histories int64 [B, T]; see `genrec.types.HistoryStates`."""
        return self._encode(self.events.read(history), num_states=1).states[:, -1]

    def item_vectors(self) -> Tensor:
        """Return the sum of each item's code embeddings, float32 [N + 1, D], detached; row 0 is zero."""
        return self.trie.item_vectors(self.embedding.weight)

    def extended(self, semantic_ids: SemanticIds) -> GptPolicy:
        """Return a policy with the same weights over a larger catalog; see `genrec.model.catalog_extension`."""
        return extend_policy(self, self.semantic_ids, semantic_ids, self.specification.build)

    def _encode(self, history: Tensor, num_states: int | None, drop_last: int = 0) -> EncodedHistory:
        """Encode histories of items that were read, int64 [B, T], without their last `drop_last` tokens.

        Only the states of the last `num_states` tokens are computed, or all if it is None. A token attends to itself and to earlier
        tokens. Padding attends to itself only, so that an empty history is finite.
        """
        history = history if history.shape[1] else padded(history, 1)
        tokens = self.trie.tokens[item_numbers(history)].flatten(1)
        tokens = tokens[:, : tokens.shape[1] - drop_last]
        empty = (items_of(history) == 0).repeat_interleave(self.semantic_ids.levels, 1)[:, : tokens.shape[1]]
        places = torch.arange(tokens.shape[1], device=tokens.device)
        bias = self.bias(places, places).masked_fill(places[None, :] > places[:, None], MASK_VALUE)
        mask: Tensor | None = None
        if empty.device.type != "cpu" or bool(empty.any()):
            mask = additive_mask(empty[:, None, None, :] & (places[None, :] != places[:, None]))
        states, cache = self.dropout(self.events(self.embedding(tokens), history, self.semantic_ids.levels)), []
        for depth, layer in enumerate(cast(Iterable[CausalLayer], self.layers)):
            last = depth == len(self.layers) - 1
            kept = num_states if num_states is not None and last else len(places)
            states, keys_values = layer.encode_history(states, bias, mask, kept)
            cache.append(keys_values)
        return EncodedHistory(self.dropout(self.norm(states)), cache, empty)

    def encode_branches(
        self, tokens: Tensor, history: EncodedHistory, history_bias: Tensor, past: list[KeysValues] | None = None
    ) -> tuple[Tensor, list[KeysValues]]:
        """Return the states of branches' tokens int64 [B, M, Q], float32 [B, M, Q, D], and the keys and values of every layer."""
        before = 0 if past is None else past[0][0].shape[3]
        keys = torch.arange(before + tokens.shape[2], device=tokens.device)
        queries = keys[before:]
        branch_bias = self.bias(queries, keys)[0].masked_fill(keys[None, :] > queries[:, None], MASK_VALUE)
        states, cache = self.dropout(self.embedding(tokens)), []
        for depth, layer in enumerate(cast(Iterable[CausalLayer], self.layers)):
            states, keys_values = layer.encode_branches(
                states, history.keys_values[depth], history_bias, branch_bias, None if past is None else past[depth]
            )
            cache.append(keys_values)
        return self.dropout(self.norm(states)), cache

    def bias(self, queries: Tensor, keys: Tensor) -> Tensor:
        """Return the bias of token positions int64 [Q] and [S], float32 [1, H, Q, S]; items start at multiples of L."""
        bias: Tensor = self.token_bias(queries, keys)
        if self.item_bias is not None:
            levels = self.semantic_ids.levels
            distance = queries[:, None] // levels - keys[None, :] // levels
            bias = bias + self.item_bias(distance.clamp(0, self.specification.recency_positions - 1)).permute(2, 0, 1)
        return bias

    def _token_log_probs(
        self, first: Tensor, others: Tensor, tokens: Tensor, items: Tensor | None = None, label_smoothing: float = 0.0
    ) -> Tensor:
        """Score tokens int32 [B, M, L] by the states before level 1, [B, M or 1, D], and before the others, [B, M, L - 1, D]."""
        states = (first, *others.unbind(2))
        levels = (code_log_probs(before, head) for before, head in zip(states, self.heads, strict=True))
        return self.trie.token_log_probs(levels, tokens, items, label_smoothing)
