"""The parts of the data that a baseline is fitted on."""

from __future__ import annotations

from genrec.errors import InputError
from genrec.plugin_source import name_with_place
from genrec.types import Baseline, PartsBaseline

PARTS = (("train",), ("train", "validation"))  # what a baseline may be fitted on; the test part is never among them


def fitted_parts(baseline: Baseline) -> tuple[str, ...]:
    """Return the parts that `fit` gets: training, or what a `genrec.types.PartsBaseline` names. Raise InputError for other parts."""
    if not isinstance(baseline, PartsBaseline):
        return PARTS[0]
    parts = baseline.parts()
    if parts not in PARTS:
        allowed = " or ".join(map(repr, PARTS))
        name = name_with_place(type(baseline))
        raise InputError(f"{name}: parts() must return {allowed}, got {parts!r}; no baseline is fitted on the test")
    return parts
