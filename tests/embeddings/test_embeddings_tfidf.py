"""TF-IDF vectors: similar titles, determinism, items without text, small vocabularies."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from genrec.embeddings import TfidfSvd, check_vectors
from genrec.errors import InputError, UsageError
from genrec.store import describe, hash_of
from genrec.types import NO_TEXT, ItemEncoder

ROOT = Path.cwd()  # of paths in keys; the encoder has none
NO_INTERACTIONS = pd.DataFrame({"user": [], "item": []})
TITLES = ["rose hand cream", "rose face cream", "hand cream", "steel hair clip", "hair clip gold", "steel clip"]


def items(texts: list[str]) -> pd.DataFrame:
    return pd.DataFrame({"item": [str(place) for place in range(len(texts))], "text": texts})


def test_is_an_item_encoder() -> None:
    assert isinstance(TfidfSvd(), ItemEncoder)


def test_shape_type_and_length() -> None:
    vectors = TfidfSvd(dim=3).encode(items(TITLES), NO_INTERACTIONS)
    assert vectors.shape == (6, 3)
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, rtol=1e-6)


def test_two_dimensions_are_the_two_subjects() -> None:
    """Creams and clips have no common word, so each of the two components is one of the groups, and cosines are 1 or 0."""
    vectors = TfidfSvd(dim=2).encode(items(TITLES), NO_INTERACTIONS)
    same = np.array([[1, 1, 1, 0, 0, 0]] * 3 + [[0, 0, 0, 1, 1, 1]] * 3)
    np.testing.assert_allclose(vectors @ vectors.T, same, atol=1e-6)


def test_full_width_keeps_the_cosines_of_tfidf() -> None:
    """By hand: words a and b occur in 2 of 3 texts and have the same weight; cosine(a, a b) = 1 / sqrt(2), cosine(a, b) = 0."""
    vectors = TfidfSvd(dim=2, max_ngram=1, min_df=1).encode(items(["a", "a b", "b"]), NO_INTERACTIONS)
    half = 2**-0.5
    np.testing.assert_allclose(vectors @ vectors.T, [[1, half, 0], [half, 1, half], [0, half, 1]], atol=1e-6)


def test_same_seed_same_vectors_also_in_another_process() -> None:
    code = (
        "import sys, pandas as pd; from genrec.embeddings import TfidfSvd;"
        f"v = TfidfSvd(dim=3).encode(pd.DataFrame({{'text': {TITLES!r}}}), pd.DataFrame()); sys.stdout.write(v.tobytes().hex())"
    )
    other = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    here = TfidfSvd(dim=3).encode(items(TITLES), NO_INTERACTIONS)
    np.testing.assert_allclose(np.frombuffer(bytes.fromhex(other), np.float32).reshape(6, 3), here, atol=1e-6)
    np.testing.assert_array_equal(TfidfSvd(dim=3).encode(items(TITLES), NO_INTERACTIONS), here)


def test_items_without_usable_text_get_the_mean_direction() -> None:
    with pytest.warns(UserWarning, match="3 of 9 items are without usable text"):
        vectors = TfidfSvd(dim=2).encode(items([*TITLES, "", "!!", "unseen"]), NO_INTERACTIONS)
    mean = vectors[:6].mean(0)
    np.testing.assert_allclose(vectors[6:], np.tile(mean / np.linalg.norm(mean), (3, 1)), atol=1e-6)


def test_a_missing_text_is_an_empty_text() -> None:
    table = items([*TITLES, "x"])
    table.loc[6, "text"] = None
    with pytest.warns(UserWarning, match="1 of 7 items is without usable text: it gets"):
        assert np.isfinite(TfidfSvd(dim=2).encode(table, NO_INTERACTIONS)).all()


def test_a_small_vocabulary_gives_narrower_vectors_and_a_warning() -> None:
    with pytest.warns(UserWarning, match="get 2 dimensions instead of 64: there are no more for 3 items with 2 features"):
        vectors = TfidfSvd(max_ngram=1, min_df=1).encode(items(["a", "a b", "b"]), NO_INTERACTIONS)
    assert vectors.shape == (3, 2)


def test_one_word_and_one_item() -> None:
    with pytest.warns(UserWarning, match="1 dimension instead of 64: there are no more for 1 item with 1 feature"):
        assert TfidfSvd(min_df=1).encode(items(["word"]), NO_INTERACTIONS).tolist() == [[1.0]]


@pytest.mark.parametrize("texts", [["", " "], [NO_TEXT, NO_TEXT]])
def test_items_without_text_are_an_error_that_names_the_encoder_of_interactions(texts: list[str]) -> None:
    with pytest.raises(InputError) as caught:
        TfidfSvd().encode(items(texts), NO_INTERACTIONS)
    expected = "the 2 items have no text: use embed=Collaborative() (genrec.embeddings) or give items a `text` column"
    assert str(caught.value) == expected


def test_texts_without_a_common_word_are_an_error_in_the_words_of_the_specification() -> None:
    """Two of three items have text; scikit-learn's own message speaks of pruning, documents, max_df and stop words."""
    for encoder, texts, found in (
        (TfidfSvd(), ["one", "two", ""], r"no word occurs in the text of 2 or more items, as TfidfSvd\.min_df = 2 requires \(2 of 3"),
        (
            TfidfSvd(min_df=9),
            ["one", "one", ""],
            r"no word .* of 9 or more items, as TfidfSvd\.min_df = 9 requires \(2 of 3 items have text",
        ),
        (TfidfSvd(min_df=1), ["!", "?", ""], r"no text has a word of letters or digits \(2 of 3 items have text, the first is '!'\)"),
    ):
        with pytest.raises(InputError, match=rf"^{found}.*: use embed=Collaborative\(\) \(genrec\.embeddings\)") as caught:
            encoder.encode(items(texts), NO_INTERACTIONS)
        for word in ("prun", "document", "max_df", "stop word", "vocabulary"):
            assert word not in str(caught.value)


def test_a_table_without_text_is_an_error() -> None:
    with pytest.raises(InputError, match=r"columns \['text'\].*\['item'\]"):
        TfidfSvd().encode(pd.DataFrame({"item": ["a"]}), NO_INTERACTIONS)


@pytest.mark.parametrize("field", [{"dim": 0}, {"max_ngram": 0}, {"min_df": 0}, {"seed": -1}, {"seed": 2**32}])
def test_fields_out_of_range_are_an_error(field: dict[str, int]) -> None:
    name, value = next(iter(field.items()))
    with pytest.raises(UsageError, match=rf"TfidfSvd\.{name} must .*, got {value}"):
        TfidfSvd(**field)


@pytest.mark.realdata
def test_beauty_titles(real_data: Path) -> None:
    with gzip.open(real_data / "amazon-2014" / "meta_Beauty.json.gz", "rt") as lines:
        table = pd.DataFrame([json.loads(line) for line in lines])
    table["text"] = table["title"].fillna("")
    with pytest.warns(UserWarning, match="of 12101 items are without usable text"):
        vectors = TfidfSvd().encode(table, NO_INTERACTIONS)
    assert vectors.shape == (12101, 64)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        check_vectors(vectors, table["asin"].tolist())
    perfume = table["text"].str.contains("Eau De Parfum", case=False).to_numpy()
    similarity = vectors @ vectors[perfume].mean(0)
    assert similarity[perfume].mean() > 5 * similarity[~perfume].mean()


def test_the_placeholder_of_the_catalog_is_no_text() -> None:
    """Otherwise the placeholder would be a topic of its own."""
    texts = ["red ink pen", "red ink", "blue ink pen", "blue pen"]
    with pytest.warns(UserWarning, match="2 of 6 items are without usable text"):
        vectors = TfidfSvd(dim=3).encode(pd.DataFrame({"text": [*texts, NO_TEXT, NO_TEXT]}), pd.DataFrame())
    mean = vectors[:4].mean(0)
    np.testing.assert_allclose(vectors[4:], np.stack([mean / np.linalg.norm(mean)] * 2), atol=1e-6)


def test_the_texts_of_the_named_columns_are_joined() -> None:
    """The vectors are those of a catalog with the joined texts; empty cells add nothing, and a list gives the key of a tuple."""
    catalog = pd.DataFrame(
        {
            "text": ["x", "y", "z", "w"],
            "title": ["red lip stick", "blue lip stick", "red nail file", "blue nail file"],
            "brand": ["acme", None, "", "acme"],
        }
    )
    joined = pd.DataFrame({"text": ["red lip stick acme", "blue lip stick", "red nail file", "blue nail file acme"]})
    found = TfidfSvd(dim=3, columns=["title", "brand"])  # type: ignore[arg-type]
    np.testing.assert_array_equal(found.encode(catalog, NO_INTERACTIONS), TfidfSvd(dim=3).encode(joined, NO_INTERACTIONS))
    assert hash_of(describe(found, ROOT)) == hash_of(describe(TfidfSvd(dim=3, columns=("title", "brand")), ROOT))
    assert describe(TfidfSvd(), ROOT) == describe(TfidfSvd(columns=("text",)), ROOT)
    assert "columns" not in str(describe(TfidfSvd(), ROOT))  # artifacts that are older than the field keep their keys


def test_columns_that_are_missing_or_none_are_refused() -> None:
    catalog = pd.DataFrame({"text": ["a b", "b c"]})
    with pytest.raises(InputError, match=r"TfidfSvd needs the items' columns \['title'\], got the columns \['text'\]"):
        TfidfSvd(columns=("title",)).encode(catalog, NO_INTERACTIONS)
    with pytest.raises(UsageError, match=r'TfidfSvd\.columns must name at least one column, as in \("title", "text"\), got \(\)'):
        TfidfSvd(columns=())
    with pytest.raises(UsageError, match=r"TfidfSvd\.columns must name at least one column.*got 'title'"):
        TfidfSvd(columns="title")  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"the 2 items have no text: .* or give items a `title` or `brand` column"):
        TfidfSvd(columns=("title", "brand")).encode(pd.DataFrame({"title": ["", None], "brand": [None, " "]}), NO_INTERACTIONS)
