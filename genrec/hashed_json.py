"""JSON files that hold the hash of their own content, and a checker of their shape.

The hash (`sha256`, of the other entries with sorted keys) finds damage and edits by hand. The shape finds files that another program
wrote. A shape is a type (`float` accepts integers), a mapping of required keys to shapes, or an `Each`, `Listed`, `Matching` or
`Optional` below.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from genrec.errors import ArtifactError

KEY_DIGITS = 16  # hexadecimal digits of the key of an artifact, see `genrec.store.hash_of`
KEY = rf"[0-9a-f]{{{KEY_DIGITS}}}"
SHA256 = r"[0-9a-f]{64}"
_NAMES = {str: "a text", int: "an integer", float: "a number", dict: "an object", list: "a list", bool: "true or false"}


@dataclass(frozen=True)
class Matching:
    """A text that matches a regular expression as a whole."""

    pattern: str


@dataclass(frozen=True)
class Listed:
    """A list of `length` values, or of any number of values if `length` is None."""

    values: Shape
    length: int | None = None


@dataclass(frozen=True)
class Optional:
    """The value of a key that may be missing."""

    value: Shape


@dataclass(frozen=True)
class Each:
    """An object with any keys."""

    values: Shape
    is_key: Callable[[str], bool] = bool  # whether a key is allowed
    needs: tuple[str, ...] = ()  # keys that must exist
    at_least: int = 0  # number of keys


Shape: TypeAlias = "type | Matching | Listed | Optional | Each | Mapping[str, Shape]"


def add_hash(content: Mapping[str, Any]) -> dict[str, Any]:
    """Return the content as JSON gives it back, with the entry `sha256`."""
    plain: dict[str, Any] = json.loads(json.dumps(content))
    return {**plain, "sha256": _hash(plain)}


def read_object(path: Path, advice: str) -> dict[str, Any]:
    """Return the JSON object in a file, unchecked. Raises ArtifactError with `advice` if there is none, or only its beginning."""
    written = path.read_bytes()
    try:
        content = json.loads(written.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        is_cut = written.startswith(b"{") and not written.rstrip().endswith(b"}")
        raise ArtifactError(f"{path} is damaged ({'it is incomplete: ' if is_cut else ''}{error}); {advice}") from None
    check_shape(path, content, dict, advice)
    found: dict[str, Any] = content
    return found


def check_shape(path: Path, content: object, shape: Shape, advice: str) -> None:
    """Raise ArtifactError with `advice` unless the content of the file has this shape."""
    mismatch = find_mismatch(content, shape)
    if mismatch:
        raise ArtifactError(f"{path} is damaged ({mismatch}); {advice}")


def check_format(path: Path, content: dict[str, Any], newest: int, advice: str) -> None:
    """Raise ArtifactError with `advice` unless the object has a `format` up to `newest`, the one that this version writes."""
    check_shape(path, content, {"format": int}, advice)
    if content["format"] > newest:
        raise ArtifactError(
            f"{path} was written by a newer version of genrec (format {content['format']}, this version reads {newest}); upgrade "
            f"genrec, or {advice}"
        )


def check_object(path: Path, content: dict[str, Any], shape: Shape, advice: str) -> None:
    """Raise ArtifactError with `advice` unless the object has this shape and its `sha256` is that of its other entries."""
    try:
        check_shape(path, content, {"sha256": Matching(SHA256)}, advice)
        check_shape(path, content, shape, advice)
        found = _hash({name: value for name, value in content.items() if name != "sha256"})
    except RecursionError:
        raise ArtifactError(f"{path} is damaged (it is nested too deep); {advice}") from None
    if found != content["sha256"]:
        raise ArtifactError(f"{path} has changed since it was written (its sha256 is {found}, expected {content['sha256']}); {advice}")


def find_mismatch(value: object, shape: Shape, where: str = "the content") -> str:
    """Return the first difference between a JSON value and a shape in words, "" if there is none. `where` names the value."""
    if isinstance(shape, type):
        fits = isinstance(value, int | float if shape is float else shape) and (shape is bool or not isinstance(value, bool))
        return "" if fits else _expected(where, value, _NAMES[shape])
    if isinstance(shape, Matching):
        fits = isinstance(value, str) and re.fullmatch(shape.pattern, value) is not None
        return "" if fits else _expected(where, value, f"a text like {shape.pattern}")
    if isinstance(shape, Listed):
        if not isinstance(value, list) or shape.length not in (None, len(value)):
            return _expected(where, value, "a list" if shape.length is None else f"a list of {shape.length} values")
        return _first(find_mismatch(entry, shape.values, f"{where}[{place}]") for place, entry in enumerate(value))
    if isinstance(shape, Optional):
        return find_mismatch(value, shape.value, where)
    if not isinstance(value, dict):
        return _expected(where, value, "an object")
    return _mismatch_of_object(value, shape, where)


def _mismatch_of_object(value: dict[str, Any], shape: Each | Mapping[str, Shape], where: str) -> str:
    inside = "" if where == "the content" else f"{where}."
    if isinstance(shape, Each):
        missing = [name for name in shape.needs if name not in value]
        if missing or len(value) < shape.at_least:
            return f"{where} has no entry{' ' + missing[0] if missing else ''}"
        unfit = [name for name in value if not shape.is_key(name)]
        if unfit:
            return f"{where} has an entry {unfit[0]!r}, which is not allowed"
        return _first(find_mismatch(entry, shape.values, inside + name) for name, entry in value.items())
    missing = [name for name, entry in shape.items() if name not in value and not isinstance(entry, Optional)]
    if missing:
        return f"{where} has no entry {missing[0]}"
    return _first(find_mismatch(value[name], entry, inside + name) for name, entry in shape.items() if name in value)


def _first(mismatches: Any) -> str:
    return next((mismatch for mismatch in mismatches if mismatch), "")


def _expected(where: str, value: object, what: str) -> str:
    text = repr(value)
    return f"{where} is {text if len(text) <= 60 else text[:57] + '...'}, expected {what}"


def _hash(content: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
