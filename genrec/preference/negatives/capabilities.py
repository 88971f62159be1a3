"""Optional attributes of draws (see `genrec.types.DrawNegatives`): read them, combine them and set them on a composition."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

from genrec.errors import UsageError
from genrec.types import DrawNegatives, LimitedSampler, NegativeSampler, RefreshingSampler


class Capabilities(NamedTuple):
    """The optional attributes of a draw, with the default for each that is absent."""

    by_example: bool
    offers_history: bool
    refresh_every: int | None  # None: the draw does not read the policy
    refresh_unit: str  # "steps" or "epochs"

    def set_on(self, draw: DrawNegatives) -> None:
        """Set these attributes on a draw."""
        for name, value in self._asdict().items():
            if self.refresh_every is not None or not name.startswith("refresh"):
                setattr(draw, name, value)


def capabilities(draw: DrawNegatives) -> Capabilities:
    """Return the optional attributes of a draw."""
    return Capabilities(
        getattr(draw, "by_example", False),
        getattr(draw, "offers_history", False),
        getattr(draw, "refresh_every", None),
        getattr(draw, "refresh_unit", "steps"),
    )


def combine(name: str, parts: Sequence[Capabilities]) -> Capabilities:
    """Return the attributes of a composition of draws.

    It is `by_example` if all parts are, offers the history if any part does, and has the refresh of its parts. Raises UsageError if
    the parts disagree on the refresh, because they read one copy of the policy.
    """
    refreshes = [(part.refresh_every, part.refresh_unit) for part in parts if part.refresh_every is not None]
    if len(set(refreshes)) > 1:
        listed = " and ".join(f"every {every} {unit}" if every else "never" for every, unit in dict.fromkeys(refreshes))
        raise UsageError(
            f"{name}: its samplers share one copy of the policy, but ask for it to be refreshed {listed}: give all of them the same "
            "refresh_every and refresh_unit"
        )
    every, unit = refreshes[0] if refreshes else (None, "steps")
    return Capabilities(all(part.by_example for part in parts), any(part.offers_history for part in parts), every, unit)


def at(draw: DrawNegatives, progress: float) -> DrawNegatives:
    """Return the draw to use at a fraction of the training, 0 <= progress < 1; the draw itself if it has no `at`."""
    current: DrawNegatives = draw.at(progress) if hasattr(draw, "at") else draw
    return current


def inner_samplers(sampler: NegativeSampler) -> list[NegativeSampler]:
    """Return the samplers that a composition holds as `sampler` or `samplers`; an empty list for any other sampler."""
    one, several = getattr(sampler, "sampler", None), getattr(sampler, "samplers", ())
    return [each for each in (one, *(several if isinstance(several, tuple) else ())) if isinstance(each, NegativeSampler)]


def most_negatives(sampler: NegativeSampler, experiment: Any) -> float:
    """Return the most negatives that a sampler can give to a row of this experiment; infinity if it knows no limit."""
    return sampler.most_negatives(experiment) if isinstance(sampler, LimitedSampler) else math.inf


def policy_refreshes(sampler: object) -> set[tuple[int, str]]:
    """Return the refreshes of the policy, (every, unit), that a sampler and those inside it are known to need."""
    own = sampler.policy_refresh() if isinstance(sampler, RefreshingSampler) else None
    inner = inner_samplers(sampler) if isinstance(sampler, NegativeSampler) else []
    return ({own} if own is not None else set()).union(*map(policy_refreshes, inner))


def check_one_refresh(sampler: NegativeSampler) -> None:
    """Raise UsageError if the samplers of a composition are known to need different refreshes; see `combine`."""
    combine(type(sampler).__name__, [Capabilities(True, False, every, unit) for every, unit in sorted(policy_refreshes(sampler))])


def check_samplers(name: str, samplers: Sequence[NegativeSampler]) -> None:
    """Raise UsageError unless `samplers` is a tuple of at least one sampler."""
    if not isinstance(samplers, tuple) or not samplers:
        raise UsageError(f"{name}.samplers must be a tuple of samplers, got {samplers!r}")
    for place, sampler in enumerate(samplers):
        check_is_sampler(f"{name}.samplers[{place}]", sampler)


def check_is_sampler(name: str, sampler: object) -> None:
    """Raise UsageError unless `sampler` is an instance of a sampler's specification."""
    if isinstance(sampler, type) or not isinstance(sampler, NegativeSampler):
        raise UsageError(f"{name} must be a sampler, such as Uniform(), got {sampler!r}")
