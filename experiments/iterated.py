"""Iterated alignment on the built-in shop: self-play (SPRec), a reference that is refreshed, beams that follow the policy.

    genrec run experiments/iterated.py:comparison     # nothing is downloaded

All rows take the same 120 steps on the same histories. `sprec` is the scheme of Gao et al. 2024, 2412.09243: in each round SFT, then
DPO against the model's own outputs, with this round's SFT policy as the reference. Cost: about 4 minutes on 2 CPU cores. Result: see
experiments/results.md.
"""

from __future__ import annotations

from dataclasses import replace

from quickstart import sft

from genrec.experiment import Align, Experiment, Optimization, Validation, baselines, seeds
from genrec.preference.losses import DPO, Anchored, ContinuedSFT, SoftmaxDPO
from genrec.preference.negatives import ModelBeams, Uniform


def aligned(name: str, align: Align) -> Experiment:
    """The quick start's SFT policy, aligned."""
    return replace(sft(), name=f"shop-{name}", align=align)


def _dpo() -> Align:
    """DPO against one of the reference's own wrong beams."""
    return Align(
        loss=Anchored(DPO(beta=0.5)),
        negatives=ModelBeams(num_beams=10),
        num_negatives=1,
        keep="last",
        optimization=Optimization(max_steps=120, batch_size=128, learning_rate=1e-4, warmup_steps=10),
        validation=Validation(every=40),
    )


def control() -> Experiment:
    """SFT continued on alignment's batches: a gain that this row has too is not alignment's."""
    return aligned("continued", replace(_dpo(), loss=ContinuedSFT(), negatives=Uniform()))


def offline() -> Experiment:
    """Not iterated: beams of the SFT policy, which is the reference throughout."""
    return aligned("dpo-beams", _dpo())


def sprec() -> Experiment:
    """Self-play: three rounds of 20 steps of SFT and 20 of DPO."""
    return aligned("sprec", replace(_dpo(), rounds=3, round_sft_steps=20))


def refreshed_reference() -> Experiment:
    """The reference becomes the policy at the beginning of each of three rounds; so do the beams' policy."""
    return aligned("refreshed-reference", replace(_dpo(), rounds=3))


def refreshed_beams() -> Experiment:
    """The reference stays the SFT policy; S-DPO against three beams of a copy of the policy that is refreshed every 20 steps."""
    align = replace(_dpo(), loss=Anchored(SoftmaxDPO(beta=0.5)), negatives=ModelBeams(num_beams=10, refresh_every=20), num_negatives=3)
    return aligned("refreshed-beams", align)


def comparison() -> list[Experiment]:
    """The rows of the table, two seeds of each that is trained."""
    return baselines(sft()) + seeds([sft(), control(), offline(), sprec(), refreshed_reference(), refreshed_beams()], (0, 1))
