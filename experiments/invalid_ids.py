"""Invalid Semantic IDs as negatives, on the quick start's built-in world of 1,000 items.

    genrec run experiments/invalid_ids.py:comparison

Nothing is downloaded. Named before the run: the primary endpoint is `valid_share` on test, the share of users whose unconstrained
greedy decoding ends in a real item, against continued SFT on the same histories (`control`); NDCG@10 beside it shows what that costs.
`beams` prefers the logged item over the policy's three most probable invalid Semantic IDs, searched at every step; `corruptions`
over its own codes with one of them replaced. Nothing is chosen on test. Cost: about 6 minutes on 2 idle CPU cores with three seeds.
Expected result: the share of `beams` rises over the control's. Result: see experiments/results.md.
"""

from __future__ import annotations

import quickstart

from genrec.experiment import Experiment, seeds
from genrec.objectives import Preference
from genrec.preference.candidates import InvalidIds
from genrec.preference.losses import SoftmaxDPO


def beams() -> Experiment:
    """Return S-DPO against the policy's most probable invalid Semantic IDs, beside the likelihood."""
    return quickstart.aligned("invalid-beams", Preference(loss=SoftmaxDPO(beta=0.5), candidates=InvalidIds(), likelihood=1.0))


def corruptions() -> Experiment:
    """Return S-DPO against corruptions of the logged item's codes, beside the likelihood."""
    candidates = InvalidIds(by="corruptions")
    return quickstart.aligned("invalid-corruptions", Preference(loss=SoftmaxDPO(beta=0.5), candidates=candidates, likelihood=1.0))


def comparison() -> list[Experiment]:
    """Return SFT, the control and both rows, three seeds each."""
    return seeds([quickstart.sft(), quickstart.control(), beams(), corruptions()], 3)
