"""The logged item against Semantic IDs that no item has, which generation without the trie would end in."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, cast

import torch
from torch import Tensor

from genrec.errors import UsageError
from genrec.plugin_source import components, name_with_place
from genrec.policy_modules import evaluation_mode
from genrec.preference.candidates.invalid_codes import (
    RealCodes,
    corrupted,
    has_invalid_codes,
    most_probable,
    sampled,
    take_first_codes,
)
from genrec.preference.candidates.proposing_policy import ProposingPolicy
from genrec.preference.candidates.row_scores import check_scores_codes
from genrec.preference.example_randomness import ExampleRandomness
from genrec.randomness import generator
from genrec.types import (
    Candidates,
    DecodingPolicy,
    ObjectiveContext,
    Policy,
    Proposals,
    Refresh,
    RowScores,
    SamplerContext,
    SequenceBatch,
)
from genrec.types.specification import check_at_least, check_types


@dataclass(frozen=True, kw_only=True)
class InvalidIds:
    """The logged item, which is preferred, and invalid Semantic IDs: code sequences that no item has.

    - `by="beams"`: the policy's most probable ones, by a beam search without the trie.
    - `by="samples"`: those among `pool_size` samples of the policy without the trie, in the order of the draws.
    - `by="corruptions"`: the target's codes, `num_replaced` of them replaced by other codes of their levels. An example has the same
      ones in every epoch, so the reference scores them once.

    Samples depend on the seed, the step and the example, corruptions on the seed and the example. A row with fewer sequences ends in
    masked candidates. The candidates are scored without the trie, so `Align.normalize` must be "codes". Validation has no pairs of
    them; the share of valid samples (`valid_share`) is in the curves.
    """

    by: Literal["beams", "samples", "corruptions"] = "beams"
    num_negatives: int = 3  # K, invalid Semantic IDs of a row, at least 1
    pool_size: int = 32  # prefixes that the search keeps, samples, or corruptions that are drawn for a row; at least num_negatives
    num_replaced: int = 1  # codes that a corruption replaces, at least 1; for by="corruptions"
    refresh: int = 1  # steps between copies of the policy that proposes; 1: the policy in training itself, 0: the reference

    def __post_init__(self) -> None:
        check_types(self, "InvalidIds")
        check_at_least(self, "InvalidIds", 1, "num_negatives", "num_replaced")
        check_at_least(self, "InvalidIds", 0, "refresh")
        if self.pool_size < self.num_negatives:
            raise UsageError(f"InvalidIds.pool_size must be at least num_negatives = {self.num_negatives}, got {self.pool_size}")

    def check(self, experiment: Any) -> None:
        """Raise UsageError if every code is an item's, or if an alignment normalizes over the codes of items alone."""
        if experiment.tokenize is None:
            raise UsageError(
                f"{experiment.name}: InvalidIds needs Semantic IDs, but with tokenize=None every code of "
                f"{name_with_place(type(experiment.policy))} is an item; use a policy over Semantic IDs, such as Tiger or Gpt"
            )
        for recipe in experiment.alignments:
            if self in components(recipe) and recipe.normalize != "codes":
                raise UsageError(
                    f"{experiment.name}: align.normalize '{recipe.normalize}' gives invalid Semantic IDs the probability 0, but "
                    "InvalidIds compares theirs; set align.normalize codes"
                )

    def check_context(self, context: SamplerContext) -> None:
        """Raise UsageError if the policy cannot score or generate code sequences, or if the catalog has all of them."""
        if context.policy is not None:
            self._check_policy(context.policy)
        sizes = context.semantic_ids.level_sizes
        if not has_invalid_codes(context.semantic_ids):
            raise UsageError(
                f"InvalidIds: all code sequences of the levels {', '.join(map(str, sizes))} are Semantic IDs of items, so none is "
                "invalid; use another proposer, or a tokenizer with more codes"
            )
        most = sum(size > 1 for size in sizes)
        if self.by == "corruptions" and self.num_replaced > most:
            raise UsageError(
                f"InvalidIds.num_replaced must be at most {most}, the levels with two codes or more, got {self.num_replaced}"
            )

    def most_candidates(self) -> int:
        """Return the largest number of candidates of a row."""
        return 1 + self.num_negatives

    def proposes_codes(self) -> bool:
        """Return true: the negatives are code sequences that no item has."""
        return True

    def policy_refresh(self) -> Refresh | None:
        """Return the refresh of the copy that proposes, or None if the policy in training does."""
        return None if self.refresh == 1 else Refresh(self.refresh)

    def build_proposals(self, context: ObjectiveContext) -> Proposals:
        """Return the proposer for one policy and one training set."""
        data = context.data()
        self.check_context(data._replace(policy=context.policy))
        real = RealCodes(data.semantic_ids)
        if self.by == "corruptions":
            codes = torch.cat([torch.zeros(1, len(real.sizes), dtype=torch.int64), data.semantic_ids.codes])  # int64 [N + 1, L]

            def on_host(rows: SequenceBatch, step: int) -> Candidates:
                uniform = self._uniform(rows, 2 * len(real.sizes), context.seed, "corrupted Semantic IDs")
                return self._candidates(rows.target, corrupted(codes[rows.target], real.sizes, self.num_replaced, uniform), real)

            return Proposals(on_host=on_host, static=True)
        proposing = ProposingPolicy("InvalidIds", self.refresh, context, "invalid Semantic IDs")

        def in_step(rows: SequenceBatch, host: SequenceBatch, step: int, scores: RowScores) -> Candidates:
            policy = cast(DecodingPolicy, proposing.policy)
            with evaluation_mode(policy):
                if self.by == "beams":
                    found = most_probable(policy, rows.history, real, self.num_negatives, self.pool_size)
                    return _with_target(rows.target, found)
                uniform = self._uniform(host, len(real.sizes), context.seed, "invalid Semantic IDs", step)
                return self._candidates(rows.target, sampled(policy, rows.history, real.sizes, uniform), real)

        return Proposals(in_step=in_step, begin=proposing.begin)

    def _uniform(self, rows: SequenceBatch, width: int, seed: int, *purpose: str | int) -> Tensor:
        """Return uniform numbers of each example for each of its draws, float64 [X, pool_size, width]."""
        numbers = ExampleRandomness(rows, generator(seed, *purpose)).uniform(self.pool_size * width)
        return numbers.view(len(rows.target), self.pool_size, width)

    def _candidates(self, target: Tensor, drawn: Tensor, real: RealCodes) -> Candidates:
        """Return the targets int64 [X] and the first distinct invalid ones of sequences int64 [X, P, L]."""
        return _with_target(target, take_first_codes(drawn, ~real(drawn), self.num_negatives))

    def _check_policy(self, policy: Policy) -> None:
        check_scores_codes(policy, "codes", type(self).__name__)
        if self.by != "corruptions" and not isinstance(policy, DecodingPolicy):
            raise UsageError(
                f'InvalidIds(by="{self.by}") needs a policy that generates codes (genrec.types.DecodingPolicy), got '
                f'{name_with_place(type(policy))}; use InvalidIds(by="corruptions")'
            )


def _with_target(target: Tensor, invalid: Tensor) -> Candidates:
    """Return the candidates of targets int64 [X] and invalid Semantic IDs int64 [X, K, L], -1 for none."""
    found = invalid[..., 0] >= 0
    items = torch.cat([target.unsqueeze(1), torch.zeros_like(invalid[..., 0])], 1)
    codes = torch.cat([torch.full_like(invalid[:, :1], -1), invalid], 1)
    return Candidates(items, torch.cat([torch.ones_like(found[:, :1]), found], 1), found.any(1), codes=codes)
