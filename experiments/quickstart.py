"""SFT, its continuation, DPO and S-DPO on a built-in shop of 1,000 items, beside popularity and ItemKNN: nothing is downloaded.

    genrec run experiments/quickstart.py:comparison
    genrec run genrec.quickstart:comparison             # the same, outside a checkout

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
from genrec.types import NegativeSampler, PreferenceLoss


def sft() -> Experiment:
    """A small TIGER policy, trained by SFT."""
    return Experiment(
        name="shop-sft",
        source=Shop(),
        tokenize=Tokenize(quantizer=RQKMeans(levels=3, codes=32)),
        policy=Tiger(width=64, inner=256, heads=4, head_width=16, encoder_layers=2, decoder_layers=2, history="items"),
        sft=SFT(steps=1_000, batch=128, learning_rate=3e-3, warmup=100, validate_every=200, patience=4),
    )


def aligned(name: str, loss: PreferenceLoss, negatives: NegativeSampler, count: int) -> Experiment:
    """The SFT policy after exactly 100 steps of this loss: all rows take the same steps on the same histories."""
    align = Align(
        loss=loss, negatives=negatives, count=count, steps=100, keep="last", validate_every=100, learning_rate=1e-4, warmup=10
    )
    return replace(sft(), name=f"shop-{name}", align=align)


def control() -> Experiment:
    """SFT continued on alignment's batches: a gain that this row has too is not alignment's."""
    return aligned("sft-continued", ContinuedSFT(), Uniform(), 1)


def dpo() -> Experiment:
    """DPO with one uniform negative."""
    return aligned("dpo", Anchored(DPO(beta=0.5)), Uniform(), 1)


def sdpo() -> Experiment:
    """S-DPO with three neighbours of the positive."""
    return aligned("sdpo", Anchored(SoftmaxDPO(beta=0.5)), FaissNeighbours(pool=100), 3)


def comparison() -> list[Experiment]:
    """The rows of the table, two seeds of each that is trained."""
    return baselines(sft()) + seeds([sft(), control(), dpo(), sdpo()], (0, 1))
