"""A policy over a catalog that has grown. In: a policy and the extended Semantic IDs. Out: the same weights over the new ones."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch
from torch import nn

from genrec.errors import ArtifactError
from genrec.semantic_ids import SemanticIds

Module = TypeVar("Module", bound=nn.Module)


def extended(policy: Module, own: SemanticIds, grown: SemanticIds, build: Callable[[SemanticIds], Module]) -> Module:
    """`policy`, which knows the items of `own`, over `grown`: its items and later ones. `build` makes a policy of its specification.

    The policy's tokens are the rows of `embedding`, and its last level's codes those of the last of `heads`. Where that level has
    grown, its new codes begin as copies of its last one, as input and as output: an appended number that few items have. The
    probability of an item stays what it was, bit for bit, where no level has grown; where the last has, its softmax has more codes,
    and all that had probability there lose the same share of it (for one history and prefix).
    """
    if not grown.extends(own):
        raise ArtifactError(
            f"Semantic IDs {grown.fingerprint} do not extend those of the policy, {own.fingerprint}: the items it knows "
            "must keep their codes, and only the last level may grow; make them with SemanticIds.extend"
        )
    more = grown.level_sizes[-1] - own.level_sizes[-1]
    weights = policy.state_dict()
    for name in (
        "embedding.weight",
        f"heads.{own.levels - 1}.weight",
    ):  # tokens are numbered level by level: the last row is the last code's
        weights[name] = torch.cat([weights[name], weights[name][-1:].expand(more, -1)])
    with torch.random.fork_rng(devices=[]):  # what is drawn here is overwritten
        result = build(grown)
    result.load_state_dict(weights)
    return result.to(next(policy.parameters()).device).train(policy.training)
