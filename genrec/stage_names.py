"""The names of the stages that train a policy: `sft`, and `align`, `align-2`, ... of a chain of alignments."""

from __future__ import annotations


def align_stage(place: int) -> str:
    """Return the name of a stage of alignment by its place in the chain, from 0: align, align-2, align-3."""
    return "align" if place == 0 else f"align-{place + 1}"


def kind_of_stage(stage: str) -> str:
    """Return the kind of a stage: `align` of `align-2`. Stages of one kind run the same code and have one version."""
    return "align" if stage.startswith("align") else stage


def is_training_stage(stage: str) -> bool:
    """Return whether a stage has training curves."""
    return kind_of_stage(stage) in ("sft", "align")


def place_of(stage: str) -> int:
    """Return the place of a stage of alignment in the chain, from 0: 1 for `align-2`."""
    return int(stage.partition("-")[2] or 1) - 1
