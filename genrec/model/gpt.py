"""A decoder-only policy: one causal transformer reads the history's Semantic IDs and goes on to write the next item's.

In: histories and candidates as items. Out: log-probabilities of items, or a ranking of real items; also, from one pass over a
history, the log-probabilities of the item after each of its places. A sequence is the history's codes, L tokens an item, oldest
first, then the next item's. Each level's output is a softmax over that level's codes alone. The layers are T5's (see `branches`).

Positions are relative only, a learned bias per head added to attention: T5's buckets of the distance in tokens, and, exactly, the
distance in items. A bias by distance is the same wherever a sequence stands, so that left padding changes nothing, and an item has
the same part in every prefix that holds it, which one pass over all prefixes needs; absolute positions, or ages counted from the
history's end, give neither. A level needs no embedding of its own, since every level has its own tokens.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from genrec.errors import UsageError
from genrec.model.catalog_extension import extended
from genrec.model.shared_history_layers import CausalLayer, KeysValues
from genrec.model.t5_layers import HIDDEN, Dropout, RelativeBias, RMSNorm, code_log_probs, hidden_where
from genrec.model.trie import Trie
from genrec.semantic_ids import SemanticIds
from genrec.types import Ranking


@dataclass(frozen=True)
class Gpt:
    """The architecture of a decoder-only policy. The defaults are TIGER's sizes, and as many layers as its encoder has."""

    causal: ClassVar[bool] = True  # one pass scores the item after every prefix

    d_model: int = 128  # of the residual stream
    d_ff: int = 1024  # of the feed-forward layers
    num_heads: int = 6  # attention heads
    d_kv: int = 64  # of one head
    num_layers: int = 4  # blocks of attention and feed-forward
    dropout: float = 0.1  # in [0, 1)
    recency_positions: int = (
        20  # distances in items that have a bias of their own, larger ones share the last; 0 leaves T5's token distances
    )
    num_beams: int = 50  # of constrained beam search; a ranking never has more items

    def __post_init__(self) -> None:
        for name in ("d_model", "d_ff", "num_heads", "d_kv", "num_layers", "recency_positions", "num_beams"):
            least = 0 if name == "recency_positions" else 1
            if getattr(self, name) < least:
                raise UsageError(f"policy.{name} must be at least {least}, got {getattr(self, name)}")
        if not 0 <= self.dropout < 1:
            raise UsageError(f"policy.dropout must lie in [0, 1), got {self.dropout}")

    def build(self, semantic_ids: SemanticIds) -> GptPolicy:
        """An untrained policy for these Semantic IDs."""
        return GptPolicy(self, semantic_ids)


class Read(NamedTuple):
    """A history that has been read: what branches of it attend to."""

    states: Tensor  # float32 [B, kept, D]  of its last tokens, the final norm applied
    keys_values: list[KeysValues]  # one pair a layer, each [B, H, S, head width]
    empty: Tensor  # bool [B, S]  tokens of padding


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
            nn.init.zeros_(self.item_bias.weight)  # a distance that no training history reaches then says nothing, instead of noise
        for module in (self.embedding, self.token_bias.table, *self.heads):
            nn.init.normal_(module.weight, std=specification.d_model**-0.5)
        self.trie = Trie(semantic_ids)

    def level_log_prob(self, history: Tensor, items: Tensor) -> Tensor:
        """History int64 [B, T], candidates int64 [B, M] -> float32 [B, M, L], each level's log p(code | history, codes before).

        A candidate 0 (none) gets -inf. The history is read once: its last token gives the first level, a candidate's codes the others.
        """
        return self._level_log_prob(history, items, constrained=False)

    def constrained_level_log_prob(self, history: Tensor, items: Tensor) -> Tensor:
        """`level_log_prob`, every level's softmax over the children of the candidate's prefix alone: all items then add up to 1."""
        return self._level_log_prob(history, items, constrained=True)

    def _level_log_prob(self, history: Tensor, items: Tensor, constrained: bool) -> Tensor:
        read = self._read(history, keep=1)
        queries, keys = self._places(read, self.semantic_ids.levels - 1)
        bias = (self._bias(queries, keys) + hidden_where(read.empty)[:, None, None, :]).unsqueeze(2)
        states, _ = self._branch(self.trie.tokens[items][..., :-1], read, bias)
        return self._gather(read.states, states, items, constrained)

    def log_prob(self, history: Tensor, items: Tensor) -> Tensor:
        """History int64 [B, T], candidates int64 [B, M] -> float32 [B, M], log p(item | history); -inf where the candidate is 0."""
        return self.level_log_prob(history, items).sum(-1)

    def sequence_log_prob(self, history: Tensor, targets: Tensor) -> Tensor:
        """History int64 [B, T], the item after each place int64 [B, T] (0 = none) -> float32 [B, T, L], -inf where there is none.

        Usually the item after a place is the history's next one, which the pass over the history has then scored already. On a CPU
        that is looked at, and worth half the time; elsewhere the look would make the host wait.
        """
        if history.device.type == "cpu" and follows(history, targets):
            return self._one_pass(history, targets)
        return self._pass_and_branches(history, targets)

    def _one_pass(self, history: Tensor, targets: Tensor) -> Tensor:
        """Targets that are the history's next items, or 0, but for the last one: a pass over the history and that one."""
        levels = self.semantic_ids.levels
        states = self._read(torch.cat([history, targets[:, -1:]], 1), None, cut=1).states
        states = states[:, levels - 1 :].reshape(*targets.shape, levels, -1)
        return self._gather(states[:, :, 0], states[:, :, 1:], targets)

    def _pass_and_branches(self, history: Tensor, targets: Tensor) -> Tensor:
        """Any targets: a pass over the history, and a branch at each of its places, which sees no later one."""
        levels, read = self.semantic_ids.levels, self._read(history, None)
        queries, keys = self._places(read, levels - 1)
        end = torch.arange(levels, len(keys) + 1, levels, device=keys.device)  # how many tokens each branch sees
        queries = end[:, None] + queries - len(keys)
        bias = self._bias(queries.flatten(), keys).view(1, self.specification.num_heads, *queries.shape, len(keys))
        hidden = hidden_where(read.empty[:, None, :] | (keys >= end[:, None]))
        states, _ = self._branch(self.trie.tokens[targets][..., :-1], read, bias + hidden[:, None, :, None, :])
        return self._gather(read.states[:, levels - 1 :: levels], states, targets)

    def decoding(self, history: Tensor) -> GptDecoding:
        """Read the histories, int64 [B, T], and stand ready to write."""
        return GptDecoding(self, self._read(history, keep=1))

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

    def extended(self, semantic_ids: SemanticIds) -> GptPolicy:
        """The same weights over a catalog that has grown (see `genrec.model.catalog_extension`)."""
        return extended(self, self.semantic_ids, semantic_ids, self.specification.build)

    def _read(self, history: Tensor, keep: int | None, cut: int = 0) -> Read:
        """Items int64 [B, T] -> the history, read; the states of its last `keep` tokens, or of all, without the last `cut` tokens.

        A token sees itself and the items before it. What is 0 is seen by itself alone, which keeps an empty history finite.
        """
        history = history if history.shape[1] else pad(history, (1, 0))
        tokens = self.trie.tokens[history].flatten(1)
        tokens = tokens[:, : tokens.shape[1] - cut]
        empty, places = tokens == 0, torch.arange(tokens.shape[1], device=tokens.device)
        bias = self._bias(places, places).masked_fill(places[None, :] > places[:, None], HIDDEN)
        hidden: Tensor | None = None
        if empty.device.type != "cpu" or bool(empty.any()):
            hidden = hidden_where(empty[:, None, None, :] & (places[None, :] != places[:, None]))
        states, kept = self.dropout(self.embedding(tokens)), []
        for depth, layer in enumerate(cast(Iterable[CausalLayer], self.layers)):
            last = depth == len(self.layers) - 1
            states, keys_values = layer.read(states, bias, hidden, keep if keep is not None and last else len(places))
            kept.append(keys_values)
        return Read(self.dropout(self.norm(states)), kept, empty)

    def _branch(
        self, tokens: Tensor, read: Read, history_bias: Tensor, past: list[KeysValues] | None = None
    ) -> tuple[Tensor, list[KeysValues]]:
        """Branches' tokens int64 [B, M, Q] -> states float32 [B, M, Q, D] and every layer's keys and values."""
        before = 0 if past is None else past[0][0].shape[3]
        keys = torch.arange(before + tokens.shape[2], device=tokens.device)
        queries = keys[before:]
        own_bias = self._bias(queries, keys)[0].masked_fill(keys[None, :] > queries[:, None], HIDDEN)
        states, kept = self.dropout(self.embedding(tokens)), []
        for depth, layer in enumerate(cast(Iterable[CausalLayer], self.layers)):
            states, keys_values = layer.branch(
                states, read.keys_values[depth], history_bias, own_bias, None if past is None else past[depth]
            )
            kept.append(keys_values)
        return self.dropout(self.norm(states)), kept

    def _bias(self, queries: Tensor, keys: Tensor) -> Tensor:
        """Places of tokens int64 [Q] and [S], items beginning at multiples of L -> float32 [1, H, Q, S]."""
        bias: Tensor = self.token_bias(queries, keys)
        if self.item_bias is not None:
            levels = self.semantic_ids.levels
            distance = queries[:, None] // levels - keys[None, :] // levels
            bias = bias + self.item_bias(distance.clamp(0, self.specification.recency_positions - 1)).permute(2, 0, 1)
        return bias

    def _places(self, read: Read, written: int) -> tuple[Tensor, Tensor]:
        """The places of the `written` tokens after a history, int64 [Q], and of the history's own, int64 [S]."""
        size = read.empty.shape[1]
        places = torch.arange(size + written, device=read.empty.device)
        return places[size:], places[:size]

    def _gather(self, first: Tensor, others: Tensor, items: Tensor, constrained: bool = False) -> Tensor:
        """States before the first level [B, M or 1, D] and before the others [B, M, L - 1, D], items int64 [B, M] -> [B, M, L]."""
        states = (first, *others.unbind(2))
        levels = (code_log_probs(before, head) for before, head in zip(states, self.heads, strict=True))
        return self.trie.item_log_probs(levels, items, constrained)


class GptDecoding:
    """A `genrec.model.beam_search.Decoding`; its state is every layer's keys and values of the beams' own codes."""

    def __init__(self, policy: GptPolicy, read: Read) -> None:
        self.policy, self.read = policy, read
        self.hidden = hidden_where(read.empty)[:, None, None, :]

    def start(self) -> tuple[Tensor, list[KeysValues] | None]:
        """From the history's last token; nothing has been written."""
        return code_log_probs(self.read.states[:, 0], self.policy.heads[0]), None

    def advance(self, level: int, state: list[KeysValues] | None, beam: Tensor, code: Tensor) -> tuple[Tensor, list[KeysValues]]:
        """One code further."""
        row = torch.arange(len(beam), device=beam.device)[:, None]
        past = None if state is None else [(keys[row, beam], values[row, beam]) for keys, values in state]
        queries, keys = self.policy._places(self.read, level + 1)
        bias = (self.policy._bias(queries[level:], keys) + self.hidden).unsqueeze(2)
        tokens = (code + self.policy.trie.first_token(level)).unsqueeze(-1)
        states, state = self.policy._branch(tokens, self.read, bias, past)
        return code_log_probs(states[:, :, 0], self.policy.heads[level + 1]), state


def follows(history: Tensor, targets: Tensor) -> bool:
    """Whether every target but the last of a row is 0 or the history's next item; int64 [B, T] both."""
    return bool(((targets[:, :-1] == 0) | (targets[:, :-1] == history[:, 1:])).all())
