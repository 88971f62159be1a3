"""Preference losses: pure functions of log-probabilities, as frozen specifications.

Notation. `lp(y)` is the policy's log-probability of item y, summed over its L codes, and `lp_ref(y)` the frozen reference's (the SFT
policy). `y_w` is the positive and `y_1..y_K` are its negatives. `D_y = lp(y) - lp_ref(y)` is the log-ratio, `beta * D_y` the implicit
reward and `s` the logistic sigmoid. Each loss maps `LogProbs` of policy and reference to `PreferenceTerms`, with one loss per
example; training minimizes the mean over the batch.

Masking. A negative is masked if it is -inf under the policy or under the reference, because it then has no finite log-ratio. A masked
negative changes no value and has a gradient of 0. Losses without a reference mask the same negatives. The preference part of a row
without negatives is 0.

Rows without a positive. Events that are labeled one by one give rows with a disliked item and no liked one: `chosen` is then -inf.
`KTO(paired=False)` learns from them, alone or in `Anchored`, and has `needs.positive` False. All other losses compare a positive with
negatives and have `needs.positive` True: a row without a positive has a loss and gradients of 0, and alignment refuses such rows.

K negatives. A loss that its paper defines for one pair is averaged over the K pairs of a row. `DPO` raises UsageError for K > 1; use
`SoftmaxDPO` (S-DPO).
"""

from genrec.preference.losses.composed_losses import Anchored, LevelWeighted, Smoothed
from genrec.preference.losses.kto import KTO
from genrec.preference.losses.pairwise import IPO, Hinge
from genrec.preference.losses.reference_free import CPO, ORPO, ContinuedSFT, SimPO
from genrec.preference.losses.smoothing import ConservativeDPO, RobustDPO, RosePO
from genrec.preference.losses.softmax import DMPO, DPO, RecPO, SoftmaxDPO
from genrec.preference.losses.starting_loss import check_start, starting_loss

__all__ = [
    "CPO",
    "DMPO",
    "DPO",
    "IPO",
    "KTO",
    "ORPO",
    "Anchored",
    "ConservativeDPO",
    "ContinuedSFT",
    "Hinge",
    "LevelWeighted",
    "RecPO",
    "RobustDPO",
    "RosePO",
    "SimPO",
    "Smoothed",
    "SoftmaxDPO",
    "check_start",
    "starting_loss",
]
