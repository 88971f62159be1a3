"""Negative samplers: frozen specifications that build a `genrec.types.Draw`.

`build(context)` is called once. `Draw.draw` maps a batch, `num_negatives` and a `torch.Generator` on the CPU, the only source of
randomness, to negatives int64 [B, num_negatives] on the batch's device. The items of a row are distinct and not excluded by
`genrec.preference.exclusions.Exclusions`, except that a draw with `offers_history` draws from the history, and one with
`offers_disliked` from the user's dislikes. A row with too few candidates ends with zeros.
"""

from genrec.preference.negatives.disliked_items import DislikedItems
from genrec.preference.negatives.faiss_neighbors import FaissNeighbors
from genrec.preference.negatives.mixtures import Curriculum, Mix
from genrec.preference.negatives.model_beams import ModelBeams
from genrec.preference.negatives.selection import BestOf, Filtered
from genrec.preference.negatives.simple_samplers import AlreadySeen, Disliked, InBatch, PrefixNeighbors
from genrec.preference.negatives.weighted_samplers import Popularity, Uniform

__all__ = [
    "AlreadySeen",
    "BestOf",
    "Curriculum",
    "Disliked",
    "DislikedItems",
    "FaissNeighbors",
    "Filtered",
    "InBatch",
    "Mix",
    "ModelBeams",
    "Popularity",
    "PrefixNeighbors",
    "Uniform",
]
