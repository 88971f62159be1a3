"""Step-by-step decoding with each level's softmax over the codes that continue to a real item, instead of over all codes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from genrec.types.decoding import Decoding, State

if TYPE_CHECKING:
    from genrec.model.trie import Trie


class ChildDecoding:
    """A `genrec.types.Decoding` of another one's log-probabilities, normalized over the children of each beam's node.

    Codes that continue to no item have the log-probability -inf, and the probabilities of all items add up to 1. The state holds the
    other decoding's and the node of each beam.
    """

    def __init__(self, decoding: Decoding, trie: Trie) -> None:
        """Normalize the log-probabilities of `decoding`, which are over all codes, by the nodes of a trie."""
        self.decoding, self.trie = decoding, trie

    def start(self) -> tuple[Tensor, State]:
        """Return the first level's log-probabilities, float32 [B, C1], and the state of one empty beam per user."""
        log_prob, state = self.decoding.start()
        root = torch.zeros(len(log_prob), 1, dtype=torch.int64, device=log_prob.device)
        return self.trie.log_prob_of_children(0, root, log_prob.unsqueeze(1)).squeeze(1), (state, root)

    def advance(self, level: int, state: State, beam: Tensor, code: Tensor) -> tuple[Tensor, State]:
        """Append a code to beams; see `genrec.types.Decoding`. A beam with a code of no child continues to an arbitrary node."""
        inner, node = state
        log_prob, inner = self.decoding.advance(level, inner, beam, code)
        node = self.trie.child(level, node.gather(1, beam), code)
        return self.trie.log_prob_of_children(level + 1, node, log_prob), (inner, node)
