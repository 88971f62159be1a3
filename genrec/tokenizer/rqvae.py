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

from genrec.errors import ArtifactError, UsageError
from genrec.precision import Precision
from genrec.tokenizer.autoencoder import Gradient, ResidualAutoencoder, initialize
from genrec.tokenizer.autoencoder_training import FurtherTerms, train_autoencoder
from genrec.tokenizer.residual_quantization import (
    LARGEST_CODEBOOK,
    ROWS,
    as_codes,
    as_points,
    automatic_size,
    check_at_least,
    check_codebook_size,
    fitted_size,
    last_level_costs,
    quantize,
    sizes_of,
)

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
        return fit_with_terms(self, vectors, generator)

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


def fit_with_terms(specification: RQVAE, vectors: ndarray, generator: Generator, further: FurtherTerms | None = None) -> FittedRQVAE:
    """Return the RQ-VAE fitted to vectors float32 [N, D] with further terms in its loss."""
    points = as_points(vectors)
    size = fitted_size(len(points), specification.codebook_size, specification.shrink)
    model = ResidualAutoencoder(points.shape[1], specification.hidden_dims, specification.latent_dim, specification.num_levels, size)
    initialize(model, generator)
    deviation = points.std(0, correction=0)
    model.mean.copy_(points.mean(0))
    model.scale.copy_(torch.where(deviation > 0, deviation, 1.0))
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = model.to(device)
    rows = train_autoencoder(model, model.standardize(points.to(device)), specification, generator, further)
    return FittedRQVAE(model.cpu(), rows)
