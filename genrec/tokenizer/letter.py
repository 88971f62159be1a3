"""`LETTER`: an RQ-VAE aligned with vectors of interactions, with a term for diverse codes.

Source: LETTER (Wang et al. 2024, 2405.07314) and the authors' code with the weights of its `train_tokenizer.sh`, which differ from
the defaults of its `main.py`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy import ndarray
from torch import Generator, Tensor
from torch.nn import functional

from genrec.errors import InputError, UsageError, given
from genrec.randomness import generator as generator_of
from genrec.tokenizer.letter_loss import LetterTerms
from genrec.tokenizer.residual_quantization import as_points, check_at_least
from genrec.tokenizer.rqvae import RQVAE, FittedRQVAE, fit_with_terms
from genrec.types import ItemEncoder

if TYPE_CHECKING:
    from pandas import DataFrame

AUTOENCODER = RQVAE(latent_dim=64, codebook_update="gradient")  # as wide as the vectors of `Collaborative()` and `Item2Vec()`


@dataclass(frozen=True)
class LETTER:
    """An RQ-VAE of item vectors x with quantized latents z that are drawn to vectors h of the training interactions.

        RQ-VAE + alpha InfoNCE(z, h) + beta * sum over levels of the contrast of an entry with another one of its cluster

    After training, codes depend on x alone, so items without interactions get codes like all others. It is a
    `genrec.types.InteractionQuantizer`: `collaborative` sees the catalog and the training interactions.

    Deviations: the authors average squared errors over dimensions, `RQVAE` sums them. Therefore alpha is multiplied by the width of x
    and beta by that of the latents, which keeps their ratios to the reconstruction and to the codebook loss. Items without training
    interactions are left out of InfoNCE. The authors have 4 levels, latents of width 32, SASRec's vectors as h and 20,000 epochs.
    """

    collaborative: ItemEncoder  # encoder of h, such as Collaborative() or Item2Vec(); at most as wide as the latents
    autoencoder: RQVAE = AUTOENCODER  # the RQ-VAE; diversity needs codebook_update="gradient"
    alignment_weight: float = 0.01  # alpha, at least 0
    diversity_weight: float = 1e-4  # beta, at least 0
    num_clusters: int = 10  # clusters of a level's codes, at least 1; fewer if a cluster would have less than 2 codes

    def __post_init__(self) -> None:
        if not isinstance(self.collaborative, ItemEncoder) or isinstance(self.collaborative, str | type):  # they also have `encode`
            raise UsageError(f"LETTER.collaborative must be an item encoder, such as Collaborative(), got {given(self.collaborative)}")
        if not isinstance(self.autoencoder, RQVAE):
            raise UsageError(f"LETTER.autoencoder must be RQVAE(...), got {given(self.autoencoder)}")
        check_at_least(self, 1, "num_clusters")
        for name in ("alignment_weight", "diversity_weight"):
            if not 0 <= getattr(self, name) < math.inf:
                raise UsageError(f"LETTER.{name} must be at least 0 and finite, got {getattr(self, name)}")
        if self.diversity_weight and self.autoencoder.codebook_update != "gradient":
            raise UsageError(
                "LETTER.diversity_weight has no effect on codebooks that are moving averages: set autoencoder.codebook_update to "
                "'gradient', or diversity_weight to 0"
            )

    def level_sizes(self) -> tuple[int, ...]:
        """Return the number of codes of each level."""
        return self.autoencoder.level_sizes()

    def for_items(self, items: int) -> LETTER:
        """Return the quantizer with the codebook size that it has for this number of items."""
        return replace(self, autoencoder=self.autoencoder.for_items(items))

    def fit(self, vectors: ndarray, generator: Generator) -> FittedRQVAE:
        """Raise `UsageError`: LETTER needs interactions, so call `fit_interactions`."""
        raise UsageError("LETTER reads training interactions, which fit does not get: call fit_interactions(vectors, items, ...)")

    def fit_interactions(self, vectors: ndarray, items: DataFrame, interactions: DataFrame, generator: Generator) -> FittedRQVAE:
        """Train on vectors float32 [N, D] and on the vectors of `collaborative`, with a CPU generator."""
        points, num_items = as_points(vectors), len(items)
        if len(points) != num_items:
            raise UsageError(f"LETTER needs a vector for each of {num_items} items, got {len(points)} vectors")
        known = torch.from_numpy(np.isin(np.arange(1, num_items + 1), interactions["item"]))
        device = "cuda" if torch.cuda.is_available() else "cpu"
        terms = LetterTerms(
            self._collaborative(items, interactions).to(device),
            known.to(device),
            self.alignment_weight * points.shape[1],
            self.diversity_weight * self.autoencoder.latent_dim,
            self.num_clusters,
            generator_of(generator.initial_seed(), "letter"),
        )
        return fit_with_terms(self.autoencoder, vectors, generator, terms)

    def restore(self, state: dict[str, ndarray]) -> FittedRQVAE:
        """Restore a fitted quantizer from its stored weights, without interactions."""
        return self.autoencoder.restore(state)

    def _collaborative(self, items: DataFrame, interactions: DataFrame) -> Tensor:
        """Return the vectors of interactions, float32 [N, latent_dim], padded with zeros."""
        name, width = type(self.collaborative).__name__, self.autoencoder.latent_dim
        vectors = self.collaborative.encode(items, interactions)
        if vectors.ndim != 2 or len(vectors) != len(items) or not np.isfinite(vectors).all():
            raise InputError(f"{name} must return finite vectors [{len(items)}, D] to LETTER, got shape {list(vectors.shape)}")
        if vectors.shape[1] > width:
            raise UsageError(
                f"{name} gives vectors of width {vectors.shape[1]}, more than LETTER's latents of width {width}: set "
                f"LETTER.autoencoder.latent_dim to at least {vectors.shape[1]}, or the encoder's dim to at most {width}"
            )
        return functional.pad(torch.from_numpy(vectors.astype(np.float32)), (0, width - vectors.shape[1]))
