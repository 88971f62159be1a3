"""Ground: nearest neighbors, exact or approximate, and k-means by faiss. The only file that knows faiss, imported where it is used.

Source: Johnson et al. 2017, 1702.08734 (faiss); Malkov and Yashunin 2016, 1603.09320 (HNSW).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Literal

import torch

from genrec.errors import InputError, ResourceError, UsageError

if TYPE_CHECKING:
    from torch import Generator, Tensor

Kind = Literal["flat", "ivf", "hnsw"]
CHUNK = 4096  # queries searched at a time
GPU_LARGEST_K = 2048  # of faiss's search on a GPU; more neighbors are searched on the CPU, with the same result
LISTS = 4.0  # lists of an inverted file, in square roots of the vectors
SAMPLE = 40  # vectors a list that its centers are trained on; faiss warns below 39
ITERATIONS = 6  # of that training
PROBES = 8  # lists looked at
LINKS = 16  # of an HNSW node
BUILD_EFFORT = 80  # candidates kept while an HNSW graph is built


class VectorIndex:
    """Vectors float32 [N, D] that are indexed once and searched many times, for the `k` largest inner products.

    `flat` is exact. `ivf`, an inverted file of about 4 sqrt(N) lists, looks into the `effort` nearest of them, 8 if that is 0; it
    keeps a byte a number, so that products of unit vectors are off by some thousandths. `hnsw`, a graph, keeps `effort` candidates
    while it searches, 2 k if that is 0; it is built by one thread, since several would link it another way each time. Flat and
    inverted files are on all GPUs where the installed faiss has them, graphs on the CPU. On the CPU what is found is a function of
    the vectors.
    """

    def __init__(self, vectors: Tensor, k: int, kind: Kind = "flat", effort: int = 0) -> None:
        if not 1 <= k <= len(vectors):
            raise UsageError(f"k must lie in 1..{len(vectors)}, the number of vectors; got {k}")
        _check("vectors", vectors)
        self.faiss, self.k = _faiss("nearest neighbors"), k
        array = vectors.float().contiguous().cpu()
        self.index: Any = {"flat": self._flat, "ivf": self._lists, "hnsw": self._graph}[kind](array, effort)

    def search(self, queries: Tensor) -> tuple[Tensor, Tensor]:
        """Queries float32 [Q, D] -> inner products float32 [Q, k] and rows 0..N-1 int64 [Q, k], best first.

        Where an approximate search finds fewer, -inf and row -1.
        """
        _check("queries", queries)
        scores, rows = torch.empty(len(queries), self.k), torch.empty(len(queries), self.k, dtype=torch.int64)
        for begin in range(0, len(queries), CHUNK):
            chunk = slice(begin, begin + CHUNK)
            found = self.index.search(queries[chunk].float().contiguous().cpu().numpy(), self.k)
            scores[chunk], rows[chunk] = (torch.from_numpy(part) for part in found)
        return scores.masked_fill_(rows < 0, -torch.inf), rows

    def _flat(self, vectors: Tensor, effort: int) -> Any:
        index = self._on_gpus(self.faiss.IndexFlatIP(vectors.shape[1]))
        index.add(vectors.numpy())
        return index

    def _lists(self, vectors: Tensor, effort: int) -> Any:
        faiss, (count, width) = self.faiss, vectors.shape
        lists = max(1, min(int(LISTS * math.sqrt(count)), count // SAMPLE))
        coarse = faiss.IndexFlatIP(width)
        index = faiss.IndexIVFScalarQuantizer(coarse, width, lists, faiss.ScalarQuantizer.QT_8bit, faiss.METRIC_INNER_PRODUCT)
        index.cp.niter, index.cp.spherical, index.cp.min_points_per_centroid = ITERATIONS, True, 1
        index.nprobe = min(effort or PROBES, lists)
        sample = torch.randperm(count, generator=torch.Generator().manual_seed(0))[: SAMPLE * lists]
        index.train(vectors[sample].numpy())
        index = self._on_gpus(index)
        index.add(vectors.numpy())
        return index

    def _graph(self, vectors: Tensor, effort: int) -> Any:
        index = self.faiss.IndexHNSWFlat(vectors.shape[1], LINKS, self.faiss.METRIC_INNER_PRODUCT)
        index.hnsw.efConstruction, index.hnsw.efSearch = BUILD_EFFORT, effort or 2 * self.k
        threads = self.faiss.omp_get_max_threads()
        self.faiss.omp_set_num_threads(1)
        try:
            index.add(vectors.numpy())
        finally:
            self.faiss.omp_set_num_threads(threads)
        return index

    def _on_gpus(self, index: Any) -> Any:
        if self.k > GPU_LARGEST_K or self.faiss.get_num_gpus() == 0:
            return index
        return self.faiss.index_cpu_to_all_gpus(index)


def faiss_lloyd(points: Tensor, centers: Tensor, iterations: int, generator: Generator) -> Tensor:
    """Centers float32 [C, D] after so many of faiss's k-means iterations from these, over points float32 [N, D], on the CPU.

    Every point is looked at (faiss would take 256 a center, and warn below 39). A center without points is moved by faiss beside
    one with many, along a direction that the generator's seed decides.
    """
    faiss = _faiss("engine='faiss'", "or use engine='torch'")
    seed = int(torch.randint(2**31 - 1, (), generator=generator))
    clustering = faiss.Kmeans(
        points.shape[1],
        len(centers),
        niter=iterations,
        seed=seed,
        min_points_per_centroid=1,
        max_points_per_centroid=len(points),
    )
    clustering.train(points.contiguous().numpy(), init_centroids=centers.contiguous().numpy())
    return torch.from_numpy(clustering.centroids.copy())


def _check(name: str, rows: Tensor) -> None:
    """Refuse NaN and infinity."""
    broken = (~torch.isfinite(rows).all(1)).nonzero().flatten().tolist()
    if broken:
        raise InputError(f"{name} must be finite, got {len(broken)} of {len(rows)} rows with NaN or infinity, first row {broken[0]}")


def _faiss(what: str, otherwise: str = "") -> Any:
    try:
        import faiss
    except ImportError as error:
        verb = "need" if what.endswith("s") else "needs"
        raise ResourceError(
            f"{what} {verb} faiss, which is not installed: pip install 'genrec[cpu]', "
            f"or 'genrec[gpu]' on a machine with an NVIDIA GPU; never both{'; ' + otherwise if otherwise else ''}"
        ) from error
    return faiss
