"""The logged item and sampled negatives."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from genrec.errors import UsageError
from genrec.preference.candidates.step_sampler import StepSampler
from genrec.preference.negatives import BestOf, Uniform
from genrec.preference.negatives.capabilities import check_is_sampler, inner_samplers, most_negatives
from genrec.types import Candidates, NegativeSampler, ObjectiveContext, Proposals, RowScores, SequenceBatch
from genrec.types.specification import check_types


@dataclass(frozen=True)
class Sampled:
    """The logged next item, which is preferred, and K negatives of a sampler (`genrec.preference.negatives`).

    Negatives are sampled and checked on the CPU before the step needs them, or within the step if the sampler reads the policy.
    """

    negatives: NegativeSampler = field(default_factory=Uniform)  # the sampler of rejected items
    num_negatives: int = 3  # K, negatives per positive, at least 1

    def __post_init__(self) -> None:
        check_types(self, "Sampled")
        check_is_sampler("Sampled.negatives", self.negatives)
        if self.num_negatives < 1:
            raise UsageError(f"Sampled.num_negatives must be at least 1, got {self.num_negatives}")
        _check_best_of(self.negatives, self.num_negatives, "Sampled.num_negatives")

    def check(self, experiment: Any) -> None:
        """Raise UsageError if no row can get `num_negatives` negatives, because the sampler has fewer candidates by its settings."""
        most = most_negatives(self.negatives, experiment)
        if most < self.num_negatives:
            raise UsageError(
                f"{experiment.name}: Sampled.num_negatives = {self.num_negatives}, but {self.negatives!r} gives a row at most "
                f"{most:.0f} negatives in this experiment; lower it, or give the sampler more candidates (pool_size, "
                "num_beams, recent, batch_size)"
            )

    def check_catalog(self, num_items: int) -> None:
        """Raise UsageError if the catalog has too few items for the negatives of a row, which never include the positive."""
        if self.num_negatives >= num_items:
            raise UsageError(
                f"Sampled.num_negatives must be below the number of items, {num_items:,}, got {self.num_negatives:,}: negatives are "
                f"distinct items other than the positive; lower it to at most {num_items - 1:,}, on the command line by "
                "--align.num-negatives, or --sft.num-negatives in SFT"
            )

    def most_candidates(self) -> int:
        """Return the largest number of candidates of a row."""
        return 1 + self.num_negatives

    def build_proposals(self, context: ObjectiveContext) -> Proposals:
        """Return the proposer for one policy and one training set."""
        sampler = StepSampler(self.negatives, self.num_negatives, context)

        def on_host(rows: SequenceBatch, step: int) -> Candidates:
            return logged_and(rows.target, sampler(rows, step))

        def in_step(rows: SequenceBatch, host: SequenceBatch, step: int, scores: RowScores) -> Candidates:
            return logged_and(rows.target, sampler(host, step).to(rows.target.device))

        def for_validation(rows: SequenceBatch) -> Candidates:
            return logged_and(rows.target, sampler.for_validation(rows))

        return Proposals(
            on_host=None if sampler.reads_policy else on_host,
            in_step=in_step if sampler.reads_policy else None,
            begin=sampler.begin,
            for_validation=for_validation,
        )


def logged_and(target: Tensor, negatives: Tensor) -> Candidates:
    """Return the candidates of rows with targets int64 [X] and negatives int64 [X, K], 0 where masked."""
    items = torch.cat([target.unsqueeze(1), negatives], 1)
    return Candidates(items, items > 0)


def _check_best_of(sampler: NegativeSampler, count: int, name: str) -> None:
    """Raise UsageError if a `BestOf`, at any depth, draws fewer candidates than the negatives requested from it."""
    if isinstance(sampler, BestOf):
        if sampler.num_candidates < count:
            raise UsageError(
                f"BestOf.num_candidates must be at least {name} = {count}, the negatives that it selects, got {sampler.num_candidates}"
            )
        count, name = sampler.num_candidates, "num_candidates"
    for inner in inner_samplers(sampler):
        _check_best_of(inner, count, name)
