"""SFT, its continuation, and alignment with the plug-ins of `my_plugins.py`, on a small built-in shop.

    genrec run my_experiment.py:comparison

Cost: about 20 seconds on 2 CPU cores. Expected: what `plugins.ipynb` says.
"""

from __future__ import annotations

from dataclasses import replace

from my_plugins import MarginDPO, Novelty, RoadsNotTaken

from genrec.embeddings import TfidfSvd
from genrec.experiment import SFT, Align, Evaluate, Experiment, Tokenize
from genrec.model import Tiger
from genrec.preference.losses import Anchored, ContinuedSFT
from genrec.preference.negatives import BestOf, Uniform
from genrec.testing import Shop
from genrec.tokenizer import RQKMeans
from genrec.types import NegativeSampler, PreferenceLoss


def sft() -> Experiment:
    """A tiny TIGER policy, trained by SFT."""
    return Experiment(
        name="my-sft",
        source=Shop(items=200, users=300),
        embed=TfidfSvd(width=32),
        tokenize=Tokenize(quantizer=RQKMeans(levels=2, codes=16)),
        policy=Tiger(width=32, inner=64, heads=2, head_width=16, encoder_layers=1, decoder_layers=1, history="items", beams=20),
        sft=SFT(steps=400, batch=64, learning_rate=5e-3, warmup=40, validate_every=100),
        evaluate=Evaluate(cutoffs=(1, 5, 10), history_length=10),
    )


def aligned(name: str, loss: PreferenceLoss, negatives: NegativeSampler) -> Experiment:
    """The SFT policy after 60 steps of this loss: all rows take the same steps on the same histories."""
    align = Align(
        loss=loss, negatives=negatives, count=3, steps=60, batch=64, keep="last", validate_every=30, learning_rate=1e-3, warmup=10
    )
    return replace(sft(), name=name, align=align)


def control() -> Experiment:
    """SFT continued on alignment's batches: a gain that this row has too is not alignment's."""
    return aligned("my-control", ContinuedSFT(), Uniform())


def mine() -> Experiment:
    """Our own loss, anchored, with our own sampler."""
    return aligned("my-aligned", Anchored(MarginDPO()), RoadsNotTaken())


def novel() -> Experiment:
    """The same, with the three most novel of twelve of our sampler's candidates."""
    return aligned("my-novel", Anchored(MarginDPO()), BestOf(RoadsNotTaken(), reward=Novelty(), candidates=12))


def comparison() -> list[Experiment]:
    """The rows of the table."""
    return [sft(), control(), mine(), novel()]
