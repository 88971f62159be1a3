"""Statistics of unconstrained sampling: Semantic IDs sampled from a policy code by code, without the trie.

They give the share of samples that are real items, the entropy of the policy, and its KL divergence from a reference. Entropy and
divergence are over all code sequences, real or not, as sums over levels: given a sampled prefix, the term of the next level is
computed exactly, so that only prefixes are sampled (Rao-Blackwellization, as in Amini et al. 2025, arXiv 2504.10637, for the
divergence). The terms of the first level have no sampling error.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Generator, Tensor

from genrec.errors import UsageError
from genrec.item_rows import sample_columns
from genrec.policy_modules import evaluation_mode
from genrec.types import DecodingPolicy, Policy

MAX_PREFIXES = 2**13  # sampled prefixes that are decoded at once
MAX_CELLS = 2**23  # probabilities of codes that are held at once: 64 MB


class Samples(NamedTuple):
    """Semantic IDs sampled for B histories, S each, and the statistics of each history."""

    codes: Tensor  # int64 [B, S, L]
    entropy: Tensor  # float64 [B]  nats per Semantic ID, mean over samples
    kl: Tensor  # float64 [B]  nats per Semantic ID, mean over samples; 0 without a reference


@torch.no_grad()
def unconstrained_statistics(
    policy: Policy, reference: Policy | None, history: Tensor, num_samples: int, generator: Generator
) -> dict[str, float]:
    """Sample `num_samples` Semantic IDs for each history int64 [B, T] and return statistics, averaged over histories and samples.

    - `valid_share`: share of samples that are the Semantic ID of a real item
    - `entropy`: entropy of the policy over code sequences, nats
    - `kl`: KL(policy || reference), nats; left out without a reference

    `generator` is on the CPU, whatever the policy's device. Dropout is off. The result is empty for a policy that is not a
    `DecodingPolicy`, such as SASRec, of which every code is an item.
    """
    if not isinstance(policy, DecodingPolicy):
        return {}
    if num_samples < 1 or len(history) == 0:
        raise UsageError(f"sampling needs at least 1 history and 1 sample per history, got {len(history)} and {num_samples}")
    checked = None if reference is None else _check_reference(policy, reference)
    # Drawn all at once, so that the result does not depend on the chunk size.
    uniform = torch.rand(len(history), num_samples, policy.semantic_ids.levels, generator=generator, dtype=torch.float64)
    rows = max(1, min(MAX_PREFIXES, MAX_CELLS // max(policy.semantic_ids.level_sizes)) // num_samples)
    chunks = zip(torch.split(history, rows), torch.split(uniform, rows), strict=True)
    with evaluation_mode(policy), evaluation_mode(checked):
        samples = [_sample(policy, checked, *chunk) for chunk in chunks]
    codes, entropy, kl = (torch.cat(parts) for parts in zip(*samples, strict=True))
    statistics = {
        "valid_share": float((policy.semantic_ids.lookup(codes.cpu()) > 0).double().mean()),
        "entropy": float(entropy.mean()),
    }
    return statistics if checked is None else statistics | {"kl": float(kl.mean())}


@torch.no_grad()
def greedy_items(policy: DecodingPolicy, history: Tensor) -> Tensor:
    """Return the item of the Semantic ID that greedy decoding without the trie ends in, int64 [B]; 0 if it belongs to no item.

    Each level takes the most probable of all codes, equal ones by the lower code. `history` is int64 [B, T]. Dropout is off.
    """
    with evaluation_mode(policy):
        parts = [_greedy_codes(policy, part) for part in torch.split(history, MAX_PREFIXES)]
    return policy.semantic_ids.lookup(torch.cat(parts).cpu())


def _greedy_codes(policy: DecodingPolicy, history: Tensor) -> Tensor:
    """Return the codes of greedy decoding, int64 [B, L]."""
    decoding = policy.decoding(history)
    log_prob, state = decoding.start()
    beam = torch.zeros(len(history), 1, dtype=torch.int64, device=history.device)
    codes = [log_prob.argmax(-1, keepdim=True)]
    for level in range(policy.semantic_ids.levels - 1):
        advanced, state = decoding.advance(level, state, beam, codes[-1])
        codes.append(advanced.squeeze(1).argmax(-1, keepdim=True))
    return torch.cat(codes, 1)


def _check_reference(policy: DecodingPolicy, reference: Policy) -> DecodingPolicy:
    """Return the reference; raise UsageError unless it generates the same codes as the policy."""
    sizes = policy.semantic_ids.level_sizes
    if not isinstance(reference, DecodingPolicy) or reference.semantic_ids.level_sizes != sizes:
        got = reference.semantic_ids.level_sizes if isinstance(reference, DecodingPolicy) else "none"
        raise UsageError(f"the reference must generate the policy's codes, levels of {sizes}, got {got}; give a copy of the policy")
    return reference


def _sample(policy: DecodingPolicy, reference: DecodingPolicy | None, history: Tensor, uniform: Tensor) -> Samples:
    """Return the samples that uniform numbers float64 [B, S, L], on the CPU, select for histories int64 [B, T]."""
    uniform = uniform.to(history.device)
    users, num_samples, levels = uniform.shape
    decodings = [each.decoding(history) for each in (policy, reference) if each is not None]
    started = [decoding.start() for decoding in decodings]
    log_probs, states = [log_prob.unsqueeze(1) for log_prob, _ in started], [state for _, state in started]
    beam = torch.zeros(users, num_samples, dtype=torch.int64, device=history.device)  # all samples continue the one empty beam
    entropy = torch.zeros(users, dtype=torch.float64, device=history.device)
    codes, kl = [], torch.zeros_like(entropy)
    for level in range(levels):
        log_p, log_q = log_probs[0].double(), log_probs[-1].double()  # the policy's and the reference's
        p = log_p.exp()
        entropy += torch.special.entr(p).sum(-1).mean(1)
        kl += torch.where(p > 0, p * (log_p - log_q), 0.0).sum(-1).mean(1)
        codes.append(sample_columns(p, uniform[..., level]))
        if level < levels - 1:
            advanced = [decoding.advance(level, state, beam, codes[-1]) for decoding, state in zip(decodings, states, strict=True)]
            log_probs, states = [log_prob for log_prob, _ in advanced], [state for _, state in advanced]
            beam = torch.arange(num_samples, device=history.device).expand(users, -1)
    return Samples(torch.stack(codes, -1), entropy, kl)
