"""TIGER: a T5-style encoder-decoder that reads a history's Semantic IDs and writes the next item's (Rajput et al. 2023, 2305.05065).

In: histories and candidates as items. Out: log-probabilities of items (of the Semantic ID, where items share it), or a ranking of
real items. Each level's output is a softmax over that level's codes alone. The history is encoded once, for any number of candidates
or beams.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, NamedTuple, cast

import torch
from torch import Tensor, nn

from genrec.errors import ArtifactError, UsageError
from genrec.model.layers import DecoderLayer, EncoderLayer, RelativeBias
from genrec.model.trie import Trie
from genrec.semantic_ids import SemanticIds
from genrec.types import Ranking

HIDDEN = torch.finfo(torch.float32).min / 2  # added to hidden positions; finite, so that a row of padding alone is no NaN


@dataclass(frozen=True)
class Tiger:
    """The architecture of a TIGER policy. The defaults are the paper's sizes with the best reproduction's dropout."""

    width: int = 128  # of the residual stream
    inner: int = 1024  # of the feed-forward layers
    heads: int = 6  # attention heads
    head_width: int = 64  # of one head
    encoder_layers: int = 4
    decoder_layers: int = 4
    dropout: float = 0.1  # in [0, 1)
    history: Literal["codes", "items"] = (
        "codes"  # what the encoder reads: a token a code (TIGER), or an item's codes summed to one vector
    )
    positions: int = 20  # learnt embeddings of an item's age, older items share the last; 0 leaves relative positions alone, as T5
    beams: int = 50  # of constrained beam search; a ranking never has more items

    def __post_init__(self) -> None:
        for name in ("width", "inner", "heads", "head_width", "encoder_layers", "decoder_layers", "beams"):
            if getattr(self, name) < 1:
                raise UsageError(f"policy.{name} must be at least 1, got {getattr(self, name)}")
        if not 0 <= self.dropout < 1:
            raise UsageError(f"policy.dropout must lie in [0, 1), got {self.dropout}")

    def build(self, semantic_ids: SemanticIds) -> TigerPolicy:
        """An untrained policy for these Semantic IDs."""
        return TigerPolicy(self, semantic_ids)


class History(NamedTuple):
    """An encoded history: what every candidate's decoder attends to."""

    keys_values: list[tuple[Tensor, Tensor]]  # one pair a decoder layer, each [B, H, S, head width]
    bias: Tensor  # float32 [B, 1, 1, S]  0, or HIDDEN where padded


class TigerPolicy(nn.Module):
    """A `genrec.types.Policy` over the Semantic IDs it was built for."""

    def __init__(self, specification: Tiger, semantic_ids: SemanticIds) -> None:
        super().__init__()
        self.specification, self.semantic_ids = specification, semantic_ids
        layer = (specification.width, specification.inner, specification.heads, specification.head_width, specification.dropout)
        self.embedding = nn.Embedding(semantic_ids.vocabulary, specification.width)
        self.encoder = nn.ModuleList(EncoderLayer(*layer) for _ in range(specification.encoder_layers))
        self.decoder = nn.ModuleList(DecoderLayer(*layer) for _ in range(specification.decoder_layers))
        self.encoder_bias = RelativeBias(specification.heads, bidirectional=True)
        self.decoder_bias = RelativeBias(specification.heads, bidirectional=False)
        self.encoder_norm = nn.RMSNorm(specification.width, eps=1e-6)
        self.decoder_norm = nn.RMSNorm(specification.width, eps=1e-6)
        self.recency = nn.Embedding(specification.positions, specification.width) if specification.positions else None
        self.dropout = nn.Dropout(specification.dropout)
        self.heads = nn.ModuleList(nn.Linear(specification.width, size, bias=False) for size in semantic_ids.level_sizes)
        if self.recency is not None:
            nn.init.zeros_(self.recency.weight)  # an age that no training history reaches then says nothing, instead of noise
        for module in (self.embedding, self.encoder_bias.table, self.decoder_bias.table, *self.heads):
            nn.init.normal_(module.weight, std=specification.width**-0.5)
        self.trie = Trie(semantic_ids)

    def encode(self, history: Tensor) -> History:
        """Items int64 [B, T], left-padded with 0 -> the encoded history."""
        states = self.embedding(self.trie.tokens[history])
        if self.recency is not None:
            age = torch.arange(history.shape[1] - 1, -1, -1, device=history.device)
            states = states + self.recency(age.clamp(max=self.specification.positions - 1)).unsqueeze(1)
        if self.specification.history == "items":
            states, empty = states.sum(2), history == 0
        else:
            states, empty = states.flatten(1, 2), (history == 0).repeat_interleave(states.shape[2], 1)
        hidden = torch.zeros(empty.shape, device=empty.device).masked_fill(empty, HIDDEN)[:, None, None, :]
        positions = torch.arange(empty.shape[1], device=empty.device)
        bias = self.encoder_bias(positions, positions) + hidden
        states = self.dropout(states)
        for layer in self.encoder:
            states = layer(states, bias)
        states = self.dropout(self.encoder_norm(states))
        layers = cast(Iterable[DecoderLayer], self.decoder)
        return History([layer.history_attention.keys_values(states) for layer in layers], hidden)

    def _decode(
        self, tokens: Tensor, history: History, past: list[tuple[Tensor, Tensor]] | None = None
    ) -> tuple[Tensor, list[tuple[Tensor, Tensor]]]:
        """Decoder inputs int64 [B, M, Q] -> states float32 [B, M, Q, D] and every layer's keys and values."""
        before = 0 if past is None else past[0][0].shape[2]
        keys = torch.arange(before + tokens.shape[2], device=tokens.device)
        queries = keys[before:]
        bias = self.decoder_bias(queries, keys).masked_fill(keys[None, :] > queries[:, None], HIDDEN)
        states, cache = self.dropout(self.embedding(tokens)), []
        for depth, layer in enumerate(self.decoder):
            states, kept = layer(states, history.keys_values[depth], history.bias, bias, None if past is None else past[depth])
            cache.append(kept)
        return self.dropout(self.decoder_norm(states)), cache

    def level_log_prob(self, history: Tensor, items: Tensor) -> Tensor:
        """History int64 [B, T], candidates int64 [B, M] -> float32 [B, M, L], each level's log p(code | history, codes before).

        A candidate 0 (none) gets -inf.
        """
        tokens = self.trie.tokens[items]
        start = torch.zeros_like(tokens[..., :1])
        states, _ = self._decode(torch.cat([start, tokens[..., :-1]], -1), self.encode(history))
        codes = self.trie.codes[items]
        levels = [
            head(states[..., level, :]).float().log_softmax(-1).gather(-1, codes[..., level, None])
            for level, head in enumerate(self.heads)
        ]
        return torch.cat(levels, -1).masked_fill((items == 0).unsqueeze(-1), -torch.inf)

    def log_prob(self, history: Tensor, items: Tensor) -> Tensor:
        """History int64 [B, T], candidates int64 [B, M] -> float32 [B, M], log p(item | history); -inf where the candidate is 0."""
        return self.level_log_prob(history, items).sum(-1)

    def decoding(self, history: Tensor) -> TigerDecoding:
        """Read the histories, int64 [B, T], and stand ready to write."""
        return TigerDecoding(self, self.encode(history))

    @torch.no_grad()
    def recommend(self, history: Tensor, n: int, exclude: Tensor | None = None) -> Ranking:
        """The `n` best items by constrained beam search: int64 [B, T] -> Ranking [B, n]; `exclude` int64 [B, E] is never returned."""
        return self.trie.recommend(self.decoding(history), self.specification.beams, n, exclude)

    @torch.no_grad()
    def recommend_exactly(self, history: Tensor, n: int, exclude: Tensor | None = None) -> Ranking:
        """The `n` best of all items, however many beams `recommend` has; arguments as of `recommend`."""
        return self.trie.recommend_exactly(self.decoding(history), n, exclude)

    def extended(self, semantic_ids: SemanticIds) -> TigerPolicy:
        """The same weights over a catalogue that has grown: `semantic_ids` are this policy's own and those of later items.

        Where the last level has grown, its new codes begin as copies of its last one, as input and as output: an appended number
        that few items have. The probability of an item stays what it was, bit for bit, where no level has grown; where the last
        has, its softmax has more codes, and all that had probability there lose the same share of it (for one history and prefix).
        """
        own = self.semantic_ids
        if not semantic_ids.extends(own):
            raise ArtifactError(
                f"Semantic IDs {semantic_ids.fingerprint} do not extend those of the policy, {own.fingerprint}: the items it knows "
                "must keep their codes, and only the last level may grow; make them with SemanticIds.extend"
            )
        grown = semantic_ids.level_sizes[-1] - own.level_sizes[-1]
        weights = self.state_dict()
        head = f"heads.{own.levels - 1}.weight"
        for name in ("embedding.weight", head):  # tokens are numbered level by level, so that the last row is the last code's
            weights[name] = torch.cat([weights[name], weights[name][-1:].expand(grown, -1)])
        with torch.random.fork_rng(devices=[]):  # what is drawn here is overwritten
            policy = self.specification.build(semantic_ids)
        policy.load_state_dict(weights)
        return policy.to(self.embedding.weight.device).train(self.training)


class TigerDecoding:
    """A `genrec.model.generation.Decoding`; its state is every decoder layer's keys and values, each [B * W, H, codes, head width]."""

    def __init__(self, policy: TigerPolicy, history: History) -> None:
        self.policy, self.history = policy, history
        self.batch = len(history.bias)

    def start(self) -> tuple[Tensor, list[tuple[Tensor, Tensor]]]:
        """From the start token."""
        token = torch.zeros(self.batch, 1, 1, dtype=torch.int64, device=self.history.bias.device)
        states, cache = self.policy._decode(token, self.history)
        return self._log_prob(0, states)[:, 0], cache

    def advance(
        self, level: int, state: list[tuple[Tensor, Tensor]], beam: Tensor, code: Tensor
    ) -> tuple[Tensor, list[tuple[Tensor, Tensor]]]:
        """One code further."""
        before = state[0][0].shape[0] // self.batch
        row = (torch.arange(self.batch, device=beam.device)[:, None] * before + beam).flatten()
        past = [(keys[row], values[row]) for keys, values in state]
        token = code + self.policy.trie.first_token(level)
        states, cache = self.policy._decode(token.unsqueeze(-1), self.history, past)
        return self._log_prob(level + 1, states), cache

    def _log_prob(self, level: int, states: Tensor) -> Tensor:
        result: Tensor = self.policy.heads[level](states[:, :, 0]).float().log_softmax(-1)
        return result
