"""The mean loss of targets among sampled negatives, in chunks, with the correction of scores for the sampling (logQ).

Let S be the set of a target and its distinct negatives, and pi(i) the probability that item i is drawn as a negative. If items are
drawn independently, p(target is i | S) is proportional to p(i) / pi(i) for every i in S. So a softmax over S of s(i) - log pi(i)
has its minimum where s is log p plus a constant, for any number of negatives. If all items are drawn, it is the full softmax.
The target's score is corrected too: with its score left alone, few negatives and a large catalog make likely items far too likely.

Source: S. Jean et al., "On Using Very Large Target Vocabulary for Neural Machine Translation" (2015), arXiv 1412.2007, which corrects
the target's score too. Y. Bengio and J.-S. Senecal, "Adaptive Importance Sampling to Accelerate Training of a Neural
Probabilistic Language Model" (2008) and X. Yi et al., "Sampling-Bias-Corrected Neural Modeling for Large Corpus Item Recommendations"
(2019) weight by frequencies; pi counts an item once, and so stays at most 1 for items that are drawn many times.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Generator, Tensor

from genrec.item_rows import repeated
from genrec.row_chunks import in_chunks
from genrec.types import ItemLoss, SamplingCorrection


def mean_item_loss(
    loss: ItemLoss,
    score: Callable[[Tensor, Tensor], Tensor],
    rows: Callable[[int], int],
    states: Tensor,
    targets: Tensor,
    num_items: int,
    generator: Generator,
) -> Tensor:
    """Return the mean loss of targets int64 [C] after states float32 [C, D], a scalar.

    `score` maps states [c, D] and candidates int64 [c, M] to scores float32 [c, M], -inf for the candidate 0. `rows` gives the number
    of targets that are scored at once with M candidates each.
    """
    candidates, log_inclusion = sampled_candidates(loss, targets, num_items, generator)

    def losses(states: Tensor, candidates: Tensor, *log_inclusion: Tensor) -> Tensor:
        scores = score(states, candidates)
        for correction in log_inclusion:
            scores = scores - correction
        return loss.item_loss(scores[:, 0], scores[:, 1:], num_items)

    corrections = () if log_inclusion is None else (log_inclusion,)
    return in_chunks(losses, rows(candidates.shape[1]), states, candidates, *corrections).mean()


def sampled_candidates(loss: ItemLoss, targets: Tensor, num_items: int, generator: Generator) -> tuple[Tensor, Tensor | None]:
    """Return candidates int64 [C, 1 + K], targets int64 [C] first, and their log pi, float32 [C, 1 + K]; None without a correction.

    With a correction repeated negatives are 0, which is none.
    """
    candidates = torch.cat([targets.unsqueeze(1), loss.draw_items(targets, num_items, generator)], 1)
    log_inclusion = loss.log_inclusion(targets, candidates, num_items) if isinstance(loss, SamplingCorrection) else None
    return candidates if log_inclusion is None else candidates.masked_fill(repeated(candidates), 0), log_inclusion
