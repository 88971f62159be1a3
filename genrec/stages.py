"""The work of each stage: read the artifacts of earlier stages, write the files of this one.

The order of the stages and the keys of their artifacts are in `genrec.pipeline`.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, cast

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from genrec import process_group
from genrec.data.corpus import Corpus
from genrec.data.corpus_builder import prepare
from genrec.data.event_inputs import check_recorded
from genrec.data.examples import CorpusExamples, examples
from genrec.embeddings.vector_checks import check_vectors
from genrec.evaluation_stage import build_evaluate
from genrec.experiment import Experiment
from genrec.plugin_source import components
from genrec.stage_inputs import (
    Parents,
    held_out_events,
    load_policy,
    load_semantic_ids,
    training_data,
)
from genrec.stage_names import align_stage, place_of
from genrec.store import write_json
from genrec.tokenizer import save_tokenized, tokenize
from genrec.training import curves
from genrec.training.checkpoint import weights
from genrec.training.numerics import check_finite
from genrec.training.tensorboard_log import tensorboard
from genrec.training.user_batches import select_users
from genrec.training.validation import baseline_scores, user_ids, validation_score
from genrec.types import (
    CheckedCatalog,
    CheckedData,
    Policy,
    PolicySpecification,
    ResumableEncoder,
    StreamedSource,
    TrainedQuantizer,
    TrainingStep,
)
from genrec.types.event_history import inputs_of
from genrec.workspace import raw_folder, tensorboard_folder

if TYPE_CHECKING:
    from genrec.training.loop import Outcome


def build_data(experiment: Experiment, parents: Parents, folder: Path) -> None:
    """Read the source, in pieces if it can be streamed, and write the corpus."""
    root, source = raw_folder(), experiment.source
    raw = source.stream(root) if isinstance(source, StreamedSource) else source.load(root)
    prepare(raw, experiment.split, folder, experiment.seed)


def check_components(experiment: Experiment, data: Path) -> None:
    """Raise if a component cannot work with the number of items or with these data. `data` is the folder of the data artifact."""
    checked = [each for each in components(experiment) if isinstance(each, CheckedCatalog) and not isinstance(each, type)]
    inputs = inputs_of(experiment.policy)
    if checked or inputs:
        corpus = Corpus.load(data)
        for component in checked:
            component.check_catalog(corpus.item_count)
        check_recorded(corpus, inputs, f"{experiment.name}: {type(experiment.policy).__name__}", repr(experiment.source))
    for reader in components(experiment):
        if isinstance(reader, CheckedData) and not isinstance(reader, type):
            reader.check_data(data.name)


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
    """Turn vectors into Semantic IDs; write the codes, the fitted quantizer, the health figures and the curves of its training."""
    assert experiment.tokenize is not None
    corpus, vectors = Corpus.load(parents["data"]), load_file(parents["embed"] / "vectors.safetensors")["vectors"].numpy()
    made = tokenize(vectors, experiment.tokenize, corpus.items, corpus.part("train"), warn=False)  # the pipeline reports the health
    save_tokenized(made, folder)
    if isinstance(made.quantizer, TrainedQuantizer):
        curves.save(made.quantizer.training_curves(), folder)


def build_reward(experiment: Experiment, parents: Parents, folder: Path) -> None:
    """Train the reward model on the training events; write its weights and its figures on pairs that are held out of them."""
    corpus, model = Corpus.load(parents["data"]), experiment.reward_model
    assert model is not None
    model.save_model(training_data(corpus, load_semantic_ids(corpus, {}), parents), held_out_events(corpus), folder)


def build_sft(experiment: Experiment, parents: Parents, folder: Path, watch: curves.OnRow | None = None) -> float:
    """Train a policy by SFT on the corpus and write its weights and training curves. Return the seconds of earlier sessions.

    `watch` is called with each row of the curves.
    """
    from genrec.training.align import AlignmentData, try_objectives
    from genrec.training.early_checks import check_before_training
    from genrec.training.sft import build_policy, fine_tune

    corpus, recipe, length = Corpus.load(parents["data"]), experiment.sft, experiment.history_length
    semantic_ids = load_semantic_ids(corpus, parents)
    data, held_out = partial(training_data, corpus, semantic_ids, parents), partial(held_out_events, corpus)
    policy = build_policy(cast(PolicySpecification, experiment.policy), semantic_ids, experiment.seed, data)
    alignments, inputs = experiment.alignments, inputs_of(experiment.policy)
    check_before_training(policy, experiment.evaluate, alignments, data, held_out)

    def alignment_data() -> AlignmentData:
        return AlignmentData(
            CorpusExamples(corpus, length, inputs), data(), examples(corpus, "validation", length, inputs=inputs), length
        )

    try_objectives(policy, alignment_data, alignments, experiment.seed)
    with _tracked(experiment, "sft", folder) as on_row:
        outcome, step = fine_tune(
            policy,
            CorpusExamples(corpus, length, inputs),
            recipe,
            experiment.seed,
            folder / "checkpoint" / "last",
            validation_score(policy, corpus, experiment, recipe, semantic_ids),
            curves.together(on_row, watch),
            experiment.selection,
            partial(user_ids, corpus),
            _key_of(folder),
            data,
            held_out,
        )
    if process_group.leads():
        _save_policy(policy, outcome, step, folder)
        write_json(folder / "baselines.json", baseline_scores(corpus, experiment, recipe))
    return outcome.earlier_seconds


def build_align(experiment: Experiment, parents: Parents, folder: Path, watch: curves.OnRow | None = None, place: int = 0) -> float:
    """Align the policy of the stage before; write its weights, its training curves and the files of the objective.

    Returns the seconds of earlier sessions. `place` is that of the stage in the chain of alignments, from 0. For `watch` see
    `build_sft`.
    """
    from genrec.training.align import AlignmentData, align
    from genrec.training.early_checks import check_held_out

    recipe, corpus, length = experiment.alignments[place], Corpus.load(parents["data"]), experiment.history_length
    semantic_ids, inputs = load_semantic_ids(corpus, parents), inputs_of(experiment.policy)
    policy = load_policy(experiment, semantic_ids, parents["sft" if place == 0 else align_stage(place - 1)])
    held_out = select_users(examples(corpus, "validation", length, inputs=inputs), recipe.validation.users, "validation")
    data = training_data(corpus, semantic_ids, parents)
    sft = load_file(parents["sft"] / "policy.safetensors") if place else None  # the policy itself at place 0
    check_held_out(recipe, data, lambda: held_out_events(corpus))
    with _tracked(experiment, align_stage(place), folder) as on_row:
        outcome, step = align(
            policy,
            AlignmentData(CorpusExamples(corpus, length, inputs), data, held_out, length, lambda: held_out_events(corpus)),
            recipe,
            experiment.seed,
            folder / "checkpoint" / "last",
            validation_score(policy, corpus, experiment, recipe, semantic_ids),
            curves.together(on_row, watch),
            experiment.selection,
            partial(user_ids, corpus),
            _key_of(folder),
            place,
            sft if recipe.reference == "sft" else None,
            sft,
        )
    if process_group.leads():
        _save_policy(policy, outcome, step, folder)
        write_json(folder / "baselines.json", baseline_scores(corpus, experiment, recipe))
    return outcome.earlier_seconds


def builder_of(stage: str) -> Callable[..., float | None]:
    """Return the function that builds a stage: (experiment, parents, folder); those of trainings also take a `curves.OnRow`.

    Trainings return `Outcome.earlier_seconds`.
    """
    return BUILDERS[stage] if stage in BUILDERS else partial(build_align, place=place_of(stage))


BUILDERS: dict[str, Callable[..., float | None]] = {
    "data": build_data,
    "embed": build_embed,
    "tokenize": build_tokenize,
    "reward": build_reward,
    "sft": build_sft,
    "align": build_align,
    "evaluate": build_evaluate,
}


def _save_policy(policy: Policy, outcome: Outcome, step: TrainingStep, folder: Path) -> None:
    """Write the weights, the curves, the recipe and the files of the objective. Raise NumericsError for non-finite weights."""
    check_finite(cast(nn.Module, policy), f"the trained policy of {folder.parent.name}")
    save_file(weights(cast(nn.Module, policy)), folder / "policy.safetensors")
    curves.save(outcome.curves, folder)
    write_json(folder / "recipe.json", outcome.recipe)
    if step.save is not None:
        step.save(folder)


def _tracked(experiment: Experiment, stage: str, folder: Path) -> AbstractContextManager[curves.OnRow | None]:
    """Return a context that writes training curves for TensorBoard. Its files lie outside the artifacts, since they are no result."""
    if not process_group.leads():
        return nullcontext()
    return tensorboard(tensorboard_folder() / experiment.name / f"seed-{experiment.seed}-{stage}-{_key_of(folder)}")


def _key_of(folder: Path) -> str:
    """Return the key of the artifact that is written to an unfinished folder, `.KEY.partial`."""
    return folder.name.removeprefix(".").removesuffix(".partial")
