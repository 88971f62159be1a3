"""The titles of a catalog's items."""

from __future__ import annotations

import pandas as pd
from pandas import DataFrame, Series

from genrec.types import NO_TEXT


def item_titles(items: DataFrame) -> list[str]:
    """Return the title of each item of a catalog, N texts, or its text where it has no title; "" where it has neither.

    `NO_TEXT`, which stands in the column `text` for a missing text, is no title.
    """
    found: Series[str] = Series("", index=items.index, dtype=str)
    for column in ("text", "title"):
        if column in items:
            values = items[column].fillna("").astype(str)
            missing = values.str.strip().isin([""] if column == "title" else ["", NO_TEXT])
            found = found.where(missing, values)
    return pd.Series(found).tolist()
