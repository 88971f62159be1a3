"""The one training loop, on Lightning: an objective, batches that are a function of the step, and what watches over them.

In: a policy and an objective. Out: the policy with the weights of its best step on validation, and the curves. Lightning gives the
device, the precision and the backward pass; order, learning rate and dropout are functions of (seed, step), so that a
resumed training is the uninterrupted one.
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
from genrec.progress import Progress as Bar
from genrec.progress import say
from genrec.randomness import seed_of
from genrec.training import checkpoint
from genrec.training.batch_stream import Batched, Batches
from genrec.training.checkpoint import Progress
from genrec.training.curves import SELECTED, Curves, OnRow, Row, Watcher, scores
from genrec.training.recipes import SFT, Align

LOG_EVERY = 20  # steps that one row of the curves averages; also how often numbers are checked
CHECKPOINT_SECONDS = 30.0  # at least between checkpoints, so that saving stays a small share of the time


Validate = Callable[[], Mapping[str, float]]  # metrics on validation; `SELECTED` is among them


class Objective(Protocol):
    """What a step minimizes."""

    def __call__(self, batch: Any, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss, a scalar, and what is logged beside it, detached scalars."""
        ...


class Outcome(NamedTuple):
    """A finished training."""

    curves: list[Row]
    best_step: int
    best_score: float
    last_step: int


def learning_rate(recipe: SFT | Align, step: int) -> float:
    """Linear warm-up, then a cosine to 0 at the last step."""
    if step < recipe.optimization.warmup_steps:
        return recipe.optimization.learning_rate * (step + 1) / recipe.optimization.warmup_steps
    done = (step - recipe.optimization.warmup_steps) / max(1, recipe.optimization.max_steps - recipe.optimization.warmup_steps)
    return recipe.optimization.learning_rate * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))


class Training(lightning.LightningModule):
    """One policy, one objective: what Lightning calls. `step` counts over restarts, unlike the trainer's own count."""

    def __init__(self, policy: nn.Module, objective: Objective, recipe: SFT | Align, seed: int) -> None:
        super().__init__()
        self.policy, self.objective, self.recipe, self.seed = policy, objective, recipe, seed
        self.step = 0
        self.optimizer_state: dict[int, dict[str, Tensor]] = {}
        self.logged: dict[str, Tensor] = {}

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """AdamW over the policy, with the moments of a checkpoint where there was one."""
        optimizer = torch.optim.AdamW(
            [parameter for parameter in self.policy.parameters() if parameter.requires_grad],
            lr=self.recipe.optimization.learning_rate,
            weight_decay=self.recipe.optimization.weight_decay,
            fused=True,
        )
        if self.optimizer_state:
            optimizer.load_state_dict({**optimizer.state_dict(), "state": self.optimizer_state})
        return optimizer

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Set what is a function of the step: the learning rate, and the seed of dropout."""
        for group in self.trainer.optimizers[0].param_groups:
            group["lr"] = learning_rate(self.recipe, self.step)
        torch.manual_seed(seed_of(self.seed, "dropout", self.step))

    def configure_gradient_clipping(
        self, optimizer: torch.optim.Optimizer, gradient_clip_val: float | None = None, gradient_clip_algorithm: str | None = None
    ) -> None:
        """By our own hand: under autocast Lightning clips no gradients of a fused optimizer, though without a scaler it could."""
        torch.nn.utils.clip_grad_norm_(self.policy.parameters(), self.recipe.optimization.max_grad_norm)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """The objective of one batch."""
        loss, self.logged = self.objective(batch, self.step)
        self.logged["loss"] = loss.detach()
        return loss


class TrainingCallback(lightning.Callback):
    """Logs, validates, saves, and stops: for patience, for numbers that are none, for a signal."""

    def __init__(
        self, progress: Progress, best: dict[str, Tensor], counters: dict[str, Tensor], folder: Path,
        validate: Validate, bar: Bar, curves: Curves,
    ) -> None:  # fmt: skip
        self.progress, self.best, self.counters, self.folder = progress, best, counters, folder
        self.validate, self.bar, self.curves = validate, bar, curves
        self.saved = time.monotonic()
        self.signal: int | None = None

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Take SIGINT and SIGTERM, so that the step in hand is finished and saved; validate before the first step."""
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                signal.signal(number, self._on_signal)
        if self.progress.step == 0:
            self._validate(pl_module)
            self._tell()

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self.signal is not None:  # the second one leaves at once
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
        self.signal = number
        say("stopping after this step; once more to leave at once")

    def on_train_batch_end(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """After every step."""
        assert isinstance(pl_module, Training)
        pl_module.step += 1
        self.progress = self.progress._replace(step=pl_module.step)
        self.curves.pending.append(pl_module.logged)
        recipe = pl_module.recipe
        last = pl_module.step == recipe.optimization.max_steps
        validates = pl_module.step % recipe.validation.every == 0 or last
        if validates or self.signal is not None or pl_module.step % LOG_EVERY == 0:
            self._flush()
        if validates:
            self._validate(pl_module)
            trainer.should_stop = _out_of_patience(self.progress, recipe)
        self._tell()
        self.bar.advance(note=f"{SELECTED} {self.progress.best_score:.4f} at step {self.progress.best_step}")
        if not self.curves.pending and (self.signal is not None or time.monotonic() - self.saved > CHECKPOINT_SECONDS):
            checkpoint.save(self.folder, pl_module.policy, trainer.optimizers[0], self.best, self.counters, self.progress)
            self.saved = time.monotonic()
        if self.signal is not None:
            raise Stopped(self.signal, f"stopped at step {pl_module.step}, saved; the same command goes on from there")

    def _flush(self) -> None:
        """One row of the curves; refuses numbers that are none, keeping the last checkpoint."""
        first = self.progress.step - len(self.curves.pending) + 1
        loss = self.curves.flush(self.progress.step)["loss"]
        if not math.isfinite(loss):
            raise NumericsError(
                f"the loss is {loss} in steps {first}..{self.progress.step}; the last good checkpoint is kept in "
                f"{self.folder}; try a smaller learning rate or clip"
            )

    def _tell(self) -> None:
        for said in self.curves.tell():
            say(said)

    def _validate(self, pl_module: lightning.LightningModule) -> None:
        assert isinstance(pl_module, Training)
        training = pl_module.policy.training
        pl_module.policy.eval()
        found = self.validate()
        pl_module.policy.train(training)
        self.curves.validated(self.progress.step, found)
        if found[SELECTED] > self.progress.best_score:
            self.best = checkpoint.weights(pl_module.policy)
            self.progress = self.progress._replace(best_step=self.progress.step, best_score=found[SELECTED], stale=0)
        else:
            self.progress = self.progress._replace(stale=self.progress.stale + 1)


def train(
    policy: nn.Module, objective: Objective, examples: Batched, recipe: SFT | Align, seed: int, folder: Path,
    validate: Validate, description: str, counters: dict[str, Tensor] | None = None,
    prepare: Callable[[Any, int], Any] | None = None, on_row: OnRow | None = None, watchers: Sequence[Watcher] = (),
) -> Outcome:  # fmt: skip
    """Train to the end, from the checkpoint in `folder` where there is one.

    The policy is left with its best step's weights, or with the last step's where the recipe says so. `counters` are tensors that
    the objective adds to in place; they are part of a checkpoint. `prepare`: see `Batches`. `on_row` is given every row of the curves,
    and what a watcher says of one is said aloud: see `Curves`.
    """
    module = Training(policy, objective, recipe, seed)
    resumed = checkpoint.load(folder, policy)
    progress, best = Progress(0, 0, -1.0, 0, []), checkpoint.weights(policy)
    counters = {} if counters is None else counters
    if resumed is not None:
        progress, best, module.optimizer_state = resumed.progress, resumed.best, resumed.moments
        module.step = progress.step
        for name, value in resumed.counters.items():
            counters[name].copy_(value)
        say(f"{description}: goes on from step {progress.step}")
    with Bar(description, recipe.optimization.max_steps) as bar:
        bar.done = progress.step
        watch = TrainingCallback(progress, best, counters, folder, validate, bar, Curves(progress.curves, on_row, watchers))
        if progress.step < recipe.optimization.max_steps and not _out_of_patience(progress, recipe):
            trainer = _quiet_trainer(recipe, recipe.optimization.max_steps - progress.step, watch)
            with _signals_given_back():
                trainer.fit(module, Batches(examples, recipe.optimization.batch_size, seed, progress.step, prepare))
    if isinstance(recipe, SFT) or recipe.keep == "best":
        policy.load_state_dict(watch.best)
        if watch.progress.best_step == 0:
            say(f"{description}: no step was better on validation than the policy it began with, which is kept")
    else:
        _say_if_worse(description, watch.progress)
    return Outcome(watch.progress.curves, watch.progress.best_step, watch.progress.best_score, watch.progress.step)


def _out_of_patience(progress: Progress, recipe: SFT | Align) -> bool:
    """Return whether training stops early: the last `patience` validations brought no better score."""
    return recipe.validation.patience is not None and progress.stale >= recipe.validation.patience


def _say_if_worse(description: str, progress: Progress) -> None:
    """Where the last step is kept whatever it is worth: that it is worth less than step 0, if it is, and what would have been kept."""
    found = scores(progress.curves)
    (_, before), (last, after) = min(found.items()), max(found.items())
    if after < before:
        best = f"step {progress.best_step} ({progress.best_score:.4f})" if progress.best_step else "the policy that it began with"
        name = SELECTED.upper()
        say(
            f"{description} made {name} on validation worse: {before:.4f} at step 0 -> {after:.4f} at step {last}, "
            f"which is kept because keep='last' says so; keep='best' would have kept {best}"
        )


@contextmanager
def _signals_given_back() -> Iterator[None]:
    """Afterwards SIGINT and SIGTERM do what they did before, also where Lightning leaves its own handlers behind."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            for number, handler in before.items():
                signal.signal(number, handler)


def _quiet_trainer(recipe: SFT | Align, steps: int, watch: TrainingCallback) -> lightning.Trainer:
    logging.getLogger("pytorch_lightning.utilities.rank_zero").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", module="pytorch_lightning")
    return lightning.Trainer(
        max_steps=steps,
        accelerator="auto",
        devices=1,
        precision=recipe.optimization.precision,
        callbacks=[watch],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
