"""Alignment after the stronger policy, RPG with item embeddings: the loss is chosen on validation and confirmed on other seeds.

    genrec run experiments/strong_base.py:choice --evaluate.max-users 10   # seed 1000, each row validated after every epoch

`--source.path` names a local copy of the data. `choice` compares losses over the same candidates, the 15 best other items of the
policy, where the target is among the best 16, beside the likelihood, for three epochs after `parallel.sft`. `gated-likelihood` has
the likelihood of the rows that the gate lets through and no negatives: it shows what the choice of rows is worth. The choice is the
row with the best NDCG@10 of all users on validation after its last epoch; the ten test users of the command are there because every
run evaluates, and are not looked at.

Cost: an alignment takes about 7 minutes of one core of an AMD EPYC, SFT 35. Results will stand in experiments/results.md.
"""

from __future__ import annotations

from dataclasses import replace

import headline
import on_policy
import parallel

from genrec.experiment import Align, Experiment, Validation
from genrec.preference.candidates import TopItems
from genrec.preference.losses import CPO, ORPO, ContinuedSFT, Hinge
from genrec.tuning import SEED
from genrec.types import Objective, PreferenceLoss


def choice() -> list[Experiment]:
    """Return the control and one row for each loss after one SFT policy, with a validation of all users after each epoch."""
    rows = [on_policy.aligned(parallel.sft(), name, each, 3 * parallel.EPOCH) for name, each in _objectives().items()]
    return [_validated(replace(row, seed=SEED)) for row in rows]


def _objectives() -> dict[str, Objective]:
    """Return the control and the losses over the candidates of gated S-DPO."""
    losses: dict[str, PreferenceLoss] = {
        "gated-hinge": Hinge(beta=0.5),
        "gated-cpo": CPO(beta=0.5, alpha=0.0),  # its own likelihood is that of the preference
        "gated-orpo": ORPO(),
        "gated-likelihood": ContinuedSFT(),
    }
    return {
        "continued": on_policy.WINDOWS,
        "gated": on_policy.gated(),
        **{name: headline.preference(loss, TopItems(size=16)) for name, loss in losses.items()},
    }


def _validated(row: Experiment) -> Experiment:
    """Return an aligned row with a validation of all users after each epoch."""
    assert isinstance(row.align, Align)
    return replace(row, align=replace(row.align, validation=Validation(every=parallel.EPOCH, users=0)))
