"""A sampler over the steps of a training: negatives of the training steps, and of the validation users."""

from __future__ import annotations

from torch import Generator, Tensor

from genrec import plugin_errors
from genrec.plugin_source import name_with_place
from genrec.preference.draw_contract import DrawContract
from genrec.preference.negatives.capabilities import build_draw, draw_at, policy_refreshes
from genrec.randomness import generator
from genrec.types import Draw, FrozenPolicy, NegativeSampler, ObjectiveContext, Refresh, SequenceBatch


class StepSampler:
    """Samples and checks the negatives of each training step.

    A sampler that reads the policy without a refresh reads the reference; one with a refresh reads a frozen copy of its own.
    """

    def __init__(self, sampler: NegativeSampler, num_negatives: int, context: ObjectiveContext) -> None:
        self.sampler, self.num_negatives, self.context = sampler, num_negatives, context
        self.name = name_with_place(type(sampler))
        self.refreshed: FrozenPolicy | None = None
        known = max(policy_refreshes(sampler), default=Refresh())  # of all samplers inside; at most one, see `check_one_refresh`
        self.draw = self._build(bool(known.every))
        refresh = Refresh() if self.draw.refresh is None else self.draw.refresh
        if refresh.every and self.refreshed is None:  # a sampler that tells its refresh by its draw alone
            self.draw = self._build(True)
        self.contract = DrawContract(context.data(), self.draw.offers_history, self.name, self.draw.offers_disliked)
        self.refresh_every = refresh.every * (context.epoch_steps if refresh.unit == "epochs" else 1)  # steps; 0: never

    def _build(self, refreshed: bool) -> Draw:
        """Build the draw, which reads a frozen copy of its own if it is `refreshed`, else the reference."""
        data = self.context.data()
        if refreshed:
            self.refreshed = self.context.frozen_copy("sampled")
            data = data._replace(policy=self.refreshed.policy)
        with plugin_errors.attribute_to(self.sampler, "while it was built"):
            return build_draw(self.sampler, data)

    @property
    def reads_policy(self) -> bool:
        """Whether negatives are drawn within the step, because they depend on a policy's weights."""
        return self.draw.refresh is not None

    def begin(self, step: int) -> None:
        """Refresh the copy of the policy that the sampler reads, if it is time to."""
        if self.refreshed is not None and self.refresh_every and step % self.refresh_every == 0:
            self.refreshed.refresh()

    def __call__(self, batch: SequenceBatch, step: int) -> Tensor:
        """Return the negatives of a batch, int64 [B, K]."""
        key = ("negatives", "epoch", step // self.context.epoch_steps) if self.draw.by_example else ("negatives", step)
        steps = self.context.steps  # 0: not known, and the sampler draws as at the start
        progress, random = step / steps if steps else 0.0, generator(self.context.seed, *key)
        return self._checked(batch, progress, random, f"while it sampled negatives for step {step}")

    def for_validation(self, batch: SequenceBatch) -> Tensor:
        """Return negatives of validation users, int64 [U, K], drawn as at the start of the training, in one draw with seed 0."""
        return self._checked(batch, 0.0, generator(0, "validation pairs"), "while it sampled negatives for validation users")

    def _checked(self, batch: SequenceBatch, progress: float, random: Generator, when: str) -> Tensor:
        """Draw at a fraction of the training, and check the negatives. `when` is for the message of an error of the sampler."""
        with plugin_errors.attribute_to(self.sampler, when):
            negatives = draw_at(self.draw, progress).draw(batch, self.num_negatives, random)
        self.contract.check(batch, negatives, self.num_negatives)
        return negatives
