"""Step-by-step decoding of TIGER: the encoder's output of a history, and the next code's log-probabilities of its beams."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, NamedTuple, cast

import torch
from torch import Tensor

from genrec.model.t5_layers import DecoderLayer, attention_mask, code_log_probs

if TYPE_CHECKING:
    from genrec.model.tiger import TigerPolicy


class EncodedHistory(NamedTuple):
    """The encoder's output, to which the decoder attends."""

    states: Tensor  # float [B, S, D]
    empty: Tensor  # bool [B, S]  true where padded
    age: Tensor  # int64 [S]  age of each place's item: 0 for the latest


class TigerDecoding:
    """A `genrec.model.beam_search.Decoding`.

    Its state holds the keys and values of every decoder layer, each [B * W, H, codes, head width].
    """

    def __init__(self, policy: TigerPolicy, history: EncodedHistory) -> None:
        self.policy, self.mask = policy, attention_mask(history.empty)
        self.batch, self.device = len(history.states), history.states.device
        self.bias = policy.age_bias(history.age[None, :])
        layers = cast(Iterable[DecoderLayer], policy.decoder)
        self.history = [layer.history_attention.keys_values(history.states) for layer in layers]

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
