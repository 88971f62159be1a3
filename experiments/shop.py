"""Preferences drawn from clicks: SFT, continued SFT, DPO and S-DPO on a built-in shop of 1,000 items, beside two baselines.

    genrec run experiments/shop.py:comparison

Nothing is downloaded. It was the quick start until `experiments/quickstart.py` got a world with ratings. Cost: 5.5 minutes on 2 idle
CPU cores. Three seeds are the least for a claim about methods; the other comparisons have five (`--seeds 5`).

Expected result: the trained rows rank above popularity and ItemKNN, and DPO and S-DPO do not rank above SFT. Their preferences are
drawn from the clicks that SFT has learned from, and sampled negatives add no information on users. The control, continued SFT on the
same histories, shows what more training alone gives. Tables and reasons: experiments/results.md
(experiments/results/shop.md).
"""

from __future__ import annotations

from dataclasses import replace

from genrec.experiment import SFT, Align, Experiment, Optimization, Tokenize, Validation, baselines, seeds
from genrec.model import Tiger
from genrec.objectives import Preference, Supervised
from genrec.preference.candidates import Sampled
from genrec.preference.losses import DPO, Anchored, SoftmaxDPO
from genrec.preference.negatives import FaissNeighbors, Uniform
from genrec.testing import Shop
from genrec.tokenizer import RQKMeans
from genrec.types import Objective


def sft() -> Experiment:
    """Return a small TIGER policy, trained by SFT."""
    return Experiment(
        name="shop-sft",
        source=Shop(),
        tokenize=Tokenize(quantizer=RQKMeans(num_levels=3, codebook_size=32)),
        policy=Tiger(d_model=64, d_ff=256, num_heads=4, d_kv=16, num_encoder_layers=2, num_decoder_layers=2, history="items"),
        sft=SFT(
            optimization=Optimization(max_steps=1_000, batch_size=128, learning_rate=3e-3, warmup_steps=100, weight_decay=0.035),
            validation=Validation(every=200, patience=4),
        ),
    )


def aligned(name: str, objective: Objective) -> Experiment:
    """Return the SFT policy trained further by this objective, 100 steps on the same histories for all rows."""
    align = Align(
        objective=objective,
        keep="last",
        optimization=Optimization(max_steps=100, batch_size=128, learning_rate=1e-4, warmup_steps=10),
        validation=Validation(every=100),
    )
    return replace(sft(), name=f"shop-{name}", align=align)


def control() -> Experiment:
    """Return the control: continued SFT on the batches of the alignment. A gain of this row is no gain of preferences."""
    return aligned("sft-continued", Supervised())


def dpo() -> Experiment:
    """Return DPO with one uniform negative."""
    return aligned("dpo", Preference(loss=Anchored(DPO(beta=0.5)), candidates=Sampled(Uniform(), 1)))


def sdpo() -> Experiment:
    """Return S-DPO with three nearest neighbors of the positive as negatives."""
    return aligned(
        "sdpo",
        Preference(loss=Anchored(SoftmaxDPO(beta=0.5)), candidates=Sampled(FaissNeighbors(pool_size=100), 3)),
    )


def comparison() -> list[Experiment]:
    """Return the rows of the table: two baselines, and four trained rows with three seeds each."""
    return baselines(sft()) + seeds([sft(), control(), dpo(), sdpo()], 3)
