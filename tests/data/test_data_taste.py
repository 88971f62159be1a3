"""The world `Taste`: its statistics, what its tables hold, its edge cases, and its oracle against simulation and by hand."""

from __future__ import annotations

import math
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import chisquare

from genrec.data.corpus import Corpus
from genrec.data.corpus_builder import prepare
from genrec.data.splits import HoldOutLast, LeaveOneOut
from genrec.data.worlds import Taste, best_metrics
from genrec.data.worlds.taste import model_of
from genrec.data.worlds.taste_model import BRANDS, CATEGORIES, CELLS
from genrec.data.worlds.taste_oracle import Exposure, accuracy_of_pairs, first_liked_item, gain, uniform_exposure
from genrec.errors import UsageError
from genrec.testing import check_source
from genrec.types import RatedSource, Source

LABELS = HoldOutLast(n=10, liked=4, disliked=2)


def corpus_of(world: Taste, split: HoldOutLast | LeaveOneOut = LABELS) -> Corpus:
    return prepare(world.load(Path()), split)


def test_it_is_a_source_with_ratings(tmp_path: Path) -> None:
    world = Taste(num_items=64, num_users=20)
    assert isinstance(world, Source)
    assert isinstance(world, RatedSource)
    assert world.has_ratings()
    check_source(world, tmp_path)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_events_hold_dislikes_and_ratings_of_every_kind(seed: int) -> None:
    raw = Taste(seed=seed).load(Path())
    rating = raw.interactions["rating"]
    assert set(rating) == {1.0, 2.0, 3.0, 4.0, 5.0}
    assert rating.value_counts(normalize=True).min() > 0.05
    assert 0.15 < (rating <= 2).mean() < 0.45
    assert 0.30 < (rating >= 4).mean() < 0.55
    assert rating.std() > 1
    by_user = (rating <= 2).groupby(raw.interactions["user"]).mean()
    assert (by_user > 0).mean() > 0.9  # nearly every user has a dislike ...
    mean_of_item = rating.groupby(raw.interactions["item"]).transform("mean")
    assert np.corrcoef(mean_of_item, rating)[0, 1] < 0.4  # ... which is a matter of the user, not of the item
    counts = raw.interactions["item"].value_counts()
    assert counts.iloc[0] > 5 * counts.iloc[-1]  # some items are popular


def test_the_tables_hold_no_latent_parameter() -> None:
    """The columns are those of any data set, and the texts name the attributes of the items alone."""
    world = Taste(num_users=50)
    raw = world.load(Path())
    assert list(raw.interactions) == ["user", "item", "time", "rating"]
    assert list(raw.items) == ["item", "text", "title", "brand", "categories"]
    assert raw.items.equals(Taste(num_users=50, seed=1).load(Path()).items)  # whatever the users like
    assert raw.items.equals(replace(world, num_users=60, chosen=0.9).load(Path()).items)
    assert not hasattr(world, "oracle")
    assert {field.name for field in fields(world)} >= {"num_items", "num_users", "seed"}


def test_texts_name_the_category_and_the_brand() -> None:
    items = Taste().load(Path()).items
    assert items["text"].nunique() == len(items) == Taste().num_items
    cell = np.arange(len(items)) % CELLS
    assert items.groupby(cell)[["brand", "categories"]].nunique().eq(1).to_numpy().all()
    assert items["brand"].nunique() == BRANDS
    assert items["categories"].nunique() == len(CATEGORIES)
    assert all(row.brand in row.text and row.categories.split("|")[1] in row.text for row in items.itertuples())


def test_a_world_is_a_function_of_its_fields() -> None:
    world = Taste(num_users=40)
    first, again, other = (made.load(Path()) for made in (world, replace(world), replace(world, seed=1)))
    assert first.interactions.equals(again.interactions)
    assert first.items.equals(again.items)
    assert not first.interactions.equals(other.interactions)


@pytest.mark.parametrize(("users", "items"), [(1, 64), (2, 65), (7, 300)])
def test_few_users_and_items_that_fill_no_grid(users: int, items: int) -> None:
    world = Taste(num_users=users, num_items=items, min_length=12, max_length=13)
    raw = world.load(Path())
    assert raw.interactions["user"].nunique() == users
    assert len(raw.items) == items
    assert set(raw.interactions["item"]) <= set(raw.items["item"])
    corpus = corpus_of(world, replace(LABELS, core=0))
    found = best_metrics(world, corpus)
    assert found.target_users <= users
    assert found.pair_users <= users
    assert math.isnan(found.pairwise_accuracy) == (found.pair_users == 0)
    np.testing.assert_allclose(model_of(world).models.sum(0), 1)


def test_settings_are_checked() -> None:
    for wrong in (
        {"num_items": 63}, {"num_users": 0}, {"min_length": 2}, {"max_length": 19}, {"chosen": 1.1}, {"chosen": -0.1}, {"seed": -1},
        {"randomized": -1}, {"randomized": 21},
        {"rating_noise": 0.0}, {"rating_noise": math.inf},
    ):  # fmt: skip
        with pytest.raises(UsageError, match=next(iter(wrong))):
            Taste(**wrong)  # type: ignore[arg-type]


def test_probabilities_agree_with_simulated_events() -> None:
    """One user's 200,000 next events: cells, items and ratings have the probabilities that the oracle reads."""
    world = Taste(num_users=3, num_items=150, seed=4)
    model, draws = model_of(world), 200_000
    users, last = np.full(draws, 1), np.full(draws, 5)
    events = model.simulate(users, last, 1, np.random.default_rng(0))
    item, rating = events.items[:, 0], events.ratings[:, 0]
    expected = model.next_cell(users[:1], last[:1])[0]
    np.testing.assert_allclose(expected.sum(), 1)
    np.testing.assert_allclose(np.bincount(item, minlength=150) / draws, expected[model.item_cell] * model.within_cell, atol=0.004)
    cell = int(np.bincount(item % CELLS).argmax())
    for lowest, highest in ((1, 2), (3, 3), (4, 5), (1, 5), (2.5, 3.5)):
        share = ((rating >= lowest) & (rating <= highest))[item % CELLS == cell].mean()
        assert share == pytest.approx(model.rating_probability(lowest, highest)[1, cell], abs=0.015)


def test_the_first_liked_event_agrees_with_simulation() -> None:
    """Of 100,000 continuations of five events, the shares of the cells of the first liked event, and of none."""
    world = Taste(num_users=2, num_items=64, seed=5, chosen=0.2)
    model, draws = model_of(world), 100_000
    events = model.simulate(np.zeros(draws, dtype=int), np.full(draws, 9), 5, np.random.default_rng(1))
    liked = events.ratings >= 4
    first = events.items[np.arange(draws), liked.argmax(1)][liked.any(1)]
    shop = Exposure(model.next_cell(np.zeros(CELLS, dtype=int), np.arange(CELLS)), model.within_cell)
    found = first_liked_item([shop] * 5, model.rating_probability(4, 5)[0], 9, model.item_cell)
    np.testing.assert_allclose(np.bincount(first, minlength=64) / draws, found, atol=0.005)
    assert found.sum() == pytest.approx(liked.any(1).mean(), abs=0.005)


def test_the_first_liked_event_by_hand() -> None:
    """Two cells, liked with .5 and 0: after cell 0, .4 * .5 at once, and (.4 * .5 * .4 + .6 * .2) * .5 a step later.

    Cell 0 has two items with the probabilities .75 and .25 where the shop shows. In a randomized period cell 0 has two of three items.
    """
    shop = Exposure(np.array([[0.4, 0.6], [0.2, 0.8]]), np.array([0.75, 1.0, 0.25]))
    uniform = Exposure(np.array([[2 / 3, 1 / 3], [2 / 3, 1 / 3]]), np.array([0.5, 1.0, 0.5]))
    like, cell = np.array([0.5, 0.0]), np.array([0, 1, 0])
    np.testing.assert_allclose(first_liked_item([shop, shop], like, 0, cell), [0.3 * 0.75, 0.0, 0.3 * 0.25])
    np.testing.assert_allclose(first_liked_item([shop], like, 1, cell), [0.1 * 0.75, 0.0, 0.1 * 0.25])
    np.testing.assert_allclose(first_liked_item([uniform], like, 1, cell), [1 / 6, 0.0, 1 / 6])
    # After one shown event from cell 0 nothing is liked yet with .4 * .5 + .6 = .8; the next item is any with 1/3.
    np.testing.assert_allclose(first_liked_item([shop, uniform], like, 0, cell), [0.2 * 0.75 + 0.8 / 6, 0.0, 0.2 * 0.25 + 0.8 / 6])


def test_a_randomized_period_replaces_the_last_events_alone() -> None:
    """The events before it, all times and all users are those of the world without it."""
    world = Taste(num_users=80, min_length=12, max_length=20)
    plain, mixed = (made.load(Path()).interactions for made in (world, replace(world, randomized=5)))
    assert plain[["user", "time"]].equals(mixed[["user", "time"]])
    from_last = plain.groupby("user").cumcount(ascending=False)
    before = from_last >= 5
    assert plain[before].equals(mixed[before])
    changed = (plain["item"] != mixed["item"])[~before]
    assert len(changed) == 80 * 5
    assert changed.mean() > 0.9  # an item is drawn again by chance alone
    everything = replace(world, randomized=12).load(Path()).interactions
    assert (everything["item"] == plain["item"])[from_last >= 12].all()


@pytest.mark.parametrize("items", [64, 150])
def test_a_randomized_period_shows_all_items_alike(items: int) -> None:
    """A chi-square test of 20,000 events: no item is shown more than another, whatever its popularity, and no user sees other items."""
    world = Taste(num_items=items, num_users=2000, min_length=10, max_length=14, randomized=10, seed=3)
    events = world.load(Path()).interactions
    shown = events[events.groupby("user").cumcount(ascending=False) < 10]
    counts = shown["item"].value_counts().reindex([f"item-{number}" for number in range(items)], fill_value=0)
    assert chisquare(counts).pvalue > 0.001
    taste = model_of(world).value[
        shown["user"].str.removeprefix("user-").astype(int), shown["item"].str.removeprefix("item-").astype(int) % 64
    ]
    assert taste.mean() == pytest.approx(model_of(world).value[:, np.arange(items) % 64].mean(), abs=0.02)  # no choice either
    before = events[events.groupby("user").cumcount(ascending=False) >= 10]["item"].value_counts()
    assert chisquare(before).pvalue < 1e-6  # the shop does not show all items alike


def test_ratings_of_a_randomized_period_follow_the_taste() -> None:
    """Of 20,000 ratings, the shares of likes and dislikes in each tenth of the users' values are the model's probabilities."""
    world = Taste(num_items=64, num_users=1000, min_length=20, max_length=20, randomized=20, seed=2)
    events, model = world.load(Path()).interactions, model_of(world)
    user, item = (events[name].str.split("-").str[1].astype(int).to_numpy() for name in ("user", "item"))
    rating = events["rating"].to_numpy()
    tenth = np.argsort(np.argsort(model.value[user, item])) * 10 // len(events)
    for lowest, highest in ((1, 2), (4, 5)):
        expected = model.rating_probability(lowest, highest)[user, item]
        found = (rating >= lowest) & (rating <= highest)
        for part in range(10):
            assert found[tenth == part].mean() == pytest.approx(expected[tenth == part].mean(), abs=0.045)


def test_pairs_and_gains_by_hand() -> None:
    """Liked 3 and 1 against disliked 2 and 1: three wins of four with a tie, (2 + .5) / 4."""
    label = np.array([1, 1, -1, -1, 0])
    assert accuracy_of_pairs(np.array([3.0, 1.0, 2.0, 1.0, 9.0]), label) == pytest.approx(2.5 / 4)
    assert math.isnan(accuracy_of_pairs(np.array([3.0]), np.array([1])))
    scores = np.array([0.4, 0.3, 0.2, 0.1])
    assert gain(scores, 0, 2) == 1
    assert gain(scores, 1, 2) == pytest.approx(1 / math.log2(3))
    assert gain(scores, 2, 2) == 0
    assert gain(np.array([0.4, 0.2, 0.2, 0.2]), 2, 3) == pytest.approx((1 / math.log2(3) + 1 / 2 + 0) / 3)  # ranks 2, 3 and 4


@pytest.mark.parametrize("part", ["validation", "test"])
def test_no_other_ranking_is_better(part: str) -> None:
    """The oracle's rankings beat popularity, the likelihood of the next item, and the oracle of other users' tastes."""
    world = Taste(num_users=600)
    corpus = corpus_of(world)
    best = best_metrics(world, corpus, part)
    assert 0.9 < best.pairwise_accuracy < 1
    assert best.pair_users > 200
    others = best_metrics(replace(world, seed=1), corpus, part)  # the same events, other tastes
    assert 0.4 < others.pairwise_accuracy < 0.6
    assert best.ndcg > 1.5 * others.ndcg
    assert best.liked_likelihood_ndcg == best.ndcg  # no held-out event is randomized
    assert best.liked_likelihood_pairwise_accuracy < best.pairwise_accuracy
    assert best.likelihood_ndcg < best.ndcg - 0.01  # the true probabilities of the next event rank worse ...
    assert best.likelihood_pairwise_accuracy < best.pairwise_accuracy - 0.1  # ... and dislikes among likes


def test_in_a_randomized_period_the_likes_alone_rank_best() -> None:
    """True likes, likes as the shop shows them, and all events as the shop shows them: in this order, far apart."""
    world = Taste(num_items=128, num_users=600, chosen=0.0, min_length=40, max_length=50, randomized=20)
    best = best_metrics(world, corpus_of(world, HoldOutLast(n=20, liked=5, disliked=3)))
    assert best.target_users > 300
    assert best.ndcg > best.liked_likelihood_ndcg + 0.03 > best.likelihood_ndcg + 0.06
    assert best.pairwise_accuracy > best.liked_likelihood_pairwise_accuracy + 0.02 > best.likelihood_pairwise_accuracy + 0.3
    assert best.likelihood_pairwise_accuracy == pytest.approx(0.5, abs=0.05)  # nothing is chosen: what is shown says nothing of likes


def test_labels_are_needed() -> None:
    world = Taste(num_users=200)
    with pytest.raises(UsageError, match=r"split\.liked"):
        best_metrics(world, corpus_of(world, LeaveOneOut(core=0)))
    with pytest.raises(UsageError, match="validation or test, got 'train'"):
        best_metrics(world, corpus_of(world), "train")
