"""Extension of a trained policy to a larger catalog: the same weights over the extended Semantic IDs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import torch
from torch import nn

from genrec.errors import ArtifactError
from genrec.semantic_ids import SemanticIds

Module = TypeVar("Module", bound=nn.Module)


def extend_policy(
    policy: Module,
    old: SemanticIds,
    extended: SemanticIds,
    build: Callable[[SemanticIds], Module],
    tables: Sequence[str] | None = None,
) -> Module:
    """Return a policy over `extended`, which has all items of `old` and later ones, with the weights of `policy`.

    `old` are the Semantic IDs of `policy`; `build` builds an untrained policy of its specification. `tables` names the weights
    whose last rows belong to the codes of the last level. By default the policy has the tokens as rows of `embedding`, and the codes
    of level l as rows of `heads[l]`.

    Where the last level has grown, the input and output rows of each new code start as copies of the level's last row, since an
    appended number has few items. If no level has grown, the probability of every item stays bit-equal. Otherwise the last level's
    softmax has more codes, and all codes of one history and prefix lose the same share of their probability.

    Raises ArtifactError if `extended` does not extend `old`.
    """
    if not extended.extends(old):
        raise ArtifactError(
            f"Semantic IDs {extended.fingerprint} do not extend those of the policy, {old.fingerprint}: known items must keep their "
            "codes, and only the last level may grow; make them with SemanticIds.extend"
        )
    new_codes = extended.level_sizes[-1] - old.level_sizes[-1]
    weights = policy.state_dict()
    # Tokens are numbered level by level, so that the last row of the embedding belongs to the last code of the last level.
    for name in ("embedding.weight", f"heads.{old.levels - 1}.weight") if tables is None else tables:
        weights[name] = torch.cat([weights[name], weights[name][-1:].expand(new_codes, -1)])
    with torch.random.fork_rng(devices=[]):  # the initial weights are overwritten
        result = build(extended)
    result.load_state_dict(weights)
    return result.to(next(policy.parameters()).device).train(policy.training)
