"""Rewards that are models trained on preferences, with an artifact of their own: `BradleyTerry`.

An experiment with such a reward has a stage `reward`. The other rewards (`genrec.preference.rewards`) are not trained.
"""

from genrec.preference.reward_models.bradley_terry import BradleyTerry
from genrec.preference.reward_models.reward_network import RewardFigures

__all__ = ["BradleyTerry", "RewardFigures"]
