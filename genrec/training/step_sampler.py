"""The sampler of an alignment: negatives of the training steps, and of the validation users."""

from __future__ import annotations

from torch import Generator, Tensor

from genrec.plugin_source import name_with_place
from genrec.preference.draw_contract import DrawContract
from genrec.preference.negatives.capabilities import build_draw, draw_at
from genrec.randomness import generator
from genrec.training import plugin_errors
from genrec.training.recipes import Align
from genrec.types import Refresh, SamplerContext, SequenceBatch


class StepSampler:
    """Samples and checks the negatives of each training step. `epoch_steps` is the number of steps per epoch."""

    def __init__(self, recipe: Align, context: SamplerContext, epoch_steps: int, seed: int) -> None:
        self.recipe, self.epoch_steps, self.seed = recipe, epoch_steps, seed
        with plugin_errors.attribute_to(recipe.negatives, "while it was built"):
            self.draw = build_draw(recipe.negatives, context)
        self.contract = DrawContract(context, self.draw.offers_history, name_with_place(type(recipe.negatives)))
        refresh = self.draw.refresh or Refresh()
        self.refresh_every = refresh.every * (epoch_steps if refresh.unit == "epochs" else 1)  # steps; 0: never

    def __call__(self, batch: SequenceBatch, step: int) -> Tensor:
        """Return the negatives of a batch, int64 [B, K]."""
        key = ("negatives", "epoch", step // self.epoch_steps) if self.draw.by_example else ("negatives", step)
        progress, random = step / self.recipe.steps, generator(self.seed, *key)
        return self._checked(batch, progress, random, f"while it sampled negatives for step {step}")

    def for_validation(self, batch: SequenceBatch) -> Tensor:
        """Return negatives of validation users, int64 [U, K], drawn as at the start of the training, in one draw with seed 0."""
        return self._checked(batch, 0.0, generator(0, "validation pairs"), "while it sampled negatives for validation users")

    def _checked(self, batch: SequenceBatch, progress: float, random: Generator, when: str) -> Tensor:
        """Draw at a fraction of the training, and check the negatives. `when` is for the message of an error of the sampler."""
        with plugin_errors.attribute_to(self.recipe.negatives, when):
            negatives = draw_at(self.draw, progress).draw(batch, self.recipe.num_negatives, random)
        self.contract.check(batch, negatives, self.recipe.num_negatives)
        return negatives
