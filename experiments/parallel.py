"""A parallel policy (RPG) with a softmax over the catalog on Amazon 2014 Beauty, and on-policy S-DPO after it.

    genrec run experiments/parallel.py:sft        # one seed of supervised fine-tuning
    genrec run experiments/parallel.py:beauty     # SFT, the control and on-policy S-DPO, five seeds each, beside the baselines
    genrec run experiments/parallel.py:more_digits  # 32 digits, with and without item embeddings
    genrec run experiments/parallel.py:unrotated_digits  # 32 digits without OPQ's rotation; unrotated_sft: with item embeddings
    genrec run experiments/parallel.py:warm_digits  # the same with ten times the temperature; warm_items: with item embeddings
    genrec run experiments/parallel.py:repeats      # with a learned score for items of the history, beside SASRec with the same
    genrec run experiments/parallel.py:parts        # what digits, item embeddings, codes and the likelihood are worth
    genrec run experiments/parallel.py:two_texts --embed.encoders.1.model FOLDER  # a second view of the text, by a sentence model
    genrec run experiments/parallel.py:paper        # RPG with the settings of its paper

`--source.path` names a folder with `reviews_Beauty_5.json.gz` and `meta_Beauty.json.gz`. Semantic IDs are 16 digits of product
quantization (OPQ) of TF-IDF vectors beside 64 dimensions of training interactions, and every item has an embedding beside its
digits.

Named before any run of these rows: the primary endpoint of `beauty` is NDCG@10 on test, seen items kept, of `gated` against
`continued`, which takes the same steps on the same batches (the recipe of experiments/on_policy.py). `parts` are compared on
validation, with eight epochs and one seed.

Endpoints of `repeats`, named before any of its rows was run: NDCG@10 on test, seen items kept, of `beauty-rpg-repeat-sft` against
`beauty-rpg-sft`, and against SASRec with the same score (Holm over the two). Users of Beauty take an item once, so a policy
that learns this from training events may come near to the ranking with seen items filtered.

The recipe of `sft` follows seven runs of 8 to 30 epochs, seed 0, by NDCG@10 of all users on validation; its dropout and length are
beyond them. See experiments/results/parallel.md, which also has one seed of an earlier recipe without item embeddings
(`digits_only`).

Cost: an epoch of `sft` (190 steps of 128 windows) takes about 50 s of one core of an AMD EPYC, and validation on all users 7 s; two
epochs of `continued` or `gated` take a few minutes.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import amazon
import on_policy

from genrec.baselines import SampledSoftmax
from genrec.embeddings import Collaborative, Concatenated, SentenceEncoder, TfidfSvd
from genrec.experiment import SFT, Experiment, Optimization, Tokenize, Validation, seeds
from genrec.model import RPG
from genrec.tokenizer import ProductQuantizer, RandomCodes, RQKMeans

EPOCH = 190  # steps of 128 windows


def sft() -> Experiment:
    """Return RPG with item embeddings beside 16 digits: 20 epochs, the best of them on validation is kept."""
    return replace(trained(20, RPG(dropout=0.5, temperature=0.07, item_embedding=True)), name="beauty-rpg-sft")


def digits_only() -> Experiment:
    """Return RPG without item embeddings, with dropout 0.3 and 30 epochs, not tuned."""
    return replace(trained(30, RPG(dropout=0.3, temperature=0.07)), name="beauty-rpg-digits-sft")


def trained(epochs: int, policy: RPG) -> Experiment:
    """Return a policy with a softmax over the catalog, trained for this number of epochs on all targets of windows."""
    recipe = SFT(
        objective=on_policy.WINDOWS,
        optimization=Optimization(max_steps=epochs * EPOCH, batch_size=128, learning_rate=2e-3),
        validation=Validation(every=EPOCH, users=0),
    )
    return replace(
        amazon.sft(),
        embed=Concatenated((TfidfSvd(dim=256), Collaborative(dim=64))),
        tokenize=Tokenize(quantizer=ProductQuantizer(num_levels=16, codebook_size=256)),
        policy=policy,
        sft=recipe,
    )


def beauty() -> list[Experiment]:
    """Return the rows on Beauty. Two epochs are 380 steps."""
    return on_policy.rows(sft(), 2 * EPOCH)


def continued() -> Experiment:
    """Return SFT continued for two epochs: the control of `gated`."""
    return two_epochs(sft())[0]


def gated() -> Experiment:
    """Return S-DPO against the policy's own best items, where the logged item is among them, beside the likelihood."""
    return two_epochs(sft())[1]


def without_item_embeddings() -> list[Experiment]:
    """Return `digits_only`, and its control and gated row of two epochs."""
    return [digits_only(), *two_epochs(digits_only())]


def two_epochs(base: Experiment) -> list[Experiment]:
    """Return the control and the gated row of two epochs after `base`."""
    return [
        on_policy.aligned(base, "continued", on_policy.WINDOWS, 2 * EPOCH),
        on_policy.aligned(base, "gated", on_policy.gated(), 2 * EPOCH),
    ]


def more_digits() -> list[Experiment]:
    """Return 32 digits: `sft`, and the policy without item embeddings."""
    return [digits(32), plain_digits()]


def plain_digits() -> Experiment:
    """Return RPG with 32 digits without item embeddings, with dropout 0.2 and 24 epochs."""
    base = trained(24, RPG(dropout=0.2, temperature=0.07))
    return replace(base, name="beauty-rpg-32-digits-only-sft", tokenize=digits(32).tokenize)


def unrotated_digits() -> Experiment:
    """Return `plain_digits` with product quantization of the vectors as they are, without OPQ's rotation."""
    quantizer = ProductQuantizer(num_levels=32, codebook_size=256, rotation=False)
    return replace(plain_digits(), name="beauty-rpg-32-unrotated-sft", tokenize=Tokenize(quantizer=quantizer))


def warm_digits() -> Experiment:
    """Return 32 digits without OPQ's rotation and ten times the temperature, with dropout 0.2 and 20 epochs."""
    base = trained(20, RPG(dropout=0.2, temperature=0.7))
    return replace(base, name="beauty-rpg-warm-sft", tokenize=unrotated_digits().tokenize)


def warm_items() -> Experiment:
    """Return `warm_digits` with item embeddings, with dropout 0.4 and 14 epochs."""
    base = trained(14, RPG(dropout=0.4, temperature=0.7, item_embedding=True))
    return replace(base, name="beauty-rpg-warm-items-sft", tokenize=unrotated_digits().tokenize)


def unrotated_sft() -> Experiment:
    """Return `sft`, with item embeddings, after 32 digits without OPQ's rotation."""
    return replace(sft(), name="beauty-rpg-unrotated-items-sft", tokenize=unrotated_digits().tokenize)


def repeat_sft() -> Experiment:
    """Return `sft` with a learned score for the items of the history, which the likelihood of training moves."""
    return with_repeat_score(sft())


def repeats() -> list[Experiment]:
    """Return RPG and SASRec, each with and without a learned score for the items of the history; five seeds."""
    item_policy = amazon.sasrec()
    return seeds([sft(), repeat_sft(), item_policy, with_repeat_score(item_policy)])


def with_repeat_score(base: Experiment) -> Experiment:
    """Return a row with a learned score for the items of the history."""
    policy: Any = base.policy
    name = base.name.replace("-sft", "-repeat-sft") if base.name.endswith("-sft") else f"{base.name}-repeat-score"
    return replace(base, name=name, policy=replace(policy, repeat_score=True))


def digits(num_levels: int) -> Experiment:
    """Return `sft` with another number of digits."""
    quantizer = ProductQuantizer(num_levels=num_levels, codebook_size=256)
    return replace(sft(), name=f"beauty-rpg-{num_levels}-digits", tokenize=Tokenize(quantizer=quantizer))


def paper() -> Experiment:
    """Return the paper's RPG: 32 digits with a softmax each, temperature 0.03, width 448, learning rate 0.01.

    The other numbers are those of `sft`.
    """
    recipe = sft().sft
    return replace(
        digits(32),
        name="beauty-rpg-paper",
        policy=RPG(d_model=448, d_ff=1_024, num_heads=4, dropout=0.5, temperature=0.03, normalization="digits"),
        sft=replace(recipe, optimization=replace(recipe.optimization, learning_rate=0.01, warmup_steps=1_000)),
    )


def short() -> Experiment:
    """Return `warm_digits` with eight epochs and dropout 0.1, which learns fastest in that time: the reference of `parts`."""
    return replace(trained(8, RPG(dropout=0.1, temperature=0.7)), name="beauty-rpg-short", tokenize=warm_digits().tokenize)


def parts() -> list[Experiment]:
    """Return `short` and rows that differ in one part each: likelihood, codes, vectors, sizes, labels; one seed, validation."""
    base = short()
    rpg, tokenize = base.policy, base.tokenize
    assert isinstance(rpg, RPG)
    assert isinstance(tokenize, Tokenize)
    assert isinstance(tokenize.quantizer, ProductQuantizer)
    changes: dict[str, dict[str, Any]] = {
        "tenth-of-temperature": {"policy": replace(rpg, temperature=0.07)},
        "half-of-temperature": {"policy": replace(rpg, temperature=0.35)},
        "own-softmax": {"policy": replace(rpg, normalization="digits", temperature=0.07)},
        "items": {"policy": replace(rpg, item_embedding=True)},
        "opq": {"tokenize": Tokenize(quantizer=replace(tokenize.quantizer, rotation=True))},
        "random": {"tokenize": Tokenize(quantizer=RandomCodes(num_levels=32, codebook_size=256))},
        "rqkmeans": {"tokenize": Tokenize(quantizer=RQKMeans()), "policy": replace(rpg, temperature=None)},
        "text": {"embed": TfidfSvd(dim=256)},
        "interactions": {"embed": Collaborative(dim=64)},
        "16-digits": {
            "tokenize": Tokenize(quantizer=replace(tokenize.quantizer, num_levels=16)),
            "policy": replace(rpg, temperature=0.35),
        },
        "64-digits": {
            "tokenize": Tokenize(quantizer=replace(tokenize.quantizer, num_levels=64)),
            "policy": replace(rpg, temperature=1.4),
        },
        "three-layers": {"policy": replace(rpg, num_layers=3)},
        "windows-of-50": {"history_length": 50},
        "sampled": {"policy": replace(rpg, loss=SampledSoftmax(num_negatives=1_024, log_q=True))},
        "width-256": {"policy": replace(rpg, d_model=256, d_ff=1_024)},
        "one-layer": {"policy": replace(rpg, num_layers=1)},
        "label-smoothing": {"sft": replace(base.sft, objective=replace(on_policy.WINDOWS, label_smoothing=0.1))},
    }
    return [base, *(replace(base, name=f"{base.name}-{name}", **change) for name, change in changes.items())]


def two_texts() -> Experiment:
    """Return `short` with a second view of the text; `--embed.encoders.1.model FOLDER` names a sentence model on disk."""
    views = Concatenated((TfidfSvd(dim=256), SentenceEncoder("sentence-transformers/all-MiniLM-L6-v2"), Collaborative(dim=64)))
    return replace(short(), name="beauty-rpg-short-two-texts", embed=views)
