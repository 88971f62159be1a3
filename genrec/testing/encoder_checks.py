"""The checks of item encoders. In: an encoder, and a catalog with training interactions. Out: nothing, or a `ContractError`."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy import ndarray
from pandas import DataFrame

from genrec.embeddings.vector_checks import check_vectors
from genrec.errors import GenrecError, InputError, UsageError
from genrec.progress import say
from genrec.store import describe
from genrec.testing.plugin_watch import check_no_global_draws
from genrec.testing.specification_checks import ContractError, check_specification
from genrec.types import NO_TEXT, ItemEncoder, ResumableEncoder

GROUPS = {
    "care": ("rose", "aloe", "cream", "lotion", "soft", "skin"),
    "hair": ("steel", "clip", "brush", "comb", "curl", "band"),
    "scent": ("amber", "musk", "perfume", "spray", "night", "glass"),
}
ITEMS, USERS, TAKEN = 36, 60, 6  # of the world that encoders are checked on


def encoder_world(seed: int = 0) -> tuple[DataFrame, DataFrame]:
    """A small catalog of three kinds of items, and training interactions of users who each keep to one kind.

    The last item but one has no text, only the catalog's placeholder, and the last one has none either and was never taken.
    """
    source, kinds = np.random.default_rng(seed), list(GROUPS)
    kind = [kinds[item % len(kinds)] for item in range(ITEMS)]
    texts = [" ".join([name, *source.choice(GROUPS[name], 3, replace=False)]) for name in kind]
    texts[-2:] = [NO_TEXT] * 2
    items = DataFrame({"item_id": [f"{item:03}" for item in range(ITEMS)], "text": texts, "title": [*texts[:-2], "", ""]})
    groups = [[item + 1 for item in range(ITEMS - 1) if kind[item] == name] for name in kinds]
    taken = [source.choice(groups[user % len(kinds)], TAKEN, replace=False) for user in range(USERS)]
    interactions = {"user": np.repeat(np.arange(1, USERS + 1), TAKEN), "item": np.concatenate(taken), "time": np.arange(USERS * TAKEN)}
    return items, DataFrame(interactions).astype("int64")


def check_encoder(encoder: ItemEncoder, items: DataFrame | None = None, interactions: DataFrame | None = None) -> None:
    """Refuse an encoder that breaks `genrec.types.ItemEncoder`, on a synthetic catalog or on your own.

    `items` (item_id, text, ...; row i is item i+1) and `interactions` (user, item, time; by user and time; training only) are given
    together. Checked: a frozen dataclass that can be described for a key; float32 [N, D], finite, no row all zero, for items without
    text or interactions too; the same vectors twice; rows that follow their items when the catalog is in another order; global
    random state and inputs left alone; `encode_into`, where there is one, gives what `encode` gives, also from a folder with its work.
    """
    check_specification(encoder, ItemEncoder, "encode(items, interactions)")
    if (items is None) != (interactions is None):
        raise UsageError("check_encoder needs items and interactions together, or neither")
    if items is None or interactions is None:
        items, interactions = encoder_world()
    if len(items) < 2:
        raise InputError(f"the catalog is too small to check an encoder: {len(items)} items (2 needed)")
    name = type(encoder).__name__
    _check_description(name, encoder)
    with warnings.catch_warnings():  # narrow vectors, and items that lack, are what the world is for
        warnings.simplefilter("ignore")
        first = _vectors(name, encoder.encode, items, interactions, random=False)  # libraries that it imports may draw
        _check_same(name, "a second call gives", first, _vectors(name, encoder.encode, items, interactions))
        _check_order(name, encoder, items, interactions, first)
        if isinstance(encoder, ResumableEncoder):
            _check_resumed(name, encoder, items, interactions, first)


def _check_description(name: str, encoder: ItemEncoder) -> None:
    try:
        first, again = (describe(encoder, Path(), name) for _ in range(2))
    except UsageError as error:
        raise ContractError(str(error)) from None
    if first != again:
        raise ContractError(f"{name}: two descriptions differ, {first} and {again}; fingerprint(root) must depend on content alone")
    if not hasattr(encoder, "fingerprint") and not type(encoder).__module__.startswith("genrec."):
        say(f"{name} has no fingerprint(root): where it reads files, their edits go unnoticed, and old vectors are served")


def _vectors(
    name: str, encode: Callable[..., Any], items: DataFrame, interactions: DataFrame, *more: Path, random: bool = True
) -> ndarray:
    """The encoder's answer, held against the contract; `random`: whether global random state is looked at."""
    with _left_alone(name, items, interactions, random):
        try:
            found = encode(items, interactions, *more)
        except GenrecError:
            raise
        except Exception as error:
            raise ContractError(f"{name}: encoding {len(items)} items with {len(interactions)} events raised {error!r}") from error
    if not isinstance(found, ndarray) or found.dtype != np.float32 or found.ndim != 2 or len(found) != len(items):
        got = f"{found.dtype} {list(found.shape)}" if isinstance(found, ndarray) else type(found).__name__
        raise ContractError(f"{name}: must return a NumPy array float32 [{len(items)}, D], one row an item, got {got}")
    try:
        check_vectors(found, items["item_id"].tolist())
    except InputError as error:
        raise ContractError(f"{name}: {error}; where nothing is known of an item, give it the mean of the others") from None
    return found


@contextmanager
def _left_alone(name: str, items: DataFrame, interactions: DataFrame, random: bool) -> Iterator[None]:
    """Refuse a change of global random state or of the tables."""
    copies = items.copy(), interactions.copy()
    with check_no_global_draws(name, "draw from a generator of your own, seeded by a field") if random else nullcontext():
        yield
    for what, table, before in zip(("items", "interactions"), (items, interactions), copies, strict=True):
        if not table.equals(before) or list(table.columns) != list(before.columns):
            raise ContractError(f"{name}: the {what} were modified, which others read too; work on a copy")


def _check_same(name: str, what: str, first: ndarray, second: ndarray) -> None:
    if first.shape != second.shape:
        raise ContractError(f"{name}: {what} shape {list(second.shape)} instead of {list(first.shape)}")
    if not np.array_equal(first, second):
        row = int((first != second).any(1).argmax())
        raise ContractError(
            f"{name}: {what} item {row + 1} another vector, up to {np.abs(first - second).max():g} off; take randomness from a seed "
            "that is a field, and keep no state between calls"
        )


def _check_order(name: str, encoder: ItemEncoder, items: DataFrame, interactions: DataFrame, first: ndarray) -> None:
    """In the reversed catalog the rows may not be what they were: that would be a join by position.

    More is not owed: a trained encoder draws its first vectors by row, so that its result need not be the old one reversed.
    """
    if (first == first[0]).all():
        return
    reversed_items = items.iloc[::-1].reset_index(drop=True)
    renumbered = interactions.assign(item=len(items) + 1 - interactions["item"])
    again = _vectors(name, encoder.encode, reversed_items, renumbered)
    if again.shape == first.shape and np.array_equal(first, again):
        ids = items["item_id"]
        raise ContractError(
            f"{name}: with the catalog in reversed order every row stays as it was, so that row 1, first of item {ids.iloc[0]!r}, "
            f"is now of {ids.iloc[-1]!r}; derive a vector from its item (item_id, text, events), not from its position, since filters "
            "change the order"
        )


def _check_resumed(name: str, encoder: ResumableEncoder, items: DataFrame, interactions: DataFrame, first: ndarray) -> None:
    """`encode_into` a folder that does not exist yet, and one that holds what it left."""
    with TemporaryDirectory() as above:
        folder = Path(above) / "work" / "of the encoder"
        for what in ("encode_into gives", "encode_into a folder with its own work gives"):
            _check_same(name, what, first, _vectors(name, encoder.encode_into, items, interactions, folder))
        stray = [
            path.name for place in (folder.parent, folder.parent.parent) for path in place.glob("*") if path not in folder.parents
        ]
        stray = [entry for entry in stray if entry != folder.name]
        if stray:
            raise ContractError(f"{name}: encode_into left {stray} beside its folder; write inside the folder only")
