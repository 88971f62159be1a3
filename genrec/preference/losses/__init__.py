"""Stage 5, preference losses: pure functions of log-probabilities, as frozen specifications.

In: `LogProbs` of the positive `y_w` and its negatives `y_1..y_K` under the policy and under the frozen reference (the SFT policy),
each the sum over the L codes. Out: `PreferenceTerms`, one loss an example; a batch is their mean.
`D_y = lp(y) - lp_ref(y)` is the log-ratio and `beta * D_y` the implicit reward.

A masked negative is -inf under the policy, under the reference, or under both: it counts for nothing, as if it were not there, and
has a gradient of 0. One side is enough, since an item that is impossible under it has no finite log-ratio; losses without a
reference leave out the same. A row without negatives adds 0 to the preference part. A loss that its paper has for one pair takes
K negatives as the mean over their pairs; `DPO` refuses them, since S-DPO is its loss for several.
"""

from genrec.preference.losses.composed_losses import Anchored, Smoothed, asked
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
    "RecPO",
    "RobustDPO",
    "RosePO",
    "SimPO",
    "Smoothed",
    "SoftmaxDPO",
    "asked",
    "check_start",
    "starting_loss",
]
