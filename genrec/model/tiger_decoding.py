"""Step-by-step decoding of TIGER: the encoder's output of a history, and the next code's log-probabilities of its beams."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, NamedTuple, cast

import torch
from torch import Tensor

from genrec.item_rows import prefixes
from genrec.model.cached_decoding import CachedDecoding
from genrec.model.row_groups import prefix_states
from genrec.model.t5_layers import DecoderLayer, attention_mask, code_log_probs
from genrec.types.decoding import Decoding

if TYPE_CHECKING:
    from genrec.model.tiger_policy import TigerPolicy


class EncodedHistory(NamedTuple):
    """The encoder's output, to which the decoder attends."""

    states: Tensor  # float [B, S, D]
    empty: Tensor  # bool [B, S]  true where padded
    age: Tensor  # int64 [S]  age of each place's item: 0 for the latest


def decoding_of(policy: TigerPolicy, encoded: EncodedHistory) -> Decoding:
    """Return a decoding of encoded histories."""
    return _decoding(policy, _keys_values(policy, encoded), encoded.empty, encoded.age)


def _decoding(policy: TigerPolicy, keys_values: list[tuple[Tensor, Tensor]], empty: Tensor, age: Tensor) -> Decoding:
    if empty.device.type == "cpu" and not policy.training:
        return CachedDecoding(policy, keys_values, policy.age_bias(age[None, :]), attention_mask(empty))
    return TigerDecoding(policy, keys_values, empty, age)


def decoding_after(policy: TigerPolicy, encoded: EncodedHistory, history: Tensor, places: Tensor) -> Decoding:
    """Return a decoding of the prefixes of histories int64 [B, T] that end at places int64 [X, 2]; the encoder must be causal."""
    tokens = len(encoded.age) // history.shape[1]
    keys_values = [
        (prefix_states(keys, places, tokens), prefix_states(values, places, tokens)) for keys, values in _keys_values(policy, encoded)
    ]
    empty = (prefixes(history, places) == 0).repeat_interleave(tokens, 1)
    return _decoding(policy, keys_values, empty, encoded.age)


def _keys_values(policy: TigerPolicy, encoded: EncodedHistory) -> list[tuple[Tensor, Tensor]]:
    """Return every decoder layer's keys and values of encoded histories, each [B, H, S, head width]."""
    layers = cast(Iterable[DecoderLayer], policy.decoder)
    return [layer.history_attention.keys_values(encoded.states) for layer in layers]


class TigerDecoding:
    """A `genrec.model.beam_search.Decoding` on any device, also in training mode; on a CPU, `CachedDecoding` is faster in evaluation.

    Its state holds the keys and values of every decoder layer, each [B * W, H, codes, head width].
    """

    def __init__(self, policy: TigerPolicy, keys_values: list[tuple[Tensor, Tensor]], empty: Tensor, age: Tensor) -> None:
        """Decode B histories from every decoder layer's keys and values of them; `empty` and `age` are as in `EncodedHistory`."""
        self.policy, self.history, self.mask = policy, keys_values, attention_mask(empty)
        self.batch, self.device = len(empty), empty.device
        self.bias = policy.age_bias(age[None, :])

    def start(self) -> tuple[Tensor, list[tuple[Tensor, Tensor]]]:
        """Decode the start token."""
        token = torch.zeros(self.batch, 1, 1, dtype=torch.int64, device=self.device)
        states, cache = self.policy.decode(token, self.history, self.bias, self.mask)
        return code_log_probs(states[:, 0, 0], self.policy.heads[0]), cache

    def advance(
        self, level: int, state: list[tuple[Tensor, Tensor]], beam: Tensor, code: Tensor
    ) -> tuple[Tensor, list[tuple[Tensor, Tensor]]]:
        """Decode one more code per beam."""
        before = state[0][0].shape[0] // self.batch
        row = (torch.arange(self.batch, device=beam.device)[:, None] * before + beam).flatten()
        past = [(keys[row], values[row]) for keys, values in state]
        token = code + self.policy.trie.first_token(level)
        states, cache = self.policy.decode(token.unsqueeze(-1), self.history, self.bias, self.mask, past)
        return code_log_probs(states[:, :, 0], self.policy.heads[level + 1]), cache
