"""What goes wrong, by kind: each class is one exit code of the command line.

A message says what was found, where, what was expected and what to try next.
"""

from __future__ import annotations


class GenrecError(Exception):
    """Something the user can act on; the command line prints the message and exits with `exit_code`."""

    exit_code = 1


class UsageError(GenrecError):
    """The call or the configuration is wrong."""

    exit_code = 2


class InputError(GenrecError):
    """The input data, or a plug-in's answer, breaks its contract."""

    exit_code = 3


class ArtifactError(GenrecError):
    """A stored artifact is damaged, or does not fit what asks for it."""

    exit_code = 4


class ResourceError(GenrecError):
    """Memory, disk or a device is missing."""

    exit_code = 5


class NumericsError(GenrecError):
    """NaN, infinity, collapse: numbers that must not go on."""

    exit_code = 6


class NetworkError(GenrecError):
    """Something had to be fetched and could not be."""

    exit_code = 7


class Stopped(GenrecError):
    """Stopped by a signal after the work was saved; `exit_code` is 128 + the signal's number."""

    def __init__(self, signal_number: int, message: str) -> None:
        super().__init__(message)
        self.exit_code = 128 + signal_number
