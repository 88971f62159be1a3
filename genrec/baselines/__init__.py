"""Recommenders to compare with: popularity, ItemKNN, EASE and BPR, fitted at evaluation, and SASRec, a trained policy over items.

`Popularity`, `ItemKNN`, `EASE` and `BPR` are `genrec.types.Baseline` specifications: `fit` returns a recommender, and the experiment
has only the stages `data` and `evaluate`. `SASRec` is a `genrec.types.PolicySpecification`: it is trained, aligned and evaluated like
any other policy.
"""

from genrec.baselines.bpr import BPR
from genrec.baselines.ease import EASE
from genrec.baselines.itemknn import ItemKNN
from genrec.baselines.popularity import Popularity
from genrec.baselines.sasrec import SASRec

__all__ = ["BPR", "EASE", "ItemKNN", "Popularity", "SASRec"]
