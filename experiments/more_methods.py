"""Further methods of the field on MovieLens-100K, each against SFT and its control: a table of its own for each function.

    genrec run experiments/more_methods.py:lists       # Rec-R1: policy gradients over lists, rewarded by their NDCG
    genrec run experiments/more_methods.py:prefixes    # APAO: a contrast of prefixes beside the likelihood, in SFT and in alignment
    genrec run experiments/more_methods.py:rewarded    # a Bradley-Terry reward model of likes over dislikes, with RLOO and PPO

`--source.path` names a local copy of the archive. Data, policies and recipes are those of experiments/movielens_tables.py (the last
liked event held out); nothing is tuned. Five seeds.

Endpoints, named before any of these rows was run: NDCG@10 on test, seen items kept, of `rec-r1` against `continued`, and of
`apao` (SFT from the start) against SFT. The other rows say where a difference comes from: `rec-r1-alone` has no likelihood, as in the
paper, and `continued-apao` takes the steps of the control with the contrast.

Endpoints of `rewarded`, named before any of its rows was run: NDCG@10 on test, seen items kept, of `rloo` and of `ppo` against
`still` (Holm over both), the control of the same steps without dropout; second, the pairwise accuracy of liked over disliked test
items. One reward model of all rows and seeds orders each user's liked events over disliked ones. The rows `-alone` have no likelihood
and little divergence: they show over-optimization, the reward of the lists (`validation_reward`) against NDCG@10 and the distance from
SFT, at 10 validations:

    genrec curves ml100k-liked-rpg-rloo-alone ml100k-liked-rpg-ppo-alone --all --csv curves.csv

Cost: not run yet. Results will stand in experiments/results.md.
"""

from __future__ import annotations

from dataclasses import replace

import movielens_tables
import on_policy

from genrec.experiment import Align, Experiment, Validation, seeds
from genrec.objectives import ListPolicyGradient, PolicyGradient, PrefixContrast, ProximalPolicy
from genrec.preference.candidates import Rollouts, Sampled
from genrec.preference.negatives import DislikedItems
from genrec.preference.policy_gradient import LeaveOneOutAdvantage, Reinforce
from genrec.preference.reward_models import BradleyTerry
from genrec.types import Objective

# The reward model: each user's liked events over disliked events of training.
LIKES = BradleyTerry(pairs=Sampled(DislikedItems(), 1), feedback="liked")


def lists() -> list[Experiment]:
    """Return RPG: SFT, continued SFT, and lists of 10 items rewarded by NDCG, beside the likelihood and alone."""
    base = movielens_tables.rpg()
    rows: dict[str, Objective] = {
        "continued": on_policy.WINDOWS,
        "rec-r1": ListPolicyGradient(targets="all"),
        "rec-r1-alone": ListPolicyGradient(targets="all", likelihood=0),
    }
    return seeds([base, *(on_policy.aligned(base, name, each, movielens_tables.STEPS) for name, each in rows.items())])


def prefixes() -> list[Experiment]:
    """Return TIGER: SFT and continued SFT, by the likelihood alone and with the contrast of prefixes."""
    base, contrast = movielens_tables.tiger(), PrefixContrast(targets="all")
    rows: dict[str, Objective] = {"continued": on_policy.WINDOWS, "continued-apao": contrast}
    by_contrast = replace(base, name=base.name.replace("-sft", "-apao"), sft=replace(base.sft, objective=contrast))
    aligned = [on_policy.aligned(base, name, each, movielens_tables.STEPS) for name, each in rows.items()]
    return seeds([base, by_contrast, *aligned])


def rloo(likelihood: float, kl: float) -> PolicyGradient:
    """Return RLOO with the reward model: four samples of the policy a row."""
    return PolicyGradient(
        candidates=Rollouts(size=4, by="samples"),
        reward=LIKES,
        advantage=LeaveOneOutAdvantage(),
        surrogate=Reinforce(),
        kl=kl,
        kl_in="reward",
        gate=False,
        likelihood=likelihood,
        targets="all",
    )


def ppo(likelihood: float, kl: float) -> ProximalPolicy:
    """Return PPO with the reward model: one draw a row, by a copy of the policy that is renewed every four steps."""
    return ProximalPolicy(reward=LIKES, refresh=4, kl=kl, likelihood=likelihood, targets="all")


def still(base: Experiment, name: str, objective: Objective) -> Experiment:
    """Return the SFT policy trained further without dropout, as draws need it, with 10 validations."""
    row = on_policy.aligned(base, name, objective, movielens_tables.STEPS)
    assert isinstance(row.align, Align)
    return replace(row, align=replace(row.align, dropout=False, validation=Validation(every=movielens_tables.STEPS // 10)))


def rewarded() -> list[Experiment]:
    """Return RPG: SFT, continued SFT with and without dropout, and RLOO and PPO with a reward model, with and without likelihood."""
    base = movielens_tables.rpg()
    rows: dict[str, Objective] = {
        "still": on_policy.WINDOWS,
        "rloo": rloo(likelihood=1.0, kl=0.2),
        "ppo": ppo(likelihood=1.0, kl=0.2),
        "rloo-alone": rloo(likelihood=0.0, kl=0.05),
        "ppo-alone": ppo(likelihood=0.0, kl=0.05),
    }
    continued = on_policy.aligned(base, "continued", on_policy.WINDOWS, movielens_tables.STEPS)
    return seeds([base, continued, *(still(base, name, each) for name, each in rows.items())])
