"""SASRec beside an independent implementation: RecBole's, with the same sizes, loss, histories, targets and test users.

    python3 -m venv peer && peer/bin/pip install recbole==1.2.1        # an environment of its own
    python experiments/benchmarks/sasrec.py --peer peer/bin/python     # MovieLens-100K is fetched unless --path names ml-100k.zip

Both read the same `data` artifact: events in our order, the last two of each user held out, histories of 20 items. Both learn one
target a prefix with the softmax over all items, with Adam at one learning rate, the same batch and number of epochs, keep the epoch
that is best on validation (NDCG@10, all users), and rank the whole catalog for the same test users, seen items kept. One piece of
code computes the figures of both, from their lists. What differs: RecBole's blocks are norm(x + f(x)) and its embeddings normalized
and not scaled, ours x + f(norm(x)); our learning rate has a warm-up and a cosine; order, initial weights and dropout have other draws.

Prints a JSON line for every training and a table of R@10 and N@10 with the standard deviation over seeds. The sizes are small, so
that three seeds of both take minutes; `--width 64 --layers 2 --epochs 10` and the like make them larger.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np

TOP = 10  # items of a list
HISTORY = 20


@dataclass(frozen=True)
class Sizes:
    """What both sides share."""

    width: int = 32  # of embeddings, of the residual stream and of the feed-forward layers
    layers: int = 1
    heads: int = 1
    dropout: float = 0.2
    batch: int = 512  # prefixes a step
    epochs: int = 6
    learning_rate: float = 3e-3


def peer(folder: Path, out: Path, sizes: Sizes, seed: int) -> np.ndarray:
    """RecBole's SASRec on the artifact in `folder` -> the best items of users 1, 2, ..., int64 [U, TOP]. Runs where RecBole is."""
    for name, kind in (("float_", np.float64), ("complex_", np.complex128), ("unicode_", np.str_)):
        if not hasattr(np, name):  # RecBole 1.2.1 reads names that NumPy 2 no longer has
            setattr(np, name, kind)
    import torch
    from recbole.config import Config
    from recbole.data import create_dataset, data_preparation
    from recbole.utils import get_model, get_trainer, init_seed

    write_atomic_file(folder, out / "ours")
    config = Config(
        model="SASRec",
        dataset="ours",
        config_dict={
            "data_path": str(out), "checkpoint_dir": str(out / "saved"), "use_gpu": False, "show_progress": False,
            "load_col": {"inter": ["user_id", "item_id", "timestamp"]}, "MAX_ITEM_LIST_LENGTH": HISTORY,
            "eval_args": {"split": {"LS": "valid_and_test"}, "order": "TO", "group_by": "user", "mode": "full"},
            "hidden_size": sizes.width, "inner_size": sizes.width, "n_layers": sizes.layers, "n_heads": sizes.heads,
            "hidden_dropout_prob": sizes.dropout, "attn_dropout_prob": sizes.dropout, "hidden_act": "relu",
            "loss_type": "CE", "train_neg_sample_args": None, "learning_rate": sizes.learning_rate,
            "train_batch_size": sizes.batch, "eval_batch_size": 512, "epochs": sizes.epochs, "stopping_step": sizes.epochs,
            "metrics": ["NDCG"], "topk": [TOP], "valid_metric": f"NDCG@{TOP}", "seed": seed, "reproducibility": True,
        },
    )  # fmt: skip
    sys.argv = sys.argv[:1]
    init_seed(seed, reproducibility=True)
    dataset = create_dataset(config)
    train, validation, test = data_preparation(config, dataset)
    init_seed(seed, reproducibility=True)
    model = get_model("SASRec")(config, train._dataset)
    trainer = get_trainer(config["MODEL_TYPE"], "SASRec")(config, model)
    trainer.fit(train, validation, saved=True, show_progress=False)
    model.load_state_dict(torch.load(trainer.saved_model_file, weights_only=False)["state_dict"])
    model.eval()
    items = dataset.field2id_token["item_id"]
    users = dataset.field2id_token["user_id"]
    ours = np.array([0, *map(int, items[1:])])
    lists = np.zeros((len(users) - 1, TOP), dtype=np.int64)
    with torch.no_grad():
        for entry in test:
            interaction = entry[0]
            scores = model.full_sort_predict(interaction)
            scores[:, 0] = -torch.inf
            numbers = np.array([int(users[number]) for number in interaction["user_id"].tolist()])
            lists[numbers - 1] = ours[scores.topk(TOP).indices.numpy()]
    return lists


def write_atomic_file(folder: Path, out: Path) -> None:
    """Our events as RecBole reads them; the number of an event stands for its time, so that ties stay in our order."""
    items, bounds = np.load(folder / "event_item.npy"), np.load(folder / "bounds.npy")
    users = np.repeat(np.arange(1, len(bounds) + 1), bounds[:, 3] - bounds[:, 0])
    out.mkdir(parents=True, exist_ok=True)
    lines = [f"{user}\t{item}\t{number}" for number, (user, item) in enumerate(zip(users, items, strict=True))]
    (out / "ours.inter").write_text("\n".join(["user_id:token\titem_id:token\ttimestamp:float", *lines]) + "\n")


def ours(experiment: Any) -> np.ndarray:
    """Our SASRec through the pipeline -> the best items of users 1, 2, ..., int64 [U, TOP]."""
    import pandas as pd

    from genrec import pipeline

    folder = pipeline.run(experiment)["evaluate"].folder
    table = pd.read_parquet(folder / "recommendations.parquet")
    lists = np.zeros((table["user"].max(), TOP), dtype=np.int64)
    table = table[table["position"] <= TOP]
    lists[table["user"].to_numpy() - 1, table["position"].to_numpy() - 1] = table["item"].to_numpy()
    return lists


def experiment_of(sizes: Sizes, path: Path | None, targets: int) -> Any:
    """Our side, for a training set of so many targets: one target a prefix, an epoch between validations."""
    from genrec.baselines import SASRec
    from genrec.data.sources import MovieLens
    from genrec.experiment import SFT, Evaluate, Experiment, Optimization, Validation

    an_epoch = -(-targets // sizes.batch)
    return Experiment(
        name="ml100k-sasrec-as-recbole",
        source=MovieLens("100k", path=path),
        tokenize=None,
        policy=SASRec(
            d_model=sizes.width, d_ff=sizes.width, num_layers=sizes.layers, num_heads=sizes.heads, dropout=sizes.dropout, max_positions=HISTORY
        ),
        sft=SFT(optimization=Optimization(max_steps=sizes.epochs * an_epoch, batch_size=sizes.batch, learning_rate=sizes.learning_rate, warmup_steps=an_epoch // 4, weight_decay=0.0, max_grad_norm=1e9), validation=Validation(every=an_epoch, patience=sizes.epochs, users=0)),
        history_length=HISTORY, evaluate=Evaluate(cutoffs=(1, 5, TOP)),
    )  # fmt: skip


def figures(folder: Path, lists: np.ndarray) -> dict[str, float]:
    """Lists int64 [U, TOP] -> R@10 and N@10 over the test users, from the rank of each one's held-out item."""
    import torch

    from genrec.data.corpus import Corpus
    from genrec.data.examples import examples
    from genrec.evaluation.metrics import ndcg, recall

    test = examples(Corpus.load(folder), "test", HISTORY)
    batch = test.batch(torch.arange(len(test)))
    hit = torch.from_numpy(lists)[batch.user - 1] == batch.target[:, None]
    rank = torch.where(hit.any(1), hit.int().argmax(1) + 1, 0)
    return {"recall@10": float(recall(rank, TOP).mean()), "ndcg@10": float(ndcg(rank, TOP).mean())}


def compare(options: argparse.Namespace) -> None:
    """Every seed on both sides, and the table."""
    from genrec import pipeline
    from genrec.data.corpus import Corpus
    from genrec.data.examples import examples

    sizes = Sizes(**{field.name: getattr(options, field.name) for field in fields(Sizes)})
    folder = pipeline.run(experiment_of(sizes, options.path, 1), last="data")["data"].folder
    experiment = experiment_of(sizes, options.path, len(examples(Corpus.load(folder), "train", HISTORY)))
    found: dict[str, list[dict[str, float]]] = {"genrec": [], "recbole": []}
    for seed in options.seeds:
        for side in options.sides:
            began = time.monotonic()
            lists = ours(replace(experiment, seed=seed)) if side == "genrec" else in_a_process(options, folder, seed)
            found[side].append(figures(folder, lists))
            line = {"side": side, "seed": seed, **found[side][-1], "seconds": round(time.monotonic() - began, 1), **vars(sizes)}
            print(json.dumps(line), flush=True)
    print(f"\n| {sizes} | seeds | R@10 | N@10 |\n|---|---|---|---|")
    for side in options.sides:
        cells = [spread([row[name] for row in found[side]]) for name in ("recall@10", "ndcg@10")]
        print(f"| {side} | {', '.join(map(str, options.seeds))} | {' | '.join(cells)} |")


def in_a_process(options: argparse.Namespace, folder: Path, seed: int) -> np.ndarray:
    """The peer's lists, from its own interpreter."""
    with tempfile.TemporaryDirectory() as out:
        sizes = [token for field in fields(Sizes) for token in (f"--{field.name}", str(getattr(options, field.name)))]
        command = [options.peer, __file__, "--as-peer", str(folder.resolve()), out, "--seeds", str(seed), *sizes]
        done = subprocess.run(command, cwd=out, capture_output=True, text=True, env=os.environ | {"PYTHONWARNINGS": "ignore"})
        if done.returncode:
            raise SystemExit(f"the peer failed; its own error:\n{done.stderr[-2000:]}")
        lists: np.ndarray = np.load(Path(out) / "lists.npy")
    return lists


def spread(values: list[float]) -> str:
    """Mean and standard deviation in words."""
    return f"{statistics.mean(values):.4f}" + (f" ±{statistics.stdev(values):.4f}" if len(values) > 1 else "")


def main() -> None:
    """Read the command line; as the peer, train and write the lists."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer", default=sys.executable, help="a Python that has RecBole")
    parser.add_argument("--path", type=Path, help="ml-100k.zip; fetched without")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--sides", nargs="+", choices=("genrec", "recbole"), default=["genrec", "recbole"])
    parser.add_argument("--as-peer", type=Path, nargs=2, help=argparse.SUPPRESS)
    for field in fields(Sizes):
        parser.add_argument(f"--{field.name}", type=type(field.default), default=field.default)
    options = parser.parse_args()
    if options.as_peer:
        sizes = Sizes(**{field.name: getattr(options, field.name) for field in fields(Sizes)})
        folder, out = options.as_peer
        np.save(out / "lists.npy", peer(folder, out, sizes, options.seeds[0]))
    else:
        compare(options)


if __name__ == "__main__":
    main()
