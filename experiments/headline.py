"""SFT against continued SFT, DPO, S-DPO and their relatives with the parallel policy: one table for each data set.

    genrec run experiments/headline.py:beauty   # Amazon 2014 Beauty: the rows of `warm` and all other objectives, five seeds
    genrec run experiments/headline.py:primary  # SFT with item embeddings, its control and gated S-DPO
    genrec run experiments/headline.py:digits_only  # the same rows after 32 digits without item embeddings, five seeds
    genrec run experiments/headline.py:toys     # Amazon 2014 Toys and Games: the rows of `toys_warm` and three more, five seeds
    genrec run experiments/headline.py:toys_digits_only  # the rows of `digits_only` on Toys, its recipe unchanged, five seeds
    genrec run experiments/headline.py:toys_gate_alone  # its rows, and the likelihood of the gate's rows without negatives
    genrec run experiments/headline.py:unrotated        # the rows of `digits_only` after digits without OPQ's rotation
    genrec run experiments/headline.py:warm             # the same with ten times the temperature
    genrec run experiments/headline.py:toys_warm        # the rows of `warm` on Toys, its recipe unchanged
    genrec run experiments/headline.py:sports_warm      # the rows of `toys_warm` on Sports and Outdoors, their recipe unchanged
    genrec run experiments/headline.py:toys_policies    # RPG beside SASRec on Toys, with and without a score for items of the history
    genrec run experiments/headline.py:tiger_beauty   # TIGER on Beauty, four rows, three seeds (one without a CUDA device: --seeds 1)
    genrec run experiments/headline.py:beauty_filtered   # the rows of `beauty` with seen items filtered, nothing is trained again

MovieLens: see experiments/movielens_tables.py. `--source.path` names a local copy of the data; of Toys it may be your own tables:
`--source Frames --source.interactions FILE --source.items FILE`. Rows that are finished are not run again, and an interrupted run is
resumed, so that a table may be run in parts. The tests of the endpoint and of the other rows (`toys_filtered`,
`digits_only_filtered`, `unrotated_filtered`, `warm_filtered`, `toys_warm_filtered`, `sports_warm_filtered`,
`toys_digits_only_filtered` and `tiger_beauty_filtered` exist too; names of filtered rows end in `-filtered`):

    genrec compare beauty-rpg-warm-continued-long beauty-rpg-warm-gated-long --reference beauty-rpg-warm-continued-long
    genrec compare beauty-rpg-warm-continued beauty-rpg-warm-dpo ... --reference beauty-rpg-warm-continued

The endpoint of `beauty` and `toys`, named before any of their rows of two epochs was run: NDCG@10 on test, seen items kept, of each
row of two epochs against `continued`, five seeds, Holm over all of them. Known before: the six epochs of `gated-long` and its control.

The endpoint of `primary`, named before any test figure of its rows, is NDCG@10 on test, seen items kept, five seeds, of `gated-long`
against `continued-long`, which takes the same steps on the same batches (a family of one, fixed after seed 0 had been seen: the
test needs seeds other than 0). It has two seeds, and the table moved from its SFT, which has item embeddings and takes an hour, to
that of `warm`. Known before: one seed of `gated` with an earlier recipe of SFT (experiments/results/parallel.md).

`digits_only` repeats the primary endpoint after an SFT policy without item embeddings, which is the policy of the trials outside this
project (NDCG@10 +6 %, one seed): NDCG@10 on test, seen items kept, of its `gated-long` against its `continued-long`, five seeds, a
family of one, named before any test figure of these rows. A finding on this base does not carry over to `primary`.

`toys_digits_only` repeats that endpoint on Toys with the recipe of Beauty unchanged, number of steps included, named before any of its
rows was run: NDCG@10 on test, seen items kept, of its `gated-long` against its `continued-long`, five seeds, a family of one.

`toys_gate_alone` asks whether that gain, which was known, comes from the negatives or from the choice of rows. Endpoint, named before
its new row was run: NDCG@10 on test, seen items kept, of `gated-long` against `gated-likelihood-long`, which takes the same steps with
the likelihood of the rows that the gate lets through in place of S-DPO; five seeds, a family of one. `digits_gate_alone` is the same
on Beauty.

`unrotated`, `warm`, `toys_warm` and `sports_warm` repeat the endpoint after stronger SFT policies, which were chosen on validation
(seed 0): NDCG@10 on test, seen items kept, of `gated-long` against `continued-long`, five seeds, a family of one each, named before an
aligned row was run. The filtered lists of the last three name another one: SFT and `gated-long` against SASRec, seen items filtered.

Endpoints of `toys_policies`, named before any of its rows was run: NDCG@10 on test, seen items kept, of RPG against SASRec, without
and with the learned score for items of the history in both, and of the rows of `toys_digits_only`, which were known, against SASRec;
Holm over all of them. All recipes are those of Beauty, unchanged.

For 43.5 % of Beauty's users the last two events have one date, and the order of the file decides which is the target.

Endpoint of `tiger_beauty`, named before its aligned rows were run: NDCG@10 on test, seen items kept, of `gated` against `continued`;
second `sdpo` and SFT. Its SFT is experiments/amazon.py:long_windows, of which one seed was seen before (N@10 0.0350). SASRec, the
baseline row of each table, is experiments/amazon.py:sasrec, tuned on Beauty (experiments/tuning.py); Toys inherits its recipe.

One recipe for all alignments, taken from trials of the gated form outside of this project: windows of the SFT stage, the likelihood
beside each loss with weight 1, dropout on in the policy and off in the reference, AdamW 3e-4 (`-long`: six epochs, 5e-4), 20 steps
of warm-up, the last step kept. **No row is tuned, and the scales of the losses are not matched**: per row, the gradient at the
target's log-probability is 2 for IPO, 0.75 to 1 for S-DPO, 0.25 for DPO and 0.06 for KTO, and nearly 0 for SimPO where the target
is much likelier than its negative. Rows differ from the papers that their losses come from by the likelihood term. `ecpo-top` and
`leave-one-out-top` are contrasts within the policy's 16 best items, not the sampled methods ECPO and RLOO; `self-play` alternates
SFT and S-DPO against the policy's own best items, as SPRec does with DPO. Uniform, popular and neighboring negatives are no
training items of the user; the policy's best items and the whole catalog may be.

Cost: one seed of `warm` or `toys_warm` on one core of an AMD EPYC took 16 to 22 minutes for SFT, 5 for `continued-long`, 8 for
`gated-long` and 9 for `gated-likelihood-long`, and SASRec 5. Rows of two epochs should take a third of that, and those of `beauty`
about 5 hours; these have not been run. `primary` takes an hour and a half a seed, `toys_policies` 5 to 9 minutes for SASRec and 20 to
32 for RPG. Five seeds: `warm`, `toys_warm` without `gated-likelihood-long` (experiments/results/gated-warm.md), `digits_only`
(gated-beauty.md), `toys_digits_only` (gated-toys.md). The other tables have one seed or none. The aligned rows of `tiger_beauty` are
not run yet, and their time is unknown.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import amazon
import on_policy
import parallel
from movielens import filtered

from genrec.baselines import EASE
from genrec.data.sources import AmazonReviews2014
from genrec.endpoints import endpoint
from genrec.experiment import Experiment, baselines, seeds
from genrec.objectives import PolicyGradient, Preference, Rounds
from genrec.preference.candidates import History, Rollouts, Sampled, TopItems
from genrec.preference.losses import DPO, IPO, KTO, SimPO, SoftmaxDPO
from genrec.preference.negatives import FaissNeighbors, Popularity, Uniform
from genrec.preference.policy_gradient import LeaveOneOutAdvantage, Reinforce
from genrec.types import Objective, PreferenceLoss, Proposer

ITEMS = 12_101  # of Beauty
STEPS = 2 * parallel.EPOCH  # of an alignment of two epochs of Beauty, 380


def preference(loss: PreferenceLoss, candidates: Proposer) -> Preference:
    """Return a preference on all places of windows, beside the likelihood."""
    return Preference(loss=loss, candidates=candidates, likelihood=1.0, targets="all")


def sdpo(candidates: Proposer) -> Preference:
    """Return S-DPO with these candidates."""
    return preference(SoftmaxDPO(beta=1.0), candidates)


def objectives(items: int, steps: int) -> dict[str, Objective]:
    """Return the objectives that take two epochs; `items` is the size of the catalog, `steps` the number of steps."""
    pair = Sampled(Uniform(), 1)
    return {
        "continued": on_policy.WINDOWS,
        "dpo": preference(DPO(beta=0.5), pair),
        "ipo": preference(IPO(beta=0.5), pair),
        "kto": preference(KTO(beta=0.5), pair),
        "simpo": preference(SimPO(), pair),
        "sdpo-3": sdpo(Sampled(Uniform(), 3)),
        "sdpo-15": sdpo(Sampled(Uniform(), 15)),
        "sdpo-1000": sdpo(Sampled(Uniform(), min(1_000, items - 1))),
        "sdpo-catalog": sdpo(TopItems(size=items, gate=False)),
        "sdpo-popular": sdpo(Sampled(Popularity(), 15)),
        "sdpo-faiss": sdpo(Sampled(FaissNeighbors(pool_size=200), 15)),
        "sdpo-history": sdpo(History()),
        "self-play": Rounds(objectives=(on_policy.WINDOWS, sdpo(TopItems(gate=False, refresh=0))), steps=(steps // 10, steps // 10)),
        "ungated": on_policy.gated(gate=False),
        "stale": on_policy.gated(refresh=0),
        "gated": on_policy.gated(),
        **gradients("top"),
    }


def gradients(by: Literal["beams", "top"]) -> dict[str, Objective]:
    """Return the policy gradients over 16 items of the policy, which are its best ones or those of its beams."""
    own = Rollouts(size=16, by=by)
    return {
        "ecpo-top": PolicyGradient(candidates=own, targets="all"),
        "leave-one-out-top": PolicyGradient(candidates=own, advantage=LeaveOneOutAdvantage(), surrogate=Reinforce(), targets="all"),
    }


def longer(base: Experiment, steps: int = STEPS) -> list[Experiment]:
    """Return the rows of the primary endpoint: the control and gated S-DPO with three times the steps."""
    return [
        on_policy.aligned(base, "continued-long", on_policy.WINDOWS, 3 * steps, 5e-4),
        on_policy.aligned(base, "gated-long", on_policy.gated(), 3 * steps, 5e-4),
    ]


def table(base: Experiment, items: int, *names: str) -> list[Experiment]:
    """Return baselines, the rows of `beside_sasrec`, and the alignments of two epochs of Beauty, five seeds each.

    `names` chooses among `objectives` for a catalog of so many items, all without one.
    """
    chosen = objectives(items, STEPS)
    rows = [on_policy.aligned(base, each, chosen[each], STEPS) for each in names or chosen]
    return [*untrained(base), *beside_sasrec(base), *seeds(rows)]


def untrained(base: Experiment) -> list[Experiment]:
    """Return popularity, ItemKNN and EASE on the data of a row."""
    return [*baselines(base), replace(base, name=base.name.replace("-sft", "-ease"), policy=EASE())]


def sasrec(base: Experiment) -> Experiment:
    """Return SASRec on the data of an Amazon row."""
    return replace(amazon.sasrec(), name=f"{base.name.partition('-')[0]}-sasrec", source=base.source)


def beauty() -> list[Experiment]:
    """Return all rows on Beauty."""
    return table(parallel.warm_digits(), ITEMS)


def primary() -> list[Experiment]:
    """Return SFT with item embeddings on Beauty, and the control and gated S-DPO of six epochs."""
    return seeds([parallel.sft(), *longer(parallel.sft())])


def digits_only() -> list[Experiment]:
    """Return 32 digits without item embeddings on Beauty, the control and gated S-DPO of six epochs."""
    base = parallel.plain_digits()
    return seeds([base, *longer(base)])


def toys_sft() -> Experiment:
    """Return the SFT policy of Beauty on Toys, its recipe unchanged: as many steps, which are 23 epochs of 164 steps."""
    return on_toys(parallel.sft())


def on_toys(base: Experiment) -> Experiment:
    """Return an experiment of Beauty on Toys."""
    return on_category(base, "toys", "Toys_and_Games")


def on_category(base: Experiment, name: str, category: str) -> Experiment:
    """Return an experiment of Beauty on another category of Amazon 2014; `name` takes the place of "beauty" in the row's name."""
    return replace(base, name=base.name.replace("beauty", name, 1), source=AmazonReviews2014(category))


def toys_digits_only() -> list[Experiment]:
    """Return the rows of `digits_only` on Toys, their recipe unchanged."""
    base = on_toys(parallel.plain_digits())
    return seeds([base, *longer(base)])


def toys_policies() -> list[Experiment]:
    """Return RPG and SASRec on Toys, each with and without a learned score for the items of the history; five seeds."""
    policies = [sasrec(toys_sft()), toys_sft()]
    return seeds(policies + [parallel.with_repeat_score(each) for each in policies])


def beside_sasrec(base: Experiment) -> list[Experiment]:
    """Return SASRec, SFT, its control, gated S-DPO and the likelihood of the gate's rows, five seeds each."""
    return seeds([sasrec(base), base, *longer(base), gate_alone(base)])


@endpoint("beauty-rpg-32-unrotated-gated-long", reference="beauty-rpg-32-unrotated-continued-long")
def unrotated() -> list[Experiment]:
    """Return the rows of `digits_only` after digits without OPQ's rotation, and the likelihood of the gate's rows."""
    return beside_sasrec(parallel.unrotated_digits())


@endpoint("beauty-rpg-warm-gated-long", reference="beauty-rpg-warm-continued-long")
def warm() -> list[Experiment]:
    """Return the rows of `unrotated` after digits with ten times the temperature."""
    return beside_sasrec(parallel.warm_digits())


@endpoint("toys-rpg-warm-gated-long", reference="toys-rpg-warm-continued-long")
def toys_warm() -> list[Experiment]:
    """Return the rows of `warm` on Toys, their recipe unchanged."""
    return beside_sasrec(on_toys(parallel.warm_digits()))


@endpoint("sports-rpg-warm-gated-long", reference="sports-rpg-warm-continued-long")
def sports_warm() -> list[Experiment]:
    """Return the rows of `warm` on Sports and Outdoors, their recipe unchanged."""
    return beside_sasrec(on_category(parallel.warm_digits(), "sports", "Sports_and_Outdoors"))


def digits_gate_alone() -> list[Experiment]:
    """Return the rows of `digits_only`, and the likelihood of the rows that the gate lets through."""
    return [*digits_only(), *seeds([gate_alone(parallel.plain_digits())])]


def toys_gate_alone() -> list[Experiment]:
    """Return the rows of `toys_digits_only`, and the likelihood of the rows that the gate lets through."""
    return [*toys_digits_only(), *seeds([gate_alone(on_toys(parallel.plain_digits()))])]


def gate_alone(base: Experiment) -> Experiment:
    """Return the row of `gated-long` without negatives."""
    return on_policy.aligned(base, "gated-likelihood-long", on_policy.gate_alone(), 3 * STEPS, 5e-4)


def toys() -> list[Experiment]:
    """Return the rows of `toys_warm`, and the control, S-DPO with uniform negatives and gated S-DPO of Beauty's two epochs."""
    return table(on_toys(parallel.warm_digits()), 11_924, "continued", "sdpo-15", "gated")


@endpoint("beauty-tiger-gated", reference="beauty-tiger-continued", seeds=3)
def tiger_beauty() -> list[Experiment]:
    """Return TIGER on Beauty: baselines, SFT, the control, S-DPO with 15 uniform negatives and gated S-DPO, three seeds."""
    base = replace(amazon.long_windows(), name="beauty-tiger-sft")
    rows = {"continued": on_policy.WINDOWS, "sdpo": sdpo(Sampled(Uniform(), 15)), "gated": on_policy.gated()}
    aligned = [on_policy.aligned(base, name, objective, STEPS) for name, objective in rows.items()]
    return [*untrained(base), *seeds([sasrec(base), base, *aligned], 3)]


def beauty_filtered() -> list[Experiment]:
    """Return the rows of `beauty` with seen items filtered."""
    return filtered(beauty())


def digits_only_filtered() -> list[Experiment]:
    """Return the rows of `digits_only` with seen items filtered."""
    return filtered(digits_only())


def unrotated_filtered() -> list[Experiment]:
    """Return the rows of `unrotated` with seen items filtered."""
    return filtered(unrotated())


@endpoint("beauty-rpg-warm-sft-filtered", reference="beauty-sasrec-filtered")
@endpoint("beauty-rpg-warm-gated-long-filtered", reference="beauty-sasrec-filtered")
def warm_filtered() -> list[Experiment]:
    """Return the rows of `warm` with seen items filtered."""
    return filtered(warm())


@endpoint("toys-rpg-warm-sft-filtered", reference="toys-sasrec-filtered")
@endpoint("toys-rpg-warm-gated-long-filtered", reference="toys-sasrec-filtered")
def toys_warm_filtered() -> list[Experiment]:
    """Return the rows of `toys_warm` with seen items filtered."""
    return filtered(toys_warm())


@endpoint("sports-rpg-warm-sft-filtered", reference="sports-sasrec-filtered")
@endpoint("sports-rpg-warm-gated-long-filtered", reference="sports-sasrec-filtered")
def sports_warm_filtered() -> list[Experiment]:
    """Return the rows of `sports_warm` with seen items filtered."""
    return filtered(sports_warm())


def toys_digits_only_filtered() -> list[Experiment]:
    """Return the rows of `toys_digits_only` with seen items filtered."""
    return filtered(toys_digits_only())


def toys_filtered() -> list[Experiment]:
    """Return the rows of `toys` with seen items filtered."""
    return filtered(toys())


def tiger_beauty_filtered() -> list[Experiment]:
    """Return the rows of `tiger_beauty` with seen items filtered."""
    return filtered(tiger_beauty())
