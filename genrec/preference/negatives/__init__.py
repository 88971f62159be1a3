"""Stage 5, where negatives come from: samplers, as frozen specifications that build what draws.

In: a `SamplerContext` once, then a batch, a count and a `torch.Generator` on the CPU, the only source of randomness. Out: negatives
int64 [B, count] on the batch's device: real items, distinct in a row, never what `Forbidden` names (but the history, from a sampler
that offers it), 0 at the end of a row where none is left.
"""

from genrec.preference.negatives.beams import ModelBeams
from genrec.preference.negatives.chosen import BestOf, Filtered
from genrec.preference.negatives.mixed import Curriculum, Mix
from genrec.preference.negatives.neighbours import FaissNeighbours
from genrec.preference.negatives.simple import AlreadySeen, Disliked, InBatch, PrefixNeighbours
from genrec.preference.negatives.weighted import Popularity, Uniform

__all__ = [
    "AlreadySeen",
    "BestOf",
    "Curriculum",
    "Disliked",
    "FaissNeighbours",
    "Filtered",
    "InBatch",
    "Mix",
    "ModelBeams",
    "Popularity",
    "PrefixNeighbours",
    "Uniform",
]
