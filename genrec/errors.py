"""The package's exceptions. Each class has an exit code of the command line.

A message states the value that was found, where, the value that was expected, and the next step.
"""

from __future__ import annotations

import difflib
import operator
from collections.abc import Iterable
from dataclasses import MISSING, fields, is_dataclass
from typing import SupportsIndex


class GenrecError(Exception):
    """Base class of errors that the user can fix. The command line prints the message and exits with `exit_code`."""

    exit_code = 1


class UsageError(GenrecError):
    """Invalid call or configuration."""

    exit_code = 2


class InputError(GenrecError):
    """Invalid input data, or a plug-in result that breaks the plug-in's contract."""

    exit_code = 3


class ArtifactError(GenrecError):
    """A stored artifact is damaged or does not match the settings that request it."""

    exit_code = 4


class ResourceError(GenrecError):
    """Missing memory, disk space, device or optional package."""

    exit_code = 5


class NumericsError(GenrecError):
    """Non-finite values, or collapsed Semantic IDs."""

    exit_code = 6


class NetworkError(GenrecError):
    """A download failed."""

    exit_code = 7


class WorkerError(GenrecError):
    """A worker process was killed, could not start, or raised an error that is a bug (`genrec.engines`)."""


class Stopped(GenrecError):
    """The run was stopped by a signal after its work was saved. `exit_code` is 128 plus the signal number."""

    def __init__(self, signal_number: int, message: str) -> None:
        super().__init__(message)
        self.exit_code = 128 + signal_number


def did_you_mean(name: str, names: Iterable[str]) -> str:
    """Return the end of a message with the nearest of the names, '; did you mean 'run'?', or '' if none is near."""
    nearest = difflib.get_close_matches(name, list(names), 1)
    return f"; did you mean {nearest[0]!r}?" if nearest else ""


def given(value: object) -> str:
    """Return a value as messages show it; for a class in place of an instance, how to make one: 'the class DPO; write DPO()'."""
    if not isinstance(value, type):
        return repr(value)
    needed = any(
        each.default is MISSING and each.default_factory is MISSING
        for each in (fields(value) if is_dataclass(value) else ())
        if each.init
    )
    return f"the class {value.__name__}; write {value.__name__}({'...' if needed else ''})"


def plain_integer(value: object) -> int | None:
    """Return an integer, also of NumPy, as int, and None for any other value: a bool, a float, a text, an array."""
    try:
        return operator.index(value) if isinstance(value, SupportsIndex) and not isinstance(value, bool) else None
    except TypeError:  # an array of several numbers has the method, too
        return None


def whole_number(value: object, name: str, least: int) -> int:
    """Return an integer, also of NumPy, as int. Raises UsageError, with the name, for another value and one below `least`."""
    found = plain_integer(value)
    if found is None or found < least:
        raise UsageError(f"{name} must be an integer of {least} or more, got {value!r}")
    return found


def counted(count: int, noun: str) -> str:
    """Return a count with its noun in singular or plural, for messages: '1 user', '1,000 users'."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"
