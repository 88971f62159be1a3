"""Preferences after SFT on liked events: does S-DPO add something to the likelihood of the same ratings?

    genrec run experiments/liked_first.py:comparison

The world is `Taste(seed=2)`, without a randomized period: held-out events are shown as those of training. The base is SFT on liked
events, which no row of the former quick start beat on NDCG. The control continues it on liked events for as many steps.

Named before the run: the primary endpoint is NDCG@10 of liked targets on test, seen items kept, of `both` against the control; second,
the pairwise accuracy of liked over disliked. The recipe of `both` (candidates, beta, learning rate) was chosen among 13 on validation,
with seed 0 of `Taste(seed=3)`. Cost and result: see experiments/results/liked-first.md.
"""

from __future__ import annotations

from dataclasses import replace

import quickstart
from quickstart import LIKED

from genrec.data.splits import HoldOutLast
from genrec.experiment import Align, Experiment, Optimization, Validation, seeds
from genrec.objectives import Preference
from genrec.preference.candidates import Sampled, Together, TopItems
from genrec.preference.losses import SoftmaxDPO
from genrec.preference.negatives import DislikedItems
from genrec.testing import Taste
from genrec.types import Objective


def sft() -> Experiment:
    """Return SFT of the quick start on liked events from the start; disliked and neutral events stay in the histories."""
    return replace(quickstart.sft_liked(), name="liked-sft", source=Taste(seed=2), split=HoldOutLast(n=10, liked=4, disliked=2))


def aligned(name: str, objective: Objective) -> Experiment:
    """Return the policy of SFT on liked events trained further by this objective, 100 steps with a learning rate of 3e-4."""
    align = Align(
        objective=objective,
        keep="last",
        optimization=Optimization(max_steps=100, batch_size=64, learning_rate=3e-4, warmup_steps=10),
        validation=Validation(every=100, users=400),
    )
    return replace(sft(), name=f"liked-{name}", align=align)


def control() -> Experiment:
    """Return the control: continued SFT on liked events."""
    return aligned("continued", LIKED)


def both() -> Experiment:
    """Return S-DPO of a liked target over a dislike of the user and the policy's own best items, beside the likelihood.

    Where the target is not among the policy's best 8, the preference is over the dislike alone.
    """
    candidates = Together((TopItems(size=8), Sampled(DislikedItems(), 1)))
    objective = Preference(loss=SoftmaxDPO(beta=1.0), candidates=candidates, likelihood=1.0, targets="all", feedback="liked")
    return aligned("both", objective)


def comparison() -> list[Experiment]:
    """Return the control, SFT and the preference, five seeds each."""
    return seeds([control(), sft(), both()])
