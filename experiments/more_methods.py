"""Further methods of the field on MovieLens-100K, each against SFT and its control: a table of its own for each function.

    genrec run experiments/more_methods.py:losses      # the other preference losses on the candidates of gated S-DPO
    genrec run experiments/more_methods.py:lists       # Rec-R1: policy gradients over lists, rewarded by their NDCG
    genrec run experiments/more_methods.py:prefixes    # APAO: a contrast of prefixes beside the likelihood, in SFT and in alignment
    genrec run experiments/more_methods.py:later       # RecPO on the authors' data: a user's next ten items and their ratings
    genrec run experiments/more_methods.py:later_last  # the same with the last ten events held out, with metrics of preference
    genrec run experiments/more_methods.py:oracle      # RosePO: labels smoothed by a trained oracle, a BPR
    genrec run experiments/more_methods.py:views       # CL4SRec and DuoRec: a contrast of views beside the likelihood, in SFT
    genrec run experiments/more_methods.py:lettingo    # LettinGo and RLAIF: a frozen baseline judges the policy's own candidates
    genrec run experiments/more_methods.py:inputs      # a token of the user, times and ratings in the input of TIGER
    genrec run experiments/more_methods.py:rewarded    # a Bradley-Terry reward model of likes over dislikes, with RLOO and PPO

`--source.path` names a local copy of the archive. Data, policies and recipes are those of experiments/movielens_tables.py (the last
liked event held out); nothing is tuned. Five seeds.

Endpoints, named before any of these rows was run: NDCG@10 on test, seen items kept, of `rec-r1` against `continued`, and of
`apao` (SFT from the start) against SFT. The other rows say where a difference comes from: `rec-r1-alone` has no likelihood, as in the
paper, and `continued-apao` takes the steps of the control with the contrast. Of `views`: NDCG@10 on test, seen items kept, of each of
`cl4srec` and `duorec` against SFT, with RPG and with SASRec (Holm over the four). Of `lettingo`: the same metric of `lettingo` and of
`rlaif` against `continued` (Holm over the two); `lettingo-hit` shows how much of it the judge explains.

Of `losses`: NDCG@10 on test, seen items kept, of each loss against `continued` (Holm over all of them), named before any of its rows
was run. All take the 15 best other items of the policy where the target is among the best 16, refreshed every step, beside the
likelihood; DPO, which compares one pair, takes the best other item where the target is among the best two. The scales of the losses
are not matched. `gated-likelihood`, added after the other rows had been seen, has the likelihood of the rows that the gate lets
through and no negatives: what the losses gain beyond it comes from the negatives.

`views` has the weight (0.1), the temperature (1) and the dot product of the papers for both policies, though their states have other
norms. SFT trains on windows, so a step contrasts one history of each of its windows.

`lettingo` departs from the paper: there a language model writes texts about a user, a frozen recommender that reads them judges them,
and the best and the worst text are a pair. Here the candidates are the target and the 15 best other items of the policy. The judge is
EASE, fitted on the training events, which scores them for the history and does not know the target. The best candidate is preferred at
once to all with a score lower by more than 0.05 (S-DPO), without a likelihood, as in the paper. In `lettingo-hit` the judge is the
target, which makes it S-DPO on the policy's own items. `rlaif` gives the judge's scores to a policy gradient, beside the likelihood of
the target; the judge of its papers is a language model. The policy of another row, here SASRec, judges in a row of its own:

    genrec run experiments/more_methods.py:rlaif --align.reward PolicyScore --align.reward.artifact sft/KEY --name NAME --seeds 5

`later`: NDCG@10 of liked targets on test, seen items kept, of `recpo` against the stronger of `continued`, SFT on liked events and
`continued-liked`. `recpo-target` prefers the logged item among the same candidates, and `sdpo-best` the best one without margins. In
`later_last` it is the pairwise accuracy of liked over disliked items, against the stronger of SFT on liked events and
`continued-liked`. `oracle`: NDCG@10 on test, seen items kept, of `rosepo` against `continued`; `cdpo` smooths all labels alike.

Endpoint of `inputs`, named before any of its rows was run: NDCG@10 on test, seen items kept, of each of `user`, `time` and `rating`
against SFT (Holm over the three); `all` has the three together. Policy, data and recipe are those of experiments/movielens.py:sft,
with the last event held out, so that low ratings stand in histories and are targets. In MovieLens-100K 60 % of the users give all of
their ratings within two hours, and half of the events have the time of the one before, so times may tell little.

Endpoints of `rewarded`, named before any of its rows was run: NDCG@10 on test, seen items kept, of `rloo` and of `ppo` against
`still` (Holm over both), the control of the same steps without dropout. One reward model of all rows and seeds orders each user's
liked events over disliked ones. The rows `-alone` have no likelihood and little divergence: they show over-optimization, the reward of
the lists (`validation_reward`) against NDCG@10 and the distance from SFT, at 10 validations:

    genrec curves ml100k-liked-rpg-rloo-alone ml100k-liked-rpg-ppo-alone --all --csv curves.csv

Cost: SFT of one seed takes about 7 minutes of one core of an AMD EPYC, and an alignment of `losses` 15 to 25 s. `losses`, `lettingo`,
`oracle`, `lists` and `rewarded` (20 to 25 minutes each after SFT) have their five seeds: experiments/results/losses-100k.md,
judges-100k.md, further-methods-100k.md, docs/methods/noisy-labels.md. The other tables have not been run.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import headline
import movielens
import movielens_tables
import on_policy

from genrec.baselines import BPR, EASE
from genrec.data.splits import LeaveOneOut
from genrec.endpoints import endpoint
from genrec.experiment import Align, Experiment, Validation, seeds
from genrec.objectives import (
    Augmentations,
    ListPolicyGradient,
    PolicyGradient,
    Preference,
    PrefixContrast,
    ProximalPolicy,
    SameTarget,
    ViewContrast,
)
from genrec.preference.candidates import LaterItems, Rollouts, Sampled, Together, TopItems
from genrec.preference.losses import CPO, DMPO, DPO, IPO, ORPO, ConservativeDPO, Hinge, RecPO, RobustDPO, RosePO, SimPO, SoftmaxDPO
from genrec.preference.negatives import DislikedItems, Uniform
from genrec.preference.policy_gradient import LeaveOneOutAdvantage, Reinforce
from genrec.preference.reward_models import BradleyTerry
from genrec.preference.rewards import BaselineScore, Hit, StepDiscountedRating
from genrec.types import HistoryViews, Objective, PreferenceLoss, Reward

JUDGE = BaselineScore(EASE(l2=100.0))

# The reward model: each user's liked events over disliked events of training.
LIKES = BradleyTerry(pairs=Sampled(DislikedItems(), 1), feedback="liked")


def losses() -> list[Experiment]:
    """Return RPG: SFT, continued SFT, gated S-DPO, and the other losses on the same candidates."""
    base, own = movielens_tables.rpg(), TopItems(size=16)
    chosen: dict[str, PreferenceLoss] = {
        "gated": SoftmaxDPO(beta=1.0),
        "gated-dmpo": DMPO(beta=1.0),
        "gated-ipo": IPO(beta=0.5),
        "gated-hinge": Hinge(beta=0.5),
        "gated-cdpo": ConservativeDPO(beta=0.5),
        "gated-rdpo": RobustDPO(beta=0.5),
        "gated-simpo": SimPO(),
        "gated-cpo": CPO(beta=0.5, alpha=0.0),  # its own likelihood is that of the preference
        "gated-orpo": ORPO(),
    }
    rows: dict[str, Objective] = {
        "continued": on_policy.WINDOWS,
        "gated-dpo": headline.preference(DPO(beta=0.5), TopItems(size=2)),
        **{name: headline.preference(loss, own) for name, loss in chosen.items()},
        "gated-likelihood": on_policy.gate_alone(),
    }
    return seeds([base, *(on_policy.aligned(base, name, each, movielens_tables.STEPS) for name, each in rows.items())])


def lists() -> list[Experiment]:
    """Return RPG: SFT, continued SFT, and lists of 10 items rewarded by NDCG, beside the likelihood and alone."""
    base = movielens_tables.rpg()
    rows: dict[str, Objective] = {
        "continued": on_policy.WINDOWS,
        "rec-r1": ListPolicyGradient(targets="all"),
        "rec-r1-alone": ListPolicyGradient(targets="all", likelihood=0),
    }
    return seeds([base, *(on_policy.aligned(base, name, each, movielens_tables.STEPS) for name, each in rows.items())])


@endpoint("ml100k-liked-tiger-apao", reference="ml100k-liked-tiger-sft")
def prefixes() -> list[Experiment]:
    """Return TIGER: SFT and continued SFT, by the likelihood alone and with the contrast of prefixes."""
    base, contrast = movielens_tables.tiger(), PrefixContrast(targets="all")
    rows: dict[str, Objective] = {"continued": on_policy.WINDOWS, "continued-apao": contrast}
    by_contrast = replace(base, name=base.name.replace("-sft", "-apao"), sft=replace(base.sft, objective=contrast))
    aligned = [on_policy.aligned(base, name, each, movielens_tables.STEPS) for name, each in rows.items()]
    return seeds([base, by_contrast, *aligned])


@endpoint("ml100k-rated-rpg-recpo", reference="ml100k-rated-rpg-continued")
@endpoint("ml100k-rated-rpg-recpo", reference="ml100k-rated-rpg-sft-liked")
@endpoint("ml100k-rated-rpg-recpo", reference="ml100k-rated-rpg-continued-liked")
def later() -> list[Experiment]:
    """Return RPG: likelihood of all and of liked events, and RecPO. No event is labeled as disliked, so each one is a target."""
    base = replace(movielens_tables.rpg(), name="ml100k-rated-rpg-sft", split=LeaveOneOut(liked=4))
    return seeds([base, movielens_tables.sft_liked(base), *_rated(base)])


@endpoint("ml100k-last-rpg-recpo", reference="ml100k-last-rpg-sft-liked", metric="pairwise_accuracy")
@endpoint("ml100k-last-rpg-recpo", reference="ml100k-last-rpg-continued-liked", metric="pairwise_accuracy")
def later_last() -> list[Experiment]:
    """Return the rows of `later` with the last ten events held out. Disliked events are never targets or preferred, but candidates."""
    base = movielens_tables.rpg("last")
    return seeds([base, movielens_tables.sft_liked(base), *_rated(base)])


def _rated(base: Experiment) -> list[Experiment]:
    """Return continued SFT on all and on liked events, RecPO on its own data, and RecPO without a part of it."""
    own = Preference(
        loss=RecPO(beta=1.0, weight=0.5),
        candidates=Together((LaterItems(size=10), Sampled(Uniform(), 10))),
        reward=StepDiscountedRating(),
        chosen="best",
        likelihood=1.0,
        targets="all",
    )
    rows: dict[str, Objective] = {
        "continued": on_policy.WINDOWS,
        "continued-liked": movielens_tables.LIKED,
        "recpo": own,
        "recpo-target": replace(own, chosen="first"),
        "sdpo-best": replace(own, loss=SoftmaxDPO(beta=1.0)),
    }
    return [on_policy.aligned(base, name, each, movielens_tables.STEPS) for name, each in rows.items()]


def oracle() -> list[Experiment]:
    """Return RPG: SFT, continued SFT, and pairs smoothed by a BPR that is fitted on the training events, or all alike."""
    base, pairs = movielens_tables.rpg(), Sampled(Uniform(), 3)
    judged = Preference(
        loss=RosePO(beta=0.5, label_smoothing=0.49),  # the probability of a wrong label by the oracle, at most 0.49
        candidates=pairs,
        reward=BaselineScore(BPR(), reads="user"),
        likelihood=1.0,
        targets="all",
    )
    alike = Preference(loss=ConservativeDPO(beta=0.5, label_smoothing=0.1), candidates=pairs, likelihood=1.0, targets="all")
    rows: dict[str, Objective] = {"continued": on_policy.WINDOWS, "rosepo": judged, "cdpo": alike}
    return seeds([base, *(on_policy.aligned(base, name, each, movielens_tables.STEPS) for name, each in rows.items())])


@endpoint("ml100k-liked-rpg-cl4srec", reference="ml100k-liked-rpg-sft")
@endpoint("ml100k-liked-rpg-duorec", reference="ml100k-liked-rpg-sft")
@endpoint("ml100k-liked-sasrec-cl4srec", reference="ml100k-liked-sasrec")
@endpoint("ml100k-liked-sasrec-duorec", reference="ml100k-liked-sasrec")
def views() -> list[Experiment]:
    """Return RPG and SASRec: SFT by the likelihood alone, with CL4SRec's augmentations, and with DuoRec's same-target views."""
    methods: dict[str, HistoryViews] = {"cl4srec": Augmentations(), "duorec": SameTarget()}
    rows = []
    for base in (movielens_tables.rpg(), movielens_tables.sasrec(movielens_tables.rpg())):
        rows.append(base)
        for name, made in methods.items():
            recipe = replace(base.sft, objective=ViewContrast(views=made, targets="all"))
            rows.append(replace(base, name=f"{base.name.removesuffix('-sft')}-{name}", sft=recipe))
    return seeds(rows)


def lettingo() -> list[Experiment]:
    """Return RPG: SFT, continued SFT, and preferences and rewards of EASE over the policy's own items."""
    base = movielens_tables.rpg()
    rows: dict[str, Objective] = {
        "continued": on_policy.WINDOWS,
        "lettingo": judged(JUDGE, min_gap=0.05),
        "lettingo-hit": judged(Hit(), min_gap=0.5),
    }
    return seeds([base, *(on_policy.aligned(base, name, each, movielens_tables.STEPS) for name, each in rows.items()), rlaif()])


def rlaif() -> Experiment:
    """Return RPG aligned by a policy gradient with a judge's scores of its 16 best items as rewards."""
    objective = PolicyGradient(candidates=Rollouts(size=16, by="top"), reward=JUDGE, gate=False, targets="all")
    return on_policy.aligned(movielens_tables.rpg(), "rlaif", objective, movielens_tables.STEPS)


def judged(judge: Reward, min_gap: float) -> Preference:
    """Return the preference of the candidate that a judge scores best over those that it scores lower by more than a gap."""
    candidates = TopItems(size=16, gate=False)
    return Preference(loss=SoftmaxDPO(beta=1.0), candidates=candidates, reward=judge, chosen="best", min_gap=min_gap, targets="all")


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


@endpoint("ml100k-input-user", reference="ml100k-sft")
@endpoint("ml100k-input-time", reference="ml100k-sft")
@endpoint("ml100k-input-rating", reference="ml100k-sft")
def inputs() -> list[Experiment]:
    """Return TIGER trained by SFT on items alone, with a token of the user, with times, with ratings, and with all three."""
    base = movielens.sft()
    fields: dict[str, dict[str, Any]] = {
        "user": {"user_tokens": 2_000},
        "time": {"time_buckets": 32},
        "rating": {"ratings": (1, 2, 3, 4, 5)},
    }
    fields["all"] = fields["user"] | fields["time"] | fields["rating"]
    tiger: Any = base.policy
    rows = [replace(base, name=f"ml100k-input-{name}", policy=replace(tiger, **given)) for name, given in fields.items()]
    return seeds([base, *rows])


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
