"""Stage 1, data sets: each is a frozen dataclass with `load(root) -> RawTables` and `fingerprint(root) -> str`.

A data set of your own needs nothing from here: any frozen dataclass with `load` is a `genrec.types.Source`.
"""

from genrec.data.sources.amazon import AmazonReviews2014
from genrec.data.sources.frames import Frames
from genrec.data.sources.movielens import MovieLens

__all__ = ["AmazonReviews2014", "Frames", "MovieLens"]
