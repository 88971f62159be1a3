"""A peer: RecTools' gBCE and sampled softmax of given scores, to compare values and gradients without a training. See `export.py`.

Settings: loss, negatives, t, items. DATA/scores.npy holds scores float64 [C, 1 + K], the target's first. OUT/loss.npy gets the mean
loss and its gradient in the scores, float64 [1 + C (1 + K)].
"""

from __future__ import annotations

import sys
from types import SimpleNamespace

import export
import numpy as np
import torch
from rectools.models.nn.transformers.lightning import TransformerLightningModule as Peer


def main() -> None:
    """Write the mean loss and its gradient."""
    data, out, settings = export.peer_arguments()
    scores = torch.from_numpy(np.load(data / "scores.npy")).requires_grad_()
    ones = torch.ones(1, len(scores), dtype=torch.int64)
    model = SimpleNamespace(
        data_preparator=SimpleNamespace(n_negatives=settings["negatives"]), gbce_t=settings["t"], item_extra_tokens=("PAD",),
        torch_model=SimpleNamespace(item_model=SimpleNamespace(n_items=settings["items"] + 1)),
        _calc_bce_loss=Peer._calc_bce_loss, _calc_softmax_loss=Peer._calc_softmax_loss,
    )  # fmt: skip
    model._get_reduced_overconfidence_logits = lambda *arguments: Peer._get_reduced_overconfidence_logits(model, *arguments)
    function = Peer._calc_gbce_loss if settings["loss"] == "gBCE" else Peer._calc_sampled_softmax_loss
    loss = function(model, scores.unsqueeze(0).clone(), ones, ones.double())
    loss.backward()
    assert scores.grad is not None
    np.save(out / "loss.npy", np.concatenate([[loss.item()], scores.grad.numpy().ravel()]))
    export.write_ranks(out, [0], [0], ["rectools", "torch"])  # no ranks: the exchange expects a table


if __name__ == "__main__":
    sys.exit(main())
