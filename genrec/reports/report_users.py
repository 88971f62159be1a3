"""The browser of users of a report: history, target and the lists of the rows for a sample of test users."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
import torch
from numpy import ndarray
from pandas import DataFrame

from genrec import randomness
from genrec.data.corpus import Corpus
from genrec.data.splits import BEGIN, TEST
from genrec.item_titles import item_titles
from genrec.reports.report_parts import StoredRow, is_stored
from genrec.semantic_ids import SemanticIds
from genrec.workspace import store

PLACES = 10  # items of a list that are shown
HISTORY = 20  # last items of a history that are shown
TITLE_LENGTH = 90  # characters; longer titles are cut


def browser(rows: Sequence[StoredRow], corpus: Corpus, ranks: DataFrame, count: int, seed: int) -> dict[str, Any]:
    """Return the sampled users with their lists, as plain JSON.

    - `users`: id, history (items, oldest first), length (of the whole history), target, lists (row -> items)
    - `items`: item -> id, title, and its Semantic ID by tokenizer
    - `tokenizers`: row -> number of its tokenizer; rows without Semantic IDs are left out
    - `seeds`: row -> the seed that made its lists, the first
    """
    sample = sampled_users(ranks["user"].to_numpy(), count, seed)
    targets = ranks.set_index("user")["target"]
    lists = {row.name: _lists(row, sample) for row in rows if is_stored("evaluate", [row.first])}
    titles = item_titles(corpus.items)
    users, used = [], set()
    for user in sample:
        begin, end = (int(corpus.bounds[user - 1, place]) for place in (BEGIN, TEST))
        history = [int(item) for item in corpus.item[max(begin, end - HISTORY) : end]]
        own = {name: found.get(user, []) for name, found in lists.items()}
        target = int(targets[user])
        about = {"id": str(corpus.user_ids[user - 1]), "length": end - begin, "target": target}
        users.append({**about, "history": history, "lists": own})
        used |= {target, *history, *(item for items in own.values() for item in items)}
    keys = list(dict.fromkeys(row.first["tokenize"] for row in rows if is_stored("tokenize", [row.first])))
    codes = [SemanticIds.load(store().folder("tokenize", key) / "codes.safetensors").codes for key in keys]
    return {
        "users": users,
        "tested": len(ranks),
        "sample_seed": seed,
        "items": {str(item): _item(corpus, item, titles[item - 1], codes) for item in sorted(used)},
        "tokenizers": {row.name: keys.index(row.first["tokenize"]) for row in rows if row.first.get("tokenize") in keys},
        "seeds": {row.name: next(iter(row.artifacts)) for row in rows if row.name in lists},
        "left_out": [row.name for row in rows if row.name not in lists],
        "places": PLACES,
    }


def sampled_users(users: ndarray, count: int, seed: int) -> list[int]:
    """Return `count` of the users, or all if there are fewer, in ascending order. The sample depends on the seed alone."""
    order = torch.randperm(len(users), generator=randomness.generator(seed, "users of the report"))[:count]
    return sorted(int(user) for user in users[order.numpy()])


def _lists(row: StoredRow, users: Sequence[int]) -> Mapping[int, list[int]]:
    """Return the first items of the lists of these users, best first."""
    path = store().folder("evaluate", row.first["evaluate"]) / "recommendations.parquet"
    filters = [("position", "<=", PLACES), ("user", "in", list(users))]
    table = pd.read_parquet(path, columns=["user", "position", "item"], filters=filters).sort_values(["user", "position"])
    return {int(str(user)): [int(item) for item in group] for user, group in table.groupby("user")["item"]}


def _item(corpus: Corpus, item: int, title: str, codes: Sequence[torch.Tensor]) -> dict[str, Any]:
    """Return the id, title and Semantic IDs of an item; the title is "" if there is none."""
    cut = title if len(title) <= TITLE_LENGTH else f"{title[: TITLE_LENGTH - 1]}…"
    return {"id": str(corpus.items["item_id"].iloc[item - 1]), "title": cut, "codes": [each[item - 1].tolist() for each in codes]}
