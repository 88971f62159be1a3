"""Small files in the formats of Amazon 2018 and 2023: scraped page code, milliseconds, missing files."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from genrec.data.sources import AmazonReviews2018, AmazonReviews2023
from genrec.errors import InputError, NetworkError, UsageError

SCRIPT = "var aPageStart = (new Date()).getTime();\nvar ue_t0=ue_t0||+new Date();"
STYLE = ".a-box-inner{background-color:#fff}#alohaBuyBoxWidget .selected{background-color:#fffbf3}"
REVIEWS_2018 = [
    {
        "overall": 5.0,
        "reviewerID": "A1",
        "asin": "B1",
        "style": {"Gift Amount:": " 50"},
        "reviewText": 'emoji 🙂 "',
        "unixReviewTime": 9,
    },
    {
        "overall": 5.0,
        "reviewerID": "A1",
        "asin": "B1",
        "style": {"Gift Amount:": " 50"},
        "reviewText": 'emoji 🙂 "',
        "unixReviewTime": 9,
    },
    {"reviewerID": "A🙂", "asin": "0007", "unixReviewTime": 8},
]
METADATA_2018 = [
    {
        "category": ["Gift Cards", "Gift &amp; More"], "description": ["<b>Never</b> expires.", ""], "title": "Card &#39;A&#39;",
        "brand": "Acme", "feature": ["Ships free"], "price": "$25.00", "asin": "B1", "also_buy": ["B2"], "details": {"ASIN: ": "B1"},
    },
    {"category": [], "description": [SCRIPT], "title": SCRIPT, "brand": "", "feature": [], "price": STYLE, "asin": "0007"},
    {"asin": "B1", "title": "again"},
    {"title": "no id"},
]  # fmt: skip


def write_gzip(path: Path, objects: list[dict[str, object]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress("".join(json.dumps(entry, ensure_ascii=False) + "\n" for entry in objects).encode()))


def folder_2018(path: Path) -> Path:
    write_gzip(path / "Gift_Cards_5.json.gz", REVIEWS_2018)
    write_gzip(path / "meta_Gift_Cards.json.gz", METADATA_2018)
    return path


def test_2018(tmp_path: Path) -> None:
    raw = AmazonReviews2018("Gift_Cards", path=folder_2018(tmp_path / "upstream"), max_bad_rows=0.5).load(tmp_path)
    assert raw.interactions["user"].tolist() == ["A1", "A1", "A🙂"]
    assert raw.interactions["item"].tolist() == ["B1", "B1", "0007"]
    assert raw.interactions["time"].tolist() == [9, 9, 8]
    assert raw.interactions["rating"].isna().tolist() == [False, False, True]
    assert raw.items.to_dict("records") == [
        {
            "item": "B1",
            "text": "Card 'A'. brand: Acme. categories: Gift Cards, Gift & More. price: $25.00. Ships free. Never expires",
            "title": "Card 'A'",
            "brand": "Acme",
            "categories": "Gift Cards|Gift & More",
        },
        {"item": "0007", "text": "", "title": "", "brand": "", "categories": ""},  # scripts and style sheets are removed
    ]
    assert raw.set_aside is not None
    assert raw.set_aside.to_numpy().tolist() == [
        ["meta_Gift_Cards.json.gz", 3, "the item has an earlier row; the first row is used"],
        ["meta_Gift_Cards.json.gz", 4, "the item is empty, or neither text nor an integer"],
    ]


def test_2018_ratings_have_the_item_first(tmp_path: Path) -> None:
    (tmp_path / "Gift_Cards.csv").write_text("B001GXRQW0,APV13CM0919JD,1.0,1229644800\n")
    source = AmazonReviews2018("Gift_Cards", reviews="ratings", path=tmp_path, metadata=False)
    assert source.load(tmp_path).interactions.to_dict("records") == [
        {"user": "APV13CM0919JD", "item": "B001GXRQW0", "time": 1229644800, "rating": 1.0}
    ]
    write_gzip(tmp_path / "Gift_Cards.json.gz", REVIEWS_2018[:1])
    assert len(AmazonReviews2018("Gift_Cards", tmp_path, "all", metadata=False).load(tmp_path).interactions) == 1


METADATA_2023 = [
    {
        "main_category": "Video Games", "title": "Pad", "price": 19.5, "features": ["wireless"], "description": ["For <i>two</i>."],
        "store": "Acme", "categories": ["Video Games", "PC"],
        "details": {"Color": "red", "Rank": {"Games": 3}, "Batteries": ["AA", "AAA"]},
        "parent_asin": "B1", "bought_together": None,
    },
    {"main_category": "Books", "title": None, "price": None, "features": [], "categories": [], "details": {}, "parent_asin": "B2"},
]  # fmt: skip


def test_2023(tmp_path: Path) -> None:
    review = {
        "rating": 4.0,
        "title": "t",
        "asin": "B1-RED",
        "parent_asin": "B1",
        "user_id": "AE2",
        "timestamp": 1588687728923,
        "images": [],
    }
    write_gzip(tmp_path / "Video_Games.jsonl.gz", [review])
    write_gzip(tmp_path / "meta_Video_Games.jsonl.gz", METADATA_2023)
    raw = AmazonReviews2023("Video_Games", tmp_path).load(tmp_path)
    assert raw.interactions.to_dict("records") == [{"user": "AE2", "item": "B1", "time": 1588687728923, "rating": 4.0}]
    assert raw.items.to_dict("records") == [
        {
            "item": "B1",
            "text": "Pad. store: Acme. categories: Video Games, PC. price: 19.5. wireless. For two. Color: red; Batteries: AA, AAA",
            "title": "Pad",
            "store": "Acme",
            "categories": "Video Games|PC",
        },
        {"item": "B2", "text": "categories: Books", "title": "", "store": "", "categories": ""},
    ]


def test_2023_benchmark_files_have_the_same_name(tmp_path: Path) -> None:
    for core, count in (("5core", 1), ("0core", 2)):
        path = tmp_path / "upstream" / "benchmark" / core / "rating_only" / "Software.csv.gz"
        path.parent.mkdir(parents=True)
        path.write_bytes(gzip.compress(b"user_id,parent_asin,rating,timestamp\n" + b"U,B1,5.0,1588687728923\n" * count))
    for reviews, count in (("5-core", 1), ("0-core", 2)):
        source = AmazonReviews2023("Software", tmp_path / "upstream", reviews, metadata=False)  # type: ignore[arg-type]
        assert len(source.load(tmp_path).interactions) == count
    (tmp_path / "flat").mkdir()
    (tmp_path / "flat" / "Software.csv").write_text("user_id,parent_asin,rating,timestamp,history\nU,B1,5.0,1588687728923,B2 B3\n")
    assert len(AmazonReviews2023("Software", tmp_path / "flat", "5-core", metadata=False).load(tmp_path).interactions) == 1


@pytest.mark.parametrize(
    ("source", "path", "url"),
    [
        (AmazonReviews2018("Toys"), "amazon-2018/Toys_5.json.gz", "amazon_v2/categoryFilesSmall/Toys_5.json.gz"),
        (AmazonReviews2018("A&B", reviews="all"), "amazon-2018/A&B.json.gz", "amazon_v2/categoryFiles/A%26B.json.gz"),
        (
            AmazonReviews2023("Books", reviews="5-core"),
            "amazon-2023/5core/Books.csv.gz",
            "amazon_2023/benchmark/5core/rating_only/Books.csv.gz",
        ),
        (AmazonReviews2023("Books"), "amazon-2023/Books.jsonl.gz", "amazon_2023/raw/review_categories/Books.jsonl.gz"),
    ],
)  # fmt: skip
def test_the_message_names_the_missing_file_and_its_url(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: AmazonReviews2018, path: str, url: str
) -> None:
    monkeypatch.setenv("GENREC_OFFLINE", "1")
    monkeypatch.delenv("GENREC_MIRROR", raising=False)
    with pytest.raises(NetworkError) as caught:
        source.load(tmp_path)
    assert str(tmp_path / path) in str(caught.value)
    assert f"https://mcauleylab.ucsd.edu/public_datasets/data/{url}" in str(caught.value)


def test_invalid_settings_and_paths(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="reviews must be one of all, 5-core, 0-core"):
        AmazonReviews2023(reviews="ratings")  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"holds no Gift_Cards_5\.json\.gz or Gift_Cards_5\.json"):
        AmazonReviews2018("Gift_Cards", path=tmp_path).load(tmp_path)


def test_metadata_is_optional(tmp_path: Path) -> None:
    path = folder_2018(tmp_path / "upstream")
    with_metadata = AmazonReviews2018("Gift_Cards", path=path).fingerprint(tmp_path)
    (path / "meta_Gift_Cards.json.gz").unlink()
    source = AmazonReviews2018("Gift_Cards", path=path, metadata=False)
    assert source.load(tmp_path).items.to_dict("list") == {"item": [], "text": []}
    assert source.fingerprint(tmp_path) != with_metadata
