"""Stage 3: the RQ-VAE tokenizer: an autoencoder whose latents are quantized. In: float32 [N, D]. Out: codes int64 [N, L].

Sources: Lee et al. 2022 (2203.01941), TIGER (Rajput et al. 2023, 2305.05065, section 3.1). The defaults follow the recipe of open
reproductions (standardized input, 512-256-128, commitment .25, summed reconstruction, k-means initialization, restarts of dead
codes, batches of 2,048), which differs from TIGER's: a latent width of 128 instead of 32, AdamW instead of Adagrad. Deviations from
that recipe: 1,000 epochs at a learning rate of 3e-3 instead of 8,000 at 1e-3, bfloat16 in the network, codebooks as moving averages
(Lee et al.) instead of by gradient. `RQVAE(epochs=8000, learning_rate=1e-3, codebooks="gradient", precision="32-true")` is the recipe.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy import ndarray
from torch import Generator, Tensor

from genrec.errors import ArtifactError, NumericsError, UsageError
from genrec.progress import Progress
from genrec.tokenizer.autoencoder import Gradient, ResidualAutoencoder, initialize
from genrec.tokenizer.residual_quantization import (
    ROWS,
    as_codes,
    as_points,
    check_at_least,
    codebook_size,
    fit_codebooks,
    last_level_costs,
    quantize,
)

KMEANS_ITERATIONS = 25  # of the codebooks' initialization
CHOICES = {
    "schedule": ("constant", "cosine"),
    "gradient": ("straight-through", "rotation"),
    "codebook_update": ("gradient", "ema"),
    "precision": ("32-true", "bf16-mixed"),
}


@dataclass(frozen=True)
class RQVAE:
    """A residual-quantized autoencoder. Trains on CUDA where there is one, else on the CPU: there, 12,000 items of width 768 take some
    minutes on two cores.
    """

    num_levels: int = 3  # L, at least 1
    codebook_size: int = 256  # codes of each level, at least 1
    hidden_dims: tuple[int, ...] = (512, 256)  # widths of the encoder's hidden layers; the decoder mirrors them
    latent_dim: int = 128  # width of what is quantized, at least 1
    commitment_weight: float = 0.25  # weight of the encoder's pull towards its codes, at least 0
    epochs: int = 1000  # passes over the items, at least 1
    batch_size: int = 2048  # items per step, at least `codes`: the codebooks begin as a k-means of the first batch
    learning_rate: float = 3e-3  # of AdamW, above 0
    schedule: Literal["constant", "cosine"] = "constant"  # of the learning rate; cosine ends at 0
    gradient: Gradient = "straight-through"  # how the decoder's gradient passes the codes: as it is, or turned as z turns into e
    codebook_update: Literal["gradient", "ema"] = "ema"  # learned by AdamW, or moving averages of the residuals they stand for
    ema_decay: float = 0.99  # of the moving averages, in [0, 1)
    precision: Literal["32-true", "bf16-mixed"] = "bf16-mixed"  # of encoder and decoder while training; codes are always in float32
    shrink: bool = False  # whether fewer items than codes make codebooks of one code an item, instead of an error

    def __post_init__(self) -> None:
        check_at_least(self, 1, "num_levels", "codebook_size", "latent_dim", "epochs")
        check_at_least(self, self.codebook_size, "batch_size")
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

    def level_sizes(self) -> tuple[int, ...]:
        """Number of codes of each level; a codebook that shrank leaves the rest unused."""
        return (self.codebook_size,) * self.num_levels

    def fit(self, vectors: ndarray, generator: Generator) -> FittedRQVAE:
        """Train on float32 [N, D]. The generator is one of the CPU; torch's global one is neither read nor moved."""
        points = as_points(vectors)
        codes = codebook_size(len(points), self.codebook_size, self.shrink)
        model = ResidualAutoencoder(points.shape[1], self.hidden_dims, self.latent_dim, self.num_levels, codes)
        initialize(model, generator)
        deviation = points.std(0, correction=0)
        model.mean.copy_(points.mean(0))
        model.scale.copy_(torch.where(deviation > 0, deviation, 1.0))
        device = "cuda" if torch.cuda.is_available() else "cpu"
        model = model.to(device)
        _train(model, model.standardize(points.to(device)), self, generator)
        return FittedRQVAE(model.cpu())

    def restore(self, state: dict[str, ndarray]) -> FittedRQVAE:
        """The fitted quantizer again, from its stored weights."""
        codebooks, mean = state.get("codebook_update"), state.get("mean")
        if codebooks is None or mean is None or codebooks.ndim != 3 or codebooks.shape[1] > self.codebook_size:
            raise ArtifactError(
                f"RQVAE needs codebooks of at most {self.codebook_size} codes and a mean, the stored state has {sorted(state)}"
            )
        model = ResidualAutoencoder(len(mean), self.hidden_dims, self.latent_dim, self.num_levels, codebooks.shape[1])
        try:
            model.load_state_dict({name: torch.tensor(array) for name, array in state.items()})
        except RuntimeError as error:
            raise ArtifactError(f"the stored weights do not fit {self}: {error}") from error
        return FittedRQVAE(model)


class FittedRQVAE:
    """A `genrec.types.FittedQuantizer`, on the CPU wherever it was trained."""

    def __init__(self, model: ResidualAutoencoder) -> None:
        self.model = model.requires_grad_(False)

    def encode(self, vectors: ndarray) -> ndarray:
        """float32 [N, D] -> int64 [N, L]."""
        parts = torch.split(as_points(vectors, width=len(self.model.mean)), ROWS)
        return torch.cat([self._codes(part) for part in parts]).numpy()

    def reconstruct(self, codes: ndarray) -> ndarray:
        """int64 [N, L] -> float32 [N, D], what the decoder makes of the sum of the codes' entries."""
        levels, size, _ = self.model.codebooks.shape
        parts = torch.split(as_codes(codes, levels, size), ROWS)
        return torch.cat([self.model.reconstruct(part) for part in parts]).numpy()

    def last_level_costs(self, vectors: ndarray, codes: ndarray) -> ndarray:
        """|r_L - e_L(c)|^2 float32 [M, C] of the latents, r_L being what the codes before the last have left over."""
        levels, size, _ = self.model.codebooks.shape
        points, known = as_points(vectors, width=len(self.model.mean)), as_codes(codes, levels, size)
        parts = zip(torch.split(points, ROWS), torch.split(known, ROWS), strict=True)
        costs = [last_level_costs(self._latents(part), code, self.model.codebooks) for part, code in parts]
        return torch.cat(costs).numpy()

    def state(self) -> dict[str, ndarray]:
        """Weights, codebooks, and the training vectors' mean and standard deviation."""
        return {name: np.ascontiguousarray(tensor.numpy()) for name, tensor in self.model.state_dict().items()}

    def _codes(self, vectors: Tensor) -> Tensor:
        return quantize(self._latents(vectors), self.model.codebooks)[0]

    def _latents(self, vectors: Tensor) -> Tensor:
        return self.model.latents(self.model.standardize(vectors))


def _train(model: ResidualAutoencoder, points: Tensor, specification: RQVAE, generator: Generator) -> None:
    """AdamW on shuffled batches of standardized vectors; after each epoch but the last, codes that no item used begin again."""
    order = torch.randperm(len(points), generator=generator)
    _initialize_codebooks(model, points[order[: specification.batch_size].to(points.device)], generator)
    model.codebooks.requires_grad_(specification.codebook_update == "gradient")
    learned = [each for each in model.parameters() if each.requires_grad]
    optimizer = torch.optim.AdamW(learned, lr=specification.learning_rate, fused=True)
    averages = MovingAverages(model.codebooks, specification.ema_decay) if specification.codebook_update == "ema" else None
    levels, codes, _ = model.codebooks.shape
    with Progress("RQ-VAE epochs", specification.epochs) as progress:
        for epoch in range(specification.epochs):
            if epoch > 0:
                order = torch.randperm(len(points), generator=generator)
            used = torch.zeros(levels, codes, dtype=torch.int64, device=points.device)
            total = torch.zeros((), device=points.device)
            for step, rows in enumerate(torch.split(order.to(points.device), specification.batch_size)):
                _set_rate(optimizer, specification, (epoch + step * specification.batch_size / len(points)) / specification.epochs)
                with torch.autocast(points.device.type, torch.bfloat16, enabled=specification.precision == "bf16-mixed"):
                    loss, chosen, residuals = model.losses(points[rows], specification.commitment_weight, specification.gradient)
                optimizer.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
                if averages is not None:
                    averages.update(chosen, residuals)
                used.scatter_add_(1, chosen.T, torch.ones_like(chosen.T))
                total += loss.detach() * len(rows)
            mean = _finite(float(total) / len(points), epoch, specification)
            if epoch + 1 < specification.epochs:
                _restart_dead_codes(model, used == 0, points, optimizer, averages, generator)
            progress.advance(note=f"loss {mean:.4g}")


def _finite(loss: float, epoch: int, specification: RQVAE) -> float:
    if not math.isfinite(loss):
        raise NumericsError(
            f"the RQ-VAE's loss is {loss} in epoch {epoch + 1} of {specification.epochs}: try a learning_rate below "
            f"{specification.learning_rate}, or look for extreme values in the vectors"
        )
    return loss


def _set_rate(optimizer: torch.optim.Optimizer, specification: RQVAE, done: float) -> None:
    """The learning rate after the share `done` of the training."""
    factor = (1 + math.cos(math.pi * done)) / 2 if specification.schedule == "cosine" else 1.0
    for group in optimizer.param_groups:
        group["lr"] = specification.learning_rate * factor


class MovingAverages:
    """Codebooks as exponential moving averages: n_c = d n_c + (1-d) count_c, m_c = d m_c + (1-d) sum of residuals, e_c = m_c / n_c.

    Source: van den Oord et al. 2017 (1711.00937), appendix A.1. A code that the batch does not use keeps its place: n and m shrink
    together.
    """

    def __init__(self, codebooks: Tensor, decay: float) -> None:
        self.codebooks, self.decay = codebooks, decay
        self.counts = torch.ones(codebooks.shape[:2], device=codebooks.device)
        self.sums = codebooks.detach().clone()

    @torch.no_grad()
    def update(self, codes: Tensor, residuals: Tensor) -> None:
        """Codes int64 [B, L] and what they stood for, float32 [L, B, latent]."""
        for level, (code, residual) in enumerate(zip(codes.T, residuals, strict=True)):
            count = torch.bincount(code, minlength=self.counts.shape[1]).float()
            total = torch.zeros_like(self.sums[level]).index_add_(0, code, residual)
            self.counts[level].lerp_(count, 1 - self.decay)
            self.sums[level].lerp_(total, 1 - self.decay)
            self.codebooks[level] = self.sums[level] / self.counts[level].clamp(min=1e-12).unsqueeze(1)

    def restart(self, dead: Tensor) -> None:
        """Forget the averages of codes, bool [L, C], that were moved."""
        self.counts[dead] = 1.0
        self.sums[dead] = self.codebooks.detach()[dead]


def _initialize_codebooks(model: ResidualAutoencoder, batch: Tensor, generator: Generator) -> None:
    """Residual k-means of the first batch's latents."""
    levels, codes, _ = model.codebooks.shape
    with torch.no_grad():
        latents = model.latents(batch).cpu()
        model.codebooks.copy_(fit_codebooks(latents, levels, codes, KMEANS_ITERATIONS, generator))


def _restart_dead_codes(
    model: ResidualAutoencoder,
    dead: Tensor,
    points: Tensor,
    optimizer: torch.optim.Optimizer,
    averages: MovingAverages | None,
    generator: Generator,
) -> None:
    """Move the codes marked in `dead` bool [L, C] to residuals of items drawn at random, with all memory of them wiped."""
    if not dead.any():
        return
    with torch.no_grad():
        rows = torch.randperm(len(points), generator=generator)[: dead.shape[1]].to(points.device)
        _, residuals = quantize(model.latents(points[rows]), model.codebooks)
        model.codebooks[dead] = residuals[dead]
        for memory in optimizer.state[model.codebooks].values():
            if memory.shape == model.codebooks.shape:
                memory[dead] = 0
        if averages is not None:
            averages.restart(dead)
