"""Small policies for tests, and a brute-force ranking to compare with. Every policy in `POLICIES` is tested by test_policies.py."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from genrec.model import Gpt, Tiger
from genrec.semantic_ids import SemanticIds

TIGER = Tiger(d_model=32, d_ff=64, num_heads=2, d_kv=16, num_encoder_layers=2, num_decoder_layers=2, dropout=0.1, num_beams=50)
GPT = Gpt(d_model=32, d_ff=64, num_heads=2, d_kv=16, num_layers=2, dropout=0.1, num_beams=50)
POLICIES: dict[str, Any] = {  # specifications by name
    "tiger": TIGER,
    "tiger-items": Tiger(**(vars(TIGER) | {"history": "items"})),
    "tiger-causal": Tiger(**(vars(TIGER) | {"encoder": "causal"})),
    "tiger-causal-items": Tiger(**(vars(TIGER) | {"encoder": "causal", "history": "items", "recency_positions": 0})),
    "tiger-catalog": Tiger(**(vars(TIGER) | {"encoder": "causal", "history": "items", "normalization": "catalog"})),
    "gpt": GPT,
}


def catalog(items: int, seed: int = 0, sizes: tuple[int, ...] = (5, 4, 6)) -> SemanticIds:
    """Return distinct random Semantic IDs."""
    total = int(torch.tensor(sizes).prod())
    flat = torch.randperm(total, generator=torch.Generator().manual_seed(seed))[:items]
    codes = torch.stack(torch.unravel_index(flat, sizes), 1)
    return SemanticIds(codes, sizes)


def build(specification: Any, semantic_ids: SemanticIds, seed: int = 0) -> Any:
    """Return an untrained policy in evaluation mode; parameters that start at 0 are drawn at random, so that they have an effect."""
    torch.manual_seed(seed)
    policy = specification.build(semantic_ids).eval()
    for parameter in policy.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.3)
    return policy


def histories(batch: int, length: int, items: int, seed: int = 1) -> Tensor:
    """Return random histories of different lengths, left-padded with 0."""
    generator = torch.Generator().manual_seed(seed)
    history = torch.randint(1, items + 1, (batch, length), generator=generator)
    padding = torch.randint(0, length, (batch, 1), generator=generator)
    return history.masked_fill(torch.arange(length) < padding, 0)


def value_and_gradients(policy: Any, history: Tensor, items: int) -> list[Tensor]:
    """Return the mean log-probability of random targets after every place, and its gradients by all parameters."""
    targets = torch.randint(1, items + 1, history.shape, generator=torch.Generator().manual_seed(0))
    loss = policy.sequence_log_prob(history, targets).mean()
    return [loss.detach(), *torch.autograd.grad(loss, list(policy.parameters()))]


def brute_force(policy: Any, history: Tensor) -> tuple[Tensor, Tensor]:
    """Return all items and their scores by log-probability, equal scores by id."""
    scores = policy.log_prob(history, torch.arange(1, policy.semantic_ids.items + 1).expand(len(history), -1))
    order = scores.argsort(dim=1, descending=True, stable=True)
    return order + 1, scores.gather(1, order)
