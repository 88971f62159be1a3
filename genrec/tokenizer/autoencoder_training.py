"""The training of the RQ-VAE: steps, codebooks as moving averages, restarts of unused codes, and further terms of the loss."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Generator, Tensor

from genrec.errors import NumericsError
from genrec.precision import resolve
from genrec.progress import Progress
from genrec.tokenizer.autoencoder import Losses, ResidualAutoencoder
from genrec.tokenizer.epoch_figures import EpochFigures
from genrec.tokenizer.residual_quantization import fit_codebooks, quantize

if TYPE_CHECKING:
    from genrec.tokenizer.rqvae import RQVAE

KMEANS_ITERATIONS = 25  # k-means iterations of the codebooks' initialization


class FurtherTerms(Protocol):
    """Terms that are added to the loss of the RQ-VAE."""

    def begin_epoch(self, codebooks: Tensor) -> None:
        """Prepare an epoch that begins with codebooks float32 [L, C, latent]."""
        ...

    def loss(self, rows: Tensor, losses: Losses, codebooks: Tensor) -> Tensor:
        """Return the weighted terms of a batch, float32 []; `rows` int64 [B] are the places of its vectors."""
        ...

    def figures(self) -> dict[str, float]:
        """Return the figures of the epoch, for the training curves."""
        ...


def train_autoencoder(
    model: ResidualAutoencoder, points: Tensor, specification: RQVAE, generator: Generator, further: FurtherTerms | None = None
) -> list[dict[str, float]]:
    """Train with AdamW on shuffled batches of standardized vectors. Restart unused codes after each epoch but the last.

    `further` adds terms to the loss. Return a row of figures for each epoch.
    """
    order = torch.randperm(len(points), generator=generator)
    _initialize_codebooks(model, points[order[: specification.batch_size].to(points.device)], generator)
    model.codebooks.requires_grad_(specification.codebook_update == "gradient")
    trainable = [each for each in model.parameters() if each.requires_grad]
    optimizer = torch.optim.AdamW(trainable, lr=specification.learning_rate, fused=True)
    averages = MovingAverages(model.codebooks, specification.ema_decay) if specification.codebook_update == "ema" else None
    size = model.codebooks.shape[1]
    bf16 = resolve(specification.precision) == "bf16-mixed"
    variance, rows_by_epoch = float(points.square().sum()) / len(points) or 1.0, []
    with Progress("RQ-VAE epochs", specification.epochs) as progress:
        for epoch in range(specification.epochs):
            if epoch > 0:
                order = torch.randperm(len(points), generator=generator)
            figures = EpochFigures()
            if further is not None:
                further.begin_epoch(model.codebooks.detach())
            for step, rows in enumerate(torch.split(order.to(points.device), specification.batch_size)):
                _set_rate(optimizer, specification, (epoch + step * specification.batch_size / len(points)) / specification.epochs)
                with torch.autocast(points.device.type, torch.bfloat16, enabled=bf16):
                    losses = model.losses(points[rows], specification.commitment_weight, specification.gradient)
                if further is not None:
                    losses = losses._replace(loss=losses.loss + further.loss(rows, losses, model.codebooks))
                optimizer.zero_grad()
                losses.loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
                if averages is not None:
                    averages.update(losses.codes, losses.residuals)
                figures.add(losses)
            used = figures.used(size)
            rows_by_epoch.append(figures.row(epoch + 1, used, variance) | ({} if further is None else further.figures()))
            mean = _check_finite(rows_by_epoch[-1]["loss"], epoch, specification)
            if epoch + 1 < specification.epochs:
                restart_dead_codes(model, ~used, points, optimizer, averages, generator)
            progress.advance(note=f"loss {mean:.4g}")
    return rows_by_epoch


def _check_finite(loss: float, epoch: int, specification: RQVAE) -> float:
    """Return the loss. Raise `NumericsError` if it is non-finite."""
    if not math.isfinite(loss):
        raise NumericsError(
            f"the RQ-VAE's loss is {loss} in epoch {epoch + 1} of {specification.epochs}: try a learning_rate below "
            f"{specification.learning_rate}, or check the vectors for extreme values"
        )
    return loss


def _set_rate(optimizer: torch.optim.Optimizer, specification: RQVAE, done: float) -> None:
    """Set the learning rate for the share `done` of the training, in [0, 1)."""
    factor = (1 + math.cos(math.pi * done)) / 2 if specification.schedule == "cosine" else 1.0
    for group in optimizer.param_groups:
        group["lr"] = specification.learning_rate * factor


class MovingAverages:
    """Codebooks as exponential moving averages of the residuals that they quantize.

    n_c = d n_c + (1-d) count_c, m_c = d m_c + (1-d) sum of residuals, e_c = m_c / n_c, with decay d (van den Oord et al. 2017,
    1711.00937, appendix A.1). An unused code keeps its entry, because n_c and m_c decrease by the same factor.
    """

    def __init__(self, codebooks: Tensor, decay: float) -> None:
        self.codebooks, self.decay = codebooks, decay
        self.counts = torch.ones(codebooks.shape[:2], device=codebooks.device)
        self.sums = codebooks.detach().clone()

    @torch.no_grad()
    def update(self, codes: Tensor, residuals: Tensor) -> None:
        """Update the codebooks from a batch: codes int64 [B, L] and residuals float32 [L, B, latent]."""
        for level, (code, residual) in enumerate(zip(codes.T, residuals, strict=True)):
            count = torch.bincount(code, minlength=self.counts.shape[1]).float()
            total = torch.zeros_like(self.sums[level]).index_add_(0, code, residual)
            self.counts[level].lerp_(count, 1 - self.decay)
            self.sums[level].lerp_(total, 1 - self.decay)
            self.codebooks[level] = self.sums[level] / self.counts[level].clamp(min=1e-12).unsqueeze(1)

    def restart(self, dead: Tensor) -> None:
        """Reset the averages of the codes marked in `dead`, bool [L, C], to their current entries."""
        self.counts[dead] = 1.0
        self.sums[dead] = self.codebooks.detach()[dead]


def _initialize_codebooks(model: ResidualAutoencoder, batch: Tensor, generator: Generator) -> None:
    """Initialize the codebooks with residual k-means of the first batch's latents."""
    levels, size, _ = model.codebooks.shape
    with torch.no_grad():
        latents = model.latents(batch).cpu()
        model.codebooks.copy_(fit_codebooks(latents, levels, size, KMEANS_ITERATIONS, generator))


def restart_dead_codes(
    model: ResidualAutoencoder,
    dead: Tensor,
    points: Tensor,
    optimizer: torch.optim.Optimizer,
    averages: MovingAverages | None,
    generator: Generator,
) -> None:
    """Move the codes marked in `dead`, bool [L, C], to residuals of random items, and reset their optimizer state and averages."""
    if not dead.any():
        return
    with torch.no_grad():
        rows = torch.randperm(len(points), generator=generator)[: dead.shape[1]].to(points.device)
        _, residuals = quantize(model.latents(points[rows]), model.codebooks)
        model.codebooks[dead] = residuals[dead]
        for state in optimizer.state[model.codebooks].values():
            if state.shape == model.codebooks.shape:
                state[dead] = 0
        if averages is not None:
            averages.restart(dead)
