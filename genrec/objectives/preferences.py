"""The preference objective: who proposes the candidates, who judges them, and which loss compares them.

    batch ──► rows ──► candidates ──► rewards ──► log-probabilities ──► preference loss + likelihood ──► step
                       (Proposer)     (Reward)    of policy and reference

Candidates that read no changing weights are drawn and checked on the CPU before the step needs them, so that the GPU does not wait.
The reference runs without dropout.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, Literal

from genrec.errors import UsageError, given
from genrec.objectives.checked_proposer import CheckedProposer
from genrec.objectives.curve_warnings import FallingPositives, SaturatedLoss
from genrec.objectives.numbered_examples import NumberedExamples
from genrec.objectives.one_negative import check_sizes, takes_one_negative
from genrec.objectives.preference_step import UNRATED, PreferenceStep
from genrec.objectives.reference_cache import ReferenceCache
from genrec.objectives.supervised import check_causal, check_sequence_policy, examples_of
from genrec.objectives.training_length import with_length
from genrec.objectives.validation_pairs import PairMetrics
from genrec.plugin_source import components, is_plugin_class, short
from genrec.policy_modules import as_module
from genrec.preference.candidates import Pairs, Rollouts, Sampled
from genrec.preference.losses import IPO, Anchored, ContinuedSFT, LevelWeighted, RosePO, Smoothed, SoftmaxDPO
from genrec.preference.losses.kto import check_mismatched_pairs
from genrec.preference.range_checks import check_range
from genrec.preference.rating_requirements import check_labels
from genrec.preference.schedules import check_scheduled, check_trains
from genrec.store import NEW_IN_KEY
from genrec.types import (
    CodeProposer,
    NumberOrSchedule,
    ObjectiveContext,
    PreferenceLoss,
    Proposals,
    Proposer,
    Reward,
    TrainingStep,
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
    all, unless the proposer has a gate. Rows of a file may have weights, which both means use. Where several processes compute parts
    of a step at the same time, the means are over the rows of all these parts. NLL is
    the mean of -log p(code) over all rows and levels of the first candidate, the logged item for all proposers but files. Weights, and
    the settings of the loss that take a schedule (`genrec.preference.schedules`), have their value of the step.
    """

    loss: PreferenceLoss = field(default_factory=lambda: Anchored(SoftmaxDPO()))  # how candidates are compared
    candidates: Proposer = field(default_factory=Sampled)  # who proposes the candidates
    reward: RewardOrNone = None  # who judges them, for losses that need rewards and for chosen="best"
    chosen: Literal["first", "best"] = "first"  # the preferred candidate: the first, or that with the highest reward, never a dislike
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
            raise UsageError(f"Preference.loss must be a loss, such as DPO(), with needs = LossNeeds(), got {given(self.loss)}")
        if isinstance(self.candidates, type) or not isinstance(self.candidates, Proposer):
            raise UsageError(f"Preference.candidates must be a proposer, such as Sampled(), got {given(self.candidates)}")
        if self.reward is not None and (isinstance(self.reward, type) or not isinstance(self.reward, Reward)):
            raise UsageError(f"Preference.reward must be a genrec.types.Reward, got {given(self.reward)}")
        if self.reward is None and (self.loss.needs.rewards or self.chosen == "best"):
            needing = "chosen='best'" if self.chosen == "best" else type(self.loss).__name__
            raise UsageError(f"{needing} needs rewards; give Preference.reward, such as RatingRecency() or Popular()")
        if self.reward is not None and isinstance(self.candidates, CodeProposer) and self.candidates.proposes_codes():
            raise UsageError(UNRATED.format(self.candidates))
        check_sizes(self.loss, self.candidates)
        if isinstance(self.candidates, Rollouts) and self.chosen == "first":
            raise UsageError(
                f"Preference prefers the first candidate, got {self.candidates!r}, which lists the policy's own best item first; use "
                "TopItems(...), which gives the target first, or chosen='best' with a reward"
            )
        if isinstance(self.candidates, Pairs) and self.targets == "all":
            raise UsageError(
                "Preference.targets 'all' trains on windows, but Pairs has rows of its own, with one target each; set targets one"
            )

    def check(self, experiment: Any) -> None:
        """Raise UsageError if the experiment has no causal policy for `targets` "all", no labels for `feedback` "liked", if nothing
        reads the reward, or if the objective stands in SFT. Raise InputError if the loss is DPO and a row of a pair file has more
        than one rejected item.
        """
        check_trains(self)
        check_causal(self, self.targets, experiment)
        check_labels(self, self.feedback, experiment)
        if self in components(experiment.sft):
            raise UsageError(f"{experiment.name}: Preference needs a reference, which SFT has not; set align=Align(Preference(...))")
        if self.reward is not None and not self._reads_rewards():
            raise UsageError(
                f"{experiment.name}: Preference.reward is {short(self.reward)}, but nothing reads it: with chosen='first' only the "
                f"loss reads rewards, and {short(self.loss)} reads none; set reward to None (--align.reward None), chosen to 'best' "
                "(--align.chosen best), which prefers the candidate with the highest reward, or take a loss that reads rewards, such "
                "as RosePO or RecPO"
            )
        if isinstance(self.candidates, Pairs) and takes_one_negative(self.loss):
            self.candidates.check_one_rejected()

    def build_step(self, context: ObjectiveContext) -> TrainingStep:
        """Return the objective for one policy and one training set."""
        check_sequence_policy(self, self.targets, context.policy)
        examples = examples_of(context.source, self.targets, feedback=self.feedback)
        context = with_length(context, examples)
        proposer = CheckedProposer(self.candidates, context)
        proposals, examples, cache = proposer.proposals, proposer.examples(examples), None
        if proposals.listed is not None or self._is_static(proposals):
            examples = NumberedExamples(examples, own=proposals.examples is not None)
            assert context.reference is not None
            if self._is_static(proposals):
                cache = ReferenceCache(examples, context.part_size, context.batch_size * context.steps, context.reference)
        if self.loss.needs.mismatched:
            check_mismatched_pairs(len(examples), context.batch_size, context.steps, context.parts)
        step = PreferenceStep(self, context, proposer, cache)
        falling = FallingPositives(dropout=as_module(context.policy).training)  # a policy in training mode has dropout on
        return TrainingStep(
            examples=examples,
            loss=step.loss,
            prepare=step.prepare,
            begin=proposals.begin,
            state=step.state,
            measure=PairMetrics(context, proposals.for_validation).measure,
            watchers=(falling, *((SaturatedLoss(),) if _saturates(self.loss) else ())),
            save=step.save,
            fault=step.rewards.fault,
        )

    def _reads_rewards(self) -> bool:
        """Return whether the loss or `chosen` reads the rewards. Your own loss may read rewards without a need, as RosePO does."""
        losses = [each for each in (self.loss, *components(self.loss)) if isinstance(each, PreferenceLoss)]
        optional = any(isinstance(each, RosePO) or is_plugin_class(type(each)) for each in losses)
        return self.chosen == "best" or self.loss.needs.rewards or optional

    def _is_static(self, proposals: Proposals) -> bool:
        """Return whether the reference scores the same items for an example in every step."""
        fixed = proposals.static and proposals.in_step is None
        return fixed and self.targets == "one" and self.chosen == "first" and not self.loss.needs.mismatched


def _saturates(loss: PreferenceLoss) -> bool:
    """Return whether the gradient of a loss vanishes as the rewards grow apart; that of the likelihood and of IPO does not."""
    while isinstance(loss, Anchored | LevelWeighted | Smoothed):
        loss = loss.loss
    return not isinstance(loss, ContinuedSFT | IPO)
