"""MovieLens-100K and MovieLens-1M: SFT, SFT on liked events, continued SFT, and preferences with and without ratings.

    genrec run experiments/movielens_tables.py:movielens_100k        # RPG and TIGER, all rows, five seeds
    genrec run experiments/movielens_tables.py:movielens_100k_rpg    # its rows without TIGER
    genrec run experiments/movielens_tables.py:movielens_100k_last   # the last ten events held out, with metrics of preference
    genrec run experiments/movielens_tables.py:movielens_1m          # RPG, eight trained rows, three seeds
    genrec run experiments/movielens_tables.py:movielens_1m_last     # the last ten events held out, with metrics of preference

`--source.path` names a local copy of the archive; MovieLens-1M as your own tables: `--source Frames --source.interactions FILE
--source.items FILE`. Each function returns two tables: seen items kept, and the same rows filtered (names end in `-filtered`), for
which nothing is trained again.

Splits, with ratings of 4 or more liked and of 2 or less disliked: leave-one-out, in which the target is the user's last liked event
(`LeaveOneOut(liked=4, disliked=2)`), and `HoldOutLast(n=10, liked=4, disliked=2)`, in which it is the first liked event of the
test half. No preference has a disliked target. Likelihood rows learn all events but `sft-liked` and `continued-liked`.

Endpoints, named before any of these rows was run. Leave-one-out: NDCG@10 on test, seen items kept, of `gated` against `continued`
(with each policy), Holm over all rows of the table. Last ten: pairwise accuracy of liked over disliked items on test, of
`sdpo-disliked` against the stronger of `sft-liked` and `continued-liked`, with NDCG@10 of liked not below it. Known before: a trial
outside this project on MovieLens-1M, in which SFT on liked events was above all preferences.

Recipes are fixed here and not tuned, except SASRec. RPG has 16 digits of 64 codes of interaction vectors, and 40 epochs of 72 steps
(MovieLens-1M: 8,640 steps), of which the best step on validation is kept. TIGER has the size of experiments/movielens.py with a
causal encoder, trained as `ml100k-causal` of experiments/policies.py. SASRec is that of experiments/movielens.py, tuned on
MovieLens-100K (experiments/tuning.py); MovieLens-1M inherits its recipe, with 8,000 steps. Alignment is that of
experiments/headline.py: 140 steps of 128 windows, about two epochs (1,400 on MovieLens-1M), AdamW 3e-4, the last step kept. TIGER has
no row with 1,000 negatives or the whole catalog, and takes its own best items from its beams.

Cost: `movielens_100k_rpg` takes about 3 hours of one core of an AMD EPYC (SFT 6 to 10 minutes a seed, an alignment 30 to 120 s);
result: experiments/results/movielens-100k-table.md. The other tables have not been run.
"""

from __future__ import annotations

from dataclasses import replace

import headline
import movielens
import on_policy
import parallel

from genrec.data.sources import MovieLens
from genrec.data.splits import HoldOutLast, LeaveOneOut
from genrec.embeddings import Collaborative
from genrec.endpoints import endpoint
from genrec.experiment import SFT, Experiment, Optimization, Tokenize, Validation, seeds
from genrec.model import RPG, Tiger
from genrec.objectives import Preference, Supervised
from genrec.preference.candidates import Sampled, TopItems
from genrec.preference.losses import DPO, KTO, SoftmaxDPO
from genrec.preference.negatives import DislikedItems
from genrec.tokenizer import ProductQuantizer
from genrec.types import Objective, PreferenceLoss, Proposer, Split

LAST_LIKED = LeaveOneOut(liked=4, disliked=2)
LAST_TEN = HoldOutLast(n=10, liked=4, disliked=2)
LIKED = Supervised(targets="all", feedback="liked")
SPLITS: dict[str, Split] = {"liked": LAST_LIKED, "last": LAST_TEN}  # part of the names of rows
STEPS = 140  # of an alignment on MovieLens-100K
ITEMS = 1_349  # of MovieLens-100K, after filtering


def rpg(split: str = "liked") -> Experiment:
    """Return RPG on MovieLens-100K, SFT on all events."""
    return replace(
        parallel.sft(),
        name=f"ml100k-{split}-rpg-sft",
        source=MovieLens("100k"),
        split=SPLITS[split],
        embed=Collaborative(dim=64),
        tokenize=Tokenize(quantizer=ProductQuantizer(num_levels=16, codebook_size=64)),
        policy=RPG(dropout=0.5, temperature=0.07, item_embedding=True),
        sft=SFT(
            objective=on_policy.WINDOWS,
            optimization=Optimization(max_steps=2_880, batch_size=128, learning_rate=2e-3),
            validation=Validation(every=72, users=0),
        ),
    )


def tiger(split: str = "liked") -> Experiment:
    """Return TIGER with a causal encoder on MovieLens-100K, SFT on all events."""
    base = movielens.sft()
    assert isinstance(base.policy, Tiger)
    return replace(
        base,
        name=f"ml100k-{split}-tiger-sft",
        split=SPLITS[split],
        policy=replace(base.policy, encoder="causal"),
        sft=SFT(
            objective=on_policy.WINDOWS,
            optimization=Optimization(max_steps=4_000, batch_size=64, learning_rate=2e-3, warmup_steps=100, weight_decay=0.035),
            validation=Validation(every=200, patience=6),
        ),
    )


def rpg_1m(split: str = "liked") -> Experiment:
    """Return RPG on MovieLens-1M with all of its ratings."""
    base = rpg(split)
    recipe = replace(
        base.sft, optimization=replace(base.sft.optimization, max_steps=8_640), validation=Validation(every=720, users=2_000)
    )
    return replace(base, name=f"ml1m-{split}-rpg-sft", source=MovieLens("1m"), sft=recipe)


def sasrec(base: Experiment, steps: int = 4_000) -> Experiment:
    """Return SASRec on the data of a row."""
    row = movielens.sasrec()
    recipe = replace(row.sft, optimization=replace(row.sft.optimization, max_steps=steps))
    name = f"{'-'.join(base.name.split('-')[:2])}-sasrec"
    return replace(row, name=name, source=base.source, split=base.split, sft=recipe)


def sft_liked(base: Experiment) -> Experiment:
    """Return SFT on liked events from the start; the other events stay in the histories."""
    return replace(base, name=f"{base.name}-liked", sft=replace(base.sft, objective=LIKED))


def liked_over(loss: PreferenceLoss, candidates: Proposer) -> Preference:
    """Return a preference of liked targets over other candidates, beside the likelihood."""
    return Preference(loss=loss, candidates=candidates, likelihood=1.0, targets="all", feedback="liked")


def _with_ratings() -> dict[str, Objective]:
    """Return the objectives that read ratings: the fair control, and preferences of liked events."""
    return {
        "continued-liked": LIKED,
        "dpo-disliked": liked_over(DPO(beta=0.5), Sampled(DislikedItems(), 1)),
        "kto-disliked": liked_over(KTO(beta=0.5), Sampled(DislikedItems(), 1)),
        "sdpo-disliked": liked_over(SoftmaxDPO(beta=1.0), Sampled(DislikedItems(), 3)),
        "gated-liked": liked_over(SoftmaxDPO(beta=1.0), TopItems(size=16)),
    }


def trained(base: Experiment, steps: int, *names: str) -> list[Experiment]:
    """Return SFT, SFT on liked events and the aligned rows; `names` chooses among them, all without one."""
    chosen = headline.objectives(ITEMS, steps) | _with_ratings()
    return [base, sft_liked(base), *(on_policy.aligned(base, name, chosen[name], steps) for name in names or chosen)]


def both(rows: list[Experiment]) -> list[Experiment]:
    """Return rows with seen items kept, and the same rows filtered."""
    return rows + movielens.filtered(rows)


def movielens_100k() -> list[Experiment]:
    """Return all rows on MovieLens-100K: baselines, then RPG, then TIGER; five seeds each."""
    small = tiger()
    names = [name for name in headline.objectives(ITEMS, STEPS) | _with_ratings() if name not in ("sdpo-1000", "sdpo-catalog")]
    return both([*rpg_rows(), *seeds([*tiger_rows(small, names), *headline.longer(small, STEPS)])])


def movielens_100k_rpg() -> list[Experiment]:
    """Return the baselines and the rows of RPG on MovieLens-100K, five seeds each."""
    return both(rpg_rows())


def rpg_rows() -> list[Experiment]:
    """Return baselines, SASRec and RPG on MovieLens-100K."""
    own = rpg()
    return [*headline.untrained(own), *seeds([sasrec(own), *trained(own, STEPS), *headline.longer(own, STEPS)])]


def tiger_rows(base: Experiment, names: list[str]) -> list[Experiment]:
    """Return the rows of TIGER; policy gradients take the candidates of its beams."""
    rows = trained(base, STEPS, *(name for name in names if not name.endswith("-top")))
    gradients = headline.gradients("beams")
    return [*rows, *(on_policy.aligned(base, name.replace("-top", "-beams"), each, STEPS) for name, each in gradients.items())]


@endpoint("ml100k-last-rpg-sdpo-disliked", reference="ml100k-last-rpg-sft-liked", metric="pairwise_accuracy")
@endpoint("ml100k-last-rpg-sdpo-disliked", reference="ml100k-last-rpg-continued-liked", metric="pairwise_accuracy")
def movielens_100k_last() -> list[Experiment]:
    """Return RPG with the last ten events of MovieLens-100K held out: likelihood on all and on liked events, and preferences."""
    base = rpg("last")
    rows = trained(base, STEPS, "continued", *_with_ratings(), "sdpo-history", "gated")
    return both([*headline.untrained(base), *seeds([sasrec(base), *rows])])


@endpoint("ml1m-liked-rpg-gated", reference="ml1m-liked-rpg-continued", seeds=3)
def movielens_1m() -> list[Experiment]:
    """Return eight rows of RPG on MovieLens-1M beside SASRec and the baselines, three seeds."""
    return million("liked", "continued", "continued-liked", "sdpo-15", "sdpo-history", "sdpo-disliked", "gated")


@endpoint("ml1m-last-rpg-sdpo-disliked", reference="ml1m-last-rpg-sft-liked", metric="pairwise_accuracy", seeds=3)
@endpoint("ml1m-last-rpg-sdpo-disliked", reference="ml1m-last-rpg-continued-liked", metric="pairwise_accuracy", seeds=3)
def movielens_1m_last() -> list[Experiment]:
    """Return eight rows of RPG with the last ten events of MovieLens-1M held out, three seeds."""
    return million("last", "continued", "continued-liked", "dpo-disliked", "kto-disliked", "sdpo-disliked", "gated-liked")


def million(split: str, *names: str) -> list[Experiment]:
    """Return rows on MovieLens-1M, with ten times the steps of MovieLens-100K."""
    base = rpg_1m(split)
    return both([*headline.untrained(base), *seeds([sasrec(base, 8_000), *trained(base, 10 * STEPS, *names)], 3)])
