"""Statistics and counts of the rejected candidates of a training, which are part of its checkpoint and of its artifact."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import cast

import torch
from torch import Tensor

from genrec import process_group
from genrec.objective_state import FixedTensors, JoinedStates
from genrec.preference.draw_counts import DrawCounts
from genrec.preference.negative_statistics import NegativeStatistics, Summary
from genrec.progress import say
from genrec.store import write_json
from genrec.types import Candidates, ObjectiveState, SamplerContext, SequenceBatch

MAX_EMPTY_SHARE = 0.5  # warn if a larger share of the examples got no negative
_GATED = "gated"  # name of the tensor bool [1]
COUNTED = frozenset(
    {"rows", "places", "empty_rows", "draws", "cosine", "depths", "drawn_pairs", "drawn_counts", _GATED}
)  # own tensors
_PROPOSER = "proposer."  # prefix of the names of a proposer's tensors


class PreferenceState:
    """The tensors that a preference objective changes, with those of its proposer and the kept scores of the reference (`cache`)."""

    def __init__(self, context: SamplerContext, proposer: ObjectiveState | None = None, cache: ObjectiveState | None = None) -> None:
        self.gated = torch.zeros(1, dtype=torch.bool)  # whether the proposer leaves out rows on purpose
        self.statistics, self.draw_counts = NegativeStatistics(context), DrawCounts(context.item_count)
        self.proposer: ObjectiveState = FixedTensors() if proposer is None else proposer
        self.cache: ObjectiveState = FixedTensors() if cache is None else cache

    def update(self, rows: SequenceBatch, candidates: Candidates) -> dict[str, Tensor]:
        """Add the candidates after the first of a batch, and return the statistics to log.

        Rows are on the CPU. Their target is the preferred item, with which the statistics compare the others.
        """
        counted = candidates.mask if candidates.rows is None else candidates.mask & candidates.rows.unsqueeze(1)
        rejected = candidates.items.masked_fill(~counted, 0)[:, 1:].cpu()
        invalid = None if candidates.codes is None else (counted & (candidates.codes[..., 0] >= 0))[:, 1:].cpu()
        logs = self.statistics.update(rows, rejected, invalid)
        self.draw_counts.update(rows.user, rejected)
        return logs

    def tensors(self) -> dict[str, Tensor]:
        """Return all tensors by name."""
        own = self.statistics.totals | self.draw_counts.tensors() | self.cache.tensors() | {_GATED: self.gated}
        return own | {f"{_PROPOSER}{name}": value for name, value in self.proposer.tensors().items()}

    def restore(self, saved: Mapping[str, Tensor]) -> None:
        """Take the tensors of a checkpoint. Raise ValueError if they do not fit."""
        FixedTensors(self.statistics.totals | {_GATED: self.gated}).restore(saved)
        self.draw_counts.restore(saved)
        self.cache.restore(saved)
        names = [name for name in saved if name.startswith(_PROPOSER)]
        self.proposer.restore({name.removeprefix(_PROPOSER): saved[name] for name in names})

    def collect(self) -> None:
        """Move the counts of all processes that train together to the first one."""
        totals, drawn = process_group.of_all(self.statistics.totals), process_group.of_all(self.draw_counts.tensors())
        is_gated = any(process_group.of_all(bool(self.gated)))
        self.gated.fill_(is_gated)
        if not process_group.leads():
            self.clear()
            return
        for others in totals[1:]:
            for name, total in others.items():
                self.statistics.totals[name] += total
        for tensors in drawn[1:]:
            other = DrawCounts(self.draw_counts.width - 1)
            other.restore(tensors)
            self.draw_counts.add(other)

    def clear(self) -> None:
        """Forget all counts."""
        for total in self.statistics.totals.values():
            total.zero_()
        self.draw_counts.restore({name: value[:0] for name, value in self.draw_counts.tensors().items()})

    def save(self, folder: Path) -> None:
        """Write `negatives.json` and `drawn_negatives.parquet`. Warn if many examples got no negative."""
        _write(self.statistics, self.draw_counts, folder)
        if not bool(self.gated):
            _warn_if_few_negatives(self.statistics.summary())


def preference_states(state: ObjectiveState | None) -> list[PreferenceState]:
    """Return the states of preferences in the state of an objective, also those of parts of a `Rounds`."""
    if isinstance(state, JoinedStates):
        return [each for part in state.parts.values() for each in preference_states(part)]
    return [state] if isinstance(state, PreferenceState) else []


def save_together(states: Sequence[PreferenceState], folder: Path) -> None:
    """Write one `negatives.json` and one `drawn_negatives.parquet` of the negatives of all states."""
    context = states[0].statistics.context
    statistics, draw_counts = NegativeStatistics(context), DrawCounts(context.item_count)
    for state in states:
        for name, total in state.statistics.totals.items():
            statistics.totals[name] += total
        draw_counts.add(state.draw_counts)
    _write(statistics, draw_counts, folder)


def _write(statistics: NegativeStatistics, draw_counts: DrawCounts, folder: Path) -> None:
    write_json(folder / "negatives.json", statistics.summary())
    draw_counts.table().to_parquet(folder / "drawn_negatives.parquet", index=False)


def _warn_if_few_negatives(summary: Summary) -> None:
    """Warn if most examples got no negative. Their preference loss is 0, so only the likelihood trains on them."""
    examples, without = cast(int, summary["examples"]), cast(int, summary["examples_without_negatives"])
    if without > MAX_EMPTY_SHARE * examples:
        say(
            f"alignment: {without} of {examples} examples got no negative; their preference loss is 0, and only an anchor (Anchored) "
            "or Preference.likelihood trains on them; give the proposer more candidates or exclude fewer"
        )
