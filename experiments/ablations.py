"""Ablations: one choice is changed at a time, on MovieLens-100K, and the six that matter most on Amazon 2014 Beauty; three seeds.

    genrec run experiments/ablations.py:learned_codes   # LETTER beside other codes of text, and codes of interactions; five seeds
    genrec run experiments/ablations.py:tokenizers      # RQ-VAE, RQ-KMeans, product quantization (OPQ) and random codes; TIGER
    genrec run experiments/ablations.py:codes           # levels and codes of TIGER's Semantic IDs
    genrec run experiments/ablations.py:digits          # digits and values of RPG's Semantic IDs
    genrec run experiments/ablations.py:vectors         # vectors of text, of interactions, of both
    genrec run experiments/ablations.py:negatives       # kind of negatives
    genrec run experiments/ablations.py:num_negatives   # number of negatives, up to the whole catalog
    genrec run experiments/ablations.py:beta            # beta of the gated form
    genrec run experiments/ablations.py:anchor          # weight of the likelihood beside the preference
    genrec run experiments/ablations.py:gate            # hit gate, and how often the policy that proposes is refreshed
    genrec run experiments/ablations.py:group_size      # candidates of a row
    genrec run experiments/ablations.py:beams           # 10 to 200 beams against exact scoring
    genrec run experiments/ablations.py:beauty_vectors  # also beauty_negatives, _num_negatives, _beta, _anchor, _gate

`--source.path` names a local copy of the data. Policies, recipes and data are those of experiments/movielens_tables.py (leave-one-out
with a liked target) and `warm` of experiments/headline.py (Beauty), so that rows with the same settings share their artifacts.
Semantic IDs are compared after SFT; all else after two epochs of alignment, against continued SFT. Imported Semantic IDs are left out:
none are published for these data sets.

Endpoint of each, named before the run: NDCG@10 on test, seen items kept, of every row against the first trained one, Holm over the
function's rows. Of `learned_codes`: `letter` against `rqvae`, the same autoencoder without LETTER's terms; the other rows place the
difference, and each run prints the health of its Semantic IDs. These are ablations of a fixed recipe: the best row of one is a
hypothesis, no result.

Cost: not run yet. Results will stand in experiments/results.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import headline
import movielens_tables
import on_policy
import parallel

from genrec.embeddings import Collaborative, Concatenated, TfidfSvd
from genrec.endpoints import endpoint
from genrec.experiment import Evaluate, Experiment, Tokenize, seeds
from genrec.preference.candidates import History, Sampled, TopItems
from genrec.preference.losses import SoftmaxDPO
from genrec.preference.negatives import FaissNeighbors, Popularity, Uniform
from genrec.tokenizer import LETTER, RQVAE, ProductQuantizer, RandomCodes, RQKMeans
from genrec.types import ItemEncoder, Objective, Quantizer

ITEMS = movielens_tables.ITEMS


def varied(base: Experiment, ablation: str, changes: Mapping[str, dict[str, object]], num_seeds: int = 3) -> list[Experiment]:
    """Return a row with each seed for each change of fields; `changes` names them."""
    stem = base.name.removesuffix("-sft")
    return seeds([replace(base, name=f"{stem}-{ablation}-{name}", **fields) for name, fields in changes.items()], num_seeds)  # type: ignore[arg-type]


def aligned(base: Experiment, ablation: str, steps: int, objectives: Mapping[str, Objective]) -> list[Experiment]:
    """Return continued SFT and a row for each objective, three seeds."""
    rows = [on_policy.aligned(base, f"{ablation}-{name}", each, steps) for name, each in objectives.items()]
    return seeds([on_policy.aligned(base, "continued", on_policy.WINDOWS, steps), *rows], 3)


def tokenizers() -> list[Experiment]:
    """Return TIGER with three levels of 64 codes by each tokenizer."""
    chosen: dict[str, Quantizer] = {
        "rqkmeans": RQKMeans(num_levels=3, codebook_size=64),
        "rqvae": RQVAE(num_levels=3, codebook_size=64),
        "opq": ProductQuantizer(num_levels=3, codebook_size=64),
        "random": RandomCodes(num_levels=3, codebook_size=64),
    }
    return varied(
        movielens_tables.tiger(), "tokenizer", {name: {"tokenize": Tokenize(quantizer=each)} for name, each in chosen.items()}
    )


@endpoint("ml100k-liked-tiger-learned-codes-letter", reference="ml100k-liked-tiger-learned-codes-rqvae")
def learned_codes() -> list[Experiment]:
    """Return TIGER with codes of text by each tokenizer, with LETTER's terms together and alone, and with codes of interactions."""
    text, taste = TfidfSvd(dim=256), Collaborative(dim=64)
    autoencoder = RQVAE(num_levels=3, codebook_size=64, latent_dim=64, codebook_update="gradient")
    kmeans, letter = RQKMeans(num_levels=3, codebook_size=64), LETTER(taste, autoencoder)
    chosen: dict[str, tuple[ItemEncoder, Quantizer]] = {
        "rqvae": (text, autoencoder),
        "rqkmeans": (text, kmeans),
        "opq": (text, ProductQuantizer(num_levels=3, codebook_size=64)),
        "letter": (text, letter),
        "letter-alignment": (text, replace(letter, diversity_weight=0)),
        "letter-diversity": (text, replace(letter, alignment_weight=0)),
        "letter-strong": (text, replace(letter, alignment_weight=1)),
        "both": (Concatenated((text, taste)), kmeans),
        "interactions": (taste, kmeans),
    }
    rows = {name: {"embed": encoder, "tokenize": Tokenize(each)} for name, (encoder, each) in chosen.items()}
    return varied(movielens_tables.tiger(), "learned-codes", rows, 5)


def codes() -> list[Experiment]:
    """Return TIGER with 3 x 64 codes, and with other numbers of levels and codes."""
    sizes = [(3, 64), (2, 64), (4, 64), (3, 16), (3, 32), (3, 128)]
    chosen = {f"{levels}x{size}": RQKMeans(num_levels=levels, codebook_size=size) for levels, size in sizes}
    return varied(movielens_tables.tiger(), "codes", {name: {"tokenize": Tokenize(quantizer=each)} for name, each in chosen.items()})


def digits() -> list[Experiment]:
    """Return RPG with 16 digits of 64 values, and with other numbers of digits and values."""
    sizes = [(16, 64), (4, 64), (8, 64), (32, 64), (16, 16), (16, 256)]
    chosen = {f"{levels}x{size}": ProductQuantizer(num_levels=levels, codebook_size=size) for levels, size in sizes}
    return varied(movielens_tables.rpg(), "digits", {name: {"tokenize": Tokenize(quantizer=each)} for name, each in chosen.items()})


def _encoders() -> dict[str, dict[str, object]]:
    """Return item vectors of both kinds, of text and of interactions."""
    text, interactions = TfidfSvd(dim=256), Collaborative(dim=64)
    chosen: dict[str, ItemEncoder] = {
        "both": Concatenated((text, interactions)),
        "text": text,
        "interactions": interactions,
    }
    return {name: {"embed": each} for name, each in chosen.items()}


def vectors() -> list[Experiment]:
    """Return RPG with digits of vectors of text and interactions, of text alone, and of interactions alone."""
    return varied(movielens_tables.rpg(), "vectors", _encoders())


def beauty_vectors() -> list[Experiment]:
    """Return `vectors` on Beauty."""
    return varied(parallel.warm_digits(), "vectors", _encoders())


def _kinds() -> dict[str, Objective]:
    """Return S-DPO with up to 15 negatives of each kind."""
    return {
        "uniform": headline.sdpo(Sampled(Uniform(), 15)),
        "popular": headline.sdpo(Sampled(Popularity(), 15)),
        "neighbors": headline.sdpo(Sampled(FaissNeighbors(pool_size=200), 15)),
        "history": headline.sdpo(History()),
        "own-best": on_policy.gated(),
    }


def negatives() -> list[Experiment]:
    """Return S-DPO with 15 negatives: uniform, popular, neighbors, items of the history, the policy's own best items."""
    return aligned(movielens_tables.rpg(), "negatives", movielens_tables.STEPS, _kinds())


def beauty_negatives() -> list[Experiment]:
    """Return `negatives` on Beauty."""
    return aligned(parallel.warm_digits(), "negatives", headline.STEPS, _kinds())


def counts(items: int) -> dict[str, Objective]:
    """Return S-DPO with uniform negatives and with all of the catalog's `items`."""
    sampled = {f"{count}": headline.sdpo(Sampled(Uniform(), count)) for count in (1, 3, 15, 100, 1_000)}
    return {**sampled, "catalog": headline.sdpo(TopItems(size=items, gate=False))}


def num_negatives() -> list[Experiment]:
    """Return S-DPO with 1, 3, 15, 100 and 1,000 uniform negatives, and with the whole catalog."""
    return aligned(movielens_tables.rpg(), "num-negatives", movielens_tables.STEPS, counts(ITEMS))


def beauty_num_negatives() -> list[Experiment]:
    """Return `num_negatives` on Beauty."""
    return aligned(parallel.warm_digits(), "num-negatives", headline.STEPS, counts(headline.ITEMS))


def _betas() -> dict[str, Objective]:
    """Return gated S-DPO with other values of beta."""
    return {f"{beta:g}": replace(on_policy.gated(), loss=SoftmaxDPO(beta=beta)) for beta in (1.0, 0.1, 0.3, 3.0)}


def beta() -> list[Experiment]:
    """Return gated S-DPO with beta 1, 0.1, 0.3 and 3."""
    return aligned(movielens_tables.rpg(), "beta", movielens_tables.STEPS, _betas())


def beauty_beta() -> list[Experiment]:
    """Return `beta` on Beauty."""
    return aligned(parallel.warm_digits(), "beta", headline.STEPS, _betas())


def _anchors() -> dict[str, Objective]:
    """Return gated S-DPO with other weights of the likelihood."""
    return {f"{weight:g}": replace(on_policy.gated(), likelihood=weight) for weight in (1.0, 0.0, 0.1, 0.3, 3.0)}


def anchor() -> list[Experiment]:
    """Return gated S-DPO with the likelihood's weight 1, 0, 0.1, 0.3 and 3."""
    return aligned(movielens_tables.rpg(), "anchor", movielens_tables.STEPS, _anchors())


def beauty_anchor() -> list[Experiment]:
    """Return `anchor` on Beauty."""
    return aligned(parallel.warm_digits(), "anchor", headline.STEPS, _anchors())


def gates(steps: int) -> dict[str, Objective]:
    """Return S-DPO against the policy's best items: gated or not, refreshed each step, every tenth of the training, or never."""
    often = {"refreshed": 1, "tenth": steps // 10, "stale": 0}
    return {
        f"{'gated' if gate else 'ungated'}-{name}": on_policy.gated(gate=gate, refresh=each)
        for gate in (True, False)
        for name, each in often.items()
    }


def gate() -> list[Experiment]:
    """Return S-DPO against the policy's best items with and without the gate, by how often they are refreshed."""
    return aligned(movielens_tables.rpg(), "gate", movielens_tables.STEPS, gates(movielens_tables.STEPS))


def beauty_gate() -> list[Experiment]:
    """Return `gate` on Beauty."""
    return aligned(parallel.warm_digits(), "gate", headline.STEPS, gates(headline.STEPS))


def group_size() -> list[Experiment]:
    """Return gated S-DPO with 4 to 128 candidates. The gate asks for the target among as many."""
    sizes = {f"{size}": replace(on_policy.gated(), candidates=TopItems(size=size)) for size in (16, 4, 8, 32, 64, 128)}
    return aligned(movielens_tables.rpg(), "group-size", movielens_tables.STEPS, sizes)


def beams() -> list[Experiment]:
    """Return one TIGER policy, evaluated exactly and with 10, 20, 50, 100 and 200 beams; lists of 10 items."""
    spec = Evaluate(cutoffs=(1, 5, 10))
    ways = {"exact": replace(spec, scoring="exact")} | {f"{size}": replace(spec, num_beams=size) for size in (10, 20, 50, 100, 200)}
    return varied(movielens_tables.tiger(), "beams", {name: {"evaluate": way} for name, way in ways.items()})
