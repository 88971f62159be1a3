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
from genrec.model.generation import beam_search
from genrec.model.layers import DecoderLayer, EncoderLayer, RelativeBias
from genrec.model.leaves import LeafItems, allow, rank_items
from genrec.semantic_ids import PrefixTable, SemanticIds
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
        self.tokens: Tensor  # int64 [N + 1, L]
        self.codes: Tensor  # int64 [N + 1, L]
        self.leaf_start: Tensor  # int64 [leaves + 1]
        self.leaf_items: Tensor  # int64 [N]
        self.register_buffer("tokens", semantic_ids.tokens(torch.arange(semantic_ids.items + 1)), persistent=False)
        self.register_buffer("codes", nn.functional.pad(semantic_ids.codes, (0, 0, 1, 0)), persistent=False)
        start, items = semantic_ids.items_by_leaf()
        self.register_buffer("leaf_start", start, persistent=False)
        self.register_buffer("leaf_items", items, persistent=False)
        self.largest_leaf = int(start.diff().max())
        for level, table in enumerate(semantic_ids.tables):
            self.register_buffer(f"trie_start_{level}", table.start, persistent=False)
            self.register_buffer(f"trie_code_{level}", table.code, persistent=False)
            self.register_buffer(f"trie_leaf_{level}", table.leaf, persistent=False)

    @property
    def tables(self) -> list[PrefixTable]:
        """The trie's tables, on the policy's device."""
        result = []
        for level, table in enumerate(self.semantic_ids.tables):
            start, code, leaf = (self.get_buffer(f"trie_{name}_{level}") for name in ("start", "code", "leaf"))
            result.append(PrefixTable(start, code, leaf, table.branch))
        return result

    @property
    def leaves(self) -> LeafItems:
        """The items of the trie's leaves, on the policy's device."""
        return LeafItems(self.leaf_start, self.leaf_items, self.largest_leaf)

    def encode(self, history: Tensor) -> History:
        """Items int64 [B, T], left-padded with 0 -> the encoded history."""
        states = self.embedding(self.tokens[history])
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
        tokens = self.tokens[items]
        start = torch.zeros_like(tokens[..., :1])
        states, _ = self._decode(torch.cat([start, tokens[..., :-1]], -1), self.encode(history))
        codes = self.codes[items]
        levels = [
            head(states[..., level, :]).float().log_softmax(-1).gather(-1, codes[..., level, None])
            for level, head in enumerate(self.heads)
        ]
        return torch.cat(levels, -1).masked_fill((items == 0).unsqueeze(-1), -torch.inf)

    def log_prob(self, history: Tensor, items: Tensor) -> Tensor:
        """History int64 [B, T], candidates int64 [B, M] -> float32 [B, M], log p(item | history); -inf where the candidate is 0."""
        return self.level_log_prob(history, items).sum(-1)

    @torch.no_grad()
    def recommend(self, history: Tensor, n: int, exclude: Tensor | None = None) -> Ranking:
        """The `n` best items by constrained beam search: int64 [B, T] -> Ranking [B, n]; `exclude` int64 [B, E] is never returned.

        A beam is a Semantic ID; where several items share it, it fills as many slots of the list.
        """
        if n > self.specification.beams:
            raise UsageError(f"{n} items need as many beams, got policy.beams = {self.specification.beams}")
        encoded = self.encode(history)
        states, cache = self._decode(torch.zeros_like(history[:, :1]).unsqueeze(1), encoded)
        batch, level = history.shape[0], 0

        def advance(beam: Tensor, code: Tensor) -> Tensor:
            nonlocal cache, level
            width, before = beam.shape[1], cache[0][0].shape[0] // batch
            row = (torch.arange(batch, device=beam.device)[:, None] * before + beam).flatten()
            past = [(keys[row], values[row]) for keys, values in cache]
            token = code + int(self.semantic_ids.offsets[level]) + 1
            states, cache = self._decode(token.view(batch, width, 1), encoded, past)
            level += 1
            result: Tensor = self.heads[level](states[:, :, 0]).float().log_softmax(-1)
            return result

        first = self.heads[0](states[:, 0, 0]).float().log_softmax(-1)
        leaves = self.leaves
        allowed = allow(leaves, exclude)
        forbidden = None if allowed is None else allowed.forbidden
        beams = beam_search(first, advance, self.tables, self.specification.beams, forbidden)
        return rank_items(beams, leaves, allowed, n)

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
