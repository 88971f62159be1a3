"""Share of recommended items that the user already interacted with, and the margins of alignment by level.

    python experiments/benchmarks/seen.py ml1m-sft ml1m-control ml1m-ipo-seen     # names of rows of `genrec run`; takes seconds

Prints a line per row and seed: the share of the first ten positions with an item of the history that the policy reads (recent), and
with an item before that (older). For an aligned row, the line also has the last margins of the positive over its negatives, in nats,
in total and by level.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import pandas as pd

from genrec import run_files, workspace
from genrec.data.corpus import Corpus
from genrec.data.splits import BEGIN, TEST

POSITIONS = 10  # first positions of each list that are counted


def shares(corpus: Corpus, lists: pd.DataFrame, window: int) -> tuple[float, float]:
    """Return the shares of positions with a recent and with an older item, for lists (user, position, item).

    Recent items are the last `window` before the test interaction; older items are those before.
    """
    lists = lists[lists["position"] <= POSITIONS]
    near = old = 0
    for user, items in lists.groupby("user")["item"]:
        begin, test = corpus.bounds[user - 1][[BEGIN, TEST]]
        past = corpus.item[begin:test].tolist()
        recent = set(past[-window:])
        near += items.isin(recent).sum()
        old += items.isin(set(past[:-window]) - recent).sum()
    return near / len(lists), old / len(lists)


def margins(folder: Path) -> str:
    """Return the last margins of the training curves as text."""
    table = pd.read_parquet(folder / "curves.parquet").dropna(subset=["loss"])
    last = table.iloc[-1]
    return ", ".join(f"{name} {last[name]:+.3f}" for name in table.columns if name.startswith("margin"))


def main() -> None:
    """Print one line per row and seed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", metavar="NAME", nargs="+", help="names of rows, as for genrec compare")
    store = workspace.store()
    for name in parser.parse_args().names:
        content = run_files.read(name)
        for seed, entry in content["seeds"].items():
            keys = entry["artifacts"]
            corpus = Corpus.load(store.folder("data", keys["data"]))
            lists = pd.read_parquet(store.folder("evaluate", keys["evaluate"]) / "recommendations.parquet")
            near, old = shares(corpus, lists, content["protocol"]["history"])
            line = f"{name} (seed {seed}): of {POSITIONS} positions, {near:.3f} recent and {old:.3f} older items"
            print(line + (f"; {margins(store.folder('align', keys['align']))}" if "align" in keys else ""))


if __name__ == "__main__":
    main()
