"""Proposers: who proposes the candidates of a row."""

from genrec.preference.candidates.history_items import History
from genrec.preference.candidates.rollouts import Rollouts
from genrec.preference.candidates.together import Together
from genrec.preference.candidates.top_items import TopItems

__all__ = ["History", "Rollouts", "Together", "TopItems"]
