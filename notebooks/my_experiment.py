"""SFT, a control, and alignment with the plug-ins of `my_plugins.py`, on a small synthetic shop.

    genrec run my_experiment.py:comparison

Cost: about 20 seconds on 2 CPU cores. `plugins.ipynb` describes the expected result.
"""

from __future__ import annotations

from dataclasses import replace

from my_plugins import MarginDPO, Novelty, RoadsNotTaken

from genrec.embeddings import TfidfSvd
from genrec.experiment import SFT, Align, Evaluate, Experiment, Optimization, Tokenize, Validation
from genrec.model import Tiger
from genrec.objectives import Preference
from genrec.preference.candidates import Sampled
from genrec.preference.losses import Anchored, ContinuedSFT
from genrec.preference.negatives import BestOf, Uniform
from genrec.testing import Shop
from genrec.tokenizer import RQKMeans
from genrec.types import NegativeSampler, Objective


def sft() -> Experiment:
    """Return SFT of a tiny TIGER policy."""
    return Experiment(
        name="my-sft",
        source=Shop(num_items=200, num_users=300),
        embed=TfidfSvd(dim=32),
        tokenize=Tokenize(quantizer=RQKMeans(num_levels=2, codebook_size=16)),
        policy=Tiger(
            d_model=32, d_ff=64, num_heads=2, d_kv=16, num_encoder_layers=1, num_decoder_layers=1, history="items", num_beams=20
        ),
        sft=SFT(
            optimization=Optimization(max_steps=400, batch_size=64, learning_rate=5e-3, warmup_steps=40, weight_decay=0.035),
            validation=Validation(every=100, patience=15),
        ),
        history_length=10,
        evaluate=Evaluate(cutoffs=(1, 5, 10)),
    )


def aligned(name: str, objective: Objective) -> Experiment:
    """Return alignment of the SFT policy by this objective, for 60 steps. All rows train on the same histories."""
    align = Align(
        objective=objective,
        keep="last",
        optimization=Optimization(max_steps=60, batch_size=64, learning_rate=1e-3, warmup_steps=10),
        validation=Validation(every=30),
    )
    return replace(sft(), name=name, align=align)


def preference(negatives: NegativeSampler) -> Preference:
    """Return the custom loss, anchored, with three negatives of a sampler."""
    return Preference(loss=Anchored(MarginDPO()), candidates=Sampled(negatives, 3))


def control() -> Experiment:
    """Return the control, SFT continued on the batches of alignment. A gain that it shares is not due to alignment."""
    return aligned("my-control", Preference(loss=ContinuedSFT(), candidates=Sampled(Uniform(), 3)))


def mine() -> Experiment:
    """Return alignment with the custom loss, anchored, and the custom sampler."""
    return aligned("my-aligned", preference(RoadsNotTaken()))


def novel() -> Experiment:
    """Return the same with the three most novel of twelve candidates of the sampler."""
    return aligned("my-novel", preference(BestOf(RoadsNotTaken(), reward=Novelty(), num_candidates=12)))


def comparison() -> list[Experiment]:
    """Return the rows of the table."""
    return [sft(), control(), mine(), novel()]
