"""Real data: published counts, and the published order of Beauty."""

from __future__ import annotations

import gzip
from pathlib import Path

import pandas as pd
import pytest
import torch

from genrec.data.catalog import NO_TEXT
from genrec.data.corpus_builder import prepare
from genrec.data.examples import examples
from genrec.data.sources import AmazonReviews2014, Frames, MovieLens
from genrec.data.splits import LeaveOneOut

pytestmark = pytest.mark.realdata


def test_movielens_100k(real_data: Path, tmp_path: Path) -> None:
    raw = MovieLens("100k", path=real_data / "movielens" / "ml-100k.zip").load(tmp_path)
    assert len(raw.items) == 1682
    assert raw.items["text"][0] == "Toy Story (1995). Animation, Children's, Comedy"
    assert raw.items["title"].str.contains("é").any()  # Latin-1
    corpus = prepare(raw, LeaveOneOut(core=0))
    assert (corpus.user_count, corpus.item_count, len(corpus.interactions)) == (943, 1682, 100_000)
    assert corpus.statistics["parts"] == {"train": 98_114, "validation": 943, "test": 943}
    assert corpus.statistics["repeated_events_dropped"] == 0
    assert not len(corpus.set_aside)
    assert list(tmp_path.iterdir()) == []  # nothing is unpacked


def test_movielens_1m_ratings_of_four_and_more(real_data: Path, tmp_path: Path) -> None:
    raw = MovieLens("1m", path=real_data / "movielens" / "ml-1m-ge4.zip").load(tmp_path)
    assert (len(raw.interactions), raw.interactions["user"].nunique(), raw.interactions["item"].nunique()) == (575_281, 6_038, 3_533)
    assert len(raw.items) == 3_883
    assert raw.interactions["rating"].min() == 4
    corpus = prepare(raw, LeaveOneOut(core=0))
    assert corpus.statistics["metadata_without_events"] == 350
    assert corpus.statistics["removed_by_filter"] == {"users with 3 events or more": {"interactions": 5, "users": 3, "items": 0}}


def test_beauty_has_the_published_counts_and_order(real_data: Path, tmp_path: Path) -> None:
    folder = real_data / "amazon-2014"
    corpus = prepare(AmazonReviews2014("Beauty", path=folder).load(tmp_path), LeaveOneOut(core=5))
    assert (corpus.user_count, corpus.item_count, len(corpus.interactions)) == (22_363, 12_101, 198_502)
    assert corpus.statistics["repeated_events_dropped"] == 0
    assert 0.42 < corpus.statistics["share_of_users_with_tied_last_events"] < 0.44
    assert (corpus.items["title"] == "").sum() == 7
    assert NO_TEXT not in set(corpus.items["text"])  # the seven items without a title have categories
    assert not corpus.items["text"].str.contains("&amp;|&#", regex=True).any()

    names = pd.read_csv(folder / "Beauty_id_map.csv.gz", dtype=str, keep_default_na=False)
    user_name, item_name = (names[names["kind"] == kind].set_index("s3rec_id")["amazon_id"].to_dict() for kind in ("user", "item"))
    rows = corpus.interactions.assign(item_id=corpus.items["item_id"].to_numpy()[corpus.interactions["item"] - 1])
    ours = {corpus.user_ids[user - 1]: items.tolist() for user, items in rows.groupby("user")["item_id"]}
    with gzip.open(folder / "Beauty.txt.gz", "rt") as file:
        published = {user_name[user]: [item_name[item] for item in items] for user, *items in map(str.split, file)}
    assert len(published) == 22_363
    assert ours == published


def test_no_history_of_beauty_has_a_future_item(real_data: Path, tmp_path: Path) -> None:
    corpus = prepare(AmazonReviews2014(path=real_data / "amazon-2014").load(tmp_path), LeaveOneOut())
    train, test = examples(corpus, "train", 20), examples(corpus, "test", 20)
    assert len(train) == 198_502 - 3 * 22_363  # one target per prefix of length 1 or more
    run, position = train.places(torch.arange(len(train)))
    assert bool((train.begin[run] < position).all())
    last = torch.tensor(corpus.interactions.groupby("user").cumcount(ascending=False).to_numpy())
    assert int(last[position].min()) == 2  # two later events of the user are held out
    assert bool((test.users == torch.arange(1, 22_364)).all())
    batch = test.batch(torch.arange(len(test)))
    assert not (batch.history == batch.target[:, None]).any()  # no test item is in its user's history


def test_an_upstream_file_as_a_frame(real_data: Path, tmp_path: Path) -> None:
    frame = pd.read_json(real_data / "amazon-2018" / "Gift_Cards_5.json.gz", lines=True)
    names = {"reviewerID": "user", "asin": "item", "unixReviewTime": "time", "overall": "rating"}
    corpus = prepare(Frames(frame.rename(columns=names)).load(tmp_path), LeaveOneOut(core=0))
    assert corpus.statistics["repeated_events_dropped"] == 3
