"""The default item encoder: texts if enough items have text, else interactions; which one it used is logged."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from genrec.embeddings import Collaborative, TextOrInteractions, TfidfSvd
from genrec.errors import UsageError
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
