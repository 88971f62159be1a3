"""Iterated alignment on the built-in world: self-play (SPRec), a refreshed reference, and negatives from a refreshed policy.

    genrec run experiments/iterated.py:comparison     # nothing is downloaded

All rows take the same 120 steps on the same histories. `sprec` is the scheme of Gao et al. 2024 (arXiv 2412.09243): each round is
SFT, then DPO against the model's own outputs, with the SFT policy of the round as reference. Cost: 7 minutes with two
seeds on one thread of a busy machine; five seeds take 2.5 times as long. Result: see experiments/results.md.
"""

from __future__ import annotations

from dataclasses import replace

from quickstart import sft

from genrec.experiment import Align, Experiment, Optimization, Validation, baselines, seeds
from genrec.preference.losses import DPO, Anchored, ContinuedSFT, SoftmaxDPO
from genrec.preference.negatives import ModelBeams, Uniform


def aligned(name: str, align: Align) -> Experiment:
    """Return the SFT policy of the quick start with this alignment."""
    return replace(sft(), name=f"shop-{name}", align=align)


def _dpo() -> Align:
    """Return DPO with one negative from the reference policy's own beams."""
    return Align(
        loss=Anchored(DPO(beta=0.5)),
        negatives=ModelBeams(num_beams=10),
        num_negatives=1,
        keep="last",
        optimization=Optimization(max_steps=120, batch_size=128, learning_rate=1e-4, warmup_steps=10),
        validation=Validation(every=40),
    )


def control() -> Experiment:
    """Return the control: continued SFT on the batches of the alignment. A gain of this row is no gain of preferences."""
    return aligned("continued", replace(_dpo(), loss=ContinuedSFT(), negatives=Uniform()))


def offline() -> Experiment:
    """Return DPO that is not iterated: beams of the SFT policy, which stays the reference."""
    return aligned("dpo-beams", _dpo())


def sprec() -> Experiment:
    """Return self-play (SPRec): three rounds of 20 steps of SFT and 20 steps of DPO."""
    return aligned("sprec", replace(_dpo(), rounds=3, round_sft_steps=20))


def refreshed_reference() -> Experiment:
    """Return DPO in three rounds; reference and searching policy become the current policy at the beginning of each round."""
    return aligned("refreshed-reference", replace(_dpo(), rounds=3))


def refreshed_beams() -> Experiment:
    """Return S-DPO with three beams of a copy of the policy that is refreshed every 20 steps. The SFT policy stays the reference."""
    align = replace(_dpo(), loss=Anchored(SoftmaxDPO(beta=0.5)), negatives=ModelBeams(num_beams=10, refresh_every=20), num_negatives=3)
    return aligned("refreshed-beams", align)


def comparison() -> list[Experiment]:
    """Return the rows of the table, five seeds of each trained row."""
    return baselines(sft()) + seeds([sft(), control(), offline(), sprec(), refreshed_reference(), refreshed_beams()])
