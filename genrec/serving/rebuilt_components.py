"""Components from their stored descriptions: the inverse of `genrec.store.describe`.

A run file holds the settings of a row by key path. `component_of` makes the component at a path again, such as the policy, so that no
experiment file is needed. Classes of genrec are imported by their name. A plug-in's class is only looked up: its file must have been
imported before. The rebuilt component is described again, and must have the recorded settings and the recorded hash of its code.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any

from genrec.errors import ArtifactError, UsageError
from genrec.store import RESERVED, describe
from genrec.workspace import raw_folder


def nested(settings: Mapping[str, Any], path: str) -> Any:
    """Return the description below a key path of flat settings: `policy.d_model` and others become {"d_model": ..., ...}."""
    if path in settings:
        return settings[path]
    below: dict[str, Any] = {}
    for key, value in settings.items():
        if key.startswith(f"{path}."):
            *parents, last = key.removeprefix(f"{path}.").split(".")
            place = below
            for parent in parents:
                place = place.setdefault(parent, {})
            place[last] = value
    return below


def component_of(settings: Mapping[str, Any], path: str, row: str) -> Any:
    """Return the component at a key path of a row's settings. Fields that were newer than the row have their defaults.

    Raises UsageError for a plug-in without its file, and for a component that reads files of its own, which no run file holds.
    Raises ArtifactError if a class or its code has changed since the row was trained.
    """
    description = nested(settings, path)
    component = _rebuild(description, path, row)
    changed = _changed(description, describe(component, raw_folder(), path), path)
    if changed:
        raise ArtifactError(
            f"{row}: {changed} has changed since the row was trained; load the row with the code that trained it, or run the "
            "experiment again"
        )
    return component


def _rebuild(description: Any, path: str, row: str) -> Any:
    """Return the value that a description stands for."""
    if isinstance(description, list):
        return tuple(_rebuild(entry, f"{path}.{place}", row) for place, entry in enumerate(description))
    if not isinstance(description, dict):
        return description
    if "class" not in description:
        return {key: _rebuild(entry, f"{path}.{key}", row) for key, entry in description.items()}
    kind = _class_of(description, path, row)
    if "fingerprint" in description:
        raise UsageError(
            f"{row}: {path} is a {kind.__qualname__}, which reads files of its own; a run file holds their fingerprint alone, so "
            "the row cannot be loaded without its experiment"
        )
    values = {key: value for key, value in description.items() if key not in RESERVED}
    unknown = sorted(values.keys() - {field.name for field in fields(kind)})
    if unknown:
        raise ArtifactError(
            f"{row}: {path} has the setting {unknown[0]!r}, which {kind.__qualname__} now lacks; load the row with the code that "
            "trained it, or run the experiment again"
        )
    return kind(**{key: _rebuild(value, f"{path}.{key}", row) for key, value in values.items()})


def _changed(before: Any, now: Any, path: str) -> str:
    """Return, in words, the first recorded setting that a rebuilt component does not have; "" if there is none."""
    if isinstance(before, dict) and isinstance(now, dict):
        found = (_changed(value, now.get(key), f"{path}.{key}") for key, value in before.items())
        first = next(filter(None, found), "")
        return f"the code of {before['class']}" if first in (f"{path}.source", f"{path}.version") else first
    if isinstance(before, list) and isinstance(now, list) and len(before) == len(now):
        return next(filter(None, map(_changed, before, now, [f"{path}.{place}" for place in range(len(now))])), "")
    return "" if before == now else path


def _class_of(description: dict[str, Any], path: str, row: str) -> Any:
    """Return the dataclass that a description names."""
    module, _, name = str(description["class"]).partition(":")
    own = module.partition(".")[0] == "genrec"
    try:
        found: Any = importlib.import_module(module) if own else sys.modules[module]
        for part in name.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError):
        what = f"{path} is a {module}:{name}, which this version of genrec lacks" if own else f"{module} has no {name!r}"
        raise ArtifactError(f"{row}: {what}; load the row with the code that trained it, or run the experiment again") from None
    except KeyError:
        raise UsageError(
            f"{row}: {path} is {name}, a plug-in of your own in the module {module}, which the settings only name; give its file: "
            f"--code FILE.py, or genrec.load({row!r}, code='FILE.py')"
        ) from None
    if not isinstance(found, type) or not is_dataclass(found):
        raise ArtifactError(f"{row}: {path} names {module}:{name}, expected a dataclass; run the experiment again")
    return found
