"""Ground: exact nearest neighbours and k-means by faiss. The only file that knows faiss; it is imported where it is used.

Source: Johnson et al. 2017, 1702.08734 (faiss). The index of the search is flat, so that nothing is approximated.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from genrec.errors import InputError, ResourceError, UsageError
from genrec.progress import Progress

if TYPE_CHECKING:
    from torch import Generator, Tensor

CHUNK = 4096  # queries searched at a time
GPU_LARGEST_K = 2048  # of faiss's search on a GPU; more neighbours are searched on the CPU, with the same result


def largest_inner_products(vectors: Tensor, queries: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Vectors float32 [N, D], queries float32 [Q, D] -> inner products float32 [Q, k] and rows 0..N-1 int64 [Q, k], best first.

    On all GPUs where the installed faiss has them, on the CPU otherwise.
    """
    if not 1 <= k <= len(vectors):
        raise UsageError(f"k must lie in 1..{len(vectors)}, the number of vectors; got {k}")
    for name, rows in (("vectors", vectors), ("queries", queries)):
        broken = (~torch.isfinite(rows).all(1)).nonzero().flatten().tolist()
        if broken:
            raise InputError(
                f"{name} must be finite, got {len(broken)} of {len(rows)} rows with NaN or infinity, first row {broken[0]}"
            )
    index = _index(vectors, k)
    scores, rows = torch.empty(len(queries), k), torch.empty(len(queries), k, dtype=torch.int64)
    with Progress("nearest neighbours", len(queries)) as progress:
        for begin in range(0, len(queries), CHUNK):
            chunk = slice(begin, begin + CHUNK)
            found = index.search(queries[chunk].float().contiguous().cpu().numpy(), k)
            scores[chunk], rows[chunk] = (torch.from_numpy(part) for part in found)
            progress.advance(len(queries[chunk]))
    return scores, rows


def faiss_lloyd(points: Tensor, centres: Tensor, iterations: int, generator: Generator) -> Tensor:
    """Centres float32 [C, D] after so many of faiss's k-means iterations from these, over points float32 [N, D], on the CPU.

    Every point is looked at (faiss would take 256 a centre, and warn below 39). A centre without points is moved by faiss beside
    one with many, along a direction that the generator's seed decides.
    """
    faiss = _faiss("engine='faiss'", "or use engine='torch'")
    seed = int(torch.randint(2**31 - 1, (), generator=generator))
    clustering = faiss.Kmeans(
        points.shape[1],
        len(centres),
        niter=iterations,
        seed=seed,
        min_points_per_centroid=1,
        max_points_per_centroid=len(points),
    )
    clustering.train(points.contiguous().numpy(), init_centroids=centres.contiguous().numpy())
    return torch.from_numpy(clustering.centroids.copy())


def _index(vectors: Tensor, k: int) -> Any:
    """A flat inner-product index of the vectors; not every faiss ships types."""
    faiss = _faiss("nearest neighbours")
    index: Any = faiss.IndexFlatIP(vectors.shape[1])
    if k <= GPU_LARGEST_K and faiss.get_num_gpus() > 0:
        index = faiss.index_cpu_to_all_gpus(index)
    index.add(vectors.float().contiguous().cpu().numpy())
    return index


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
