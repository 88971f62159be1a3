"""The training loop, built on Lightning: optimizer steps, learning-rate schedule, validation, checkpoints and early stopping.

Both SFT and alignment use `train`, each with its own objective. Lightning handles the device, the precision and the backward pass.
Data order, learning rate and dropout are functions of (seed, step), so a resumed run gives the results of an uninterrupted one.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

import pytorch_lightning as lightning
import torch
from torch import Tensor, nn

from genrec import process_group
from genrec.errors import ArtifactError, NumericsError, Stopped
from genrec.objective_state import FixedTensors, WithModules, check_names
from genrec.plugin_errors import names_of_plugins
from genrec.precision import resolve
from genrec.progress import Progress as ProgressBar
from genrec.progress import say
from genrec.training import checkpoint
from genrec.training.batch_stream import BatchStream, users_of_step
from genrec.training.checkpoint import TrainingId, TrainingProgress
from genrec.training.curves import Curves, OnRow, Row, scores
from genrec.training.lightning_module import PartLog, Training, mean_logs, of_all_processes
from genrec.training.model_selection import Selection
from genrec.training.numerics import FiniteCheck
from genrec.training.quiet_trainer import quiet_trainer, restored_signal_handlers
from genrec.training.recipes import SFT, Align
from genrec.training.schedule import Schedule, schedule
from genrec.training.shared_state import check_equal, clear_counts, collect_counts
from genrec.training.time_estimate import TimeEstimate, synchronized_clock
from genrec.types import ObjectiveState, TrainingExamples, TrainingStep

LOG_EVERY = 20  # steps per row of the curves
CHECKPOINT_SECONDS = 30.0  # minimum time between checkpoints, so that saving takes a small share of the training time
Validate = Callable[[], Mapping[str, float]]  # returns validation metrics; must include `Selection.column`
UserIds = Callable[[Tensor], Sequence[str]]  # user numbers int64 [B] -> the users' own ids


class Outcome(NamedTuple):
    """The result of a training run."""

    curves: list[Row]
    best_step: int  # step with the best validation score; 0 is the policy before training
    best_score: float  # validation score at that step
    last_step: int  # step at which training ended
    recipe: dict[str, Any]  # the resolved numbers of the recipe: steps, learning rate, precision, ...
    earlier_seconds: float  # time of the training up to the checkpoint from which this session went on; 0 without one


class TrainingCallback(lightning.Callback):
    """Logs, validates and saves. Stops training on lost patience, non-finite numbers or a signal."""

    def __init__(
        self, progress: TrainingProgress, best: dict[str, Tensor], objective_state: ObjectiveState, folder: Path,
        identity: TrainingId, plan: Schedule, patience: int | None, validate: Validate, bar: ProgressBar, curves: Curves,
        selection: Selection, check: FiniteCheck, estimate: TimeEstimate, state: ObjectiveState | None,
    ) -> None:  # fmt: skip
        self.state = state  # the objective's own part of `objective_state`
        self.progress, self.best, self.objective_state, self.folder = progress, best, objective_state, folder
        self.plan, self.patience, self.validate, self.bar, self.curves = plan, patience, validate, bar, curves
        self.selection, self.check, self.estimate, self.identity = selection, check, estimate, identity
        self.saved = self.began = time.monotonic()
        self.earlier_seconds = progress.seconds
        self.loss, self.score = _latest(progress.curves, selection.column)
        self.signal: int | None = None
        self.logged: list[Sequence[PartLog]] = []  # of the steps since the last row

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Handle SIGINT and SIGTERM by finishing and saving the current step. Validate before the first step."""
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                signal.signal(number, self._on_signal)
        if self.progress.step == 0:
            self._validate(pl_module)
            self._emit_rows()

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self.signal is not None:  # the second signal quits at once
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
        self.signal = number
        say("stopping after this step; press Ctrl-C again to quit at once without saving")

    def on_train_batch_end(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Log the step; validate, save or stop if it is time to."""
        assert isinstance(pl_module, Training)
        pl_module.step += 1
        self.progress = self.progress._replace(step=pl_module.step)
        self.logged.append(pl_module.logged)
        estimated = self.estimate.step_done(pl_module.step)
        if estimated is not None:
            say(estimated)
        validates = pl_module.step % self.plan.every == 0 or pl_module.step == self.plan.max_steps
        stop, is_time = self._agreed()
        ends_row = validates or pl_module.step % LOG_EVERY == 0
        if ends_row or stop is not None:
            self._take_logs()
        if ends_row:
            self.loss = self.curves.flush(self.progress.step)["loss"]
        if validates:
            self._validate(pl_module)
            trainer.should_stop = _out_of_patience(self.progress, self.patience)
            stop, is_time = self._agreed()  # a validation takes long
        self._emit_rows()
        self.bar.advance(note=self._note())
        if not self.logged and (stop is not None or is_time):
            self._save(pl_module, trainer.optimizers[0])
        if stop is not None:
            raise Stopped(stop, f"stopped at step {pl_module.step}, checkpoint saved; run the same command to resume")

    def _agreed(self) -> tuple[int | None, bool]:
        """Return a signal that a process has received, or None, and whether a checkpoint is due: the same in all processes.

        `self.signal` may change at any moment, so it must not decide alone what the processes do together.
        """
        found = process_group.of_all((self.signal, time.monotonic() - self.saved > CHECKPOINT_SECONDS))
        return next((number for number, _ in found if number is not None), None), found[0][1]

    def _note(self) -> str:
        """Return the last loss, the last validation score and the best one in words."""
        loss = [] if self.loss is None else [f"loss {self.loss:.4g}"]
        best = f"best {self.progress.best_score:.4f} at step {self.progress.best_step}"
        return ", ".join(loss if self.score is None else [*loss, f"{self.selection.column} {self.score:.4f} ({best})"])

    def _take_logs(self) -> None:
        """Pass the logs of the last steps to the curves. Raise NumericsError if one was not finite; the last checkpoint stays."""
        self.check.check_steps()
        self.curves.pending += [mean_logs(parts) for parts in of_all_processes(self.logged)]
        self.logged = []

    def _save(self, module: Training, optimizer: torch.optim.Optimizer) -> None:
        """Save a checkpoint, unless the policy has non-finite weights."""
        policy, moments = module.policy, module.moments(optimizer)
        self.check.check_weights(policy, self.progress.step)
        self.collect(policy)
        seconds = self.earlier_seconds + time.monotonic() - self.began
        self.progress = self.progress._replace(pending=self.curves.pending_values(), seconds=seconds)
        if process_group.leads():
            checkpoint.save(self.folder, self.identity, policy, moments, self.best, self.objective_state.tensors(), self.progress)
        self.check.saved_step, self.saved = self.progress.step, time.monotonic()

    def collect(self, policy: nn.Module) -> None:
        """Bring the counts of all processes to the first one, and check that all hold the same tensors."""
        check_equal({**policy.state_dict(), **self.objective_state.tensors()})
        collect_counts(self.state)

    def _emit_rows(self) -> None:
        for message in self.curves.emit():
            say(message)

    def _validate(self, pl_module: lightning.LightningModule) -> None:
        """Validate in evaluation mode, and keep the weights if they are the best. Raise NumericsError for non-finite numbers."""
        assert isinstance(pl_module, Training)
        policy, step, column = pl_module.policy, self.progress.step, self.selection.column
        self.check.check_weights(policy, step)
        training, began = policy.training, synchronized_clock()
        policy.eval()
        try:
            found = process_group.from_first(self.validate() if process_group.leads() else {})
        except NumericsError as error:
            raise self.check.at_validation(error, step) from error
        policy.train(training)
        self.estimate.validated(synchronized_clock() - began)
        self.curves.add_validation(step, found)
        self.check.check_score(column, found[column], step)
        self.score = found[column]
        if found[column] > self.progress.best_score:
            self.best = checkpoint.weights(policy)
            self.progress = self.progress._replace(best_step=step, best_score=found[column], stale=0)
        else:
            self.progress = self.progress._replace(stale=self.progress.stale + 1)


def train(
    policy: nn.Module, objective: TrainingStep, recipe: SFT | Align, seed: int, order_seed: int, folder: Path, validate: Validate,
    description: str, objective_state: ObjectiveState | None = None, begin: Callable[[int], None] | None = None,
    on_row: OnRow | None = None, selection: Selection | None = None, user_ids: UserIds | None = None, key: str = "",
) -> Outcome:  # fmt: skip
    """Train the policy in place, resuming from the checkpoint in `folder` if there is one of this stage, seed and `key`.

    The policy is left with the weights of the best step on validation, or of the last step for an `Align` with keep="last".

    `description` names the run in messages. `objective_state` has the tensors that the objective changes; they are part of the
    checkpoint, as are its modules. `begin` is called with each step before the objective's own `begin`. `order_seed` gives the order
    of the batches and dropout. For `on_row` and the objective's `watchers` see `Curves`; warnings of the watchers are printed.
    `selection` is the validation metric of the best step, NDCG@10 by default. `user_ids` returns the users' own ids for messages.
    `key` is that of the artifact to which the training belongs.

    Raises NumericsError if a loss, a gradient, a weight or a validation score is not finite. Such weights are never saved.
    """
    examples, path = objective.examples, "sft" if isinstance(recipe, SFT) else "align"
    plan, selection = schedule(recipe, len(examples)), selection or Selection()
    names = partial(_user_names, examples, plan.batch_size, order_seed, user_ids)
    check = FiniteCheck(description, path, folder, names, objective.fault, names_of_plugins(recipe.objective))
    module = Training(policy, objective, recipe.optimization, plan, order_seed, check, begin, recipe.objective)
    objective_state = WithModules(FixedTensors() if objective_state is None else objective_state, objective.modules)
    identity = TrainingId(path, seed, key)
    progress, best = _resume(module, folder, identity, objective_state, recipe, description)
    clear_counts(objective.state)
    process_group.from_first(None)  # no process writes a checkpoint before all have read the old one
    patience = recipe.validation.patience
    say(f"{description}: {plan.in_words(examples)}, {progress.precision}")
    if process_group.strategy() == "zero1":
        say(f"{description}: each of the {process_group.size()} processes keeps its share of the optimizer's state (zero1)")
    for warning in plan.warnings(path, recipe):
        say(f"{description}: warning: {warning}")
    with ProgressBar(description, plan.max_steps) as bar:
        bar.begin(progress.step)
        curves = Curves(progress.curves, on_row, objective.watchers, selection.column, progress.pending)
        flag = f"--{path}.optimization.max-steps"
        estimate = TimeEstimate(description, flag, plan, progress.step, patience is not None)
        callback = TrainingCallback(
            progress, best, objective_state, folder, identity, plan, patience, validate, bar, curves, selection, check, estimate,
            objective.state,
        )  # fmt: skip
        if progress.step < plan.max_steps and not _out_of_patience(progress, patience):
            trainer = quiet_trainer(progress.precision, plan.max_steps - progress.step, callback)
            with restored_signal_handlers():
                trainer.fit(
                    module,
                    BatchStream(
                        examples, plan.batch_size, order_seed, progress.step, objective.prepare, recipe.optimization.accumulate
                    ),
                )
            callback.collect(policy)
    if isinstance(recipe, SFT) or recipe.keep == "best":
        policy.load_state_dict(callback.best)
        if callback.progress.best_step == 0:
            say(f"{description}: no step improved {selection.title} on validation; the policy from before training (step 0) is kept")
    else:
        _warn_if_worse(description, callback.progress, selection)
    final = callback.progress
    check.check_weights(policy, final.step)  # validation may have changed a buffer
    resolved = {**plan.resolved(), "precision": final.precision, "parameters": sum(each.numel() for each in policy.parameters())}
    return Outcome(final.curves, final.best_step, final.best_score, final.step, resolved, progress.seconds)


def _resume(
    module: Training, folder: Path, identity: TrainingId, objective_state: ObjectiveState, recipe: SFT | Align, description: str
) -> tuple[TrainingProgress, dict[str, Tensor]]:
    """Return the progress and the best weights of the checkpoint, or those of a training that starts.

    With a checkpoint, the policy, the optimizer and `objective_state` get its values, and the training keeps its precision.
    """
    module.check.start(module.policy)
    resumed = checkpoint.load(folder, identity, module.policy, module.plan.max_steps, module.trained_parameters())
    if resumed is None:
        precision = resolve(recipe.optimization.precision)
        return TrainingProgress(0, 0, -1.0, 0, [], precision), checkpoint.weights(module.policy)
    try:
        check_names(objective_state, resumed.objective_state)
        objective_state.restore(resumed.objective_state)
    except ValueError as error:
        raise ArtifactError(f"the checkpoint in {folder} does not fit this training: {error}; remove it and run again") from None
    progress = resumed.progress
    module.optimizer_state, module.step, module.check.saved_step = resumed.moments, progress.step, progress.step
    kept = f" in {progress.precision}, the precision of the checkpoint" if recipe.optimization.precision == "auto" else ""
    say(f"{description}: resuming from step {progress.step}{kept}")
    return progress, resumed.best


def _latest(rows: Sequence[Row], column: str) -> tuple[float | None, float | None]:
    """Return the last loss and the last score on validation of a checkpoint's curves, None where there is none."""
    losses, found = [row["loss"] for row in rows if "loss" in row], list(scores(rows, column).values())
    return losses[-1] if losses else None, found[-1] if found else None


def _user_names(examples: TrainingExamples, batch_size: int, seed: int, user_ids: UserIds | None, step: int) -> Sequence[str]:
    """Return the ids of the users in the batch of a step, or their numbers without `user_ids`."""
    users = users_of_step(examples, batch_size, seed, step)
    return [str(number) for number in users.tolist()] if user_ids is None else user_ids(users)


def _out_of_patience(progress: TrainingProgress, patience: int | None) -> bool:
    """Return whether training stops early: the last `patience` validations brought no better score."""
    return patience is not None and progress.stale >= patience


def _warn_if_worse(description: str, progress: TrainingProgress, selection: Selection) -> None:
    """Warn if the last step, which is kept, has a lower validation score than step 0."""
    found = scores(progress.curves, selection.column)
    (_, before), (last, after) = min(found.items()), max(found.items())
    if after < before:
        best = f"step {progress.best_step} ({progress.best_score:.4f})" if progress.best_step else "the policy from before training"
        say(
            f"{description} lowered {selection.title} on validation from {before:.4f} at step 0 to {after:.4f} at step {last}; the "
            f"last step is kept because of keep='last'; --align.keep best would keep {best}"
        )
