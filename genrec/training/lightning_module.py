"""The policy with its objective and optimizer, as Lightning trains it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import pytorch_lightning as lightning
import torch
from pytorch_lightning.core.optimizer import LightningOptimizer
from torch import Tensor, nn

from genrec import plugin_errors, process_group
from genrec.non_finite_source import find_source, named_tensors
from genrec.randomness import PartOfStep, seed_of
from genrec.training.batch_stream import Part
from genrec.training.numerics import FiniteCheck
from genrec.training.optimizer_shards import Moments, OptimizerShards
from genrec.training.recipes import Optimization
from genrec.training.schedule import Schedule, learning_rate
from genrec.training.shared_state import check_processes
from genrec.types import TrainingStep


class Training(lightning.LightningModule):
    """A policy with its objective and optimizer. `step` continues after a resume, unlike the trainer's own count."""

    automatic_optimization = False  # the gradients of the parts of a step are added up here

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
        check_processes(check.path, optimization.processes)
        self.policy, self.objective, self.optimization, self.plan, self.seed = policy, objective, optimization, plan, seed
        self.check, self.begin, self.specification = check, begin, specification  # that of the objective, for messages
        self.batch: Any = None  # of the step
        self.objective_modules = nn.ModuleList(objective.modules)  # Lightning moves them to the policy's device
        self.step = 0
        self.optimizer_state: Moments = {}  # of a checkpoint
        self.shards: OptimizerShards | None = None  # None: this process optimizes the whole parameters
        self.logged: list[PartLog] = []  # of the last step

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return AdamW over the policy's parameters or their shares, with the moments of the checkpoint after a resume."""
        parameters, moments = self.trained_parameters(), self.optimizer_state
        if process_group.strategy() == "zero1":
            self.shards = OptimizerShards(parameters)
            parameters, moments = self.shards.own, self.shards.cut(moments)
        optimizer = adamw(parameters, self.plan.learning_rate, self.optimization.weight_decay)
        if moments:
            optimizer.load_state_dict({**optimizer.state_dict(), "state": moments})
        self.optimizer_state = {}
        return optimizer

    def moments(self, optimizer: torch.optim.Optimizer) -> Moments:
        """Return the optimizer's state for the checkpoint; that of shares is collected by the first process."""
        own: Moments = optimizer.state_dict()["state"]
        return own if self.shards is None else self.shards.whole(own)

    def training_step(self, parts: tuple[Part, ...], batch_idx: int) -> None:
        """Take a step of the optimizer with the gradients of all parts, each weighted by its share of the targets.

        This process computes the parts that have a batch; gradients are added up over the processes.

        The learning rate and the seed of dropout are functions of the step. Gradients are clipped and their norm is checked before the
        optimizer applies them.
        """
        optimizer = self.optimizers()
        assert isinstance(optimizer, LightningOptimizer)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(self.plan, self.step)
        for begin in (self.begin, self.objective.begin):
            if begin is not None:
                begin(self.step)
        optimizer.zero_grad()
        shares = with_shares(parts)
        self.parts = [(part, share) for part, share in shares if part.batch is not None]
        self.logged = [
            PartLog(part.number, share, self._backward(part, share, ranks_beside(part, shares))) for part, share in self.parts
        ]
        norm = self._add_up_gradients()
        loss = mean_of(self.logged, "loss") if self.logged else torch.zeros_like(norm)  # 0: other processes have all the parts
        self.check.add(self.step, loss, norm, self._find_source)
        optimizer.step()
        if self.shards is not None:
            self.shards.exchange()

    def _add_up_gradients(self) -> Tensor:
        """Add up the gradients over the processes and clip them. Return their L2 norm before clipping."""
        limit = self.optimization.max_grad_norm
        if self.shards is None:
            trained = self.trained_parameters()
            process_group.add_up_gradients(trained)
            return torch.nn.utils.clip_grad_norm_(trained, limit)
        norm = self.shards.add_up_gradients()
        torch.nn.utils.clip_grads_with_norm_(self.shards.own, limit, norm)
        return norm

    def _loss(self, part: Part) -> tuple[Tensor, dict[str, Tensor]]:
        """Return what the objective returns for a part: its loss and the metrics to log."""
        step = PartOfStep(self.step, part.number)
        torch.manual_seed(seed_of(self.seed, "dropout", step))
        return self.objective.loss(part.batch, step)

    def _backward(self, part: Part, share: float, ranks: Sequence[int]) -> dict[str, Tensor]:
        """Add the gradient of a part's loss, and return the metrics to log. `ranks` are those of `ranks_beside`."""
        with process_group.beside(ranks):
            found = self._loss(part)
        plugin_errors.check_step(found, self.step, self.specification)
        loss, logs = found
        with torch.autocast(loss.device.type, enabled=False):
            self.manual_backward(loss if share == 1 else share * loss)
        return logs | {"loss": loss.detach()}

    def _find_source(self) -> str | None:
        """Return the operation behind the loss or gradient of this step, which is not finite. The weights are those of the step."""

        def again(part: Part) -> Tensor:
            return self._loss(part)[0]

        sources = (find_source(partial(again, part), named_tensors(part.batch)) for part, _ in self.parts)
        return next(filter(None, sources), None)

    def trained_parameters(self) -> list[nn.Parameter]:
        """Return the parameters of the policy and of the objective's modules that need a gradient."""
        return [each for module in (self.policy, self.objective_modules) for each in module.parameters() if each.requires_grad]


class PartLog(NamedTuple):
    """What a part of a step has logged."""

    number: int  # of the part, from 0
    share: float  # of the step's targets
    metrics: dict[str, Tensor]  # scalars by name


def with_shares(parts: Sequence[Part]) -> list[tuple[Part, float]]:
    """Return the parts that have targets, each with its share of the step's targets; all parts alike where none has."""
    total = sum(part.targets for part in parts)
    return [(part, part.targets / total) for part in parts if part.targets] if total else [(part, 1 / len(parts)) for part in parts]


def ranks_beside(part: Part, shares: Sequence[tuple[Part, float]]) -> list[int]:
    """Return the ranks of the processes that compute a part of `shares` at the same time as this part, its own process among them."""
    size = process_group.size()
    return [each.number % size for each, _ in shares if each.number // size == part.number // size]


def mean_logs(parts: Sequence[PartLog]) -> dict[str, Tensor]:
    """Return the means of the metrics of a step's parts, weighted by their shares, over the parts where a metric is not NaN."""
    if len(parts) == 1:
        return parts[0].metrics
    return {name: mean_of(parts, name) for name in dict.fromkeys(name for each in parts for name in each.metrics)}


def mean_of(parts: Sequence[PartLog], name: str) -> Tensor:
    """Return the mean of one metric of a step's parts, as in `mean_logs`."""
    logged = [each for each in parts if name in each.metrics]
    if len(parts) == 1:
        return logged[0].metrics[name]
    values = torch.stack([each.metrics[name].float() for each in logged])
    known = ~values.isnan()
    weight = known * torch.tensor([each.share for each in logged], device=values.device)
    return (values.nan_to_num() * weight).sum() / weight.sum()


def of_all_processes(steps: Sequence[Sequence[PartLog]]) -> Sequence[Sequence[PartLog]]:
    """Return the logs of all parts of each step, in order, with those that other processes have computed."""
    if process_group.size() == 1:
        return steps
    own = [[each._replace(metrics=_on_cpu(each.metrics)) for each in step] for step in steps]
    found = zip(*process_group.of_all(own), strict=True)  # for each step, the parts of each process
    return [sorted((each for parts in step for each in parts), key=lambda each: each.number) for step in found]


def _on_cpu(metrics: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return metrics as float32 on the CPU, in one transfer from the device."""
    return dict(zip(metrics, torch.stack([value.float() for value in metrics.values()]).cpu(), strict=True))


def adamw(parameters: list[nn.Parameter], learning_rate: float, weight_decay: float) -> torch.optim.Optimizer:
    """Return the optimizer of every training."""
    return torch.optim.AdamW(parameters, lr=learning_rate, weight_decay=weight_decay, fused=True)
