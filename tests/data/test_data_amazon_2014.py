"""Small files in the format of Amazon 2014: JSON and Python literals, missing ratings, damage, three files of interactions."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from genrec.data.readers.time_texts import UNREADABLE
from genrec.data.sources import AmazonReviews2014
from genrec.errors import InputError, NetworkError, UsageError
from genrec.types import Source

REVIEWS = [{"reviewerID": "A1", "asin": f"B{number:03}", "unixReviewTime": 1_365_984_000 + number} for number in range(200)]
METADATA = (
    '{"asin": "B000", "title": "Soap &amp; Oil", "categories": [["Beauty", "Bath"], ["Beauty", "Oils"]]}',
    "{'asin': 'B001', 'title': 'L\\'eau', 'price': 12.5, 'brand': 'Prada', 'description': '<b>Fine</b>.', 'categories': [['Beauty']]}",
    '{"asin": "B002", "categories": [["Beauty"]]}',
    '{"asin": "B003"}',
)


def folder(path: Path, reviews: list[str] | None = None, metadata: tuple[str, ...] = METADATA) -> Path:
    path.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps(review) for review in REVIEWS] if reviews is None else reviews
    (path / "reviews_Toys_5.json.gz").write_bytes(gzip.compress("\n".join(lines).encode("utf-8", "surrogatepass"), mtime=0))
    (path / "meta_Toys.json.gz").write_bytes(gzip.compress("\n".join(metadata).encode(), mtime=0))
    return path


def test_item_texts(tmp_path: Path) -> None:
    source = AmazonReviews2014("Toys", path=folder(tmp_path / "upstream"))
    assert isinstance(source, Source)
    items = source.load(tmp_path).items
    assert items.to_dict("records") == [
        {
            "item": "B000",
            "text": "Soap & Oil. categories: Beauty, Bath, Oils",
            "title": "Soap & Oil",
            "brand": "",
            "categories": "Beauty|Bath|Oils",
        },
        {
            "item": "B001",
            "text": "L'eau. brand: Prada. categories: Beauty. price: 12.5. Fine",
            "title": "L'eau",
            "brand": "Prada",
            "categories": "Beauty",
        },
        {"item": "B002", "text": "categories: Beauty", "title": "", "brand": "", "categories": "Beauty"},
        {"item": "B003", "text": "", "title": "", "brand": "", "categories": ""},
    ]


def test_all_or_some_ratings_may_be_missing(tmp_path: Path) -> None:
    without = AmazonReviews2014("Toys", path=folder(tmp_path / "a")).load(tmp_path).interactions
    assert list(without.columns) == ["user", "item", "time"]
    lines = [json.dumps({**review, "overall": 4.0} if number else review) for number, review in enumerate(REVIEWS)]
    some = AmazonReviews2014("Toys", path=folder(tmp_path / "b", lines)).load(tmp_path).interactions
    assert some["rating"].isna().tolist()[:2] == [True, False]
    assert some["rating"].count() == 199


def test_rows_without_user_item_or_time_are_set_aside(tmp_path: Path) -> None:
    lines = [json.dumps(review) for review in REVIEWS]
    lines[2] = json.dumps({"asin": "B1", "unixReviewTime": 5})
    lines[4] = json.dumps({"reviewerID": "A1", "asin": "B1", "unixReviewTime": None})
    raw = AmazonReviews2014("Toys", path=folder(tmp_path / "upstream", lines)).load(tmp_path)
    assert raw.set_aside is not None
    assert raw.set_aside[["line", "reason"]].to_numpy().tolist() == [
        [3, "the user is empty, or neither text nor an integer"],
        [5, UNREADABLE],
    ]
    assert len(raw.interactions) == 198
    lines[6] = '{"reviewerID": "\ud800", "asin": "B1", "unixReviewTime": 5}'
    with pytest.raises(InputError, match=r"3 of 200 rows \(1\.5%\)"):
        AmazonReviews2014("Toys", path=folder(tmp_path / "upstream", lines)).load(tmp_path)
    assert len(AmazonReviews2014("Toys", path=tmp_path / "upstream", max_bad_rows=0.02).load(tmp_path).interactions) == 197


def test_the_first_row_of_an_item_is_used(tmp_path: Path) -> None:
    path = folder(tmp_path / "upstream", metadata=('{"asin": "B1", "title": "first"}', '{"asin": "B1", "title": "second"}'))
    _, items, set_aside = AmazonReviews2014("Toys", path=path).load(tmp_path)
    assert items["title"].tolist() == ["first"]
    assert set_aside is not None
    assert set_aside["reason"].tolist() == ["the item has an earlier row; the first row is used"]


def test_a_truncated_file_is_an_error(tmp_path: Path) -> None:
    path = folder(tmp_path / "upstream") / "reviews_Toys_5.json.gz"
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(InputError, match=r"reviews_Toys_5\.json\.gz is damaged.*past line \d+"):
        AmazonReviews2014("Toys", path=path.parent).load(tmp_path)


def test_all_reviews_and_ratings(tmp_path: Path) -> None:
    path = folder(tmp_path / "upstream")
    (path / "reviews_Toys.json").write_text(
        '{"reviewerID": "A1", "asin": "B000", "overall": 4.0, "unixReviewTime": 9, "helpful": [0, 0]}\n'
    )
    (path / "ratings_Toys.csv").write_text("A1,0078764343,5.0,1377302400\nA2,nan,4.0,1372896000\nA2,nan,4.0,1372896000\n")
    reviews = AmazonReviews2014("Toys", reviews="all", path=path).load(tmp_path).interactions
    assert reviews.to_dict("records") == [{"user": "A1", "item": "B000", "time": 9, "rating": 4.0}]
    raw = AmazonReviews2014("Toys", reviews="ratings", path=path, metadata=False).load(tmp_path)
    assert raw.interactions.to_numpy().tolist() == [
        ["A1", "0078764343", 1377302400, 5.0],
        ["A2", "nan", 1372896000, 4.0],
        ["A2", "nan", 1372896000, 4.0],  # repeats stay; the corpus builder counts them
    ]
    assert raw.items.to_dict("list") == {"item": [], "text": []}


def test_unpacked_files_are_read(tmp_path: Path) -> None:
    path = folder(tmp_path / "upstream")
    packed = AmazonReviews2014("Toys", path=path).load(tmp_path)
    for file in list(path.iterdir()):
        file.with_suffix("").write_bytes(gzip.decompress(file.read_bytes()))
        file.unlink()
    assert AmazonReviews2014("Toys", path=path).load(tmp_path).items.equals(packed.items)
    path.rename(tmp_path / "amazon-2014")  # in the folder of downloaded files
    assert AmazonReviews2014("Toys").load(tmp_path).interactions.equals(packed.interactions)


def test_invalid_paths_and_categories(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GENREC_OFFLINE", "1")
    monkeypatch.delenv("GENREC_MIRROR", raising=False)
    path = folder(tmp_path / "upstream")
    with pytest.raises(InputError, match=r"is a file; --source\.path must be the folder"):
        AmazonReviews2014("Toys", path=path / "meta_Toys.json.gz").load(tmp_path)
    with pytest.raises(InputError, match="holds no reviews_Beauty_5"):
        AmazonReviews2014(path=path).load(tmp_path)
    with pytest.raises(NetworkError, match=r"https://snap\.stanford\.edu/.*/reviews_Beauty_5\.json\.gz") as caught:
        AmazonReviews2014().load(tmp_path)
    assert str(tmp_path / "amazon-2014" / "reviews_Beauty_5.json.gz") in str(caught.value)
    for category in ("../Beauty", "Beauty/..", "", "-x", "a\\b", "*"):
        with pytest.raises(UsageError, match="category"):
            AmazonReviews2014(category)
    with pytest.raises(UsageError, match="reviews must be one of 5-core, all, ratings, got '0-core'"):
        AmazonReviews2014(reviews="0-core")  # type: ignore[arg-type]


def test_the_fingerprint_ignores_the_path(tmp_path: Path) -> None:
    first, second = (AmazonReviews2014("Toys", path=folder(tmp_path / name)).fingerprint(tmp_path) for name in "ab")
    folder(tmp_path / "amazon-2014")
    assert first == second == AmazonReviews2014("Toys").fingerprint(tmp_path)
    changed = folder(tmp_path / "c", metadata=METADATA[:2])
    assert AmazonReviews2014("Toys", path=changed).fingerprint(tmp_path) != first
