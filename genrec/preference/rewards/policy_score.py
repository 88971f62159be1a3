"""The log-probability of an item by the trained policy of another row, as a reward."""

from __future__ import annotations

import importlib
import re
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from genrec.errors import ArtifactError, UsageError
from genrec.policy_modules import as_module, load_weights
from genrec.preference.rewards.reward_tables import mask_padding
from genrec.semantic_ids import SemanticIds
from genrec.store import RESERVED, Artifact
from genrec.types import Policy, PolicySpecification, Rating, SamplerContext, SequenceBatch
from genrec.types.event_history import in_words, inputs_of, with_inputs
from genrec.workspace import store

ROWS = 1024  # rows that are scored at once, which bounds the memory


@dataclass(frozen=True)
class PolicyScore:
    """log p(item | history) of an item by the frozen policy of another row, whose training is in the store.

    The artifact is that of the row's SFT or of one of its alignments, and is trained on the same data artifact. Its key is part of
    this reward's settings, so another judge is another alignment. Architecture and Semantic IDs are those of the other row, which may
    be another kind of policy, such as SASRec for an alignment of Tiger. It reads as many items of a history as in its own training,
    but no more than the `history_length` of the aligned row.
    """

    artifact: str  # STAGE/KEY of the trained policy, such as sft/0123456789abcdef; `genrec run FILE:ROW --dry-run` lists a row's keys

    def __post_init__(self) -> None:
        if not isinstance(self.artifact, str) or re.fullmatch(r"(sft|align(-\d+)?)/[0-9a-f]{16}", self.artifact) is None:
            raise UsageError(
                f"PolicyScore.artifact must be STAGE/KEY of a trained policy, such as sft/0123456789abcdef, got {self.artifact!r}; "
                "genrec run FILE:ROW --dry-run lists the keys of a row"
            )

    def check(self, experiment: Any) -> None:
        """Raise ArtifactError if the artifact is not in the store, and UsageError if its policy is a plug-in's.

        Raises UsageError if its policy reads more of a history than the one in training, whose inputs alone are gathered.
        """
        read, given = inputs_of(_specification(_sft_of(self._read()))), inputs_of(experiment.policy)
        if not set(read) <= set(given):
            raise UsageError(
                f"{experiment.name}: the policy of PolicyScore.artifact {self.artifact} reads {in_words(read)} of a history, and "
                f"{type(experiment.policy).__name__} has {in_words(given)}; choose a judge that reads no more than this policy"
            )

    def check_data(self, key: str) -> None:
        """Raise UsageError unless the policy was trained on the data artifact with this key."""
        found = self._read().manifest["parents"]["data"]
        if found != key:
            raise UsageError(
                f"PolicyScore.artifact {self.artifact} was trained on the data {found}, but this experiment has the data {key}; its "
                "training may hold events that are held out here; take a row with the same source and split"
            )

    def rate(self, context: SamplerContext) -> Rating:
        """Return the rating for one training set; loads the policy."""
        trained = self._read()
        sft = _sft_of(trained)
        specification = _specification(sft)
        policy, inputs = _load(trained, specification, context.item_count), inputs_of(specification)
        length = int(sft.manifest["specification"]["history_length"])

        @torch.no_grad()
        def rate_items(batch: SequenceBatch, items: Tensor) -> Tensor:
            cast(nn.Module, policy).to(items.device)
            history = with_inputs(batch.history[:, -length:], inputs)
            parts = [policy.log_prob(history[i : i + ROWS], items[i : i + ROWS]) for i in range(0, len(items), ROWS)]
            return mask_padding(torch.cat(parts).float(), items)

        return Rating(rate=rate_items)

    def _read(self) -> Artifact:
        """Return the artifact of the trained policy."""
        stage, _, key = self.artifact.partition("/")
        if not store().has(stage, key):
            raise ArtifactError(
                f"PolicyScore.artifact {self.artifact} is not in {store().root}; train the row that makes it first, with genrec run "
                "FILE:ROW (--dry-run lists its keys)"
            )
        return store().get(stage, key)


def _sft_of(trained: Artifact) -> Artifact:
    """Return the artifact of the SFT that a trained policy began with; it holds the settings of the policy."""
    while trained.stage != "sft":
        stage, key = next(
            (name, key) for name, key in reversed(trained.manifest["parents"].items()) if name.startswith(("align", "sft"))
        )
        trained = store().get(stage, key)
    return trained


def _specification(sft: Artifact) -> PolicySpecification:
    """Return the architecture that the manifest of an SFT describes."""
    return cast(PolicySpecification, _rebuilt(sft.manifest["specification"]["policy"], sft))


def _rebuilt(description: Any, sft: Artifact) -> Any:
    """Return the value that `genrec.store.describe` has described; fields that are left out have their defaults."""
    if isinstance(description, list):
        return tuple(_rebuilt(each, sft) for each in description)
    if not isinstance(description, dict):
        return description
    module, _, name = str(description["class"]).partition(":")
    if module.partition(".")[0] != "genrec":
        raise UsageError(f"PolicyScore loads policies of genrec, but sft/{sft.key} was trained with {module}:{name}, a plug-in")
    try:
        kind = getattr(importlib.import_module(module), name)
        return kind(**{field: _rebuilt(value, sft) for field, value in description.items() if field not in RESERVED})
    except (AttributeError, ImportError, TypeError) as error:
        raise ArtifactError(
            f"sft/{sft.key} was written by another version of genrec ({error}); train the row of PolicyScore again"
        ) from None


def _load(trained: Artifact, specification: PolicySpecification, num_items: int) -> Policy:
    """Return the trained policy in evaluation mode, on the CPU."""
    parents = _sft_of(trained).manifest["parents"]
    if "tokenize" in parents:
        semantic_ids = SemanticIds.load(store().get("tokenize", parents["tokenize"]).folder / "codes.safetensors")
    else:
        semantic_ids = SemanticIds(torch.arange(num_items).unsqueeze(1), (num_items,))
    with torch.random.fork_rng(devices=[]):
        policy = specification.build(semantic_ids)
    load_weights(policy, trained.folder / "policy.safetensors")
    as_module(policy).requires_grad_(False)
    return policy
