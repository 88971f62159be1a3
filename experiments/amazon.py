"""Amazon 2014 Beauty: TIGER with the recipe behind the best open reproduction, S-DPO after it, and a smoke run for a CPU.

    genrec run experiments/amazon.py:smoke    # all six stages on the real data, in minutes on 2 CPU cores
    genrec run experiments/amazon.py:cold     # items unseen in training: Semantic IDs by extension, small, in minutes
    genrec run experiments/amazon.py:beam_loss  # what 50 and 20 beams lose against scoring every item, small, in minutes
    genrec run experiments/amazon.py:sdpo     # the full recipe: hours, a GPU is advised
    genrec run experiments/amazon.py:rivals   # popularity, ItemKNN and SASRec, which the full recipe must beat

The two files are fetched; `--source.path` names a folder that holds `reviews_Beauty_5.json.gz` and `meta_Beauty.json.gz`. Cost and
result of `smoke`: see experiments/results.md. The full recipe and SASRec have not been run here by this project yet.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

from genrec.baselines import SASRec
from genrec.data.sources import AmazonReviews2014
from genrec.data.splits import GlobalTemporal
from genrec.embeddings import TfidfSvd
from genrec.experiment import SFT, Align, Evaluate, Experiment, Optimization, Tokenize, Validation, baselines
from genrec.model import Tiger
from genrec.preference.losses import Anchored, SoftmaxDPO
from genrec.preference.negatives import FaissNeighbors
from genrec.tokenizer import RQVAE, RQKMeans

WAYS: dict[Literal["append", "reassign"], int] = {"append": 3, "reassign": 4}  # collisions -> the quantizer's levels: four in all


def sft() -> Experiment:
    """TIGER: RQ-VAE Semantic IDs, 6 + 6 layers, up to 200,000 steps."""
    return Experiment(
        name="beauty-sft",
        source=AmazonReviews2014("Beauty"),
        embed=TfidfSvd(dim=256),
        tokenize=Tokenize(quantizer=RQVAE()),
        policy=Tiger(num_encoder_layers=6, num_decoder_layers=6, dropout=0.2),
        sft=SFT(
            optimization=Optimization(
                max_steps=200_000, batch_size=256, learning_rate=3e-4, warmup_steps=10_000, weight_decay=0.035, precision="bf16-mixed"
            ),
            validation=Validation(every=2_000, patience=15, users=0),
        ),
    )


def sdpo() -> Experiment:
    """S-DPO from the SFT checkpoint, one epoch, three neighbors of the positive, anchored."""
    align = Align(
        loss=Anchored(SoftmaxDPO(beta=0.5)),
        negatives=FaissNeighbors(pool_size=200, skip=5),
        num_negatives=3,
        optimization=Optimization(max_steps=512, batch_size=256, learning_rate=5e-5, warmup_steps=50),
    )
    return replace(sft(), name="beauty-sdpo", align=align)


def sasrec() -> Experiment:
    """SASRec over the items, with the softmax over all of them, trained on every place of windows; its sizes are not tuned here."""
    return replace(
        sft(),
        name="beauty-sasrec",
        tokenize=None,
        policy=SASRec(d_model=128, d_ff=128, num_layers=2, num_heads=2, dropout=0.5),
        sft=SFT(targets="all", optimization=Optimization(max_steps=20_000, batch_size=128, learning_rate=1e-3, warmup_steps=500, weight_decay=0.0), validation=Validation(every=500, patience=10, users=0)),
    )  # fmt: skip


def sasrec_repeated() -> Experiment:
    """The same with short sequences, which most of Beauty's are, repeated until a window is full."""
    return replace(sasrec(), name="beauty-sasrec-repeated", sft=replace(sasrec().sft, padding="repeat"))


def rivals() -> list[Experiment]:
    """What a model of Semantic IDs must beat."""
    return [*baselines(sft()), sasrec(), sasrec_repeated()]


def small() -> Experiment:
    """A small policy and few steps, on the real data."""
    return replace(
        sft(),
        name="beauty-smoke-sft",
        embed=TfidfSvd(dim=64),
        tokenize=Tokenize(quantizer=RQKMeans()),
        policy=Tiger(d_model=64, d_ff=256, num_heads=4, d_kv=16, num_encoder_layers=2, num_decoder_layers=2, history="items"),
        sft=SFT(
            optimization=Optimization(max_steps=5_000, batch_size=128, learning_rate=2e-3, warmup_steps=200, weight_decay=0.035),
            validation=Validation(every=1_000, patience=15, users=1_000),
        ),
    )


def smoke() -> list[Experiment]:
    """Every stage on the real data with a small policy and few steps: it shows that the pipeline runs, not what TIGER can do."""
    align = Align(
        loss=Anchored(SoftmaxDPO(beta=0.5)),
        negatives=FaissNeighbors(pool_size=200),
        num_negatives=3,
        keep="last",
        optimization=Optimization(max_steps=100, batch_size=128, learning_rate=5e-5, warmup_steps=50),
        validation=Validation(every=100, users=1_000),
    )
    return [*baselines(small()), small(), replace(small(), name="beauty-smoke-sdpo", align=align)]


def beam_loss() -> list[Experiment]:
    """What a beam search loses: the same policy and 1,000 users; every item scored, which is the row that the others are tested
    against, then 50 and 20 beams. Nothing is trained twice: beams and scoring of `evaluate` are evaluation's alone.
    """
    spec = Evaluate(cutoffs=(1, 5, 10, 20), max_users=1_000)
    ways = {"exact": replace(spec, scoring="exact"), "50-beams": replace(spec, num_beams=50), "20-beams": replace(spec, num_beams=20)}
    return [replace(small(), name=f"beauty-smoke-{name}", evaluate=way) for name, way in ways.items()]


def cold() -> list[Experiment]:
    """Split by time, so that test users take items without a training event. These get Semantic IDs by the tokenizer as it was.

    Two ways to tell apart items that share their codes: an appended level, and the cheapest last code that is free.
    """
    rows = [
        replace(
            small(),
            name=f"beauty-cold-{how}",
            split=GlobalTemporal(),
            tokenize=Tokenize(quantizer=RQKMeans(num_levels=levels), collisions=how, fit_on="trained"),
        )
        for how, levels in WAYS.items()
    ]
    return [*baselines(rows[0]), *rows]
