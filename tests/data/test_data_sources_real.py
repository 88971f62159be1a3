"""Sources on real data: published counts, the published order of Beauty, rows that are set aside."""

from __future__ import annotations

import gzip
from pathlib import Path

import pandas as pd
import pytest

from genrec.data.sources import AmazonReviews2014, AmazonReviews2018, Frames, MovieLens
from genrec.types import RawTables

pytestmark = pytest.mark.realdata


def counts(raw: RawTables) -> tuple[int, int, int, int]:
    """Return the numbers of events, users, items with events, and items; no row may be set aside."""
    assert raw.set_aside is not None
    assert not len(raw.set_aside)
    return len(raw.interactions), raw.interactions["user"].nunique(), raw.interactions["item"].nunique(), len(raw.items)


def test_movielens_100k(real_data: Path, tmp_path: Path) -> None:
    raw = MovieLens("100k", path=real_data / "movielens" / "ml-100k.zip").load(tmp_path)
    assert counts(raw) == (100_000, 943, 1_682, 1_682)
    assert raw.items["text"][0] == "Toy Story (1995). Animation, Children's, Comedy"
    assert raw.items["title"].str.contains("é").any()  # Latin-1
    assert list(tmp_path.iterdir()) == []  # nothing is unpacked


def test_movielens_1m_ratings_of_four_and_more(real_data: Path, tmp_path: Path) -> None:
    raw = MovieLens("1m", path=real_data / "movielens" / "ml-1m-ge4.zip").load(tmp_path)
    assert counts(raw) == (575_281, 6_038, 3_533, 3_883)
    assert raw.interactions["rating"].min() == 4
    assert raw.interactions["user"].iloc[[0, -1]].tolist() == ["1", "6040"]  # in the order of the file


def test_beauty_keeps_the_published_order(real_data: Path, tmp_path: Path) -> None:
    folder = real_data / "amazon-2014"
    raw = AmazonReviews2014("Beauty", path=folder).load(tmp_path)
    assert counts(raw) == (198_502, 22_363, 12_101, 12_101)
    assert (raw.items["title"] == "").sum() == 7
    assert "rating" not in raw.interactions
    id_map = pd.read_csv(folder / "Beauty_id_map.csv.gz", dtype=str, keep_default_na=False)
    user_name, item_name = (id_map[id_map["kind"] == kind].set_index("s3rec_id")["amazon_id"].to_dict() for kind in ("user", "item"))
    rows = raw.interactions.sort_values("time", kind="stable")
    sequences = {user: items.tolist() for user, items in rows.groupby("user")["item"]}
    with gzip.open(folder / "Beauty.txt.gz", "rt") as file:
        assert sequences == {user_name[user]: [item_name[item] for item in items] for user, *items in map(str.split, file)}


def test_gift_cards_2018(real_data: Path, tmp_path: Path) -> None:
    raw = AmazonReviews2018("Gift_Cards", path=real_data / "amazon-2018").load(tmp_path)
    assert counts(raw) == (2_972, 458, 148, 1_547)
    assert raw.interactions.duplicated().sum() == 3
    assert set(raw.interactions["item"]) <= set(raw.items["item"])
    assert raw.items["text"][0].startswith("Serendipity 3 $100.00 Gift Card. brand: Serendipity 3. categories: Gift Cards. ")
    assert (raw.items["text"] != "").all()
    assert not raw.items["text"].str.contains(r"getTime\(|background-color|&amp;|&#", regex=True).any()


def test_frames_and_amazon_read_the_same(real_data: Path, tmp_path: Path) -> None:
    frame = pd.read_json(real_data / "amazon-2018" / "Gift_Cards_5.json.gz", lines=True)
    names = {"reviewerID": "user", "asin": "item", "unixReviewTime": "time", "overall": "rating"}
    interactions = Frames(frame.rename(columns=names)).load(tmp_path).interactions
    pd.testing.assert_frame_equal(
        interactions, AmazonReviews2018("Gift_Cards", path=real_data / "amazon-2018").load(tmp_path).interactions, check_dtype=False
    )
