"""Recommenders to compare with: popularity, ItemKNN, EASE and BPR, fitted at evaluation, and trained policies over items.

`Popularity`, `ItemKNN`, `EASE` and `BPR` are `genrec.types.Baseline` specifications: `fit` returns a recommender, and the experiment
has only the stages `data` and `evaluate`. `SASRec` and `GRU4Rec` are `genrec.types.PolicySpecification`s: they are trained, aligned
and evaluated like any other policy. `GBCE` and `SampledSoftmax` are losses of theirs with sampled negatives.
"""

from genrec.baselines.bpr import BPR
from genrec.baselines.ease import EASE
from genrec.baselines.gru4rec import GRU4Rec
from genrec.baselines.item_losses import GBCE, SampledSoftmax
from genrec.baselines.itemknn import ItemKNN
from genrec.baselines.popularity import Popularity
from genrec.baselines.sasrec import SASRec

__all__ = ["BPR", "EASE", "GBCE", "GRU4Rec", "ItemKNN", "Popularity", "SASRec", "SampledSoftmax"]
