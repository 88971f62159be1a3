"""Policies over Semantic IDs: TIGER (encoder-decoder) and a decoder alone write them code by code, RPG scores all digits at once.

LIGER ranks the items that TIGER finds, and those without training interactions, by their vectors.

`Tiger`, `Gpt`, `Liger` and `RPG` are specifications, which build a `TigerPolicy`, a `GptPolicy`, a `LigerPolicy`, and a
`ParallelPolicy` or `DigitPolicy`. A policy is extended to new items by its method `extended`. `Trie`, `Decoding` and the functions of
`genrec.model.semantic_id_policy` serve authors of other policies.
"""

from genrec.model.beam_search import Decoding
from genrec.model.digit_policy import DigitPolicy
from genrec.model.gpt import Gpt, GptPolicy
from genrec.model.liger import Liger, LigerPolicy
from genrec.model.parallel import RPG, ParallelPolicy
from genrec.model.tiger import Tiger, TigerPolicy
from genrec.model.trie import Trie

__all__ = [
    "RPG", "Decoding", "DigitPolicy", "Gpt", "GptPolicy", "Liger", "LigerPolicy", "ParallelPolicy", "Tiger", "TigerPolicy", "Trie",
]  # fmt: skip
