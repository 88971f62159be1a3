"""Amazon 2014 Beauty: TIGER with the recipe of the best open reproduction, S-DPO after it, and small runs for a CPU.

    genrec run experiments/amazon.py:smoke      # all six stages on the real data, in minutes on 2 CPU cores
    genrec run experiments/amazon.py:cold       # items unseen in training: TIGER, its quota, LIGER; 9 trainings
    genrec run experiments/amazon.py:beam_loss  # 50 and 20 beams against exact scoring; minutes
    genrec run experiments/amazon.py:sdpo       # the full recipe: hours, use a GPU
    genrec run experiments/amazon.py:windows    # TIGER with a causal encoder, all targets of a window in one pass
    genrec run experiments/amazon.py:long_windows    # the same with 14,000 steps instead of 6,000
    genrec run experiments/amazon.py:long_catalog    # the same with each softmax over the codes that lead to an item
    genrec run experiments/amazon.py:parts      # what each part of `windows` is worth after 1,500 steps, on validation
    genrec run experiments/amazon.py:sentences --embed.encoders.0.model FOLDER  # one of them with a sentence model
    genrec run experiments/amazon.py:rivals     # popularity, ItemKNN, EASE (1.2 GB of memory), BPR and SASRec

The two files are downloaded; `--source.path` names a folder with `reviews_Beauty_5.json.gz` and `meta_Beauty.json.gz`. Cost and result
of the small runs and of `windows`: see experiments/results.md; EASE and BPR: experiments/results/parallel.md. The full recipe and
`long_catalog` have not been run. SASRec: experiments/results/sasrec-beauty.md; its row with repeated sequences has not been run.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal

from genrec.baselines import BPR, EASE, SASRec
from genrec.data.sources import AmazonReviews2014
from genrec.data.splits import GlobalTemporal
from genrec.embeddings import Collaborative, Concatenated, SentenceEncoder, TfidfSvd
from genrec.endpoints import endpoint
from genrec.experiment import BEYOND_ACCURACY, SFT, Align, Evaluate, Experiment, Optimization, Tokenize, Validation, baselines, seeds
from genrec.model import Liger, Tiger
from genrec.objectives import Preference, Supervised
from genrec.preference.candidates import Sampled
from genrec.preference.losses import Anchored, SoftmaxDPO
from genrec.preference.negatives import FaissNeighbors
from genrec.tokenizer import RQVAE, ProductQuantizer, RQKMeans

WAYS: dict[Literal["append", "reassign"], int] = {
    "append": 3,
    "reassign": 4,
}  # collisions -> levels of the quantizer; four levels in total

SMALL_TIGER = Tiger(d_model=64, d_ff=256, num_heads=4, d_kv=16, num_encoder_layers=2, num_decoder_layers=2, history="items")
REPEATED = Supervised(targets="all", padding="repeat")  # short sequences are repeated (RepPad)


def sft() -> Experiment:
    """Return TIGER with RQ-VAE Semantic IDs, 6 + 6 layers and up to 200,000 steps."""
    return Experiment(
        name="beauty-sft",
        source=AmazonReviews2014("Beauty"),
        embed=TfidfSvd(dim=256),
        tokenize=Tokenize(quantizer=RQVAE()),
        policy=Tiger(num_encoder_layers=6, num_decoder_layers=6, dropout=0.2),
        sft=SFT(
            optimization=Optimization(
                max_steps=200_000, batch_size=256, learning_rate=3e-4, warmup_steps=10_000, weight_decay=0.035, precision="auto"
            ),
            validation=Validation(every=2_000, patience=15, users=0),
        ),
        evaluate=Evaluate(metrics=BEYOND_ACCURACY),
    )


def windows() -> Experiment:
    """Return TIGER with a causal encoder over items, trained on all targets of a window in one pass; 63 epochs of 95 steps.

    Semantic IDs are RQ-KMeans codes of text beside 64 dimensions of training interactions. Learning rate and dropout come from one run
    of another program, one seed, by validation; the sizes are chosen for one CPU core. Nothing was tuned here.
    """
    return replace(
        sft(),
        name="beauty-tiger-windows",
        embed=Concatenated((TfidfSvd(dim=256), Collaborative(dim=64))),
        tokenize=Tokenize(quantizer=RQKMeans()),
        policy=Tiger(
            d_model=128,
            d_ff=512,
            num_heads=4,
            d_kv=32,
            num_encoder_layers=4,
            num_decoder_layers=2,
            dropout=0.2,
            history="items",
            encoder="causal",
        ),
        sft=SFT(
            objective=Supervised(targets="all"),
            optimization=Optimization(
                max_steps=6_000, batch_size=256, learning_rate=1e-3, warmup_steps=200, weight_decay=0.035, precision="auto"
            ),
            validation=Validation(every=1_000),
        ),
    )


def long_windows() -> Experiment:
    """Return `windows` with 14,000 steps, which are 147 epochs, and a validation on all users every 2,000 steps.

    Nothing else is changed: after 6,000 steps the validation metric and the loss of training were still improving (seed 0).
    """
    recipe = windows().sft
    return replace(
        windows(),
        name="beauty-tiger-long-windows",
        sft=replace(recipe, optimization=replace(recipe.optimization, max_steps=14_000), validation=Validation(every=2_000, users=0)),
    )


def long_catalog() -> Experiment:
    """Return `long_windows` with each level's softmax over the codes that lead to an item, the best of the first three `parts`.

    Endpoint, named before its run: NDCG@10 on test, seen items kept, beside the paper's 0.0384 and the 0.0350 of `long_windows`.
    """
    base = long_windows()
    assert isinstance(base.policy, Tiger)
    return replace(base, name="beauty-tiger-long-catalog", policy=replace(base.policy, normalization="catalog"))


def parts() -> list[Experiment]:
    """Return `windows` with 1,500 steps and rows that differ from it in one part each; one seed, for validation on all users.

    Endpoint, named before any of these rows was run: NDCG@10 on validation, of each row beside the first one. One seed has no test.
    """
    recipe = windows().sft
    short = replace(recipe, optimization=replace(recipe.optimization, max_steps=1_500), validation=Validation(every=500, users=0))
    base, tiger = replace(windows(), name="beauty-tiger-short", sft=short), windows().policy
    assert isinstance(tiger, Tiger)
    changes: dict[str, dict[str, Any]] = {
        "catalog": {"policy": replace(tiger, normalization="catalog")},
        "opq": {"tokenize": Tokenize(quantizer=ProductQuantizer(num_levels=4, codebook_size=256))},
        "text": {"embed": TfidfSvd(dim=256)},
        "rqvae": {"tokenize": Tokenize(quantizer=RQVAE())},
        "dropout-tenth": {"policy": replace(tiger, dropout=0.1)},
        "codes": {"policy": replace(tiger, history="codes")},
        "three-decoder-layers": {"policy": replace(tiger, num_decoder_layers=3)},
        "width-256": {"policy": replace(tiger, d_model=256, d_ff=1_024, num_heads=8)},
        "label-smoothing": {"sft": replace(short, objective=Supervised(targets="all", label_smoothing=0.1))},
    }
    return [base, *(replace(base, name=f"{base.name}-{name}", **change) for name, change in changes.items())]


def sentences() -> Experiment:
    """Return the first row of `parts` with a sentence model; `--embed.encoders.0.model FOLDER` names one on disk."""
    views = Concatenated((SentenceEncoder("sentence-transformers/all-MiniLM-L6-v2"), Collaborative(dim=64)))
    return replace(parts()[0], name="beauty-tiger-short-sentences", embed=views)


def sdpo() -> Experiment:
    """Return one epoch of S-DPO with three nearest neighbors of the positive and an NLL anchor."""
    align = Align(
        objective=Preference(
            loss=Anchored(SoftmaxDPO(beta=0.5)),
            candidates=Sampled(FaissNeighbors(pool_size=200, skip=5), 3),
        ),
        optimization=Optimization(max_steps=512, batch_size=256, learning_rate=5e-5, warmup_steps=50),
    )
    return replace(sft(), name="beauty-sdpo", align=align)


def sasrec() -> Experiment:
    """Return SASRec with the full softmax, trained on all targets of a window for seven epochs of 190 steps.

    Learning rate 3e-3, dropout 0.3 and the length come from one run of this code, one seed. No trial of
    `tuning.py:sasrec_beauty`, which varies learning rate, dropout, layers and width, is above these settings on
    validation. A step takes 0.26 s on one core of an AMD EPYC, so an epoch takes about 50 s without validation.
    """
    return replace(
        sft(),
        name="beauty-sasrec",
        tokenize=None,
        policy=SASRec(d_model=128, d_ff=128, num_layers=2, num_heads=2, dropout=0.3),
        sft=SFT(
            objective=Supervised(targets="all"),
            optimization=Optimization(max_steps=1_330, batch_size=128, learning_rate=3e-3, warmup_steps=70),
            validation=Validation(every=190, users=0),
        ),
    )


def sasrec_repeated() -> Experiment:
    """Return SASRec with short sequences repeated until a window is full (RepPad)."""
    return replace(sasrec(), name="beauty-sasrec-repeated", sft=replace(sasrec().sft, objective=REPEATED))


def linear() -> list[Experiment]:
    """Return EASE and BPR with default settings, not tuned; BPR has one seed.

    EASE inverts a matrix of 12,101 x 12,101 items in float64, which takes 1.2 GB of memory.
    """
    return [replace(sft(), name="beauty-ease", policy=EASE()), replace(sft(), name="beauty-bpr", policy=BPR())]


def rivals() -> list[Experiment]:
    """Return the baselines of the full recipe: popularity, ItemKNN, EASE, BPR, and five seeds of SASRec."""
    return baselines(sft()) + linear() + seeds([sasrec(), sasrec_repeated()])


def small() -> Experiment:
    """Return a small policy with few steps, on the real data."""
    return replace(
        sft(),
        name="beauty-smoke-sft",
        embed=TfidfSvd(dim=64),
        tokenize=Tokenize(quantizer=RQKMeans()),
        policy=SMALL_TIGER,
        sft=SFT(
            optimization=Optimization(max_steps=5_000, batch_size=128, learning_rate=2e-3, warmup_steps=200, weight_decay=0.035),
            validation=Validation(every=1_000, patience=15, users=1_000),
        ),
    )


def smoke() -> list[Experiment]:
    """Return every stage on the real data with a small policy: it shows that the pipeline runs, not what TIGER can reach."""
    align = Align(
        objective=Preference(
            loss=Anchored(SoftmaxDPO(beta=0.5)),
            candidates=Sampled(FaissNeighbors(pool_size=200), 3),
        ),
        keep="last",
        optimization=Optimization(max_steps=100, batch_size=128, learning_rate=5e-5, warmup_steps=50),
        validation=Validation(every=100, users=1_000),
    )
    return [*baselines(small()), small(), replace(small(), name="beauty-smoke-sdpo", align=align)]


def beam_loss() -> list[Experiment]:
    """Return one policy evaluated on 1,000 users with exact scoring (the reference row), 50 beams and 20 beams.

    The policy is trained once, since the evaluation's settings are not part of its key.
    """
    spec = Evaluate(cutoffs=(1, 5, 10, 20), max_users=1_000)
    ways = {"exact": replace(spec, scoring="exact"), "50-beams": replace(spec, num_beams=50), "20-beams": replace(spec, num_beams=20)}
    return [replace(small(), name=f"beauty-smoke-{name}", evaluate=way) for name, way in ways.items()]


@endpoint("beauty-cold-liger", reference="beauty-cold-append", metric="cold_recall@10", seeds=3)
@endpoint("beauty-cold-liger", reference="beauty-cold-append", seeds=3)
@endpoint("beauty-cold-quota", reference="beauty-cold-append", metric="cold_recall@10", seeds=3)
@endpoint("beauty-cold-quota", reference="beauty-cold-append", seeds=3)
def cold() -> list[Experiment]:
    """Return rows split by time, so that some test items have no training event. The fitted tokenizer gives them Semantic IDs.

    The rows: TIGER with collisions resolved by an appended level or by reassigning the last code, the first one with a quota of a
    tenth of the list for cold items, and LIGER, which ranks 20 beams and all cold items by its dense head. Three seeds of each. Lists
    have 10 items, since the quota is a share of the list. The row with the quota shares the training of the row without it.

    Endpoints, named before the run: recall@10 of the users with a cold target in the ranking of all items (`cold_recall@10`), and
    NDCG@10 of all users, each against `beauty-cold-append`.
    """
    tiger = {
        how: replace(
            small(),
            name=f"beauty-cold-{how}",
            split=GlobalTemporal(),
            tokenize=Tokenize(quantizer=RQKMeans(num_levels=levels), collisions=how, fit_on="trained"),
            evaluate=Evaluate(cutoffs=(1, 5, 10), metrics=BEYOND_ACCURACY),
        )
        for how, levels in WAYS.items()
    }
    append, reassign = tiger["append"], tiger["reassign"]
    quota = replace(append, name="beauty-cold-quota", evaluate=replace(append.evaluate, cold_quota=0.1))
    liger = replace(append, name="beauty-cold-liger", policy=Liger(tiger=SMALL_TIGER, num_beams=20))
    return baselines(append) + seeds([append, reassign, quota, liger], 3)
