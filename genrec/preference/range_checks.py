"""Range checks for numeric fields of specifications."""

from __future__ import annotations

import math

from genrec.errors import UsageError

INFINITY = math.inf


def check_range(specification: object, name: str, low: float = -INFINITY, high: float = INFINITY, above: bool = False) -> None:
    """Raise UsageError unless the field `name` is a finite number in [low, high), or in (low, high) if `above` is true."""
    value = getattr(specification, name)
    got = "an integer too large for a float" if isinstance(value, int) and math.isinf(_number(value)) else repr(value)
    check_number(f"{type(specification).__name__}.{name}", value, low, high, above, got)


def check_number(path: str, value: object, low: float, high: float, above: bool, got: str) -> None:
    """Raise UsageError unless a value is a number in the range of `check_range`. `path` and `got` name its field and it."""
    number = _number(value)
    if math.isfinite(number) and low <= number < high and not (above and number == low):
        return
    if high < INFINITY:
        expected = f"in {'(' if above else '['}{low:g}, {high:g})"
    elif low > -INFINITY:
        expected = f"above {low:g} and finite" if above else f"{low:g} or more and finite"
    else:
        expected = "finite"
    raise UsageError(f"{path} must be {expected}, got {got}")


def _number(value: object) -> float:
    """Return the value as a float: NaN if it is not a number, infinity if it is an integer too large for a float."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return math.nan
    try:
        return float(value)
    except OverflowError:
        return INFINITY
