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
from genrec.objectives.curve_warnings import FallingPositives, SaturatedLoss
from genrec.objectives.numbered_examples import NumberedBatch, NumberedExamples
from genrec.objectives.preference_logs import preference_logs
from genrec.objectives.preference_state import PreferenceState
from genrec.objectives.prepared_rows import (
    HostRows,
    PreparedRows,
    best_first,
    check_positives,
    mean_likelihood,
    mean_loss,
    mismatched_items,
)
from genrec.objectives.reference_cache import ReferenceCache
from genrec.objectives.rows import with_places
from genrec.objectives.scheduled_settings import ScheduledSettings
from genrec.objectives.scored_candidates import CandidateCodes, ScoredCandidates, log_probs
from genrec.objectives.supervised import check_causal, check_labels, check_sequence_policy, examples_of
from genrec.objectives.validation_pairs import PairMetrics
from genrec.plugin_source import components
from genrec.policy_modules import device_of
from genrec.preference.candidates import Pairs, Sampled
from genrec.preference.candidates.row_scores import scores_of
from genrec.preference.exclusions import Exclusions
from genrec.preference.losses import DPO, IPO, Anchored, ContinuedSFT, LevelWeighted, Smoothed, SoftmaxDPO
from genrec.preference.losses.kto import check_mismatched_pairs
from genrec.preference.range_checks import check_range
from genrec.preference.rewards import checked_rating
from genrec.preference.schedules import check_scheduled, constant
from genrec.store import NEW_IN_KEY
from genrec.types import (
    Candidates,
    CodeProposer,
    NumberOrSchedule,
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
_UNRATED = (
    "Preference.reward rates items, but {!r} proposes code sequences that no item has; set reward to None, and take a loss without "
    "rewards"
)


@dataclass(frozen=True)
class Preference:
    """Prefer the first candidate of a row over the others, by a loss of log-probabilities under policy and reference.

    The loss of a step is `weight * (mean of the preference loss) + likelihood * NLL`. The mean is over the rows with a preference:
    all, unless the proposer has a gate. Rows of a file may have weights, which both means use. NLL is
    the mean of -log p(code) over all rows and levels of the first candidate, the logged item for all proposers but files. Weights, and
    the settings of the loss that take a schedule (`genrec.preference.schedules`), have their value of the step.
    """

    loss: PreferenceLoss = field(default_factory=lambda: Anchored(SoftmaxDPO()))  # how candidates are compared
    candidates: Proposer = field(default_factory=Sampled)  # who proposes the candidates
    reward: RewardOrNone = None  # who judges them, for losses that need rewards and for chosen="best"
    chosen: Literal["first", "best"] = "first"  # the preferred candidate: the first, or the one with the highest reward
    min_gap: float = 0.0  # with chosen="best": a candidate is rejected if its reward is lower by more than this, 0 or more
    likelihood: NumberOrSchedule = 0.0  # weight of the negative log-likelihood beside the preference loss, 0 or more
    weight: NumberOrSchedule = 1.0  # weight of the preference loss, 0 or more
    targets: Targets = "one"  # one target per prefix, or, for a causal policy, every target of a window
    feedback: Literal["liked", "not disliked"] = field(default="not disliked", metadata=NEW_IN_KEY)  # targets, by their labels

    def __post_init__(self) -> None:
        check_types(self, "Preference")
        check_range(self, "min_gap", 0)
        for name in ("likelihood", "weight"):
            check_scheduled(self, name, 0)
        if isinstance(self.loss, type) or not isinstance(self.loss, PreferenceLoss):
            raise UsageError(f"Preference.loss must be a loss, such as DPO(), with needs = LossNeeds(), got {self.loss!r}")
        if isinstance(self.candidates, type) or not isinstance(self.candidates, Proposer):
            raise UsageError(f"Preference.candidates must be a proposer, such as Sampled(), got {self.candidates!r}")
        if self.reward is not None and (isinstance(self.reward, type) or not isinstance(self.reward, Reward)):
            raise UsageError(f"Preference.reward must be a genrec.types.Reward, got {self.reward!r}")
        if self.reward is None and (self.loss.needs.rewards or self.chosen == "best"):
            needing = "chosen='best'" if self.chosen == "best" else type(self.loss).__name__
            raise UsageError(f"{needing} needs rewards; give Preference.reward, such as RatingRecency() or Popular()")
        if self.reward is not None and isinstance(self.candidates, CodeProposer) and self.candidates.proposes_codes():
            raise UsageError(_UNRATED.format(self.candidates))
        _check_pairs(self.loss, self.candidates)
        if isinstance(self.candidates, Pairs) and self.targets == "all":
            raise UsageError(
                "Preference.targets 'all' trains on windows, but Pairs has rows of its own, with one target each; set targets one"
            )

    def check(self, experiment: Any) -> None:
        """Raise UsageError if the experiment has no causal policy for `targets` "all", no labels for `feedback` "liked", or if the
        objective stands in SFT.
        """
        check_causal(self, self.targets, experiment)
        check_labels(self, self.feedback, experiment)
        if self in components(experiment.sft):
            raise UsageError(f"{experiment.name}: Preference needs a reference, which SFT has not; set align=Align(Preference(...))")

    def build_step(self, context: ObjectiveContext) -> TrainingStep:
        """Return the objective for one policy and one training set."""
        check_sequence_policy(self, self.targets, context.policy)
        examples = examples_of(context.source, self.targets, feedback=self.feedback)
        context = context._replace(epoch_steps=epoch_steps(len(examples), context.batch_size))
        proposals = self.candidates.build_proposals(context)
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
            watchers=(FallingPositives(), *((SaturatedLoss(),) if _saturates(self.loss) else ())),
            save=step.save,
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
        self.scheduled = ScheduledSettings(objective)
        self.cache, self.state = cache, PreferenceState(context.data(), proposals.state, cache)
        self.exclusions = Exclusions(context.data()) if objective.loss.needs.mismatched else None
        with plugin_errors.attribute_to(objective.reward, "while the reward was built"):
            self.rate = None if objective.reward is None else checked_rating(objective.reward, context.data()).rate
        self.codes = CandidateCodes(context.data().semantic_ids)
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
        return PreparedRows(batch, places, rows, candidates, mismatched, HostRows(rows, candidates), number)

    def _on_host(self, rows: SequenceBatch, number: Tensor | None, step: int) -> Candidates | None:
        """Return the candidates of rows on the CPU, the examples `number` int64 [X]; None if they are proposed in the step."""
        if self.proposals.listed is not None:
            assert number is not None
            return self.proposals.listed(number)
        return None if self.proposals.on_host is None else self.proposals.on_host(rows, step)

    def loss(self, prepared: PreparedRows, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss of a step and the metrics to log."""
        objective, rows = self.scheduled.at(self.objective, step), prepared.rows
        scores = scores_of(self.context.policy, prepared.batch, prepared.places, rows, self.context.normalize)
        candidates, on_host = prepared.candidates, prepared.host.candidates
        if candidates is None:
            assert self.proposals.in_step is not None
            candidates = self.proposals.in_step(rows, prepared.host.rows, step, scores)
            on_host = candidates
        assert on_host is not None
        logs = self.state.update(prepared.host.rows, on_host) | self.scheduled.logs(step, rows.target.device)
        candidates, rewards = self._judged(rows, candidates, step)
        count, scored = candidates.items.shape[1], self.codes.scored(candidates, prepared.mismatched)
        levels = scored.level_log_prob(scores)
        reference_levels = self._reference_levels(prepared, scored)
        ours, theirs = (log_probs(each, count - 1, rewards) for each in (levels, reference_levels))
        with plugin_errors.attribute_to(objective.loss, f"in step {step}"):
            terms = objective.loss(ours, theirs)
        if not self.checked:
            plugin_errors.check_terms(objective.loss, terms, ours)
            self.checked = True
        rejected = scored.present(count)[:, 1:]  # without a mismatched item
        logs |= preference_logs(terms, levels[:, :count].detach(), reference_levels[:, :count], rejected)
        return _total(objective, terms.loss, candidates, levels[:, 0], logs)

    @torch.no_grad()
    def _reference_levels(self, prepared: PreparedRows, scored: ScoredCandidates) -> Tensor:
        """Return the level log-probabilities of candidates under the reference, float32 [X, M, L]."""
        if self.cache is not None and prepared.number is not None:
            kept = self.cache.gather(prepared.number, scored.items.shape[1], self._score_examples)
            if kept is not None:
                return kept
        frozen = scores_of(self.reference.policy, prepared.batch, prepared.places, prepared.rows, self.context.normalize)
        return scored.level_log_prob(frozen)

    def _score_examples(self, number: Tensor) -> Tensor:
        """Return the level log-probabilities of all candidates of examples int64 [X] under the reference."""
        assert self.cache is not None
        host, device = self.cache.examples.examples.batch(number), device_of(self.reference.policy)
        candidates, rows = self._on_host(host, number, 0), SequenceBatch(*(each.to(device) for each in host))
        assert candidates is not None
        scored = self.codes.scored(candidates).to(device)
        return scored.level_log_prob(scores_of(self.reference.policy, rows, None, rows, self.context.normalize))

    def _judged(self, rows: SequenceBatch, candidates: Candidates, step: int) -> tuple[Candidates, Tensor | None]:
        """Return the candidates, the preferred one first, and their rewards float32 [X, M], -inf where masked."""
        if self.rate is None:
            return candidates, None
        if candidates.codes is not None:
            raise UsageError(_UNRATED.format(self.objective.candidates))
        with plugin_errors.attribute_to(self.objective.reward, f"while the reward rated items in step {step}"):
            rewards = self.rate(rows, candidates.items.masked_fill(~candidates.mask, 0))
        if self.objective.chosen == "first":
            return candidates, rewards
        return best_first(candidates, rewards, self.objective.min_gap)

    def save(self, folder: Path) -> None:
        """Write the statistics and the counts of the rejected candidates."""
        self.state.save(folder)
        if self.proposals.save is not None:
            self.proposals.save(folder)


def _total(
    objective: Preference, losses: Tensor, candidates: Candidates, chosen: Tensor, logs: dict[str, Tensor]
) -> tuple[Tensor, dict[str, Tensor]]:
    """Return the weighted sum of the preference loss of rows [X] and the likelihood, and the logs.

    `objective` has the values of the step. `chosen` float32 [X, L] holds the level log-probabilities of the first candidate.
    """
    counted, weight = candidates.rows, candidates.weight
    factor, likelihood_factor = constant(objective, "weight"), constant(objective, "likelihood")
    mean = mean_loss(losses, counted, weight)
    total = mean if factor == 1 else factor * mean
    if counted is not None:
        logs = logs | {"preference_share": counted.float().mean(), "preference_loss": mean.detach()}
    if likelihood_factor:
        likelihood = -mean_likelihood(chosen, objective.loss.needs.positive, weight)
        logs = logs | {"likelihood_loss": likelihood.detach()}
        total = total + likelihood_factor * likelihood
    return total, logs


def _saturates(loss: PreferenceLoss) -> bool:
    """Return whether the gradient of a loss vanishes as the rewards grow apart; that of the likelihood and of IPO does not."""
    while isinstance(loss, Anchored | LevelWeighted | Smoothed):
        loss = loss.loss
    return not isinstance(loss, ContinuedSFT | IPO)


def _check_pairs(loss: PreferenceLoss, candidates: Proposer) -> None:
    """Raise UsageError if the loss is DPO, which compares one pair, and the proposer gives more."""
    while isinstance(loss, Anchored | LevelWeighted):
        loss = loss.loss
    if isinstance(loss, DPO) and isinstance(candidates, SizedProposer) and candidates.most_candidates() > 2:
        raise UsageError(
            f"DPO takes one negative, got {candidates.most_candidates() - 1} from {candidates!r}; set num_negatives to 1 "
            "(--align.num-negatives 1), or use SoftmaxDPO (S-DPO)"
        )
