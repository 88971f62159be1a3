"""Stage 5, where negatives come from: samplers, as frozen specifications that build what draws.

In: a `SamplerContext` once, then a batch, a count and a `torch.Generator` on the CPU, the only source of randomness. Out: negatives
int64 [B, count] on the batch's device: real items, distinct in a row, never what `Exclusions` names (but the history, from a sampler
that offers it), 0 at the end of a row where none is left.
"""

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
    "FaissNeighbors",
    "Filtered",
    "InBatch",
    "Mix",
    "ModelBeams",
    "Popularity",
    "PrefixNeighbors",
    "Uniform",
]
