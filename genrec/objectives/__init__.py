"""Objectives of a stage of training: what a step minimizes.

`Supervised` is the likelihood of SFT, `Preference` compares the candidates of a row, `Rounds` alternates objectives.
"""

from genrec.objectives.preferences import Preference
from genrec.objectives.rounds import Rounds
from genrec.objectives.supervised import Supervised

__all__ = ["Preference", "Rounds", "Supervised"]
