"""Nearest neighbors, exact or approximate, and k-means with faiss. No other file imports faiss.

Sources: Johnson et al. 2017, 1702.08734 (faiss); Malkov and Yashunin 2016, 1603.09320 (HNSW).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Literal

import torch

from genrec.errors import InputError, ResourceError, UsageError

if TYPE_CHECKING:
    from torch import Generator, Tensor

Kind = Literal["flat", "ivf", "hnsw"]
CHUNK = 4096  # queries per search
GPU_LARGEST_K = 2048  # most neighbors that faiss finds on a GPU; larger searches run on the CPU, with the same result
LISTS = 4.0  # lists of an inverted file, in multiples of the square root of the number of vectors
SAMPLE = 40  # training vectors per list; faiss warns below 39
ITERATIONS = 6  # k-means iterations when the lists are trained
PROBES = 8  # lists searched per query, by default
LINKS = 16  # links per HNSW node
BUILD_EFFORT = 80  # candidates kept while an HNSW graph is built


class VectorIndex:
    """An index of vectors float32 [N, D] that finds the `k` largest inner products of each query.

    On the CPU, the result depends on the vectors only. `flat` and `ivf` indexes run on all GPUs if the installed faiss supports them.

    - `vectors`: float32 [N, D].
    - `k`: number of neighbors per query, 1..N.
    - `kind`: `flat` is exact. `ivf` is an inverted file of about 4 sqrt(N) lists; it stores one byte per number, so that inner
      products of unit vectors have errors of some thousandths. `hnsw` is a graph on the CPU; it is built by one thread,
      because several threads would build a different graph each time.
    - `effort`: `ivf`: lists searched per query, 0 for 8. `hnsw`: candidates kept during a search, 0 for 2 k. Ignored by `flat`.
    """

    def __init__(self, vectors: Tensor, k: int, kind: Kind = "flat", effort: int = 0) -> None:
        if not 1 <= k <= len(vectors):
            raise UsageError(f"k must lie in 1..{len(vectors)}, the number of vectors; got {k}")
        _check("vectors", vectors)
        self.faiss, self.k = _faiss("nearest-neighbor search"), k
        array = vectors.float().contiguous().cpu()
        self.index: Any = {"flat": self._flat, "ivf": self._lists, "hnsw": self._graph}[kind](array, effort)

    def search(self, queries: Tensor) -> tuple[Tensor, Tensor]:
        """Return inner products float32 [Q, k] and rows int64 [Q, k] in 0..N-1 for queries float32 [Q, D], best first.

        If an approximate search finds fewer than `k`, the remaining places have score -inf and row -1.
        """
        _check("queries", queries)
        scores, rows = torch.empty(len(queries), self.k), torch.empty(len(queries), self.k, dtype=torch.int64)
        for begin in range(0, len(queries), CHUNK):
            chunk = slice(begin, begin + CHUNK)
            found = self.index.search(queries[chunk].float().contiguous().cpu().numpy(), self.k)
            scores[chunk], rows[chunk] = (torch.from_numpy(part) for part in found)
        return scores.masked_fill_(rows < 0, -torch.inf), rows

    def _flat(self, vectors: Tensor, effort: int) -> Any:
        """Build an exact index."""
        index = self._on_gpus(self.faiss.IndexFlatIP(vectors.shape[1]))
        index.add(vectors.numpy())
        return index

    def _lists(self, vectors: Tensor, effort: int) -> Any:
        """Build an inverted file."""
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
        """Build an HNSW graph with one thread."""
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
    """Return the centers float32 [C, D] after `iterations` of faiss's k-means on points float32 [N, D], on the CPU.

    All points are used; by default faiss samples 256 points per center and warns below 39. faiss moves a center without points next
    to one with many points, in a direction drawn from the generator.
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
    """Raise `InputError` if a row contains NaN or infinity."""
    broken = (~torch.isfinite(rows).all(1)).nonzero().flatten().tolist()
    if broken:
        raise InputError(f"{name} must be finite, got {len(broken)} of {len(rows)} rows with NaN or infinity, first row {broken[0]}")


def _faiss(feature: str, alternative: str = "") -> Any:
    """Import faiss. Raise `ResourceError` with installation instructions if it is not installed."""
    try:
        import faiss
    except ImportError as error:
        raise ResourceError(
            f"{feature} needs faiss, which is not installed: pip install 'genrec[cpu]', "
            f"or 'genrec[gpu]' on a machine with an NVIDIA GPU (never both){'; ' + alternative if alternative else ''}"
        ) from error
    return faiss
