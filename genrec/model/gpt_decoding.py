"""Step-by-step decoding of a decoder-only policy: the states of a history, and the next code's log-probabilities of its beams."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from genrec.item_rows import prefixes
from genrec.model.row_groups import prefix_states
from genrec.model.shared_history_layers import KeysValues
from genrec.model.t5_layers import additive_mask, code_log_probs

if TYPE_CHECKING:
    from genrec.model.gpt import GptPolicy


class EncodedHistory(NamedTuple):
    """The history's states and the cache to which its branches attend."""

    states: Tensor  # float32 [B, states kept, D]  of the last tokens, after the final norm
    keys_values: list[KeysValues]  # one pair per layer, each [B, H, S, head width]
    empty: Tensor  # bool [B, S]  true for tokens of padding

    def token_positions(self, count: int) -> tuple[Tensor, Tensor]:
        """Return the positions of the `count` tokens after a history, int64 [count], and of the history's tokens, int64 [S]."""
        size = self.empty.shape[1]
        positions = torch.arange(size + count, device=self.empty.device)
        return positions[size:], positions[:size]


def encoded_prefixes(encoded: EncodedHistory, history: Tensor, places: Tensor, levels: int) -> EncodedHistory:
    """Return the prefixes of histories int64 [B, T] that end at places int64 [X, 2], as X histories with their last state alone.

    `encoded` holds the states of all tokens, `levels` of each item.
    """
    row, place = places.unbind(1)
    last = encoded.states[row, (place + 1) * levels - 1].unsqueeze(1)
    keys_values = [
        (prefix_states(keys, places, levels), prefix_states(values, places, levels)) for keys, values in encoded.keys_values
    ]
    return EncodedHistory(last, keys_values, (prefixes(history, places) == 0).repeat_interleave(levels, 1))


class GptDecoding:
    """A `genrec.model.beam_search.Decoding`; its state holds every layer's keys and values of the beams' codes."""

    def __init__(self, policy: GptPolicy, history: EncodedHistory) -> None:
        self.policy, self.history = policy, history
        self.mask = additive_mask(history.empty)[:, None, None, :]

    def start(self) -> tuple[Tensor, list[KeysValues] | None]:
        """Return the first level from the history's last token; the state is empty."""
        return code_log_probs(self.history.states[:, 0], self.policy.heads[0]), None

    def advance(self, level: int, state: list[KeysValues] | None, beam: Tensor, code: Tensor) -> tuple[Tensor, list[KeysValues]]:
        """Decode one more code per beam."""
        row = torch.arange(len(beam), device=beam.device)[:, None]
        past = None if state is None else [(keys[row, beam], values[row, beam]) for keys, values in state]
        queries, keys = self.history.token_positions(level + 1)
        bias = (self.policy.bias(queries[level:], keys) + self.mask).unsqueeze(2)
        tokens = (code + self.policy.trie.first_token(level)).unsqueeze(-1)
        states, state = self.policy.encode_branches(tokens, self.history, bias, past)
        return code_log_probs(states[:, :, 0], self.policy.heads[level + 1]), state
