"""SFT against continued SFT, DPO, S-DPO and their relatives with the parallel policy: one table for each data set.

    genrec run experiments/headline.py:beauty   # Amazon 2014 Beauty, five seeds
    genrec run experiments/headline.py:primary  # the rows of the primary endpoint alone
    genrec run experiments/headline.py:toys     # Amazon 2014 Toys and Games, six rows, five seeds

`--source.path` names a local copy of the data. Rows that are finished are not run again, and an interrupted run is resumed, so that a
table may be run in parts.

Named before any test figure of these rows: the primary endpoint is NDCG@10 on test, seen items kept, of `gated-long` against
`continued-long`, which takes the same steps on the same batches; Holm over all rows of the table. Second: the same with seen items
filtered, and R@50 not significantly below. All other rows take `steps` (two epochs) and are compared with `continued`. The SFT
policies are those of experiments/parallel.py. One recipe for all alignments, chosen for the gated form on validation of other runs
and tuned for no row: windows of the SFT stage, the likelihood beside each preference loss with weight 1, dropout on in the policy and
off in the reference, AdamW 3e-4 (`-long`: six epochs, 5e-4), 20 steps of warm-up, the last step kept.

Cost: on one core of an AMD EPYC, SFT takes about 17 minutes a seed, a row of two epochs 2 to 5 minutes and a row of six 6 to 15; all
rows of `beauty` take about 8 hours. No row of these tables has its five seeds yet; what has been run stands in experiments/results.md.
"""

from __future__ import annotations

from dataclasses import replace

import on_policy
import parallel

from genrec.baselines import EASE
from genrec.data.sources import AmazonReviews2014
from genrec.experiment import Experiment, baselines, seeds
from genrec.objectives import PolicyGradient, Preference, Rounds
from genrec.preference.candidates import History, Rollouts, Sampled, TopItems
from genrec.preference.losses import DPO, IPO, KTO, SimPO, SoftmaxDPO
from genrec.preference.negatives import FaissNeighbors, Popularity, Uniform
from genrec.preference.policy_gradient import LeaveOneOutAdvantage, Reinforce
from genrec.types import Objective, PreferenceLoss, Proposer


def preference(loss: PreferenceLoss, candidates: Proposer) -> Preference:
    """Return a preference on all places of windows, beside the likelihood."""
    return Preference(loss=loss, candidates=candidates, likelihood=1.0, targets="all")


def sdpo(candidates: Proposer) -> Preference:
    """Return S-DPO with these candidates."""
    return preference(SoftmaxDPO(beta=1.0), candidates)


def objectives(items: int, steps: int) -> dict[str, Objective]:
    """Return the objectives that take two epochs; `items` is the size of the catalog, `steps` the number of steps."""
    pair, own = Sampled(Uniform(), 1), Rollouts(size=16, by="top")
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
        "sprec": Rounds(objectives=(on_policy.WINDOWS, sdpo(TopItems(gate=False, refresh=0))), steps=(steps // 10, steps // 10)),
        "ungated": on_policy.gated(gate=False),
        "stale": on_policy.gated(refresh=0),
        "gated": on_policy.gated(),
        "grpo": PolicyGradient(candidates=own, weight=0.1, targets="all"),
        "rloo": PolicyGradient(candidates=own, advantage=LeaveOneOutAdvantage(), surrogate=Reinforce(), weight=0.1, targets="all"),
    }


def longer(base: Experiment, steps: int) -> list[Experiment]:
    """Return the rows of the primary endpoint: the control and gated S-DPO with three times the steps."""
    return [
        with_rate(on_policy.aligned(base, "continued-long", on_policy.WINDOWS, 3 * steps), 5e-4),
        with_rate(on_policy.aligned(base, "gated-long", on_policy.gated(), 3 * steps), 5e-4),
    ]


def with_rate(experiment: Experiment, learning_rate: float) -> Experiment:
    """Return the experiment with another learning rate of its alignment."""
    align = experiment.alignments[0]
    return replace(experiment, align=replace(align, optimization=replace(align.optimization, learning_rate=learning_rate)))


def table(base: Experiment, items: int, steps: int, *names: str) -> list[Experiment]:
    """Return baselines, SFT and the aligned rows, five seeds each; `names` chooses among `objectives`, all without one."""
    chosen = objectives(items, steps)
    rows = [on_policy.aligned(base, name, chosen[name], steps) for name in names or chosen]
    others = [*baselines(base), replace(base, name=base.name.replace("-sft", "-ease"), policy=EASE())]
    return [*others, *seeds([base, *longer(base, steps), *rows])]


def beauty() -> list[Experiment]:
    """Return all rows on Beauty. Two epochs are 380 steps."""
    return table(parallel.sft(), items=12_101, steps=380)


def primary() -> list[Experiment]:
    """Return SFT on Beauty and the two rows of the primary endpoint, which are rows of `beauty` too."""
    return seeds([parallel.sft(), *longer(parallel.sft(), 380)])


def toys_sft() -> Experiment:
    """Return the SFT policy of Beauty on Toys, its recipe unchanged."""
    return replace(parallel.sft(), name="toys-rpg-sft", source=AmazonReviews2014("Toys_and_Games"))


def toys() -> list[Experiment]:
    """Return six rows on Toys: SFT, the two controls, S-DPO with uniform negatives and the gated form with fewer and more steps."""
    return table(toys_sft(), 11_924, 380, "continued", "sdpo-15", "gated")
