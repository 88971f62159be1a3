"""Rows loaded from an export, without the data folder of their training."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import torch
from safetensors.torch import load_file

from genrec import __version__, loading
from genrec.errors import ArtifactError, UsageError
from genrec.policy_modules import device_of
from genrec.semantic_ids import SemanticIds
from genrec.serving.export_files import ITEMS, MODEL, SEMANTIC_IDS, SETTINGS, check_files, folder_name, read_items, read_settings
from genrec.serving.item_recommender import ItemRecommender
from genrec.serving.rebuilt_components import component_of
from genrec.serving.stored_rows import beams_of
from genrec.serving.trained_rows import TrainedRow
from genrec.stage_inputs import build_trained, on_device
from genrec.types import ItemScorer, Policy, PolicySpecification, Recommender, RestorableBaseline

TOLERANCE = 1e-3  # of a log-probability of the probe; float32 on other hardware differs by less than 1e-4


def load_export(folder: Path, seed: int | None = None, code: str | None = None, num_beams: int = 0) -> TrainedRow:
    """Load the export of a row; arguments as in `genrec.load`. The row has no users.

    Raises UsageError for a folder that is no export, for a seed that it does not hold and for a plug-in without its file, and
    ArtifactError for a damaged export and for one that this version of genrec computes differently.
    """
    content = read_settings(folder)
    name, settings = folder_name(folder), content["configuration"]
    if seed not in (None, content["seed"]):
        raise UsageError(f"{folder} holds seed {content['seed']} of {content['row']}, not seed {seed}; leave out the seed")
    check_files(folder, content)
    if code is not None:
        loading.import_once(code)
    specification = component_of(settings, "policy", name)
    if not isinstance(specification, PolicySpecification | RestorableBaseline):
        raise ArtifactError(
            f"{folder / SETTINGS} names {settings['policy.class']}, expected a policy or baseline; export the row again"
        )
    catalog = read_items(folder / ITEMS)
    tokenized = SEMANTIC_IDS in content["files"]
    count = len(catalog)
    semantic_ids = SemanticIds.load(folder / SEMANTIC_IDS) if tokenized else SemanticIds(torch.arange(count).unsqueeze(1), (count,))
    if semantic_ids.items != count:
        raise ArtifactError(f"{folder} has Semantic IDs of {semantic_ids.items:,} items and {count:,} items; export the row again")
    beams = beams_of(settings, num_beams)
    if isinstance(specification, RestorableBaseline):
        recommender: Recommender = specification.restore(load_file(folder / MODEL))
    else:
        recommender = on_device(build_trained(specification, semantic_ids, folder / MODEL, beams))
    _check_probe(folder, content, recommender)
    items = ItemRecommender.of_row(name, specification, recommender, catalog, semantic_ids if tokenized else None, settings, beams)
    seed = content["seed"]
    return TrainedRow(content["row"], seed, (seed,), items, None, settings["evaluate.filter_seen"], content.get("warning", ""))


@torch.no_grad()
def probe(recommender: Recommender, history: list[int], items: list[int]) -> list[float]:
    """Return log p(item | history) of each item, or the scores of a baseline; items are numbers."""
    device = device_of(recommender)
    read, scored = torch.tensor([history], device=device), torch.tensor([items], device=device)
    if isinstance(recommender, Policy):
        return cast(list[float], recommender.log_prob(read, scored)[0].double().tolist())
    unknown = torch.zeros(1, dtype=torch.int64, device=device)  # no user has number 0
    return cast(list[float], cast(ItemScorer, recommender).score_items(unknown, read, scored)[0].double().tolist())


def _check_probe(folder: Path, content: dict[str, Any], recommender: Recommender) -> None:
    """Raise ArtifactError unless the recommender gives the scores that were stored with it."""
    expected = content["probe"]
    found = probe(recommender, expected["history"], expected["items"])
    worst = max(abs(a - b) for a, b in zip(found, expected["log_prob"], strict=True))
    if not worst <= TOLERANCE:
        raise ArtifactError(
            f"{folder} was written by genrec {content['genrec']}, and genrec {__version__} computes other scores from its "
            f"weights (a difference of {worst:.3g}, allowed {TOLERANCE}); install genrec {content['genrec']}, or export the row again"
        )
