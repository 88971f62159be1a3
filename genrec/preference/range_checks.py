"""Stage 5: numbers that a specification may hold. In: a specification and a field's name. Out: nothing, or a `UsageError`."""

from __future__ import annotations

import math

from genrec.errors import UsageError

INFINITY = math.inf


def check_range(specification: object, name: str, low: float = -INFINITY, high: float = INFINITY, above: bool = False) -> None:
    """Refuse a field that is no finite number in [low, high), or with `above` in (low, high)."""
    value = getattr(specification, name)
    number = _number(value)
    if math.isfinite(number) and low <= number < high and not (above and number == low):
        return
    if high < INFINITY:
        wanted = f"in {'(' if above else '['}{low:g}, {high:g})"
    elif low > -INFINITY:
        wanted = f"above {low:g} and finite" if above else f"{low:g} or more and finite"
    else:
        wanted = "finite"
    got = "a whole number that no float can hold" if isinstance(value, int) and math.isinf(number) else repr(value)
    raise UsageError(f"{type(specification).__name__}.{name} must be {wanted}, got {got}")


def _number(value: object) -> float:
    """As a float: NaN where it is no number, infinite where it is a whole number too large."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return math.nan
    try:
        return float(value)
    except OverflowError:
        return INFINITY
