"""Popularity, EASE and BPR beside cornac's, on MovieLens-100K: same events, hyper-parameters, test users and targets.

    python experiments/benchmarks/peers/linear.py --environment FOLDER [--path ml-100k.zip] [--seeds 5]

makes a virtual environment in FOLDER, which must lie outside the repository, and installs cornac there, unless FOLDER exists. Without
`--path`, MovieLens-100K is downloaded. Both sides rank the whole catalog, with seen items kept and filtered. BPR is trained with
`--seeds` seeds, of which each user's metric is averaged.

The script prints the versions and a table. A row agrees if the difference of the means is at most two standard errors over users,
paired. `equal ranks` is the share of users whose target has the same rank on both sides: EASE has a closed form, so only ties and
rounding may differ.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import export

from genrec import pipeline
from genrec.baselines import BPR, EASE, Popularity
from genrec.data.sources import MovieLens
from genrec.environment import environment, versions
from genrec.experiment import Evaluate, Experiment
from genrec.types import Baseline

CORNAC = "cornac==3.0.1"
MODELS: tuple[Baseline, ...] = (
    Popularity(),
    EASE(l2=100.0),  # the best of seven on validation, seen items filtered
    BPR(dim=64, epochs=100, learning_rate=0.05, l2=0.01),
)
WHOLE = 5_000  # length of a list that holds the whole catalog


def row(baseline: Baseline, filter_seen: bool, path: Path | None) -> Experiment:
    """Return genrec's experiment, with lists of the whole catalog."""
    evaluate = Evaluate(cutoffs=(10, WHOLE), filter_seen=filter_seen)
    return Experiment(name="peer", source=MovieLens("100k", path=path), policy=baseline, evaluate=evaluate)


def settings_of(baseline: Any, filter_seen: bool, seed: int) -> dict[str, Any]:
    """Return the peer's settings."""
    return asdict(baseline) | {"model": type(baseline).__name__, "filter_seen": filter_seen, "seed": seed}


def lines(baseline: Any, filter_seen: bool, options: argparse.Namespace, python: Path, scratch: Path) -> list[str]:
    """Run both sides and return the rows of the table, one per metric."""
    seeds = range(options.seeds) if isinstance(baseline, BPR) else range(1)
    ours, peer = [], []
    for seed in seeds:
        seeded = replace(baseline, seed=seed) if isinstance(baseline, BPR) else baseline
        artifacts = pipeline.run(row(seeded, filter_seen, options.path))
        data = export.write_parts(artifacts["data"].folder, scratch / "data")
        ours.append(export.own_ranks(artifacts["evaluate"].folder))
        settings = settings_of(seeded, filter_seen, seed)
        ranks, peer_versions = export.run_peer(python, "cornac_models.py", data, scratch / "out", settings)
        peer.append(ranks)
    if isinstance(baseline, Popularity) and not filter_seen:
        print(f"peer: {json.dumps(peer_versions)}\n")
        print("| model | seen items | metric | users | genrec | cornac | difference | standard error | agrees | equal ranks |")
        print("|---|---|---|---:|---:|---:|---:|---:|---|---:|")
    equal = sum(ours[0][user] == peer[0][user] for user in ours[0]) / len(ours[0])
    found = []
    for metric in ("recall@10", "ndcg@10"):
        result = export.compare(ours, peer, metric)
        agrees = "yes" if result.within_two else "no"
        found.append(
            f"| {type(baseline).__name__} | {'filtered' if filter_seen else 'kept'} | {metric} | {result.users} | {result.ours:.5f} | "
            f"{result.peer:.5f} | {result.difference:+.5f} | {result.standard_error:.5f} | {agrees} | {100 * equal:.1f} % |"
        )
    return found


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--environment", type=Path, required=True, help="folder of cornac's environment, made if it is missing")
    parser.add_argument("--path", type=Path, default=None, help="ml-100k.zip; default: download it")
    parser.add_argument("--seeds", type=int, default=5, help="seeds of BPR")
    options = parser.parse_args()
    python = export.make_environment(options.environment, [CORNAC])
    print(f"genrec: {json.dumps(versions())}\nenvironment: {json.dumps(environment())}")
    with tempfile.TemporaryDirectory() as scratch:
        for filter_seen in (False, True):
            for baseline in MODELS:
                print("\n".join(lines(baseline, filter_seen, options, python, Path(scratch))), flush=True)


if __name__ == "__main__":
    main()
