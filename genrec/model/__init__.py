"""Policies that generate the next item's Semantic ID: TIGER (encoder-decoder) and a decoder-only transformer.

`Tiger` and `Gpt` are specifications, which build a `TigerPolicy` and a `GptPolicy`. A policy is extended to new items by its method
`extended`. `Trie`, `Decoding` and the functions of `genrec.model.semantic_id_policy` serve authors of other policies.
"""

from genrec.model.beam_search import Decoding
from genrec.model.gpt import Gpt, GptPolicy
from genrec.model.tiger import Tiger, TigerPolicy
from genrec.model.trie import Trie

__all__ = ["Decoding", "Gpt", "GptPolicy", "Tiger", "TigerPolicy", "Trie"]
