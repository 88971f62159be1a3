"""How many of the requested negatives an alignment could not draw, and the note below a table.

A sampler with too few candidates leaves places empty. These are masked, so such rows are compared with fewer negatives than requested,
or with none.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from genrec.evaluation.statistics.paired_tests import CONTROL, loss_of

if TYPE_CHECKING:
    from genrec.evaluation.compare import Row

SHARE = "negatives_missing_share"
MAX_SHARE = 0.05  # of the requested negatives; a larger share is named at the end of the alignment and below the table
MAX_LISTED = 8  # rows that the note lists; of more it lists those with the largest shares


def missing_share(summaries: Sequence[Mapping[str, object]]) -> dict[str, float]:
    """Return the largest share of requested negatives, 0..1, that an alignment could not draw; empty without an alignment.

    `summaries` are the contents of `negatives.json` of the alignments with a sampler.
    """
    shares = [float(share) for share in (each["shortfall_share"] for each in summaries) if isinstance(share, int | float)]
    return {SHARE: max(shares)} if shares else {}


def missing_negatives_notes(rows: Sequence[Row]) -> list[str]:
    """Return the note on rows with a share above `MAX_SHARE`, a mean over seeds each; empty if there is none.

    Rows of continued SFT are left out: their negatives are drawn, but the loss does not use them.
    """
    having = [row for row in rows if SHARE in row.metrics and loss_of(row.configuration) != CONTROL]
    shares = sorted(((row.metrics[SHARE].mean, row.name) for row in having), key=lambda each: -each[0])
    shares = [(share, name) for share, name in shares if share > MAX_SHARE]
    if not shares:
        return []
    listed = "; ".join(f"{name} {100 * share:.1f} %" for share, name in shares[:MAX_LISTED])
    more = "" if len(shares) <= MAX_LISTED else f"; {len(shares) - MAX_LISTED} more rows have a smaller share"
    return [
        f"Requested negatives that the sampler did not find: {listed}{more}. Their places are masked, so these rows are compared with "
        "fewer negatives than num_negatives (drawn_shortfall of genrec curves)."
    ]
