"""The preference objective: who proposes the candidates, who judges them, and which loss compares them.

    batch ──► rows ──► candidates ──► rewards ──► log-probabilities ──► preference loss + likelihood ──► step
                       (Proposer)     (Reward)    of policy and reference

Candidates that read no changing weights are drawn and checked on the CPU before the step needs them, so that the GPU does not wait.
The reference runs without dropout.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import torch
from torch import Tensor

from genrec import plugin_errors
from genrec.data.examples import epoch_steps
from genrec.errors import UsageError
from genrec.objectives.curve_warnings import FallingPositives
from genrec.objectives.numbered_examples import NumberedBatch, NumberedExamples
from genrec.objectives.preference_logs import preference_logs
from genrec.objectives.preference_state import PreferenceState
from genrec.objectives.preferred_candidates import Dislikes, best_first
from genrec.objectives.prepared_rows import HostRows, PreparedRows, check_positives, mean_likelihood, mean_loss, mismatched_items
from genrec.objectives.reference_cache import ReferenceCache
from genrec.objectives.reward_check import RewardCheck
from genrec.objectives.rows import with_places
from genrec.objectives.supervised import check_causal, check_sequence_policy, examples_of
from genrec.objectives.validation_pairs import PairMetrics
from genrec.plugin_source import components
from genrec.policy_modules import device_of
from genrec.preference.candidate_contract import CandidateCheck, checked_proposals
from genrec.preference.candidates import Pairs, Sampled
from genrec.preference.candidates.row_scores import scores_of
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
from genrec.types.objective import Targets
from genrec.types.specification import check_types

if TYPE_CHECKING:
    RewardOrNone = Reward | None
else:
    RewardOrNone = Annotated[object, Reward | None]  # tyro follows the class of the value; it cannot parse a protocol or None


@dataclass(frozen=True)
class Preference:
    """Prefer the first candidate of a row over the others, by a loss of log-probabilities under policy and reference.

    The loss of a step is `weight * (mean of the preference loss) + likelihood * NLL`. The mean is over the rows with a preference:
    all, unless the proposer has a gate. Rows of a file may have weights, which both means use. NLL is
    the mean of -log p(code) over all rows and levels of the first candidate, the logged item for all proposers but files.
    """

    loss: PreferenceLoss = field(default_factory=lambda: Anchored(SoftmaxDPO()))  # how candidates are compared
    candidates: Proposer = field(default_factory=Sampled)  # who proposes the candidates
    reward: RewardOrNone = None  # who judges them, for losses that need rewards and for chosen="best"
    chosen: Literal["first", "best"] = "first"  # the preferred candidate: the first, or that with the highest reward, never a dislike
    min_gap: float = 0.0  # with chosen="best": a candidate is rejected if its reward is lower by more than this, 0 or more
    likelihood: float = 0.0  # weight of the negative log-likelihood beside the preference loss, 0 or more
    weight: float = 1.0  # weight of the preference loss, 0 or more
    targets: Targets = "one"  # one target per prefix, or, for a causal policy, every target of a window
    feedback: Literal["liked", "not disliked"] = field(default="not disliked", metadata=NEW_IN_KEY)  # targets, by their labels

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
        if isinstance(self.candidates, Pairs) and self.targets == "all":
            raise UsageError(
                "Preference.targets 'all' trains on windows, but Pairs has rows of its own, with one target each; set targets one"
            )

    def check(self, experiment: Any) -> None:
        """Raise UsageError if `targets` is "all" and the policy is not causal, or if the objective stands in SFT."""
        check_causal(self, self.targets, experiment)
        if self in components(experiment.sft):
            raise UsageError(f"{experiment.name}: Preference needs a reference, which SFT has not; set align=Align(Preference(...))")

    def build_step(self, context: ObjectiveContext) -> TrainingStep:
        """Return the objective for one policy and one training set."""
        check_sequence_policy(self, self.targets, context.policy)
        examples = examples_of(context.source, self.targets, feedback=self.feedback)
        context = context._replace(epoch_steps=epoch_steps(len(examples), context.batch_size))
        proposals = checked_proposals(self.candidates, self.candidates.build_proposals(context))
        own = proposals.examples is not None
        examples = examples if proposals.examples is None else proposals.examples
        cache = None
        if proposals.listed is not None or self._is_static(proposals):
            examples = NumberedExamples(examples, own)
            assert context.reference is not None
            if self._is_static(proposals):
                cache = ReferenceCache(examples, context.batch_size, context.steps, context.reference)
        if self.loss.needs.mismatched:
            check_mismatched_pairs(len(examples), context.batch_size, context.steps)
        step = _PreferenceStep(self, context, proposals, cache)
        return TrainingStep(
            examples=examples,
            loss=step.loss,
            prepare=step.prepare,
            begin=proposals.begin,
            state=step.state,
            measure=PairMetrics(context, proposals.for_validation).measure,
            watchers=(FallingPositives(),),
            save=step.save,
            fault=step.rewards.fault,
        )

    def _is_static(self, proposals: Proposals) -> bool:
        """Return whether the reference scores the same items for an example in every step."""
        fixed = proposals.static and proposals.in_step is None
        return fixed and self.targets == "one" and self.chosen == "first" and not self.loss.needs.mismatched


class _PreferenceStep:
    """The built objective."""

    def __init__(self, objective: Preference, context: ObjectiveContext, proposals: Proposals, cache: ReferenceCache | None) -> None:
        assert context.reference is not None
        self.objective, self.context, self.proposals, self.reference = objective, context, proposals, context.reference
        self.cache, self.state = cache, PreferenceState(context.data(), proposals.state, cache)
        self.dislikes = Dislikes(context.data()) if objective.chosen == "best" else None
        self.exclusions = Exclusions(context.data()) if objective.loss.needs.mismatched else None
        with plugin_errors.attribute_to(objective.reward, "while the reward was built"):
            self.rate = None if objective.reward is None else checked_rating(objective.reward, context.data()).rate
        self.rewards = RewardCheck(objective.reward, context.data().own_ids)
        self.check = CandidateCheck(objective.candidates, context.data().item_count)
        self.checked = False

    def prepare(self, batch: SequenceBatch | WindowBatch | NumberedBatch, step: int) -> PreparedRows:
        """Return the input of a step. Runs on the CPU before the step needs it."""
        number = batch.number if isinstance(batch, NumberedBatch) else None
        batch = batch.batch if isinstance(batch, NumberedBatch) else batch
        rows, places = with_places(batch)
        candidates = self._on_host(rows, number, step)
        if candidates is not None and self.objective.chosen == "first" and self.objective.loss.needs.positive:
            check_positives(self.objective.loss, rows, candidates, self.context.data().own_ids)
        shift = 1 if places is None else len(places) // 2  # neighboring rows of a window batch have the same user
        mismatched = None if self.exclusions is None else mismatched_items(rows, self.exclusions, shift)
        number = None if self.cache is None else number
        return PreparedRows(batch, places, rows, candidates, mismatched, HostRows(rows, candidates, number), number)

    def _on_host(self, rows: SequenceBatch, number: Tensor | None, step: int) -> Candidates | None:
        """Return the candidates of rows on the CPU, the examples `number` int64 [X]; None if they are proposed in the step."""
        if self.proposals.in_step is not None:
            return None
        with plugin_errors.attribute_to(self.objective.candidates, f"while it proposed candidates for step {step}"):
            if self.proposals.listed is not None:
                assert number is not None
                return self.check(self.proposals.listed(number), rows)
            assert self.proposals.on_host is not None
            return self.check(self.proposals.on_host(rows, step), rows)

    def loss(self, prepared: PreparedRows, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss of a step and the metrics to log."""
        objective, rows = self.objective, prepared.rows
        scores = scores_of(self.context.policy, prepared.batch, prepared.places, rows, self.context.normalize)
        candidates, counted = prepared.candidates, prepared.host.candidates
        if candidates is None:
            assert self.proposals.in_step is not None
            with plugin_errors.attribute_to(self.objective.candidates, f"while it proposed candidates in step {step}"):
                candidates = self.check(self.proposals.in_step(rows, prepared.host.rows, step, scores), rows)
            counted = candidates
        assert counted is not None
        self.state.gated = self.state.gated or counted.rows is not None
        candidates, rewards = self._judged(rows, candidates, step)
        host = prepared.host.rows
        if objective.chosen == "best":  # the reward decides which candidates are negatives, so a GPU is waited for
            counted, host = candidates, host._replace(target=candidates.items[:, 0].cpu())
        logs = self.state.update(host, counted)
        items = candidates.items.masked_fill(~candidates.mask, 0)
        scored = items if prepared.mismatched is None else torch.cat([items, prepared.mismatched.unsqueeze(1)], 1)
        levels = scores.level_log_prob(scored)
        reference_levels = self._reference_levels(prepared, scored)
        ours, theirs = (log_probs(each, items.shape[1] - 1, rewards) for each in (levels, reference_levels))
        with plugin_errors.attribute_to(objective.loss, f"in step {step}"):
            terms = objective.loss(ours, theirs)
        if not self.checked:
            plugin_errors.check_terms(objective.loss, terms, ours)
            self.checked = True
        pair = slice(0, items.shape[1])  # without a mismatched item
        logs |= preference_logs(terms, levels[:, pair].detach(), reference_levels[:, pair], items[:, 1:])
        return self._total(terms.loss, candidates, levels[:, 0], logs)

    @torch.no_grad()
    def _reference_levels(self, prepared: PreparedRows, scored: Tensor) -> Tensor:
        """Return the level log-probabilities of items int64 [X, M] under the reference, float32 [X, M, L]."""
        if self.cache is not None and prepared.number is not None:
            kept = self.cache.gather(prepared.number, scored.shape[1], self._score_examples)
            if kept is not None:
                self.cache.check(*prepared.host.numbered(), lambda index: self._static(index)[1])
                return kept
        frozen = scores_of(self.reference.policy, prepared.batch, prepared.places, prepared.rows, self.context.normalize)
        return frozen.level_log_prob(scored)

    def _score_examples(self, number: Tensor) -> Tensor:
        """Return the level log-probabilities of all candidates of examples int64 [X] under the reference."""
        host, items = self._static(number)
        device = device_of(self.reference.policy)
        rows = SequenceBatch(*(each.to(device) for each in host))
        return scores_of(self.reference.policy, rows, None, rows, self.context.normalize).level_log_prob(items.to(device))

    def _static(self, number: Tensor) -> tuple[SequenceBatch, Tensor]:
        """Return the rows of examples int64 [X] and their candidates int64 [X, M], 0 where masked, on the CPU."""
        assert self.cache is not None
        host = self.cache.examples.examples.batch(number)
        candidates = self._on_host(host, number, 0)
        assert candidates is not None
        return host, candidates.items.masked_fill(~candidates.mask, 0)

    def _judged(self, rows: SequenceBatch, candidates: Candidates, step: int) -> tuple[Candidates, Tensor | None]:
        """Return the candidates, the preferred one first, and their rewards float32 [X, M], -inf where masked."""
        if self.rate is None:
            return candidates, None
        with plugin_errors.attribute_to(self.objective.reward, f"while the reward rated items in step {step}"):
            items = candidates.items.masked_fill(~candidates.mask, 0)
            rewards = self.rate(rows, items)
        self.rewards.add(step, rows, items, rewards)
        if self.dislikes is None:
            return candidates, rewards
        return best_first(candidates, rewards, self.objective.min_gap, self.dislikes.among(rows, items), rows.target)

    def _total(
        self, losses: Tensor, candidates: Candidates, chosen: Tensor, logs: dict[str, Tensor]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the weighted sum of the preference loss of rows [X] and the likelihood, and the logs.

        `chosen` float32 [X, L] holds the level log-probabilities of the first candidate.
        """
        counted, weight = candidates.rows, candidates.weight
        mean = mean_loss(losses, counted, weight)
        total = mean if self.objective.weight == 1 else self.objective.weight * mean
        if counted is not None:
            logs = logs | {"preference_share": counted.float().mean(), "preference_loss": mean.detach()}
        if self.objective.likelihood:
            likelihood = -mean_likelihood(chosen, self.objective.loss.needs.positive, weight)
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


def _check_pairs(loss: PreferenceLoss, candidates: Proposer) -> None:
    """Raise UsageError if the loss is DPO, which compares one pair, and the proposer gives more."""
    while isinstance(loss, Anchored | LevelWeighted):
        loss = loss.loss
    if isinstance(loss, DPO) and isinstance(candidates, SizedProposer) and candidates.most_candidates() > 2:
        raise UsageError(
            f"DPO takes one negative, got {candidates.most_candidates() - 1} from {candidates!r}; set num_negatives to 1 "
            "(--align.num-negatives 1), or use SoftmaxDPO (S-DPO)"
        )
