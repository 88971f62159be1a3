"""Objectives of a stage of training: what a step minimizes.

`Supervised` is the likelihood of SFT, `Preference` compares the candidates of a row, `PolicyGradient` raises the better ones of the
policy's own candidates, `ListPolicyGradient` the better ones of whole lists, `ProximalPolicy` is PPO, with a value function,
`PrefixContrast` compares prefixes of Semantic IDs beside the likelihood, `ViewContrast` the states of two views of a history, `Rounds`
alternates objectives.
"""

from genrec.objectives.history_views import Augmentations, SameTarget
from genrec.objectives.list_policy_gradient import ListPolicyGradient
from genrec.objectives.policy_gradient import PolicyGradient
from genrec.objectives.preferences import Preference
from genrec.objectives.prefix_contrast import PrefixContrast
from genrec.objectives.proximal_policy import ProximalPolicy
from genrec.objectives.rounds import Rounds
from genrec.objectives.supervised import Supervised
from genrec.objectives.view_contrast import ViewContrast

__all__ = [
    "Augmentations",
    "ListPolicyGradient",
    "PolicyGradient",
    "Preference",
    "PrefixContrast",
    "ProximalPolicy",
    "Rounds",
    "SameTarget",
    "Supervised",
    "ViewContrast",
]
