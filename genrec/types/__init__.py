"""Protocols and values that the parts of genrec exchange.

Symbols used everywhere: `B` batch size, `T` history length, `N` items (ids 1..N, 0 = padding), `D` vector dimension, `L` levels of
a Semantic ID, `K` negatives, `M` candidates, `n` cut-off, `U` users. Tensors are written `name: dtype [shape]`. Modules exchange
items, not tokens. Protocols have methods only, so `isinstance` can check the components of an experiment.
"""

from genrec.types.data import DividingSplit, FilteringSplit, KeepingSplit, RawStream, RawTables, Source, Split, StreamedSource
from genrec.types.items import (
    NO_TEXT,
    CatalogQuantizer,
    FittedQuantizer,
    ItemEncoder,
    ListedCodes,
    PricedCodes,
    Quantizer,
    ResumableEncoder,
)
from genrec.types.policy import (
    Baseline,
    ConstrainedPolicy,
    ExactRecommender,
    Metric,
    Policy,
    PolicySpecification,
    PrefixPolicy,
    Ranking,
    Recommender,
    SequenceBatch,
    SequencePolicy,
    VectorPolicy,
    WindowBatch,
)
from genrec.types.preference import (
    CandidateFilter,
    DrawNegatives,
    ItemVectors,
    LogProbs,
    NegativeSampler,
    PreferenceLoss,
    PreferenceTerms,
    Reward,
    SamplerContext,
)
from genrec.types.specification import CheckedSpecification, NamesFiles

__all__ = [
    "NO_TEXT",
    "Baseline",
    "CandidateFilter",
    "CatalogQuantizer",
    "CheckedSpecification",
    "ConstrainedPolicy",
    "DividingSplit",
    "DrawNegatives",
    "ExactRecommender",
    "FilteringSplit",
    "FittedQuantizer",
    "ItemEncoder",
    "ItemVectors",
    "KeepingSplit",
    "ListedCodes",
    "LogProbs",
    "Metric",
    "NamesFiles",
    "NegativeSampler",
    "Policy",
    "PolicySpecification",
    "PreferenceLoss",
    "PreferenceTerms",
    "PrefixPolicy",
    "PricedCodes",
    "Quantizer",
    "Ranking",
    "RawStream",
    "RawTables",
    "Recommender",
    "ResumableEncoder",
    "Reward",
    "SamplerContext",
    "SequenceBatch",
    "SequencePolicy",
    "Source",
    "Split",
    "StreamedSource",
    "VectorPolicy",
    "WindowBatch",
]
