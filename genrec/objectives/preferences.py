"""The preference objective: who proposes the candidates, who judges them, and which loss compares them.

    batch ──► rows ──► candidates ──► rewards ──► log-probabilities ──► preference loss + likelihood ──► step
                       (Proposer)     (Reward)    of policy and reference

Candidates that read no changing weights are drawn and checked on the CPU before the step needs them, so that the GPU does not wait.
The reference runs without dropout.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple

import torch
from torch import Tensor

from genrec import plugin_errors
from genrec.errors import InputError, UsageError
from genrec.objectives.curve_warnings import FallingPositives
from genrec.objectives.preference_logs import preference_logs
from genrec.objectives.preference_state import PreferenceState
from genrec.objectives.row_scores import scores_of
from genrec.objectives.rows import places_of, rows_of
from genrec.objectives.supervised import check_causal, check_sequence_policy, examples_of
from genrec.objectives.validation_pairs import PairMetrics
from genrec.own_ids import OwnIds, name_item, name_user
from genrec.preference.candidates import Sampled
from genrec.preference.exclusions import Exclusions
from genrec.preference.losses import DPO, Anchored, LevelWeighted, SoftmaxDPO
from genrec.preference.losses.kto import check_mismatched_pairs
from genrec.preference.range_checks import check_range
from genrec.preference.rewards import checked_rating
from genrec.store import NEW_IN_KEY
from genrec.types import (
    Candidates,
    LogProbs,
    ObjectiveContext,
    PreferenceLoss,
    Proposals,
    Proposer,
    Reward,
    SequenceBatch,
    SizedProposer,
    TrainingStep,
    WindowBatch,
)
from genrec.types.objective import Feedback, Targets
from genrec.types.specification import check_types

if TYPE_CHECKING:
    RewardOrNone = Reward | None
else:
    RewardOrNone = Annotated[object, Reward | None]  # tyro follows the class of the value; it cannot parse a protocol or None


class HostRows:
    """The CPU tensors of a step. A plain class, so that Lightning does not move them to the GPU: reading them blocks nothing."""

    def __init__(self, rows: SequenceBatch, candidates: Candidates | None) -> None:
        self.rows, self.candidates = rows, candidates


class PreparedRows(NamedTuple):
    """The input of a preference step."""

    batch: SequenceBatch | WindowBatch
    places: Tensor | None  # int64 [X, 2]  window and place of each row; None for prefixes
    rows: SequenceBatch  # [X]
    candidates: Candidates | None  # None if they are proposed within the step
    mismatched: Tensor | None  # int64 [X]  another row's positive, if the loss needs it
    host: HostRows  # rows and candidates on the CPU


@dataclass(frozen=True, kw_only=True)
class Preference:
    """Prefer the first candidate of a row over the others, by a loss of log-probabilities under policy and reference.

    The loss of a step is `weight * (mean of the preference loss) + likelihood * NLL`. The mean is over the rows with a preference:
    all, unless the proposer has a gate. NLL is the mean of -log p(code) over all rows and levels of the first candidate, which is the
    logged item for all proposers but files.
    """

    loss: PreferenceLoss = field(default_factory=lambda: Anchored(SoftmaxDPO()))  # how candidates are compared
    candidates: Proposer = field(default_factory=Sampled)  # who proposes the candidates
    reward: RewardOrNone = None  # who judges them, for losses that need rewards and for chosen="best"
    chosen: Literal["first", "best"] = "first"  # the preferred candidate: the first, or the one with the highest reward
    min_gap: float = 0.0  # with chosen="best": a candidate is rejected if its reward is lower by more than this, 0 or more
    likelihood: float = 0.0  # weight of the negative log-likelihood beside the preference loss, 0 or more
    weight: float = 1.0  # weight of the preference loss, 0 or more
    targets: Targets = "one"  # one target per prefix, or, for a causal policy, every target of a window
    feedback: Feedback = field(default="not disliked", metadata=NEW_IN_KEY)  # which events are preferred, by the labels of the split

    def __post_init__(self) -> None:
        check_types(self, "Preference")
        for name in ("min_gap", "likelihood", "weight"):
            check_range(self, name, 0)
        if isinstance(self.loss, type) or not isinstance(self.loss, PreferenceLoss):
            raise UsageError(f"Preference.loss must be a loss, such as DPO(), with needs = LossNeeds(), got {self.loss!r}")
        if isinstance(self.candidates, type) or not isinstance(self.candidates, Proposer):
            raise UsageError(f"Preference.candidates must be a proposer, such as Sampled(), got {self.candidates!r}")
        if self.reward is not None and (isinstance(self.reward, type) or not isinstance(self.reward, Reward)):
            raise UsageError(f"Preference.reward must be a genrec.types.Reward, got {self.reward!r}")
        if self.reward is None and (self.loss.needs.rewards or self.chosen == "best"):
            needing = "chosen='best'" if self.chosen == "best" else type(self.loss).__name__
            raise UsageError(f"{needing} needs rewards; give Preference.reward, such as RatingRecency() or Popular()")
        _check_pairs(self.loss, self.candidates)

    def check(self, experiment: Any) -> None:
        """Raise UsageError if `targets` is "all" and the policy is not causal."""
        check_causal(self, self.targets, experiment)

    def build_step(self, context: ObjectiveContext) -> TrainingStep:
        """Return the objective for one policy and one training set."""
        check_sequence_policy(self, self.targets, context.policy)
        examples = examples_of(context.source, self.targets, feedback=self.feedback)
        context = context._replace(epoch_steps=-(-len(examples) // context.batch_size))
        proposals = self.candidates.build_proposals(context)
        examples = examples if proposals.examples is None else proposals.examples
        if self.loss.needs.mismatched:
            check_mismatched_pairs(len(examples), context.batch_size, context.steps)
        step = _PreferenceStep(self, context, proposals)
        return TrainingStep(
            examples=examples,
            loss=step.loss,
            prepare=step.prepare,
            begin=proposals.begin,
            state=step.state,
            measure=PairMetrics(context, proposals.for_validation).measure,
            watchers=(FallingPositives(),),
            save=step.save,
        )


class _PreferenceStep:
    """The built objective."""

    def __init__(self, objective: Preference, context: ObjectiveContext, proposals: Proposals) -> None:
        assert context.reference is not None
        self.objective, self.context, self.proposals, self.reference = objective, context, proposals, context.reference
        self.state = PreferenceState(context.data(), proposals.state)
        self.exclusions = Exclusions(context.data()) if objective.loss.needs.mismatched else None
        with plugin_errors.attribute_to(objective.reward, "while the reward was built"):
            self.rate = None if objective.reward is None else checked_rating(objective.reward, context.data()).rate
        self.checked = False

    def prepare(self, batch: SequenceBatch | WindowBatch, step: int) -> PreparedRows:
        """Return the input of a step. Runs on the CPU before the step needs it."""
        rows, places = rows_of(batch), places_of(batch) if isinstance(batch, WindowBatch) else None
        candidates = None if self.proposals.on_host is None else self.proposals.on_host(rows, step)
        if candidates is not None and self.objective.chosen == "first" and self.objective.loss.needs.positive:
            check_positives(self.objective.loss, rows, candidates, self.context.data().own_ids)
        shift = 1 if places is None else len(places) // 2  # neighboring rows of a window batch have the same user
        mismatched = None if self.exclusions is None else mismatched_items(rows, self.exclusions, shift)
        return PreparedRows(batch, places, rows, candidates, mismatched, HostRows(rows, candidates))

    def loss(self, prepared: PreparedRows, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss of a step and the metrics to log."""
        objective, rows = self.objective, prepared.rows
        scores = scores_of(self.context.policy, prepared.batch, prepared.places, rows, self.context.normalize)
        candidates, on_host = prepared.candidates, prepared.host.candidates
        if candidates is None:
            assert self.proposals.in_step is not None
            candidates = self.proposals.in_step(rows, prepared.host.rows, step, scores)
            on_host = candidates
        assert on_host is not None
        logs = self.state.update(prepared.host.rows, on_host)
        candidates, rewards = self._judged(rows, candidates, step)
        items = candidates.items.masked_fill(~candidates.mask, 0)
        scored = items if prepared.mismatched is None else torch.cat([items, prepared.mismatched.unsqueeze(1)], 1)
        levels = scores.level_log_prob(scored)
        with torch.no_grad():
            frozen = scores_of(self.reference.policy, prepared.batch, prepared.places, rows, self.context.normalize)
            reference_levels = frozen.level_log_prob(scored)
        ours, theirs = (log_probs(each, items.shape[1] - 1, rewards) for each in (levels, reference_levels))
        with plugin_errors.attribute_to(objective.loss, f"in step {step}"):
            terms = objective.loss(ours, theirs)
        if not self.checked:
            plugin_errors.check_terms(objective.loss, terms, ours)
            self.checked = True
        pair = slice(0, items.shape[1])  # without a mismatched item
        logs |= preference_logs(terms, levels[:, pair].detach(), reference_levels[:, pair], items[:, 1:])
        return self._total(terms.loss, candidates.rows, levels[:, 0], logs)

    def _judged(self, rows: SequenceBatch, candidates: Candidates, step: int) -> tuple[Candidates, Tensor | None]:
        """Return the candidates, the preferred one first, and their rewards float32 [X, M], -inf where masked."""
        if self.rate is None:
            return candidates, None
        with plugin_errors.attribute_to(self.objective.reward, f"while the reward rated items in step {step}"):
            rewards = self.rate(rows, candidates.items.masked_fill(~candidates.mask, 0))
        if self.objective.chosen == "first":
            return candidates, rewards
        return best_first(candidates, rewards, self.objective.min_gap)

    def _total(
        self, losses: Tensor, counted: Tensor | None, chosen: Tensor, logs: dict[str, Tensor]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the weighted sum of the preference loss of rows [X] and the likelihood, and the logs.

        `counted` is bool [X] or None, `chosen` float32 [X, L] holds the level log-probabilities of the first candidate.
        """
        mean = losses.mean() if counted is None else torch.where(counted, losses, 0.0).sum() / counted.sum().clamp(min=1)
        total = mean if self.objective.weight == 1 else self.objective.weight * mean
        if counted is not None:
            logs = logs | {"preference_share": counted.float().mean(), "preference_loss": mean.detach()}
        if self.objective.likelihood:
            likelihood = -(chosen.mean() if self.objective.loss.needs.positive else mean_of_positives(chosen))
            logs = logs | {"likelihood_loss": likelihood.detach()}
            total = total + self.objective.likelihood * likelihood
        return total, logs

    def save(self, folder: Path) -> None:
        """Write the statistics and the counts of the rejected candidates."""
        self.state.save(folder)
        if self.proposals.save is not None:
            self.proposals.save(folder)


def log_probs(levels: Tensor, num_rejected: int | None = None, rewards: Tensor | None = None) -> LogProbs:
    """Sum level log-probabilities float32 [X, 1 + K (+ 1), L] of the positive, K negatives (and a mismatched item) over the levels.

    `num_rejected` is K; None means that all candidates but the first are negatives.
    """
    total = levels.sum(-1)
    count = total.shape[1] - 1 if num_rejected is None else num_rejected
    mismatched = total[:, 1 + count] if total.shape[1] > 1 + count else None
    return LogProbs(total[:, 0], total[:, 1 : 1 + count], levels.shape[-1], mismatched, rewards, levels[:, : 1 + count])


def check_positives(loss: PreferenceLoss, rows: SequenceBatch, candidates: Candidates, own_ids: OwnIds | None) -> None:
    """Raise InputError if a row that takes part has negatives but no positive, for a loss that needs one. All tensors on the CPU."""
    missing = ~candidates.mask[:, 0] & candidates.mask[:, 1:].any(1)
    missing = missing if candidates.rows is None else missing & candidates.rows
    if bool(missing.any()):
        row = int(missing.nonzero()[0])
        item = int(candidates.items[row, 1:][candidates.mask[row, 1:]][0])
        raise InputError(
            f"{name_user(own_ids, int(rows.user[row]))} has a rejected item, {name_item(own_ids, item)}, and no preferred one, but "
            f"{type(loss).__name__} compares the two; use KTO(paired=False), which learns from single items, or leave such rows out "
            "(Candidates.rows)"
        )


def mean_of_positives(chosen: Tensor) -> Tensor:
    """Return the mean of level log-probabilities float32 [X, L] over the rows with a positive (not -inf); 0 if there is none."""
    present = ~chosen.isneginf().any(1, keepdim=True)
    return chosen.masked_fill(~present, 0.0).sum() / (present.sum() * chosen.shape[1]).clamp(min=1)


def best_first(candidates: Candidates, rewards: Tensor, min_gap: float) -> tuple[Candidates, Tensor]:
    """Return the candidates with the highest reward first, and their rewards; equal rewards keep their order.

    A candidate is masked unless its reward is lower than the best by more than `min_gap`. Rows without such a candidate, which
    compare nothing, take no part.
    """
    rewards = rewards.masked_fill(~candidates.mask, -torch.inf)
    rewards, order = rewards.sort(dim=1, descending=True, stable=True)
    mask = candidates.mask.gather(1, order) & (rewards < rewards[:, :1] - min_gap)
    counted = mask.any(1)
    mask[:, 0] = candidates.mask.gather(1, order)[:, 0]
    counted = counted if candidates.rows is None else counted & candidates.rows
    return candidates._replace(items=candidates.items.gather(1, order), mask=mask, rows=counted), rewards


def mismatched_items(rows: SequenceBatch, exclusions: Exclusions, shift: int = 1) -> Tensor:
    """Return the positive of the row `shift` places before, int64 [X], 0 where both positives share a Semantic ID.

    KTO uses these mismatched pairs as its baseline.
    """
    other = rows.target.roll(shift)
    same = exclusions.shares_semantic_id(rows, other.unsqueeze(1)).squeeze(1)
    return other.masked_fill(same, 0)


def _check_pairs(loss: PreferenceLoss, candidates: Proposer) -> None:
    """Raise UsageError if the loss is DPO, which compares one pair, and the proposer gives more."""
    while isinstance(loss, Anchored | LevelWeighted):
        loss = loss.loss
    if isinstance(loss, DPO) and isinstance(candidates, SizedProposer) and candidates.most_candidates() > 2:
        raise UsageError(
            f"DPO takes one negative, got {candidates.most_candidates() - 1} from {candidates!r}; set num_negatives to 1 "
            "(--align.num-negatives 1), or use SoftmaxDPO (S-DPO)"
        )
