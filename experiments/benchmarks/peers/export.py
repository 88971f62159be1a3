"""The exchange between genrec and a peer, an independent implementation in a Python environment of its own.

    data = export.write_parts(artifacts["data"].folder, scratch / "data")       # genrec's side: the events as tables
    python = export.make_environment(Path("peer"), ["recbole==1.2.1"])          # made once, outside the repository
    ranks, versions = export.run_peer(python, "recbole_models.py", data, scratch / "out", {"model": "GRU4Rec", "seed": 0})
    print(export.compare([export.own_ranks(artifacts["evaluate"].folder)], [ranks], "ndcg@10"))

A peer is a script of this folder, `peers/NAME.py DATA OUT SETTINGS`. It reads the tables with `read_part`, trains, and gives every
test user a rank with `ranks_of`, and calls `write_ranks`, which writes OUT/ranks.tsv and OUT/versions.json. Seen items are kept.

This file imports nothing but the standard library and NumPy unless a function of genrec's side is called, so that peers can import it.

| table | columns, with a header, separated by tabs |
|---|---|
| train.tsv, validation.tsv, test.tsv | user, item, time; time is the event's number by user, then time: ties keep their order |
| ranks.tsv | user, rank: the target's rank in the whole catalog, 1 = first |

Users are 1..U and items 1..N, genrec's numbers. catalog.json holds N. The test target of a user is the event in test.tsv; the history
is the user's events in train.tsv and validation.tsv.
"""

from __future__ import annotations

import importlib.metadata
import json
import math
import os
import platform
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

PARTS = ("train", "validation", "test")
Ranks = dict[int, int]  # user -> rank of the target, 1 = first; 0 = not in the list


class Comparison(NamedTuple):
    """The difference of two sides in a metric that is a mean over users, paired by user."""

    users: int  # users of both sides
    ours: float  # genrec's mean
    peer: float  # the peer's mean
    difference: float  # genrec - peer
    standard_error: float  # of the difference, over users
    within_two: bool  # whether |difference| is at most two standard errors


def write_parts(artifact: Path, folder: Path) -> Path:
    """Write the parts of a `data` artifact as tables and return their folder."""
    from genrec.data.corpus import Corpus

    corpus = Corpus.load(artifact)
    events = corpus.interactions.assign(time=np.arange(len(corpus.item)))
    folder.mkdir(parents=True, exist_ok=True)
    for part in PARTS:
        rows = events.loc[events["part"] == part, ["user", "item", "time"]]
        rows.to_csv(folder / f"{part}.tsv", sep="\t", index=False)
    (folder / "catalog.json").write_text(json.dumps({"items": corpus.item_count, "users": corpus.user_count}))
    return folder


def read_part(folder: Path, part: str) -> np.ndarray:
    """Return the events of a part by user, then time: int64 [E, 3] with the columns user, item, time."""
    return np.loadtxt(folder / f"{part}.tsv", dtype=np.int64, delimiter="\t", skiprows=1, ndmin=2)


def item_count(folder: Path) -> int:
    """Return N, the number of items."""
    return int(json.loads((folder / "catalog.json").read_text())["items"])


def ranks_of(scores: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Return the rank of each target, int64 [B], of scores [B, N] of items 1..N and targets int64 [B]; equal scores by lower item."""
    own = scores[np.arange(len(targets)), targets - 1][:, None]
    is_earlier = np.arange(1, scores.shape[1] + 1)[None, :] < targets[:, None]
    result: np.ndarray = 1 + (scores > own).sum(1) + ((scores == own) & is_earlier).sum(1)
    return result


def write_ranks(out: Path, users: Iterable[int], ranks: Iterable[int], packages: Sequence[str]) -> None:
    """Write a peer's ranks, and the versions of Python and of its packages."""
    out.mkdir(parents=True, exist_ok=True)
    lines = [f"{int(user)}\t{int(rank)}" for user, rank in zip(users, ranks, strict=True)]
    (out / "ranks.tsv").write_text("\n".join(["user\trank", *lines]) + "\n")
    versions = {"python": platform.python_version()} | {name: importlib.metadata.version(name) for name in packages}
    (out / "versions.json").write_text(json.dumps(versions))


def read_ranks(path: Path) -> Ranks:
    """Return the ranks of a table."""
    table = np.loadtxt(path, dtype=np.int64, delimiter="\t", skiprows=1, ndmin=2)
    return dict(table.tolist())


def own_ranks(artifact: Path) -> Ranks:
    """Return the ranks of an `evaluate` artifact; 0 = beyond the last cutoff."""
    import pandas as pd

    table = pd.read_parquet(artifact / "ranks.parquet")
    return dict(zip(table["user"].tolist(), table["rank"].tolist(), strict=True))


def make_environment(folder: Path, requirements: Sequence[str]) -> Path:
    """Return the Python of a virtual environment in `folder`; make it and install the requirements if there is none."""
    python = folder.resolve() / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        subprocess.run([str(python), "-m", "pip", "install", "--quiet", *requirements], check=True)
    return python


def run_peer(python: Path, script: str, data: Path, out: Path, settings: Mapping[str, Any]) -> tuple[Ranks, dict[str, str]]:
    """Run a script of this folder in the peer's Python, and return its ranks and versions."""
    command = [str(python), str(Path(__file__).with_name(script)), str(data.resolve()), str(out.resolve()), json.dumps(settings)]
    out.mkdir(parents=True, exist_ok=True)
    process = subprocess.run(command, cwd=out, capture_output=True, text=True, env=os.environ | {"PYTHONWARNINGS": "ignore"})
    if process.returncode:
        raise SystemExit(f"the peer failed with this error:\n{process.stderr[-2000:]}")
    return read_ranks(out / "ranks.tsv"), json.loads((out / "versions.json").read_text())


def peer_arguments() -> tuple[Path, Path, dict[str, Any]]:
    """Return the arguments of a peer's script: the folders of data and results, and the settings."""
    data, out, settings = sys.argv[1:4]
    sys.argv = sys.argv[:1]  # libraries read it too
    return Path(data), Path(out), json.loads(settings)


def gain(rank: int, metric: str) -> float:
    """Return a metric of one rank, `recall@n` or `ndcg@n`: 1 or 1 / log2(1 + rank) for a rank of 1..n, else 0."""
    name, _, cutoff = metric.partition("@")
    if not 0 < rank <= int(cutoff):
        return 0.0
    return 1.0 if name == "recall" else 1.0 / math.log2(1 + rank)


def compare(ours: Sequence[Ranks], peer: Sequence[Ranks], metric: str) -> Comparison:
    """Compare the ranks of both sides, a table for each seed; a user's value is the mean over seeds.

    Raises SystemExit if the sides have other test users.
    """
    users = sorted(ours[0])
    for ranks in (*ours, *peer):
        if sorted(ranks) != users:
            raise SystemExit(f"the sides rank other users: {len(users)} of genrec's, {len(ranks)} of a table to compare with")
    one, other = (np.array([[gain(ranks[user], metric) for user in users] for ranks in side]).mean(0) for side in (ours, peer))
    difference = one - other
    error = float(difference.std(ddof=1)) / math.sqrt(len(users)) if len(users) > 1 else math.nan
    mean = float(difference.mean())
    return Comparison(len(users), float(one.mean()), float(other.mean()), mean, error, abs(mean) <= 2 * error)
