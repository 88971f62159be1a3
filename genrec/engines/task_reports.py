"""The report of a task: its value, or its error as plain text, since not every exception can be sent to another process."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from typing import Any, NamedTuple

from genrec import errors
from genrec.errors import GenrecError, Stopped, WorkerError
from genrec.storage_errors import explain, out_of_memory

INTERRUPTED = "KeyboardInterrupt"
SIGNALS = 128  # exit code of a process that a signal stopped, less the number of the signal


class Report(NamedTuple):
    """What a task returned or raised."""

    value: Any = None
    kind: str = ""  # class of the exception; "" for a value
    message: str = ""
    exit_code: int = 0  # of the exception on the command line
    trace: str = ""  # traceback of an error that is a bug

    @property
    def error(self) -> BaseException | None:
        """The exception as one of this process: of its own class if it is one of genrec's, else a WorkerError. None for a value."""
        if not self.kind:
            return None
        if self.kind == INTERRUPTED:
            return KeyboardInterrupt()
        if self.kind == Stopped.__name__:
            return Stopped(self.exit_code - SIGNALS, self.message)
        known = getattr(errors, self.kind, None)
        if isinstance(known, type) and issubclass(known, GenrecError):
            return known(self.message)
        return WorkerError(f"{self.kind}: {self.message}")


def perform(task: Callable[[], Any]) -> Report:
    """Run a task in this process and return its report. Nothing is raised."""
    try:
        return Report(task())
    except BaseException as error:
        return report_of(error)


def report_of(error: BaseException) -> Report:
    """Return the report of an exception. Errors of memory and of the file system become those that the command line prints."""
    cause = error.__context__ if isinstance(error, SystemExit) else error  # Lightning turns Ctrl-C into an exit
    if isinstance(cause, KeyboardInterrupt):
        return interrupted()
    shown = out_of_memory(error) or (explain(error) if isinstance(error, OSError) else None) or error
    if isinstance(shown, GenrecError):
        return Report(kind=type(shown).__name__, message=str(shown), exit_code=shown.exit_code)
    trace = "".join(traceback.format_exception(error))
    return Report(kind=type(error).__name__, message=str(error), exit_code=WorkerError.exit_code, trace=trace)


def interrupted() -> Report:
    """Return the report of a task that was interrupted or never started."""
    return Report(kind=INTERRUPTED, message="interrupted", exit_code=SIGNALS + 2)


def lost(message: str) -> Report:
    """Return the report of a task without a worker: its process was killed, or could not be started."""
    return report_of(WorkerError(message))
