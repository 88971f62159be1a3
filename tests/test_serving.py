"""Parts of `genrec.serving`: components rebuilt from their settings, the search in titles, safe texts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from genrec.baselines import BPR, EASE, GBCE, GRU4Rec, ItemKNN, Popularity, SASRec
from genrec.errors import ArtifactError, InputError, UsageError
from genrec.item_titles import item_titles
from genrec.model import RPG, Gpt, Tiger
from genrec.row_settings import flatten
from genrec.serving.catalog_items import CatalogItems, shortened
from genrec.serving.export_files import read_items
from genrec.serving.rebuilt_components import component_of, nested
from genrec.serving.table_files import safe_for_spreadsheets
from genrec.store import describe
from genrec.types import NO_TEXT
from genrec.workspace import raw_folder

SPECIFICATIONS = [
    Tiger(d_model=32, num_beams=20), Gpt(), RPG(), SASRec(), SASRec(loss=GBCE()), GRU4Rec(), BPR(), EASE(), ItemKNN(decay=0.5),
    Popularity(count_validation=True),
]  # fmt: skip


def settings_of(specification: object) -> dict[str, object]:
    return flatten({"policy": describe(specification, raw_folder(), "policy")})


@pytest.mark.parametrize("specification", SPECIFICATIONS, ids=lambda each: type(each).__name__)
def test_a_specification_is_rebuilt_from_its_settings(specification: object) -> None:
    assert component_of(settings_of(specification), "policy", "row") == specification


@given(st.recursive(st.integers(), lambda below: st.dictionaries(st.text("abc", min_size=1), below, min_size=1), max_leaves=10))
def test_nested_is_the_inverse_of_flatten(description: object) -> None:
    assert nested(flatten({"policy": description}), "policy") == description


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"policy.depth": 3}, ArtifactError, "policy has the setting 'depth', which ItemKNN now lacks"),
        ({"policy.class": "genrec.baselines.itemknn:Nothing"}, ArtifactError, "genrec.baselines.itemknn:Nothing, which this version"),
        ({"policy.class": "genrec.baselines.itemknn:cosine"}, ArtifactError, "expected a dataclass"),
        ({"policy.class": "mine_that_is_absent:Mine"}, UsageError, "a plug-in of your own in the module mine_that_is_absent"),
        ({"policy.fingerprint": "abc"}, UsageError, "which reads files of its own"),
        ({"policy.version": 7}, ArtifactError, "the code of genrec.baselines.itemknn:ItemKNN has changed"),
    ],
)
def test_settings_that_cannot_be_rebuilt(change: dict[str, object], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        component_of(settings_of(ItemKNN()) | change, "policy", "row")


def test_a_setting_that_is_newer_than_the_row_has_its_default() -> None:
    older = {key: value for key, value in settings_of(ItemKNN(decay=0.5)).items() if key != "policy.max_history"}
    assert component_of(older, "policy", "row") == ItemKNN(decay=0.5)


CATALOG = CatalogItems(
    ("1", "02", "Alien", "4", "5", "6"),
    ("Alien", "Alien: Resurrection", "Casablanca (1942)", "The Lion King", "=HYPERLINK(1)\x1b[31m", "The Lion"),
    np.array([3, 9, 1, 0, 2, 1]),
)


def test_an_id_comes_before_a_title_and_a_whole_title_before_its_words() -> None:
    assert CATALOG.number_of("02") == 2
    assert CATALOG.number_of("Alien") == 3  # an id
    assert CATALOG.number_of("title:Alien") == 1  # the whole title
    assert CATALOG.number_of("king lion") == 4
    assert CATALOG.number_of("title:the lion") == 6  # the whole title
    assert CATALOG.number_of("title:1942") == CATALOG.number_of("(1942)") == 3
    assert CATALOG.search("ALIEN") == [1]
    assert CATALOG.search("a") == [2, 1, 3]  # 9, 3 and 1 training interactions
    assert CATALOG.search("  ") == []


def test_words_of_an_item_are_whole_words() -> None:
    """'1' is in 'Number 10', and 'item-1' in 'item-10', as a part of a word; a search finds both."""
    catalog = CatalogItems(("a", "b", "c"), ("Number 10", "my item-10", "Was ist das?"), np.array([2, 1, 1]))
    for text, found in (("1", [1, 2]), ("item-1", [2])):
        assert catalog.search(text) == found
        assert catalog.search(text, whole_words=True) == []
        with pytest.raises(InputError):
            catalog.number_of(text)
    for text, number in (("title:10 number", 1), ("item-10", 2), ("das?", 3), ("das ist", 3), ("?", 3)):
        assert catalog.number_of(text) == number


@given(st.lists(st.text("abdeilt:", min_size=1), min_size=1, max_size=12, unique=True))
def test_every_item_can_be_named_by_its_id(ids: list[str]) -> None:
    """`id:` comes before any id, also one that begins with `title:` or `id:` itself."""
    catalog = CatalogItems(
        (*ids, "title:foo", "id:title:foo", "id:5"), ("one",) * (len(ids) + 3), np.zeros(len(ids) + 3, dtype=np.int64)
    )
    for number, item in enumerate(catalog.ids, start=1):
        assert catalog.number_of(f"id:{item}") == number
    assert catalog.number_of("id:5") == len(ids) + 3  # there is no item 5


def test_an_id_that_begins_with_title_is_told_apart_from_a_search() -> None:
    catalog = CatalogItems(("title:foo", "a", "b"), ("bar", "foo one", "foo two"), np.array([1, 1, 1]))
    assert catalog.number_of("id:title:foo") == 1
    with pytest.raises(
        InputError, match=r"'foo' is in the titles of 2 items[^$]*the item with the id 'title:foo' is named 'id:title:foo'"
    ):
        catalog.number_of("title:foo")
    with pytest.raises(
        InputError, match=r"^id:foo: no item has the id 'foo' among the 3 items of the catalog; items without events and"
    ):
        catalog.number_of("id:foo")  # a word of titles


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("title:the", r"'the' is in the titles of 2 items; give the id of one of them:\n  6  The Lion\n  4  The Lion King"),
        ("li", r"no item has the id 'li', and no title has these words; the nearest titles are:\n  02  Alien: R.*\n  1  Alien\n"),
        ("1942", r"no item has the id '1942'.*; a number is not searched in titles, write 'title:1942' for that"),
        ("casablnca", r"the nearest titles are:\n  Alien  Casablanca \(1942\)$"),
        ("2", "your items have '2', the data have '02': write the ids as text in both"),
        ("zzzz", "no item has the id 'zzzz' among the 6 items"),
    ],
)
def test_texts_that_name_no_single_item(text: str, message: str) -> None:
    catalog = CATALOG if text != "2" else CatalogItems(("02", "x"), ("one", "two"), np.array([1, 1]))
    with pytest.raises(InputError, match=message):
        catalog.number_of(text)


def test_a_mistyped_title_that_ends_like_an_id_gets_the_nearest_titles() -> None:
    catalog = CatalogItems(("item-1", "item-2"), ("Toy Story 1", "Toy Story 2"), np.array([5, 1]))
    with pytest.raises(InputError, match=r"the nearest titles are:\n  item-2  Toy Story 2$"):
        catalog.number_of("Toi Story 2")


def test_a_missing_title_is_never_found(tmp_path: Path) -> None:
    """The stand-in for a missing text holds 'script', and no item has such a word in its title."""
    items = pd.DataFrame({"item_id": list("abcd"), "text": [NO_TEXT, "a text", NO_TEXT, "red kettle"], "title": ["", "", "Pan", " "]})
    titles = item_titles(items)
    assert titles == ["", "a text", "Pan", "red kettle"]
    assert item_titles(items[["item_id", "text"]]) == ["", "a text", "", "red kettle"]
    catalog = CatalogItems(tuple(items["item_id"]), tuple(titles), np.ones(4, dtype=np.int64))
    assert catalog.search("script") == catalog.nearest("script") == catalog.search(NO_TEXT) == []
    assert catalog.described(1) == "a  (no title)"
    pq.write_table(pa.table({"item_id": ["a", "b"], "title": [NO_TEXT, "Pan"], "interactions": [1, 2]}), tmp_path / "items.parquet")
    assert read_items(tmp_path / "items.parquet").titles == ("", "Pan")


def test_cold_items_have_no_training_interaction() -> None:
    assert [CATALOG.is_cold(number) for number in range(1, 6)] == [False, False, False, True, False]


@given(st.text(), st.integers(4, 20))
def test_a_shortened_text_is_one_printable_line(text: str, length: int) -> None:
    found = shortened(text, length)
    assert len(found) <= length
    assert found.isprintable()
    assert shortened(text, 0).isprintable()


def test_titles_are_no_formulas_in_csv() -> None:
    assert [safe_for_spreadsheets(text) for text in ("=1+1", "+1", "-1", "@a", "a=b", "")] == ["'=1+1", "'+1", "'-1", "'@a", "a=b", ""]
