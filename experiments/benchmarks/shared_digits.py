"""How well the digits that an item shares with a user's last item find the next one, on Amazon 2014 Beauty.

    python experiments/benchmarks/shared_digits.py --beauty FOLDER    # reviews_Beauty_5.json.gz and meta_Beauty.json.gz

For each user all items but the last training item are ranked by the number of digits that they share with it, and the validation
item is the target; no policy is trained. Items with equal numbers share their mean place. The digits are those of
experiments/parallel.py, with and without OPQ's rotation, and random ones; the cosine of the item vectors is what they could keep.
Prints recall. Takes about a minute.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy import ndarray
from safetensors.numpy import load_file
from torch import Generator

from genrec import loading, pipeline
from genrec.data.corpus import Corpus
from genrec.data.sources import AmazonReviews2014
from genrec.tokenizer import ProductQuantizer, RandomCodes
from genrec.types import Quantizer

PARALLEL = Path(__file__).parents[1] / "parallel.py"
CUTOFFS = (10, 50, 200)
USERS_AT_ONCE = 1_000
Similarity = Callable[[ndarray], ndarray]  # items int64 [X], counted from 0 -> their similarity to all items, float32 [X, N]


def pairs(corpus: Corpus) -> tuple[ndarray, ndarray]:
    """Return the last training item and the validation item of every user that has both, int64 [U], counted from 0."""
    last, target = (corpus.part(part).groupby("user")["item"] for part in ("train", "validation"))
    both = last.last().to_frame("last").join(target.first().rename("target"), how="inner")
    return both["last"].to_numpy() - 1, both["target"].to_numpy() - 1


def cosine(vectors: ndarray) -> Similarity:
    """Return the cosine of item vectors float32 [N, D]."""
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return lambda items: unit[items] @ unit.T


def shared(codes: ndarray) -> Similarity:
    """Return the number of equal digits of Semantic IDs int64 [N, L]."""

    def similarity(items: ndarray) -> ndarray:
        return sum((codes[items, level, None] == codes[None, :, level]).astype(np.float32) for level in range(codes.shape[1]))

    return similarity


def places(similarity: Similarity, last: ndarray, target: ndarray) -> ndarray:
    """Return the place of every target among all items but the last one, from 0, float64 [U]; the mean place of equal similarities."""
    found = []
    for begin in range(0, len(last), USERS_AT_ONCE):
        rows = slice(begin, begin + USERS_AT_ONCE)
        values = similarity(last[rows])
        values[np.arange(len(values)), last[rows]] = -np.inf
        own = values[np.arange(len(values)), target[rows], None]
        found.append((values > own).sum(1) + ((values == own).sum(1) - 1) / 2)
    return np.concatenate(found)


def table(similarities: Mapping[str, Similarity], last: ndarray, target: ndarray) -> list[str]:
    """Return the lines of the table of recall."""
    lines = [f"| similarity to the last item | {' | '.join(f'R@{cutoff}' for cutoff in CUTOFFS)} |", f"|---|{'---:|' * len(CUTOFFS)}"]
    for name, similarity in similarities.items():
        place = places(similarity, last, target)
        lines.append(f"| {name} | {' | '.join(f'{(place < cutoff).mean():.4f}' for cutoff in CUTOFFS)} |")
    return lines


def main() -> None:
    """Compare the digits and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--beauty", type=Path, help="folder of Beauty's two files (default: download)")
    options = parser.parse_args()
    (experiment,) = loading.load(f"{PARALLEL}:plain_digits")
    made = pipeline.run(replace(experiment, source=AmazonReviews2014("Beauty", path=options.beauty)), last="embed")
    vectors = load_file(made["embed"].folder / "vectors.safetensors")["vectors"]
    quantizers: dict[str, Quantizer] = {
        "32 digits, OPQ": ProductQuantizer(num_levels=32, codebook_size=256),
        "32 digits, no rotation": ProductQuantizer(num_levels=32, codebook_size=256, rotation=False),
        "32 random digits": RandomCodes(num_levels=32, codebook_size=256),
    }
    digits = {name: shared(each.fit(vectors, Generator().manual_seed(0)).encode(vectors)) for name, each in quantizers.items()}
    last, target = pairs(Corpus.load(made["data"].folder))
    print(f"{len(last):,} users, {len(vectors):,} items")
    print("\n".join(table({"cosine of the vectors": cosine(vectors), **digits}, last, target)))


if __name__ == "__main__":
    main()
