"""Small experiments that tests share: the cyclic world and a policy that learns it in seconds."""

from __future__ import annotations

from genrec.embeddings import TfidfSvd
from genrec.experiment import SFT, Align, Evaluate, Experiment, Tokenize
from genrec.model import Tiger
from genrec.preference.losses import Anchored, SoftmaxDPO
from genrec.testing import Cyclic
from genrec.tokenizer import RQKMeans

TINY = Tiger(width=32, inner=64, heads=2, head_width=16, encoder_layers=1, decoder_layers=1, dropout=0.1, history="items", beams=20)


def cyclic(steps: int = 60, align_steps: int = 0, seed: int = 0) -> Experiment:
    """SFT (and S-DPO, if asked for) on 40 items in a cycle."""
    return Experiment(
        name="cyclic",
        source=Cyclic(items=40, users=100, length=10),
        embed=TfidfSvd(width=16, minimum_count=1),
        tokenize=Tokenize(quantizer=RQKMeans(levels=2, codes=8)),
        policy=TINY,
        sft=SFT(steps=steps, batch=64, learning_rate=5e-3, warmup=20, validate_every=40),
        align=Align(loss=Anchored(SoftmaxDPO()), steps=align_steps, batch=32, validate_every=20) if align_steps else None,
        evaluate=Evaluate(cutoffs=(1, 5, 10), history_length=5),
        seed=seed,
    )
