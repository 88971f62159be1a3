"""Statistics and counts of the candidates of a training, which are part of its checkpoint and of its artifact."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, cast

import torch
from torch import Tensor

from genrec import process_group
from genrec.evaluation.comparison.missing_negatives import MAX_SHARE
from genrec.objective_state import FixedTensors, JoinedStates
from genrec.preference.draw_counts import DrawCounts
from genrec.preference.negative_statistics import NegativeStatistics, Summary
from genrec.progress import say
from genrec.store import write_json
from genrec.types import Candidates, ObjectiveState, SamplerContext, SequenceBatch

MAX_EMPTY_SHARE = 0.5  # warn if a larger share of the examples got no negative
_GATED = "gated"  # name of the tensor bool [1]
_PREFERRED = "preferred"  # name of the counts of preferred items
COUNTED = frozenset(
    {"rows", "places", "empty_rows", "draws", "cosine", "depths", "drawn_pairs", "drawn_counts", _GATED}
    | {f"{_PREFERRED}_pairs", f"{_PREFERRED}_counts"}
)  # own tensors
_PROPOSER = "proposer."  # prefix of the names of a proposer's tensors


class PreferenceState:
    """The tensors that a preference objective changes, with those of its proposer and the kept scores of the reference (`cache`).

    `preferred`: the preferred items are counted too, because they may be other items than the logged ones; "all" counts those of rows
    that take no part in the preference as well, because their likelihood is raised.
    """

    def __init__(
        self, context: SamplerContext, proposer: ObjectiveState | None = None, cache: ObjectiveState | None = None,
        preferred: Literal["none", "taking part", "all"] = "none",
    ) -> None:  # fmt: skip
        self.counts_all_rows = preferred == "all"
        self.preferred = None if preferred == "none" else DrawCounts(context.item_count, _PREFERRED)
        self.gated = torch.zeros(1, dtype=torch.bool)  # whether the proposer leaves out rows on purpose
        self.statistics, self.draw_counts = NegativeStatistics(context), DrawCounts(context.item_count)
        self.proposer: ObjectiveState = FixedTensors() if proposer is None else proposer
        self.cache: ObjectiveState = FixedTensors() if cache is None else cache

    def update(self, rows: SequenceBatch, candidates: Candidates) -> dict[str, Tensor]:
        """Add the candidates of a batch, and return the statistics of those after the first to log.

        Rows are on the CPU. Their target is the preferred item, with which the statistics compare the others.
        """
        counted = candidates.mask if candidates.rows is None else candidates.mask & candidates.rows.unsqueeze(1)
        items = candidates.items.masked_fill(~counted, 0).cpu()
        rejected = items[:, 1:]
        if self.preferred is not None:
            first = candidates.items[:, :1].masked_fill(~candidates.mask[:, :1], 0).cpu() if self.counts_all_rows else items[:, :1]
            self.preferred.update(rows.user, first)
        invalid = None if candidates.codes is None else (counted & (candidates.codes[..., 0] >= 0))[:, 1:].cpu()
        logs = self.statistics.update(rows, rejected, invalid)
        self.draw_counts.update(rows.user, rejected)
        return logs

    def tensors(self) -> dict[str, Tensor]:
        """Return all tensors by name."""
        own = self.statistics.totals | self.cache.tensors() | {_GATED: self.gated}
        for counts in self._counts():
            own |= counts.tensors()
        return own | {f"{_PROPOSER}{name}": value for name, value in self.proposer.tensors().items()}

    def restore(self, saved: Mapping[str, Tensor]) -> None:
        """Take the tensors of a checkpoint. Raise ValueError if they do not fit."""
        FixedTensors(self.statistics.totals | {_GATED: self.gated}).restore(saved)
        for counts in self._counts():
            counts.restore(saved)
        self.cache.restore(saved)
        names = [name for name in saved if name.startswith(_PROPOSER)]
        self.proposer.restore({name.removeprefix(_PROPOSER): saved[name] for name in names})

    def collect(self) -> None:
        """Move the counts of all processes that train together to the first one."""
        totals = process_group.of_all(self.statistics.totals)
        counted = [process_group.of_all(counts.tensors()) for counts in self._counts()]
        is_gated = any(process_group.of_all(bool(self.gated)))
        self.gated.fill_(is_gated)
        if not process_group.leads():
            self.clear()
            return
        for others in totals[1:]:
            for name, total in others.items():
                self.statistics.totals[name] += total
        for counts, tensors_of_all in zip(self._counts(), counted, strict=True):
            for tensors in tensors_of_all[1:]:
                other = DrawCounts(counts.width - 1, counts.name)
                other.restore(tensors)
                counts.add(other)

    def clear(self) -> None:
        """Forget all counts."""
        for total in self.statistics.totals.values():
            total.zero_()
        for counts in self._counts():
            counts.clear()

    def _counts(self) -> list[DrawCounts]:
        """Return the counts of negatives, and of preferred items if they are counted."""
        return [self.draw_counts] if self.preferred is None else [self.draw_counts, self.preferred]

    def save(self, folder: Path, sampler: str | None = None) -> None:
        """Write `negatives.json`, `drawn_negatives.parquet` and, if they are counted, `preferred_items.parquet`.

        Warn if many examples got no negative, or if `sampler`, the name of a sampler that was asked for a number of negatives, did not
        find many of them.
        """
        _write(self.statistics, self.draw_counts, self.preferred, folder)
        if not bool(self.gated):
            _warn_if_few_negatives(self.statistics.summary(), sampler)


def preference_states(state: ObjectiveState | None) -> list[PreferenceState]:
    """Return the states of preferences in the state of an objective, also those of parts of a `Rounds`."""
    if isinstance(state, JoinedStates):
        return [each for part in state.parts.values() for each in preference_states(part)]
    return [state] if isinstance(state, PreferenceState) else []


def save_together(states: Sequence[PreferenceState], folder: Path) -> None:
    """Write one file of each kind with the negatives and the preferred items of all states."""
    context = states[0].statistics.context
    statistics, draw_counts = NegativeStatistics(context), DrawCounts(context.item_count)
    counting = [state.preferred for state in states if state.preferred is not None]
    preferred = DrawCounts(context.item_count, _PREFERRED) if counting else None
    for state in states:
        for name, total in state.statistics.totals.items():
            statistics.totals[name] += total
        draw_counts.add(state.draw_counts)
    for counts in counting:
        assert preferred is not None
        preferred.add(counts)
    _write(statistics, draw_counts, preferred, folder)


def _write(statistics: NegativeStatistics, draw_counts: DrawCounts, preferred: DrawCounts | None, folder: Path) -> None:
    write_json(folder / "negatives.json", statistics.summary())
    draw_counts.table().to_parquet(folder / "drawn_negatives.parquet", index=False)
    if preferred is not None:
        preferred.table().to_parquet(folder / "preferred_items.parquet", index=False)


def _warn_if_few_negatives(summary: Summary, sampler: str | None) -> None:
    """Warn if most examples got no negative, or if a sampler did not find many of the requested ones.

    The preference loss of an example without a negative is 0, so only the likelihood trains on it.
    """
    examples, without = cast(int, summary["examples"]), cast(int, summary["examples_without_negatives"])
    missing = cast(float, summary["shortfall_share"] or 0.0)
    if without > MAX_EMPTY_SHARE * examples:
        say(
            f"alignment: {without} of {examples} examples got no negative; their preference loss is 0, and only an anchor (Anchored) "
            "or a likelihood (--align.likelihood) trains on them; give the proposer more candidates or exclude fewer"
        )
    elif sampler is not None and missing > MAX_SHARE:
        say(
            f"alignment: {sampler} did not find {missing:.1%} of the requested negatives (drawn_shortfall of genrec curves), so rows "
            "were compared with fewer than num_negatives; lower num_negatives, or give the sampler more candidates"
        )
