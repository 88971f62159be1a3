"""Policies side by side on MovieLens: how the history is read (codes or items, from both sides or causally), a decoder alone, SASRec.

    genrec run experiments/policies.py:movielens_100k     # ml-100k.zip is fetched; --source.path names one that is here
    genrec run experiments/policies.py:movielens_1m       # ratings of 4 or more

`...-sft` trains one target a prefix, with an encoder that reads the history from both sides; `...-causal` all targets of a window in one
pass; `...-sft-short` is `...-sft` stopped after about the seconds that `...-causal` took (`genrec show NAME` prints them). All rows of
a data set share their Semantic IDs. Cost and result: see experiments/results.md.
"""

from __future__ import annotations

from dataclasses import replace

from genrec.data.sources import MovieLens
from genrec.data.splits import LeaveOneOut
from genrec.experiment import SFT, Experiment, baselines, seeds
from genrec.model import Gpt, Tiger
from movielens import sasrec, sft

ALL = SFT(targets="all", steps=3_000, batch=64, learning_rate=2e-3, warmup=100, validate_every=150, patience=6)


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
    policy = Gpt(width=64, inner=256, heads=4, head_width=16, layers=4)
    return replace(base, name=base.name.replace("-sft", "-gpt"), policy=policy, sft=ALL)


def movielens_100k() -> list[Experiment]:
    """Three seeds of each."""
    short = replace(sft(), name="ml100k-sft-short", sft=replace(sft().sft, steps=1_500, validate_every=125))
    return baselines(sft()) + seeds([sft(), short, causal(sft()), codes(sft()), gpt(sft()), sasrec()], (0, 1, 2))
