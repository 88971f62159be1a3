"""Lists of items for histories: a trained policy or a fitted baseline with its catalog, independent of the data of its training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, cast

import numpy as np
import pandas as pd
import torch
from pandas import DataFrame
from torch import Tensor

from genrec.errors import InputError, UsageError, whole_number
from genrec.evaluation.cold_quota import with_cold_quota
from genrec.evaluation.scored_lists import naming, recommend_batch, score_lists
from genrec.own_ids import OwnIds
from genrec.policy_modules import device_of
from genrec.semantic_ids import SemanticIds
from genrec.serving.catalog_items import CatalogItems
from genrec.types import Baseline, ExactRecommender, HistoryInput, PolicySpecification, Ranking, Recommender, SequenceBatch
from genrec.types.event_history import in_words, inputs_of, joined_rows, padded

BATCH_SIZE = 256  # histories that are ranked at once


class History(NamedTuple):
    """What a list is made for."""

    items: Sequence[int]  # item numbers, oldest first; the policy reads the most recent ones
    exclude: Sequence[int] = ()  # item numbers that the list must not hold
    user: int = 0  # number of the user in the data; 0: the list depends on the items alone
    events: Tensor | None = None  # the same items as an `EventHistory` of one row, for a policy that asks for inputs


class ItemRecommender(NamedTuple):
    """A recommender and what it needs to be used: the catalog, Semantic IDs and the settings of its evaluation."""

    name: str  # of the row, for messages
    specification: PolicySpecification | Baseline  # the settings that the recommender was made with
    recommender: Recommender
    catalog: CatalogItems
    semantic_ids: SemanticIds | None  # None: the row has no tokenizer
    history_length: int  # most recent items of a history that are read
    exactly: bool  # rank by the scores of all items (`ExactRecommender`), not by `recommend`
    num_beams: int  # length of the longest list; 0: any length
    ranker: Recommender  # that makes the lists: the recommender, or with a quota for cold items (`Evaluate.cold_quota`)

    @classmethod
    def of_row(
        cls,
        name: str,
        specification: PolicySpecification | Baseline,
        recommender: Recommender,
        catalog: CatalogItems,
        semantic_ids: SemanticIds | None,
        settings: Mapping[str, Any],
        beams: int,
    ) -> ItemRecommender:
        """Return a recommender with the settings of its row's evaluation. A baseline prunes nothing, so it is asked for its list."""
        exactly = settings["evaluate.scoring"] == "exact" and not isinstance(specification, Baseline)
        length, quota = settings["history_length"], settings.get("evaluate.cold_quota")
        ranker = recommender
        if semantic_ids is not None and not isinstance(specification, Baseline):
            popularity = torch.from_numpy(np.concatenate([[0], catalog.num_interactions]).astype(np.int64))
            ranker = with_cold_quota(recommender, semantic_ids, popularity, quota)
        return cls(name, specification, recommender, catalog, semantic_ids, length, exactly, 0 if exactly else beams, ranker)

    def rank(self, histories: Sequence[History], n: int) -> Ranking:
        """Return the `n` best items of each history, best first, on the CPU: item 0 where a list has no further item.

        Lists are at most as long as the catalog. Raises UsageError if `n` is out of range, InputError for an empty history that a
        trained policy would have to read.
        """
        n = self.checked_length(n)
        self._check_histories(histories)
        if self.inputs and any(each.events is None for each in histories):
            raise UsageError(
                f"{self.name}: {type(self.specification).__name__} reads {in_words(self.inputs)} of a history, which a list of items "
                "does not have; recommend to a user of the data (--user ID, or user=ID)"
            )
        length = min(n, len(self.catalog))
        parts = [self._rank_batch(histories[at : at + BATCH_SIZE], length) for at in range(0, len(histories), BATCH_SIZE)]
        if not parts:
            return Ranking(torch.zeros(0, length, dtype=torch.int64), torch.zeros(0, length))
        return Ranking(torch.cat([part.items for part in parts]), torch.cat([part.scores for part in parts]))

    @property
    def inputs(self) -> tuple[HistoryInput, ...]:
        """What the policy reads of a history beside its items."""
        return inputs_of(self.specification)

    def _read(self, histories: Sequence[History]) -> Tensor:
        """Return the histories as the policy reads them, on the CPU."""
        if not self.inputs:
            return _padded([each.items[-self.history_length :] for each in histories])
        read = [cast(Tensor, each.events)[:, -self.history_length :] for each in histories]
        width = max(1, *(each.shape[1] for each in read))
        return joined_rows([padded(each, width) for each in read])

    def table(self, history: History, n: int) -> DataFrame:
        """Return the list of one history: position, item_id, title, score, semantic_id with a tokenizer, cold.

        The score is log p(item | history) of a policy, and a score of its own of a baseline or of `Liger` (cosine / temperature). With
        a quota, that of a cold item is the log-probability of all codes but the last. A cold item has no training interaction.
        """
        ranking = self.rank([history], n)
        scores = ranking.scores[0][ranking.items[0] > 0].tolist()
        items = [number for number in ranking.items[0].tolist() if number]
        columns: dict[str, object] = {
            "position": range(1, len(items) + 1),
            "item_id": pd.Series([self.catalog.ids[number - 1] for number in items], dtype=str),
            "title": pd.Series([self.catalog.titles[number - 1] for number in items], dtype=str),
            "score": scores,
        }
        if self.semantic_ids is not None:
            columns["semantic_id"] = pd.Series([self.semantic_id(number) for number in items], dtype=str)
        return DataFrame(columns | {"cold": [self.catalog.is_cold(number) for number in items]})

    def semantic_id(self, number: int) -> str:
        """Return the codes of an item as text, such as `12-5-200-0`."""
        if self.semantic_ids is None:
            raise UsageError(f"{self.name} has no Semantic IDs: it was trained without a tokenizer; choose a row with one")
        return "-".join(map(str, self.semantic_ids.codes[number - 1].tolist()))

    def checked_length(self, n: int) -> int:
        """Return the length of a list as int. Raises UsageError unless lists can have `n` items."""
        n = whole_number(n, "n, the number of items of a list,", 1)
        if self.num_beams and min(n, len(self.catalog)) > self.num_beams:
            raise UsageError(
                f"{self.name}: a list of {n} items needs at least {n} beams, and the row was loaded with {self.num_beams}; load it "
                f"with genrec.load({self.name!r}, num_beams={n})"
            )
        return n

    def _check_histories(self, histories: Sequence[History]) -> None:
        for history in histories:
            if not len(history.items) and not isinstance(self.specification, Baseline):
                raise InputError(
                    f"{self.name}: the history is empty, and a trained policy needs at least one item; give one, or recommend from a "
                    "popularity row"
                )

    @torch.no_grad()
    def _rank_batch(self, histories: Sequence[History], n: int) -> Ranking:
        """Return the lists of a batch, checked as evaluation checks them."""
        device = device_of(self.recommender)
        history = self._read(histories).to(device)
        user = torch.tensor([each.user for each in histories], device=device)
        excluded = _padded([each.exclude for each in histories]).to(device) if any(len(each.exclude) for each in histories) else None
        batch = SequenceBatch(user, history, torch.zeros_like(user))
        if self.exactly:
            ranking = cast(ExactRecommender, self.ranker).recommend_exactly(history, n, excluded)
        elif all(each.user for each in histories):
            ranking = recommend_batch(self.ranker, batch, n, excluded)
        else:
            ranking = self.ranker.recommend(history, n, excluded)
        ids = OwnIds(lambda number: f"(number {number} of the data)", lambda number: self.catalog.ids[number - 1])
        with naming(self.recommender):
            checked = score_lists(batch, ranking, n, excluded, None, ids)
        return Ranking(checked.items, checked.scores)


def _padded(rows: Sequence[Sequence[int]]) -> Tensor:
    """Return rows of item numbers as int64 [B, T], padded on the left with 0; T is at least 1."""
    width = max([1, *map(len, rows)])
    return torch.tensor([[0] * (width - len(row)) + list(row) for row in rows], dtype=torch.int64)
