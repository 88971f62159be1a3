"""The default item encoder: texts if enough items have text, else interactions; which one it used is logged."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from genrec.embeddings import Collaborative, TextOrInteractions, TfidfSvd
from genrec.embeddings.tfidf import NoSharedWords
from genrec.errors import InputError, UsageError
from genrec.experiment import Experiment
from genrec.testing import Cyclic
from genrec.testing.encoder_checks import check_encoder
from genrec.types import NO_TEXT, ItemEncoder, ResumableEncoder

TITLES = ["rose hand cream", "rose face cream", "hand cream", "steel hair clip", "hair clip gold", "steel clip"]
EVENTS = pd.DataFrame({"user": [1, 1, 1, 2, 2, 2, 3, 3], "item": [1, 2, 3, 4, 5, 6, 1, 4]})


def items(texts: list[Any]) -> pd.DataFrame:
    return pd.DataFrame({"item_id": [str(place) for place in range(len(texts))], "text": texts})


def test_texts_are_encoded_to_the_bit_as_by_the_encoder_of_texts(capsys: pytest.CaptureFixture[str]) -> None:
    default = TextOrInteractions(text=TfidfSvd(dim=3))
    np.testing.assert_array_equal(default.encode(items(TITLES), EVENTS), TfidfSvd(dim=3).encode(items(TITLES), EVENTS))
    assert "6 of 6 items have text, at least 50%: TfidfSvd encodes the texts" in capsys.readouterr().err


@pytest.mark.parametrize("empty", ["", "  ", NO_TEXT, None])
def test_half_of_the_items_with_text_are_enough_and_fewer_are_not(empty: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """3 of 6 items are encoded by their text, 2 of 6 by the interactions."""
    default = TextOrInteractions(text=TfidfSvd(dim=2, min_df=1), interactions=Collaborative(dim=2))
    half, less = items([*TITLES[:3], *[empty] * 3]), items([*TITLES[:2], *[empty] * 4])
    with pytest.warns(UserWarning, match="3 of 6 items are without usable text"):
        np.testing.assert_array_equal(default.encode(half, EVENTS), default.text.encode(half, EVENTS))
    capsys.readouterr()
    np.testing.assert_array_equal(default.encode(less, EVENTS), Collaborative(dim=2).encode(less, EVENTS))
    assert "2 of 6 items have text, less than 50%: Collaborative encodes the training interactions" in capsys.readouterr().err


def test_a_catalog_without_a_text_column_is_encoded_by_interactions() -> None:
    table = items(TITLES).drop(columns="text")
    found = TextOrInteractions(interactions=Collaborative(dim=2)).encode(table, EVENTS)
    np.testing.assert_array_equal(found, Collaborative(dim=2).encode(table, EVENTS))


@pytest.mark.parametrize("prices", [["12.50", "7", "3.99", "12.50", "1_000", "-4"], ["12.50. 7"] * 6, ["¥ 20", "€ 30"] * 3])
def test_numbers_alone_are_no_texts(prices: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    default, table = TextOrInteractions(interactions=Collaborative(dim=2)), items(prices)
    np.testing.assert_array_equal(default.encode(table, EVENTS), Collaborative(dim=2).encode(table, EVENTS))
    assert "0 of 6 items have text, less than 50%: Collaborative encodes" in capsys.readouterr().err


def test_a_title_of_letters_in_any_script_is_a_text(capsys: pytest.CaptureFixture[str]) -> None:
    table = items(["мыло 1", "мыло 2", "せっけん 1", "せっけん 2", "1984 été", "été 2"])
    found = TextOrInteractions(text=TfidfSvd(dim=2)).encode(table, EVENTS)
    np.testing.assert_array_equal(found, TfidfSvd(dim=2).encode(table, EVENTS))
    assert "6 of 6 items have text" in capsys.readouterr().err


def test_texts_without_a_shared_word_are_encoded_by_interactions(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    default, table = TextOrInteractions(interactions=Collaborative(dim=2)), items([f"sku{place}" for place in range(6)])
    expected = Collaborative(dim=2).encode(table, EVENTS)
    np.testing.assert_array_equal(default.encode(table, EVENTS), expected)
    line = "the texts have no words that relate items, so Collaborative encodes the training interactions instead"
    assert capsys.readouterr().err.count(line) == 1
    np.testing.assert_array_equal(default.encode_into(table, EVENTS, tmp_path), expected)


def test_other_errors_of_the_encoder_of_texts_are_raised() -> None:
    with pytest.raises(InputError, match="Broken"):
        TextOrInteractions(text=Broken()).encode(items(TITLES), EVENTS)
    with pytest.raises(NoSharedWords, match="no word occurs"):
        TextOrInteractions(interactions=TfidfSvd()).encode(items(["a", "1", "2"]), EVENTS)


@dataclass(frozen=True)
class Broken:
    """An encoder that refuses every catalog."""

    def encode(self, items: pd.DataFrame, interactions: pd.DataFrame) -> np.ndarray:
        raise InputError("Broken")


@dataclass(frozen=True)
class Resumable:
    """An encoder that writes into its folder."""

    def encode(self, items: pd.DataFrame, interactions: pd.DataFrame) -> np.ndarray:
        return np.ones((len(items), 2), np.float32)

    def encode_into(self, items: pd.DataFrame, interactions: pd.DataFrame, folder: Path) -> np.ndarray:
        folder.mkdir(parents=True)
        (folder / "work").touch()
        return 2 * self.encode(items, interactions)


def test_a_resumable_encoder_gets_the_folder(tmp_path: Path) -> None:
    encoder = TextOrInteractions(text=Resumable(), interactions=Collaborative(dim=2))
    assert isinstance(encoder, ResumableEncoder)
    assert encoder.encode_into(items(TITLES), EVENTS, tmp_path / "checkpoint").max() == 2
    assert (tmp_path / "checkpoint" / "work").exists()
    bare = items([""] * 6)
    np.testing.assert_array_equal(encoder.encode_into(bare, EVENTS, tmp_path / "other"), Collaborative(dim=2).encode(bare, EVENTS))


def test_it_keeps_the_contract_and_is_the_default() -> None:
    check_encoder(TextOrInteractions(text=TfidfSvd(dim=4, min_df=1), interactions=Collaborative(dim=4)))
    assert Experiment(name="mine", source=Cyclic()).embed == TextOrInteractions()
    assert isinstance(TextOrInteractions(), ItemEncoder)


@pytest.mark.parametrize("fields", [{"text": TfidfSvd}, {"interactions": "Collaborative"}, {"min_share": 0.0}, {"min_share": 1.5}])
def test_fields_that_are_no_encoder_or_no_share_are_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=rf"TextOrInteractions\.{next(iter(fields))} must .*, got "):
        TextOrInteractions(**fields)
