"""Alignment after stronger policies, RPG with item embeddings: losses on validation, and gated S-DPO on five seeds.

    genrec run experiments/strong_base.py:choice --evaluate.max-users 10   # seed 1000, each row validated after every epoch
    genrec run experiments/strong_base.py:beauty            # that policy, its control and gated S-DPO, five seeds
    genrec run experiments/strong_base.py:beauty_filtered   # the rows of `beauty` with seen items filtered, nothing is trained again
    genrec run experiments/strong_base.py:toys              # the rows of `beauty` on Toys and Games, the recipe unchanged
    genrec run experiments/strong_base.py:toys_filtered     # the rows of `toys` with seen items filtered

`--source.path` names a local copy of the data; of Toys it may be your own tables: `--source Frames --source.interactions FILE
--source.items FILE`. `choice` compares losses over the same candidates, the 15 best other items of the policy, where the target is
among the best 16, beside the likelihood, for three epochs after `parallel.sft`. `gated-likelihood` has the likelihood of the rows
that the gate lets through and no negatives: it shows what the choice of rows is worth. The choice is the row with the best NDCG@10 of
all users on validation after its last epoch: `gated`, 0.0605 (experiments/results/strong-base.md). The ten test users of the command
are there because every run evaluates, and were not looked at.

`beauty` starts from `parallel.repeat_sft`, which has learned to rank items of the history low, so that an alignment gains less by that
alone. Endpoint, named before the rows were run: NDCG@10 on test, seen items kept, of `gated` against `continued`, which takes the same
steps on the same batches, five seeds, a family of one. Added after two seeds had been seen: the same with seen items filtered, and
`gated-likelihood`, which tells what the choice of targets is worth. `toys` has the same endpoints.

Cost: an alignment takes about 7 minutes of one core of an AMD EPYC, SFT 35. Results will stand in experiments/results.md.
"""

from __future__ import annotations

from dataclasses import replace

import headline
import on_policy
import parallel
from movielens import filtered

from genrec.experiment import Align, Experiment, Validation, seeds
from genrec.preference.candidates import TopItems
from genrec.preference.losses import CPO, ORPO, Hinge
from genrec.tuning import SEED
from genrec.types import Objective, PreferenceLoss

STEPS = 3 * parallel.EPOCH  # of an alignment
COMPARED = ("continued", "gated", "gated-likelihood")  # rows of `beauty` and `toys`


def choice() -> list[Experiment]:
    """Return the control and one row for each loss after one SFT policy, with a validation of all users after each epoch."""
    rows = [on_policy.aligned(parallel.sft(), name, each, STEPS) for name, each in _objectives().items()]
    return [_validated(replace(row, seed=SEED)) for row in rows]


def beauty() -> list[Experiment]:
    """Return the policy with a repeat score and its aligned rows."""
    return _rows(parallel.repeat_sft())


def toys() -> list[Experiment]:
    """Return the rows of `beauty` on Toys."""
    return _rows(headline.on_toys(parallel.repeat_sft()))


def beauty_filtered() -> list[Experiment]:
    """Return the rows of `beauty` with seen items filtered."""
    return filtered(beauty())


def toys_filtered() -> list[Experiment]:
    """Return the rows of `toys` with seen items filtered."""
    return filtered(toys())


def _rows(base: Experiment) -> list[Experiment]:
    """Return an SFT policy, its control, gated S-DPO and the likelihood of the gate's targets, five seeds each."""
    aligned = [on_policy.aligned(base, name, each, STEPS) for name, each in _objectives().items() if name in COMPARED]
    return seeds([base, *aligned])


def _objectives() -> dict[str, Objective]:
    """Return the control and the losses over the candidates of gated S-DPO."""
    losses: dict[str, PreferenceLoss] = {
        "gated-hinge": Hinge(beta=0.5),
        "gated-cpo": CPO(beta=0.5, alpha=0.0),  # its own likelihood is that of the preference
        "gated-orpo": ORPO(),
    }
    return {
        "continued": on_policy.WINDOWS,
        "gated": on_policy.gated(),
        **{name: headline.preference(loss, TopItems(size=16)) for name, loss in losses.items()},
        "gated-likelihood": on_policy.gate_alone(),
    }


def _validated(row: Experiment) -> Experiment:
    """Return an aligned row with a validation of all users after each epoch."""
    assert isinstance(row.align, Align)
    return replace(row, align=replace(row.align, validation=Validation(every=parallel.EPOCH, users=0)))
