"""Speed of tokenizers and quality of their Semantic IDs, on Amazon 2014 Beauty and on a million generated vectors.

    python experiments/benchmarks/tokenizer.py                                # all parts
    python experiments/benchmarks/tokenizer.py speed million collisions       # some of them
    python experiments/benchmarks/tokenizer.py quality --beauty FOLDER        # reviews_Beauty_5.json.gz and meta_Beauty.json.gz

| part | measures | compared with |
|---|---|---|
| `speed` | RQ-KMeans on Beauty's 12,101 x 768 vectors, with each engine | scikit-learn's k-means, level by level |
| `rqvae` | training of the RQ-VAE on the same vectors, four levels | |
| `epoch` | an epoch of the RQ-VAE | the same network with ResidualVQ of vector-quantize-pytorch, float32 and bfloat16 |
| `million` | RQ-KMeans on 1,000,000 x 128, with each engine | faiss's ResidualQuantizer with one beam |
| `collisions` | each treatment of collisions on 1,000,000 random items | a dictionary in Python |
| `quality` | every tokenizer on Beauty: seconds, code usage, collisions, category purity, co-occurrence | |
| `interactions` | the same of LETTER, the RQ-VAE without its terms, and others, 100 epochs | |

Prints a JSON line per run and a table per part. Each run is a separate process. Time excludes imports and the computation of Beauty's
vectors (TF-IDF and SVD of title and categories). Memory is the peak resident size of the process, imports included. Compared sides
alternate, and tables show medians of `--rounds`. Beauty is downloaded unless `--beauty` is its folder.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

WIDTH = 768  # width of Beauty's vectors, that of a sentence encoder
MILLION = (1_000_000, 128)
EPOCHS = 20  # timed epochs of `epoch`, after one warm-up epoch
Run = Callable[[Path, argparse.Namespace], dict[str, Any]]


def beauty(folder: Path, options: argparse.Namespace) -> Any:
    """Return Beauty's corpus, prepared once below `folder`."""
    from genrec.data.corpus import Corpus
    from genrec.data.corpus_builder import prepare
    from genrec.data.sources import AmazonReviews2014
    from genrec.data.splits import LeaveOneOut

    corpus = folder / "beauty"
    if not (corpus / "bounds.npy").exists():
        corpus.mkdir(exist_ok=True)
        prepare(AmazonReviews2014("Beauty", path=options.beauty).stream(folder / "raw"), LeaveOneOut(), corpus)
    return Corpus.load(corpus)


def beauty_vectors(folder: Path, options: argparse.Namespace, kind: str = "768") -> np.ndarray:
    """Return vectors of Beauty's 12,101 items, computed once below `folder`: float32 [12101, D].

    `text` is TF-IDF and SVD of width 256, as in the experiments; `768` is the same with the width of a sentence encoder, for timing;
    `text and interactions` adds 64 dimensions from the training interactions.
    """
    from genrec.embeddings import Collaborative, Concatenated, TfidfSvd

    encoders = {
        "text": TfidfSvd(dim=256),
        "768": TfidfSvd(dim=WIDTH),
        "text and interactions": Concatenated((TfidfSvd(dim=256), Collaborative(dim=64)), (1.0, 0.5)),
    }
    path = folder / f"beauty-{kind.replace(' ', '-')}.npy"
    if not path.exists():
        corpus = beauty(folder, options)
        np.save(path, encoders[kind].encode(corpus.items, corpus.part("train")))
    return np.load(path)


def million_vectors(items: int) -> np.ndarray:
    """Generate unit vectors in 2,000 clusters of unequal size and width: float32 [items, 128]."""
    random = np.random.default_rng(0)
    centers = random.standard_normal((2_000, MILLION[1]), dtype=np.float32)
    cluster = (2_000 * random.random(items) ** 2).astype(np.int64)
    vectors = random.standard_normal((items, MILLION[1]), dtype=np.float32)
    vectors *= random.uniform(0.2, 1.0, (items, 1)).astype(np.float32)
    for rows in np.array_split(np.arange(items), max(1, items // 50_000)):
        vectors[rows] += centers[cluster[rows]]
        vectors[rows] /= np.linalg.norm(vectors[rows], axis=1, keepdims=True)
    return vectors


def error_of(vectors: np.ndarray, reconstructed: np.ndarray) -> float:
    """Return the squared error relative to the squared distances from the mean, computed in chunks."""
    mean = vectors.mean(0)
    parts = np.array_split(np.arange(len(vectors)), max(1, len(vectors) // 50_000))
    lost = sum(float(np.square(vectors[rows] - reconstructed[rows]).sum(dtype=np.float64)) for rows in parts)
    spread = sum(float(np.square(vectors[rows] - mean).sum(dtype=np.float64)) for rows in parts)
    return lost / spread


def residual_kmeans(engine: str, vectors: np.ndarray, levels: int) -> dict[str, Any]:
    """Fit RQKMeans and encode the vectors."""
    import torch

    from genrec.tokenizer import RQKMeans

    quantizer = RQKMeans(num_levels=levels, engine=engine)
    began = time.perf_counter()
    fitted = quantizer.fit(vectors, torch.Generator().manual_seed(0))
    codes = fitted.encode(vectors)
    seconds, memory = time.perf_counter() - began, peak_gb()
    return {"seconds": seconds, "memory_gb": memory, "error": error_of(vectors, fitted.reconstruct(codes))}


def scikit_kmeans(vectors: np.ndarray, levels: int) -> dict[str, Any]:
    """Run the same levels, codes and iterations with scikit-learn and one start."""
    from sklearn.cluster import KMeans

    began, residual = time.perf_counter(), vectors.copy()
    for level in range(levels):
        found = KMeans(256, n_init=1, max_iter=25, random_state=level).fit(residual)
        residual -= found.cluster_centers_[found.labels_]
    return {"seconds": time.perf_counter() - began, "memory_gb": peak_gb(), "error": error_of(vectors, vectors - residual)}


def faiss_residual(vectors: np.ndarray, levels: int) -> dict[str, Any]:
    """Run faiss's ResidualQuantizer with one beam and the same iterations, which is residual k-means."""
    import faiss

    began = time.perf_counter()
    quantizer = faiss.ResidualQuantizer(vectors.shape[1], levels, 8)
    quantizer.train_type, quantizer.max_beam_size, quantizer.cp.niter = faiss.ResidualQuantizer.Train_default, 1, 25
    quantizer.cp.max_points_per_centroid = len(vectors)
    quantizer.train(vectors)
    packed = quantizer.compute_codes(vectors)
    seconds, memory = time.perf_counter() - began, peak_gb()
    return {"seconds": seconds, "memory_gb": memory, "error": error_of(vectors, quantizer.decode(packed))}


def whole_rqvae(vectors: np.ndarray) -> dict[str, Any]:
    """Train the RQ-VAE with default settings and encode the vectors."""
    import torch

    from genrec.tokenizer import RQVAE

    began = time.perf_counter()
    fitted = RQVAE(num_levels=4).fit(vectors, torch.Generator().manual_seed(0))
    codes = fitted.encode(vectors)
    seconds = time.perf_counter() - began
    return {"seconds": seconds, "memory_gb": peak_gb(), "error": error_of(vectors, fitted.reconstruct(codes))}


def our_epoch(vectors: np.ndarray, precision: str) -> dict[str, Any]:
    """Measure the seconds per epoch of the RQ-VAE with four levels, as the difference of a longer and a shorter training."""
    import torch

    from genrec.tokenizer import RQVAE

    def train(epochs: int) -> float:
        began = time.perf_counter()
        RQVAE(num_levels=4, epochs=epochs, precision=precision).fit(vectors, torch.Generator().manual_seed(0))
        return time.perf_counter() - began

    return {"seconds": (train(1 + EPOCHS) - train(1)) / EPOCHS, "memory_gb": peak_gb()}


def peer_epoch(vectors: np.ndarray, precision: str) -> dict[str, Any]:
    """Measure the same layers, batch size, optimizer and losses with ResidualVQ, used as in its documentation."""
    import torch
    from torch import nn
    from vector_quantize_pytorch import ResidualVQ

    torch.manual_seed(0)
    widths = (WIDTH, 512, 256, 128)

    def layers(sizes: tuple[int, ...]) -> nn.Sequential:
        parts = [part for pair in pairwise(sizes) for part in (nn.Linear(*pair), nn.ReLU())]
        return nn.Sequential(*parts[:-1])

    encoder, decoder = layers(widths), layers(widths[::-1])
    quantizer = ResidualVQ(
        dim=128,
        num_quantizers=4,
        codebook_size=256,
        kmeans_init=True,
        kmeans_iters=25,
        commitment_weight=0.25,
        threshold_ema_dead_code=1,
    )
    parameters = [*encoder.parameters(), *decoder.parameters(), *quantizer.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=1e-3)
    points = torch.from_numpy((vectors - vectors.mean(0)) / vectors.std(0))

    def epoch() -> None:
        for rows in torch.split(torch.randperm(len(points)), 2048):
            with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16-mixed"):
                batch = points[rows]
                latents = encoder(batch).unsqueeze(1)
                quantized, _, commitment = quantizer(latents.float())
                loss = (decoder(quantized.squeeze(1)) - batch).square().sum(1).mean() + commitment.sum()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    epoch()
    began = time.perf_counter()
    for _ in range(EPOCHS):
        epoch()
    return {"seconds": (time.perf_counter() - began) / EPOCHS, "memory_gb": peak_gb()}


def resolve_collisions(method: str, items: int) -> dict[str, Any]:
    """Resolve the collisions of items with uniform codes of 3 x 256; a codebook gives the costs of the last level."""
    import torch

    from genrec.semantic_ids import SemanticIds
    from genrec.tokenizer.collisions import append_level, reassign, sinkhorn

    random = np.random.default_rng(0)
    entries, vectors = random.standard_normal((256, 32), dtype=np.float32), random.standard_normal((items, 32), dtype=np.float32)
    squares = np.square(entries).sum(1)

    def costs(rows: np.ndarray) -> np.ndarray:
        found = squares - 2 * vectors[rows] @ entries.T
        return found + np.square(vectors[rows]).sum(1, keepdims=True)

    last = np.concatenate([costs(rows).argmin(1) for rows in np.array_split(np.arange(items), max(1, items // 50_000))])
    codes = torch.from_numpy(np.stack([*random.integers(0, 256, (2, items)), last], 1))
    before = SemanticIds(codes).collided
    began = time.perf_counter()
    if method == "a dictionary":
        seen: dict[tuple[int, ...], int] = {}
        numbers = []
        for row in codes.tolist():
            numbers.append(seen.get(tuple(row), 0))
            seen[tuple(row)] = numbers[-1] + 1
        result = torch.cat([codes, torch.tensor(numbers)[:, None]], 1)
    elif method == "append":
        result = append_level(codes)
    else:
        result = (reassign if method == "reassign" else sinkhorn)(codes, costs, 256)
    seconds = time.perf_counter() - began
    return {"seconds": seconds, "memory_gb": peak_gb(), "collided_before": before, "collided": SemanticIds(result).collided}


def quality(name: str, folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Return seconds and diagnostics of a tokenizer on Beauty, and the collisions that remain after optimal transport."""
    from genrec.tokenizer import Tokenize, tokenize

    corpus = beauty(folder, options)
    kind = "text and interactions" if "interactions" in name else "text"
    quantizer, vectors = (tokenizers() | with_interactions())[name], beauty_vectors(folder, options, kind)
    began = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # equal vectors and shared Semantic IDs are part of the diagnostics
        made = tokenize(vectors, Tokenize(quantizer, collisions="keep"), corpus.items, corpus.part("train"))
    result = {"seconds": time.perf_counter() - began, "memory_gb": peak_gb(), "health": made.health}
    return result | {
        "after_sinkhorn": after_sinkhorn(made, vectors),
        "twin_distance": twin_distance(made.semantic_ids.codes.numpy(), vectors),
    }


def twin_distance(codes: np.ndarray, vectors: np.ndarray) -> float | None:
    """Return the median squared distance from a collided item to its nearest item with equal codes, relative to the variance."""
    _, group = np.unique(codes, axis=0, return_inverse=True)
    order = np.argsort(group, kind="stable")
    nearest = []
    for rows in np.split(order, np.flatnonzero(np.diff(group[order])) + 1):
        if len(rows) > 1:
            distances = np.square(vectors[rows, None] - vectors[None, rows]).sum(2)
            np.fill_diagonal(distances, np.inf)
            nearest.extend(distances.min(1))
    spread = float(np.square(vectors - vectors.mean(0)).sum(1).mean())
    return float(np.median(nearest)) / spread if nearest else None


def after_sinkhorn(made: Any, vectors: np.ndarray) -> int | None:
    """Count the items that share their codes after optimal transport; None for quantizers without last-level costs."""
    from genrec.semantic_ids import SemanticIds
    from genrec.tokenizer.collisions import sinkhorn
    from genrec.types import PricedCodes

    if not isinstance(made.quantizer, PricedCodes):
        return None
    codes = made.semantic_ids.codes

    def costs(rows: np.ndarray) -> np.ndarray:
        found: np.ndarray = made.quantizer.last_level_costs(vectors[rows], codes[rows].numpy())
        return found

    return SemanticIds(sinkhorn(codes, costs, made.semantic_ids.level_sizes[-1])).collided


def tokenizers() -> dict[str, Any]:
    """Return the tokenizers of `quality`, with four levels of 256 codes unless the name states another number."""
    from genrec.tokenizer import RQVAE, ProductQuantizer, RandomCodes, RQKMeans

    return {
        "RQ-KMeans": RQKMeans(num_levels=4),
        "RQ-KMeans, balanced": RQKMeans(num_levels=4, balanced=True),
        "OPQ": ProductQuantizer(num_levels=4),
        "random codes": RandomCodes(num_levels=4),
        "RQ-VAE": RQVAE(num_levels=4),
        "RQ-VAE, codebooks by gradient": RQVAE(num_levels=4, codebook_update="gradient"),
        "RQ-VAE, rotation trick": RQVAE(num_levels=4, gradient="rotation"),
        "RQ-VAE, 3 levels": RQVAE(),
        "RQ-VAE, text and interactions": RQVAE(num_levels=4),
    }


def with_interactions() -> dict[str, Any]:
    """Return the tokenizers of `interactions`: four levels of 256 codes, a tenth of the default number of epochs."""
    from genrec.embeddings import Collaborative
    from genrec.tokenizer import LETTER, RQVAE, ProductQuantizer, RQKMeans

    autoencoder = RQVAE(num_levels=4, epochs=100, codebook_update="gradient")
    letter = LETTER(Collaborative(), replace(autoencoder, latent_dim=64))
    return {
        "RQ-KMeans, 4 levels": RQKMeans(num_levels=4),
        "OPQ, 4 digits": ProductQuantizer(num_levels=4),
        "RQ-VAE, 100 epochs": RQVAE(num_levels=4, epochs=100),
        "LETTER's autoencoder": letter.autoencoder,
        "LETTER": letter,
        "LETTER, alignment weight 1": replace(letter, alignment_weight=1.0),
    }


def peak_gb() -> float:
    """Return the peak resident size of this process in GB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


def parts() -> dict[str, dict[str, Run]]:
    """Return the function to run for each part and side. The last side of a part is the reference of its ratios."""
    return {
        "speed": {
            **{f"ours, {engine}": lambda f, o, e=engine: residual_kmeans(e, beauty_vectors(f, o), 4) for engine in ("faiss", "torch")},
            "scikit-learn": lambda f, o: scikit_kmeans(beauty_vectors(f, o), 4),
        },
        "rqvae": {"RQ-VAE, 4 levels": lambda f, o: whole_rqvae(beauty_vectors(f, o))},
        "epoch": {
            "ours, bf16": lambda f, o: our_epoch(beauty_vectors(f, o), "bf16-mixed"),
            "ours, float32": lambda f, o: our_epoch(beauty_vectors(f, o), "32-true"),
            "ResidualVQ, bf16": lambda f, o: peer_epoch(beauty_vectors(f, o), "bf16-mixed"),
            "ResidualVQ, float32": lambda f, o: peer_epoch(beauty_vectors(f, o), "32-true"),
        },
        "million": {
            **{
                f"ours, {engine}": lambda f, o, e=engine: residual_kmeans(e, million_vectors(o.items), 3)
                for engine in ("faiss", "torch")
            },
            "faiss ResidualQuantizer": lambda f, o: faiss_residual(million_vectors(o.items), 3),
        },
        "collisions": {
            method: lambda f, o, m=method: resolve_collisions(m, o.items)
            for method in ("append", "sinkhorn", "reassign", "a dictionary")
        },
        "quality": {name: lambda f, o, n=name: quality(n, f, o) for name in tokenizers()},
        "interactions": {name: lambda f, o, n=name: quality(n, f, o) for name in with_interactions()},
    }


def in_turn(part: str, sides: list[str], rounds: int, arguments: list[str]) -> list[dict[str, Any]]:
    """Run every side `rounds` times, alternating."""
    rows = []
    for _ in range(rounds):
        for side in sides:
            command = [sys.executable, __file__, part, "--side", side, *arguments]
            line = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()[-1]
            print(line, flush=True)
            rows.append(json.loads(line))
    return rows


def table(part: str, rows: list[dict[str, Any]]) -> Iterator[str]:
    """Yield the lines of a part's table: medians over the rounds."""
    if part in ("quality", "interactions"):
        yield from quality_table(rows)
        return
    extra = [name for name in ("error", "collided_before", "collided") if name in rows[0]]
    sides = list(dict.fromkeys(row["side"] for row in rows))
    yield f"| {part} | seconds | / {sides[-1]} | memory, GB | " + "".join(f"{name.replace('_', ' ')} | " for name in extra)
    yield "| --- | ---: | ---: | ---: | " + "---: | " * len(extra)
    reference = [row["seconds"] for row in rows if row["side"] == sides[-1]]
    for side in sides:
        runs = [row for row in rows if row["side"] == side]
        ratio = statistics.median(row["seconds"] / other for row, other in zip(runs, reference, strict=True))
        seconds, memory = (statistics.median(row[name] for row in runs) for name in ("seconds", "memory_gb"))
        values = "".join(f"{runs[0][name]:.4g} | " if name == "error" else f"{runs[0][name]:,} | " for name in extra)
        yield f"| {side} | {seconds:.2f} | {ratio:.2f} | {memory:.2f} | {values}"


def quality_table(rows: list[dict[str, Any]]) -> Iterator[str]:
    """Yield the table of diagnostics before collisions are resolved."""
    first = rows[0]["health"]
    equal = first["equal_vectors"]["items"]
    yield f"{first['items']:,} items, of which {equal} have the vector of another item: no quantizer can distinguish these."
    yield "twin distance: median squared distance of a collided item to the nearest item with equal codes, relative to the variance"
    yield "of the vectors (200 % for two random items)."
    yield ""
    yield (
        "| tokenizer | seconds | codes used, level 1 | perplexity by level | collided items | of these with unequal vectors | "
        "twin distance | collided after sinkhorn | reconstruction error | "
        "category purity of 1, 2 codes (chance) | co-occurrence lift of 1, 2 codes |"
    )
    yield "| --- | ---: | ---: | --- | ---: | ---: | ---: | ---: | ---: | --- | --- |"
    for row in rows:
        figures = row["health"]
        levels = figures["encoded_levels"]
        collided, unequal = figures["collided_before_separation"], figures["collided_before_separation_unequal"]
        share = f"{collided:,} ({collided / figures['items']:.1%})"
        perplexity = ", ".join(f"{level['perplexity']:.0f}" for level in levels)
        purity = ", ".join(f"{each['purity']:.2f} ({each['chance']:.2f})" for each in figures["category_purity"]["prefixes"][:2])
        error = "" if figures["reconstruction"] is None else f"{figures['reconstruction']:.3f}"
        distance = "" if row["twin_distance"] is None else f"{row['twin_distance']:.1%}"
        remaining = "" if row["after_sinkhorn"] is None else f"{row['after_sinkhorn']:,}"
        lift = ", ".join(f"{each['lift']:.1f}" for each in figures["co_occurrence"]["prefixes"][:2])
        yield (
            f"| {row['side']} | {row['seconds']:.0f} | {levels[0]['used']} | {perplexity} | {share} | {unequal:,} | {distance} | "
            f"{remaining} | {error} | {purity} | {lift} |"
        )


def main() -> None:
    """Run the requested parts, or one side of one part."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"some of {', '.join(parts())} (default: all)")
    parser.add_argument("--rounds", type=int, default=3, help="rounds of the parts that compare times")
    parser.add_argument("--items", type=int, default=MILLION[0], help="number of items of `million` and `collisions`")
    parser.add_argument("--beauty", type=Path, help="folder of Beauty's two files (default: download)")
    parser.add_argument(
        "--work", type=Path, default=Path(tempfile.gettempdir()) / "genrec-tokenizer", help="folder of the vectors, computed once"
    )
    parser.add_argument("--side", help=argparse.SUPPRESS)
    options = parser.parse_args()
    requested = options.parts or list(parts())
    if unknown := [part for part in requested if part not in parts()]:
        parser.error(f"unknown part {unknown[0]!r}; the parts are {', '.join(parts())}")
    options.work.mkdir(parents=True, exist_ok=True)
    if options.side == "vectors":
        for kind in ("768", "text", "text and interactions"):
            beauty_vectors(options.work, options, kind)
        return
    if options.side:
        result = parts()[requested[0]][options.side](options.work, options)
        print(json.dumps({"part": requested[0], "side": options.side, **result}))
        return
    arguments = ["--items", str(options.items), "--work", str(options.work)]
    arguments += ["--beauty", str(options.beauty)] if options.beauty else []
    if {"speed", "rqvae", "epoch", "quality", "interactions"} & set(requested):  # before timing, in a separate process
        subprocess.run([sys.executable, __file__, "--side", "vectors", *arguments], check=True)
    for part in requested:
        rows = in_turn(part, list(parts()[part]), 1 if part in ("quality", "interactions", "rqvae") else options.rounds, arguments)
        print()
        print("\n".join(table(part, rows)), end="\n\n", flush=True)


if __name__ == "__main__":
    main()
