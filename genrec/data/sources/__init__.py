"""Stage 1, data sets: each is a frozen dataclass with `stream(root)`, `load(root)` and `fingerprint(root) -> str`.

A data set of your own needs nothing from here: any frozen dataclass with `load` is a `genrec.types.Source`, and with `stream` a
`genrec.types.StreamedSource`. `genrec.data.download` fetches its files.
"""

from genrec.data.sources.amazon import AmazonReviews2014, AmazonReviews2018, AmazonReviews2023
from genrec.data.sources.frames import Frames
from genrec.data.sources.movielens import MovieLens

__all__ = ["AmazonReviews2014", "AmazonReviews2018", "AmazonReviews2023", "Frames", "MovieLens"]
