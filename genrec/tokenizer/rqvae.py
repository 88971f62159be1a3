"""Stage 3: the RQ-VAE tokenizer: an autoencoder whose latents are quantised. In: float32 [N, D]. Out: codes int64 [N, L].

Sources: Lee et al. 2022 (2203.01941), TIGER (Rajput et al. 2023, 2305.05065, section 3.1). The defaults are the recipe of open
reproductions, which differs from TIGER's: a latent width of 128 instead of 32, AdamW instead of Adagrad, 8,000 epochs.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy import ndarray
from torch import Generator, Tensor

from genrec.errors import ArtifactError, NumericsError, UsageError
from genrec.progress import Progress
from genrec.tokenizer.autoencoder import ResidualAutoencoder, initialise
from genrec.tokenizer.residual import as_codes, as_points, check_at_least, codebook_size, fit_codebooks, quantise

KMEANS_ITERATIONS = 25  # of the codebooks' initialisation
ROWS = 65536  # encoded or decoded at once


@dataclass(frozen=True)
class RQVAE:
    """A residual-quantised autoencoder. Trains on CUDA where there is one, else on the CPU: there, 8,000 epochs of 12,000 items of
    width 64 take about half an hour on two cores.
    """

    levels: int = 3  # L, at least 1
    codes: int = 256  # codes of each level, at least 1
    hidden: tuple[int, ...] = (512, 256)  # widths of the encoder's hidden layers; the decoder mirrors them
    latent: int = 128  # width of what is quantised, at least 1
    commitment: float = 0.25  # weight of the encoder's pull towards its codes, at least 0
    epochs: int = 8000  # passes over the items, at least 1
    batch: int = 2048  # items per step, at least `codes`: the codebooks begin as a k-means of the first batch
    learning_rate: float = 1e-3  # of AdamW, above 0
    shrink: bool = False  # whether fewer items than codes make codebooks of one code an item, instead of an error

    def __post_init__(self) -> None:
        check_at_least(self, 1, "levels", "codes", "latent", "epochs")
        check_at_least(self, self.codes, "batch")
        if any(width < 1 for width in self.hidden):
            raise UsageError(f"RQVAE.hidden must be widths of at least 1, got {self.hidden}")
        if not 0 <= self.commitment < math.inf:
            raise UsageError(f"RQVAE.commitment must be at least 0 and finite, got {self.commitment}")
        if not 0 < self.learning_rate < math.inf:
            raise UsageError(f"RQVAE.learning_rate must be above 0 and finite, got {self.learning_rate}")

    def level_sizes(self) -> tuple[int, ...]:
        """Number of codes of each level; a codebook that shrank leaves the rest unused."""
        return (self.codes,) * self.levels

    def fit(self, vectors: ndarray, generator: Generator) -> FittedRQVAE:
        """Train on float32 [N, D]. The generator is one of the CPU; torch's global one is neither read nor moved."""
        points = as_points(vectors)
        codes = codebook_size(len(points), self.codes, self.shrink)
        model = ResidualAutoencoder(points.shape[1], self.hidden, self.latent, self.levels, codes)
        initialise(model, generator)
        deviation = points.std(0, correction=0)
        model.mean.copy_(points.mean(0))
        model.scale.copy_(torch.where(deviation > 0, deviation, 1.0))
        device = "cuda" if torch.cuda.is_available() else "cpu"
        _train(model.to(device), points.to(device), self, generator)
        return FittedRQVAE(model.cpu())

    def restore(self, state: dict[str, ndarray]) -> FittedRQVAE:
        """The fitted quantizer again, from its stored weights."""
        codebooks, mean = state.get("codebooks"), state.get("mean")
        if codebooks is None or mean is None or codebooks.ndim != 3 or codebooks.shape[1] > self.codes:
            raise ArtifactError(
                f"RQVAE needs codebooks of at most {self.codes} codes and a mean, the stored state has {sorted(state)}"
            )
        model = ResidualAutoencoder(len(mean), self.hidden, self.latent, self.levels, codebooks.shape[1])
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
        return torch.cat([quantise(self.model.latents(part), self.model.codebooks)[0] for part in parts]).numpy()

    def reconstruct(self, codes: ndarray) -> ndarray:
        """int64 [N, L] -> float32 [N, D], what the decoder makes of the sum of the codes' entries."""
        levels, size, _ = self.model.codebooks.shape
        parts = torch.split(as_codes(codes, levels, size), ROWS)
        return torch.cat([self.model.reconstruct(part) for part in parts]).numpy()

    def state(self) -> dict[str, ndarray]:
        """Weights, codebooks, and the training vectors' mean and standard deviation."""
        return {name: np.ascontiguousarray(tensor.numpy()) for name, tensor in self.model.state_dict().items()}


def _train(model: ResidualAutoencoder, points: Tensor, specification: RQVAE, generator: Generator) -> None:
    """AdamW on shuffled batches; after each epoch but the last, codes that no item used begin again."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=specification.learning_rate)
    levels, codes, _ = model.codebooks.shape
    with Progress("RQ-VAE epochs", specification.epochs) as progress:
        for epoch in range(specification.epochs):
            order = torch.randperm(len(points), generator=generator).to(points.device)
            if epoch == 0:
                _initialise_codebooks(model, points[order[: specification.batch]], generator)
            used = torch.zeros(levels, codes, dtype=torch.int64, device=points.device)
            total = torch.zeros((), device=points.device)
            for rows in torch.split(order, specification.batch):
                loss, chosen = model.losses(points[rows], specification.commitment)
                optimizer.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
                used.scatter_add_(1, chosen.T, torch.ones_like(chosen.T))
                total += loss.detach() * len(rows)
            mean = float(total) / len(points)
            if not math.isfinite(mean):
                raise NumericsError(
                    f"the RQ-VAE's loss is {mean} in epoch {epoch + 1} of {specification.epochs}: try a learning_rate below "
                    f"{specification.learning_rate}, or look for extreme values in the vectors"
                )
            if epoch + 1 < specification.epochs:
                _restart_dead_codes(model, used == 0, points, optimizer, generator)
            progress.advance(note=f"loss {mean:.4g}")


def _initialise_codebooks(model: ResidualAutoencoder, batch: Tensor, generator: Generator) -> None:
    """Residual k-means of the first batch's latents."""
    levels, codes, _ = model.codebooks.shape
    with torch.no_grad():
        latents = model.latents(batch).cpu()
        model.codebooks.copy_(fit_codebooks(latents, levels, codes, KMEANS_ITERATIONS, generator))


def _restart_dead_codes(
    model: ResidualAutoencoder, dead: Tensor, points: Tensor, optimizer: torch.optim.Optimizer, generator: Generator
) -> None:
    """Move the codes marked in `dead` bool [L, C] to residuals of items drawn at random, with the optimizer's memory of them wiped."""
    if not dead.any():
        return
    with torch.no_grad():
        rows = torch.randperm(len(points), generator=generator)[: dead.shape[1]].to(points.device)
        _, residuals = quantise(model.latents(points[rows]), model.codebooks)
        model.codebooks[dead] = residuals[dead]
        for memory in optimizer.state[model.codebooks].values():
            if memory.shape == model.codebooks.shape:
                memory[dead] = 0
