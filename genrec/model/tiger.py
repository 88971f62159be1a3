"""TIGER: a T5-style encoder-decoder that reads a history's Semantic IDs and writes the next item's (Rajput et al. 2023, 2305.05065).

In: histories and candidates as items. Out: log-probabilities of items (of the Semantic ID, where items share it), or a ranking of
real items. Each level's output is a softmax over that level's codes alone. The history is encoded once, for any number of candidates
or beams.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, cast

import torch
from torch import Tensor, nn

from genrec.errors import UsageError
from genrec.model.catalog_extension import extended
from genrec.model.t5_layers import (
    HIDDEN,
    DecoderLayer,
    Dropout,
    EncoderLayer,
    RelativeBias,
    RMSNorm,
    code_log_probs,
    hidden_where,
)
from genrec.model.trie import Trie
from genrec.semantic_ids import SemanticIds
from genrec.types import Ranking

GROUP = 64  # rows that a CPU reads at once, of similar length and within its cache


@dataclass(frozen=True)
class Tiger:
    """The architecture of a TIGER policy. The defaults are the paper's sizes with the best reproduction's dropout."""

    d_model: int = 128  # of the residual stream
    d_ff: int = 1024  # of the feed-forward layers
    num_heads: int = 6  # attention heads
    d_kv: int = 64  # of one head
    num_encoder_layers: int = 4
    num_decoder_layers: int = 4
    dropout: float = 0.1  # in [0, 1)
    history: Literal["codes", "items"] = (
        "codes"  # what the encoder reads: a token a code (TIGER), or an item's codes summed to one vector
    )
    encoder: Literal["bidirectional", "causal"] = (
        "bidirectional"  # causal: an item sees those before it, so that a sequence is read once for all of its targets
    )
    recency_positions: int = (
        20  # what is learned of an item's age, older items share the last; 0 leaves relative positions alone, as T5
    )
    num_beams: int = 50  # of constrained beam search; a ranking never has more items

    def __post_init__(self) -> None:
        for name in ("d_model", "d_ff", "num_heads", "d_kv", "num_encoder_layers", "num_decoder_layers", "num_beams"):
            if getattr(self, name) < 1:
                raise UsageError(f"policy.{name} must be at least 1, got {getattr(self, name)}")
        if not 0 <= self.dropout < 1:
            raise UsageError(f"policy.dropout must lie in [0, 1), got {self.dropout}")

    @property
    def causal(self) -> bool:
        """Whether the policy is a `genrec.types.SequencePolicy`."""
        return self.encoder == "causal"

    def build(self, semantic_ids: SemanticIds) -> TigerPolicy:
        """An untrained policy for these Semantic IDs."""
        return TigerPolicy(self, semantic_ids)


class History(NamedTuple):
    """An encoded history: what every candidate's decoder attends to."""

    states: Tensor  # float [B, S, D]
    empty: Tensor  # bool [B, S]  where padded
    age: Tensor  # int64 [S]  of each place's item: 0 for the latest


class TigerPolicy(nn.Module):
    """A `genrec.types.Policy` over the Semantic IDs it was built for; with a causal encoder a `SequencePolicy`."""

    def __init__(self, specification: Tiger, semantic_ids: SemanticIds) -> None:
        super().__init__()
        self.specification, self.semantic_ids = specification, semantic_ids
        width, heads, causal = specification.d_model, specification.num_heads, specification.causal
        layer = (width, specification.d_ff, heads, specification.d_kv, specification.dropout)
        self.embedding = nn.Embedding(semantic_ids.vocabulary, width)
        self.encoder = nn.ModuleList(EncoderLayer(*layer) for _ in range(specification.num_encoder_layers))
        self.decoder = nn.ModuleList(DecoderLayer(*layer) for _ in range(specification.num_decoder_layers))
        self.encoder_bias = RelativeBias(heads, bidirectional=True)
        self.decoder_bias = RelativeBias(heads, bidirectional=False)
        self.encoder_norm = RMSNorm(width)
        self.decoder_norm = RMSNorm(width)
        # Read from both sides, an item's age is the same for all and part of its input; read causally, it depends on who asks.
        self.recency = (
            nn.Embedding(specification.recency_positions, heads if causal else width) if specification.recency_positions else None
        )
        self.dropout = Dropout(specification.dropout)
        self.heads = nn.ModuleList(nn.Linear(width, size, bias=False) for size in semantic_ids.level_sizes)
        if self.recency is not None:
            nn.init.zeros_(self.recency.weight)  # an age that no training history reaches then says nothing, instead of noise
        for module in (self.embedding, self.encoder_bias.table, self.decoder_bias.table, *self.heads):
            nn.init.normal_(module.weight, std=width**-0.5)
        self.trie = Trie(semantic_ids)

    def encode(self, history: Tensor) -> History:
        """Items int64 [B, T], left-padded with 0 -> the encoded history."""
        states, empty = self.embedding(self.trie.tokens[history]), history == 0
        age = torch.arange(history.shape[1] - 1, -1, -1, device=history.device)
        if self.recency is not None and not self.specification.causal:
            states = states + self.recency(self._clamped(age)).unsqueeze(1)
        if self.specification.history == "items":
            states = states.sum(2)
        else:
            empty, age = (place.repeat_interleave(states.shape[2], -1) for place in (empty, age))
            states = states.flatten(1, 2)
        positions = torch.arange(len(age), device=age.device)
        bias = self.encoder_bias(positions, positions)
        future = age[None, :] < age[:, None] if self.specification.causal else None
        hidden = hide(empty, future)
        states = self.dropout(states)
        for layer in self.encoder:
            states = layer(states, bias, hidden)
        return History(self.dropout(self.encoder_norm(states)), empty, age)

    def _clamped(self, age: Tensor) -> Tensor:
        return age.clamp(0, self.specification.recency_positions - 1)

    def _age_bias(self, age: Tensor) -> Tensor | None:
        """What a causal policy has learned of ages int64 [Q, S] -> float32 [1, H, Q, S]."""
        if self.recency is None or not self.specification.causal:
            return None
        bias: Tensor = self.recency(self._clamped(age))
        return bias.permute(2, 0, 1).unsqueeze(0)

    def _decode(
        self,
        tokens: Tensor,
        history: Sequence[Tensor | tuple[Tensor, Tensor]],
        bias: Tensor | None,
        hidden: Tensor | None,
        past: list[tuple[Tensor, Tensor]] | None = None,
    ) -> tuple[Tensor, list[tuple[Tensor, Tensor]]]:
        """Decoder inputs int64 [B, M, Q] -> states [B, M, Q, D] and every layer's keys and values.

        `history`: for each layer what `DecoderLayer` takes; `bias` and `hidden` are those of the attention to it.
        """
        before = 0 if past is None else past[0][0].shape[2]
        keys = torch.arange(before + tokens.shape[2], device=tokens.device)
        queries = keys[before:]
        causal = self.decoder_bias(queries, keys).masked_fill(keys[None, :] > queries[:, None], HIDDEN)
        states, cache = self.dropout(self.embedding(tokens)), []
        for depth, layer in enumerate(self.decoder):
            states, kept = layer(states, history[depth], bias, hidden, causal, None if past is None else past[depth])
            cache.append(kept)
        return self.dropout(self.decoder_norm(states)), cache

    def _score(self, items: Tensor, history: History, bias: Tensor | None, hidden: Tensor | None, constrained: bool = False) -> Tensor:
        """Candidates int64 [B, M] -> float32 [B, M, L]; `bias` and `hidden` of the attention to the history."""
        tokens = self.trie.tokens[items]
        start = torch.zeros_like(tokens[..., :1])
        inputs = torch.cat([start, tokens[..., :-1]], -1)
        states, _ = self._decode(inputs, [history.states] * len(self.decoder), bias, hidden)
        levels = (code_log_probs(states[..., level, :], head) for level, head in enumerate(self.heads))
        return self.trie.item_log_probs(levels, items, constrained)

    def level_log_prob(self, history: Tensor, items: Tensor) -> Tensor:
        """History int64 [B, T], candidates int64 [B, M] -> float32 [B, M, L], each level's log p(code | history, codes before).

        A candidate 0 (none) gets -inf. On a CPU the rows are read in groups of similar length, so that padding costs little.
        """
        return self._level_log_prob(history, items, constrained=False)

    def constrained_level_log_prob(self, history: Tensor, items: Tensor) -> Tensor:
        """`level_log_prob`, every level's softmax over the children of the candidate's prefix alone: all items then add up to 1."""
        return self._level_log_prob(history, items, constrained=True)

    def _level_log_prob(self, history: Tensor, items: Tensor, constrained: bool) -> Tensor:
        parts, order = [], grouped(history)
        for rows, longest in order:
            encoded = self.encode(history[rows, -longest:])
            bias, hidden = self._age_bias(encoded.age[None, :]), hide(encoded.empty)
            parts.append(self._score(items[rows], encoded, bias, hidden, constrained))
        return torch.cat(parts)[torch.cat([rows for rows, _ in order]).argsort()]

    def sequence_log_prob(self, history: Tensor, targets: Tensor) -> Tensor:
        """History int64 [B, T], the item after each place int64 [B, T] (0 = none) -> float32 [B, T, L]; see `SequencePolicy`.

        The encoder is causal by items, so that a place's state is the same whatever follows; a target is a candidate that sees the
        items up to its place, by a mask.
        """
        if not self.specification.causal:
            raise UsageError('a policy with encoder="bidirectional" reads every prefix apart; use Tiger(encoder="causal")')
        encoded = self.encode(history)
        codes = self.semantic_ids.levels
        asked = torch.arange(history.shape[1] - 1, -1, -1, device=history.device).repeat_interleave(codes)  # age of who asks
        age = encoded.age[None, :] - asked[:, None]  # int64 [T * L, S]  below 0: in the future
        return self._score(targets, encoded, self._age_bias(age), hide(encoded.empty, age < 0))

    def log_prob(self, history: Tensor, items: Tensor) -> Tensor:
        """History int64 [B, T], candidates int64 [B, M] -> float32 [B, M], log p(item | history); -inf where the candidate is 0."""
        return self.level_log_prob(history, items).sum(-1)

    def decoding(self, history: Tensor) -> TigerDecoding:
        """Read the histories, int64 [B, T], and stand ready to write."""
        return TigerDecoding(self, self.encode(history))

    @torch.no_grad()
    def recommend(self, history: Tensor, n: int, exclude: Tensor | None = None) -> Ranking:
        """The `n` best items by constrained beam search: int64 [B, T] -> Ranking [B, n]; `exclude` int64 [B, E] is never returned."""
        return self.trie.recommend(self.decoding(history), self.specification.num_beams, n, exclude)

    @torch.no_grad()
    def recommend_exactly(self, history: Tensor, n: int, exclude: Tensor | None = None) -> Ranking:
        """The `n` best of all items, however many beams `recommend` has; arguments as of `recommend`."""
        return self.trie.recommend_exactly(self.decoding(history), n, exclude)

    @torch.no_grad()
    def recommend_below(self, history: Tensor, items: Tensor, depth: int, n: int) -> Ranking:
        """The `n` best items that share the first `depth` codes with items int64 [B]: a beam search below that prefix."""
        return self.trie.recommend_below(self.decoding(history), self.specification.num_beams, items, depth, n)

    def item_vectors(self) -> Tensor:
        """The sum of an item's code embeddings, float32 [N + 1, D], row 0 zeros; detached."""
        return self.trie.item_vectors(self.embedding.weight)

    def extended(self, semantic_ids: SemanticIds) -> TigerPolicy:
        """The same weights over a catalog that has grown (see `genrec.model.catalog_extension`)."""
        return extended(self, self.semantic_ids, semantic_ids, self.specification.build)


def hide(empty: Tensor, future: Tensor | None = None) -> Tensor | None:
    """Where keys are padding, bool [B, S], and whether they come after a query, bool [Q, S] -> float32 [B or 1, 1, Q or 1, S].

    0, or HIDDEN; None where (on a CPU) nothing is hidden. Padding is seen by those who would see nothing else: an empty history.
    """
    if empty.device.type == "cpu" and not empty.any():
        hidden = None if future is None else future[None]
    elif future is None:
        hidden = (empty & ~empty.all(1, keepdim=True)).unsqueeze(1)
    else:
        others = (~empty.unsqueeze(1) & ~future).any(-1, keepdim=True)
        hidden = empty.unsqueeze(1) & others | future
    if hidden is None:
        return None
    return hidden_where(hidden).unsqueeze(1)


def grouped(history: Tensor) -> list[tuple[Tensor, int]]:
    """Histories int64 [B, T] -> rows int64 [<= GROUP] of similar length and the longest of each; all rows at once but on a CPU."""
    batch, longest = history.shape
    if history.device.type != "cpu":
        return [(torch.arange(batch, device=history.device), longest)]
    length = longest - (history != 0).int().argmax(1) if longest else torch.zeros(batch, dtype=torch.int64)
    length = torch.where((history != 0).any(1), length, 1)
    order = length.argsort(stable=True)
    return [(rows, int(length[rows[-1]])) for rows in torch.split(order, GROUP)]


class TigerDecoding:
    """A `genrec.model.beam_search.Decoding`; its state is every decoder layer's keys and values, each [B * W, H, codes, head width]."""

    def __init__(self, policy: TigerPolicy, history: History) -> None:
        self.policy, self.hidden = policy, hide(history.empty)
        self.batch, self.device = len(history.states), history.states.device
        self.bias = policy._age_bias(history.age[None, :])
        layers = cast(Iterable[DecoderLayer], policy.decoder)
        self.history = [layer.history_attention.keys_values(history.states) for layer in layers]

    def start(self) -> tuple[Tensor, list[tuple[Tensor, Tensor]]]:
        """From the start token."""
        token = torch.zeros(self.batch, 1, 1, dtype=torch.int64, device=self.device)
        states, cache = self.policy._decode(token, self.history, self.bias, self.hidden)
        return code_log_probs(states[:, 0, 0], self.policy.heads[0]), cache

    def advance(
        self, level: int, state: list[tuple[Tensor, Tensor]], beam: Tensor, code: Tensor
    ) -> tuple[Tensor, list[tuple[Tensor, Tensor]]]:
        """One code further."""
        before = state[0][0].shape[0] // self.batch
        row = (torch.arange(self.batch, device=beam.device)[:, None] * before + beam).flatten()
        past = [(keys[row], values[row]) for keys, values in state]
        token = code + self.policy.trie.first_token(level)
        states, cache = self.policy._decode(token.unsqueeze(-1), self.history, self.bias, self.hidden, past)
        return code_log_probs(states[:, :, 0], self.policy.heads[level + 1]), cache
