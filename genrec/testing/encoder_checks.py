"""Checks of the contract of item encoders, for your own and built-in ones. A violation raises `ContractError`."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy import ndarray
from pandas import DataFrame, Series

from genrec.embeddings.vector_checks import check_vectors
from genrec.errors import InputError, UsageError
from genrec.progress import say
from genrec.store import describe
from genrec.testing.plugin_watch import call_plugin, check_no_global_draws
from genrec.testing.specification_checks import ContractError, check_specification
from genrec.types import NO_TEXT, ItemEncoder, ResumableEncoder
from genrec.value_forms import form_of

GROUPS = {
    "care": ("rose", "aloe", "cream", "lotion", "soft", "skin"),
    "hair": ("steel", "clip", "brush", "comb", "curl", "band"),
    "scent": ("amber", "musk", "perfume", "spray", "night", "glass"),
}
NUM_ITEMS, NUM_USERS, USER_EVENTS = 36, 60, 6  # of `encoder_world`


def encoder_world(seed: int = 0) -> tuple[DataFrame, DataFrame]:
    """Return a small catalog with three kinds of items, and training interactions of users who each have one kind.

    The last two items have only the placeholder `NO_TEXT` as text, and the last one has no interaction.
    """
    random, kinds = np.random.default_rng(seed), list(GROUPS)
    kind_of = [kinds[item % len(kinds)] for item in range(NUM_ITEMS)]
    texts = [" ".join([kind, *random.choice(GROUPS[kind], 3, replace=False)]) for kind in kind_of]
    texts[-2:] = [NO_TEXT] * 2
    items = DataFrame({"item_id": [f"{item:03}" for item in range(NUM_ITEMS)], "text": texts, "title": [*texts[:-2], "", ""]})
    groups = [[item + 1 for item in range(NUM_ITEMS - 1) if kind_of[item] == kind] for kind in kinds]
    histories = [random.choice(groups[user % len(kinds)], USER_EVENTS, replace=False) for user in range(NUM_USERS)]
    user = np.repeat(np.arange(1, NUM_USERS + 1), USER_EVENTS)
    interactions = {"user": user, "item": np.concatenate(histories), "time": np.arange(len(user))}
    return items, DataFrame(interactions).astype("int64")


def check_encoder(encoder: ItemEncoder, items: DataFrame | None = None, interactions: DataFrame | None = None) -> None:
    """Raise ContractError if an encoder violates `genrec.types.ItemEncoder`, on a synthetic catalog or on yours.

    Pass both `items` (item_id, text, ...; row i is item i+1) and `interactions` (user, item, time; sorted by user and time; training
    only), or neither. The contract:

    - a frozen dataclass that can be described for a key;
    - float32 [N, D], finite, no all-zero row, also for items without text or interactions;
    - the same vectors in a second call;
    - rows that follow their items if the catalog is in another order;
    - global random state and arguments unchanged;
    - `encode_into`, if it exists, returns the vectors of `encode`, also from a folder with its own intermediate results.
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
    with warnings.catch_warnings():  # the world causes warnings of narrow vectors and mean vectors
        warnings.simplefilter("ignore")
        first = _vectors(name, encoder.encode, items, interactions, check_random=False)  # imports may draw
        _check_same(name, "a second call gives", items["item_id"], first, _vectors(name, encoder.encode, items, interactions))
        _check_order(name, encoder, items, interactions, first)
        if isinstance(encoder, ResumableEncoder):
            _check_resumed(name, encoder, items, interactions, first)


def _check_description(name: str, encoder: ItemEncoder) -> None:
    try:
        first, second = (describe(encoder, Path(), name) for _ in range(2))
    except UsageError as error:
        raise ContractError(str(error)) from None
    if first != second:
        raise ContractError(f"{name}: two descriptions differ, {first} and {second}; fingerprint(root) must depend on content alone")
    if not hasattr(encoder, "fingerprint") and not type(encoder).__module__.startswith("genrec."):
        say(f"{name} has no fingerprint(root): if it reads files, changes to them go unnoticed, and cached vectors are used")


def _vectors(
    name: str, encode: Callable[..., Any], items: DataFrame, interactions: DataFrame, *folder: Path, check_random: bool = True
) -> ndarray:
    """Return checked vectors; `check_random`: also check that the global random state is unchanged."""
    with _unchanged(name, items, interactions, check_random):
        action = f"encoding {len(items)} items with {len(interactions)} events"
        vectors = call_plugin(name, action, lambda: encode(items, interactions, *folder))
    if not isinstance(vectors, ndarray) or vectors.dtype != np.float32 or vectors.ndim != 2 or len(vectors) != len(items):
        raise ContractError(
            f"{name}: must return a NumPy array float32 [{len(items)}, D], one row per item, got {form_of(vectors, ndarray)}"
        )
    try:
        check_vectors(vectors, items["item_id"].tolist())
    except InputError as error:
        raise ContractError(f"{name}: {error}; if nothing is known about an item, give it the mean of the others") from None
    return vectors


@contextmanager
def _unchanged(name: str, items: DataFrame, interactions: DataFrame, check_random: bool) -> Iterator[None]:
    """Raise ContractError if the block changes the global random state or the tables."""
    copies = items.copy(), interactions.copy()
    with check_no_global_draws(name, "draw from your own generator, seeded by a field") if check_random else nullcontext():
        yield
    for kind, table, before in zip(("items", "interactions"), (items, interactions), copies, strict=True):
        if not table.equals(before) or list(table.columns) != list(before.columns):
            raise ContractError(f"{name}: the {kind} were modified, but others use them too; work on a copy")


def _check_same(name: str, call: str, ids: Series[str], first: ndarray, second: ndarray) -> None:
    if first.shape != second.shape:
        raise ContractError(f"{name}: {call} shape {list(second.shape)} instead of {list(first.shape)}")
    if not np.array_equal(first, second):
        row = int((first != second).any(1).argmax())
        raise ContractError(
            f"{name}: {call} item {ids.iloc[row]!r} another vector, with a difference of up to {np.abs(first - second).max():g}; take "
            "randomness from a seed that is a field, and keep no state between calls"
        )


def _check_order(name: str, encoder: ItemEncoder, items: DataFrame, interactions: DataFrame, first: ndarray) -> None:
    """Raise ContractError if the vectors of the reversed catalog are in the old order, which would be a join by position.

    The vectors need not be the old ones in reversed order, because a trained encoder may initialize them by row.
    """
    if (first == first[0]).all():
        return
    reversed_items = items.iloc[::-1].reset_index(drop=True)
    renumbered = interactions.assign(item=len(items) + 1 - interactions["item"])
    second = _vectors(name, encoder.encode, reversed_items, renumbered)
    if second.shape == first.shape and np.array_equal(first, second):
        ids = items["item_id"]
        raise ContractError(
            f"{name}: reversing the catalog does not change the rows, so that row 1, which was the vector of item {ids.iloc[0]!r}, "
            f"is now that of {ids.iloc[-1]!r}; derive a vector from its item (item_id, text, events), not from its position, because "
            "filters change the order"
        )


def _check_resumed(name: str, encoder: ResumableEncoder, items: DataFrame, interactions: DataFrame, first: ndarray) -> None:
    """Check `encode_into` with a folder that does not exist yet, and with one that holds its intermediate results."""
    with TemporaryDirectory() as parent:
        folder = Path(parent) / "work" / "encoder"
        for call in ("encode_into gives", "encode_into a folder with its own work gives"):
            _check_same(name, call, items["item_id"], first, _vectors(name, encoder.encode_into, items, interactions, folder))
        beside = [path for place in (folder.parent, folder.parent.parent) for path in place.glob("*")]
        stray = [path.name for path in beside if path != folder and path not in folder.parents]
        if stray:
            raise ContractError(f"{name}: encode_into left {stray} outside its folder; write inside the folder only")
