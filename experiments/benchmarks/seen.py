"""How much of what rows recommend their users have had already, and which level of the codes alignment moved to change it.

    python experiments/benchmarks/seen.py ml1m-sft ml1m-control ml1m-ipo-seen     # of rows that `genrec run` has made; seconds

Prints a line a row and seed: the share of the first ten places that hold an item of the history's last so many, as many as the
policy reads, and of those before; for an aligned row the margin of the positive over its negatives in the last row of the curves,
nats, level by level.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import pandas as pd

from genrec import run_files
from genrec.data.corpus import Corpus
from genrec.data.splits import BEGIN, TEST
from genrec.workspace import store

PLACES = 10


def shares(corpus: Corpus, lists: pd.DataFrame, window: int) -> tuple[float, float]:
    """Lists (user, position, item) -> shares of places: an item of the last `window` before the test, and one of those before."""
    lists = lists[lists["position"] <= PLACES]
    near = old = 0
    for user, items in lists.groupby("user")["item"]:
        begin, test = corpus.bounds[user - 1][[BEGIN, TEST]]
        past = corpus.item[begin:test].tolist()
        recent = set(past[-window:])
        near += items.isin(recent).sum()
        old += items.isin(set(past[:-window]) - recent).sum()
    return near / len(lists), old / len(lists)


def margins(folder: Path) -> str:
    """The last margins of a training's curves, all and by level."""
    table = pd.read_parquet(folder / "curves.parquet").dropna(subset=["loss"])
    last = table.iloc[-1]
    return ", ".join(f"{name} {last[name]:+.3f}" for name in table.columns if name.startswith("margin"))


def main() -> None:
    """One line a row and seed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", metavar="NAME", nargs="+", help="rows, as of genrec compare")
    where = store()
    for name in parser.parse_args().names:
        content = run_files.read(name)
        for seed, entry in content["seeds"].items():
            keys = entry["artifacts"]
            corpus = Corpus.load(where.folder("data", keys["data"]))
            lists = pd.read_parquet(where.folder("evaluate", keys["evaluate"]) / "recommendations.parquet")
            near, old = shares(corpus, lists, content["protocol"]["history"])
            said = f"{name} (seed {seed}): of {PLACES} places {near:.3f} recent, {old:.3f} older"
            print(said + (f"; {margins(where.folder('align', keys['align']))}" if "align" in keys else ""))


if __name__ == "__main__":
    main()
