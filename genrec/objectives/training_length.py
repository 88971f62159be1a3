"""The length of a training by its number of examples: the steps of an epoch, and those of an SFT that leaves its steps open."""

from __future__ import annotations

from genrec.data.examples import epoch_steps
from genrec.types import ObjectiveContext, TrainingExamples

EPOCHS = 40  # passes over the training examples
LEAST_STEPS, MOST_STEPS = 500, 20_000


def default_steps(examples: int, batch_size: int) -> int:
    """Return the number of optimizer steps for `Optimization.max_steps` None."""
    return min(max(EPOCHS * epoch_steps(examples, batch_size), LEAST_STEPS), MOST_STEPS)


def with_length(context: ObjectiveContext, examples: TrainingExamples) -> ObjectiveContext:
    """Return the context with the steps of an epoch over these examples, and with the steps of the stage if they were open (0)."""
    steps = context.steps or default_steps(len(examples), context.batch_size)
    return context._replace(epoch_steps=epoch_steps(len(examples), context.batch_size), steps=steps)
