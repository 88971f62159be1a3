"""Tunings with equal budgets: 12 trials and at most 4 processor-hours each, by the validation metric; the test is not evaluated.

    genrec tune experiments/tuning.py:sasrec_100k     # SASRec on MovieLens-100K
    genrec tune experiments/tuning.py:tiger_100k      # TIGER on MovieLens-100K
    genrec tune experiments/tuning.py:sdpo_100k       # S-DPO after the untuned TIGER, its SFT policy trained once
    genrec tune experiments/tuning.py:sasrec_1m       # SASRec on MovieLens-1M
    genrec tune experiments/tuning.py:sasrec_beauty   # SASRec on Amazon Beauty
    genrec tune experiments/tuning.py:sasrec_toys     # SASRec on Amazon Toys
    genrec tune experiments/tuning.py:rpg_beauty      # RPG with a softmax over the catalog on Amazon Beauty, 12 epochs a trial
    genrec tune experiments/tuning.py:gated_beauty    # gated S-DPO of three epochs after RPG on Amazon Beauty, its SFT trained once
    genrec tune experiments/tuning.py:continued_beauty  # the control of `gated_beauty`
    genrec run experiments/tuning.py:sasrec_100k      # the experiment as it is, without a search

`--source.path` names a local copy of the data. A tuning prints the command that runs its best settings with five fresh seeds. Compare
methods after each of them was tuned. Cost: at most 4 processor-hours a tuning, and the trial that runs when they are used up.

Run to their end, one seed, one thread: `sasrec_100k`, `tiger_100k`, `sasrec_beauty`, `sasrec_toys` and `sdpo_100k`
(experiments/results.md). In those of SASRec and TIGER no trial is above the recipe of the files, but on Toys: its best trial is
slightly above Beauty's recipe on validation, and not on test (five seeds, experiments/results/sasrec-beauty.md). So these recipes
stay. `sasrec_1m` is not finished. `rpg_beauty`, `gated_beauty` and `continued_beauty` have not been run. They start from
`parallel.warm_digits`, the SFT of `headline.py:warm`. The two
alignments get the same budget; the control has fewer settings to choose.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import amazon
import headline
import movielens
import movielens_tables
import on_policy
import parallel

from genrec.experiment import Align, Experiment, Validation
from genrec.tuning import Choice, LogUniform, Tuning, Uniform


def sasrec_100k() -> Tuning:
    """Return the tuning of SASRec on MovieLens-100K."""
    return Tuning(
        experiment=movielens.sasrec(),
        space={
            "sft.optimization.learning_rate": LogUniform(3e-4, 1e-2),
            "policy.dropout": Uniform(0.1, 0.6),
            "policy.num_layers": Choice((1, 2, 3)),
            "policy.d_model": Choice((32, 64, 128)),
        },
    )


def sasrec_1m() -> Tuning:
    """Return the tuning of SASRec on MovieLens-1M. It starts from the row of `movielens_tables.py:movielens_1m`."""
    base = movielens_tables.sasrec(movielens_tables.rpg_1m(), 8_000)
    recipe = replace(base.sft, validation=Validation(every=500, users=2_000))
    return Tuning(experiment=replace(base, sft=recipe), space=sasrec_100k().space)


def tiger_100k() -> Tuning:
    """Return the tuning of TIGER on MovieLens-100K: the learning rate, the decay, and the sizes that regularize."""
    return Tuning(
        experiment=movielens.sft(),
        space={
            "sft.optimization.learning_rate": LogUniform(3e-4, 1e-2),
            "sft.optimization.weight_decay": LogUniform(1e-3, 0.3),
            "policy.dropout": Uniform(0.0, 0.4),
            "tokenize.quantizer.codebook_size": Choice((32, 64, 128)),
        },
    )


def sdpo_100k() -> Tuning:
    """Return the tuning of S-DPO with neighbors as negatives on MovieLens-100K. All trials align one SFT policy for 300 steps."""
    return Tuning(
        experiment=movielens.sdpo_faiss(),
        space={
            "align.optimization.learning_rate": LogUniform(1e-5, 1e-3),
            "align.objective.loss.loss.beta": LogUniform(0.1, 2.0),
            "align.objective.loss.alpha": LogUniform(0.1, 10.0),
            "align.objective.candidates.num_negatives": Choice((1, 3, 10)),
        },
    )


def sasrec_beauty() -> Tuning:
    """Return the tuning of SASRec on Beauty."""
    return _sasrec_amazon(amazon.sasrec())


def sasrec_toys() -> Tuning:
    """Return the tuning of SASRec on Toys, with the space and the budget of `sasrec_beauty`."""
    return _sasrec_amazon(headline.sasrec(headline.toys_sft()))


def _sasrec_amazon(base: Experiment) -> Tuning:
    """Return a tuning that starts from SASRec's recipe on Beauty with 6.3 epochs of Beauty."""
    optimization = replace(base.sft.optimization, learning_rate=3e-3, max_steps=1_200)
    recipe = replace(base.sft, optimization=optimization, validation=replace(base.sft.validation, every=100, users=2_000))
    return Tuning(
        experiment=replace(base, policy=replace(base.policy, dropout=0.3), sft=recipe),
        space={
            "sft.optimization.learning_rate": LogUniform(5e-4, 1e-2),
            "policy.dropout": Uniform(0.1, 0.6),
            "policy.num_layers": Choice((1, 2)),
            "policy.d_model": Choice((64, 128)),
        },
    )


def rpg_beauty() -> Tuning:
    """Return the tuning of RPG on Beauty. Trials have 12 epochs instead of 20 and validate on 4,000 users every two epochs."""
    base = parallel.warm_digits()
    optimization = replace(base.sft.optimization, max_steps=12 * parallel.EPOCH)
    recipe = replace(
        base.sft, optimization=optimization, validation=replace(base.sft.validation, every=2 * parallel.EPOCH, users=4_000)
    )
    return Tuning(
        experiment=replace(base, sft=recipe),
        space={
            "sft.optimization.learning_rate": LogUniform(5e-4, 1e-2),
            "policy.dropout": Uniform(0.1, 0.5),
            "policy.temperature": LogUniform(0.2, 2.0),
            "policy.item_embedding": Choice((False, True)),
        },
    )


def gated_beauty() -> Tuning:
    """Return the tuning of gated S-DPO after `warm_digits` on Beauty. All trials align one SFT policy for three epochs."""
    return Tuning(
        experiment=_three_epochs("gated"),
        space={
            "align.optimization.learning_rate": LogUniform(1e-4, 3e-3),
            "align.objective.weight": LogUniform(0.2, 5.0),
            "align.objective.loss.beta": LogUniform(0.2, 5.0),
            "align.objective.candidates.size": Choice((8, 16, 64)),
        },
    )


def continued_beauty() -> Tuning:
    """Return the tuning of the control of `gated_beauty`: SFT continued for as many steps."""
    return Tuning(
        experiment=_three_epochs("continued"),
        space={
            "align.optimization.learning_rate": LogUniform(1e-4, 3e-3),
            "align.optimization.weight_decay": LogUniform(1e-3, 0.3),
        },
    )


def _three_epochs(name: Literal["continued", "gated"]) -> Experiment:
    """Return an alignment of three epochs after `parallel.warm_digits`, with a validation of all users after each epoch."""
    objective = on_policy.gated() if name == "gated" else on_policy.WINDOWS
    row = on_policy.aligned(parallel.warm_digits(), name, objective, 3 * parallel.EPOCH)
    assert isinstance(row.align, Align)
    return replace(row, align=replace(row.align, validation=Validation(every=parallel.EPOCH, users=0)))
