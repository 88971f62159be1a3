"""How many rows of an alignment's training gave a preference, and the note below a table.

A hit gate, or groups without a difference in reward, leave rows without a preference; these train by the likelihood alone, or not at
all. The loss is a mean over the rows with a preference, whatever their share.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from pandas import DataFrame

if TYPE_CHECKING:
    from genrec.evaluation.compare import Row

SHARE = "preference_share"
COLUMNS = (SHARE, "gradient_share")  # of the curves: of preferences, and of groups of a policy gradient
ALL = 0.9995  # a share that is shown as 100.0 %
MAX_LISTED = 8  # rows that the note lists; of more it lists those with the lowest shares


def preference_share(curves: DataFrame) -> dict[str, float]:
    """Return the mean share of rows with a preference over the steps of an alignment, 0..1; empty if all rows have one."""
    for name in COLUMNS:
        if name in curves and curves[name].notna().any():
            return {SHARE: float(curves[name].mean())}
    return {}


def preference_share_notes(rows: Sequence[Row]) -> list[str]:
    """Return the note on rows of training with a preference, a mean over seeds each; empty if no row of the table has a gate."""
    shares = sorted((row.metrics[SHARE].mean, row.name) for row in rows if SHARE in row.metrics)
    if not shares:
        return []
    listed = "; ".join(f"{name} {100 * share:.1f} %" for share, name in shares[:MAX_LISTED])
    more = "" if len(shares) <= MAX_LISTED else f"; {len(shares) - MAX_LISTED} more rows have a larger share"
    others = "" if shares[0][0] >= ALL else " The others train by the likelihood alone, if it has a weight."
    return [f"Rows of the alignment that gave a preference: {listed}{more}.{others}"]
