"""The engine that `--on` names: `local:2`, `ray`, `ray:ADDRESS`, `slurm` or `slurm:partition=gpu,hours=8`."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from genrec.engines.engine_protocols import Engine
from genrec.engines.local_workers import LocalEngine
from genrec.engines.ray_workers import RayEngine
from genrec.engines.slurm_jobs import SlurmEngine
from genrec.errors import UsageError, did_you_mean

FORMS = "local:N (N processes of this machine), ray, ray:ADDRESS, slurm or slurm:partition=NAME,hours=8"
SLURM = {field.name: str(field.type).partition(" ")[0] for field in fields(SlurmEngine) if field.name != "cluster"}


def engine_of(text: str) -> Engine:
    """Return the engine. Raises UsageError if the text names none."""
    if not isinstance(text, str):
        raise UsageError(f"on must be {FORMS}, got {text!r}")
    kind, colon, rest = text.partition(":")
    if kind == "local":
        return _local(rest)
    if kind == "ray" and bool(colon) == bool(rest):
        return RayEngine(rest)
    if kind == "slurm" and bool(colon) == bool(rest):
        return SlurmEngine(**dict(map(_slurm_option, rest.split(","))) if rest else {})
    raise UsageError(f"--on must be {FORMS}, got {text!r}{did_you_mean(kind, ['local', 'ray', 'slurm'])}")


def _local(number: str) -> LocalEngine:
    """Return the engine of `local:N`."""
    if not number.isdecimal() or int(number) < 1:
        raise UsageError(f"--on local needs a number of worker processes of 1 or more, such as local:2, got 'local:{number}'")
    return LocalEngine(int(number))


def _slurm_option(text: str) -> tuple[str, Any]:
    """Return the name and the value of `partition=gpu`."""
    name, equals, value = text.partition("=")
    if name not in SLURM or not equals or not value:
        raise UsageError(f"--on slurm takes NAME=VALUE of {', '.join(SLURM)}, got {text!r}{did_you_mean(name, SLURM)}")
    kind = {"str": str, "float": float, "int": int}[SLURM[name]]
    try:
        return name, kind(value)
    except ValueError:
        raise UsageError(f"--on slurm: {name} must be a number, got {value!r}") from None
