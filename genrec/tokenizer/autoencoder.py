"""Stage 3: the network of the RQ-VAE and its loss. In: vectors float32 [B, D]. Out: codes int64 [B, L], reconstructions, the loss.

Sources: Lee et al. 2022 (2203.01941), section 3.1; TIGER (Rajput et al. 2023, 2305.05065), section 3.1; the rotation trick of
Fifty et al. 2024 (2410.06424), section 4.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Literal, NamedTuple

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional

from genrec.tokenizer.residual_quantization import chosen_entries, quantize

Gradient = Literal["straight-through", "rotation"]


class Losses(NamedTuple):
    """The loss of a batch, and what the codebooks' upkeep needs to know."""

    loss: Tensor  # float32 []
    codes: Tensor  # int64 [B, L]
    residuals: Tensor  # float32 [L, B, latent]  what each level had to approximate, detached


class ResidualAutoencoder(nn.Module):
    """Encoder, codebooks, decoder. The parameters hold no values until `initialize` or `load_state_dict` gives them some."""

    mean: Tensor  # float32 [D]  of the training vectors
    scale: Tensor  # float32 [D]  their standard deviation, 1 where a dimension is constant

    def __init__(self, width: int, hidden: Sequence[int], latent: int, levels: int, codes: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.empty(width))
        self.register_buffer("scale", torch.empty(width))
        self.encoder = _perceptron([width, *hidden, latent])
        self.decoder = _perceptron([latent, *reversed(hidden), width])
        self.codebooks = nn.Parameter(torch.empty(levels, codes, latent))

    def standardize(self, vectors: Tensor) -> Tensor:
        """Vectors float32 [B, D] -> mean 0 and deviation 1 in every dimension of the training vectors."""
        return (vectors - self.mean) / self.scale

    def latents(self, standardized: Tensor) -> Tensor:
        """Standardized vectors [B, D] -> z float32 [B, latent]."""
        latents: Tensor = self.encoder(standardized)
        return latents.float()

    def reconstruct(self, codes: Tensor) -> Tensor:
        """Codes int64 [B, L] -> float32 [B, D]."""
        decoded: Tensor = self.decoder(chosen_entries(codes, self.codebooks).sum(0))
        return decoded * self.scale + self.mean

    def losses(self, standardized: Tensor, commitment: float, gradient: Gradient = "straight-through") -> Losses:
        """|x - x'|^2 + sum over l of |sg[r_l] - e_l|^2 + commitment |r_l - sg[e_l]|^2, mean over the batch; sg stops the gradient.

        x is the standardized vector and x' = decoder(q), where q is `passed` by the sum of the e_l; squares are summed over
        dimensions (TIGER, section 3.1). The residuals' own codes are constants, so that r_l = z - sg[e_1 + ... + e_{l-1}]
        (Lee et al., section 3.1, whose commitment loss compares z with e_1 + ... + e_l). Codebooks that take no gradient add
        their term to the value alone.
        """
        latents = self.latents(standardized)
        with torch.no_grad(), torch.autocast(latents.device.type, enabled=False):
            codes, residuals = quantize(latents, self.codebooks)
        entries = chosen_entries(codes, self.codebooks)
        before = latents.detach() - residuals  # e_1 + ... + e_{l-1}, float32 [L, B, latent]
        passed = PASS[gradient](latents, entries.sum(0).detach())
        reconstruction = (self.decoder(passed).float() - standardized).square().sum(1)
        codebook = (residuals - entries).square().sum(2).sum(0)
        committed = (latents - before - entries.detach()).square().sum(2).sum(0)
        return Losses((reconstruction + codebook + commitment * committed).mean(), codes, residuals)


def straight_through(latents: Tensor, quantized: Tensor) -> Tensor:
    """Q = z + sg[e - z]: the value is e, the gradient is passed to z unchanged. Both float32 [B, latent]."""
    return latents + (quantized - latents).detach()


def rotation(latents: Tensor, quantized: Tensor) -> Tensor:
    """Q = sg[|e| / |z| R] z, where R is the rotation in the plane of z and e that turns z's direction into e's.

    The value is e; the gradient turns and stretches with it, so that it keeps its angle to the vector it belongs to. With the
    unit vectors a = z/|z|, b = e/|e| and r = (a + b)/|a + b|: R z = z - 2 r r'z + 2 b a'z (Fifty et al. 2024, equation 3). Applied
    once, to the sum over levels. Opposite or zero vectors span no plane: there the gradient is passed unchanged.
    """
    with torch.no_grad():
        length, target = latents.norm(dim=1, keepdim=True), quantized.norm(dim=1, keepdim=True)
        a, b = latents / length.clamp(min=1e-12), quantized / target.clamp(min=1e-12)
        middle = a + b
        plain = (middle.norm(dim=1, keepdim=True) < 1e-3) | (length < 1e-12) | (target < 1e-12)
        r = functional.normalize(middle, dim=1)
    turned = latents - 2 * r * (r * latents).sum(1, keepdim=True) + 2 * b * (a * latents).sum(1, keepdim=True)
    turned = turned * (target / length.clamp(min=1e-12))
    return torch.where(plain, straight_through(latents, quantized), turned)


PASS = {"straight-through": straight_through, "rotation": rotation}


def initialize(model: ResidualAutoencoder, generator: Generator) -> None:
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
