"""A peer: SASRec and GRU4Rec of RecBole, with the softmax over all items and one target per prefix. See `export.py`.

Settings: model, seed, history, learning_rate, batch, epochs, dropout, width, layers; heads for SASRec, hidden for GRU4Rec. The best
epoch on validation (NDCG@10) is kept. RecBole's trainer has no schedule, so its optimizer gets genrec's warm-up and cosine decay here.
"""

from __future__ import annotations

import itertools
import math
import sys
from pathlib import Path
from typing import Any

import export
import numpy as np

for name, numpy_type in (("float_", np.float64), ("complex_", np.complex128), ("unicode_", np.str_)):
    if not hasattr(np, name):  # RecBole 1.2.1 uses names that NumPy 2 has removed
        setattr(np, name, numpy_type)

import torch  # noqa: E402
from recbole.config import Config  # noqa: E402
from recbole.data import create_dataset, data_preparation  # noqa: E402
from recbole.utils import get_model, get_trainer, init_seed  # noqa: E402


def sizes(settings: dict[str, Any]) -> dict[str, Any]:
    """Return the settings of the model in RecBole's names."""
    if settings["model"] == "GRU4Rec":
        return {
            "embedding_size": settings["width"], "hidden_size": settings["hidden"], "num_layers": settings["layers"],
            "dropout_prob": settings["dropout"],
        }  # fmt: skip
    return {
        "hidden_size": settings["width"], "inner_size": settings["width"], "n_layers": settings["layers"],
        "n_heads": settings["heads"], "hidden_dropout_prob": settings["dropout"], "attn_dropout_prob": settings["dropout"],
        "hidden_act": "relu",
    }  # fmt: skip


def configuration(out: Path, settings: dict[str, Any]) -> Config:
    """Return RecBole's configuration for the data set `events` in a folder."""
    return Config(
        model=settings["model"],
        dataset="events",
        config_dict={
            "data_path": str(out), "checkpoint_dir": str(out / "saved"), "use_gpu": False, "show_progress": False,
            "load_col": {"inter": ["user_id", "item_id", "timestamp"]}, "MAX_ITEM_LIST_LENGTH": settings["history"],
            "eval_args": {"split": {"LS": "valid_and_test"}, "order": "TO", "group_by": "user", "mode": "full"},
            "loss_type": "CE", "train_neg_sample_args": None, "learning_rate": settings["learning_rate"],
            "train_batch_size": settings["batch"], "eval_batch_size": 512, "epochs": settings["epochs"],
            "stopping_step": settings["epochs"], "metrics": ["NDCG"], "topk": [10], "valid_metric": "NDCG@10",
            "seed": settings["seed"], "reproducibility": True, **sizes(settings),
        },
    )  # fmt: skip


def write_atomic_file(data: Path, out: Path) -> None:
    """Write all events in RecBole's format. It holds out the last two of each user, as the tables of `data` do."""
    events = np.concatenate([export.read_part(data, part) for part in export.PARTS])
    events = events[events[:, 2].argsort()]
    out.mkdir(parents=True, exist_ok=True)
    lines = ["\t".join(map(str, row)) for row in events.tolist()]
    (out / "events.inter").write_text("\n".join(["user_id:token\titem_id:token\ttimestamp:float", *lines]) + "\n")


def schedule(optimizer: torch.optim.Optimizer, peak: float, max_steps: int) -> None:
    """Let the learning rate rise linearly for 5 % of the steps and fall to 0 by a cosine, a function of the step."""
    warmup, steps = max_steps // 20, itertools.count()

    def set_rate(*_: Any) -> None:
        step = next(steps)
        done = (step - warmup) / max(1, max_steps - warmup)
        rate = peak * (step + 1) / warmup if step < warmup else peak * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))
        for group in optimizer.param_groups:
            group["lr"] = rate

    optimizer.register_step_pre_hook(set_rate)


def main() -> None:
    """Train the model and write the ranks of the test users' targets."""
    data, out, settings = export.peer_arguments()
    write_atomic_file(data, out / "events")
    config = configuration(out, settings)
    init_seed(settings["seed"], reproducibility=True)
    dataset = create_dataset(config)
    train, validation, test = data_preparation(config, dataset)
    init_seed(settings["seed"], reproducibility=True)
    model = get_model(settings["model"])(config, train._dataset)
    trainer = get_trainer(config["MODEL_TYPE"], settings["model"])(config, model)
    schedule(trainer.optimizer, settings["learning_rate"], settings["epochs"] * len(train))
    trainer.fit(train, validation, saved=True, show_progress=False)
    model.load_state_dict(torch.load(trainer.saved_model_file, weights_only=False)["state_dict"])
    model.eval()
    items = np.array([0, *map(int, dataset.field2id_token["item_id"][1:])])
    user_numbers = dataset.field2id_token["user_id"]
    users: list[int] = []
    ranks: list[int] = []
    with torch.no_grad():
        for entry in test:
            interaction = entry[0]
            found = model.full_sort_predict(interaction).numpy()
            scores = np.full((len(found), export.item_count(data)), -np.inf)
            scores[:, items[1:] - 1] = found[:, 1:]
            targets = items[interaction["item_id"].numpy()]
            users += [int(user_numbers[number]) for number in interaction["user_id"].tolist()]
            ranks += export.ranks_of(scores, targets).tolist()
    export.write_ranks(out, users, ranks, ["recbole", "torch", "numpy"])


if __name__ == "__main__":
    torch.set_num_threads(1)
    sys.exit(main())
