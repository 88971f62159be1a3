"""The work of each stage: read the artifacts of earlier stages, write the files of this one.

The order of the stages and the keys of their artifacts are in `genrec.pipeline`.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from genrec.data.corpus import Corpus
from genrec.data.corpus_builder import prepare
from genrec.data.examples import Examples, examples, windows
from genrec.data.splits import BEGIN, TEST
from genrec.embeddings.vector_checks import check_vectors
from genrec.errors import ArtifactError
from genrec.evaluation.cold_metrics import cold_only_metrics
from genrec.evaluation.cold_ranking import evaluate_unseen
from genrec.evaluation.evaluate import Evaluate, evaluate, metrics_of
from genrec.evaluation.metrics import ndcg, recall
from genrec.evaluation.shared_id_ties import per_user
from genrec.experiment import Experiment
from genrec.randomness import generator
from genrec.semantic_ids import SemanticIds
from genrec.store import write_json
from genrec.tokenizer.tokenize import save_tokenized, tokenize
from genrec.training import curves
from genrec.training.checkpoint import weights
from genrec.training.recipes import SFT, Align
from genrec.training.tensorboard_log import tensorboard
from genrec.types import (
    Baseline,
    Policy,
    PolicySpecification,
    Recommender,
    ResumableEncoder,
    SamplerContext,
    SequenceBatch,
    StreamedSource,
)
from genrec.workspace import raw_folder, tensorboard_folder

Parents = dict[str, Path]  # stage -> folder of its artifact


def build_data(experiment: Experiment, parents: Parents, folder: Path) -> None:
    """Read the source, in pieces if it can be streamed, and write the corpus."""
    root, source = raw_folder(), experiment.source
    prepare(source.stream(root) if isinstance(source, StreamedSource) else source.load(root), experiment.split, folder)


def build_embed(experiment: Experiment, parents: Parents, folder: Path) -> None:
    """Encode the items of the corpus and write their vectors, float32 [N, D]."""
    corpus = Corpus.load(parents["data"])
    encoder, train = experiment.embed, corpus.part("train")
    if isinstance(encoder, ResumableEncoder):
        vectors = encoder.encode_into(corpus.items, train, folder / "checkpoint")
    else:
        vectors = encoder.encode(corpus.items, train)
    check_vectors(vectors, corpus.items["item_id"].tolist())
    save_file({"vectors": torch.from_numpy(vectors).contiguous()}, folder / "vectors.safetensors")


def build_tokenize(experiment: Experiment, parents: Parents, folder: Path) -> None:
    """Turn vectors into Semantic IDs; write the codes, the fitted quantizer and the health figures."""
    assert experiment.tokenize is not None
    corpus, vectors = Corpus.load(parents["data"]), load_file(parents["embed"] / "vectors.safetensors")["vectors"].numpy()
    save_tokenized(tokenize(vectors, experiment.tokenize, corpus.items, corpus.part("train")), folder)


def build_sft(experiment: Experiment, parents: Parents, folder: Path) -> None:
    """Train a policy by SFT on the corpus and write its weights and training curves."""
    from genrec.training.early_checks import check_before_training
    from genrec.training.sft import build_policy, fine_tune

    corpus, recipe, length = Corpus.load(parents["data"]), experiment.sft, experiment.history_length
    semantic_ids = load_semantic_ids(corpus, parents)
    policy = build_policy(cast(PolicySpecification, experiment.policy), semantic_ids, experiment.seed)
    check_before_training(policy, experiment.evaluate, experiment.align, lambda: _alignment_context(corpus, semantic_ids, parents))
    with _tracked(experiment, "sft", folder) as on_row:
        outcome = fine_tune(
            policy,
            windows(corpus, length, recipe.padding) if recipe.targets == "all" else examples(corpus, "train", length),
            recipe,
            experiment.seed,
            folder / "checkpoint" / "last",
            validation_score(policy, corpus, experiment, recipe, semantic_ids),
            on_row,
        )
    _save_policy(policy, outcome.curves, folder)


def build_align(experiment: Experiment, parents: Parents, folder: Path) -> None:
    """Align the SFT policy; write its weights, training curves and statistics of the negatives."""
    from genrec.training.align import align

    assert experiment.align is not None
    corpus = Corpus.load(parents["data"])
    semantic_ids = load_semantic_ids(corpus, parents)
    policy = load_policy(experiment, semantic_ids, parents["sft"])
    with _tracked(experiment, "align", folder) as on_row:
        outcome, drawn = align(
            policy,
            examples(corpus, "train", experiment.history_length),
            _alignment_context(corpus, semantic_ids, parents),
            experiment.align,
            experiment.seed,
            folder / "checkpoint" / "last",
            validation_score(policy, corpus, experiment, experiment.align, semantic_ids),
            on_row,
        )
    _save_policy(policy, outcome.curves, folder)
    write_json(folder / "negatives.json", drawn)


def build_evaluate(experiment: Experiment, parents: Parents, folder: Path) -> None:
    """Rank the test items with the policy or the baseline; write ranks, lists and metrics.

    If some test items do not occur in training, their ranks among the unseen items alone are written too.
    """
    corpus = Corpus.load(parents["data"])
    spec, popularity = experiment.evaluate, popularity_of(corpus)
    recommender, shared = load_recommender(experiment, corpus, parents)
    if "sft" not in experiment.stages:
        spec = replace(spec, scoring="beam")  # `recommend` of a baseline is exact: it prunes nothing
    entries = select_users(examples(corpus, "test", experiment.history_length), spec.max_users, "test")
    test = batches(entries, spec.batch_size, device_of(recommender))
    seen = seen_items(corpus) if spec.filter_seen else None
    result = evaluate(recommender, test, spec, seen, shared, corpus.own_ids)
    result.ranks.to_parquet(folder / "ranks.parquet", index=False)
    result.recommendations.to_parquet(folder / "recommendations.parquet", index=False)
    metrics = metrics_of(result.ranks, result.recommendations, spec.cutoffs, corpus.item_count, popularity)
    if "cold_users" in metrics:
        cold = evaluate_unseen(recommender, test, spec, popularity, seen, shared, corpus.own_ids)
        cold.to_parquet(folder / "cold.parquet", index=False)
        metrics |= cold_only_metrics(cold, spec.cutoffs)
    write_json(folder / "metrics.json", metrics | {"excluded_targets": float(result.excluded_targets)})


BUILDERS: dict[str, Callable[[Experiment, Parents, Path], None]] = {
    "data": build_data,
    "embed": build_embed,
    "tokenize": build_tokenize,
    "sft": build_sft,
    "align": build_align,
    "evaluate": build_evaluate,
}


def batches(entries: Examples, size: int, device: torch.device) -> list[SequenceBatch]:
    """Return all examples in batches on the device, the longest histories first, so that batches hold little padding."""
    run, place = entries.places(torch.arange(len(entries)))
    length = (place - entries.begin[run]).clamp(max=entries.history_length)
    order = length.argsort(descending=True, stable=True)
    return [SequenceBatch(*(part.to(device) for part in entries.batch(index))) for index in torch.split(order, size)]


def select_users(entries: Examples, count: int, part: str) -> Examples:
    """Return a random sample of `count` users (0 = all). The sample is the same for all seeds, rows and stages."""
    if not 0 < count < len(entries):
        return entries
    chosen = torch.randperm(len(entries), generator=generator(0, f"{part} users"))[:count]
    return entries.select(chosen.sort().values)


def validation_score(
    policy: Policy, corpus: Corpus, experiment: Experiment, recipe: SFT | Align, semantic_ids: SemanticIds
) -> Callable[[], dict[str, float]]:
    """Return a function that computes item-level metrics of the policy on the validation users.

    The metrics are ndcg@10, which selects the best step, and recall@1, @10 and @50. The last cutoff is smaller if the policy has fewer
    beams or the catalog fewer items.
    """
    entries = examples(corpus, "validation", experiment.history_length)
    validation = select_users(entries, recipe.validation.users, "validation")
    reach = max(10, min(50, semantic_ids.items, getattr(experiment.policy, "num_beams", 50)))
    cutoffs = tuple(sorted({1, 10, reach}))
    spec = Evaluate(cutoffs=cutoffs, batch_size=experiment.evaluate.batch_size)

    shared = shared_numbers(semantic_ids)

    def score() -> dict[str, float]:
        users = batches(validation, spec.batch_size, device_of(policy))
        ranks = evaluate(policy, users, spec, shared=shared, own_ids=corpus.own_ids).ranks
        found = {f"recall@{n}": float(per_user(recall, ranks, n).mean()) for n in cutoffs}
        return {"ndcg@10": float(per_user(ndcg, ranks, 10).mean()), **found}

    return score


def shared_numbers(semantic_ids: SemanticIds) -> Tensor | None:
    """Return the number of each item's Semantic ID, int64 [N + 1], 0 for the padding row 0; None if all Semantic IDs are unique."""
    if not semantic_ids.collided:
        return None
    return torch.cat([torch.zeros(1, dtype=torch.int64), semantic_ids.leaf(torch.arange(1, semantic_ids.items + 1)) + 1])


def load_semantic_ids(corpus: Corpus, parents: Parents) -> SemanticIds:
    """Load the Semantic IDs of the tokenize stage. Without that stage, return one level in which item i has code i - 1."""
    if "tokenize" in parents:
        return SemanticIds.load(parents["tokenize"] / "codes.safetensors")
    return SemanticIds(torch.arange(corpus.item_count).unsqueeze(1), (corpus.item_count,))


def load_recommender(experiment: Experiment, corpus: Corpus, parents: Parents) -> tuple[Recommender, Tensor | None]:
    """Return the fitted baseline or the trained policy, and the numbers of shared Semantic IDs (see `shared_numbers`)."""
    if isinstance(experiment.policy, Baseline):
        return experiment.policy.fit(corpus.part("train"), corpus.item_count), None
    semantic_ids = load_semantic_ids(corpus, parents)
    trained = parents["align" if experiment.align else "sft"]
    policy = load_policy(experiment, semantic_ids, trained, experiment.evaluate.num_beams)
    return _on_device(policy), shared_numbers(semantic_ids)


def load_policy(experiment: Experiment, semantic_ids: SemanticIds, folder: Path, num_beams: int = 0) -> Policy:
    """Load the trained policy of an sft or align artifact in evaluation mode. `num_beams` replaces the policy's own unless it is 0."""
    specification: Any = experiment.policy
    policy: Policy = (replace(specification, num_beams=num_beams) if num_beams else specification).build(semantic_ids)
    module = cast(nn.Module, policy)
    try:
        module.load_state_dict(load_file(folder / "policy.safetensors"))
    except RuntimeError as error:
        raise ArtifactError(f"{folder / 'policy.safetensors'} does not fit the policy: {error}") from None
    module.eval()
    return policy


def sampler_context(corpus: Corpus, vectors: Tensor, semantic_ids: SemanticIds) -> SamplerContext:
    """Return the data that a negative sampler may read. Row 0 of each table is padding."""
    padded = torch.cat([torch.zeros(1, vectors.shape[1]), vectors])
    train, popularity = corpus.part("train"), popularity_of(corpus)
    return SamplerContext(corpus.item_count, train, popularity, padded, semantic_ids, items=corpus.items, own_ids=corpus.own_ids)


def _alignment_context(corpus: Corpus, semantic_ids: SemanticIds, parents: Parents) -> SamplerContext:
    return sampler_context(corpus, load_file(parents["embed"] / "vectors.safetensors")["vectors"], semantic_ids)


def popularity_of(corpus: Corpus) -> Tensor:
    """Return the number of training events of each item, int64 [N + 1]; entry 0 is padding."""
    return torch.from_numpy(corpus.popularity("train"))


def seen_items(corpus: Corpus) -> Callable[[Tensor], Tensor]:
    """Return a function from users int64 [B] to all items of their events before the test, int64 [B, E], padded with 0."""
    item, bounds = torch.from_numpy(corpus.item), torch.from_numpy(corpus.bounds)

    def seen(users: Tensor) -> Tensor:
        begin, end = bounds[users.cpu() - 1][:, [BEGIN, TEST]].unbind(1)
        place = begin.unsqueeze(1) + torch.arange(int((end - begin).max()))
        taken = torch.where(place < end.unsqueeze(1), item[place.clamp(max=len(item) - 1)].long(), 0)
        return taken.to(users.device)

    return seen


def device_of(recommender: Recommender) -> torch.device:
    """Return the device of a policy's weights, or the CPU for a recommender without weights."""
    if isinstance(recommender, nn.Module):
        return next(recommender.parameters()).device
    return torch.device("cpu")


def _on_device(policy: Policy) -> Policy:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return cast(Policy, cast(nn.Module, policy).to(device))


def _save_policy(policy: Policy, rows: list[curves.Row], folder: Path) -> None:
    save_file(weights(cast(nn.Module, policy)), folder / "policy.safetensors")
    curves.save(rows, folder)


def _tracked(experiment: Experiment, stage: str, folder: Path) -> AbstractContextManager[curves.OnRow | None]:
    """Return a context that writes training curves for TensorBoard. Its files lie outside the artifacts, since they are no result."""
    key = folder.name.removeprefix(".").removesuffix(".partial")
    return tensorboard(tensorboard_folder() / experiment.name / f"seed-{experiment.seed}-{stage}-{key}")
