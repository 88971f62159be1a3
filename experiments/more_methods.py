"""Further methods of the field on MovieLens-100K, each against SFT and its control: a table of its own for each function.

    genrec run experiments/more_methods.py:lists       # Rec-R1: policy gradients over lists, rewarded by their NDCG
    genrec run experiments/more_methods.py:prefixes    # APAO: a contrast of prefixes beside the likelihood, in SFT and in alignment
    genrec run experiments/more_methods.py:later       # RecPO on the authors' data: a user's next ten items and their ratings
    genrec run experiments/more_methods.py:later_last  # the same with the last ten events held out, with metrics of preference
    genrec run experiments/more_methods.py:oracle      # RosePO: labels smoothed by a trained oracle, a BPR

`--source.path` names a local copy of the archive. Data, policies and recipes are those of experiments/movielens_tables.py (the last
liked event held out); nothing is tuned. Five seeds.

Endpoints, named before any of these rows was run: NDCG@10 on test, seen items kept, of `rec-r1` against `continued`, and of
`apao` (SFT from the start) against SFT. The other rows say where a difference comes from: `rec-r1-alone` has no likelihood, as in the
paper, and `continued-apao` takes the steps of the control with the contrast.

`later`: NDCG@10 of liked targets on test, seen items kept, of `recpo` against the stronger of `continued`, SFT on liked events and
`continued-liked`. `recpo-target` prefers the logged item among the same candidates, and `sdpo-best` the best one without margins. In
`later_last` it is the pairwise accuracy of liked over disliked items, against the stronger of SFT on liked events and
`continued-liked`. `oracle`: NDCG@10 on test, seen items kept, of `rosepo` against `continued`; `cdpo` smooths all labels alike.

Cost: not run yet. Results will stand in experiments/results.md.
"""

from __future__ import annotations

from dataclasses import replace

import movielens_tables
import on_policy

from genrec.baselines import BPR
from genrec.data.splits import LeaveOneOut
from genrec.experiment import Experiment, seeds
from genrec.objectives import ListPolicyGradient, Preference, PrefixContrast
from genrec.preference.candidates import LaterItems, Sampled, Together
from genrec.preference.losses import ConservativeDPO, RecPO, RosePO, SoftmaxDPO
from genrec.preference.negatives import Uniform
from genrec.preference.rewards import BaselineScore, StepDiscountedRating
from genrec.types import Objective


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


def later() -> list[Experiment]:
    """Return RPG: likelihood of all and of liked events, and RecPO. No event is labeled as disliked, so each one is a target."""
    base = replace(movielens_tables.rpg(), name="ml100k-rated-rpg-sft", split=LeaveOneOut(liked=4))
    return seeds([base, movielens_tables.sft_liked(base), *_rated(base)])


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
