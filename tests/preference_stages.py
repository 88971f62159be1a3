"""An alignment by preferences with a sampler, from the fields of its parts."""

from __future__ import annotations

from dataclasses import fields

from genrec.objectives import Preference
from genrec.preference.candidates import Sampled
from genrec.training.recipes import Align


def stage(**fields_of: object) -> Align:
    """Return an alignment by `Preference` with a sampler. Fields of `Preference` and `Sampled` are given by their own names."""
    sampled = {name: fields_of.pop(name) for name in ("negatives", "num_negatives") if name in fields_of}
    preference = {field.name: fields_of.pop(field.name) for field in fields(Preference) if field.name in fields_of}
    if sampled:
        preference["candidates"] = Sampled(**sampled)  # type: ignore[arg-type]
    if preference:
        fields_of["objective"] = Preference(**preference)  # type: ignore[arg-type]
    return Align(**fields_of)  # type: ignore[arg-type]
