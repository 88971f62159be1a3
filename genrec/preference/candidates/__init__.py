"""Proposers: who proposes the candidates of a row.

`Sampled` takes the logged item and the negatives of a sampler, `TopItems` the logged item and the policy's best other items,
`History` the logged item and items of the history, `LaterItems` the logged item and the items that the user takes next, `InvalidIds`
the logged item and Semantic IDs of no item, and `Together` the candidates of several of them. `Rollouts` gives groups of candidates by
the policy, for rewards to judge. `Pairs` reads rows with their candidates from a file.
"""

from genrec.preference.candidates.history_items import History
from genrec.preference.candidates.invalid_ids import InvalidIds
from genrec.preference.candidates.later_items import LaterItems
from genrec.preference.candidates.pair_file import Pairs
from genrec.preference.candidates.rollouts import Rollouts
from genrec.preference.candidates.sampled import Sampled
from genrec.preference.candidates.together import Together
from genrec.preference.candidates.top_items import TopItems

__all__ = ["History", "InvalidIds", "LaterItems", "Pairs", "Rollouts", "Sampled", "Together", "TopItems"]
