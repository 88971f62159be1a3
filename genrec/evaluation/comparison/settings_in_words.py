"""Settings as messages and labels show them: components by their class names, and the differences of two rows.

`configuration_differences` finds the differences of all rows of a table.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from genrec.evaluation.comparison.configuration_differences import CLASS

_ABSENT = object()  # in place of the value of a setting that a row does not have


def label(description: dict[str, Any], files: Sequence[str] = ()) -> str:
    """Return a described component in words, without its paths: `MovieLens(variant=100k)`, `Frames(events.csv, ...)`."""
    hidden = ("class", "version", "fingerprint", "source")  # `source` is the hash of a plug-in's code
    known = {name: value for name, value in description.items() if name not in hidden and value is not None}
    fields = [f"{name}={label(value) if isinstance(value, dict) and 'class' in value else value}" for name, value in known.items()]
    values = [*files, *fields]
    return f"{description['class'].rpartition(':')[2]}({', '.join(values)})"


def setting_in_words(value: object) -> str:
    """Return a setting for a message: `[CandidateHitRate(num_candidates=20, seed=0)]` for a list of components."""
    if isinstance(value, list):
        return f"[{', '.join(map(setting_in_words, value))}]"
    return label(value) if isinstance(value, dict) and "class" in value else repr(value)


def differences_in_words(one: Mapping[str, object], other: Mapping[str, object]) -> dict[str, tuple[str, str]]:
    """Return the settings in which two rows differ, by key path, with both values for a message: {'align.objective': ('A', 'B')}.

    A component is named by its class, without the module unless only this differs, and once if the other row has a plain value.
    """
    found, keys = {}, dict.fromkeys([*one, *other])
    for key in keys:
        field = key.removesuffix(CLASS)
        if one.get(key, _ABSENT) == other.get(key, _ABSENT) or f"{key}{CLASS}" in keys:
            continue
        values = [settings.get(key, settings.get(field, _ABSENT)) for settings in (one, other)]
        names = [value.rpartition(":")[2] if isinstance(value, str) else value for value in values]
        is_class = field != key and names[0] != names[1]
        pairs = zip(names, values, strict=True)
        first, second = (name if is_class and isinstance(name, str) else _or_absent(value) for name, value in pairs)
        found[field if is_class else key] = (first, second)
    return found


def _or_absent(value: object) -> str:
    return "absent" if value is _ABSENT else setting_in_words(value)
