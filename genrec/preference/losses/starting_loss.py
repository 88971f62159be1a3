"""Stage 5, the first batch of alignment: where policy and reference are one, every S-DPO loss is ln(1 + K)."""

from __future__ import annotations

import torch
from torch import Tensor

from genrec.errors import NumericsError
from genrec.preference.losses.log_ratios import log_ratios
from genrec.preference.losses.softmax import softmax_loss
from genrec.types import LogProbs


def starting_loss(valid: Tensor) -> Tensor:
    """What S-DPO must be where policy and reference are one: bool [B, K], whether there is a negative -> ln(1 + their number), [B]."""
    return torch.log1p(valid.sum(1).to(torch.get_default_dtype()))


def check_start(policy: LogProbs, reference: LogProbs, tolerance: float = 1e-4) -> None:
    """Refuse a first batch whose S-DPO loss (beta 1) is not ln(1 + K) in every row: policy and reference then are not the same."""
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
        "policy that alignment starts from; dropout is left on; the two score different items or codes (an off-by-one)"
    )
