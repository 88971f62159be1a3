"""`RQVAE`: a residual-quantized autoencoder.

Sources: Lee et al. 2022 (2203.01941), TIGER (Rajput et al. 2023, 2305.05065, section 3.1). The defaults follow the recipe of open
reproductions: standardized input, layers 512-256-128, commitment weight 0.25, summed reconstruction error, k-means initialization,
restarts of dead codes, batches of 2,048. That recipe differs from TIGER's, which has a latent width of 32 and Adagrad instead of
AdamW. The defaults deviate from the recipe as follows: 1,000 epochs at a learning rate of 3e-3 instead of 8,000 at 1e-3, bfloat16 in
the network, and codebooks as moving averages (Lee et al.) instead of by gradient. The recipe itself is
`RQVAE(epochs=8000, learning_rate=1e-3, codebook_update="gradient", precision="32-true")`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from numpy import ndarray
from torch import Generator, Tensor

from genrec.errors import ArtifactError, NumericsError, UsageError
from genrec.precision import Precision, resolve
from genrec.progress import Progress
from genrec.tokenizer.autoencoder import Gradient, ResidualAutoencoder, initialize
from genrec.tokenizer.epoch_figures import EpochFigures
from genrec.tokenizer.residual_quantization import (
    LARGEST_CODEBOOK,
    ROWS,
    as_codes,
    as_points,
    automatic_size,
    check_at_least,
    check_codebook_size,
    fit_codebooks,
    fitted_size,
    last_level_costs,
    quantize,
    sizes_of,
)

KMEANS_ITERATIONS = 25  # k-means iterations of the codebooks' initialization
CHOICES = {
    "schedule": ("constant", "cosine"),
    "gradient": ("straight-through", "rotation"),
    "codebook_update": ("gradient", "ema"),
    "precision": ("auto", "32-true", "bf16-mixed"),
}


@dataclass(frozen=True)
class RQVAE:
    """A residual-quantized autoencoder.

    Trains on CUDA if available, else on the CPU, where 12,000 items of width 768 take some minutes on two cores.
    """

    num_levels: int = 3  # number of levels L, at least 1
    codebook_size: int | None = None  # codes per level, at least 1; None: by the number of items, see `automatic_size`
    hidden_dims: tuple[int, ...] = (512, 256)  # widths of the encoder's hidden layers, each at least 1; reversed in the decoder
    latent_dim: int = 128  # width of the quantized latents, at least 1
    commitment_weight: float = 0.25  # weight of the commitment loss, at least 0
    epochs: int = 1000  # passes over the items, at least 1
    batch_size: int = 2048  # items per step, at least codebook_size (None: 256): codebooks start as k-means centers of the first batch
    learning_rate: float = 3e-3  # learning rate of AdamW, above 0
    schedule: Literal["constant", "cosine"] = "constant"  # learning rate schedule; cosine ends at 0
    gradient: Gradient = "straight-through"  # estimator of the gradient through the codes; "rotation" is the rotation trick
    codebook_update: Literal["gradient", "ema"] = "ema"  # train codebooks with AdamW, or as moving averages of their residuals
    ema_decay: float = 0.99  # decay of the moving averages, in [0, 1)
    precision: Precision = "auto"  # of the network in training; auto: bf16-mixed where the hardware has it; codes use float32
    shrink: bool = False  # with fewer items than codes: reduce the codebook size to the number of items instead of an error

    def __post_init__(self) -> None:
        check_at_least(self, 1, "num_levels", "latent_dim", "epochs")
        check_codebook_size(self, self.codebook_size)
        check_at_least(self, self._most_codes, "batch_size")
        if any(width < 1 for width in self.hidden_dims):
            raise UsageError(f"RQVAE.hidden_dims must be widths of at least 1, got {self.hidden_dims}")
        if not 0 <= self.commitment_weight < math.inf:
            raise UsageError(f"RQVAE.commitment_weight must be at least 0 and finite, got {self.commitment_weight}")
        if not 0 < self.learning_rate < math.inf:
            raise UsageError(f"RQVAE.learning_rate must be above 0 and finite, got {self.learning_rate}")
        if not 0 <= self.ema_decay < 1:
            raise UsageError(f"RQVAE.ema_decay must lie in [0, 1), got {self.ema_decay}")
        for name, allowed in CHOICES.items():
            if getattr(self, name) not in allowed:
                raise UsageError(f"RQVAE.{name} must be one of {', '.join(allowed)}, got {getattr(self, name)!r}")

    @property
    def _most_codes(self) -> int:
        """The codebook size, or the largest one that it may have."""
        return LARGEST_CODEBOOK if self.codebook_size is None else self.codebook_size

    def level_sizes(self) -> tuple[int, ...]:
        """Return the number of codes of each level. A reduced codebook leaves the other codes unused."""
        return sizes_of(self, self.num_levels, self.codebook_size)

    def for_items(self, items: int) -> RQVAE:
        """Return the quantizer with the codebook size that it has for this number of items."""
        return self if self.codebook_size is not None else replace(self, codebook_size=automatic_size(items))

    def fit(self, vectors: ndarray, generator: Generator) -> FittedRQVAE:
        """Train on vectors float32 [N, D] with a CPU generator. torch's global generator is not used."""
        points = as_points(vectors)
        size = fitted_size(len(points), self.codebook_size, self.shrink)
        model = ResidualAutoencoder(points.shape[1], self.hidden_dims, self.latent_dim, self.num_levels, size)
        initialize(model, generator)
        deviation = points.std(0, correction=0)
        model.mean.copy_(points.mean(0))
        model.scale.copy_(torch.where(deviation > 0, deviation, 1.0))
        device = "cuda" if torch.cuda.is_available() else "cpu"
        model = model.to(device)
        rows = _train(model, model.standardize(points.to(device)), self, generator)
        return FittedRQVAE(model.cpu(), rows)

    def restore(self, state: dict[str, ndarray]) -> FittedRQVAE:
        """Restore a fitted quantizer from its stored weights."""
        codebooks, mean = state.get("codebooks"), state.get("mean")
        if codebooks is None or mean is None or codebooks.ndim != 3 or codebooks.shape[1] > self._most_codes:
            raise ArtifactError(
                f"RQVAE needs codebooks of at most {self._most_codes} codes and a mean, the stored state has {sorted(state)}"
            )
        model = ResidualAutoencoder(len(mean), self.hidden_dims, self.latent_dim, self.num_levels, codebooks.shape[1])
        try:
            model.load_state_dict({name: torch.tensor(array) for name, array in state.items()})
        except RuntimeError as error:
            raise ArtifactError(f"the stored weights do not match {self}: {error}") from error
        return FittedRQVAE(model)


class FittedRQVAE:
    """A `genrec.types.PricedCodes` and `TrainedQuantizer` on the CPU, for any training device."""

    def __init__(self, model: ResidualAutoencoder, rows: Sequence[dict[str, float]] = ()) -> None:
        self.model, self.rows = model.requires_grad_(False), list(rows)

    def training_curves(self) -> list[dict[str, float]]:
        """Return a row for each epoch of the training (see `EpochFigures`)."""
        return self.rows

    def encode(self, vectors: ndarray) -> ndarray:
        """Quantize the latents of vectors: float32 [N, D] -> int64 [N, L]."""
        parts = torch.split(as_points(vectors, width=len(self.model.mean)), ROWS)
        return torch.cat([self._codes(part) for part in parts]).numpy()

    def reconstruct(self, codes: ndarray) -> ndarray:
        """Decode the sum of the codes' entries: int64 [N, L] -> float32 [N, D]."""
        levels, size, _ = self.model.codebooks.shape
        parts = torch.split(as_codes(codes, levels, size), ROWS)
        return torch.cat([self.model.reconstruct(part) for part in parts]).numpy()

    def last_level_costs(self, vectors: ndarray, codes: ndarray) -> ndarray:
        """Return |r_L - e_L(c)|^2 of the latents, float32 [M, C], where r_L is the residual after all codes but the last."""
        levels, size, _ = self.model.codebooks.shape
        points, known = as_points(vectors, width=len(self.model.mean)), as_codes(codes, levels, size)
        parts = zip(torch.split(points, ROWS), torch.split(known, ROWS), strict=True)
        costs = [last_level_costs(self._latents(part), code, self.model.codebooks) for part, code in parts]
        return torch.cat(costs).numpy()

    def state(self) -> dict[str, ndarray]:
        """Return weights, codebooks, and mean and standard deviation of the training vectors."""
        return {name: np.ascontiguousarray(tensor.numpy()) for name, tensor in self.model.state_dict().items()}

    def _codes(self, vectors: Tensor) -> Tensor:
        """Return the codes of a chunk of vectors."""
        return quantize(self._latents(vectors), self.model.codebooks)[0]

    def _latents(self, vectors: Tensor) -> Tensor:
        """Return the latents of a chunk of vectors."""
        return self.model.latents(self.model.standardize(vectors))


def _train(model: ResidualAutoencoder, points: Tensor, specification: RQVAE, generator: Generator) -> list[dict[str, float]]:
    """Train with AdamW on shuffled batches of standardized vectors. Restart unused codes after each epoch but the last.

    Return a row of figures for each epoch.
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
            for step, rows in enumerate(torch.split(order.to(points.device), specification.batch_size)):
                _set_rate(optimizer, specification, (epoch + step * specification.batch_size / len(points)) / specification.epochs)
                with torch.autocast(points.device.type, torch.bfloat16, enabled=bf16):
                    losses = model.losses(points[rows], specification.commitment_weight, specification.gradient)
                optimizer.zero_grad()
                losses.loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
                if averages is not None:
                    averages.update(losses.codes, losses.residuals)
                figures.add(losses)
            used = figures.used(size)
            rows_by_epoch.append(figures.row(epoch + 1, used, variance))
            mean = _check_finite(rows_by_epoch[-1]["loss"], epoch, specification)
            if epoch + 1 < specification.epochs:
                _restart_dead_codes(model, ~used, points, optimizer, averages, generator)
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


def _restart_dead_codes(
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
