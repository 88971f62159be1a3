"""Policies on MovieLens: a bidirectional or causal encoder, items or codes as its input, a decoder-only policy, and SASRec.

    genrec run experiments/policies.py:movielens_100k     # downloads ml-100k.zip; --source.path names a local copy
    genrec run experiments/policies.py:movielens_1m       # ratings of 4 or more

`...-sft` rows have a bidirectional encoder and train on one target per prefix. `...-causal` rows have a causal encoder and train on
all targets of a window in one pass. `...-short` rows stop after about equal time: 1,450 steps of the first and 750 of the second took
66 to 76 seconds on one core. All rows of a data set share their Semantic IDs. Cost and result: see experiments/results.md.
"""

from __future__ import annotations

from dataclasses import replace

from movielens import large, sasrec, sft

from genrec.experiment import SFT, Experiment, Optimization, Validation, baselines, seeds
from genrec.model import Gpt, Tiger
from genrec.objectives import Supervised

ALL = SFT(
    objective=Supervised(targets="all"),
    optimization=Optimization(max_steps=4_000, batch_size=64, learning_rate=2e-3, warmup_steps=100, weight_decay=0.035),
    validation=Validation(every=200, patience=6),
)


def causal(base: Experiment) -> Experiment:
    """Return the policy with a causal encoder, trained on all targets of a window."""
    assert isinstance(base.policy, Tiger)
    return replace(base, name=base.name.replace("-sft", "-causal"), policy=replace(base.policy, encoder="causal"), sft=ALL)


def codes(base: Experiment) -> Experiment:
    """Return the policy with one input token per code, as in TIGER, instead of one per item."""
    assert isinstance(base.policy, Tiger)
    return replace(base, name=base.name.replace("-sft", "-codes"), policy=replace(base.policy, history="codes"))


def gpt(base: Experiment) -> Experiment:
    """Return a decoder-only policy as deep as TIGER's encoder and decoder together, trained on all targets of a window."""
    policy = Gpt(d_model=64, d_ff=256, num_heads=4, d_kv=16, num_layers=4)
    return replace(base, name=base.name.replace("-sft", "-gpt"), policy=policy, sft=ALL)


def short(experiment: Experiment, steps: int) -> Experiment:
    """Return the experiment with fewer steps; the learning rate falls to 0 within them."""
    recipe = replace(
        experiment.sft,
        optimization=replace(experiment.sft.optimization, max_steps=steps),
        validation=replace(experiment.sft.validation, every=steps // 5),
    )
    return replace(experiment, name=f"{experiment.name}-short", sft=recipe)


def movielens_100k() -> list[Experiment]:
    """Return five seeds of each row."""
    quick = [short(sft(), 1_450), short(causal(sft()), 750), short(codes(sft()), 1_450)]
    return baselines(sft()) + seeds([sft(), causal(sft()), *quick, sasrec(), codes(sft()), gpt(sft())])


def movielens_1m() -> list[Experiment]:
    """Return both encoders, each trained for about four minutes on one core, five seeds."""
    base = large()
    all_targets = replace(
        causal(base),
        sft=replace(ALL, optimization=replace(ALL.optimization, max_steps=2_600), validation=replace(ALL.validation, every=520)),
    )
    return baselines(base) + seeds([base, all_targets])
