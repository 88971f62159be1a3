"""Data sets. Each is a frozen dataclass with `stream(root)`, `load(root)` and `fingerprint(root) -> str`.

Your own data set needs nothing from this package: any frozen dataclass with `load` is a `genrec.types.Source`, and with `stream` also
a `genrec.types.StreamedSource`. Use `genrec.data.download` to download its files.
"""

from genrec.data.sources.amazon import AmazonReviews2014, AmazonReviews2018, AmazonReviews2023
from genrec.data.sources.frames import Frames
from genrec.data.sources.movielens import MovieLens

__all__ = ["AmazonReviews2014", "AmazonReviews2018", "AmazonReviews2023", "Frames", "MovieLens"]
