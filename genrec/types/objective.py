"""Protocols and values of training objectives: the examples of a step, the candidates of each row, and the loss.

A stage of training runs one objective. Its parts are plain values with typed fields, so a misspelt field is an error of the type
checker and at the call.

    experiment ─► Objective ──build_step──► TrainingStep: examples ─► batch ─► prepare (host) ─► loss (device)
                     │                                                             │                │
                     └─ Preference, PolicyGradient ─► Proposer ─► Proposals ─► Candidates ─► Reward ─► loss of log-probabilities

A row is one history with one target. A batch of prefixes has one row for each history, a batch of windows one row for each place with
a target (see `genrec.training.rows`). `X` is the number of rows and `M` the number of candidates of a row.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol, runtime_checkable

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from torch import Generator, Tensor, nn

    from genrec.types.policy import ItemSample, Policy, Ranking, SequenceBatch
    from genrec.types.preference import SamplerContext

    Logs = dict[str, Tensor]  # metrics of a step, detached scalars
    CurveRow = dict[str, float]  # a row of the training curves: `step` and the metrics logged for it

Targets = Literal["one", "all"]  # one target for each prefix of a sequence, or every target of a window in one pass
Padding = Literal["zero", "repeat"]  # how a short window is padded on the left: with 0, or with repeats of the sequence
Feedback = Literal["all", "liked", "not disliked"]  # which events are targets; without labels "all" and "not disliked" are the same


class TrainingExamples(Protocol):
    """Training examples, addressed by number."""

    def __len__(self) -> int: ...

    def batch(self, index: Tensor) -> Any:
        """Return the batch of examples `index` int64 [B], a named tuple of tensors; `user` int64 [B] is one of them."""
        ...


class ExampleSource(Protocol):
    """The training events of one data set as examples."""

    def prefixes(self, feedback: Feedback = "not disliked") -> TrainingExamples:
        """Return one example for each event that `feedback` makes a target, but a user's first: a `SequenceBatch` a batch."""
        ...

    def windows(self, padding: Padding = "zero", feedback: Feedback = "not disliked") -> TrainingExamples:
        """Return windows with a target after every item that `feedback` makes a target: a `WindowBatch` a batch."""
        ...


class ObjectiveState(Protocol):
    """The tensors that an objective changes during training. Their shapes may change, their names may not."""

    def tensors(self) -> dict[str, Tensor]:
        """Return all tensors by name, as they are after the last step."""
        ...

    def restore(self, saved: Mapping[str, Tensor]) -> None:
        """Take the tensors of a checkpoint, which have the names of `tensors`. Raise ValueError with the reason if they do not fit."""
        ...


class FrozenPolicy(Protocol):
    """A frozen copy of the policy, in evaluation mode and on the policy's device."""

    @property
    def policy(self) -> Policy:
        """The copy. It is one object for the whole training."""
        ...

    @property
    def kept(self) -> bool:
        """Whether the weights are part of the checkpoint, because they change during training."""
        ...

    def keep(self) -> None:
        """Make the weights part of the checkpoint. To be called when an objective is built that will refresh the copy."""
        ...

    def refresh(self) -> None:
        """Copy the weights of the policy in training."""
        ...


class ObjectiveContext(NamedTuple):
    """What an objective is built from. Held-out events are not in it, but for `validation`, which is for measuring alone."""

    policy: Policy  # in training
    reference: FrozenPolicy | None  # None in SFT, which has no reference
    source: ExampleSource  # training examples
    data: Callable[[], SamplerContext]  # training data for samplers and rewards, read at the first call; its policy is the reference
    frozen_copy: Callable[[str], FrozenPolicy]  # a further frozen copy, part of the checkpoint; its name labels the weights there
    normalize: Literal["codes", "children"]  # softmax of each level, see `genrec.experiment.Align.normalize`
    steps: int  # optimizer steps of the stage; 0: not known, as in an SFT whose steps follow from the number of its examples
    batch_size: int  # examples of a step, in `parts` parts
    seed: int  # the random numbers of a step depend on it, see `genrec.randomness.generator`
    epoch_steps: int = 0  # steps of an epoch over the objective's examples; the objective sets it for its proposer
    validation: TrainingExamples | None = None  # validation users with their held-out item, as a `SequenceBatch`; never trained on
    history_length: int | None = None  # most items of a history, for a proposer with examples of its own; None: no limit
    parts: int = 1  # parts of a step (`genrec.experiment.Optimization.accumulate`): `loss` and `prepare` get one part at a time

    @property
    def part_size(self) -> int:
        """Examples that `loss` gets at once, at most."""
        return -(-self.batch_size // self.parts)


class StepFault(NamedTuple):
    """The first step in which an objective met a number that is not finite."""

    step: int  # counted from 0
    message: str


@dataclass(frozen=True, kw_only=True)
class TrainingStep:
    """An objective that is ready to train. Fields after `loss` are for objectives that need them."""

    examples: TrainingExamples  # the batches of the stage
    # (prepared batch on the device, step) -> scalar loss, further metrics to log. Of a step in parts it is called for each part, and
    # random numbers of `genrec.randomness` drawn for this `step` differ between the parts
    loss: Callable[[Any, int], tuple[Tensor, Logs]]
    prepare: Callable[[Any, int], Any] | None = None  # (batch on the CPU, step) -> input of `loss`; reads no changing weights
    begin: Callable[[int], None] | None = None  # called with each step before its loss, for example to refresh a frozen copy
    state: ObjectiveState | None = None  # tensors for the checkpoint
    modules: tuple[nn.Module, ...] = ()  # further modules with parameters to train; they are part of the checkpoint
    measure: Callable[[], Mapping[str, float]] | None = None  # called at each validation, in evaluation mode; metrics for the curves
    watchers: tuple[Callable[[CurveRow], str | None], ...] = ()  # called with each row of the curves; a warning to print, or None
    save: Callable[[Path], None] | None = None  # writes further files into the artifact when training ends
    fault: Callable[[], StepFault | None] | None = None  # read with the check of the losses; it may wait for the device


@runtime_checkable
class Objective(Protocol):
    """The specification of what a stage of training minimizes: a frozen dataclass."""

    def build_step(self, context: ObjectiveContext) -> TrainingStep:
        """Return the objective for one policy and one training set."""
        ...


class Candidates(NamedTuple):
    """Candidates of each row. In a preference the first one is the preferred item, unless a reward chooses it."""

    items: Tensor  # int64 [X, M]; any item or 0 where masked, and 0 where no item has the candidate's codes
    mask: Tensor  # bool [X, M]; false: the candidate takes no part
    rows: Tensor | None = None  # bool [X]  rows that take part, such as those past a hit gate; None: all
    behavior: Tensor | None = None  # float32 [X, M]  log-probability under the policy that drew them; None: they were not sampled
    codes: Tensor | None = None  # int64 [X, M, L]  of candidates that no item has, -1 for items and where masked; None: all are items
    weight: Tensor | None = None  # float32 [X]  weight of each row in the means of the loss, above 0; None: all 1


class RowScores(Protocol):
    """The policy in training on the rows of one batch. The history is encoded once, with the gradient."""

    def level_log_prob(self, items: Tensor) -> Tensor:
        """Return level log-probabilities with a gradient, float32 [X, M, L], of items int64 [X, M]; -inf where an item is 0."""
        ...

    def top(self, n: int, exclude: Tensor | None = None) -> Ranking:
        """Return the `n` best items of each row without a gradient: exact where the policy scores the catalog, else beams."""
        ...

    def code_level_log_prob(self, codes: Tensor) -> Tensor:
        """Return those of code sequences int64 [X, M, L], float32 [X, M, L], -inf where they are -1; needs a `CodePolicy`."""
        ...

    def sample(self, n: int, exclude: Tensor | None, generator: Generator) -> ItemSample:
        """Draw `n` distinct items for each row without a gradient; `generator` is on the device of the rows.

        Of a policy that does not score the catalog, `ItemSample.log_prob` is normalized like `level_log_prob`.
        """
        ...

    def proposing_log_prob(self, items: Tensor) -> Tensor:
        """Return the log-probabilities of items int64 [X, M] without a gradient, float32 [X, M], of the policy that lists and draws.

        They differ from the sums of `level_log_prob` under dropout, which beams and their samples do without.
        """
        ...

    def rank(self, items: Tensor) -> Tensor | None:
        """Return the place (0 is the best) in the whole catalog of items int64 [X, M], or None if only beams are known."""
        ...


@dataclass(frozen=True, kw_only=True)
class Proposals:
    """A proposer for one training set. Exactly one of `on_host`, `in_step` and `listed` is given."""

    on_host: Callable[[SequenceBatch, int], Candidates] | None = None  # (rows on the CPU, step); reads no changing weights
    in_step: Callable[[SequenceBatch, SequenceBatch, int, RowScores], Candidates] | None = (
        None  # (rows, rows on the CPU, step, scores)
    )
    examples: TrainingExamples | None = None  # examples of the proposer's own, such as pairs from a file; None: those of the objective
    listed: Callable[[Tensor], Candidates] | None = None  # (numbers int64 [X] of `examples`), on the CPU; they never change
    static: bool = False  # the candidates of an example never change; reference log-probabilities are then computed once
    begin: Callable[[int], None] | None = None  # called with each step before its candidates are needed in the step
    state: ObjectiveState | None = None  # tensors for the checkpoint
    for_validation: Callable[[SequenceBatch], Candidates] | None = None  # candidates of validation users, drawn once with seed 0
    save: Callable[[Path], None] | None = None  # writes further files into the artifact when training ends


@runtime_checkable
class Proposer(Protocol):
    """The specification of who proposes the candidates of a row: a frozen dataclass."""

    def build_proposals(self, context: ObjectiveContext) -> Proposals:
        """Return the proposer for one policy and one training set."""
        ...


@runtime_checkable
class SizedProposer(Protocol):
    """A proposer that knows the largest number of candidates of a row from its settings."""

    def most_candidates(self) -> int:
        """Return this number, with the preferred item."""
        ...


@runtime_checkable
class CodeProposer(Protocol):
    """A proposer that knows from its settings whether it gives code sequences that no item has (`Candidates.codes`).

    Only objectives that score codes take such a proposer, with a policy that is a `genrec.types.CodePolicy`.
    """

    def proposes_codes(self) -> bool:
        """Return whether candidates may be code sequences that no item has."""
        ...
