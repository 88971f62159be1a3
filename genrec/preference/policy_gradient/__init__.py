"""Policy gradients over groups of candidates: advantages, surrogates, and the divergence from the reference.

Notation. A row's group has G candidates `y_1..y_G` with rewards `r_i`. `lp_i` is the log-probability of y_i under the policy in
training, summed over its L codes, `lo_i` under the policy that drew it and `lr_i` under the frozen reference; `sg` stops the gradient.

Masks. A masked candidate changes no value and has a gradient of 0. Groups whose rewards are all equal have an advantage of 0; they are
left out of the mean over groups and counted in the logs.
"""

from genrec.preference.policy_gradient.advantage_estimation import (
    clipped_value_loss,
    code_rewards,
    generalized_advantages,
    whitened,
)
from genrec.preference.policy_gradient.clipped_surrogates import Clip, EarlyClip, SequenceClip
from genrec.preference.policy_gradient.divergence import k3_estimate, penalized_rewards
from genrec.preference.policy_gradient.group_advantages import (
    GroupAdvantage,
    LeaveOneOutAdvantage,
    group_advantages,
    leave_one_out_advantages,
)
from genrec.preference.policy_gradient.sibling_advantages import SiblingAdvantage, sibling_advantages
from genrec.preference.policy_gradient.unclipped_surrogates import BoundedGradient, Reinforce, bounded_gradient_loss
from genrec.preference.policy_gradient.window_weights import WindowedAdvantage, window_weights

__all__ = [
    "BoundedGradient",
    "Clip",
    "EarlyClip",
    "GroupAdvantage",
    "LeaveOneOutAdvantage",
    "Reinforce",
    "SequenceClip",
    "SiblingAdvantage",
    "WindowedAdvantage",
    "bounded_gradient_loss",
    "clipped_value_loss",
    "code_rewards",
    "generalized_advantages",
    "group_advantages",
    "k3_estimate",
    "leave_one_out_advantages",
    "penalized_rewards",
    "sibling_advantages",
    "whitened",
    "window_weights",
]
