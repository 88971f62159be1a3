"""The engine that `--on` names: `local:2`, `ray`, `ray:ADDRESS`, `slurm` or `slurm:partition=gpu,hours=8`."""

from __future__ import annotations

from genrec.engines.engine_protocols import Engine
from genrec.engines.local_workers import LocalEngine
from genrec.errors import UsageError, did_you_mean

FORMS = "local:N (N processes of this machine), ray, ray:ADDRESS, slurm or slurm:partition=NAME,hours=8"


def engine_of(text: str) -> Engine:
    """Return the engine. Raises UsageError if the text names none."""
    kind, _, rest = text.partition(":")
    if kind == "local":
        return _local(rest)
    raise UsageError(f"--on must be {FORMS}, got {text!r}{did_you_mean(kind, ['local', 'ray', 'slurm'])}")


def _local(number: str) -> LocalEngine:
    """Return the engine of `local:N`."""
    if not number.isdecimal() or int(number) < 1:
        raise UsageError(f"--on local needs a number of worker processes of 1 or more, such as local:2, got 'local:{number}'")
    return LocalEngine(int(number))
