"""Amazon product reviews of 2014, 2018 and 2023, one category at a time, as published by J. McAuley's group.

Items have a title, a brand (2023: a store) and categories. Times are whole days in 2014 and 2018, and milliseconds in 2023.
Interactions keep the order of the file (in 2014: ascending ASIN), which breaks ties as in the published sequences. The data have no
license.

J. McAuley et al., "Image-based Recommendations on Styles and Substitutes" (2015).
J. Ni et al., "Justifying Recommendations using Distantly-Labeled Reviews and Fine-Grained Aspects" (2019).
Y. Hou et al., "Bridging Language and Items for Retrieval and Recommendation" (2024).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from genrec.data.readers import event_tables
from genrec.data.readers.item_text import flat_text, is_page_code, sentences, text_parts
from genrec.data.sources.amazon_files import CategoryFiles, Edition, ReviewFile, csv_ratings, csv_ratings_with_header, json_reviews
from genrec.input_files import normalize_paths, optional_path
from genrec.types import RawStream, RawTables


@dataclass(frozen=True)
class AmazonReviews2014:
    """Reviews of one category from 1996 to 2014, and the metadata of its items."""

    category: str = "Beauty"  # name in the upstream files: Beauty, Sports_and_Outdoors, Toys_and_Games, ...
    path: Path | str | None = None  # folder with the files, each .gz or unpacked; None: downloaded to amazon-2014
    reviews: Literal["5-core", "all", "ratings"] = "5-core"  # published file to read; "ratings" has all ratings without texts
    metadata: bool = True  # False: read only interactions; items have no text
    max_bad_rows: float = 0.01  # largest share of malformed rows of a file, 0 to 1

    def __post_init__(self) -> None:
        normalize_paths(self, "path")
        self._files.check()

    def stream(self, root: Path) -> RawStream:
        """Return interactions and items as streams of tables."""
        return self._files.stream(root)

    def load(self, root: Path) -> RawTables:
        """Read reviews and metadata into memory."""
        return event_tables.load_stream(self.stream(root))

    def fingerprint(self, root: Path) -> str:
        """Return a hash of the category and the content of the files."""
        return self._files.fingerprint(root)

    @property
    def _files(self) -> CategoryFiles:
        return CategoryFiles(_EDITION_2014, self.category, self.reviews, optional_path(self.path), self.metadata, self.max_bad_rows)


@dataclass(frozen=True)
class AmazonReviews2018:
    """Reviews of one category from 1996 to 2018, and the metadata of its items."""

    category: str = "All_Beauty"  # name in the upstream files: Office_Products, Arts_Crafts_and_Sewing, Gift_Cards, ...
    path: Path | str | None = None  # folder with the files, each .gz or unpacked; None: downloaded to amazon-2018
    reviews: Literal["5-core", "all", "ratings"] = "5-core"  # published file to read; "ratings" has all ratings without texts
    metadata: bool = True  # False: read only interactions; items have no text
    max_bad_rows: float = 0.01  # largest share of malformed rows of a file, 0 to 1

    def __post_init__(self) -> None:
        normalize_paths(self, "path")
        self._files.check()

    def stream(self, root: Path) -> RawStream:
        """Return interactions and items as streams of tables."""
        return self._files.stream(root)

    def load(self, root: Path) -> RawTables:
        """Read reviews and metadata into memory."""
        return event_tables.load_stream(self.stream(root))

    def fingerprint(self, root: Path) -> str:
        """Return a hash of the category and the content of the files."""
        return self._files.fingerprint(root)

    @property
    def _files(self) -> CategoryFiles:
        return CategoryFiles(_EDITION_2018, self.category, self.reviews, optional_path(self.path), self.metadata, self.max_bad_rows)


@dataclass(frozen=True)
class AmazonReviews2023:
    """Reviews of one category from 1996 to 2023, and the metadata of its items. An item is a parent ASIN with all its variants."""

    category: str = "All_Beauty"  # name in the upstream files: Video_Games, Industrial_and_Scientific, Musical_Instruments, ...
    path: Path | str | None = None  # folder with the files, each .gz or unpacked; None: downloaded to amazon-2023
    reviews: Literal["all", "5-core", "0-core"] = "all"  # published file to read; 5-core and 0-core hold the benchmark's ratings
    metadata: bool = True  # False: read only interactions; items have no text
    max_bad_rows: float = 0.01  # largest share of malformed rows of a file, 0 to 1

    def __post_init__(self) -> None:
        normalize_paths(self, "path")
        self._files.check()

    def stream(self, root: Path) -> RawStream:
        """Return interactions and items as streams of tables."""
        return self._files.stream(root)

    def load(self, root: Path) -> RawTables:
        """Read reviews and metadata into memory."""
        return event_tables.load_stream(self.stream(root))

    def fingerprint(self, root: Path) -> str:
        """Return a hash of the category and the content of the files."""
        return self._files.fingerprint(root)

    @property
    def _files(self) -> CategoryFiles:
        return CategoryFiles(_EDITION_2023, self.category, self.reviews, optional_path(self.path), self.metadata, self.max_bad_rows)


def _item_fields_2014(metadata: Mapping[str, Any]) -> dict[str, str]:
    title, brand = flat_text(metadata.get("title")), flat_text(metadata.get("brand"))
    categories = text_parts(metadata.get("categories"))
    text = sentences(
        ("", title),
        ("brand", brand),
        ("categories", ", ".join(categories)),
        ("price", flat_text(metadata.get("price"))),
        ("", flat_text(metadata.get("description"))),
    )
    return {"text": text, "title": title, "brand": brand, "categories": "|".join(categories)}


def _item_fields_2018(metadata: Mapping[str, Any]) -> dict[str, str]:
    texts = {name: [text for text in text_parts(metadata.get(name)) if not is_page_code(text)] for name in _FIELDS_2018}
    title, brand = " ".join(texts["title"]), " ".join(texts["brand"])
    text = sentences(
        ("", title),
        ("brand", brand),
        ("categories", ", ".join(texts["category"])),
        ("price", " ".join(texts["price"])),
        ("", " ".join(texts["feature"])),
        ("", " ".join(texts["description"])),
    )
    return {"text": text, "title": title, "brand": brand, "categories": "|".join(texts["category"])}


def _item_fields_2023(metadata: Mapping[str, Any]) -> dict[str, str]:
    title, store = flat_text(metadata.get("title")), flat_text(metadata.get("store"))
    categories = text_parts(metadata.get("categories"))
    details = metadata.get("details")
    named = [(flat_text(name), flat_text(value, ", ")) for name, value in details.items()] if isinstance(details, dict) else []
    text = sentences(
        ("", title),
        ("store", store),
        ("categories", ", ".join(categories or text_parts(metadata.get("main_category")))),
        ("price", flat_text(metadata.get("price"))),
        ("", flat_text(metadata.get("features"))),
        ("", flat_text(metadata.get("description"))),
        ("", "; ".join(f"{name}: {value}" for name, value in named if value)),
    )
    return {"text": text, "title": title, "store": store, "categories": "|".join(categories)}


_FIELDS_2018 = ("title", "brand", "category", "price", "feature", "description")
_REVIEWS = json_reviews(user="reviewerID", item="asin", time="unixReviewTime", rating="overall")
_RATINGS_2023 = csv_ratings_with_header(user="user_id", item="parent_asin", time="timestamp", rating="rating")
_EDITION_2014 = Edition(
    name="Amazon 2014",
    download_folder="amazon-2014",
    base_urls=(
        "https://snap.stanford.edu/data/amazon/productGraph/categoryFiles/",
        "https://mcauleylab.ucsd.edu/public_datasets/data/amazon/categoryFiles/",
    ),
    reviews={
        "5-core": ReviewFile("reviews_{}_5.json.gz", _REVIEWS),
        "all": ReviewFile("reviews_{}.json.gz", _REVIEWS),
        "ratings": ReviewFile("ratings_{}.csv", csv_ratings("user", "item", "rating", "time")),
    },
    metadata="meta_{}.json.gz",
    item_field="asin",
    columns=("text", "title", "brand", "categories"),
    item_fields=_item_fields_2014,
    python_literals=True,
)
_EDITION_2018 = Edition(
    name="Amazon 2018",
    download_folder="amazon-2018",
    base_urls=(
        "https://mcauleylab.ucsd.edu/public_datasets/data/amazon_v2/",
        "https://jmcauley.ucsd.edu/data/amazon_v2/",
        "https://datarepo.eng.ucsd.edu/mcauley_group/data/amazon_v2/",
    ),
    reviews={
        "5-core": ReviewFile("categoryFilesSmall/{}_5.json.gz", _REVIEWS),
        "all": ReviewFile("categoryFiles/{}.json.gz", _REVIEWS),
        "ratings": ReviewFile("categoryFilesSmall/{}.csv", csv_ratings("item", "user", "rating", "time")),
    },
    metadata="metaFiles2/meta_{}.json.gz",
    item_field="asin",
    columns=("text", "title", "brand", "categories"),
    item_fields=_item_fields_2018,
)
_EDITION_2023 = Edition(
    name="Amazon 2023",
    download_folder="amazon-2023",
    base_urls=(
        "https://mcauleylab.ucsd.edu/public_datasets/data/amazon_2023/",
        "https://datarepo.eng.ucsd.edu/mcauley_group/data/amazon_2023/",
    ),
    reviews={
        "all": ReviewFile(
            "raw/review_categories/{}.jsonl.gz",
            json_reviews(user="user_id", item="parent_asin", time="timestamp", rating="rating"),
        ),
        "5-core": ReviewFile("benchmark/5core/rating_only/{}.csv.gz", _RATINGS_2023, folder="5core"),
        "0-core": ReviewFile("benchmark/0core/rating_only/{}.csv.gz", _RATINGS_2023, folder="0core"),
    },
    metadata="raw/meta_categories/meta_{}.jsonl.gz",
    item_field="parent_asin",
    columns=("text", "title", "store", "categories"),
    item_fields=_item_fields_2023,
)
