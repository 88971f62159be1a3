"""The vocabulary of genrec: what the parts hand to each other.

Symbols, used everywhere: `B` batch, `T` history length, `N` items (ids 1..N, 0 = none), `D` vector width, `L` SID levels,
`K` negatives, `M` candidates, `n` a cut-off, `U` users. Tensors are written `name: dtype [shape]`. Items, not tokens, cross
module borders. Protocols have methods only, so that `isinstance` can check what fills an experiment's field.
"""

from genrec.types.data import DividingSplit, FilteringSplit, KeepingSplit, RawStream, RawTables, Source, Split, StreamedSource
from genrec.types.items import (
    NO_TEXT,
    CatalogueQuantizer,
    FittedQuantizer,
    ItemEncoder,
    ListedCodes,
    PricedCodes,
    Quantizer,
    ResumableEncoder,
)
from genrec.types.policy import (
    Baseline,
    ExactRecommender,
    Metric,
    Policy,
    PolicySpecification,
    Ranking,
    Recommender,
    SequenceBatch,
    SequencePolicy,
    WindowBatch,
)
from genrec.types.preference import DrawNegatives, LogProbs, NegativeSampler, PreferenceLoss, PreferenceTerms, SamplerContext

__all__ = [
    "NO_TEXT",
    "Baseline",
    "CatalogueQuantizer",
    "DividingSplit",
    "DrawNegatives",
    "ExactRecommender",
    "FilteringSplit",
    "FittedQuantizer",
    "ItemEncoder",
    "KeepingSplit",
    "ListedCodes",
    "LogProbs",
    "Metric",
    "NegativeSampler",
    "Policy",
    "PolicySpecification",
    "PreferenceLoss",
    "PreferenceTerms",
    "PricedCodes",
    "Quantizer",
    "Ranking",
    "RawStream",
    "RawTables",
    "Recommender",
    "ResumableEncoder",
    "SamplerContext",
    "SequenceBatch",
    "SequencePolicy",
    "Source",
    "Split",
    "StreamedSource",
    "WindowBatch",
]
