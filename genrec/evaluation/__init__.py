"""Evaluation: ranks of held-out items, metrics, and statistical comparison of runs.

The classes below are metrics for `Evaluate.metrics`.
"""

from genrec.evaluation.candidate_hit_rate import CandidateHitRate
from genrec.evaluation.list_metrics import IntraListDistance, ListOverlap

__all__ = ["CandidateHitRate", "IntraListDistance", "ListOverlap"]
