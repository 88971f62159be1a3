"""Pairs and ranked lists from a file, in the user's ids."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pandas import DataFrame
from torch import Tensor
from torch.nn.functional import pad

from genrec.errors import InputError, UsageError
from genrec.id_matching import Ids, likely_cause
from genrec.input_files import file_suffix, normalize_paths
from genrec.preference.candidates.pair_notes import pair_notes
from genrec.preference.candidates.pair_rows import SUFFIXES, FileFormat, PairRow, RowProblems, read_pairs, read_trl
from genrec.preference.candidates.trl_files import write_trl
from genrec.preference.disliked_pairs import DislikedPairs
from genrec.preference.exclusions import representatives
from genrec.progress import say
from genrec.ragged_rows import RaggedRows
from genrec.store import Signature, file_hash, signature_of
from genrec.types import Candidates, ObjectiveContext, Proposals, SamplerContext, SequenceBatch
from genrec.types.data import DISLIKED, NO_USER
from genrec.types.event_history import in_words, inputs_of
from genrec.types.specification import check_types

__all__ = ["PairExamples", "PairRow", "Pairs", "read_pairs", "read_trl", "write_trl"]


@dataclass(frozen=True)
class Pairs:
    """Pairs or ranked lists from a CSV, Parquet or JSON lines file: the rows of the file are the training examples.

    Columns: `user` (the history is the user's training events before the last `chosen` among them, all of them if it is not there,
    without the disliked ones if the split leaves them out of histories)
    or `history` (a JSON array of item ids, oldest first); `chosen` and `rejected` (an id or a JSON array of ids), or `ranked` (a JSON
    array, best first: the first is preferred to each of the others); and `weight` of the row's loss, 1 by default. With
    `format="trl"` the columns are TRL's `prompt`, `chosen`, `rejected`, see `read_trl`.

    A rejected item with the Semantic ID of `chosen`, or of an earlier rejected one, is left out. Rows without a user, contradictory
    rows and rejected items that the user likes are counted and printed when the training begins, see `pair_notes`.
    """

    path: Path | str  # .csv, .parquet, .jsonl or .ndjson
    format: FileFormat = "genrec"

    def __post_init__(self) -> None:
        normalize_paths(self, "path")  # `fingerprint` is in the key instead of a path
        check_types(self, "Pairs")
        if file_suffix(self._path) not in SUFFIXES:
            raise UsageError(f"Pairs.path must end in {', '.join(SUFFIXES)}, got {self._path}")

    @property
    def _path(self) -> Path:
        return Path(self.path)

    def fingerprint(self, root: Path) -> str:
        """Return the SHA-256 of the file."""
        try:
            return _file_hash(self._path.absolute(), signature_of(self._path))
        except OSError as error:
            raise InputError(f"the pair file {self._path} can't be read ({error}); correct the path") from None

    def file_names(self) -> tuple[str, ...]:
        """Return the name of the file, for labels."""
        return (self._path.name,)

    def check(self, experiment: Any) -> None:
        """Raise InputError if the file is missing or has rows that are not of the format.

        Raises UsageError for a policy that asks for inputs: the histories of a file are items alone.
        """
        read_pairs(self._path, self.format)
        asked = () if experiment is None else inputs_of(experiment.policy)  # None: the file alone is checked
        if asked and getattr(experiment.reward_model, "pairs", None) is not self:  # a reward model reads items alone
            raise UsageError(
                f"{experiment.name}: the histories of {type(self).__name__} are items alone, and {type(experiment.policy).__name__} "
                f"reads {in_words(asked)} beside them; choose a policy that reads items alone, or another proposer"
            )

    def check_one_rejected(self) -> None:
        """Raise InputError if a row has more than one rejected item, for DPO, which compares one pair."""
        rows, problems = read_pairs(self._path, self.format), RowProblems(self._path)
        for row in rows:
            if len(row.rejected) > 1:
                problems.add(row.line, "more than one rejected item", f"{len(row.rejected)} items")
        problems.check(
            len(rows), "DPO compares one pair: use SoftmaxDPO (S-DPO), which takes any number, or write a row for each rejected item"
        )

    def check_context(self, context: SamplerContext) -> None:
        """Raise InputError for unknown ids, users without an event before `chosen`, and a `chosen` that the user dislikes."""
        examples, problems = self._resolved(context, None), RowProblems(self._path)
        chosen = examples.chosen(torch.arange(len(examples)))
        disliked = DislikedPairs(context, representatives(context)).contains(examples.user, chosen.unsqueeze(1)).squeeze(1)
        for row in (examples.rows[number] for number in disliked.nonzero().flatten().tolist()):
            problems.add(row.line, "the user dislikes chosen", f"user {row.user!r}, item {row.chosen!r}")
        problems.check(len(examples), "remove them: an item that the user dislikes in training is never preferred")

    def check_held_out(self, context: SamplerContext, held_out: DataFrame) -> None:
        """Raise InputError if a row prefers an event (user, item) that is held out and not also a training event.

        `held_out` has the columns user and item, int64. A row with `history` names no user and cannot be compared.
        """
        examples, problems = self._resolved(context, None), RowProblems(self._path)
        trained = set(zip(*(context.interactions[name] for name in ("user", "item")), strict=True))
        forbidden = set(zip(*(held_out[name] for name in ("user", "item")), strict=True)) - trained
        preferred = zip(examples.user.tolist(), examples.chosen(torch.arange(len(examples))).tolist(), strict=True)
        for row, event in zip(examples.rows, preferred, strict=True):
            if event in forbidden:
                problems.add(row.line, "chosen is a held-out event of the user", f"user {row.user!r}, item {row.chosen!r}")
        problems.check(len(examples), "remove them: a policy that trains on them has seen what it is evaluated on")

    def build_proposals(self, context: ObjectiveContext) -> Proposals:
        """Return the proposer, with its own examples."""
        examples = self._resolved(context.data(), context.history_length)
        for note in pair_notes(examples, context.data(), RowProblems(self._path).unit):
            say(f"{self._path.name}: {note}")
        return Proposals(examples=examples, listed=examples.candidates, static=True)

    def _resolved(self, context: SamplerContext, history_length: int | None) -> PairExamples:
        return resolve(read_pairs(self._path, self.format), context, history_length, self._path)


@dataclass(frozen=True, eq=False)
class PairExamples:
    """The rows of a file as training examples with their candidates. All tensors are on the CPU."""

    rows: tuple[PairRow, ...]  # R
    user: Tensor  # int64 [R]  `NO_USER` where the row has a history of its own
    items: RaggedRows  # int64 [V]  chosen and rejected items of each row, 0 where one is left out
    weight: Tensor  # float32 [R]
    events: Tensor  # int64 [E]  items of all histories
    begin: Tensor  # int64 [R]  where the row's history begins in `events`
    end: Tensor  # int64 [R]

    def __len__(self) -> int:
        return len(self.rows)

    def batch(self, index: Tensor) -> SequenceBatch:
        """Return the rows int64 [B] with their history; the target is the chosen item."""
        begin, end = self.begin[index], self.end[index]
        place = end[:, None] - torch.arange(int((end - begin).max()) if len(index) else 0, 0, -1)
        history = torch.where(place >= begin[:, None], self.events[place.clamp(min=0)], 0)
        return SequenceBatch(self.user[index], history, self.chosen(index))

    def candidates(self, index: Tensor) -> Candidates:
        """Return the candidates of the rows int64 [B], padded to the longest of them. A row without a rejected item takes no part."""
        items = self.items.padded(index, self.items.longest(index), 0)
        return Candidates(items, items > 0, (items[:, 1:] > 0).any(1), weight=self.weight[index])

    def chosen(self, index: Tensor) -> Tensor:
        """Return the preferred item of the rows int64 [B]: int64 [B]."""
        return self.items.values[self.items.first[index]]


def resolve(rows: tuple[PairRow, ...], context: SamplerContext, history_length: int | None, path: Path) -> PairExamples:
    """Return the rows with the numbers of users and items. Histories are cut to the newest `history_length` items (None: whole).

    Raises InputError, with the lines, for unknown ids and for users without an event before `chosen`.
    """
    item_numbers, user_numbers = _item_numbers(context), _user_numbers(context)
    problems, unknown = RowProblems(path), {"item": list[str](), "user": list[str]()}

    def numbers(row: PairRow, ids: tuple[str, ...], known: dict[str, int], kind: str) -> list[int]:
        missing = [each for each in ids if each not in known]
        if missing:
            unknown["user" if kind == "user" else "item"] += missing
            problems.add(row.line, f"unknown {kind}", ", ".join(map(repr, missing[:3])))
        return [known.get(each, 0) for each in ids]

    events, remembered, bounds = _training_events(context)
    stored, before = events[remembered], np.concatenate([[0], np.cumsum(remembered)])
    items, users, places, own = list[int](), [], [], list[int]()
    for row in rows:
        candidates = numbers(row, (row.chosen, *row.rejected), item_numbers, "item")
        items += candidates
        if row.user is None:
            history = numbers(row, row.history or (), item_numbers, "history item")
            users.append(NO_USER)
            places.append((len(stored) + len(own), len(stored) + len(own) + len(history)))
            own += history
            continue
        users.append(numbers(row, (row.user,), user_numbers, "user")[0])
        begin, end = bounds.get(users[-1], (0, 0))
        taken = np.flatnonzero(events[begin:end] == candidates[0])
        places.append((int(before[begin]), int(before[begin + int(taken[-1]) if len(taken) else end])))
        if users[-1] and places[-1][0] == places[-1][1]:
            reason = "the user has no training event before chosen" + ("" if remembered.all() else " that is not disliked")
            problems.add(row.line, reason, f"user {row.user!r}, item {row.chosen!r}")
    problems.check(len(rows), _advice(unknown, item_numbers, user_numbers))
    begin_end = torch.tensor(places)
    begins = begin_end[:, 0] if history_length is None else torch.maximum(begin_end[:, 0], begin_end[:, 1] - history_length)
    return PairExamples(
        rows=rows,
        user=torch.tensor(users),
        items=_distinct(rows, torch.tensor(items), representatives(context)),
        weight=torch.tensor([row.weight for row in rows], dtype=torch.float32),
        events=torch.cat([torch.from_numpy(stored), torch.tensor(own, dtype=torch.int64)]),
        begin=begins,
        end=begin_end[:, 1],
    )


def _distinct(rows: tuple[PairRow, ...], items: Tensor, representative: Tensor) -> RaggedRows:
    """Return the items int64 [V] of all rows, 0 in place of an item with the Semantic ID of an earlier one of its row."""
    counts = torch.tensor([1 + len(row.rejected) for row in rows])
    keys = representative[items] + torch.arange(len(rows)).repeat_interleave(counts) * len(representative)
    _, first = np.unique(keys.numpy(), return_index=True)  # the first occurrence of each key
    kept = torch.zeros_like(items).index_fill(0, torch.from_numpy(first), 1)
    return RaggedRows(items * kept, pad(counts.cumsum(0), (1, 0)))


def _item_numbers(context: SamplerContext) -> dict[str, int]:
    """Return the number of each item id; without a catalog the ids are the numbers."""
    ids = [str(number) for number in range(1, context.item_count + 1)] if context.items is None else context.items["item_id"]
    return {str(name): number for number, name in enumerate(ids, 1)}


def _user_numbers(context: SamplerContext) -> dict[str, int]:
    users = np.unique(context.interactions["user"].to_numpy()).tolist()
    return {str(user) if context.own_ids is None else context.own_ids.user(user): user for user in users}


def _training_events(context: SamplerContext) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any], dict[int, tuple[int, int]]]:
    """Return the items of all training events by user and time, int64 [E], which of them stand in histories, bool [E], and where each
    user's events begin and end.
    """
    users, times, items = (context.interactions[name].to_numpy("int64") for name in ("user", "time", "item"))
    order = np.lexsort((times, users))  # stable: events at one time keep the order of the source
    names, begins = np.unique(users[order], return_index=True)
    ends = [*begins.tolist()[1:], len(items)]
    kept = np.ones(len(items), dtype=bool)
    if context.histories == "without disliked":
        kept = context.interactions["label"].to_numpy()[order] != DISLIKED
    return (
        items[order].copy(),
        kept,
        {user: (begin, end) for user, begin, end in zip(names.tolist(), begins.tolist(), ends, strict=True)},
    )


def _advice(unknown: dict[str, list[str]], items: dict[str, int], users: dict[str, int]) -> str:
    """Return what to do about rows with problems, with the likely cause of unknown ids."""
    for kind, known in (("item", items), ("user", users)):
        if unknown[kind]:
            cause = likely_cause(Ids("the pairs", unknown[kind]), Ids(f"the {kind}s", list(known)))
            shown = f"; the ids of {kind}s are such as {next(iter(known))!r}"
            return f"correct or remove them{shown if cause is None else f'; {cause}'}"
    return "correct or remove them"


@lru_cache(maxsize=64)
def _file_hash(path: Path, signature: Signature) -> str:
    return file_hash(path)
