"""The simple rows that every table needs."""

from genrec.baselines.itemknn import ItemKNN
from genrec.baselines.popularity import Popularity

__all__ = ["ItemKNN", "Popularity"]
