"""When alignment beats continued SFT: five questions, each against continued SFT of the same steps.

    genrec run experiments/when_alignment_helps.py:group_loss      # a hit-gated group loss: gate and refresh, two weights
    genrec run experiments/when_alignment_helps.py:ratings         # liked over disliked, against SFT on liked events
    genrec run experiments/when_alignment_helps.py:whole_catalog   # the parallel policy with the whole catalog as negatives
    genrec run experiments/when_alignment_helps.py:crossing        # SFT stopped before and after its best step, aligned from each
    genrec run experiments/when_alignment_helps.py:coverage        # popular negatives: coverage at an N@10 that is not inferior

`--source.path` names a local copy of the data; `..._filtered` functions filter seen items and train nothing again. A loss of
prefixes (APAO) against cross-entropy, and RecPO with its own data, are in experiments/more_methods.py.

Endpoints, named before any of these rows was run; the reference is `continued` (or the stage's own control) and the tests are over
users and five seeds, with Holm over the rows of the function:

1. `group_loss`, Beauty: R@1 and NDCG@5 on test, seen items kept. Groups of the policy's 16 best items, likelihood weight 1, weight of
   the group loss 0.03 and 0.1; gated or not, candidates refreshed every step or of the SFT policy.
2. `ratings`, MovieLens-1M with the last ten events held out: NDCG@10 of liked targets, and pairwise accuracy of liked over disliked
   held-out items, against the stronger of `sft-liked` and `continued-liked` on each. Three seeds.
3. `whole_catalog`, Beauty: NDCG@10 on test, seen items kept, of S-DPO against the whole catalog.
4. `crossing`, Beauty: NDCG@10 on test, seen items kept, of `gated` minus `continued` as a function of the length of SFT: 25, 50, 75,
   100 and 150 % of BEST steps. One training, in which the learning rate falls to 0 at 150 %, stops at each, and its last step is the
   start of both rows. BEST is the best of 3,800 steps on validation of seed 0, and is the same for all seeds.
5. `coverage`, Beauty: coverage@10, where NDCG@10 of popular negatives is at most 0.0010 below the control (one-sided, 95 %).

The policy and its SFT are those of `warm` in experiments/headline.py, the recipe of alignment is that of its two epochs, and nothing
is tuned.

Cost: not run yet. Results will stand in experiments/results.md.
"""

from __future__ import annotations

from dataclasses import replace

import headline
import movielens_tables
import on_policy
import parallel
from movielens import filtered

from genrec.endpoints import endpoint
from genrec.experiment import Experiment, Validation, seeds
from genrec.objectives import PolicyGradient
from genrec.preference.candidates import Rollouts, Sampled, TopItems
from genrec.preference.negatives import Popularity, Uniform
from genrec.types import Objective

BEST = 3_800  # best step of SFT on validation, seed 0; see `crossing`
SHARES = (25, 50, 75, 100, 150)  # percent of BEST


def compared(objectives: dict[str, Objective]) -> list[Experiment]:
    """Return SFT on Beauty, continued SFT, and a row for each objective; five seeds."""
    base = parallel.warm_digits()
    rows = [on_policy.aligned(base, name, each, headline.STEPS) for name, each in objectives.items()]
    return seeds([on_policy.aligned(base, "continued", on_policy.WINDOWS, headline.STEPS), base, *rows])


def group_loss() -> list[Experiment]:
    """Return a group loss with a reward for the target: gated or not, refreshed or not, with weights 0.03 and 0.1."""
    rows: dict[str, Objective] = {}
    for weight in (0.03, 0.1):
        for gate in (True, False):
            for refresh in (1, 0):
                name = f"group-{'gated' if gate else 'ungated'}-{'refreshed' if refresh else 'stale'}-{weight:g}"
                candidates = Rollouts(size=16, by="top", refresh=refresh)
                rows[name] = PolicyGradient(candidates=candidates, gate=gate, weight=weight, targets="all")
    return compared(rows)


def ratings() -> list[Experiment]:
    """Return likelihood of all and of liked events, DPO, KTO and S-DPO of liked over disliked: the rows of MovieLens-1M."""
    return movielens_tables.movielens_1m_last()


@endpoint("beauty-rpg-warm-sdpo-catalog", reference="beauty-rpg-warm-continued")
def whole_catalog() -> list[Experiment]:
    """Return S-DPO of the parallel policy with 15 and 1,000 uniform negatives and with the whole catalog."""
    return compared(
        {
            "sdpo-15": headline.sdpo(Sampled(Uniform(), 15)),
            "sdpo-1000": headline.sdpo(Sampled(Uniform(), 1_000)),
            "sdpo-catalog": headline.sdpo(TopItems(size=headline.ITEMS, gate=False)),
        }
    )


def stopped(percent: int) -> Experiment:
    """Return SFT on Beauty stopped at a share of its best step. Its schedule is that of 150 %, and its last step is kept."""
    base, steps = parallel.warm_digits(), percent * BEST // 100
    longest = max(SHARES) * BEST // 100
    recipe = replace(
        base.sft,
        optimization=replace(base.sft.optimization, max_steps=steps, decay_steps=longest),
        validation=Validation(every=steps, users=0),
    )
    return replace(base, name=f"beauty-rpg-warm-{percent}-sft", sft=recipe)


@endpoint("beauty-rpg-warm-25-gated", reference="beauty-rpg-warm-25-continued")
@endpoint("beauty-rpg-warm-50-gated", reference="beauty-rpg-warm-50-continued")
@endpoint("beauty-rpg-warm-75-gated", reference="beauty-rpg-warm-75-continued")
@endpoint("beauty-rpg-warm-100-gated", reference="beauty-rpg-warm-100-continued")
@endpoint("beauty-rpg-warm-150-gated", reference="beauty-rpg-warm-150-continued")
def crossing() -> list[Experiment]:
    """Return SFT stopped at each share of its best step, and continued SFT and gated S-DPO from there, five seeds."""
    rows = []
    for base in map(stopped, SHARES):
        rows += [base, on_policy.aligned(base, "continued", on_policy.WINDOWS, headline.STEPS)]
        rows.append(on_policy.aligned(base, "gated", on_policy.gated(), headline.STEPS))
    return seeds(rows)


@endpoint("beauty-rpg-warm-sdpo-popular", reference="beauty-rpg-warm-continued", metric="coverage@10")
def coverage() -> list[Experiment]:
    """Return S-DPO with 15 popular and with 15 uniform negatives."""
    return compared({"sdpo-popular": headline.sdpo(Sampled(Popularity(), 15)), "sdpo-15": headline.sdpo(Sampled(Uniform(), 15))})


def group_loss_filtered() -> list[Experiment]:
    """Return the rows of `group_loss` with seen items filtered."""
    return filtered(group_loss())


def whole_catalog_filtered() -> list[Experiment]:
    """Return the rows of `whole_catalog` with seen items filtered."""
    return filtered(whole_catalog())


def crossing_filtered() -> list[Experiment]:
    """Return the rows of `crossing` with seen items filtered."""
    return filtered(crossing())
