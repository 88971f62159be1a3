"""The checks of item encoders: the built-in ones pass, and every way to break the contract is named."""

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
    """How often each of three letters occurs, and a one."""
    return np.array([[1, *(text.count(letter) for letter in "aes")] for text in items["text"]], dtype=np.float32)


@dataclass(frozen=True)
class Letters:
    """A good encoder."""

    def encode(self, items: DataFrame, interactions: DataFrame) -> ndarray:
        return letters(items)


@dataclass(frozen=True)
class Kept(Letters):
    """Keeps its work."""

    def encode_into(self, items: DataFrame, interactions: DataFrame, folder: Path) -> ndarray:
        folder.mkdir(parents=True, exist_ok=True)
        if not (folder / "work.npy").exists():
            np.save(folder / "work.npy", letters(items))
        return np.load(folder / "work.npy")


@dataclass(frozen=True)
class Same(Letters):
    """Says nothing of anything, which is allowed."""

    def encode(self, items: DataFrame, interactions: DataFrame) -> ndarray:
        return np.ones((len(items), 3), np.float32)


@dataclass(frozen=True)
class Worse(Letters):
    """Does something to a good answer."""

    def encode(self, items: DataFrame, interactions: DataFrame) -> ndarray:
        return self.spoil(letters(items), items, interactions)

    def spoil(self, vectors: ndarray, items: DataFrame, interactions: DataFrame) -> Any:
        raise NotImplementedError


def worse(said: str) -> Callable[[Callable[[ndarray, DataFrame, DataFrame], Any]], Any]:
    """An encoder with that fault, and what must be said of it."""

    def made(spoil: Callable[[ndarray, DataFrame, DataFrame], Any]) -> Any:
        kind = type(spoil.__name__, (Worse,), {"spoil": lambda self, *parts: spoil(*parts), "__module__": __name__})
        return pytest.param(dataclass(frozen=True)(kind)(), said, id=spoil.__name__)

    return made


@worse(r"float32 \[36, D\], one row an item, got float64 \[36, 4\]")
def doubles(vectors: ndarray, items: DataFrame, interactions: DataFrame) -> Any:
    return vectors.astype(float)


@worse(r"got float32 \[35, 4\]")
def one_short(vectors: ndarray, items: DataFrame, interactions: DataFrame) -> Any:
    return vectors[:-1]


@worse(r"got float32 \[37, 4\]")
def with_a_row_for_none(vectors: ndarray, items: DataFrame, interactions: DataFrame) -> Any:
    return np.concatenate([vectors[:1], vectors])


@worse("got Tensor")
def tensors(vectors: ndarray, items: DataFrame, interactions: DataFrame) -> Any:
    return torch.from_numpy(vectors)


@worse(r"2 of 36 item vectors are NaN: items '034', '035'; .*give it the mean")
def nothing_known(vectors: ndarray, items: DataFrame, interactions: DataFrame) -> Any:
    vectors[items["text"] == NO_TEXT] = np.nan
    return vectors


@worse("1 of 36 item vectors are all-zero: items '035'")
def never_taken(vectors: ndarray, items: DataFrame, interactions: DataFrame) -> Any:
    return vectors * np.isin(np.arange(1, 37), interactions["item"])[:, None]


@worse("a second call gives item 1 another vector, up to .* off; take randomness from a seed")
def drawn(vectors: ndarray, items: DataFrame, interactions: DataFrame) -> Any:
    return vectors + np.random.default_rng().random(vectors.shape, np.float32)


@worse("a second call gives shape")
def growing(vectors: ndarray, items: DataFrame, interactions: DataFrame) -> Any:
    return np.repeat(vectors, 1 + next(CALLS), axis=1)


@worse("torch's global generator was drawn from or seeded")
def torch_seeded(vectors: ndarray, items: DataFrame, interactions: DataFrame) -> Any:
    torch.manual_seed(next(CALLS))
    return vectors


@worse("NumPy's global generator was drawn from or seeded")
def numpy_drawn(vectors: ndarray, items: DataFrame, interactions: DataFrame) -> Any:
    np.random.rand()  # noqa: NPY002
    return vectors


@worse("Python's global generator was drawn from or seeded")
def python_drawn(vectors: ndarray, items: DataFrame, interactions: DataFrame) -> Any:
    random.random()
    return vectors


@worse("the items were modified")
def filled_in(vectors: ndarray, items: DataFrame, interactions: DataFrame) -> Any:
    items["length"] = items["text"].str.len()
    return vectors


@worse("the interactions were modified")
def sorted_in_place(vectors: ndarray, items: DataFrame, interactions: DataFrame) -> Any:
    interactions.sort_values("item", inplace=True)  # noqa: PD002
    return vectors


@worse("row 1, first of item '000', is now of '035'; derive a vector from its item")
def by_position(vectors: ndarray, items: DataFrame, interactions: DataFrame) -> Any:
    return np.random.default_rng(0).random((len(items), 4), np.float32)


@worse(r"encoding 36 items with 360 events raised KeyError\('brand'\)")
def another_column(vectors: ndarray, items: DataFrame, interactions: DataFrame) -> Any:
    return items["brand"]


class Loose:
    """No dataclass."""

    def encode(self, items: DataFrame, interactions: DataFrame) -> ndarray:
        return letters(items)


@dataclass(frozen=True)
class Pathed(Letters):
    """Has a path and no fingerprint."""

    path: Path = Path("file")


@dataclass(frozen=True)
class Fickle(Letters):
    """Has another fingerprint every time."""

    def fingerprint(self, root: Path) -> str:
        return str(next(CALLS))


@dataclass(frozen=True)
class Other(Kept):
    """Gives something else when it may keep its work."""

    def encode_into(self, items: DataFrame, interactions: DataFrame, folder: Path) -> ndarray:
        return letters(items) * 2


@dataclass(frozen=True)
class Forgetful(Kept):
    """Cannot stand its own folder."""

    def encode_into(self, items: DataFrame, interactions: DataFrame, folder: Path) -> ndarray:
        folder.mkdir(parents=True)
        return letters(items)


@dataclass(frozen=True)
class Littering(Kept):
    """Writes beside its folder."""

    def encode_into(self, items: DataFrame, interactions: DataFrame, folder: Path) -> ndarray:
        folder.parent.mkdir(parents=True, exist_ok=True)
        (folder.parent / "cache").touch()
        return letters(items)


@pytest.mark.parametrize(
    "encoder",
    [
        Letters(),
        Kept(),
        Same(),
        TfidfSvd(dim=8, min_df=1),
        Collaborative(dim=8),
        Item2Vec(dim=8, epochs=2),
        Concatenated((TfidfSvd(dim=4), Collaborative(dim=4), Kept()), (1.0, 0.5, 2.0)),
    ],
    ids=lambda encoder: type(encoder).__name__,
)
def test_good_encoders_pass_in_silence(encoder: Any) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_encoder(encoder)


def test_stored_vectors_pass_on_a_catalog_of_ones_own(tmp_path: Path) -> None:
    items, interactions = encoder_world()
    pd.DataFrame({"item_id": items["item_id"], "vector": letters(items).tolist()})[::-1].to_parquet(tmp_path / "v.parquet")
    check_encoder(Precomputed(tmp_path / "v.parquet"), items, interactions)
    with pytest.raises(InputError, match="no vector of any"):
        check_encoder(Precomputed(tmp_path / "v.parquet"), items.assign(item_id=items["item_id"] + "x"), interactions)


@pytest.mark.parametrize(
    ("encoder", "said"),
    [
        doubles,
        one_short,
        with_a_row_for_none,
        tensors,
        nothing_known,
        never_taken,
        drawn,
        growing,
        torch_seeded,
        numpy_drawn,
        python_drawn,
        filled_in,
        sorted_in_place,
        by_position,
        another_column,
        (Letters, "pass an instance"),
        (Loose(), "is not a frozen dataclass"),
        (object(), "does not implement ItemEncoder"),
        (Pathed(), r"Pathed\.path is a .*Path, .*give it a method fingerprint\(root\) -> str"),
        (Fickle(), r"fingerprint\(root\) must depend on content alone"),
        (Other(), "encode_into gives item 1 another vector"),
        (Forgetful(), "raised FileExistsError"),
        (Littering(), r"left \['cache'\] beside its folder"),
    ],
)
def test_every_broken_encoder_is_told_what_is_wrong(encoder: Any, said: str) -> None:
    with pytest.raises(ContractError, match=said):
        check_encoder(encoder)


def test_the_world_holds_what_encoders_stumble_over() -> None:
    """Two items with the catalog's placeholder for a text, one of them never taken; users keep to one kind of item."""
    items, interactions = encoder_world()
    assert (items["text"] == NO_TEXT).tolist() == [False] * 34 + [True] * 2
    assert 36 not in interactions["item"].to_numpy()
    assert (interactions.groupby("user")["item"].agg(lambda row: (row % 3).nunique()) == 1).all()
    assert interactions.equals(interactions.sort_values(["user", "time"]))


def test_refuses_half_a_world_and_one_that_is_too_small() -> None:
    items, interactions = encoder_world()
    with pytest.raises(UsageError, match="together"):
        check_encoder(Letters(), items)
    with pytest.raises(InputError, match="too small"):
        check_encoder(Letters(), items[:1], interactions)
