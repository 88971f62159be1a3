"""The terms that LETTER adds to the loss of an RQ-VAE: alignment with vectors of interactions, and diversity of codes.

Source: LETTER (Wang et al. 2024, 2405.07314, sections 3.2.2 and 3.2.3) and the authors' code. Both are functions of tensors;
`LetterTerms` applies them in training.
"""

from __future__ import annotations

import torch
from torch import Generator, Tensor
from torch.nn import functional

from genrec.tokenizer.autoencoder import Losses
from genrec.tokenizer.balanced_kmeans import balanced_kmeans, sharp_prices
from genrec.tokenizer.kmeans import means, nearest, squared_distances

NO_CODE = -1  # positive of a code that is alone in its cluster
KMEANS_ITERATIONS = 10  # k-means iterations of the first clusters of codes
PRICE_STEPS = 20  # most price updates of an epoch's clusters, which start from those of the epoch before
SMALLEST_CLUSTER = 2  # codes of a cluster on average, at least: a code needs another one as its positive


def alignment_loss(quantized: Tensor, collaborative: Tensor) -> Tensor:
    """Return the InfoNCE of each item's quantized latents against the vectors of interactions in the batch, float32 [].

        mean over i of -log( exp(z_i . h_i) / sum over j of exp(z_i . h_j) )

    One-sided: h is never an anchor. Dot products, temperature 1. Both are float32 [B, D].
    """
    return functional.cross_entropy(quantized @ collaborative.T, torch.arange(len(quantized), device=quantized.device))


def diversity_loss(entries: Tensor, codebook: Tensor, codes: Tensor, positives: Tensor) -> Tensor:
    """Return the contrast of each item's entry with another entry of its cluster, float32 [], for one level.

        mean over i of -log( exp(e_i . e(p_i)) / sum over c != k_i of exp(e_i . e(c)) )

    - `entries`: e_i = e(k_i), float32 [B, D]; `codebook`: float32 [C, D]; both with gradients.
    - `codes`: k_i, int64 [B].
    - `positives`: p_i != k_i, int64 [B]; -1 for a code without another one in its cluster, which counts 0.
    """
    scores = (entries @ codebook.T).scatter(1, codes.unsqueeze(1), -torch.inf)
    return functional.cross_entropy(scores, positives, ignore_index=NO_CODE, reduction="sum") / len(codes)


class CodeClusters:
    """Clusters of one level's codes with nearly equal numbers of codes, which follow the codebook from epoch to epoch.

    LETTER runs constrained k-means anew in each epoch, with 10 to 60 codes of 256 in each of 10 clusters. Here the first epoch runs
    balanced k-means, and each later one updates its prices and centers once.
    """

    def __init__(self, num_clusters: int) -> None:
        self.num_clusters = num_clusters
        self.centers = self.prices = torch.empty(0)
        self.members = self.place = self.start = self.size = torch.empty(0, dtype=torch.int64)

    def update(self, codebook: Tensor, source: Generator) -> None:
        """Cluster the entries of a codebook, float32 [C, D] on the CPU. Only the first call draws from the generator."""
        if len(self.centers) == 0:
            self.centers, self.prices = balanced_kmeans(codebook, self.num_clusters, KMEANS_ITERATIONS, source)
        else:
            self.centers = means(codebook, nearest(codebook, self.centers, self.prices), self.centers)
            self.prices = sharp_prices(squared_distances(codebook, self.centers), self.prices, PRICE_STEPS)
        label = nearest(codebook, self.centers, self.prices)
        self.members = label.argsort(stable=True)  # codes, cluster by cluster
        size = torch.bincount(label, minlength=self.num_clusters)
        start = size.cumsum(0) - size
        self.start, self.size = start[label], size[label]  # of each code's cluster, int64 [C]
        self.place = torch.empty_like(label)  # of each code in its cluster
        self.place[self.members] = torch.arange(len(label)) - self.start[self.members]

    def positives(self, codes: Tensor, source: Generator) -> Tensor:
        """Draw another code of the cluster for each of codes int64 [B] on the CPU, uniformly; -1 if there is none."""
        others = self.size[codes] - 1
        drawn = (torch.rand(len(codes), generator=source, dtype=torch.float64) * others).long()
        drawn += drawn >= self.place[codes]
        found = self.members[(self.start[codes] + drawn).clamp(max=len(self.members) - 1)]
        return torch.where(others > 0, found, NO_CODE)


class LetterTerms:
    """The terms of LETTER in a training: `genrec.tokenizer.autoencoder_training.FurtherTerms`.

    `collaborative` is float32 [N, D], padded with zeros to the width of the latents, so that further latents are free. Items without
    training interactions (False in `known`, bool [N]) are no part of the alignment. The random numbers come from a generator of their
    own, so that all other draws are those of the RQ-VAE.
    """

    def __init__(
        self, collaborative: Tensor, known: Tensor, alignment: float, diversity: float, num_clusters: int, source: Generator
    ) -> None:
        self.collaborative, self.known, self.source = collaborative, known, source
        self.weights = {"alignment": alignment, "diversity": diversity}
        self.num_clusters = num_clusters
        self.clusters: list[CodeClusters] = []  # of each level
        self.sums: dict[str, Tensor] = {}  # of the epoch's terms, without their weights
        self.batches = 0

    def begin_epoch(self, codebooks: Tensor) -> None:
        """Follow the codebooks with the clusters and reset the figures."""
        self.sums, self.batches = {}, 0
        levels, size, _ = codebooks.shape
        if not self.weights["diversity"] or size < SMALLEST_CLUSTER:
            return
        count = max(1, min(self.num_clusters, size // SMALLEST_CLUSTER))
        self.clusters = self.clusters or [CodeClusters(count) for _ in range(levels)]
        for clusters, codebook in zip(self.clusters, codebooks.cpu(), strict=True):
            clusters.update(codebook, self.source)

    def loss(self, rows: Tensor, losses: Losses, codebooks: Tensor) -> Tensor:
        """Return the weighted alignment, and the weighted sum over levels of the diversity."""
        terms = {}
        if self.weights["alignment"]:
            terms["alignment"] = self._alignment(rows, losses.quantized)
        if self.clusters:
            terms["diversity"] = self._diversity(losses, codebooks)
        for name, term in terms.items():
            self.sums[name] = self.sums.get(name, torch.zeros_like(term.detach())) + term.detach()
        self.batches += 1
        return torch.stack([self.weights[name] * term for name, term in terms.items()]).sum() if terms else losses.loss.new_zeros(())

    def figures(self) -> dict[str, float]:
        """Return the mean of each term over the steps of the epoch, without its weight."""
        return {name: float(total) / self.batches for name, total in self.sums.items()}

    def _alignment(self, rows: Tensor, quantized: Tensor) -> Tensor:
        known = self.known[rows]
        if not known.all():
            rows, quantized = rows[known], quantized[known]
        if len(rows) == 0:
            return quantized.new_zeros(())
        return alignment_loss(quantized, self.collaborative[rows])

    def _diversity(self, losses: Losses, codebooks: Tensor) -> Tensor:
        terms = []
        for level, clusters in enumerate(self.clusters):
            codes = losses.codes[:, level]
            positives = clusters.positives(codes.cpu(), self.source).to(codes.device)
            terms.append(diversity_loss(losses.entries[level], codebooks[level], codes, positives))
        return torch.stack(terms).sum()
