"""A trained row that recommends items to histories and users, in the ids of the data."""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from functools import cached_property
from html import escape
from typing import Literal, cast

import numpy as np
import pandas as pd
import pyarrow as pa
import torch
from pandas import DataFrame

from genrec.data.corpus import Corpus
from genrec.data.event_inputs import EventInputs, event_inputs
from genrec.data.feedback_targets import KeptEvents, kept_events
from genrec.data.splits import BEGIN, END, TEST, VALIDATION
from genrec.errors import InputError, UsageError, counted, plain_integer, whole_number
from genrec.id_matching import Ids, likely_cause
from genrec.serving.catalog_items import MAX_COMPARED
from genrec.serving.item_recommender import History, ItemRecommender
from genrec.types import Baseline
from genrec.types.event_history import in_words

Before = Literal["validation", "test"]  # the part before which the histories of users end
NEEDS_ITEM = "a trained policy needs at least one; give a history, or recommend from a popularity row"
LIMITS = {"validation": VALIDATION, "test": TEST, None: END}


@dataclass(frozen=True, eq=False, repr=False)
class TrainedRow:
    """One seed of a row, ready to recommend. Histories and lists hold the ids of the data set."""

    name: str
    seed: int
    seeds: tuple[int, ...]  # all seeds of the row
    items: ItemRecommender
    corpus: Corpus | None  # the data, for the histories of users; None: an export, which has items alone
    filter_seen: bool  # whether the row's evaluation left out what a user has taken, the default of `exclude_seen`
    warning: str = ""  # that no step of a training is kept, in words

    def __repr__(self) -> str:
        users = "an export without users" if self.corpus is None else f"{self.corpus.user_count:,} users"
        about = f"{type(self.items.specification).__name__}, {len(self.items.catalog):,} items, {users}"
        return f"TrainedRow({self.name}, seed {self.seed} of {', '.join(map(str, self.seeds))}: {about})"

    def _repr_html_(self) -> str:
        """Return the row as a table for a notebook."""
        users = "none, it is an export" if self.corpus is None else f"{self.corpus.user_count:,}"
        about = {
            "row": self.name,
            "seed": f"{self.seed} of {', '.join(map(str, self.seeds))}",
            "policy": repr(self.items.specification),
            "items": f"{len(self.items.catalog):,}",
            "users": users,
            "lists": "without items of the history" if self.filter_seen else "also with items of the history",
            **({"warning": self.warning} if self.warning else {}),
        }
        cells = "".join(f"<tr><th>{name}</th><td>{escape(text)}</td></tr>" for name, text in about.items())
        return f"<table>{cells}</table>"

    @property
    def user_data(self) -> Corpus:
        """The data with the users. Raises UsageError for an export, which has none."""
        if self.corpus is None:
            raise UsageError(
                f"{self.items.name} is an export, which holds items and weights but no users; give a history of items, or use the row "
                f"{self.name!r} where it was trained"
            )
        return self.corpus

    def excludes_seen(self, chosen: bool | None) -> bool:
        """Return the choice, or if it is None that of the row's evaluation."""
        if chosen is not None and not isinstance(chosen, bool | np.bool_):
            raise UsageError(f"exclude_seen must be True, False or None (as in the evaluation of the row), got {chosen!r}")
        return self.filter_seen if chosen is None else bool(chosen)

    def recommend(
        self,
        history: Sequence[str | int] | None = None,
        n: int = 10,
        *,
        user: str | int | None = None,
        exclude_seen: bool | None = None,
        before: Before | None = None,
    ) -> DataFrame:
        """Return a list of `n` items: position, item_id, title, score, semantic_id (with a tokenizer), cold.

        Args:
            history: a list of items, oldest first, by id or by words of the title that no other item has; an integer, also of NumPy,
                is an id.
            n: number of items; a list has at most the whole catalog.
            user: id of a user of the data, in place of a history; an integer, also of NumPy, stands for its digits.
            exclude_seen: leave out the items of the history, all of it; by default as in the evaluation of the row.
            before: end the user's history before validation or test, as in training and evaluation; None takes all interactions.

        Raises InputError for an unknown user or item, a title of several items, or an empty history that a policy would have to read.

        """
        return self.items.table(self.history(history, user=user, exclude_seen=exclude_seen, before=before), n)

    def history(
        self,
        history: Sequence[str | int] | None = None,
        *,
        user: str | int | None = None,
        exclude_seen: bool | None = None,
        before: Before | None = None,
    ) -> History:
        """Return the history of a user, or of items by id or title; arguments as in `recommend`."""
        if (history is None) == (user is None):
            raise UsageError("recommend needs either a history, a list of items, or user=ID; got both or neither")
        if isinstance(history, Set | Mapping):
            raise UsageError(
                f"history must be a list of items, oldest first; a {type(history).__name__} has no such order, got {history!r}"
            )
        if history is not None and (isinstance(history, str | bytes | bytearray) or not isinstance(history, Iterable)):
            raise UsageError(f"history must be a list of items, got {history!r}; write [{as_text(history)!r}]")
        exclude = self.excludes_seen(exclude_seen)
        if user is not None:
            user = user_id(user, "user")
            found = self.user_history(self.user_number(user), exclude, before)
            if not found.items and not isinstance(self.items.specification, Baseline):
                raise InputError(
                    f"{self.name}: user {user!r} has no item in the history{f' before {before}' if before else ''}; {NEEDS_ITEM}"
                )
            return found
        if before is not None:
            raise UsageError(f"before={before!r} ends the history of a user of the data; it has no meaning for a list of items")
        numbers = [self._item_number(item, place) for place, item in enumerate(() if history is None else history)]
        return History(numbers, numbers if exclude else ())

    def _item_number(self, item: object, place: int) -> int:
        """Return the number of an item of a history, given by its id or title; an integer is an id, never a word of a title."""
        if isinstance(item, str):
            return self.items.catalog.number_of(item)
        number = plain_integer(item)
        if number is None:
            raise UsageError(f"history[{place}] must be the id or the title of an item, a text or an integer, got {item!r}")
        return self.items.catalog.number_of_id(str(number), f"history[{place}]")

    def user_history(self, number: int, exclude: bool, before: Before | None = None) -> History:
        """Return the history of a user by number, as training and evaluation read it, with all taken items excluded on request."""
        if before not in LIMITS:
            raise UsageError(f"before must be 'validation', 'test' or None, got {before!r}")
        begin, end = (int(self.user_data.bounds[number - 1, column]) for column in (BEGIN, LIMITS[before]))
        taken: list[int] = self.user_data.item[begin:end].tolist()
        kept, inputs = self._kept, self._inputs
        if kept is not None:
            begin, end = int(kept.before[begin]), int(kept.before[end])
        read = taken if kept is None else kept.items[begin:end].tolist()
        events = None
        if inputs is not None:
            events = inputs.beside(torch.tensor([read], dtype=torch.int64), torch.tensor([number]), torch.arange(begin, end)[None])
        return History(read, taken if exclude else (), number, events)

    def user_number(self, user: str) -> int:
        """Return the number of a user. Raises InputError if the data have no user with this id."""
        found = self._user_numbers.get(user)
        if found is None:
            ids = self.user_data.user_ids
            near = difflib.get_close_matches(user, ids[:MAX_COMPARED].tolist(), 1)
            cause = likely_cause(Ids("you", [user]), Ids("the data", ids.tolist()))
            other = "give the items of the user as a history instead"
            if self.items.inputs:
                other = f"its policy reads {in_words(self.items.inputs)} of a user's events, so that only these users get lists"
            hint = cause or (f"the nearest id is {near[0]!r}" if near else other)
            raise InputError(f"{self.name} has no user {user!r} among the {counted(len(ids), 'user')} that its data keep; {hint}")
        return found

    def has_user(self, user: str) -> bool:
        """Return whether the data have a user with this id."""
        return user in self._user_numbers

    def search(self, text: str, count: int = 20) -> DataFrame:
        """Return the items with all words of the text in their title, the most popular first: item_id, title, interactions.

        A word may be a part of one in the title. If there are no such items, return those with similar words.
        """
        if not isinstance(text, str) or not text.strip():
            raise UsageError(f"search needs words of a title, a text, got {text!r}")
        count = whole_number(count, "count, the number of items,", 0)
        catalog = self.items.catalog
        return self.item_table((catalog.search(text) or catalog.nearest(text, count))[:count])

    def history_table(self, history: History) -> DataFrame:
        """Return the items of a history, oldest first: item_id, title, interactions."""
        return self.item_table(history.items)

    def semantic_ids(self) -> DataFrame:
        """Return the Semantic IDs of all items: item_id, title, interactions (in training), semantic_id, code_1, ..., code_L."""
        first = self.items.semantic_id(1)  # raises UsageError without a tokenizer
        assert self.items.semantic_ids is not None, first
        table = self.item_table(range(1, len(self.items.catalog) + 1))
        codes = self.items.semantic_ids.codes.numpy()
        table["semantic_id"] = pd.Series(["-".join(map(str, row)) for row in codes.tolist()], dtype=str)
        levels = DataFrame(codes, columns=[f"code_{level}" for level in range(1, codes.shape[1] + 1)])
        return pd.concat([table, levels], axis=1)

    def recommend_users(
        self,
        users: Iterable[str | int] | None = None,
        n: int = 10,
        *,
        exclude_seen: bool | None = None,
        before: Before | None = None,
    ) -> DataFrame:
        """Return the lists of many users, by default of all with a history: user_id, position, item_id, score.

        Users are in the order given, and an integer stands for its digits. Raises UsageError for a user who occurs twice.
        `genrec recommend --all-users --out FILE` writes them in bounded memory.
        """
        from genrec.serving.bulk_lists import SCHEMA, lists_of, users_of

        if users is not None and (isinstance(users, str | bytes | bytearray) or not isinstance(users, Iterable)):
            raise UsageError(f"recommend_users needs a list of user ids, got {users!r}; write [{as_text(users)!r}]")
        wanted = None if users is None else [user_id(user, f"users[{place}]") for place, user in enumerate(users)]
        twice = [user for user, count in Counter(wanted or ()).items() if count > 1]
        if twice:
            raise UsageError(f"recommend_users got the user {twice[0]!r} twice; give each user once: list(dict.fromkeys(users))")
        exclude, length = self.excludes_seen(exclude_seen), self.items.checked_length(n)
        parts = [SCHEMA.empty_table(), *lists_of(self, users_of(self, wanted, exclude, before), length)]
        return cast(DataFrame, pa.concat_tables(parts).to_pandas())

    @cached_property
    def _kept(self) -> KeptEvents | None:
        return kept_events(self.user_data)

    @cached_property
    def _inputs(self) -> EventInputs | None:
        return event_inputs(self.user_data, self.items.inputs, self._kept)

    @cached_property
    def _user_numbers(self) -> dict[str, int]:
        return {str(user): place + 1 for place, user in enumerate(self.user_data.user_ids)}

    def item_table(self, numbers: Iterable[int]) -> DataFrame:
        """Return items by number: item_id, title, interactions."""
        places, catalog = np.array(list(numbers), dtype=np.int64) - 1, self.items.catalog
        return DataFrame(
            {
                "item_id": pd.Series([catalog.ids[place] for place in places], dtype=str),
                "title": pd.Series([catalog.titles[place] for place in places], dtype=str),
                "interactions": catalog.num_interactions[places],
            }
        )


def as_text(value: object) -> object:
    """Return bytes as text, for a message; other values as they are."""
    return bytes(value).decode("utf-8", "replace") if isinstance(value, bytes | bytearray) else value


def user_id(user: object, name: str) -> str:
    """Return the id of a user as text; an integer, also of NumPy, stands for its digits. `name` is that of the argument."""
    if isinstance(user, str):
        return str(user)
    number = plain_integer(user)
    if number is None:
        raise UsageError(f"{name} must be the id of a user, a text or an integer, got {user!r}")
    return str(number)  # ids of the data are text
