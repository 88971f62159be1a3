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
from genrec.experiment import SFT, Align, Evaluate, Experiment, Tokenize, baselines
from genrec.model import Tiger
from genrec.preference.losses import Anchored, SoftmaxDPO
from genrec.preference.negatives import FaissNeighbours
from genrec.tokenizer import RQVAE, RQKMeans

WAYS: dict[Literal["append", "reassign"], int] = {"append": 3, "reassign": 4}  # collisions -> the quantizer's levels: four in all


def sft() -> Experiment:
    """TIGER: RQ-VAE Semantic IDs, 6 + 6 layers, up to 200,000 steps."""
    return Experiment(
        name="beauty-sft",
        source=AmazonReviews2014("Beauty"),
        embed=TfidfSvd(width=256),
        tokenize=Tokenize(quantizer=RQVAE()),
        policy=Tiger(encoder_layers=6, decoder_layers=6, dropout=0.2),
        sft=SFT(steps=200_000, warmup=10_000, validate_every=2_000, validation_users=0, precision="bf16-mixed"),
    )


def sdpo() -> Experiment:
    """S-DPO from the SFT checkpoint, one epoch, three neighbours of the positive, anchored."""
    align = Align(
        loss=Anchored(SoftmaxDPO(beta=0.5)), negatives=FaissNeighbours(pool=200, skip=5), count=3, steps=512, batch=256,
        learning_rate=5e-5,
    )  # fmt: skip
    return replace(sft(), name="beauty-sdpo", align=align)


def sasrec() -> Experiment:
    """SASRec over the items, with the softmax over all of them, trained on every place of windows; its sizes are not tuned here."""
    return replace(
        sft(),
        name="beauty-sasrec",
        tokenize=None,
        policy=SASRec(width=128, inner=128, layers=2, heads=2, dropout=0.5),
        sft=SFT(
            steps=20_000, batch=128, learning_rate=1e-3, warmup=500, weight_decay=0.0, validate_every=500, validation_users=0,
            patience=10, targets="all",
        ),
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
        embed=TfidfSvd(width=64),
        tokenize=Tokenize(quantizer=RQKMeans()),
        policy=Tiger(width=64, inner=256, heads=4, head_width=16, encoder_layers=2, decoder_layers=2, history="items"),
        sft=SFT(steps=5_000, batch=128, learning_rate=2e-3, warmup=200, validate_every=1_000, validation_users=1_000),
    )


def smoke() -> list[Experiment]:
    """Every stage on the real data with a small policy and few steps: it shows that the pipeline runs, not what TIGER can do."""
    align = Align(
        loss=Anchored(SoftmaxDPO(beta=0.5)), negatives=FaissNeighbours(pool=200), count=3, steps=100, keep="last", validate_every=100,
        learning_rate=5e-5, validation_users=1_000,
    )  # fmt: skip
    return [*baselines(small()), small(), replace(small(), name="beauty-smoke-sdpo", align=align)]


def beam_loss() -> list[Experiment]:
    """What a beam search loses: the same policy and 1,000 users; every item scored, which is the row that the others are tested
    against, then 50 and 20 beams. Nothing is trained twice: beams and scoring of `evaluate` are evaluation's alone.
    """
    spec = Evaluate(cutoffs=(1, 5, 10, 20), users=1_000)
    ways = {"exact": replace(spec, scoring="exact"), "50-beams": replace(spec, beams=50), "20-beams": replace(spec, beams=20)}
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
            tokenize=Tokenize(quantizer=RQKMeans(levels=levels), collisions=how, fit_on="trained"),
        )
        for how, levels in WAYS.items()
    ]
    return [*baselines(rows[0]), *rows]
