"""The built `Preference`: the loss of a step, from candidates and rewards to log-probabilities of policy and reference."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from genrec import plugin_errors, process_group
from genrec.errors import UsageError
from genrec.objectives.batch_statistics import BatchLogProbs, RowMean, log_probs_of_batch, means_of_batch
from genrec.objectives.checked_proposer import CheckedProposer
from genrec.objectives.numbered_examples import NumberedBatch
from genrec.objectives.one_negative import check_one_negative
from genrec.objectives.preference_logs import preference_logs
from genrec.objectives.preference_state import PreferenceState
from genrec.objectives.preferred_candidates import Dislikes, best_first
from genrec.objectives.prepared_rows import (
    HostRows,
    PreparedRows,
    check_positives,
    identities_of,
    items_of,
    mean_likelihood,
    mean_loss,
    mismatched_items,
)
from genrec.objectives.reference_cache import ReferenceCache
from genrec.objectives.reward_check import RewardCheck
from genrec.objectives.rows import with_places
from genrec.objectives.scheduled_settings import ScheduledSettings
from genrec.objectives.scored_candidates import CandidateCodes, ScoredCandidates, log_probs
from genrec.plugin_source import name_with_place
from genrec.policy_modules import device_of
from genrec.preference.candidate_contract import without_target_first
from genrec.preference.candidates import History, InvalidIds, Pairs, Sampled, Together, TopItems
from genrec.preference.candidates.row_scores import scores_of
from genrec.preference.exclusions import Exclusions, representatives
from genrec.preference.rewards import checked_rating
from genrec.preference.schedules import constant
from genrec.progress import say
from genrec.types import (
    Candidates,
    ObjectiveContext,
    SequenceBatch,
    WindowBatch,
)

if TYPE_CHECKING:
    from genrec.objectives.preferences import Preference

TARGET_FIRST = (History, InvalidIds, Pairs, Sampled, Together, TopItems)  # their first candidate is the target of the row
UNRATED = (
    "Preference.reward rates items, but {!r} proposes code sequences that no item has; set reward to None, and take a loss without "
    "rewards"
)


class PreferenceStep:
    """The built objective. `objective` says what is compared, `proposer` who proposes."""

    def __init__(
        self, objective: Preference, context: ObjectiveContext, proposer: CheckedProposer, cache: ReferenceCache | None
    ) -> None:  # fmt: skip
        assert context.reference is not None
        self.objective, self.context, self.proposer, self.reference = objective, context, proposer, context.reference
        self.scheduled = ScheduledSettings(objective)
        self.cache = cache
        self.state = PreferenceState(context.data(), proposer.proposals.state, cache, _counted_preferences(objective))
        self.dislikes = Dislikes(context.data()) if objective.chosen == "best" else None
        self.exclusions = Exclusions(context.data()) if objective.loss.needs.mismatched else None
        with plugin_errors.attribute_to(objective.reward, "while the reward was built"):
            self.rate = None if objective.reward is None else checked_rating(objective.reward, context.data()).rate
        self.codes = CandidateCodes(context.data().semantic_ids)
        self.rewards = RewardCheck(objective.reward, context.data().own_ids)
        self.checked = False

    def prepare(self, batch: SequenceBatch | WindowBatch | NumberedBatch, step: int) -> PreparedRows:
        """Return the input of a step. Runs on the CPU before the step needs it."""
        number = batch.number if isinstance(batch, NumberedBatch) else None
        batch = batch.batch if isinstance(batch, NumberedBatch) else batch
        rows, places = with_places(batch)
        candidates = self.proposer.on_host(rows, step, number)
        if candidates is not None and self.objective.chosen == "first" and self.objective.loss.needs.positive:
            check_positives(self.objective.loss, rows, candidates, self.context.data().own_ids)
        mismatched = None
        if self.exclusions is not None and process_group.size() == 1:  # several processes: see `_mismatched`
            mismatched = mismatched_items(rows, self.exclusions, places is not None)
        number = None if self.cache is None else number
        return PreparedRows(batch, places, rows, candidates, mismatched, HostRows(rows, candidates, number), number)

    def loss(self, prepared: PreparedRows, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss of a step and the metrics to log."""
        objective, rows = self.scheduled.at(self.objective, step), prepared.rows
        scores = scores_of(self.context.policy, prepared.batch, prepared.places, rows, self.context.normalize)
        candidates = self.proposer.within(prepared, step, scores)
        check_one_negative(objective.loss, objective.candidates, candidates)
        counted = candidates if prepared.host.candidates is None else prepared.host.candidates
        if counted.rows is not None:
            self.state.gated.fill_(True)
        candidates, rewards = self._judged(rows, candidates, step)
        host = prepared.host.rows
        if objective.chosen == "best":  # the reward decides which candidates are negatives, so a GPU is waited for
            counted, host = candidates, host._replace(target=candidates.items[:, 0].cpu())
        logs = self.state.update(host, counted) | self.scheduled.logs(step, rows.target.device)
        count, scored = candidates.items.shape[1], self.codes.scored(candidates, self._mismatched(prepared))
        levels = scored.level_log_prob(scores)
        reference_levels = self._reference_levels(prepared, scored)
        ours, theirs = (log_probs(each, count - 1, rewards) for each in (levels, reference_levels))
        batch = log_probs_of_batch(ours, theirs) if objective.loss.needs.batch else BatchLogProbs(ours, theirs)
        with plugin_errors.attribute_to(objective.loss, f"in step {step}"):
            terms = objective.loss(batch.policy, batch.reference)
        if not self.checked:
            plugin_errors.check_terms(objective.loss, terms, batch.policy)
            self._tell_of_other_targets(prepared.host.rows, counted)
            self.checked = True
        terms = batch.own(terms, count - 1)
        rejected = scored.present(count)[:, 1:]  # without a mismatched item
        logs |= preference_logs(terms, levels[:, :count].detach(), reference_levels[:, :count], rejected)
        return _total(objective, terms.loss, candidates, levels[:, 0], logs)

    def _mismatched(self, prepared: PreparedRows) -> Tensor | None:
        """Return the mismatched items int64 [X], None if the loss needs none.

        Several processes exchange their targets within the step, so that the pairs are those of the whole batch.
        """
        if self.exclusions is None or prepared.mismatched is not None:
            return prepared.mismatched
        found = mismatched_items(prepared.host.rows, self.exclusions, prepared.places is not None)
        return found.to(prepared.rows.target.device)

    def _tell_of_other_targets(self, rows: SequenceBatch, candidates: Candidates) -> None:
        """Print in how many rows of the first batch the proposer prefers another item than the target, rows int64 [X] on the CPU."""
        representative = representatives(self.context.data())
        found = without_target_first(candidates, rows, representative) if self.objective.chosen == "first" else None
        if found is not None:
            proposer = name_with_place(type(self.objective.candidates))
            say(
                f"alignment: {found}, by {proposer}: Preference prefers the first candidate to the others, whatever the user took; "
                "put rows.target first if the target is to be preferred"
            )

    @torch.no_grad()
    def _reference_levels(self, prepared: PreparedRows, scored: ScoredCandidates) -> Tensor:
        """Return the level log-probabilities of candidates under the reference, float32 [X, M, L]."""
        if self.cache is not None and prepared.number is not None:
            kept = self.cache.gather(prepared.number, scored.items.shape[1], self._score_examples)
            if kept is not None:
                self.cache.check(*prepared.host.numbered(), lambda index: identities_of(self._static(index)[1]))
                return kept
        frozen = scores_of(self.reference.policy, prepared.batch, prepared.places, prepared.rows, self.context.normalize)
        return scored.level_log_prob(frozen)

    def _score_examples(self, number: Tensor) -> Tensor:
        """Return the level log-probabilities of all candidates of examples int64 [X] under the reference."""
        host, candidates = self._static(number)
        device = device_of(self.reference.policy)
        rows = SequenceBatch(*(each.to(device) for each in host))
        scores = scores_of(self.reference.policy, rows, None, rows, self.context.normalize)
        return self.codes.scored(candidates).to(device).level_log_prob(scores)

    def _static(self, number: Tensor) -> tuple[SequenceBatch, Candidates]:
        """Return the rows of examples int64 [X] and their candidates, on the CPU."""
        assert self.cache is not None
        host = self.cache.examples.examples.batch(number)
        candidates = self.proposer.on_host(host, 0, number)
        assert candidates is not None
        return host, candidates

    def _judged(self, rows: SequenceBatch, candidates: Candidates, step: int) -> tuple[Candidates, Tensor | None]:
        """Return the candidates, the preferred one first, and their rewards float32 [X, M], -inf where masked."""
        if self.rate is None:
            return candidates, None
        if candidates.codes is not None:
            raise UsageError(UNRATED.format(self.objective.candidates))
        with plugin_errors.attribute_to(self.objective.reward, f"while the reward rated items in step {step}"):
            items = items_of(candidates)
            rewards = self.rate(rows, items)
        self.rewards.add(step, rows, items, rewards)
        if self.dislikes is None:
            return candidates, rewards
        return best_first(candidates, rewards, self.objective.min_gap, self.dislikes.among(rows, items), rows.target)

    def save(self, folder: Path) -> None:
        """Write the statistics and the counts of the rejected candidates."""
        candidates = self.objective.candidates
        self.state.save(folder, name_with_place(type(candidates.negatives)) if isinstance(candidates, Sampled) else None)
        if self.proposer.proposals.save is not None:
            self.proposer.proposals.save(folder)


def _counted_preferences(objective: Preference) -> Literal["none", "taking part", "all"]:
    """Return which preferred items are counted: none where they are the logged targets, or the file's, which is checked itself."""
    if objective.chosen == "first" and type(objective.candidates) in TARGET_FIRST:
        return "none"
    return "all" if objective.likelihood else "taking part"


def _total(
    objective: Preference, losses: Tensor, candidates: Candidates, chosen: Tensor, logs: dict[str, Tensor]
) -> tuple[Tensor, dict[str, Tensor]]:
    """Return the weighted sum of the preference loss of rows [X] and the likelihood, and the logs.

    `objective` has the values of the step. `chosen` float32 [X, L] holds the level log-probabilities of the first candidate.
    """
    counted, weight = candidates.rows, candidates.weight
    factor, likelihood_factor = constant(objective, "weight"), constant(objective, "likelihood")
    means = [RowMean(mean_loss(losses, counted, weight), counted, weight)]
    if likelihood_factor:
        has_positives = objective.loss.needs.positive
        present = None if has_positives else ~chosen.isneginf().any(1)
        means.append(RowMean(-mean_likelihood(chosen, has_positives, weight), present, weight))
    mean, *likelihoods = means_of_batch(len(losses), *means)
    total = mean if factor == 1 else factor * mean
    logs = logs | {"preference_loss": mean.detach()}
    if counted is not None:
        logs = logs | {"preference_share": counted.float().mean()}
    for likelihood in likelihoods:
        logs = logs | {"likelihood_loss": likelihood.detach()}
        total = total + likelihood_factor * likelihood
    return total, logs
