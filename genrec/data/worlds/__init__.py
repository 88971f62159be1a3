"""Worlds: generated data sets with a known best prediction, for tests and for a first run without a download."""

from genrec.data.worlds.cyclic import Cyclic
from genrec.data.worlds.shop import Shop
from genrec.data.worlds.taste import Taste
from genrec.data.worlds.taste_oracle import BestMetrics, best_metrics

__all__ = ["BestMetrics", "Cyclic", "Shop", "Taste", "best_metrics"]
