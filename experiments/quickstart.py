"""SFT, its continuation, DPO and S-DPO on a built-in shop of 1,000 items, beside popularity and ItemKNN: nothing is downloaded.

    genrec run experiments/quickstart.py:comparison

Cost: about 4 minutes on 2 CPU cores. Expected: see experiments/results.md.
"""

from __future__ import annotations

from dataclasses import replace

from genrec.experiment import SFT, Align, Experiment, Tokenize, baselines, seeds
from genrec.model import Tiger
from genrec.preference.losses import DPO, Anchored, ContinuedSFT, SoftmaxDPO
from genrec.preference.negatives import FaissNeighbours, Uniform
from genrec.testing import Shop
from genrec.tokenizer import RQKMeans


def sft() -> Experiment:
    """A small TIGER policy, trained by SFT."""
    return Experiment(
        name="shop-sft",
        source=Shop(),
        tokenize=Tokenize(quantizer=RQKMeans(levels=3, codes=32)),
        policy=Tiger(width=64, inner=256, heads=4, head_width=16, encoder_layers=2, decoder_layers=2, history="items"),
        sft=SFT(steps=1_000, batch=128, learning_rate=3e-3, warmup=100, validate_every=200, patience=4),
    )


def control() -> Experiment:
    """SFT continued for as many steps as alignment takes, on the same batches: what a gain of alignment has to beat."""
    return replace(
        sft(), name="shop-sft-continued", align=Align(loss=ContinuedSFT(), steps=100, validate_every=50, learning_rate=3e-4)
    )


def dpo() -> Experiment:
    """DPO with one uniform negative."""
    align = Align(loss=Anchored(DPO(beta=0.5)), negatives=Uniform(), count=1, steps=100, validate_every=50, learning_rate=3e-4)
    return replace(sft(), name="shop-dpo", align=align)


def sdpo() -> Experiment:
    """S-DPO with three neighbours of the positive."""
    align = Align(
        loss=Anchored(SoftmaxDPO(beta=0.5)), negatives=FaissNeighbours(pool=100), count=3, steps=100, validate_every=50,
        learning_rate=3e-4,
    )  # fmt: skip
    return replace(sft(), name="shop-sdpo", align=align)


def comparison() -> list[Experiment]:
    """The rows of the table, two seeds of each that is trained."""
    return baselines(sft()) + seeds([sft(), control(), dpo(), sdpo()], (0, 1))
