"""Iterated alignment on the built-in world: self-play (SPRec), a refreshed reference, and negatives from a refreshed policy.

    genrec run experiments/iterated.py:comparison     # nothing is downloaded

All rows take the same 120 steps on the same histories. `sprec` is the scheme of Gao et al. 2024 (arXiv 2412.09243): each round is
SFT, then DPO against the model's own outputs, with the SFT policy of the round as reference. Cost: 7 minutes with two
seeds on one thread of a busy machine; five seeds take 2.5 times as long. Result: see experiments/results.md.
"""

from __future__ import annotations

from dataclasses import replace

from shop import sft

from genrec.experiment import Align, Experiment, Optimization, Validation, baselines, seeds
from genrec.objectives import Preference, Rounds, Supervised
from genrec.preference.candidates import Sampled
from genrec.preference.losses import DPO, Anchored, SoftmaxDPO
from genrec.preference.negatives import ModelBeams
from genrec.types import Objective


def aligned(name: str, align: Align) -> Experiment:
    """Return the SFT policy of the shop with this alignment."""
    return replace(sft(), name=f"shop-{name}", align=align)


def _recipe(objective: Objective) -> Align:
    """Return 120 steps of an objective. The last step is kept."""
    return Align(
        objective=objective,
        keep="last",
        optimization=Optimization(max_steps=120, batch_size=128, learning_rate=1e-4, warmup_steps=10),
        validation=Validation(every=40),
    )


def _dpo() -> Preference:
    """Return DPO with one negative from the reference policy's own beams."""
    return Preference(loss=Anchored(DPO(beta=0.5)), candidates=Sampled(ModelBeams(num_beams=10), 1))


def control() -> Experiment:
    """Return the control: continued SFT on the batches of the alignment. A gain of this row is no gain of preferences."""
    return aligned("continued", _recipe(Supervised()))


def offline() -> Experiment:
    """Return DPO that is not iterated: beams of the SFT policy, which stays the reference."""
    return aligned("dpo-beams", _recipe(_dpo()))


def sprec() -> Experiment:
    """Return self-play (SPRec): three rounds of 20 steps of SFT and 20 steps of DPO."""
    return aligned("sprec", _recipe(Rounds(objectives=(Supervised(), _dpo()), steps=(20, 20))))


def refreshed_reference() -> Experiment:
    """Return DPO whose reference, which is also the searching policy, becomes the current policy every 40 steps."""
    return aligned("refreshed-reference", replace(_recipe(_dpo()), refresh_reference=40))


def refreshed_beams() -> Experiment:
    """Return S-DPO with three beams of a copy of the policy that is refreshed every 20 steps. The SFT policy stays the reference."""
    beams = Sampled(ModelBeams(num_beams=10, refresh_every=20), 3)
    return aligned("refreshed-beams", _recipe(Preference(loss=Anchored(SoftmaxDPO(beta=0.5)), candidates=beams)))


def comparison() -> list[Experiment]:
    """Return the rows of the table, five seeds of each trained row."""
    return baselines(sft()) + seeds([sft(), control(), offline(), sprec(), refreshed_reference(), refreshed_beams()])
