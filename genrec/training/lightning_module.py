"""The policy with its objective and optimizer, as Lightning trains it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytorch_lightning as lightning
import torch
from torch import Tensor, nn

from genrec import plugin_errors
from genrec.non_finite_source import find_source, named_tensors
from genrec.randomness import seed_of
from genrec.training.numerics import FiniteCheck
from genrec.training.recipes import Optimization
from genrec.training.schedule import Schedule, learning_rate
from genrec.types import TrainingStep


class Training(lightning.LightningModule):
    """A policy with its objective and optimizer. `step` continues after a resume, unlike the trainer's own count."""

    def __init__(
        self,
        policy: nn.Module,
        objective: TrainingStep,
        optimization: Optimization,
        plan: Schedule,
        seed: int,
        check: FiniteCheck,
        begin: Callable[[int], None] | None = None,
        specification: object = None,
    ) -> None:
        super().__init__()
        self.policy, self.objective, self.optimization, self.plan, self.seed = policy, objective, optimization, plan, seed
        self.check, self.begin, self.specification = check, begin, specification  # that of the objective, for messages
        self.batch: Any = None  # of the step
        self.objective_modules = nn.ModuleList(objective.modules)  # Lightning moves them to the policy's device
        self.step = 0
        self.optimizer_state: dict[int, dict[str, Tensor]] = {}
        self.logged: dict[str, Tensor] = {}

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return AdamW over the policy's parameters, with the moments of the checkpoint after a resume."""
        optimizer = adamw(self.trained_parameters(), self.plan.learning_rate, self.optimization.weight_decay)
        if self.optimizer_state:
            optimizer.load_state_dict({**optimizer.state_dict(), "state": self.optimizer_state})
        return optimizer

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Set the learning rate and the seed of dropout, both functions of the step."""
        for group in self.trainer.optimizers[0].param_groups:
            group["lr"] = learning_rate(self.plan, self.step)
        torch.manual_seed(seed_of(self.seed, "dropout", self.step))

    def configure_gradient_clipping(
        self, optimizer: torch.optim.Optimizer, gradient_clip_val: float | None = None, gradient_clip_algorithm: str | None = None
    ) -> None:
        """Clip the gradients and check their norm before the optimizer applies them.

        Lightning does not clip those of a fused optimizer under autocast, although bf16 uses no scaler.
        """
        norm = torch.nn.utils.clip_grad_norm_(self.trained_parameters(), self.optimization.max_grad_norm)
        self.check.add(self.step, self.logged["loss"], norm, self._find_source)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Return the loss of one batch."""
        for begin in (self.begin, self.objective.begin):
            if begin is not None:
                begin(self.step)
        self.batch = batch
        found = self.objective.loss(batch, self.step)
        plugin_errors.check_step(found, self.step, self.specification)
        loss, logs = found
        self.logged = logs | {"loss": loss.detach()}
        return loss

    def _find_source(self) -> str | None:
        """Return the operation behind the loss or gradient of this step, which is not finite. The weights are those of the step."""

        def again() -> Tensor:
            torch.manual_seed(seed_of(self.seed, "dropout", self.step))
            return self.objective.loss(self.batch, self.step)[0]

        return find_source(again, named_tensors(self.batch))

    def trained_parameters(self) -> list[nn.Parameter]:
        """Return the parameters of the policy and of the objective's modules that need a gradient."""
        return [each for module in (self.policy, self.objective_modules) for each in module.parameters() if each.requires_grad]


def adamw(parameters: list[nn.Parameter], learning_rate: float, weight_decay: float) -> torch.optim.Optimizer:
    """Return the optimizer of every training."""
    return torch.optim.AdamW(parameters, lr=learning_rate, weight_decay=weight_decay, fused=True)
