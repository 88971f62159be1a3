"""On-policy S-DPO: the logged item against the policy's own best items, refreshed every step, where the logged item is among them.

    genrec run experiments/on_policy.py:movielens_100k     # SASRec; downloads ml-100k.zip (--source.path: a local copy)
    genrec run experiments/on_policy.py:beauty             # SASRec on Amazon 2014 Beauty

Named before any run: the primary endpoint is NDCG@10 on test, seen items kept, of `gated` against `continued`, which takes the same
steps on the same batches. The recipe is fixed: 16 candidates, beta 1, weight 1 beside the likelihood with weight 1, every place of a
window, dropout on in the policy and off in the reference, AdamW 3e-4 with 20 steps of warm-up, two epochs. Nothing is chosen on test.
`ungated` prefers the logged item everywhere, `stale` takes the candidates of the SFT policy. Cost and result on MovieLens-100K: see
experiments/results/on-policy.md.
"""

from __future__ import annotations

from dataclasses import replace

import amazon
import movielens

from genrec.experiment import SFT, Align, Experiment, Optimization, Validation, baselines, seeds
from genrec.objectives import Preference, Supervised
from genrec.preference.candidates import TopItems
from genrec.preference.losses import ContinuedSFT, SoftmaxDPO
from genrec.types import Objective

WINDOWS = Supervised(targets="all")


def gated(gate: bool = True, refresh: int = 1) -> Preference:
    """Return S-DPO against the 15 best other items, beside the likelihood."""
    candidates = TopItems(size=16, gate=gate, refresh=refresh)
    return Preference(loss=SoftmaxDPO(beta=1.0), candidates=candidates, likelihood=1.0, targets="all")


def gate_alone(size: int = 16) -> Preference:
    """Return the likelihood of the rows that the gate of `gated` lets through, without negatives, beside that of all rows."""
    return Preference(loss=ContinuedSFT(), candidates=TopItems(size=size), likelihood=1.0, targets="all")


def aligned(base: Experiment, name: str, objective: Objective, steps: int, learning_rate: float = 3e-4) -> Experiment:
    """Return the SFT policy trained further by an objective."""
    align = Align(
        objective=objective,
        dropout=True,
        keep="last",
        optimization=Optimization(max_steps=steps, batch_size=128, learning_rate=learning_rate, warmup_steps=20),
        validation=Validation(every=steps),
    )
    return replace(base, name=base.name.replace("-sft", f"-{name}"), align=align)


def rows(base: Experiment, steps: int) -> list[Experiment]:
    """Return SFT, the control and the on-policy rows, five seeds each, beside the baselines."""
    trained = [
        base,
        aligned(base, "continued", WINDOWS, steps),
        aligned(base, "gated", gated(), steps),
        aligned(base, "ungated", gated(gate=False), steps),
        aligned(base, "stale", gated(refresh=0), steps),
    ]
    return baselines(base) + seeds(trained)


def movielens_sft() -> Experiment:
    """Return SASRec on MovieLens-100K, trained until validation NDCG@10 no longer rises."""
    return replace(movielens.sasrec(), name="ml100k-sasrec-sft")


def movielens_100k() -> list[Experiment]:
    """Return the rows on MovieLens-100K. Two epochs of 9,118 windows are 144 steps."""
    return rows(movielens_sft(), 144)


def beauty_sft() -> Experiment:
    """Return SASRec on Beauty, trained for up to 30 epochs of 190 steps, until validation NDCG@10 has not risen for four epochs."""
    recipe = SFT(
        objective=WINDOWS,
        optimization=Optimization(max_steps=5_700, batch_size=128, learning_rate=2e-3, warmup_steps=200),
        validation=Validation(every=190, patience=4),
    )
    base = amazon.sasrec()
    return replace(base, name="beauty-sasrec-sft", policy=replace(base.policy, dropout=0.5), sft=recipe)


def beauty() -> list[Experiment]:
    """Return the rows on Beauty. Two epochs are 380 steps."""
    return rows(beauty_sft(), 380)
