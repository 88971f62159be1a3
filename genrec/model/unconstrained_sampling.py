"""What a policy would write if nothing held it to real items: Semantic IDs sampled code by code, without the trie.

In: a policy that writes codes, and histories. Out: the share of samples that are items, the entropy of what it writes, and how far
that is from a reference. Entropy and Kullback-Leibler divergence are over all code sequences, real or not, as sums over levels: after
a sampled prefix the next level's term is exact, so that only prefixes are sampled (Rao-Blackwellised, as Amini et al. 2025, arXiv
2504.10637, do for the divergence). The first level's terms have no sampling error at all.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple, Protocol, cast, runtime_checkable

import torch
from torch import Generator, Tensor, nn

from genrec.errors import UsageError
from genrec.model.beam_search import Decoding
from genrec.semantic_ids import SemanticIds
from genrec.types import Policy

ROWS = 2**13  # sampled prefixes that are decoded at once
CELLS = 2**23  # probabilities of codes that are held at once: 64 MB


@runtime_checkable
class Writer(Protocol):
    """A policy that writes Semantic IDs, a code at a time."""

    semantic_ids: SemanticIds

    def decoding(self, history: Tensor) -> Decoding:
        """Read the histories, int64 [B, T], and stand ready to write."""
        ...


class Written(NamedTuple):
    """Samples of some histories."""

    codes: Tensor  # int64 [B, S, L]
    entropy: Tensor  # float64 [B]  nats a Semantic ID, the mean over samples
    kl: Tensor  # float64 [B]  the same; 0 without a reference


@torch.no_grad()
def probe(policy: Policy, reference: Policy | None, history: Tensor, samples: int, generator: Generator) -> dict[str, float]:
    """Histories int64 [B, T], `samples` Semantic IDs of each -> means over both; `generator` is on the CPU, whatever the device.

    `valid_share`: the share of samples that are a real item's Semantic ID. `entropy`: of the policy's code sequences, nats.
    `kl`: KL(policy || reference), nats; left out without a reference. Policies are asked without dropout. Nothing is returned for a
    policy that is no `Writer` (SASRec, whose codes are all items).
    """
    if not isinstance(policy, Writer):
        return {}
    if samples < 1 or len(history) == 0:
        raise UsageError(f"a probe needs at least 1 history and 1 sample of each, got {len(history)} and {samples}")
    other = None if reference is None else _same_codes(policy, reference)
    # Drawn at once, so that the size of a piece changes nothing.
    uniform = torch.rand(len(history), samples, policy.semantic_ids.levels, generator=generator, dtype=torch.float64)
    rows = max(1, min(ROWS, CELLS // max(policy.semantic_ids.level_sizes)) // samples)
    pieces = zip(torch.split(history, rows), torch.split(uniform, rows), strict=True)
    with _without_dropout(policy), _without_dropout(other):
        written = [_write(policy, other, *piece) for piece in pieces]
    codes, entropy, kl = (torch.cat(parts) for parts in zip(*written, strict=True))
    found = {"valid_share": float((policy.semantic_ids.lookup(codes.cpu()) > 0).double().mean()), "entropy": float(entropy.mean())}
    return found if other is None else found | {"kl": float(kl.mean())}


def _same_codes(policy: Writer, reference: Policy) -> Writer:
    """The reference, if it writes the same codes as the policy."""
    sizes = policy.semantic_ids.level_sizes
    if not isinstance(reference, Writer) or reference.semantic_ids.level_sizes != sizes:
        theirs = reference.semantic_ids.level_sizes if isinstance(reference, Writer) else "none"
        raise UsageError(f"the reference must write the policy's codes, levels of {sizes}, got {theirs}; give the policy's own copy")
    return reference


def _write(policy: Writer, reference: Writer | None, history: Tensor, uniform: Tensor) -> Written:
    """Histories int64 [B, T] and uniform numbers float64 [B, S, L] on the CPU -> the samples that they choose."""
    uniform = uniform.to(history.device)
    users, samples, levels = uniform.shape
    writers = [each.decoding(history) for each in (policy, reference) if each is not None]
    begun = [writer.start() for writer in writers]
    log_probs, states = [log_prob.unsqueeze(1) for log_prob, _ in begun], [state for _, state in begun]
    beam = torch.zeros(users, samples, dtype=torch.int64, device=history.device)  # all samples go on from the one empty beam
    entropy = torch.zeros(users, dtype=torch.float64, device=history.device)
    codes, kl = [], torch.zeros_like(entropy)
    for level in range(levels):
        ours, theirs = log_probs[0].double(), log_probs[-1].double()
        share = ours.exp()
        entropy += torch.special.entr(share).sum(-1).mean(1)
        kl += torch.where(share > 0, share * (ours - theirs), 0.0).sum(-1).mean(1)
        codes.append(_chosen(share, uniform[..., level]))
        if level < levels - 1:
            went = [writer.advance(level, state, beam, codes[-1]) for writer, state in zip(writers, states, strict=True)]
            log_probs, states = [log_prob for log_prob, _ in went], [state for _, state in went]
            beam = torch.arange(samples, device=history.device).expand(users, -1)
    return Written(torch.stack(codes, -1), entropy, kl)


def _chosen(share: Tensor, uniform: Tensor) -> Tensor:
    """Probabilities float64 [B, S or 1, C] and uniform numbers float64 [B, S] -> codes int64 [B, S], by the inverse distribution."""
    below = share.cumsum(-1)
    wanted = uniform.reshape(*share.shape[:2], -1) * below[..., -1:]
    return torch.searchsorted(below, wanted, right=True).flatten(1).clamp(max=share.shape[-1] - 1)


@contextmanager
def _without_dropout(policy: Writer | None) -> Iterator[None]:
    """Evaluation mode for a while."""
    module = nn.Module() if policy is None else cast(nn.Module, policy)
    training = module.training
    module.eval()
    try:
        yield
    finally:
        module.train(training)
