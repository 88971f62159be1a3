"""Checks that runs can stand in one table: the same protocol, users and targets, and baselines for every seed with its own targets."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from genrec.errors import ArtifactError, counted
from genrec.evaluation.statistics.paired_tests import is_trained, seeds_in_words
from genrec.types.data import TIES_OF_EACH_SEED

if TYPE_CHECKING:
    from genrec.evaluation.compare import Run

ABSENT = "-"  # value of a key that a protocol or the configuration of a row does not have


def check_same(runs: Sequence[Run]) -> None:
    """Raise ArtifactError if a run differs from the first in its users, targets or protocol. The message names the difference.

    Where ties have an order for each seed, targets are compared between runs of one seed, and a baseline must have every seed.
    """
    per_seed = _has_targets_per_seed(runs[0])
    firsts: dict[int, tuple[Run, dict[int, int]]] = {}  # seed, or 0 for all -> its first run with the targets
    users = _targets(runs[0])
    for run in runs:
        _check_protocol(runs[0], run)
        targets = _targets(run)
        _check_users(runs[0], users, run, targets)
        _check_targets(*firsts.setdefault(run.seed if per_seed else 0, (run, targets)), run, targets)
    message = missing_seeds([(run.name, run.seed, is_trained(run.configuration)) for run in runs]) if per_seed else ""
    if message:
        raise ArtifactError(message)


def missing_seeds(runs: Sequence[tuple[str, int, bool]]) -> str:
    """Return a message if a baseline lacks a seed, for runs that have targets of their own at each seed; else an empty text.

    A run is the name of its row, its seed, and whether it is trained.
    """
    every = sorted({seed for _, seed, _ in runs})
    seeds: dict[str, set[int]] = {}
    for name, seed, trained in runs:
        if not trained:
            seeds.setdefault(name, set()).add(seed)
    for name, found in seeds.items():
        missing = [seed for seed in every if seed not in found]
        if missing:
            return (
                f"ties are in {TIES_OF_EACH_SEED}, so each seed has targets of its own, and the baseline {name} has "
                f"{seeds_in_words(sorted(found))} only: {seeds_in_words(missing)} {'is' if len(missing) == 1 else 'are'} missing; run "
                f"the baselines with the seeds of the other rows: seeds(baselines(experiment), {tuple(every)!r}), or the list with "
                "--seeds"
            )
    return ""


def _has_targets_per_seed(run: Run) -> bool:
    return run.protocol.get("ties") == TIES_OF_EACH_SEED


def _check_protocol(first: Run, run: Run) -> None:
    """Raise ArtifactError for the first entry that two protocols do not have in common; what both have is compared first."""
    for key in (key for key in first.protocol if key in run.protocol):
        here, there = first.protocol[key], run.protocol[key]
        if here != there:
            raise ArtifactError(f"{_pair(first, run)}: {key} is {here!r} and {there!r}; run both with the same protocol")
    for known, other in ((first, run), (run, first)):
        missing = [key for key in known.protocol if key not in other.protocol]
        if missing:
            raise ArtifactError(
                f"{_pair(first, run)}: the protocol of {_label(other)} has no entry {missing[0]}; another version of genrec recorded "
                "it; run that row again"
            )


def _check_users(first: Run, expected: dict[int, int], run: Run, targets: dict[int, int]) -> None:
    """Raise ArtifactError if two runs, given with the targets of their users, have other users."""
    for these, those, label in ((expected, targets, _label(run)), (targets, expected, _label(first))):
        missing = sorted(these.keys() - those.keys())
        if missing:
            absent = f"{counted(len(missing), 'test user')} {'is' if len(missing) == 1 else 'are'} missing from {label}"
            raise ArtifactError(f"{_pair(first, run)}: {absent}, the first is user {missing[0]}")


def _check_targets(first: Run, expected: dict[int, int], run: Run, targets: dict[int, int]) -> None:
    """Raise ArtifactError if two runs with the same users have other targets."""
    other = [user for user, target in expected.items() if targets[user] != target]
    if other:
        raise ArtifactError(
            f"{_pair(first, run)}: {counted(len(other), 'user')} {'has' if len(other) == 1 else 'have'} different targets, "
            f"the first is user {other[0]} with item {expected[other[0]]} and item {targets[other[0]]}"
        )


def _targets(run: Run) -> dict[int, int]:
    """Return the target of each user. Raise ArtifactError if there is no user or a user occurs twice."""
    users = run.ranks["user"]
    if users.empty:
        raise ArtifactError(f"{_label(run)} has no test users")
    if users.duplicated().any():
        raise ArtifactError(f"{_label(run)} has user {users[users.duplicated()].iloc[0]} twice, expected each user once")
    return dict(zip(users.tolist(), run.ranks["target"].tolist(), strict=True))


def _pair(first: Run, run: Run) -> str:
    return f"{_label(first)} and {_label(run)} can't be compared"


def _label(run: Run) -> str:
    return f"{run.name} (seed {run.seed})"
