"""Policies side by side on MovieLens: how the history is read (items or codes, from both sides or causally), a decoder alone, SASRec.

    genrec run experiments/policies.py:movielens_100k     # ml-100k.zip is fetched; --source.path names one that is here
    genrec run experiments/policies.py:movielens_1m       # ratings of 4 or more

`...-sft` has an encoder that reads the history from both sides and is trained on one target a prefix; `...-causal` reads it item by
item and is trained on all targets of a window in one pass. `...-short` rows stop after about equal time: 1,450 steps of the first and
750 of the second take about 65 seconds each on one core. All rows of a data set share their Semantic IDs. Cost and result: see
experiments/results.md.
"""

from __future__ import annotations

from dataclasses import replace

from movielens import large, sasrec, sft

from genrec.experiment import SFT, Experiment, Optimization, Validation, baselines, seeds
from genrec.model import Gpt, Tiger

ALL = SFT(
    targets="all",
    optimization=Optimization(max_steps=4_000, batch_size=64, learning_rate=2e-3, warmup_steps=100, weight_decay=0.035),
    validation=Validation(every=200, patience=6),
)


def causal(base: Experiment) -> Experiment:
    """The same layers with an encoder that reads item by item, trained on every place of a window."""
    assert isinstance(base.policy, Tiger)
    return replace(base, name=base.name.replace("-sft", "-causal"), policy=replace(base.policy, encoder="causal"), sft=ALL)


def codes(base: Experiment) -> Experiment:
    """TIGER's own reading, a token a code: the encoder's sequence is as many times longer as there are levels."""
    assert isinstance(base.policy, Tiger)
    return replace(base, name=base.name.replace("-sft", "-codes"), policy=replace(base.policy, history="codes"))


def gpt(base: Experiment) -> Experiment:
    """A decoder alone over the codes, as deep as TIGER's two stacks together, trained on every place of a window."""
    policy = Gpt(d_model=64, d_ff=256, num_heads=4, d_kv=16, num_layers=4)
    return replace(base, name=base.name.replace("-sft", "-gpt"), policy=policy, sft=ALL)


def short(experiment: Experiment, steps: int) -> Experiment:
    """Stopped early, its learning rate falling to 0 by then."""
    recipe = replace(
        experiment.sft,
        optimization=replace(experiment.sft.optimization, max_steps=steps),
        validation=replace(experiment.sft.validation, every=steps // 5),
    )
    return replace(experiment, name=f"{experiment.name}-short", sft=recipe)


def movielens_100k() -> list[Experiment]:
    """Three seeds of each; of the decoder alone, and of codes trained to the end, one."""
    quick = [short(sft(), 1_450), short(causal(sft()), 750), short(codes(sft()), 1_450)]
    return baselines(sft()) + seeds([sft(), causal(sft()), *quick, sasrec()], (0, 1, 2)) + seeds([codes(sft()), gpt(sft())], (0,))


def movielens_1m() -> list[Experiment]:
    """About four minutes of training on one core for either encoder, three seeds."""
    base = large()
    all_targets = replace(
        causal(base),
        sft=replace(ALL, optimization=replace(ALL.optimization, max_steps=2_600), validation=replace(ALL.validation, every=520)),
    )
    return baselines(base) + seeds([base, all_targets], (0, 1, 2))
