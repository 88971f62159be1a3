"""Entropy of the policy, and its KL divergence from the SFT policy, on validation users at every validation of an alignment.

The SFT policy stays the same for a whole chain of alignments, unlike the reference, which may be refreshed or be the policy of the
stage before. Both values are in nats per Semantic ID, means over the same users, which are never trained on.

- A `CatalogPolicy`: exact, over the items of the catalog.
- A `DecodingPolicy`: over all code sequences, from one sampled sequence per user, as the sum over the levels of the exact values given
  the sampled prefix (Amini et al. 2025, arXiv 2504.10637). The estimate has no bias, and less variance than k3 of the same samples.
- Others: lower bounds, from the `LIST_LENGTH` best items of the policy, with the rest of the catalog as one event (data-processing
  inequality), because such a policy has no way to sample.

The random numbers are the same at every validation, so the curve moves with the policy alone.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from genrec.item_rows import last_places
from genrec.model.unconstrained_sampling import unconstrained_statistics
from genrec.objectives.frozen_policy import FrozenCopy
from genrec.policy_modules import device_of, evaluation_mode
from genrec.randomness import generator
from genrec.types import CatalogPolicy, DecodingPolicy, Policy, TrainingExamples

MAX_USERS = 256  # validation users, a sample that is the same for all seeds and rows
MAX_CELLS = 2**24  # log-probabilities of items that are held at once, 128 MB in float64
LIST_LENGTH = 50  # items of the lists behind the lower bounds

ENTROPY, KL = "user_entropy", "kl_to_sft"


class PolicyDivergence:
    """Measures a policy against the frozen SFT policy on the histories of validation users. Without users it measures nothing."""

    def __init__(self, policy: Policy, sft: FrozenCopy, users: TrainingExamples | None) -> None:
        self.policy, self.sft, self.history = policy, sft, None
        if users is not None and len(users):
            chosen = torch.randperm(len(users), generator=generator(0, "users of entropy and divergence"))[:MAX_USERS]
            self.history = users.batch(chosen.sort().values).history  # int64 [U, T] on the CPU

    @torch.no_grad()
    def measure(self) -> Mapping[str, float]:
        """Return `user_entropy` and `kl_to_sft` by name."""
        if self.history is None:
            return {}
        self.sft.follow_device()
        history = self.history.to(device_of(self.policy))
        with evaluation_mode(self.policy):
            if isinstance(self.policy, CatalogPolicy):
                entropy, kl = _exact(self.policy, self.sft.policy, history)
            elif isinstance(self.policy, DecodingPolicy):
                drawn = generator(0, "entropy and divergence")
                found = unconstrained_statistics(self.policy, self.sft.policy, history, 1, drawn)
                return {ENTROPY: found["entropy"], KL: found["kl"]}
            else:
                entropy, kl = _bounds(self.policy, self.sft.policy, history)
        return {ENTROPY: float(entropy.mean()), KL: float(kl.mean())}


def _exact(policy: CatalogPolicy, sft: Policy, history: Tensor) -> tuple[Tensor, Tensor]:
    """Return entropy and divergence over the catalog of each history int64 [U, T], float64 [U] each."""
    assert isinstance(sft, CatalogPolicy)
    items = policy.catalog_log_prob(history[:1], last_places(history[:1])).shape[1]
    found = []
    for part in torch.split(history, max(1, MAX_CELLS // items)):
        both = (each.catalog_log_prob(part, last_places(part)).double() for each in (policy, sft))
        found.append(entropy_and_kl(*both))
    entropy, kl = zip(*found, strict=True)
    return torch.cat(entropy), torch.cat(kl)


def _bounds(policy: Policy, sft: Policy, history: Tensor) -> tuple[Tensor, Tensor]:
    """Return lower bounds of entropy and divergence of each history int64 [U, T], float64 [U] each."""
    items = policy.recommend(history, LIST_LENGTH).items
    both = (with_rest(each.log_prob(history, items).double()) for each in (policy, sft))
    return entropy_and_kl(*both)


def entropy_and_kl(policy: Tensor, sft: Tensor) -> tuple[Tensor, Tensor]:
    """Return the entropy and KL(policy || SFT) of log-probabilities float64 [U, N] that add up to 1 in each row: float64 [U] each."""
    p = policy.exp()
    return torch.special.entr(p).sum(1), torch.where(p > 0, p * (policy - sft), 0.0).sum(1)


def with_rest(log_prob: Tensor) -> Tensor:
    """Append the log-probability of all other items to that of some items float64 [U, n], -inf where there is none: [U, n + 1]."""
    rest = (1 - log_prob.exp().sum(1)).clamp(min=torch.finfo(log_prob.dtype).eps)
    return torch.cat([log_prob, rest.log().unsqueeze(1)], 1)
