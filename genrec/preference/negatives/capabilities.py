"""Stage 5, what is special about a draw: the optional attributes of `genrec.types.DrawNegatives`, of one and of several together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from genrec.errors import UsageError
from genrec.types import DrawNegatives, NegativeSampler


class Capabilities(NamedTuple):
    """The attributes, as they stand where one is absent."""

    by_example: bool
    offers_history: bool
    refresh_every: int | None  # None: it does not read the policy
    refresh_unit: str

    def declare(self, draw: DrawNegatives) -> None:
        """Put them on a draw."""
        for name, value in self._asdict().items():
            if self.refresh_every is not None or not name.startswith("refresh"):
                setattr(draw, name, value)


def capabilities(draw: DrawNegatives) -> Capabilities:
    """Those of one draw."""
    return Capabilities(
        getattr(draw, "by_example", False),
        getattr(draw, "offers_history", False),
        getattr(draw, "refresh_every", None),
        getattr(draw, "refresh_unit", "steps"),
    )


def together(name: str, parts: Sequence[Capabilities]) -> Capabilities:
    """Those of a composition: by example if all parts are, with the history if any offers it, refreshed as its parts say.

    There is one copy of the policy to read, so that parts which are refreshed at different times are refused.
    """
    refreshed = [(part.refresh_every, part.refresh_unit) for part in parts if part.refresh_every is not None]
    if len(set(refreshed)) > 1:
        said = " and ".join(f"every {every} {unit}" if every else "never" for every, unit in dict.fromkeys(refreshed))
        raise UsageError(
            f"{name}: its samplers read one copy of the policy, but are to have it refreshed {said}: give them one refresh"
        )
    every, unit = refreshed[0] if refreshed else (None, "steps")
    return Capabilities(all(part.by_example for part in parts), any(part.offers_history for part in parts), every, unit)


def at(draw: DrawNegatives, progress: float) -> DrawNegatives:
    """What draws when so much of the training is done."""
    moved: DrawNegatives = draw.at(progress) if hasattr(draw, "at") else draw
    return moved


def inside(sampler: NegativeSampler) -> list[NegativeSampler]:
    """The samplers that a composition holds, as `sampler` or `samplers`; none of one that is no composition."""
    one, several = getattr(sampler, "sampler", None), getattr(sampler, "samplers", ())
    return [*several] if one is None else [one, *several]


def check_samplers(name: str, samplers: Sequence[NegativeSampler]) -> None:
    """Refuse a composition of nothing, or of what is no sampler."""
    if not isinstance(samplers, tuple) or not samplers:
        raise UsageError(f"{name}.samplers must be a tuple of samplers, got {samplers!r}")
    for place, sampler in enumerate(samplers):
        check_is_sampler(f"{name}.samplers[{place}]", sampler)


def check_is_sampler(name: str, sampler: object) -> None:
    """Refuse what is no specification of a sampler."""
    if isinstance(sampler, type) or not isinstance(sampler, NegativeSampler):
        raise UsageError(f"{name} must be a sampler, such as Uniform(), got {sampler!r}")
