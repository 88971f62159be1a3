"""The network of TIGER: see `genrec.model.tiger`, whose specification builds it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Generator, Tensor, nn
from torch.nn.functional import embedding, pad

from genrec.errors import UsageError
from genrec.item_rows import aligned, prefixes
from genrec.model import semantic_id_policy
from genrec.model.catalog_extension import extend_policy
from genrec.model.child_decoding import ChildDecoding
from genrec.model.event_embedding import EventEmbedding, item_numbers
from genrec.model.packed_windows import packed_sequence_log_prob, packs
from genrec.model.row_groups import candidate_groups, length_groups
from genrec.model.t5_layers import (
    MASK_VALUE,
    DecoderLayer,
    Dropout,
    EncoderLayer,
    RelativeBias,
    RMSNorm,
    attention_mask,
    code_log_probs,
)
from genrec.model.tiger_decoding import EncodedHistory, decoding_after, decoding_of
from genrec.model.tiger_sizes import sizes_for
from genrec.model.trie import Trie
from genrec.semantic_ids import SemanticIds
from genrec.types import ItemSample, Ranking
from genrec.types.decoding import Decoding
from genrec.types.event_history import items_of, padded

if TYPE_CHECKING:
    from genrec.model.tiger import Tiger


class TigerPolicy(nn.Module):
    """A `genrec.types.Policy` over the Semantic IDs it was built for; with a causal encoder a `SequencePolicy`."""

    def __init__(self, specification: Tiger, semantic_ids: SemanticIds) -> None:
        super().__init__()
        sizes = sizes_for(specification, semantic_ids.items)
        self.specification = replace(specification, **sizes._asdict())  # an extended catalog keeps the sizes
        self.semantic_ids = semantic_ids
        width, heads, causal = sizes.d_model, sizes.num_heads, specification.causal
        layer = (width, sizes.d_ff, heads, sizes.d_kv, specification.dropout)
        self.embedding = nn.Embedding(semantic_ids.vocabulary, width)
        self.encoder = nn.ModuleList(EncoderLayer(*layer) for _ in range(sizes.num_encoder_layers))
        self.decoder = nn.ModuleList(DecoderLayer(*layer) for _ in range(sizes.num_decoder_layers))
        self.encoder_bias = RelativeBias(heads, bidirectional=True)
        self.decoder_bias = RelativeBias(heads, bidirectional=False)
        self.encoder_norm = RMSNorm(width)
        self.decoder_norm = RMSNorm(width)
        # With a bidirectional encoder an item has one age, which is part of its input. With a causal encoder the age depends on the
        # place that attends to the item, and is part of the attention bias.
        self.recency = (
            nn.Embedding(specification.recency_positions, heads if causal else width) if specification.recency_positions else None
        )
        self.dropout = Dropout(specification.dropout)
        self.heads = nn.ModuleList(nn.Linear(width, size, bias=False) for size in semantic_ids.level_sizes)
        if self.recency is not None:
            nn.init.zeros_(self.recency.weight)  # an age that no training history reaches then has no effect, instead of adding noise
        for module in (self.embedding, self.encoder_bias.table, self.decoder_bias.table, *self.heads):
            nn.init.normal_(module.weight, std=width**-0.5)
        self.trie = Trie(semantic_ids)
        self.events = EventEmbedding(specification, width)  # the last weights, so that without inputs all others stay as they were

    def read(self, history: Tensor) -> Tensor:
        """Return the history as `encode` takes it: with a place for the user if there is a token of it; see `EventEmbedding.read`."""
        return self.events.read(history)

    def encode(self, history: Tensor) -> EncodedHistory:
        """Encode histories of items, int64 [B, T], left-padded with 0, that were `read`."""
        history = history if history.shape[1] else padded(history, 1)
        states, empty = self.embedding(self.trie.tokens[item_numbers(history)]), items_of(history) == 0
        age = torch.arange(history.shape[1] - 1, -1, -1, device=history.device)
        if self.recency is not None and not self.specification.causal:
            states = states + self.recency(self._clamp_age(age)).unsqueeze(1)
        if self.specification.history == "items":
            states = states.sum(2)
        else:
            empty, age = (place.repeat_interleave(states.shape[2], -1) for place in (empty, age))
            states = states.flatten(1, 2)
        states = self.events(states, history, len(age) // history.shape[1])
        positions = torch.arange(len(age), device=age.device)
        bias = self.encoder_bias(positions, positions)
        future = age[None, :] < age[:, None] if self.specification.causal else None
        mask = attention_mask(empty, future)
        states = self.dropout(states)
        for layer in self.encoder:
            states = layer(states, bias, mask)
        return EncodedHistory(self.dropout(self.encoder_norm(states)), empty, age)

    def _clamp_age(self, age: Tensor) -> Tensor:
        return age.clamp(0, self.specification.recency_positions - 1)

    def age_bias(self, age: Tensor) -> Tensor | None:
        """Return a causal policy's attention bias of item ages int64 [Q, S]: float32 [1, H, Q, S]; None if it has none."""
        if self.recency is None or not self.specification.causal:
            return None
        bias: Tensor = self.recency(self._clamp_age(age))
        return bias.permute(2, 0, 1).unsqueeze(0)

    def decode(
        self,
        tokens: Tensor,
        history: Sequence[Tensor | tuple[Tensor, Tensor]],
        bias: Tensor | None,
        mask: Tensor | None,
        past: list[tuple[Tensor, Tensor]] | None = None,
    ) -> tuple[Tensor, list[tuple[Tensor, Tensor]]]:
        """Return the states [B, M, Q, D] of decoder inputs int64 [B, M, Q], and the keys and values of every layer.

        `history` holds each layer's argument of `DecoderLayer`; `bias` and `mask` are those of the attention to the history.
        """
        before = 0 if past is None else past[0][0].shape[2]
        keys = torch.arange(before + tokens.shape[2], device=tokens.device)
        queries = keys[before:]
        causal_bias = self.decoder_bias(queries, keys).masked_fill(keys[None, :] > queries[:, None], MASK_VALUE)
        states, cache = self.dropout(self.embedding(tokens)), []
        for depth, layer in enumerate(self.decoder):
            states, keys_values = layer(states, history[depth], bias, mask, causal_bias, None if past is None else past[depth])
            cache.append(keys_values)
        return self.dropout(self.decoder_norm(states)), cache

    def _score(
        self, tokens: Tensor, history: EncodedHistory, bias: Tensor | None, mask: Tensor | None, items: Tensor | None = None,
        label_smoothing: float = 0.0,
    ) -> Tensor:  # fmt: skip
        """Score tokens int32 [B, M, L] (see `Trie.token_log_probs`); `bias` and `mask` are those of the attention to the history."""
        start = torch.zeros_like(tokens[..., :1])
        inputs = torch.cat([start, tokens[..., :-1]], -1)
        states, _ = self.decode(inputs, [history.states] * len(self.decoder), bias, mask)
        levels = (code_log_probs(states[..., level, :], head) for level, head in enumerate(self.heads))
        return self.trie.token_log_probs(levels, tokens, items, label_smoothing)

    def within(self, items: Tensor) -> Tensor | None:
        """Return the items if the softmax is over the children of their prefixes (`normalization="catalog"`), else None."""
        return items if self.specification.normalization == "catalog" else None

    def level_log_prob(self, history: Tensor, items: Tensor) -> Tensor:
        """Return log p(code | history, codes before) of every level: int64 [B, T] and candidates int64 [B, M] -> float32 [B, M, L].

        The candidate 0 (none) gets -inf. On a CPU the rows are processed in groups of similar length, which saves padding.
        """
        return self.smoothed_level_log_prob(history, items, 0.0)

    def smoothed_level_log_prob(self, history: Tensor, items: Tensor, label_smoothing: float) -> Tensor:
        """Return `level_log_prob` with label smoothing, float32 [B, M, L]; see `genrec.types.LabelSmoothing`."""
        return self._level_log_prob(self.read(history), self.trie.tokens[items], self.within(items), label_smoothing)

    def constrained_level_log_prob(self, history: Tensor, items: Tensor) -> Tensor:
        """Return `level_log_prob` with each softmax over the children of the candidate's prefix only: all items add up to 1."""
        return self._level_log_prob(self.read(history), self.trie.tokens[items], items)

    def _level_log_prob(self, history: Tensor, tokens: Tensor, items: Tensor | None = None, label_smoothing: float = 0.0) -> Tensor:
        parts, groups = [], length_groups(items_of(history))
        for rows, longest in groups:
            encoded = self.encode(history[rows, -longest:])
            parts.append(self.score_tokens(encoded, tokens[rows], None if items is None else items[rows], label_smoothing))
        return torch.cat(parts)[torch.cat([rows for rows, _ in groups]).argsort()]

    def score_tokens(
        self, encoded: EncodedHistory, tokens: Tensor, items: Tensor | None = None, label_smoothing: float = 0.0
    ) -> Tensor:
        """Return the log-probabilities of tokens int32 [B, M, L] after whole histories, float32 [B, M, L]; `items` as in the trie."""
        bias, mask = self.age_bias(encoded.age[None, :]), attention_mask(encoded.empty)
        return self._score(tokens, encoded, bias, mask, items, label_smoothing)

    def sequence_log_prob(self, history: Tensor, targets: Tensor) -> Tensor:
        """Score the target after every place: history and targets int64 [B, T] (0 = none) -> float32 [B, T, L]; see `SequencePolicy`.

        With a causal encoder no state depends on what follows. A target attends to the items up to its place only, by a mask.
        """
        return self.smoothed_sequence_log_prob(history, targets, 0.0)

    def smoothed_sequence_log_prob(self, history: Tensor, targets: Tensor, label_smoothing: float) -> Tensor:
        """Return `sequence_log_prob` with label smoothing, float32 [B, T, L]; see `genrec.types.SequenceLabelSmoothing`."""
        if not self.specification.causal:
            raise UsageError(
                'sequence_log_prob needs Tiger(encoder="causal"), got encoder="bidirectional", which encodes every prefix separately'
            )
        history, targets, first = self.read(history), pad(targets, (self.events.places, 0)), self.events.places
        if packs(items_of(history), targets):
            return packed_sequence_log_prob(self, history, targets, label_smoothing)[:, first:]
        encoded = self.encode(history)
        codes = self.semantic_ids.levels
        query_age = torch.arange(history.shape[1] - 1, -1, -1, device=history.device).repeat_interleave(codes)  # of the target's place
        age = encoded.age[None, :] - query_age[:, None]  # int64 [T * L, S]  negative: in the future
        mask = attention_mask(encoded.empty, age < 0)
        scores = self._score(self.trie.tokens[targets], encoded, self.age_bias(age), mask, self.within(targets), label_smoothing)
        return scores[:, first:]

    def place_level_log_prob(self, history: Tensor, places: Tensor, items: Tensor) -> Tensor:
        """Score candidates int64 [X, M] after places int64 [X, 2] of histories int64 [B, T]: float32 [X, M, L]; see `WindowPolicy`.

        With a causal encoder the history is encoded once, and the decoder attends to the states up to the place. A bidirectional
        encoder encodes every prefix separately. On a CPU, zeros at the end of a row of candidates cost little.
        """
        return self._place_level_log_prob(history, places, self.trie.tokens[items], self.within(items))

    def constrained_place_level_log_prob(self, history: Tensor, places: Tensor, items: Tensor) -> Tensor:
        """Return `place_level_log_prob` with each softmax over the children of the candidate's prefix only."""
        return self._place_level_log_prob(history, places, self.trie.tokens[items], items)

    def code_level_log_prob(self, history: Tensor, places: Tensor, codes: Tensor) -> Tensor:
        """Score code sequences int64 [X, M, L], -1 for none, whether an item has them or not; see `genrec.types.CodePolicy`.

        With a softmax over the codes that lead to an item, all codes of a sequence of no item get -inf.
        """
        if self.specification.normalization == "catalog":
            items = self.semantic_ids.lookup(codes.clamp(min=0).cpu()).to(codes.device)
            return self.place_level_log_prob(history, places, items.masked_fill(codes[..., 0] < 0, 0))
        return self._place_level_log_prob(history, places, self.trie.code_tokens(codes))

    def _place_level_log_prob(self, history: Tensor, places: Tensor, tokens: Tensor, items: Tensor | None = None) -> Tensor:
        if not self.specification.causal:
            return self._level_log_prob(self.read(prefixes(history, places)), tokens, items)
        history, places = self.read(history), self.events.shifted(places)
        prefix = prefixes(items_of(history), places)
        encoded = self.encode(history)
        tokens_per_item = len(encoded.age) // history.shape[1]
        states = encoded.states.reshape(history.numel(), -1)  # [B * T, tokens of an item * D]
        first = places[:, :1] * history.shape[1]
        parts, groups = [], candidate_groups(prefix, tokens[..., 0])
        for rows, longest, width in groups:
            place = aligned(longest, places[rows, 1])
            states_of_rows = embedding(first[rows] + place.clamp(min=0), states).reshape(len(rows), longest * tokens_per_item, -1)
            empty = (prefix[rows, -longest:] == 0).repeat_interleave(tokens_per_item, 1)
            history_of_rows = EncodedHistory(states_of_rows, empty, encoded.age[-longest * tokens_per_item :])
            bias, mask = self.age_bias(history_of_rows.age[None, :]), attention_mask(empty)
            within = None if items is None else items[rows, :width]
            scores = self._score(tokens[rows, :width], history_of_rows, bias, mask, within)
            parts.append(pad(scores, (0, 0, 0, tokens.shape[1] - width), value=-torch.inf))
        return torch.cat(parts)[torch.cat([rows for rows, _, _ in groups]).argsort()]

    def log_prob(self, history: Tensor, items: Tensor) -> Tensor:
        """Return log p(item | history), int64 [B, T] and candidates int64 [B, M] -> float32 [B, M]; -inf where the candidate is 0."""
        return self.level_log_prob(history, items).sum(-1)

    def decoding(self, history: Tensor) -> Decoding:
        """Encode histories int64 [B, T] and return a decoding of them."""
        return self._decoding(decoding_of(self, self.encode(self.read(history))))

    def _decoding(self, decoding: Decoding) -> Decoding:
        return ChildDecoding(decoding, self.trie) if self.specification.normalization == "catalog" else decoding

    def decoding_after(self, history: Tensor, places: Tensor) -> Decoding:
        """Return a decoding of the next item after places int64 [X, 2] of histories int64 [B, T].

        With a causal encoder the histories are encoded once. A bidirectional encoder encodes every prefix separately.
        """
        if not self.specification.causal:
            return self.decoding(prefixes(history, places))
        history = self.read(history)
        return self._decoding(decoding_after(self, self.encode(history), items_of(history), self.events.shifted(places)))

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
        """Return the mean of the encoder's states, float32 [B, D], of histories int64 [B, T]; see `genrec.types.HistoryStates`."""
        encoded = self.encode(self.read(history))
        read = ~encoded.empty.unsqueeze(2)
        return (encoded.states * read).sum(1) / read.sum(1).clamp(min=1)

    def item_vectors(self) -> Tensor:
        """Return the sum of each item's code embeddings, float32 [N + 1, D], detached; row 0 is zero."""
        return self.trie.item_vectors(self.embedding.weight)

    def extended(self, semantic_ids: SemanticIds) -> TigerPolicy:
        """Return a policy with the same weights over a larger catalog; see `genrec.model.catalog_extension`."""
        return extend_policy(self, self.semantic_ids, semantic_ids, self.specification.build)
