"""Check of the first alignment batch: while policy and reference are equal, every S-DPO loss is ln(1 + K)."""

from __future__ import annotations

import torch
from torch import Tensor

from genrec.errors import NumericsError
from genrec.preference.losses.log_ratios import log_ratios
from genrec.preference.losses.softmax import softmax_loss
from genrec.types import LogProbs


def starting_loss(valid: Tensor) -> Tensor:
    """Return the S-DPO loss of equal policy and reference, ln(1 + number of negatives): [B]. `valid` is bool [B, K]."""
    return torch.log1p(valid.sum(1).to(torch.get_default_dtype()))


def check_start(policy: LogProbs, reference: LogProbs, tolerance: float = 1e-4) -> None:
    """Raise NumericsError if the S-DPO loss (beta = 1) of a row differs from ln(1 + K) by more than `tolerance`.

    A difference in the first batch means that policy and reference are not equal.
    """
    with torch.no_grad():
        scores = log_ratios(policy, reference)
        loss = softmax_loss(scores, beta=1.0)
        expected = starting_loss(scores.valid).to(loss)
    difference = (loss - expected).abs().nan_to_num(nan=torch.inf)
    if difference.numel() == 0 or float(difference.max()) <= tolerance:
        return
    row = int(difference.argmax())
    raise NumericsError(
        f"step 0 of alignment: the S-DPO loss of row {row} is {float(loss[row]):.6f}, expected ln(1 + K) = {float(expected[row]):.6f} "
        f"within {tolerance:g}, because policy and reference start as the same model. Likely causes: the reference is not the SFT "
        "policy that alignment starts from; dropout is still on; the two score different items or codes (an off-by-one)"
    )
