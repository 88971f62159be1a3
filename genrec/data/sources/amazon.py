"""Stage 1, Amazon product reviews of 2014, 2018 and 2023, one category each, as J. McAuley's group publishes them.

In: a folder with the reviews and the metadata of a category, each packed (.gz) or unpacked. Out: `RawStream` or `RawTables`; items
have title, brand (2023: store) and categories. J. McAuley et al., "Image-based Recommendations on Styles and Substitutes" (2015); J.
Ni et al., "Justifying Recommendations using Distantly-Labeled Reviews and Fine-Grained Aspects" (2019); Y. Hou et al., "Bridging
Language and Items for Retrieval and Recommendation" (2024). The data carry no license.

Times are whole days in 2014 and 2018, and milliseconds in 2023. The sort that follows is stable, so the rows' order (in the 2014 files
ascending ASIN) breaks ties, as in the published sequences.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from genrec.data.readers import event_tables
from genrec.data.readers.item_text import flat, is_scraped, parts, sentences
from genrec.data.sources.amazon_files import Choice, Edition, Published, bare_ratings, headed_ratings, json_reviews
from genrec.types import RawStream, RawTables


@dataclass(frozen=True)
class AmazonReviews2014:
    """One category's reviews of 1996 to 2014, and its items' metadata."""

    category: str = "Beauty"  # as in the upstream file names: Beauty, Sports_and_Outdoors, Toys_and_Games, ...
    path: Path | None = None  # the folder that holds the files; None: amazon-2014 among the fetched files
    reviews: Literal["5-core", "all", "ratings"] = "5-core"  # which of the published files; ratings are all, without the texts
    metadata: bool = True  # False: only interactions are read, and items have no text
    max_bad_rows: float = 0.01  # share of a file's rows that may be malformed, 0 to 1

    def __post_init__(self) -> None:
        self._choice.check()

    def stream(self, root: Path) -> RawStream:
        """Interactions and items in pieces."""
        return self._choice.stream(root)

    def load(self, root: Path) -> RawTables:
        """Read reviews and metadata."""
        return event_tables.gather(self.stream(root))

    def fingerprint(self, root: Path) -> str:
        """A hash of the category and of the files' bytes."""
        return self._choice.fingerprint(root)

    @property
    def _choice(self) -> Choice:
        return Choice(_EDITION_2014, self.category, self.reviews, self.path, self.metadata, self.max_bad_rows)


@dataclass(frozen=True)
class AmazonReviews2018:
    """One category's reviews of 1996 to 2018, and its items' metadata."""

    category: str = "All_Beauty"  # as in the upstream file names: Office_Products, Arts_Crafts_and_Sewing, Gift_Cards, ...
    path: Path | None = None  # the folder that holds the files; None: amazon-2018 among the fetched files
    reviews: Literal["5-core", "all", "ratings"] = "5-core"  # which of the published files; ratings are all, without the texts
    metadata: bool = True  # False: only interactions are read, and items have no text
    max_bad_rows: float = 0.01  # share of a file's rows that may be malformed, 0 to 1

    def __post_init__(self) -> None:
        self._choice.check()

    def stream(self, root: Path) -> RawStream:
        """Interactions and items in pieces."""
        return self._choice.stream(root)

    def load(self, root: Path) -> RawTables:
        """Read reviews and metadata."""
        return event_tables.gather(self.stream(root))

    def fingerprint(self, root: Path) -> str:
        """A hash of the category and of the files' bytes."""
        return self._choice.fingerprint(root)

    @property
    def _choice(self) -> Choice:
        return Choice(_EDITION_2018, self.category, self.reviews, self.path, self.metadata, self.max_bad_rows)


@dataclass(frozen=True)
class AmazonReviews2023:
    """One category's reviews of 1996 to 2023, and its items' metadata. An item is a parent ASIN: its variants are one."""

    category: str = "All_Beauty"  # as in the upstream file names: Video_Games, Industrial_and_Scientific, Musical_Instruments, ...
    path: Path | None = None  # the folder that holds the files; None: amazon-2023 among the fetched files
    reviews: Literal["all", "5-core", "0-core"] = "all"  # which file: all reviews, or the benchmark's ratings, 5-core or 0-core
    metadata: bool = True  # False: only interactions are read, and items have no text
    max_bad_rows: float = 0.01  # share of a file's rows that may be malformed, 0 to 1

    def __post_init__(self) -> None:
        self._choice.check()

    def stream(self, root: Path) -> RawStream:
        """Interactions and items in pieces."""
        return self._choice.stream(root)

    def load(self, root: Path) -> RawTables:
        """Read reviews and metadata."""
        return event_tables.gather(self.stream(root))

    def fingerprint(self, root: Path) -> str:
        """A hash of the category and of the files' bytes."""
        return self._choice.fingerprint(root)

    @property
    def _choice(self) -> Choice:
        return Choice(_EDITION_2023, self.category, self.reviews, self.path, self.metadata, self.max_bad_rows)


def _described_2014(record: Mapping[str, Any]) -> dict[str, str]:
    title, brand, categories = flat(record.get("title")), flat(record.get("brand")), parts(record.get("categories"))
    text = sentences(
        ("", title),
        ("brand", brand),
        ("categories", ", ".join(categories)),
        ("price", flat(record.get("price"))),
        ("", flat(record.get("description"))),
    )
    return {"text": text, "title": title, "brand": brand, "categories": "|".join(categories)}


def _described_2018(record: Mapping[str, Any]) -> dict[str, str]:
    prose = {name: [text for text in parts(record.get(name)) if not is_scraped(text)] for name in _FIELDS_2018}
    title, brand = " ".join(prose["title"]), " ".join(prose["brand"])
    text = sentences(
        ("", title),
        ("brand", brand),
        ("categories", ", ".join(prose["category"])),
        ("price", " ".join(prose["price"])),
        ("", " ".join(prose["feature"])),
        ("", " ".join(prose["description"])),
    )
    return {"text": text, "title": title, "brand": brand, "categories": "|".join(prose["category"])}


def _described_2023(record: Mapping[str, Any]) -> dict[str, str]:
    title, store, categories = flat(record.get("title")), flat(record.get("store")), parts(record.get("categories"))
    details = record.get("details")
    named = details.items() if isinstance(details, dict) else ()
    text = sentences(
        ("", title),
        ("store", store),
        ("categories", ", ".join(categories or parts(record.get("main_category")))),
        ("price", flat(record.get("price"))),
        ("", flat(record.get("features"))),
        ("", flat(record.get("description"))),
        ("", "; ".join(f"{flat(name)}: {value}" for name, value in ((name, flat(entry, ", ")) for name, entry in named) if value)),
    )
    return {"text": text, "title": title, "store": store, "categories": "|".join(categories)}


_FIELDS_2018 = ("title", "brand", "category", "price", "feature", "description")
_REVIEWS = json_reviews(user="reviewerID", item="asin", time="unixReviewTime", rating="overall")
_RATINGS_2023 = headed_ratings(user="user_id", item="parent_asin", time="timestamp", rating="rating")
_EDITION_2014 = Edition(
    name="Amazon 2014",
    folder="amazon-2014",
    addresses=(
        "https://snap.stanford.edu/data/amazon/productGraph/categoryFiles/",
        "https://mcauleylab.ucsd.edu/public_datasets/data/amazon/categoryFiles/",
    ),
    reviews={
        "5-core": Published("reviews_{}_5.json.gz", _REVIEWS),
        "all": Published("reviews_{}.json.gz", _REVIEWS),
        "ratings": Published("ratings_{}.csv", bare_ratings("user", "item", "rating", "time")),
    },
    metadata="meta_{}.json.gz",
    item="asin",
    columns=("text", "title", "brand", "categories"),
    describe=_described_2014,
    literals=True,
)
_EDITION_2018 = Edition(
    name="Amazon 2018",
    folder="amazon-2018",
    addresses=(
        "https://mcauleylab.ucsd.edu/public_datasets/data/amazon_v2/",
        "https://jmcauley.ucsd.edu/data/amazon_v2/",
        "https://datarepo.eng.ucsd.edu/mcauley_group/data/amazon_v2/",
    ),
    reviews={
        "5-core": Published("categoryFilesSmall/{}_5.json.gz", _REVIEWS),
        "all": Published("categoryFiles/{}.json.gz", _REVIEWS),
        "ratings": Published("categoryFilesSmall/{}.csv", bare_ratings("item", "user", "rating", "time")),
    },
    metadata="metaFiles2/meta_{}.json.gz",
    item="asin",
    columns=("text", "title", "brand", "categories"),
    describe=_described_2018,
)
_EDITION_2023 = Edition(
    name="Amazon 2023",
    folder="amazon-2023",
    addresses=(
        "https://mcauleylab.ucsd.edu/public_datasets/data/amazon_2023/",
        "https://datarepo.eng.ucsd.edu/mcauley_group/data/amazon_2023/",
    ),
    reviews={
        "all": Published(
            "raw/review_categories/{}.jsonl.gz",
            json_reviews(user="user_id", item="parent_asin", time="timestamp", rating="rating"),
        ),
        "5-core": Published("benchmark/5core/rating_only/{}.csv.gz", _RATINGS_2023, within="5core"),
        "0-core": Published("benchmark/0core/rating_only/{}.csv.gz", _RATINGS_2023, within="0core"),
    },
    metadata="raw/meta_categories/meta_{}.jsonl.gz",
    item="parent_asin",
    columns=("text", "title", "store", "categories"),
    describe=_described_2023,
)
