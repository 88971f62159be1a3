"""Stage 1, Amazon product reviews of 2014: the 5-core of one category, as J. McAuley publishes it.

In: a folder with `reviews_CATEGORY_5.json.gz` and `meta_CATEGORY.json.gz`, a record a line; metadata are JSON or Python literals.
Out: `RawTables`; items have title, brand, categories. J. McAuley et al., "Image-based Recommendations on Styles and
Substitutes" (2015). The data carry no licence.

Times are whole days and the sort that follows is stable, so the rows' order (ascending ASIN) breaks ties, as in the published files.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from genrec.data.sources.files import UpstreamFile, find, fingerprint, locate
from genrec.data.sources.ledger import Ledger, check_tolerated, table
from genrec.data.sources.rows import fields_of, json_records
from genrec.data.sources.tables import catalogue, events
from genrec.data.sources.text import flat, parts, sentences
from genrec.errors import InputError, UsageError
from genrec.types import RawTables

ADDRESS = "https://snap.stanford.edu/data/amazon/productGraph/categoryFiles/"
FOLDER = "amazon-2014"  # of the fetched files
COLUMNS = ("title", "brand", "categories")  # of every item, besides item and text


@dataclass(frozen=True)
class AmazonReviews2014:
    """One category's 5-core reviews and its items' metadata."""

    category: str = "Beauty"  # as in the upstream file names: Beauty, Sports_and_Outdoors, Toys_and_Games, ...
    path: Path | None = None  # the folder that holds the two files; None: amazon-2014 among the fetched files
    tolerated: float = 0.01  # share of a file's rows that may be malformed, 0 to 1

    def __post_init__(self) -> None:
        if not re.fullmatch(r"\w+", self.category):
            raise UsageError(f"category must be as in the upstream file names, such as Sports_and_Outdoors, got {self.category!r}")
        check_tolerated(self.tolerated)

    def load(self, root: Path) -> RawTables:
        """Read reviews and metadata."""
        files = self._files(root)
        reviews, metadata = (Ledger(file.name) for file in files)
        rows = fields_of(json_records(files[0], reviews), ("reviewerID", "asin", "unixReviewTime", "overall"))
        interactions = events(rows, ("user", "item", "time", "rating"), reviews)
        reviews.check(len(interactions), self.tolerated)
        entries = ((line, record.get("asin"), _described(record)) for line, record in json_records(files[1], metadata, literals=True))
        items = catalogue(entries, ("text", *COLUMNS), metadata)
        metadata.check(len(items), self.tolerated)
        return RawTables(interactions, items, table((reviews, metadata)))

    def fingerprint(self, root: Path) -> str:
        """A hash of the category and of the two files' bytes."""
        return fingerprint(f"Amazon 2014 {self.category}", self._files(root))

    def _files(self, root: Path) -> tuple[UpstreamFile, ...]:
        names = (f"reviews_{self.category}_5.json.gz", f"meta_{self.category}.json.gz")
        if self.path is None:
            return tuple(UpstreamFile(locate(None, root / FOLDER, (name,), ADDRESS + name)) for name in names)
        if Path(self.path).is_file():
            raise InputError(f"{self.path} is a file; --source.path is the folder that holds {' and '.join(names)}")
        return tuple(find(Path(self.path), name) for name in names)


def _described(record: Mapping[str, Any]) -> dict[str, str]:
    """An item's fields and its text."""
    title, brand, categories = flat(record.get("title")), flat(record.get("brand")), parts(record.get("categories"))
    text = sentences(
        ("", title),
        ("brand", brand),
        ("categories", ", ".join(categories)),
        ("price", flat(record.get("price"))),
        ("", flat(record.get("description"))),
    )
    return {"text": text, "title": title, "brand": brand, "categories": "|".join(categories)}
