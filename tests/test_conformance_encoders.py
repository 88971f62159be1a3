"""The checks of item encoders: the built-in ones pass, and each violation of the contract is an error that names it."""

from __future__ import annotations

import random
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from numpy import ndarray
from pandas import DataFrame

from genrec.data.catalog import NO_TEXT
from genrec.embeddings import Collaborative, Concatenated, Item2Vec, Precomputed, TfidfSvd
from genrec.errors import InputError, UsageError
from genrec.testing.encoder_checks import check_encoder, encoder_world
from genrec.testing.specification_checks import ContractError

CALLS = count()


def letters(items: DataFrame) -> ndarray:
    """Return a 1 and the counts of three letters, float32 [N, 4]."""
    return np.array([[1, *(text.count(letter) for letter in "aes")] for text in items["text"]], dtype=np.float32)


@dataclass(frozen=True)
class Letters:
    """A valid encoder."""

    def encode(self, items: DataFrame, interactions: DataFrame) -> ndarray:
        return letters(items)


@dataclass(frozen=True)
class Resumable(Letters):
    """A valid resumable encoder."""

    def encode_into(self, items: DataFrame, interactions: DataFrame, folder: Path) -> ndarray:
        folder.mkdir(parents=True, exist_ok=True)
        if not (folder / "work.npy").exists():
            np.save(folder / "work.npy", letters(items))
        return np.load(folder / "work.npy")


@dataclass(frozen=True)
class Constant(Letters):
    """A valid encoder with the same vector for all items."""

    def encode(self, items: DataFrame, interactions: DataFrame) -> ndarray:
        return np.ones((len(items), 3), np.float32)


@dataclass(frozen=True)
class Invalid(Letters):
    """An encoder that modifies the vectors of a valid one."""

    def encode(self, items: DataFrame, interactions: DataFrame) -> ndarray:
        return self.modify(letters(items), items, interactions)

    def modify(self, vectors: ndarray, items: DataFrame, interactions: DataFrame) -> Any:
        raise NotImplementedError


def invalid(message: str) -> Callable[[Callable[[ndarray, DataFrame, DataFrame], Any]], Any]:
    """Turn a function that modifies vectors into a test case: an invalid encoder and the expected message."""

    def case(modify: Callable[[ndarray, DataFrame, DataFrame], Any]) -> Any:
        kind = type(modify.__name__, (Invalid,), {"modify": lambda self, *args: modify(*args), "__module__": __name__})
        return pytest.param(dataclass(frozen=True)(kind)(), message, id=modify.__name__)

    return case


@invalid(r"float32 \[36, D\], one row per item, got float64 \[36, 4\]")
def doubles(vectors: ndarray, items: DataFrame, interactions: DataFrame) -> Any:
    return vectors.astype(float)


@invalid(r"got float32 \[35, 4\]")
def too_few_rows(vectors: ndarray, items: DataFrame, interactions: DataFrame) -> Any:
    return vectors[:-1]


@invalid(r"got float32 \[37, 4\]")
def too_many_rows(vectors: ndarray, items: DataFrame, interactions: DataFrame) -> Any:
    return np.concatenate([vectors[:1], vectors])


@invalid("got Tensor")
def tensors(vectors: ndarray, items: DataFrame, interactions: DataFrame) -> Any:
    return torch.from_numpy(vectors)


@invalid(r"2 of 36 item vectors are NaN: items '034', '035'; .*give it the mean")
def nan_without_text(vectors: ndarray, items: DataFrame, interactions: DataFrame) -> Any:
    vectors[items["text"] == NO_TEXT] = np.nan
    return vectors


@invalid("1 of 36 item vectors are all-zero: items '035'")
def zero_without_interactions(vectors: ndarray, items: DataFrame, interactions: DataFrame) -> Any:
    return vectors * np.isin(np.arange(1, 37), interactions["item"])[:, None]


@invalid("a second call gives item '000' another vector, with a difference of up to .*; take randomness from a seed")
def unseeded(vectors: ndarray, items: DataFrame, interactions: DataFrame) -> Any:
    return vectors + np.random.default_rng().random(vectors.shape, np.float32)


@invalid("a second call gives shape")
def growing(vectors: ndarray, items: DataFrame, interactions: DataFrame) -> Any:
    return np.repeat(vectors, 1 + next(CALLS), axis=1)


@invalid("torch's global generator was drawn from or seeded")
def torch_seeded(vectors: ndarray, items: DataFrame, interactions: DataFrame) -> Any:
    torch.manual_seed(next(CALLS))
    return vectors


@invalid("NumPy's global generator was drawn from or seeded")
def numpy_drawn(vectors: ndarray, items: DataFrame, interactions: DataFrame) -> Any:
    np.random.rand()  # noqa: NPY002
    return vectors


@invalid("Python's global generator was drawn from or seeded")
def python_drawn(vectors: ndarray, items: DataFrame, interactions: DataFrame) -> Any:
    random.random()
    return vectors


@invalid("the items were modified")
def filled_in(vectors: ndarray, items: DataFrame, interactions: DataFrame) -> Any:
    items["length"] = items["text"].str.len()
    return vectors


@invalid("the interactions were modified")
def sorted_in_place(vectors: ndarray, items: DataFrame, interactions: DataFrame) -> Any:
    interactions.sort_values("item", inplace=True)  # noqa: PD002
    return vectors


@invalid("row 1, which was the vector of item '000', is now that of '035'; derive a vector from its item")
def by_position(vectors: ndarray, items: DataFrame, interactions: DataFrame) -> Any:
    return np.random.default_rng(0).random((len(items), 4), np.float32)


@invalid(r"encoding 36 items with 360 events raised KeyError\('brand'\)")
def another_column(vectors: ndarray, items: DataFrame, interactions: DataFrame) -> Any:
    return items["brand"]


class NoDataclass:
    """An encoder that is no dataclass."""

    def encode(self, items: DataFrame, interactions: DataFrame) -> ndarray:
        return letters(items)


@dataclass(frozen=True)
class Pathed(Letters):
    """An encoder with a path and without a fingerprint."""

    path: Path = Path("file")


@dataclass(frozen=True)
class UnstableFingerprint(Letters):
    """An encoder with another fingerprint in every call."""

    def fingerprint(self, root: Path) -> str:
        return str(next(CALLS))


@dataclass(frozen=True)
class OtherInto(Resumable):
    """An encoder with other vectors in `encode_into`."""

    def encode_into(self, items: DataFrame, interactions: DataFrame, folder: Path) -> ndarray:
        return letters(items) * 2


@dataclass(frozen=True)
class NewFolderOnly(Resumable):
    """An encoder that fails if its folder exists."""

    def encode_into(self, items: DataFrame, interactions: DataFrame, folder: Path) -> ndarray:
        folder.mkdir(parents=True)
        return letters(items)


@dataclass(frozen=True)
class WritesOutside(Resumable):
    """An encoder that writes outside its folder."""

    def encode_into(self, items: DataFrame, interactions: DataFrame, folder: Path) -> ndarray:
        folder.parent.mkdir(parents=True, exist_ok=True)
        (folder.parent / "cache").touch()
        return letters(items)


@pytest.mark.parametrize(
    "encoder",
    [
        Letters(),
        Resumable(),
        Constant(),
        TfidfSvd(dim=8, min_df=1),
        Collaborative(dim=8),
        Item2Vec(dim=8, epochs=2),
        Concatenated((TfidfSvd(dim=4), Collaborative(dim=4), Resumable()), (1.0, 0.5, 2.0)),
    ],
    ids=lambda encoder: type(encoder).__name__,
)
def test_valid_encoders_pass_without_a_warning(encoder: Any) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_encoder(encoder)


def test_precomputed_vectors_pass_on_a_custom_catalog(tmp_path: Path) -> None:
    items, interactions = encoder_world()
    pd.DataFrame({"item_id": items["item_id"], "vector": letters(items).tolist()})[::-1].to_parquet(tmp_path / "v.parquet")
    check_encoder(Precomputed(tmp_path / "v.parquet"), items, interactions)
    with pytest.raises(InputError, match="no vector of any"):
        check_encoder(Precomputed(tmp_path / "v.parquet"), items.assign(item_id=items["item_id"] + "x"), interactions)


@pytest.mark.parametrize(
    ("encoder", "message"),
    [
        doubles,
        too_few_rows,
        too_many_rows,
        tensors,
        nan_without_text,
        zero_without_interactions,
        unseeded,
        growing,
        torch_seeded,
        numpy_drawn,
        python_drawn,
        filled_in,
        sorted_in_place,
        by_position,
        another_column,
        (Letters, "pass an instance"),
        (NoDataclass(), "is not a frozen dataclass"),
        (object(), "does not implement ItemEncoder"),
        (Pathed(), r"Pathed\.path is a .*Path, .*give it a method fingerprint\(root\) -> str"),
        (UnstableFingerprint(), r"fingerprint\(root\) must depend on content alone"),
        (OtherInto(), "encode_into gives item '000' another vector"),
        (NewFolderOnly(), "raised FileExistsError"),
        (WritesOutside(), r"left \['cache'\] outside its folder"),
    ],
)
def test_each_violation_has_its_message(encoder: Any, message: str) -> None:
    with pytest.raises(ContractError, match=message):
        check_encoder(encoder)


def test_the_world_has_items_without_text_and_without_interactions() -> None:
    """Two items have the placeholder as text, and one of them has no interaction; each user has one kind of item."""
    items, interactions = encoder_world()
    assert (items["text"] == NO_TEXT).tolist() == [False] * 34 + [True] * 2
    assert 36 not in interactions["item"].to_numpy()
    assert (interactions.groupby("user")["item"].agg(lambda row: (row % 3).nunique()) == 1).all()
    assert interactions.equals(interactions.sort_values(["user", "time"]))


def test_incomplete_and_too_small_worlds_are_an_error() -> None:
    items, interactions = encoder_world()
    with pytest.raises(UsageError, match="together"):
        check_encoder(Letters(), items)
    with pytest.raises(InputError, match="too small"):
        check_encoder(Letters(), items[:1], interactions)
