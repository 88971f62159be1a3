"""Worlds: generated data sets with a known best prediction, for tests and for a first run without a download."""

from genrec.data.worlds.cyclic import Cyclic
from genrec.data.worlds.shop import Shop

__all__ = ["Cyclic", "Shop"]
