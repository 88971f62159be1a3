"""Contexts, rows and small policies for the tests of proposers."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from typing import Any

import pandas as pd
import torch
from torch import Generator, Tensor, nn

from genrec.baselines import SASRec
from genrec.item_rows import last_places
from genrec.preference.candidates.policy_scores import CatalogScores
from genrec.preference.negatives import Uniform
from genrec.semantic_ids import SemanticIds
from genrec.types import Draw, ObjectiveContext, Ranking, SamplerContext, SequenceBatch, WindowBatch


def one_level(items: int) -> SemanticIds:
    """Return Semantic IDs of one level, in which item i has code i - 1."""
    return SemanticIds(torch.arange(items)[:, None])


def sasrec(items: int, seed: int = 0, dropout: float = 0.0) -> Any:
    """Return an untrained SASRec policy in evaluation mode, with weights large enough to tell items apart."""
    torch.manual_seed(seed)
    policy = SASRec(d_model=8, d_ff=8, dropout=dropout).build(one_level(items)).eval()
    nn.init.normal_(policy.embedding.weight, std=0.5)
    return policy


class TablePolicy(nn.Module):
    """A `CatalogPolicy` of one level: the scores of the next item are a row of a table, chosen by the last item of the history."""

    def __init__(self, table: Tensor) -> None:
        super().__init__()
        self.table = nn.Parameter(table.clone())  # [R, N]; history item i reads row i - 1

    def catalog_log_prob(self, history: Tensor, places: Tensor) -> Tensor:
        last = history[places[:, 0], places[:, 1]]
        return self.table[last - 1].log_softmax(-1)

    def level_log_prob(self, history: Tensor, items: Tensor) -> Tensor:
        return CatalogScores(self.catalog_log_prob(history, last_places(history))).level_log_prob(items)

    def log_prob(self, history: Tensor, items: Tensor) -> Tensor:
        return self.level_log_prob(history, items).squeeze(-1)

    def recommend(self, history: Tensor, n: int, exclude: Tensor | None = None) -> Ranking:
        return CatalogScores(self.catalog_log_prob(history, last_places(history))).top(n, exclude)


class FrozenCopy:
    """A `genrec.types.FrozenPolicy`."""

    def __init__(self, policy: Any) -> None:
        self.source, self.copy, self.refreshed, self.kept = policy, copy.deepcopy(policy).eval(), 0, False

    @property
    def policy(self) -> Any:
        return self.copy

    def keep(self) -> None:
        pass

    def refresh(self) -> None:
        self.refreshed += 1
        self.copy.load_state_dict(self.source.state_dict())


def data_of(semantic_ids: SemanticIds, events: dict[int, list[int]] | None = None) -> SamplerContext:
    """Return training data: the items of each user, in order."""
    pairs = [(user, item, time) for user, items in (events or {1: [1]}).items() for time, item in enumerate(items)]
    interactions = pd.DataFrame(pairs, columns=["user", "item", "time"]).astype("int64")
    items = semantic_ids.items
    popularity = torch.bincount(torch.tensor([item for _, item, _ in pairs]), minlength=items + 1)
    return SamplerContext(items, interactions, popularity, torch.zeros(items + 1, 2), semantic_ids)


def context_of(policy: Any, data: SamplerContext, reference: Any = None, normalize: Any = "codes") -> ObjectiveContext:
    """Return a context; its frozen copies are recorded in `copies_of`."""
    copies: dict[str, FrozenCopy] = {}

    def frozen_copy(name: str) -> FrozenCopy:
        assert name not in copies, f"two copies are named {name}"
        copies[name] = FrozenCopy(policy)
        return copies[name]

    frozen_copy.copies = copies  # type: ignore[attr-defined]
    return ObjectiveContext(
        policy=policy, reference=None if reference is None else FrozenCopy(reference), source=None, data=lambda: data,
        frozen_copy=frozen_copy, normalize=normalize, steps=10, batch_size=4, seed=0,
    )  # type: ignore[arg-type]  # fmt: skip


def copies_of(context: ObjectiveContext) -> dict[str, FrozenCopy]:
    """Return the frozen copies of a context by name."""
    found: dict[str, FrozenCopy] = context.frozen_copy.copies  # type: ignore[attr-defined]
    return found


def rows_of(history: list[list[int]], target: list[int], user: list[int] | None = None) -> SequenceBatch:
    """Return rows; histories are left-padded."""
    longest = max(map(len, history))
    padded = torch.tensor([[0] * (longest - len(each)) + each for each in history])
    return SequenceBatch(torch.tensor(user or [1] * len(target)), padded, torch.tensor(target))


def rows_of_windows(batch: WindowBatch) -> tuple[Tensor, SequenceBatch]:
    """Return the places with a target, int64 [X, 2], and their rows, one after the other."""
    places = batch.target.nonzero()
    longest = batch.history.shape[1]
    history = []
    for window, place in places.tolist():
        seen = batch.history[window, : place + 1]
        history.append(torch.cat([seen.new_zeros(longest - len(seen)), seen]))
    window, place = places.unbind(1)
    return places, SequenceBatch(batch.user[window], torch.stack(history), batch.target[window, place])


def random_windows(items: int, seed: int, windows: int = 4, length: int = 6, gaps: bool = False) -> WindowBatch:
    """Return left-padded windows with some targets, at least one; every place with a target comes after an item."""
    generator = torch.Generator().manual_seed(seed)
    history = torch.randint(1, items + 1, (windows, length), generator=generator)
    start = torch.randint(0, length, (windows, 1), generator=generator)
    history = history.masked_fill(torch.arange(length) < start, 0)
    if gaps:
        history = history * (torch.rand(history.shape, generator=generator) < 0.8)
        history[:, -1] = 1
    target = torch.randint(1, items + 1, history.shape, generator=generator)
    target = target * (torch.rand(history.shape, generator=generator) < 0.7) * (history.cumsum(1) > 0)
    target[:, -1] = 1
    return WindowBatch(torch.arange(1, windows + 1), history, target)


@dataclass(frozen=True)
class Growing:
    """A sampler that changes during training and records the progress that it is given."""

    calls: list[float] = field(default_factory=list)

    def build(self, context: SamplerContext) -> Draw:
        inner = Uniform().build(context)

        def at(progress: float) -> Draw:
            self.calls.append(progress)
            return inner

        def draw(batch: SequenceBatch, count: int, generator: Generator) -> Tensor:
            raise AssertionError("call the draw that `at` returns")

        return Draw(draw=draw, at=at)
