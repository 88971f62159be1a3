"""Further methods of the field on MovieLens-100K, each against SFT and its control: a table of its own for each function.

    genrec run experiments/more_methods.py:lists       # Rec-R1: policy gradients over lists, rewarded by their NDCG
    genrec run experiments/more_methods.py:prefixes    # APAO: a contrast of prefixes beside the likelihood, in SFT and in alignment

`--source.path` names a local copy of the archive. Data, policies and recipes are those of experiments/movielens_tables.py (the last
liked event held out); nothing is tuned. Five seeds.

Endpoints, named before any of these rows was run: NDCG@10 on test, seen items kept, of `rec-r1` against `continued`, and of
`apao` (SFT from the start) against SFT. The other rows say where a difference comes from: `rec-r1-alone` has no likelihood, as in the
paper, and `continued-apao` takes the steps of the control with the contrast.

Cost: not run yet. Results will stand in experiments/results.md.
"""

from __future__ import annotations

from dataclasses import replace

import movielens_tables
import on_policy

from genrec.experiment import Experiment, seeds
from genrec.objectives import ListPolicyGradient, PrefixContrast
from genrec.types import Objective


def lists() -> list[Experiment]:
    """Return RPG: SFT, continued SFT, and lists of 10 items rewarded by NDCG, beside the likelihood and alone."""
    base = movielens_tables.rpg()
    rows: dict[str, Objective] = {
        "continued": on_policy.WINDOWS,
        "rec-r1": ListPolicyGradient(targets="all"),
        "rec-r1-alone": ListPolicyGradient(targets="all", likelihood=0),
    }
    return seeds([base, *(on_policy.aligned(base, name, each, movielens_tables.STEPS) for name, each in rows.items())])


def prefixes() -> list[Experiment]:
    """Return TIGER: SFT and continued SFT, by the likelihood alone and with the contrast of prefixes."""
    base, contrast = movielens_tables.tiger(), PrefixContrast(targets="all")
    rows: dict[str, Objective] = {"continued": on_policy.WINDOWS, "continued-apao": contrast}
    by_contrast = replace(base, name=base.name.replace("-sft", "-apao"), sft=replace(base.sft, objective=contrast))
    aligned = [on_policy.aligned(base, name, each, movielens_tables.STEPS) for name, each in rows.items()]
    return seeds([base, by_contrast, *aligned])
