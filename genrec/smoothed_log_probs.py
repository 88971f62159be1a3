"""Log-probabilities with label smoothing: a target gets 1 - e of the weight, and all possible codes share the rest e.

With C codes that the softmax is over, the target among them, the smoothed log-probability of a target is

    (1 - e) log p(target) + e / C * (sum over the C codes of log p(code))

Source: Szegedy et al. 2016, arXiv 1512.00567, section 7. It is the form of `torch.nn.CrossEntropyLoss(label_smoothing=e)`.
"""

from __future__ import annotations

from torch import Tensor


def gather_smoothed(log_probs: Tensor, index: Tensor, label_smoothing: float, missing: Tensor | None = None) -> Tensor:
    """Return smoothed log-probabilities of the codes of `index` int64 [..., M], float [..., M], of log-probabilities float [..., C].

    `missing`, bool [..., C], is true for codes that the softmax is not over, which are -inf. None: it is over all codes.
    """
    found = log_probs.gather(-1, index)
    if label_smoothing == 0:
        return found
    if missing is None:
        return mixed(found, log_probs.mean(-1, keepdim=True), label_smoothing)
    total = log_probs.masked_fill(missing, 0.0).sum(-1, keepdim=True)
    return mixed(found, total / (~missing).sum(-1, keepdim=True), label_smoothing)


def mixed(of_target: Tensor, mean: Tensor, label_smoothing: float) -> Tensor:
    """Return (1 - e) of the targets' values and e of the mean values of their possible codes; shapes are broadcast."""
    return (1 - label_smoothing) * of_target + label_smoothing * mean
