"""The peer's side of `linear.py`: popularity, EASE and BPR of cornac, run by `export.run_peer` in cornac's environment.

    python cornac_models.py DATA OUT '{"model": "EASE", "filter_seen": false, "seed": 0, "l2": 100.0}'

cornac gets the training interactions with the value 1. Settings other than the model, `filter_seen` and the seed are the fields of
genrec's baseline of this name.
"""

from __future__ import annotations

from typing import Any

import export
import numpy as np
from cornac.data import Dataset
from cornac.models import BPR, EASE, MostPop
from scipy import sparse


def model_of(settings: dict[str, Any]) -> Any:
    """Return the untrained model. EASE without `posB`, which drops negative weights, is the paper's."""
    if settings["model"] == "EASE":
        return EASE(lamb=settings["l2"], posB=False, verbose=False)
    if settings["model"] == "BPR":
        return BPR(
            k=settings["dim"],
            max_iter=settings["epochs"],
            learning_rate=settings["learning_rate"],
            lambda_reg=settings["l2"],
            seed=settings["seed"],
        )
    return MostPop()


def main() -> None:
    """Fit the model and write the rank of every test user's target."""
    data, out, settings = export.peer_arguments()
    train, validation, test = (export.read_part(data, part) for part in export.PARTS)
    items, users = export.item_count(data), int(max(train[:, 0].max(), test[:, 0].max()))
    pairs = np.unique(train[:, :2], axis=0) - 1
    numbers = {number: number for number in range(max(users, items))}
    dataset = Dataset(users, items, numbers, numbers, (pairs[:, 0], pairs[:, 1], np.ones(len(pairs))))
    model = model_of(settings).fit(dataset)
    known = np.concatenate([train, validation])[:, :2] - 1
    before = sparse.csr_matrix((np.ones(len(known)), (known[:, 0], known[:, 1])), shape=(users, items))
    before.data[:] = 1.0
    if settings["model"] == "EASE":
        model.U = before  # at test time the validation item belongs to the user's items
    scores = np.stack([np.asarray(model.score(user - 1), dtype=np.float64).ravel() for user in test[:, 0]])
    if settings["filter_seen"]:
        scores[before[test[:, 0] - 1].toarray() > 0] = -np.inf
    is_target_left = np.isfinite(scores[np.arange(len(test)), test[:, 1] - 1])  # a target that the user had already taken is a miss
    ranks = np.where(is_target_left, export.ranks_of(scores, test[:, 1]), 0)
    export.write_ranks(out, test[:, 0], ranks, ["cornac", "numpy", "scipy"])


if __name__ == "__main__":
    main()
