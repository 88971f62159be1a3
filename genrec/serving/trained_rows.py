"""A trained row, loaded from its run file and artifacts: `genrec.load`.

    row = genrec.load("beauty-tiger")
    row.recommend(["B004OHQR1Q", "B00KAL5JAU"], n=10)

The experiment's Python file is not needed: the settings of the policy or the baseline are in the run file. Ids are those of the data.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
import pandas as pd
from pandas import DataFrame

from genrec import failed_runs, loading, run_files, studies
from genrec.data.corpus import Corpus
from genrec.data.feedback_targets import KeptEvents, kept_events
from genrec.data.splits import BEGIN, END, TEST, VALIDATION
from genrec.errors import ArtifactError, InputError, UsageError, counted
from genrec.evaluation.statistics.paired_tests import seeds_in_words
from genrec.experiment import is_training_stage, kind_of_stage, place_of
from genrec.id_matching import Ids, likely_cause
from genrec.row_settings import training_hash
from genrec.serving.catalog_items import MAX_COMPARED, CatalogItems
from genrec.serving.item_recommender import History, ItemRecommender
from genrec.serving.rebuilt_components import component_of
from genrec.stage_inputs import build_trained, fitted_baseline, load_semantic_ids, on_device
from genrec.store import Artifact
from genrec.types import Baseline, Recommender
from genrec.workspace import store

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
    corpus: Corpus
    filter_seen: bool  # whether the row's evaluation left out what a user has taken, the default of `exclude_seen`

    def __repr__(self) -> str:
        about = f"{type(self.items.specification).__name__}, {len(self.items.catalog):,} items, {self.corpus.user_count:,} users"
        return f"TrainedRow({self.name}, seed {self.seed} of {', '.join(map(str, self.seeds))}: {about})"

    def recommend(
        self,
        history: Sequence[str] | None = None,
        n: int = 10,
        *,
        user: str | None = None,
        exclude_seen: bool | None = None,
        before: Before | None = None,
    ) -> DataFrame:
        """Return a list of `n` items: position, item_id, title, score, semantic_id (with a tokenizer), cold.

        Args:
            history: items, oldest first, by id or by words of the title that no other item has.
            n: number of items.
            user: id of a user of the data, in place of a history.
            exclude_seen: leave out the items of the history, all of it; by default as in the evaluation of the row.
            before: end the user's history before validation or test, as in training and evaluation; None takes all interactions.

        Raises InputError for an unknown user or item, a title of several items, or an empty history that a policy would have to read.

        """
        return self.items.table(self.history(history, user=user, exclude_seen=exclude_seen, before=before), n)

    def history(
        self,
        history: Sequence[str] | None = None,
        *,
        user: str | None = None,
        exclude_seen: bool | None = None,
        before: Before | None = None,
    ) -> History:
        """Return the history of a user, or of items by id or title; arguments as in `recommend`."""
        if (history is None) == (user is None):
            raise UsageError("recommend needs either a history, a list of items, or user=ID; got both or neither")
        if isinstance(history, str):
            raise UsageError(f"history must be a list of items, got the text {history!r}; write [{history!r}]")
        exclude = self.filter_seen if exclude_seen is None else exclude_seen
        if user is not None:
            found = self.user_history(self.user_number(user), exclude, before)
            if not found.items and not isinstance(self.items.specification, Baseline):
                raise InputError(
                    f"{self.name}: user {user!r} has no item in the history{f' before {before}' if before else ''}; {NEEDS_ITEM}"
                )
            return found
        if before is not None:
            raise UsageError(f"before={before!r} ends the history of a user of the data; it has no meaning for a list of items")
        numbers = [self.items.catalog.number_of(str(item)) for item in history or ()]
        return History(numbers, numbers if exclude else ())

    def user_history(self, number: int, exclude: bool, before: Before | None = None) -> History:
        """Return the history of a user by number, as training and evaluation read it, with all taken items excluded on request."""
        if before not in LIMITS:
            raise UsageError(f"before must be 'validation', 'test' or None, got {before!r}")
        begin, end = (int(self.corpus.bounds[number - 1, column]) for column in (BEGIN, LIMITS[before]))
        taken: list[int] = self.corpus.item[begin:end].tolist()
        kept = self._kept
        read = taken if kept is None else kept.items[int(kept.before[begin]) : int(kept.before[end])].tolist()
        return History(read, taken if exclude else (), number)

    def user_number(self, user: str) -> int:
        """Return the number of a user. Raises InputError if the data have no user with this id."""
        found = self._user_numbers.get(user)
        if found is None:
            ids = self.corpus.user_ids
            near = difflib.get_close_matches(user, ids[:MAX_COMPARED].tolist(), 1)
            cause = likely_cause(Ids("you", [user]), Ids("the data", ids.tolist()))
            hint = cause or (f"the nearest id is {near[0]!r}" if near else "give the items of the user as a history instead")
            raise InputError(f"{self.name} has no user {user!r} among the {counted(len(ids), 'user')} that its data keep; {hint}")
        return found

    def has_user(self, user: str) -> bool:
        """Return whether the data have a user with this id."""
        return user in self._user_numbers

    def search(self, text: str, count: int = 20) -> DataFrame:
        """Return the items with all words of the text in their title, the most popular first: item_id, title, interactions.

        If there are none, return those with similar words.
        """
        catalog = self.items.catalog
        return self._item_table((catalog.search(text) or catalog.nearest(text, count))[:count])

    def history_table(self, history: History) -> DataFrame:
        """Return the items of a history, oldest first: item_id, title, interactions."""
        return self._item_table(history.items)

    def semantic_ids(self) -> DataFrame:
        """Return the Semantic IDs of all items: item_id, title, interactions (in training), semantic_id, code_1, ..., code_L."""
        first = self.items.semantic_id(1)  # raises UsageError without a tokenizer
        assert self.items.semantic_ids is not None, first
        table = self._item_table(range(1, len(self.items.catalog) + 1))
        codes = self.items.semantic_ids.codes.numpy()
        table["semantic_id"] = pd.Series(["-".join(map(str, row)) for row in codes.tolist()], dtype=str)
        levels = DataFrame(codes, columns=[f"code_{level}" for level in range(1, codes.shape[1] + 1)])
        return pd.concat([table, levels], axis=1)

    def recommend_users(
        self,
        users: Iterable[str] | None = None,
        n: int = 10,
        *,
        exclude_seen: bool | None = None,
        before: Before | None = None,
    ) -> DataFrame:
        """Return the lists of many users, by default of all with a history: user_id, position, item_id, score.

        `genrec recommend --all-users --out FILE` writes them in bounded memory.
        """
        from genrec.serving.bulk_lists import lists_of, users_of

        exclude = self.filter_seen if exclude_seen is None else exclude_seen
        parts = [part.to_pandas() for part in lists_of(self, users_of(self, users, exclude, before), n)]
        return pd.concat(parts, ignore_index=True) if parts else DataFrame()

    @cached_property
    def _kept(self) -> KeptEvents | None:
        return kept_events(self.corpus)

    @cached_property
    def _user_numbers(self) -> dict[str, int]:
        return {str(user): place + 1 for place, user in enumerate(self.corpus.user_ids)}

    def _item_table(self, numbers: Iterable[int]) -> DataFrame:
        places, catalog = np.array(list(numbers), dtype=np.int64) - 1, self.items.catalog
        return DataFrame(
            {
                "item_id": pd.Series([catalog.ids[place] for place in places], dtype=str),
                "title": pd.Series([catalog.titles[place] for place in places], dtype=str),
                "interactions": catalog.num_interactions[places],
            }
        )


def load(name: str, seed: int | None = None, code: str | None = None, num_beams: int = 0) -> TrainedRow:
    """Load a row from its run file and artifacts.

    Args:
        name: name of the row.
        seed: one of its seeds; None takes the lowest.
        code: FILE.py or MODULE of a policy or baseline of your own, which the run file only names.
        num_beams: least number of beams of a beam search; lists can have as many items. 0 keeps that of the evaluation.

    Raises UsageError if there is no such row or seed, with the command that resumes a run that failed, and ArtifactError if an
    artifact is missing or damaged.

    """
    content = _content(name)
    seeds = tuple(sorted(map(int, content["seeds"])))
    chosen = seeds[0] if seed is None else seed
    if chosen not in seeds:
        raise UsageError(_no_seed(content, chosen, seeds))
    if code is not None:
        loading.import_once(code)
    settings, keys = content["configuration"], content["seeds"][str(chosen)]["artifacts"]
    specification = component_of(settings, "policy", name)
    trainings = sorted(filter(is_training_stage, keys), key=lambda stage: (kind_of_stage(stage) == "align", place_of(stage)))
    needed = ["data", *(["tokenize"] if "tokenize" in keys else []), *trainings[-1:]]
    artifacts = {stage: _artifact(content, chosen, stage, keys[stage]) for stage in needed}
    corpus = Corpus.load(artifacts["data"].folder)
    beams = max(settings.get("evaluate.num_beams") or settings["policy.num_beams"], num_beams) if "policy.num_beams" in settings else 0
    semantic_ids = load_semantic_ids(corpus, {stage: artifact.folder for stage, artifact in artifacts.items()})
    if isinstance(specification, Baseline):
        recommender: Recommender = fitted_baseline(specification, corpus)
    else:
        recommender = on_device(build_trained(specification, semantic_ids, artifacts[trainings[-1]].folder, beams))
    exactly = settings["evaluate.scoring"] == "exact" and bool(trainings)  # a baseline prunes nothing
    items = ItemRecommender(
        name,
        specification,
        recommender,
        _catalog(corpus),
        semantic_ids if "tokenize" in artifacts else None,
        settings["history_length"],
        exactly,
        0 if exactly else beams,
    )
    return TrainedRow(name, chosen, seeds, items, corpus, settings["evaluate.filter_seen"])


def _catalog(corpus: Corpus) -> CatalogItems:
    """Return the catalog of a corpus. An item without a title has its text for a title."""
    table = corpus.items
    texts = table["text"].astype(str)
    titles = texts if "title" not in table else table["title"].astype(str).where(table["title"] != "", texts)
    return CatalogItems(tuple(table["item_id"].astype(str)), tuple(titles), corpus.popularity("train")[1:])


def _content(name: str) -> dict[str, Any]:
    """Return the run file of a row. Raises UsageError if there is none, with the command that resumes a failed run."""
    try:
        return run_files.read(name)
    except UsageError as error:
        failure = _failure(name, None)
        if not failure:
            raise
        raise UsageError(f"{name} has no result yet: {failure}") from error


def _no_seed(content: dict[str, Any], seed: int, seeds: Sequence[int]) -> str:
    """Return the message about a seed that a row does not have."""
    name = content["name"]
    failure = _failure(name, seed)
    how = failure or f"train it with {_command(content, seeds[0], seed)}, or choose one of those"
    return f"{name} has no result of seed {seed}, only of {seeds_in_words(list(seeds))}; {how}"


def _failure(name: str, seed: int | None) -> str:
    """Return where the last run of a row failed or was stopped and the command that goes on, or ""."""
    found = [each for each in failed_runs.read_all()[0] if each.name == name and seed in (None, each.seed)]
    if not found:
        return ""
    last = found[-1]
    where = f"in {last.stage}" if last.stage else "after its last stage"
    return f"seed {last.seed} {'was stopped' if last.stopped else 'failed'} {where}; go on with: {last.command or 'the same run'}"


def _artifact(content: dict[str, Any], seed: int, stage: str, key: str) -> Artifact:
    """Return an artifact of a row. Raises ArtifactError if it was removed, with the command that builds it again."""
    existing = store()
    if not existing.has(stage, key):
        raise ArtifactError(
            f"{content['name']} (seed {seed}) needs the artifact {stage}/{key}, which is no longer in {existing.root}; build it again "
            f"with {_command(content, seed, seed)}"
        )
    return existing.get(stage, key)


def _command(content: dict[str, Any], known: int, seed: int) -> str:
    """Return the command that runs a row with a seed, by the study in which the seed `known` was run."""
    settings = training_hash(content["configuration"])
    found = studies.of_run(studies.read_all(), content["name"], settings, known, run_files.present_settings)
    where = next((study.name for study in found if ":" in study.name), "FILE.py:FUNCTION")
    return f"'genrec run {where} --seeds {seed},'"
