"""RPG and TIGER beside cornac's: the same item vectors, events, test users and processor seconds of training.

    python experiments/benchmarks/peers/generative.py --environment FOLDER [--path ml-100k.zip] [--seconds 120]
    python experiments/benchmarks/peers/generative.py --environment FOLDER --data beauty --path FOLDER --models RPG --seconds 600

makes a virtual environment in `--environment`, outside the repository, and installs cornac there, unless the folder exists. Without
`--path` the data are downloaded. `--scratch` names a folder for results, so that a repeated command runs only what is missing in it.

Both sides get the leave-one-out split of genrec, the vectors of genrec's embed stage, histories of the last 20 items, one thread, and
`--seconds` of processor time to train, with validation and without Semantic IDs; the table has the measured time. Both rank all items
for all test users, seen items kept, by exact scores (`--scoring beam`: cornac's TIGER ranks the items of 50 beams, since its exact
scores take 0.2 s per user or more).

**What this shows:** what each recipe reaches in equal time on one CPU thread. **What it does not:** whether two implementations of the
same recipe agree, or which is better when trained to the end. cornac's configurations are made for hours of a GPU, and the recipes of
genrec were tuned for one CPU core. There is one seed. No claim of agreement is made, and test is not used for any choice.

| | genrec | cornac |
|---|---|---|
| IDs | `ProductQuantizer`, `RQKMeans` | its own: faiss's OPQ with 256 codes, residual k-means with a last digit against collisions |
| RPG | a softmax over the catalog | a softmax for each digit |
| TIGER | causal encoder over items, all targets of a window in one pass | bidirectional encoder over codes, a row for each target |
| length | steps from the measured time of a step; cosine decay | epochs from the measured time of a step; see below |
| kept | best of ten validations | the last step; best of five to ten validations where ten epochs fit |
| settings | an existing recipe | `settings_of`, each with the whole time; the best on validation is ranked on test |

Neither side has item embeddings. cornac has no argument for given codes, and its tokenizer is a private method, so the sides'
Semantic IDs differ. cornac trains whole epochs and has no callback. Where less than ten epochs fit, a hook of torch's optimizer
ends the last one when the seconds are over; where less than one fits, the learning rate is constant. The shipped warm-up of
10,000 steps is a tenth of the steps here. `genrec's size` gives cornac's configuration the widths, layers and batch of genrec's
model, and RPG sessions of windows, because cornac's RPG has a row for each target after the first 20 of a user. `--shipped`
trains the configuration as it is too: an epoch of RPG_CONFIG on MovieLens-100K has 308 steps of 2 s. The RQ-VAE of
PAISCHER_CONFIG takes 8,000 epochs and is left out.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import export
import numpy as np
from generative_genrec import HISTORY, own_side, recipe

REQUIREMENTS = ["cornac==3.0.1", "torch", "transformers", "faiss-cpu", "scikit-learn"]
HEADER = """| model | side | settings | NDCG@10 | Recall@10 | on validation | IDs, s | training, s | epochs | steps | peak, MB |
|---|---|---|---:|---:|---:|---:|---:|---:|---:|---:|"""


class Setting(NamedTuple):
    """What cornac's side is trained with."""

    name: str
    config: str  # a configuration that cornac ships
    sessions: str = "whole"  # whole or windows
    changes: dict[str, Any] = {}  # noqa: RUF012  arguments that differ from the configuration


SMALL_RPG = {"d_model": 128, "n_inner": 512, "batch_size": 128}
SMALL_TIGER = {"d_model": 64, "d_ff": 256, "num_heads": 4, "d_kv": 16, "num_enc_layers": 2, "num_dec_layers": 2, "batch_size": 64}
WINDOWS_TIGER = {"d_ff": 512, "num_heads": 4, "d_kv": 32, "num_dec_layers": 2, "dropout": 0.2}
SHIPPED = {
    ("movielens", "RPG"): "RPG_CONFIG",
    ("movielens", "TIGER"): "GRID_CONFIG",
    ("beauty", "RPG"): "RPG_BEAUTY_CONFIG",
    ("beauty", "TIGER"): "GRID_CONFIG",
}
SIZES: dict[tuple[str, str], tuple[str, dict[str, Any], list[float]]] = {  # sessions, changes to the size, learning rates
    ("movielens", "RPG"): ("windows", SMALL_RPG | {"n_codebook": 16}, [2e-3, 1e-2]),
    ("movielens", "TIGER"): ("whole", SMALL_TIGER | {"rqvae_codebook_size": 64}, [2e-3]),
    ("beauty", "RPG"): ("windows", SMALL_RPG, [2e-3, 1e-2]),
    ("beauty", "TIGER"): ("whole", WINDOWS_TIGER, [1e-3]),
}


def settings_of(data: str, model: str, shipped: bool) -> list[Setting]:
    """Return what cornac's side is trained with: genrec's size with each learning rate, and the shipped configuration if asked for."""
    config = SHIPPED[data, model]
    sessions, size, rates = SIZES[data, model]
    small = [Setting(f"{config}, genrec's size, {rate:g}", config, sessions, size | {"learning_rate": rate}) for rate in rates]
    return [*small, *([Setting(f"{config} as shipped", config)] if shipped else [])]


def write_data(data: str, model: str, path: Path | None, folder: Path) -> Path:
    """Write the events and the item vectors for the peer and return their folder."""
    from safetensors.numpy import load_file

    from genrec import pipeline

    artifacts = pipeline.run(recipe(data, model, path), last="embed")
    export.write_parts(artifacts["data"].folder, folder)
    np.save(folder / "vectors.npy", load_file(artifacts["embed"].folder / "vectors.safetensors")["vectors"])
    return folder


def kept(place: Path, settings: dict[str, Any], compute: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Return the result in a file, if it has these settings, or compute and write it."""
    if place.exists():
        found: dict[str, Any] = json.loads(place.read_text())
        if found["asked"] == settings:
            return found
    result = compute() | {"asked": settings}
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_text(json.dumps(result))
    return result


def mean(ranks: list[Any], metric: str) -> float:
    """Return the mean of a metric over pairs of user and rank."""
    return float(np.mean([export.gain(rank, metric) for _, rank in ranks]))


def peer_training(python: Path, data: Path, out: Path, settings: dict[str, Any]) -> dict[str, Any]:
    """Train cornac's model and return its figures, with NDCG@10 of validation users."""
    ranks, versions = export.run_peer(python, "cornac_generative.py", data, out, settings | {"task": "train"})
    figures: dict[str, Any] = json.loads((out / "training.json").read_text())
    return figures | {"validation": mean(list(ranks.items()), "ndcg@10"), "versions": versions}


def peer_ranks(python: Path, data: Path, out: Path, settings: dict[str, Any]) -> dict[str, Any]:
    """Return the ranks of the test users' targets by the trained model."""
    ranks, _ = export.run_peer(python, "cornac_generative.py", data, out, settings | {"task": "rank"})
    return {"ranks": sorted(ranks.items())}


def line(model: str, side: str, name: str, figures: dict[str, Any], ranks: list[Any] | None) -> str:
    """Return a row of the table; a setting that validation did not choose has no metrics on test."""
    metrics = [f"{mean(ranks, metric):.4f}" if ranks else "not ranked" for metric in ("ndcg@10", "recall@10")]
    times = [f"{figures[key]:.0f}" for key in ("tokenizer_seconds", "seconds")]
    counts = [f"{figures['epochs']:.1f}", f"{figures['steps']:,}", f"{figures['peak_mb']:,.0f}"]
    cells = [model, side, name, *metrics, f"{figures['validation']:.4f}", *times, *counts]
    return f"| {' | '.join(cells)} |"


def lines(options: argparse.Namespace, model: str, python: Path, scratch: Path) -> list[str]:
    """Run both sides of a model and return their rows of the table."""
    asked = {"data": options.data, "model": model, "seconds": options.seconds}
    place = scratch / f"{options.data}-{model}"

    def own() -> dict[str, Any]:
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:  # its memory and processor time are its own
            return pool.submit(own_side, options.data, model, options.path, options.seconds).result()

    ours = kept(place / "genrec.json", asked, own)
    rows = [line(model, "genrec", "the recipe", ours, ours["ranks"])]
    data = write_data(options.data, model, options.path, place / "data")
    trained = []
    for setting in settings_of(options.data, model, options.shipped):
        settings = asked | setting._asdict() | {"window": HISTORY, "seed": 0}
        out = place / setting.name.replace(" ", "-").replace("'", "").replace(",", "")
        figures = kept(out / "figures.json", settings, lambda s=settings, o=out: peer_training(python, data, o, s))  # type: ignore[misc]
        trained.append((setting.name, settings, out, figures))
        print(f"{model}, cornac, {setting.name}: {json.dumps(figures)}", file=sys.stderr, flush=True)
    best = max(trained, key=lambda each: each[3]["validation"])
    scored = best[1] | {"scoring": options.scoring if model == "TIGER" else "exact"}
    again = scored | {"of": best[3]}  # another training has other ranks
    ranked = kept(best[2] / "test.json", again, lambda: peer_ranks(python, data, best[2], scored))["ranks"]
    if [user for user, _ in ranked] != [user for user, _ in ours["ranks"]]:
        raise SystemExit("the sides rank other users; remove the folder --scratch and run again")
    for each in trained:
        rows.append(line(model, "cornac", each[0], each[3], ranked if each is best else None))
    return rows


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--environment", type=Path, required=True, help="folder of cornac's environment, made if it is missing")
    parser.add_argument("--data", choices=["movielens", "beauty"], default="movielens", help="MovieLens-100K or Amazon 2014 Beauty")
    parser.add_argument("--path", type=Path, default=None, help="ml-100k.zip, or the folder of Beauty's files; default: download")
    parser.add_argument("--models", nargs="+", choices=["RPG", "TIGER"], default=["RPG", "TIGER"])
    parser.add_argument("--seconds", type=float, default=120.0, help="processor seconds of each training")
    parser.add_argument("--scoring", choices=["exact", "beam"], default="exact", help="of cornac's TIGER on test")
    parser.add_argument("--shipped", action="store_true", help="also train cornac's configuration as shipped; give it --seconds 1200")
    parser.add_argument("--scratch", type=Path, default=None, help="folder for results that are used again; default: temporary")
    options = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    from genrec.environment import environment, versions

    python = export.make_environment(options.environment, REQUIREMENTS)
    print(f"genrec: {json.dumps(versions())}\nenvironment: {json.dumps(environment())}\n\n{HEADER}")
    with tempfile.TemporaryDirectory() as temporary:
        for model in options.models:
            print("\n".join(lines(options, model, python, (options.scratch or Path(temporary)).resolve())), flush=True)


if __name__ == "__main__":
    main()
