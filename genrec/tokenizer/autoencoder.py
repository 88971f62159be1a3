"""Stage 3: the network of the RQ-VAE and its loss. In: vectors float32 [B, D]. Out: codes int64 [B, L], reconstructions, the loss.

Sources: Lee et al. 2022 (2203.01941), section 3.1; TIGER (Rajput et al. 2023, 2305.05065), section 3.1.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Generator, Tensor, nn

from genrec.tokenizer.residual import chosen_entries, quantise


class Losses(NamedTuple):
    """The loss of a batch, and what the restart of dead codes needs to know."""

    loss: Tensor  # float32 []
    codes: Tensor  # int64 [B, L]


class ResidualAutoencoder(nn.Module):
    """Encoder, codebooks, decoder. The parameters hold no values until `initialise` or `load_state_dict` gives them some."""

    mean: Tensor  # float32 [D]  of the training vectors
    scale: Tensor  # float32 [D]  their standard deviation, 1 where a dimension is constant

    def __init__(self, width: int, hidden: Sequence[int], latent: int, levels: int, codes: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.empty(width))
        self.register_buffer("scale", torch.empty(width))
        self.encoder = _perceptron([width, *hidden, latent])
        self.decoder = _perceptron([latent, *reversed(hidden), width])
        self.codebooks = nn.Parameter(torch.empty(levels, codes, latent))

    def latents(self, vectors: Tensor) -> Tensor:
        """Vectors float32 [B, D] -> z float32 [B, latent]."""
        latents: Tensor = self.encoder((vectors - self.mean) / self.scale)
        return latents

    def reconstruct(self, codes: Tensor) -> Tensor:
        """Codes int64 [B, L] -> float32 [B, D]."""
        decoded: Tensor = self.decoder(chosen_entries(codes, self.codebooks).sum(0))
        return decoded * self.scale + self.mean

    def losses(self, vectors: Tensor, commitment: float) -> Losses:
        """|x - x'|^2 + sum over l of |sg[r_l] - e_l|^2 + commitment |r_l - sg[e_l]|^2, mean over the batch; sg stops the gradient.

        x is the standardised vector and x' = decoder(z + sg[sum of e_l - z]) (straight through); squares are summed over
        dimensions (TIGER, section 3.1). The residuals' own codes are constants, so that r_l = z - sg[e_1 + ... + e_{l-1}]
        (Lee et al., section 3.1, whose commitment loss compares z with e_1 + ... + e_l).
        """
        standardised = (vectors - self.mean) / self.scale
        latents: Tensor = self.encoder(standardised)
        with torch.no_grad():
            codes, residuals = quantise(latents, self.codebooks)
        entries = chosen_entries(codes, self.codebooks)
        before = latents.detach() - residuals  # e_1 + ... + e_{l-1}, float32 [L, B, latent]
        reconstruction = (self.decoder(latents + (entries.sum(0) - latents).detach()) - standardised).square().sum(1)
        codebook = (residuals - entries).square().sum(2).sum(0)
        committed = (latents - before - entries.detach()).square().sum(2).sum(0)
        return Losses((reconstruction + codebook + commitment * committed).mean(), codes)


def initialise(model: ResidualAutoencoder, generator: Generator) -> None:
    """Kaiming-uniform weights and uniform biases, torch's own choice for linear layers, drawn from the generator alone."""
    for layer in [*model.encoder, *model.decoder]:
        if isinstance(layer, nn.Linear):
            nn.init.kaiming_uniform_(layer.weight, a=5**0.5, generator=generator)
            bound = layer.in_features**-0.5
            nn.init.uniform_(layer.bias, -bound, bound, generator=generator)


def _perceptron(widths: Sequence[int]) -> nn.Sequential:
    """Linear layers with ReLU between them, made without touching torch's global generator."""
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(widths):
        layers += [nn.utils.skip_init(nn.Linear, inputs, outputs), nn.ReLU()]  # type: ignore[no-untyped-call]
    return nn.Sequential(*layers[:-1])
