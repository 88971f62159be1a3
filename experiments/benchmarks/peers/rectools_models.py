"""A peer: SASRec of RecTools with the losses gBCE and sampled softmax, trained on windows with all of their targets. See `export.py`.

Settings: loss (gBCE, sampled_softmax), negatives, t, seed, history, top, learning_rate, batch, epochs, dropout, width, layers, heads.
Its users in training are genrec's windows (windows.tsv), and an event that is no target of its window has the weight 0, so both sides
train on the same targets with the same histories. The last epoch is kept. The learning rate has genrec's warm-up and cosine decay.
"""

from __future__ import annotations

import math
import sys
from functools import partial
from typing import Any

import export
import numpy as np
import pandas as pd
import torch
from pytorch_lightning import seed_everything
from rectools import Columns
from rectools.dataset import Dataset
from rectools.models import SASRecModel
from rectools.models.nn.transformers.lightning import TransformerLightningModule

NAMES = [Columns.User, Columns.Item, Columns.Datetime, Columns.Weight]


class Scheduled(TransformerLightningModule):
    """RecTools' training with a learning rate that rises linearly and falls to 0 by a cosine, a function of the step."""

    def __init__(self, *arguments: Any, warmup_steps: int, max_steps: int, **kwargs: Any) -> None:
        super().__init__(*arguments, **kwargs)
        self.warmup_steps, self.max_steps = warmup_steps, max_steps

    def configure_optimizers(self) -> Any:
        """Return Adam and the schedule of its learning rate."""
        optimizer = torch.optim.Adam(self.torch_model.parameters(), lr=self.lr)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, partial(factor, self.warmup_steps, self.max_steps))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def factor(warmup_steps: int, max_steps: int, step: int) -> float:
    """Return the share of the peak learning rate at a step."""
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    return 0.5 * (1 + math.cos(math.pi * (step - warmup_steps) / max(1, max_steps - warmup_steps)))


def table(events: np.ndarray, weights: np.ndarray) -> pd.DataFrame:
    """Return events int64 [E, 3] as RecTools' interactions."""
    columns = {name: events[:, column] for column, name in enumerate(NAMES[:3])} | {Columns.Weight: weights}
    found = pd.DataFrame(columns)
    found[Columns.Datetime] = pd.to_datetime(found[Columns.Datetime], unit="s")
    return found


def main() -> None:
    """Train the model and write the ranks of the test users' targets."""
    data, out, settings = export.peer_arguments()
    seed_everything(settings["seed"])
    windows = export.read_part(data, "windows")  # user (the window's number), item, time, weight
    steps = settings["epochs"] * -(-len(np.unique(windows[:, 0])) // settings["batch"])
    model = SASRecModel(
        n_factors=settings["width"], n_blocks=settings["layers"], n_heads=settings["heads"], dropout_rate=settings["dropout"],
        session_max_len=settings["history"], loss=settings["loss"], n_negatives=settings["negatives"], gbce_t=settings["t"],
        lr=settings["learning_rate"], batch_size=settings["batch"], epochs=settings["epochs"], deterministic=True,
        use_key_padding_mask=True, pos_encoding_kwargs={"use_scale_factor": True}, recommend_torch_device="cpu",
        lightning_module_type=Scheduled, lightning_module_kwargs={"warmup_steps": steps // 20, "max_steps": steps},
    )  # fmt: skip
    model.fit(Dataset.construct(table(windows[:, :3], windows[:, 3].astype(float))))
    history = np.concatenate([export.read_part(data, part) for part in ("train", "validation")])
    known = Dataset.construct(table(history, np.ones(len(history))))
    test = export.read_part(data, "test")
    lists = model.recommend(users=test[:, 0], dataset=known, k=settings["top"], filter_viewed=False)
    place = lists.set_index([Columns.User, Columns.Item])[Columns.Rank]
    ranks = [int(place.get((user, item), 0)) for user, item, _ in test.tolist()]
    export.write_ranks(out, test[:, 0].tolist(), ranks, ["rectools", "torch", "pytorch-lightning", "numpy"])


if __name__ == "__main__":
    torch.set_num_threads(1)
    sys.exit(main())
