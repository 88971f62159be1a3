"""Comparison of SASRec with an independent implementation, RecBole's: same sizes, loss, histories, targets and test users.

    python3 -m venv peer && peer/bin/pip install recbole==1.2.1        # a separate environment
    python experiments/benchmarks/sasrec.py --peer peer/bin/python     # downloads MovieLens-100K unless --path is ml-100k.zip

Both sides read the same `data` artifact: the same events, the last two of each user held out, histories of 20 items. Both train on one
target per prefix with the softmax over all items, with Adam at the same learning rate, batch size and number of epochs. Both keep the
best epoch on validation (NDCG@10, all users) and rank the whole catalog for the same test users, seen items kept. The same function
computes the metrics of both from their lists.

Differences: RecBole's blocks are norm(x + f(x)) and its embeddings are normalized and not scaled, genrec's blocks are x + f(norm(x)).
genrec's learning rate has a warm-up and a cosine decay. Order, initial weights and dropout are drawn differently.

The script prints a JSON line per training run, and a table of R@10 and N@10 with the standard deviation over seeds. With the
default sizes three seeds of both sides take minutes; `--width 64 --layers 2 --epochs 10`, for example, makes them larger.
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
HISTORY = 20  # items of a history


@dataclass(frozen=True)
class Sizes:
    """Sizes and settings of both sides."""

    width: int = 32  # width of embeddings, residual stream and feed-forward layers
    layers: int = 1  # blocks
    heads: int = 1  # attention heads
    dropout: float = 0.2  # rate
    batch: int = 512  # prefixes per step
    epochs: int = 6
    learning_rate: float = 3e-3  # peak of the schedule on genrec's side


def peer(folder: Path, out: Path, sizes: Sizes, seed: int) -> np.ndarray:
    """Train RecBole's SASRec on the artifact in `folder` and return the best items of users 1, 2, ..., int64 [U, TOP]."""
    for name, numpy_type in (("float_", np.float64), ("complex_", np.complex128), ("unicode_", np.str_)):
        if not hasattr(np, name):  # RecBole 1.2.1 uses names that NumPy 2 has removed
            setattr(np, name, numpy_type)
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
    """Write the events in RecBole's format; an event's number replaces its time, so that ties keep their order."""
    items, bounds = np.load(folder / "event_item.npy"), np.load(folder / "bounds.npy")
    users = np.repeat(np.arange(1, len(bounds) + 1), bounds[:, 3] - bounds[:, 0])
    out.mkdir(parents=True, exist_ok=True)
    lines = [f"{user}\t{item}\t{number}" for number, (user, item) in enumerate(zip(users, items, strict=True))]
    (out / "ours.inter").write_text("\n".join(["user_id:token\titem_id:token\ttimestamp:float", *lines]) + "\n")


def ours(experiment: Any) -> np.ndarray:
    """Run genrec's pipeline and return the best items of users 1, 2, ..., int64 [U, TOP]."""
    import pandas as pd

    from genrec import pipeline

    folder = pipeline.run(experiment)["evaluate"].folder
    table = pd.read_parquet(folder / "recommendations.parquet")
    lists = np.zeros((table["user"].max(), TOP), dtype=np.int64)
    table = table[table["position"] <= TOP]
    lists[table["user"].to_numpy() - 1, table["position"].to_numpy() - 1] = table["item"].to_numpy()
    return lists


def experiment_of(sizes: Sizes, path: Path | None, targets: int) -> Any:
    """Return genrec's experiment for a training set of `targets` targets: one target per prefix, one validation per epoch."""
    from genrec.baselines import SASRec
    from genrec.data.sources import MovieLens
    from genrec.experiment import SFT, Evaluate, Experiment, Optimization, Validation

    epoch_steps = -(-targets // sizes.batch)
    optimization = Optimization(
        max_steps=sizes.epochs * epoch_steps, batch_size=sizes.batch, learning_rate=sizes.learning_rate,
        warmup_steps=epoch_steps // 4, weight_decay=0.0, max_grad_norm=1e9,
    )  # fmt: skip
    policy = SASRec(
        d_model=sizes.width, d_ff=sizes.width, num_layers=sizes.layers, num_heads=sizes.heads, dropout=sizes.dropout,
        max_positions=HISTORY,
    )  # fmt: skip
    return Experiment(
        name="ml100k-sasrec-as-recbole",
        source=MovieLens("100k", path=path),
        tokenize=None,
        policy=policy,
        history_length=HISTORY,
        sft=SFT(optimization=optimization, validation=Validation(every=epoch_steps, patience=sizes.epochs, users=0)),
        evaluate=Evaluate(cutoffs=(1, 5, TOP)),
    )


def figures(folder: Path, lists: np.ndarray) -> dict[str, float]:
    """Return R@10 and N@10 over the test users, from lists int64 [U, TOP]."""
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
    """Run every seed on both sides and print the table."""
    from genrec import pipeline
    from genrec.data.corpus import Corpus
    from genrec.data.examples import examples

    sizes = Sizes(**{field.name: getattr(options, field.name) for field in fields(Sizes)})
    folder = pipeline.run(experiment_of(sizes, options.path, 1), last="data")["data"].folder
    experiment = experiment_of(sizes, options.path, len(examples(Corpus.load(folder), "train", HISTORY)))
    results: dict[str, list[dict[str, float]]] = {"genrec": [], "recbole": []}
    for seed in options.seeds:
        for side in options.sides:
            began = time.monotonic()
            lists = ours(replace(experiment, seed=seed)) if side == "genrec" else in_a_process(options, folder, seed)
            results[side].append(figures(folder, lists))
            line = {"side": side, "seed": seed, **results[side][-1], "seconds": round(time.monotonic() - began, 1), **vars(sizes)}
            print(json.dumps(line), flush=True)
    print(f"\n| {sizes} | seeds | R@10 | N@10 |\n|---|---|---|---|")
    for side in options.sides:
        cells = [spread([row[name] for row in results[side]]) for name in ("recall@10", "ndcg@10")]
        print(f"| {side} | {', '.join(map(str, options.seeds))} | {' | '.join(cells)} |")


def in_a_process(options: argparse.Namespace, folder: Path, seed: int) -> np.ndarray:
    """Run the peer in its Python interpreter and return its lists."""
    with tempfile.TemporaryDirectory() as out:
        sizes = [token for field in fields(Sizes) for token in (f"--{field.name}", str(getattr(options, field.name)))]
        command = [options.peer, __file__, "--as-peer", str(folder.resolve()), out, "--seeds", str(seed), *sizes]
        process = subprocess.run(command, cwd=out, capture_output=True, text=True, env=os.environ | {"PYTHONWARNINGS": "ignore"})
        if process.returncode:
            raise SystemExit(f"the peer failed with this error:\n{process.stderr[-2000:]}")
        lists: np.ndarray = np.load(Path(out) / "lists.npy")
    return lists


def spread(values: list[float]) -> str:
    """Format mean and standard deviation."""
    return f"{statistics.mean(values):.4f}" + (f" ±{statistics.stdev(values):.4f}" if len(values) > 1 else "")


def main() -> None:
    """Run the comparison, or, in the peer's process, train and write the lists."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer", default=sys.executable, help="Python interpreter with RecBole installed")
    parser.add_argument("--path", type=Path, help="ml-100k.zip; downloaded if not given")
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
