"""Samplers inside samplers: build and check their draws, combine the fields of the draws, and check what all of them need."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from genrec.errors import InputError, UsageError, given
from genrec.plugin_source import name_with_place
from genrec.renamed import former_attribute
from genrec.types import ComposedSampler, Draw, LimitedSampler, NegativeSampler, Refresh, Refreshing, SamplerContext

if TYPE_CHECKING:
    from genrec.types.preference import DrawNegatives


def build_draw(sampler: NegativeSampler, context: SamplerContext) -> Draw:
    """Build the draw of a sampler. Raises InputError unless it is a `Draw` with fields of the right types."""
    return checked_draw(sampler.build(context), f"{name_with_place(type(sampler))}: build(context)")


def checked_draw(draw: object, call: str) -> Draw:
    """Return the result of `call`, such as "Uniform: build(context)", if it is a `Draw` with fields of the right types.

    Raises InputError otherwise, with the present form of what former versions returned: a callable with optional attributes.
    """
    if not isinstance(draw, Draw):
        former = former_attribute("Draw", draw)
        hint = f"; {former}" if former else ""
        raise InputError(f"{call} must return a genrec.types.Draw, got {draw!r}; return Draw(draw=...){hint}")
    _check_fields(draw, call)
    return draw


def _check_fields(draw: Draw, call: str) -> None:
    """Raise InputError unless every field of a draw has the right type."""
    expected: dict[str, tuple[bool, str, object]] = {  # field -> (whether it is valid, what it must be, what it is)
        "draw": (callable(draw.draw), "a callable draw(batch, num_negatives, generator)", draw.draw),
        "by_example": (isinstance(draw.by_example, bool), "True or False", draw.by_example),
        "offers_history": (isinstance(draw.offers_history, bool), "True or False", draw.offers_history),
        "offers_disliked": (isinstance(draw.offers_disliked, bool), "True or False", draw.offers_disliked),
        "refresh": (
            draw.refresh is None or _is_valid_refresh(draw.refresh),
            "None, if the draw does not read the policy, or Refresh(every, unit) with an int of 0 or more (0: the reference) and "
            "'steps' or 'epochs'",
            draw.refresh,
        ),
        "at": (draw.at is None or callable(draw.at), "a callable at(progress) or None", draw.at),
    }
    for field, (valid, must_be, got) in expected.items():
        if not valid:
            raise InputError(f"{call}: Draw.{field} must be {must_be}, got {got!r}")


def _is_valid_refresh(refresh: object) -> bool:
    return (
        isinstance(refresh, Refresh)
        and isinstance(refresh.every, int)
        and not isinstance(refresh.every, bool)
        and refresh.every >= 0
        and refresh.unit in ("steps", "epochs")
    )


def combine(name: str, parts: Sequence[Draw], draw: DrawNegatives, at: Callable[[float], Draw] | None = None) -> Draw:
    """Return a draw that draws from other draws.

    It is `by_example` if all parts are, offers the history or dislikes if any part does, and has the refresh of its parts. Raises
    UsageError if the parts disagree on the refresh, because they read one copy of the policy.
    """
    return Draw(
        draw=draw,
        by_example=all(part.by_example for part in parts),
        offers_history=any(part.offers_history for part in parts),
        offers_disliked=any(part.offers_disliked for part in parts),
        refresh=_common_refresh(name, [part.refresh for part in parts if part.refresh is not None]),
        at=at,
    )


def _common_refresh(name: str, refreshes: Sequence[Refresh]) -> Refresh | None:
    """Return the refresh that all share, None if there is none. Raises UsageError if they disagree."""
    distinct = list(dict.fromkeys(refreshes))
    if len(distinct) > 1:
        listed = " and ".join(f"every {every} {unit}" if every else "never" for every, unit in distinct)
        raise UsageError(
            f"{name}: its samplers share one copy of the policy, but ask for it to be refreshed {listed}: give all of them the same "
            "refresh_every and refresh_unit"
        )
    return distinct[0] if distinct else None


def draw_at(draw: Draw, progress: float) -> Draw:
    """Return the draw to use at a fraction of the training, 0 <= progress < 1."""
    return draw if draw.at is None else draw.at(progress)


def inner_samplers(sampler: NegativeSampler) -> tuple[NegativeSampler, ...]:
    """Return the samplers that a composition draws from; none for any other sampler."""
    return sampler.inner_samplers() if isinstance(sampler, ComposedSampler) else ()


def most_negatives(sampler: NegativeSampler, experiment: Any) -> float:
    """Return the most negatives that a sampler can give to a row of this experiment; infinity if it knows no limit."""
    return sampler.most_negatives(experiment) if isinstance(sampler, LimitedSampler) else math.inf


def policy_refreshes(sampler: NegativeSampler) -> set[Refresh]:
    """Return the refreshes of the policy that a sampler and those inside it are known to need."""
    own = sampler.policy_refresh() if isinstance(sampler, Refreshing) else None
    return ({own} if own is not None else set()).union(*map(policy_refreshes, inner_samplers(sampler)))


def check_one_refresh(sampler: NegativeSampler) -> None:
    """Raise UsageError if the samplers of a composition are known to need different refreshes; see `combine`."""
    _common_refresh(type(sampler).__name__, sorted(policy_refreshes(sampler)))


def check_samplers(name: str, samplers: Sequence[NegativeSampler]) -> None:
    """Raise UsageError unless `samplers` is a tuple of at least one sampler."""
    if not isinstance(samplers, tuple) or not samplers:
        raise UsageError(f"{name}.samplers must be a tuple of samplers, got {samplers!r}")
    for place, sampler in enumerate(samplers):
        check_is_sampler(f"{name}.samplers[{place}]", sampler)


def check_is_sampler(name: str, sampler: object) -> None:
    """Raise UsageError unless `sampler` is an instance of a sampler's specification."""
    if isinstance(sampler, type) or not isinstance(sampler, NegativeSampler):
        raise UsageError(f"{name} must be a sampler, such as Uniform(), got {given(sampler)}")
