"""The rows that every table needs: two that are fitted, and SASRec, a policy over items."""

from genrec.baselines.itemknn import ItemKNN
from genrec.baselines.popularity import Popularity
from genrec.baselines.sasrec import SASRec

__all__ = ["ItemKNN", "Popularity", "SASRec"]
