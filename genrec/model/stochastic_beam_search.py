"""Samples of Semantic IDs without replacement from a policy that generates them code by code: Gumbel top-k over the trie's leaves.

Let the perturbed log-probability of a leaf be its log p plus independent Gumbel noise. The k largest are a sample without replacement:
the first is a sample of p, the second of p without the first, and so on (`genrec.preference.candidates.gumbel_top_k`). The largest of
them below a node is again the node's log p plus Gumbel noise. So it can be drawn from the root down, without visiting all leaves:
given the value T of a node, its children's values are Gumbel samples G_i, conditioned on their maximum to be T. With Z = max G_i,

    v_i = T - G_i + log(1 - exp(G_i - Z))        value of child i = T - max(0, v_i) - log(1 + exp(-|v_i|))

A beam search that keeps the k nodes of the highest values at each level then finds the k largest leaves; it never prunes one of them.

p is the policy constrained to real Semantic IDs, with each level's softmax over the children of the prefix only, so that a node's
probability is the sum of its children's. An excluded leaf is passed over, and the search has one more beam for each of them: of the
other leaves it finds the k largest, as if p were conditioned on them.

Source: W. Kool, H. van Hoof, M. Welling, "Stochastic Beams and Where to Find Them: The Gumbel-Top-k Trick for Sampling Sequences
Without Replacement" (2019), arXiv 1903.06059, section 4 and appendix B.3.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Generator, Tensor
from torch.nn.functional import pad, softplus

from genrec.model.beam_search import (
    Candidates,
    Decoding,
    Level,
    SelectedBeams,
    children,
    concatenate,
    mask_excluded,
    row_chunks,
    select,
)
from genrec.model.item_lists import ExcludedPlaces
from genrec.randomness import gumbel

LOG_HALF = -0.6931472  # log(1 - exp(x)) is computed by expm1 above, by log1p below


class SampledLeaves(NamedTuple):
    """The leaves drawn for each row, in the order of the draws. Values are meaningless where there is no leaf, but for `perturbed`."""

    leaf: Tensor  # int64 [B, k]
    log_prob: Tensor  # float32 [B, k]  log-probability of the Semantic ID, over all codes; NaN where the policy's is NaN
    constrained: Tensor  # float32 [B, k]  the same over the codes of real items only
    perturbed: Tensor  # float32 [B, k]  -inf where there is no leaf
    threshold: Tensor  # float32 [B]  the (k + 1)-th largest perturbed log-probability; -inf where there is none


class _Nodes(NamedTuple):
    """The beams of one level. Dead beams, which are no nodes, have -inf as `perturbed`; their other values are arbitrary."""

    node: Tensor  # int64 [B, W]  ascending; on the last level the highest value comes first
    log_prob: Tensor  # float32 [B, W]  as in `SampledLeaves`
    constrained: Tensor  # float32 [B, W]
    perturbed: Tensor  # float32 [B, W]


def stochastic_beam_search(
    decoding: Decoding, levels: Sequence[Level], k: int, generator: Generator, excluded: ExcludedPlaces | None = None
) -> SampledLeaves:
    """Draw `k` distinct leaves of each row without replacement, all leaves if there are no more than `k`.

    `excluded` rules out items per row: a leaf with excluded items only is never drawn. `generator` is on the device of the decoding.
    """
    log_prob, state = decoding.start()
    log_prob = log_prob.unsqueeze(1)
    zero = torch.zeros(len(log_prob), 1, device=log_prob.device)
    nodes = _Nodes(zero.long(), zero, zero, gumbel(zero, generator))
    has_nan, width = zero.bool().squeeze(1), k + 1  # one more than drawn: its value is the threshold
    for depth, level in enumerate(levels):
        has_nan = has_nan | log_prob[..., 0].isnan().any(1)
        last = depth == len(levels) - 1
        kept = width if excluded is None or last else width + excluded.nodes[-1].shape[1]
        parts, totals = [], []
        for rows in row_chunks(log_prob):
            part = _Nodes(*(each[rows] for each in nodes))
            candidates, total = _perturbed_children(level, part, log_prob[rows], generator)
            place = torch.arange(candidates.score.shape[1], device=zero.device).unsqueeze(0)
            if excluded is not None:
                mask_excluded(level, part.node, candidates, place, excluded.rows(rows), depth, last=False)
            parts.append(select(level, part.node, candidates, place, kept, last))
            totals.append(total)
        selected = concatenate(parts, len(level.code))
        nodes = _extended(nodes, selected, log_prob, torch.cat(totals))
        if not last:
            log_prob, state = decoding.advance(depth, state, selected.beam, selected.code)
    missing = max(0, width - nodes.node.shape[1])
    leaf, of_codes, of_children = (pad(each, (0, missing))[:, :k] for each in nodes[:3])
    perturbed = pad(nodes.perturbed, (0, missing), value=-torch.inf)
    of_codes, of_children = (each.masked_fill(has_nan.unsqueeze(1), torch.nan) for each in (of_codes, of_children))
    return SampledLeaves(leaf, of_codes, of_children, perturbed[:, :k], perturbed[:, k])


def _perturbed_children(level: Level, nodes: _Nodes, log_prob: Tensor, generator: Generator) -> tuple[Candidates, Tensor]:
    """Return the children with their perturbed log-probabilities as scores, and the normalizers of the nodes, float32 [B, W].

    `log_prob` is float32 [B, W, C], over all codes. The normalizer is the log of the probability of all children of a node.
    """
    dead = nodes.perturbed == -torch.inf
    candidates = children(level, nodes.node, torch.zeros_like(nodes.perturbed).masked_fill(dead, -torch.inf), log_prob)
    total = torch.zeros_like(nodes.perturbed) if level.full else _log_sum(level, candidates, candidates.score, dead.shape[1])
    location = candidates.score + _of_children(level, candidates, nodes.constrained - total)
    drawn = gumbel(location, generator)
    highest = _of_children(level, candidates, _maximum(level, candidates, drawn, dead.shape[1]))
    value = _conditioned(drawn, highest, _of_children(level, candidates, nodes.perturbed))
    return candidates._replace(score=value.masked_fill(candidates.score == -torch.inf, -torch.inf)), total


def _conditioned(value: Tensor, highest: Tensor, target: Tensor) -> Tensor:
    """Return Gumbel samples, conditioned on their maximum to be `target`, from unconditioned ones with the maximum `highest`.

    All are float32 [B, X]. The largest number becomes `target` exactly, and the order of the numbers stays.
    """
    difference = value - highest
    log_rest = torch.where(difference > LOG_HALF, (-difference.expm1()).log(), (-difference.exp()).log1p())
    return target - softplus(target - value + log_rest)  # max(0, v) + log(1 + exp(-|v|)) is softplus(v)


def _extended(nodes: _Nodes, selected: SelectedBeams, log_prob: Tensor, total: Tensor) -> _Nodes:
    """Return the selected children of nodes; `log_prob` is float32 [B, W, C], `total` float32 [B, W] the normalizers."""
    of_code = log_prob.flatten(1).gather(1, selected.beam * log_prob.shape[2] + selected.code)
    of_child = of_code - total.gather(1, selected.beam)
    return _Nodes(
        selected.node,
        nodes.log_prob.gather(1, selected.beam) + of_code,
        (nodes.constrained.gather(1, selected.beam) + of_child).masked_fill(selected.score == -torch.inf, 0.0),
        selected.score,
    )


def _of_children(level: Level, candidates: Candidates, values: Tensor) -> Tensor:
    """Return the value of each candidate's node: float32 [B, W] -> [B, X]."""
    return values.repeat_interleave(level.num_codes, 1) if candidates.beam is None else values.gather(1, candidates.beam)


def _maximum(level: Level, candidates: Candidates, values: Tensor, width: int) -> Tensor:
    """Return the maximum of each node's children: float32 [B, X] -> [B, W]; -inf for a node without children."""
    if candidates.beam is None:
        return values.view(len(values), width, level.num_codes).amax(2)
    return torch.full_like(values[:, :1], -torch.inf).repeat(1, width).scatter_reduce(1, candidates.beam, values, "amax")


def _log_sum(level: Level, candidates: Candidates, values: Tensor, width: int) -> Tensor:
    """Return the log of the sum of exponentials of each node's children: float32 [B, X] -> [B, W]; 0 for a node without children."""
    highest = _maximum(level, candidates, values, width)
    highest = highest.masked_fill(highest == -torch.inf, 0.0)
    terms = (values - _of_children(level, candidates, highest)).exp()
    if candidates.beam is None:
        total = terms.view(len(values), width, level.num_codes).sum(2)
    else:
        total = torch.zeros_like(highest, dtype=torch.float64).scatter_add(1, candidates.beam, terms.double()).float()
    return torch.where(total > 0, highest + total.log(), 0.0)
