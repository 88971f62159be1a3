"""The training loop, built on Lightning: optimizer steps, learning-rate schedule, validation, checkpoints and early stopping.

Both SFT and alignment use `train`, each with its own objective. Lightning handles the device, the precision and the backward pass.
Data order, learning rate and dropout are functions of (seed, step), so a resumed run gives the results of an uninterrupted one.
"""

from __future__ import annotations

import logging
import math
import signal
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple, Protocol

import pytorch_lightning as lightning
import torch
from torch import Tensor, nn

from genrec.errors import NumericsError, Stopped
from genrec.progress import Progress as ProgressBar
from genrec.progress import say
from genrec.randomness import seed_of
from genrec.training import checkpoint
from genrec.training.batch_stream import BatchStream, TrainingExamples
from genrec.training.checkpoint import TrainingProgress
from genrec.training.curves import SELECTED, Curves, OnRow, Row, Watcher, scores
from genrec.training.recipes import SFT, Align, Optimization, Precision, Validation

LOG_EVERY = 20  # steps per row of the curves; the loss is checked for NaN and infinity as often
CHECKPOINT_SECONDS = 30.0  # minimum time between checkpoints, so that saving takes a small share of the training time


Validate = Callable[[], Mapping[str, float]]  # returns validation metrics; must include `SELECTED`


class Objective(Protocol):
    """The loss that a training step minimizes."""

    def __call__(self, batch: Any, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss, a scalar, and further metrics to log, detached scalars."""
        ...


class Outcome(NamedTuple):
    """The result of a training run."""

    curves: list[Row]
    best_step: int  # step with the best validation score; 0 is the policy before training
    best_score: float  # NDCG@10 on validation at that step
    last_step: int  # step at which training ended


def learning_rate(optimization: Optimization, step: int) -> float:
    """Return the learning rate of a step: linear warm-up, then cosine decay to 0 at `max_steps`."""
    if step < optimization.warmup_steps:
        return optimization.learning_rate * (step + 1) / optimization.warmup_steps
    done = (step - optimization.warmup_steps) / max(1, optimization.max_steps - optimization.warmup_steps)
    return optimization.learning_rate * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))


class Training(lightning.LightningModule):
    """A policy with its objective and optimizer. `step` continues after a resume, unlike the trainer's own count."""

    def __init__(self, policy: nn.Module, objective: Objective, optimization: Optimization, seed: int) -> None:
        super().__init__()
        self.policy, self.objective, self.optimization, self.seed = policy, objective, optimization, seed
        self.step = 0
        self.optimizer_state: dict[int, dict[str, Tensor]] = {}
        self.logged: dict[str, Tensor] = {}

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return AdamW over the policy's parameters, with the moments of the checkpoint after a resume."""
        optimizer = torch.optim.AdamW(
            [parameter for parameter in self.policy.parameters() if parameter.requires_grad],
            lr=self.optimization.learning_rate,
            weight_decay=self.optimization.weight_decay,
            fused=True,
        )
        if self.optimizer_state:
            optimizer.load_state_dict({**optimizer.state_dict(), "state": self.optimizer_state})
        return optimizer

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Set the learning rate and the seed of dropout, both functions of the step."""
        for group in self.trainer.optimizers[0].param_groups:
            group["lr"] = learning_rate(self.optimization, self.step)
        torch.manual_seed(seed_of(self.seed, "dropout", self.step))

    def configure_gradient_clipping(
        self, optimizer: torch.optim.Optimizer, gradient_clip_val: float | None = None, gradient_clip_algorithm: str | None = None
    ) -> None:
        """Clip the gradients. Lightning does not clip those of a fused optimizer under autocast, although bf16 uses no scaler."""
        torch.nn.utils.clip_grad_norm_(self.policy.parameters(), self.optimization.max_grad_norm)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Return the loss of one batch."""
        loss, self.logged = self.objective(batch, self.step)
        self.logged["loss"] = loss.detach()
        return loss


class TrainingCallback(lightning.Callback):
    """Logs, validates and saves. Stops training on lost patience, a non-finite loss or a signal."""

    def __init__(
        self, progress: TrainingProgress, best: dict[str, Tensor], objective_state: dict[str, Tensor], folder: Path,
        max_steps: int, validation: Validation, validate: Validate, bar: ProgressBar, curves: Curves,
    ) -> None:  # fmt: skip
        self.progress, self.best, self.objective_state, self.folder = progress, best, objective_state, folder
        self.max_steps, self.validation, self.validate, self.bar, self.curves = max_steps, validation, validate, bar, curves
        self.saved = time.monotonic()
        self.signal: int | None = None

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
        self.curves.pending.append(pl_module.logged)
        validates = pl_module.step % self.validation.every == 0 or pl_module.step == self.max_steps
        if validates or self.signal is not None or pl_module.step % LOG_EVERY == 0:
            self._flush()
        if validates:
            self._validate(pl_module)
            trainer.should_stop = _out_of_patience(self.progress, self.validation)
        self._emit_rows()
        self.bar.advance(note=f"{SELECTED} {self.progress.best_score:.4f} at step {self.progress.best_step}")
        if not self.curves.pending and (self.signal is not None or time.monotonic() - self.saved > CHECKPOINT_SECONDS):
            checkpoint.save(self.folder, pl_module.policy, trainer.optimizers[0], self.best, self.objective_state, self.progress)
            self.saved = time.monotonic()
        if self.signal is not None:
            raise Stopped(self.signal, f"stopped at step {pl_module.step}, checkpoint saved; run the same command to resume")

    def _flush(self) -> None:
        """Add a row to the curves. Raise NumericsError if its loss is not finite; the last checkpoint stays."""
        first = self.progress.step - len(self.curves.pending) + 1
        loss = self.curves.flush(self.progress.step)["loss"]
        if not math.isfinite(loss):
            raise NumericsError(
                f"the loss is {loss} in steps {first}..{self.progress.step}, expected a finite number; the last good checkpoint is "
                f"kept in {self.folder}; try a smaller optimization.learning_rate or optimization.max_grad_norm"
            )

    def _emit_rows(self) -> None:
        for message in self.curves.emit():
            say(message)

    def _validate(self, pl_module: lightning.LightningModule) -> None:
        """Validate in evaluation mode, and keep the weights if they are the best so far."""
        assert isinstance(pl_module, Training)
        training = pl_module.policy.training
        pl_module.policy.eval()
        found = self.validate()
        pl_module.policy.train(training)
        self.curves.add_validation(self.progress.step, found)
        if found[SELECTED] > self.progress.best_score:
            self.best = checkpoint.weights(pl_module.policy)
            self.progress = self.progress._replace(best_step=self.progress.step, best_score=found[SELECTED], stale=0)
        else:
            self.progress = self.progress._replace(stale=self.progress.stale + 1)


def train(
    policy: nn.Module, objective: Objective, examples: TrainingExamples, recipe: SFT | Align, seed: int, folder: Path,
    validate: Validate, description: str, objective_state: dict[str, Tensor] | None = None,
    prepare: Callable[[Any, int], Any] | None = None, on_row: OnRow | None = None, watchers: Sequence[Watcher] = (),
) -> Outcome:  # fmt: skip
    """Train the policy in place, resuming from the checkpoint in `folder` if there is one.

    The policy is left with the weights of the best step on validation, or of the last step for an `Align` with keep="last".

    `description` names the run in messages. `objective_state` holds tensors that the objective updates in place; they are part of
    the checkpoint. For `prepare` see `BatchStream`, for `on_row` and `watchers` see `Curves`; warnings of the watchers are printed.
    """
    optimization, validation = recipe.optimization, recipe.validation
    module = Training(policy, objective, optimization, seed)
    resumed = checkpoint.load(folder, policy)
    progress, best = TrainingProgress(0, 0, -1.0, 0, []), checkpoint.weights(policy)
    objective_state = {} if objective_state is None else objective_state
    if resumed is not None:
        progress, best, module.optimizer_state = resumed.progress, resumed.best, resumed.moments
        module.step = progress.step
        for name, value in resumed.objective_state.items():
            objective_state[name].copy_(value)
        say(f"{description}: resuming from step {progress.step}")
    with ProgressBar(description, optimization.max_steps) as bar:
        bar.done = progress.step
        curves = Curves(progress.curves, on_row, watchers)
        callback = TrainingCallback(
            progress, best, objective_state, folder, optimization.max_steps, validation, validate, bar, curves
        )  # fmt: skip
        if progress.step < optimization.max_steps and not _out_of_patience(progress, validation):
            trainer = _quiet_trainer(optimization.precision, optimization.max_steps - progress.step, callback)
            with _restored_signal_handlers():
                trainer.fit(module, BatchStream(examples, optimization.batch_size, seed, progress.step, prepare))
    if isinstance(recipe, SFT) or recipe.keep == "best":
        policy.load_state_dict(callback.best)
        if callback.progress.best_step == 0:
            say(f"{description}: no step improved {SELECTED.upper()} on validation; the policy from before training (step 0) is kept")
    else:
        _warn_if_worse(description, callback.progress)
    return Outcome(callback.progress.curves, callback.progress.best_step, callback.progress.best_score, callback.progress.step)


def _out_of_patience(progress: TrainingProgress, validation: Validation) -> bool:
    """Return whether training stops early: the last `patience` validations brought no better score."""
    return validation.patience is not None and progress.stale >= validation.patience


def _warn_if_worse(description: str, progress: TrainingProgress) -> None:
    """Warn if the last step, which is kept, has a lower validation score than step 0."""
    found = scores(progress.curves)
    (_, before), (last, after) = min(found.items()), max(found.items())
    if after < before:
        best = f"step {progress.best_step} ({progress.best_score:.4f})" if progress.best_step else "the policy from before training"
        say(
            f"{description} lowered {SELECTED.upper()} on validation from {before:.4f} at step 0 to {after:.4f} at step {last}; the "
            f"last step is kept because of keep='last'; keep='best' would keep {best}"
        )


@contextmanager
def _restored_signal_handlers() -> Iterator[None]:
    """Restore the handlers of SIGINT and SIGTERM on exit. Lightning may leave its own behind."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            for number, handler in before.items():
                signal.signal(number, handler)


def _quiet_trainer(precision: Precision, steps: int, callback: TrainingCallback) -> lightning.Trainer:
    logging.getLogger("pytorch_lightning.utilities.rank_zero").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", module="pytorch_lightning")
    return lightning.Trainer(
        max_steps=steps,
        accelerator="auto",
        devices=1,
        precision=precision,
        callbacks=[callback],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
