"""Stage 1, data sets that are generated: worlds with a known answer, for tests and for a first run without any download."""

from genrec.data.worlds.cyclic import Cyclic
from genrec.data.worlds.shop import Shop

__all__ = ["Cyclic", "Shop"]
