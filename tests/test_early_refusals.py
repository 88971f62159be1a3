"""What a specification shows to be impossible is refused when the experiment is made; what the policy or the data show, before SFT."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from pandas import DataFrame
from preference_stages import stage
from torch import nn
from worlds import TINY, cyclic

from genrec import stages
from genrec.baselines import ItemKNN, SASRec
from genrec.baselines.item_losses import GBCE, SampledSoftmax
from genrec.data.sources import Frames
from genrec.data.splits import GlobalTemporal, LeaveOneOut
from genrec.errors import GenrecError, InputError, UsageError
from genrec.evaluation.evaluate import Evaluate
from genrec.experiment import SFT, Align, Experiment, Optimization, Tokenize, Validation
from genrec.model import Gpt, Tiger
from genrec.objectives import Preference, Rounds
from genrec.objectives.built_steps import build_step
from genrec.pipeline import run
from genrec.preference.candidates import Pairs, Sampled
from genrec.preference.filters import NearDuplicates
from genrec.preference.losses import DPO, Anchored, RecPO, RosePO, SoftmaxDPO
from genrec.preference.negatives import (
    AlreadySeen,
    BestOf,
    Curriculum,
    Disliked,
    FaissNeighbors,
    Filtered,
    InBatch,
    Mix,
    ModelBeams,
    PrefixNeighbors,
    Uniform,
)
from genrec.preference.rewards import LogProbability, Popular, RatingRecency
from genrec.preference.vectors import LearnedVectors
from genrec.testing import ContractError, Cyclic, Shop, check_objective, objective_world
from genrec.tokenizer import RQKMeans
from genrec.types import (
    Draw,
    ItemLoss,
    LogProbs,
    LossNeeds,
    NegativeSampler,
    ObjectiveContext,
    Policy,
    PreferenceLoss,
    PreferenceTerms,
    SamplerContext,
    SequenceBatch,
    TrainingStep,
)  # fmt: skip

LIKED = LeaveOneOut(min_rating=4.0)
DISLIKED = r"Disliked\.max_rating = 2\.0 needs events with a rating of 2\.0 or less, but split\.min_rating = 4\.0 drops"
NO_RATINGS = r"needs ratings, but the source Cyclic\(.*\) has none"
TWO_LEVELS = Tokenize(quantizer=RQKMeans(num_levels=2, codebook_size=8), collisions="keep")
ONE_STEP = {"optimization": Optimization(max_steps=1, batch_size=8, learning_rate=1e-3), "validation": Validation(every=1)}


@dataclass(frozen=True)
class OwnSplit:
    """A published split with filters."""

    min_rating: float = 4.0

    def filters(self) -> object:
        return LIKED.filters()

    def assign(self, interactions: DataFrame) -> np.ndarray:
        return LeaveOneOut().assign(interactions)


@pytest.mark.parametrize(
    ("negatives", "split"),
    [
        (Disliked(), LIKED),
        (Disliked(), GlobalTemporal(min_rating=4.0)),
        (Disliked(), OwnSplit()),
        (Mix((Uniform(), Disliked()), (1, 1)), LIKED),
        (Curriculum((Uniform(), Disliked())), LIKED),
        (Filtered(Disliked(), (NearDuplicates(),)), LIKED),
        (BestOf(Mix((Disliked(), Uniform()), (1, 1)), Popular()), LIKED),
    ],
)
def test_dislikes_that_the_split_drops_are_refused_at_any_depth(negatives: NegativeSampler, split: LeaveOneOut) -> None:
    with pytest.raises(UsageError, match=DISLIKED):
        Experiment(name="shop", source=Shop(), split=split, align=stage(negatives=negatives))


def test_dislikes_that_the_split_keeps_are_accepted() -> None:
    """A rating of 2 is kept by min_rating = 2 and is at most max_rating = 2."""
    Experiment(name="shop", source=Shop(), split=LeaveOneOut(min_rating=2.0), align=stage(negatives=Disliked(2.0)))
    with pytest.raises(UsageError, match=r"max_rating = 1\.9"):
        Experiment(name="shop", source=Shop(), split=LeaveOneOut(min_rating=2.0), align=stage(negatives=Disliked(1.9)))


def test_dislikes_that_the_split_labels_as_liked_are_refused() -> None:
    """With liked=4 a rating of 4 is liked and one of 3 is neutral, which may be a negative."""
    split = LeaveOneOut(liked=4, disliked=2)
    Experiment(name="shop", source=Shop(), split=split, align=stage(negatives=Disliked(3.0)))
    message = r"shop: Disliked\.max_rating = 4 makes negatives of items that split\.liked = 4 labels as liked; set .* below 4, such as"
    with pytest.raises(UsageError, match=message):
        Experiment(name="shop", source=Shop(), split=split, align=stage(negatives=Mix((Uniform(), Disliked(4.0)), (1, 1))))


@pytest.mark.parametrize(
    "change",
    [
        {"align": stage(negatives=Disliked())},
        {"align": stage(negatives=BestOf(Uniform(), RatingRecency()))},
        {"align": stage(loss=RecPO(), reward=RatingRecency())},
        {"align": stage(loss=Anchored(RosePO()), reward=RatingRecency())},
    ],
)
def test_ratings_that_the_source_cannot_have_are_refused(change: dict[str, Align]) -> None:
    with pytest.raises(UsageError, match=NO_RATINGS):
        Experiment(name="cyclic", source=Cyclic(), **change)


def test_a_filter_by_rating_needs_a_source_with_ratings() -> None:
    for split in (LIKED, GlobalTemporal(min_rating=4.0)):
        with pytest.raises(UsageError, match=r"split\.min_rating = 4\.0 needs ratings, but the source Cyclic"):
            Experiment(name="cyclic", source=Cyclic(), split=split)


@pytest.mark.parametrize(
    ("negatives", "most"),
    [
        (FaissNeighbors(pool_size=2), 2),
        (ModelBeams(num_beams=2), 2),
        (AlreadySeen(recent=1), 1),
        (Filtered(FaissNeighbors(pool_size=2), (NearDuplicates(),)), 2),
        (Curriculum((Uniform(), FaissNeighbors(pool_size=1))), 1),
        (BestOf(FaissNeighbors(pool_size=2), Popular(), num_candidates=8), 2),
        (Mix((FaissNeighbors(pool_size=1), AlreadySeen(recent=1), Uniform()), (1, 1, 0)), 2),
    ],
)
def test_a_sampler_with_fewer_candidates_than_negatives_is_refused(negatives: NegativeSampler, most: int) -> None:
    with pytest.raises(UsageError, match=rf"Sampled\.num_negatives = 3, but .* gives a row at most {most} negatives"):
        Experiment(name="shop", source=Shop(), align=stage(negatives=negatives, num_negatives=3))
    Experiment(name="shop", source=Shop(), align=stage(negatives=negatives, num_negatives=most))


def test_a_batch_has_one_target_less_than_examples_for_in_batch_negatives() -> None:
    recipe = stage(negatives=InBatch(), optimization=Optimization(max_steps=1, batch_size=3, learning_rate=1e-4))
    with pytest.raises(UsageError, match="gives a row at most 2 negatives"):
        Experiment(name="shop", source=Shop(), align=recipe)


def test_a_mixture_may_hold_a_sampler_with_few_candidates() -> None:
    """The places that it cannot fill go to the others."""
    mixture = Mix((FaissNeighbors(pool_size=1), Uniform()), (1, 0), final_weights=(0, 1))
    Experiment(name="shop", source=Shop(), align=stage(negatives=mixture, num_negatives=3))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"align": stage(negatives=PrefixNeighbors(2)), "tokenize": TWO_LEVELS}, "must share fewer codes than the 2 of a Semantic ID"),
        ({"align": stage(negatives=ModelBeams(locked_levels=2)), "tokenize": TWO_LEVELS}, "must share fewer codes than the 2"),
        (
            {"align": stage(negatives=Filtered(Uniform(), (NearDuplicates(2),))), "tokenize": TWO_LEVELS},
            "NearDuplicates.num_codes must be below 2, the levels of a Semantic ID, got 2",
        ),
        (
            {"align": stage(negatives=PrefixNeighbors(1)), "tokenize": None, "policy": SASRec()},
            "must share fewer codes than the 1 of a Semantic ID; without a tokenizer",
        ),
        (
            {"align": stage(negatives=Filtered(Uniform(), (NearDuplicates(),))), "tokenize": None, "policy": SASRec()},
            "NearDuplicates.num_codes must be below 1",
        ),
        ({"align": stage(negatives=PrefixNeighbors(9)), "tokenize": Tokenize(quantizer=RQKMeans(num_levels=8))}, "the 9 of a"),
        ({"align": Align(normalize="children"), "policy": ItemKNN()}, "a baseline cannot be aligned"),
    ],
)
def test_levels_and_policies_that_do_not_fit_are_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Experiment(name="shop", source=Shop(), **change)  # type: ignore[arg-type]


@dataclass(frozen=True)
class OwnQuantizer:
    """A quantizer without a field `num_levels`: its `level_sizes` tell the number of levels."""

    sizes: tuple[int, ...] = (4, 4)

    def fit(self, vectors: object, generator: object) -> object:
        raise NotImplementedError

    def level_sizes(self) -> tuple[int, ...]:
        return self.sizes

    def restore(self, state: object) -> object:
        raise NotImplementedError


def test_the_levels_of_a_plug_in_quantizer_count_too() -> None:
    own = Tokenize(quantizer=OwnQuantizer(), collisions="keep")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="must share fewer codes than the 2 of a Semantic ID"):
        Experiment(name="shop", source=Shop(), tokenize=own, align=stage(negatives=PrefixNeighbors(2)))


@pytest.mark.parametrize(
    "build",
    [
        lambda: Mix((ModelBeams(refresh_every=5), ModelBeams(refresh_every=6)), (1, 1)),
        lambda: Curriculum((ModelBeams(refresh_every=5), Filtered(ModelBeams(), (NearDuplicates(),)))),
        lambda: Mix(
            (ModelBeams(refresh_every=5), BestOf(Uniform(), LogProbability(), refresh_every=5, refresh_unit="epochs")), (1, 1)
        ),
        lambda: BestOf(ModelBeams(refresh_every=5), LogProbability()),
    ],
)
def test_samplers_that_need_the_policy_at_different_times_are_refused_when_they_are_composed(build: Callable[[], object]) -> None:
    with pytest.raises(UsageError, match=r"share one copy of the policy, but ask for it to be refreshed .*every 5 steps"):
        build()


@dataclass(frozen=True)
class WithReward:
    """A loss with a reward instead of `needs`."""

    reward: object = 1.0

    def __call__(self, policy: object, reference: object) -> object:
        raise NotImplementedError


def test_losses_and_rewards_are_checked_when_the_alignment_is_made() -> None:
    with pytest.raises(UsageError, match=r"Preference\.reward must be a genrec\.types\.Reward, got 1\.0"):
        stage(reward=1.0)
    with pytest.raises(UsageError, match=r"Anchored\.loss must be a preference loss such as SoftmaxDPO\(\), got WithReward"):
        stage(loss=Anchored(WithReward()))  # type: ignore[arg-type]
    with pytest.raises(UsageError, match=r"Preference\.loss must be a loss, .* with needs = LossNeeds\(\), got WithReward"):
        stage(loss=WithReward())


@dataclass(frozen=True)
class OptionalRewards:
    """A loss of your own that reads rewards where there are some, as RosePO does."""

    needs = LossNeeds()

    def __call__(self, policy: LogProbs, reference: LogProbs) -> PreferenceTerms:
        raise NotImplementedError


def test_a_reward_that_nothing_reads_is_refused_by_name() -> None:
    message = (
        r"shop: Preference\.reward is Popular\(.*nothing reads it: .*SoftmaxDPO\(.*reads none; set reward to None \(--align\.reward "
        r"None\), chosen to 'best' \(--align\.chosen best\),.* such as RosePO or RecPO"
    )
    for loss in (SoftmaxDPO(), Anchored(SoftmaxDPO())):
        with pytest.raises(UsageError, match=message):
            Experiment(name="shop", source=Shop(), align=stage(loss=loss, reward=Popular()))
    parts = (Preference(reward=Popular()), Preference())
    with pytest.raises(UsageError, match=r"shop: Preference\.reward is Popular"):
        Experiment(name="shop", source=Shop(), align=Align(Rounds(objectives=parts, steps=(1, 1))))


@pytest.mark.parametrize(
    "settings",
    [{"loss": Anchored(RosePO())}, {"loss": RecPO()}, {"loss": Anchored(OptionalRewards())}, {"chosen": "best"}],
    ids=["optional", "needed", "own", "best"],
)
def test_a_reward_that_the_loss_or_the_choice_reads_is_accepted(settings: dict[str, object]) -> None:
    Experiment(name="shop", source=Shop(), align=stage(reward=Popular(), **settings))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: FaissNeighbors(pool_size="200"), r"FaissNeighbors\.pool_size must be an integer, got '200' \(str\)"),
        (lambda: FaissNeighbors(pool_size=2.5), r"FaissNeighbors\.pool_size must be an integer, got 2\.5 \(float\)"),
        (lambda: FaissNeighbors(margin="wide"), r"FaissNeighbors\.margin must be a number or None, got 'wide'"),
        (lambda: PrefixNeighbors(depth="1"), r"PrefixNeighbors\.depth must be an integer"),
        (lambda: PrefixNeighbors(depth=1.5), r"PrefixNeighbors\.depth must be an integer, got 1\.5"),
        (lambda: ModelBeams(seen=1), r"ModelBeams\.seen must be True or False, got 1 \(int\)"),
        (lambda: AlreadySeen(recent=None), r"AlreadySeen\.recent must be an integer, got None"),
        (lambda: Mix((Uniform(),), ("1",)), r"Mix\.weights must be a tuple with a number in each place, got \('1',\)"),
        (lambda: Curriculum((Uniform(), Uniform()), until=0.5), r"Curriculum\.until must be a tuple .* or None, got 0\.5"),
        (lambda: BestOf(Uniform(), Popular(), num_candidates=4.0), r"BestOf\.num_candidates must be an integer, got 4\.0"),
        (lambda: NearDuplicates("1"), r"NearDuplicates\.num_codes must be an integer"),
        (lambda: stage(num_negatives="3"), r"Sampled\.num_negatives must be an integer, got '3'"),
        (lambda: stage(num_negatives=2.5), r"Sampled\.num_negatives must be an integer, got 2\.5"),
        (lambda: Align(refresh_reference=True), r"align\.refresh_reference must be an integer, got True \(bool\)"),
        (
            lambda: Optimization(max_steps=10.5, batch_size=1, learning_rate=1),
            r"optimization\.max_steps must be an integer",
        ),
        (
            lambda: Optimization(max_steps=1, batch_size=1, learning_rate="1e-4"),
            r"optimization\.learning_rate must be a number or None, got",
        ),
        (lambda: Validation(every="10"), r"validation\.every must be an integer or None, got '10'"),
        (lambda: Evaluate(cutoffs=("1", "5")), r"evaluate\.cutoffs must be a tuple with an integer in each place, got \('1', '5'\)"),
        (lambda: Evaluate(cutoffs=10), r"evaluate\.cutoffs must be a tuple with an integer in each place, got 10"),
        (lambda: LeaveOneOut(core="5"), r"split\.core must be an integer, got '5'"),
        (lambda: LeaveOneOut(min_rating="4"), r"split\.min_rating must be a number or None, got '4'"),
    ],
)
def test_a_value_of_a_wrong_type_is_refused_where_it_is_written(build: Callable[[], object], message: str) -> None:
    with pytest.raises(UsageError, match=rf"^{message}"):
        build()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda: {"policy": Tiger(d_model=64.0)}, r"policy\.d_model must be an integer or None, got 64\.0 \(float\)"),
        (lambda: {"policy": Gpt(num_layers=True)}, r"policy\.num_layers must be an integer, got True"),
        (lambda: {"policy": ItemKNN(max_history=2.5)}, r"policy\.max_history must be an integer, got 2\.5"),
        (lambda: {"tokenize": Tokenize(min_usage=True)}, r"tokenize\.min_usage must be a number, got True"),
    ],
)
def test_a_built_in_component_of_a_wrong_type_is_refused_with_its_key_path(
    change: Callable[[], dict[str, object]], message: str
) -> None:  # fmt: skip
    with pytest.raises(UsageError, match=message):
        Experiment(**{"name": "shop", "source": Shop()} | change())  # type: ignore[arg-type]


def test_lists_and_whole_numbers_are_accepted_where_they_fit() -> None:
    """A list stands for a tuple and an int for a float, as before."""
    assert Evaluate(cutoffs=[1, 10]).cutoffs == [1, 10]  # type: ignore[arg-type]
    Optimization(max_steps=1, batch_size=1, learning_rate=1)


class Plain(nn.Module):
    """A policy with the required methods only."""

    def __init__(self, items: int) -> None:
        super().__init__()
        self.scores = nn.Parameter(torch.zeros(items + 1))

    def level_log_prob(self, history: torch.Tensor, items: torch.Tensor) -> torch.Tensor:
        raise AssertionError("training has begun")

    def log_prob(self, history: torch.Tensor, items: torch.Tensor) -> torch.Tensor:
        raise AssertionError("training has begun")

    def recommend(self, history: torch.Tensor, n: int, exclude: torch.Tensor | None = None) -> object:
        raise AssertionError("training has begun")


@dataclass(frozen=True)
class PlainPolicy:
    """The specification of a policy without any optional method."""

    def build(self, semantic_ids: object) -> Policy:
        return Plain(semantic_ids.items)  # type: ignore[attr-defined, return-value]


def unrated() -> Frames:
    """Return a data set without ratings, which is known only when it is read."""
    users = [f"u{user}" for user in range(30) for _ in range(8)]
    items = [f"i{(user + place) % 40}" for user in range(30) for place in range(8)]
    texts = pd.DataFrame(
        {"item": [f"i{item}" for item in range(40)], "text": [f"word{item % 7} term{item % 5}" for item in range(40)]}
    )
    return Frames(pd.DataFrame({"user": users, "item": items, "time": range(len(users))}), texts)


EARLY: list[tuple[dict[str, object], str]] = [
    ({"policy": PlainPolicy(), "evaluate": Evaluate(scoring="exact")}, r"'exact' needs a .*ExactRecommender, but Plain \(.*\) has no"),
    ({"policy": PlainPolicy(), "align": Align(normalize="children", **ONE_STEP)}, r"'children' needs a policy with constrained_level"),
    (
        {"policy": PlainPolicy(), "align": stage(negatives=ModelBeams(locked_levels=1), **ONE_STEP)},
        r"locked_levels = 1 needs",
    ),
    (
        {"policy": PlainPolicy(), "align": stage(negatives=FaissNeighbors(vectors=LearnedVectors()), **ONE_STEP)},
        r"LearnedVectors needs a policy with item vectors",
    ),
    ({"align": stage(negatives=FaissNeighbors(skip=100), **ONE_STEP)}, r"FaissNeighbors\.skip must be below 39"),
    (
        {"source": unrated(), "align": stage(negatives=Mix((Uniform(), Disliked()), (1, 1)), **ONE_STEP)},
        r"Disliked needs",
    ),
    (
        {"source": unrated(), "align": stage(loss=RecPO(), reward=RatingRecency(), **ONE_STEP)},
        r"RatingRecency needs ratings, got training interactions with",
    ),
    ({"source": Shop(num_items=100, num_users=60), "align": stage(negatives=Disliked(0.5), **ONE_STEP)}, r"0\.5 matches no rating"),
]


@pytest.mark.parametrize(("change", "message"), EARLY, ids=range(len(EARLY)))
def test_what_the_policy_or_the_data_lack_is_found_before_sft(
    change: dict[str, object], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The experiment itself cannot tell, so the stages up to the Semantic IDs run; then nothing is trained."""
    monkeypatch.setenv("GENREC_HOME", str(tmp_path))
    experiment = replace(cyclic(), sft=SFT(**ONE_STEP), split=LeaveOneOut(core=0), **change)  # type: ignore[arg-type]
    built: list[str] = []
    with pytest.raises(GenrecError, match=message):
        run(experiment, on_artifact=lambda artifact: built.append(artifact.stage))
    assert built == ["data", "embed", "tokenize"]
    assert not list((tmp_path / "artifacts").rglob("*.ckpt"))


def test_unknown_ids_of_a_pair_file_are_found_before_sft(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GENREC_HOME", str(tmp_path / "home"))
    (tmp_path / "pairs.csv").write_text('history,chosen,rejected\n"[""nothing""]",none,neither\n')
    align = Align(Preference(candidates=Pairs(tmp_path / "pairs.csv")), **ONE_STEP)  # type: ignore[arg-type]
    built: list[str] = []
    with pytest.raises(InputError, match=r"1 of 1 rows can't be used: unknown item: line 2 .*; unknown history item: line 2"):
        run(replace(cyclic(), sft=SFT(**ONE_STEP), align=align), on_artifact=lambda each: built.append(each.stage))  # type: ignore[arg-type]
    assert built == ["data", "embed", "tokenize"]


@pytest.mark.parametrize("loss", [DPO(), Anchored(DPO())])
def test_dpo_on_a_pair_file_with_several_rejected_items_is_refused_when_the_experiment_is_made(
    loss: PreferenceLoss, tmp_path: Path
) -> None:
    path = tmp_path / "pairs.jsonl"
    path.write_text(
        '{"history": ["1"], "chosen": "2", "rejected": "3"}\n{"history": ["1"], "ranked": ["2", "4", "5", "6"]}\n', encoding="utf-8"
    )
    with pytest.raises(
        InputError, match=r"1 of 2 rows .*: more than one rejected item: line 2 \(3 items\); DPO compares one pair: use S"
    ):
        replace(cyclic(), align=Align(Preference(loss, Pairs(path))))
    replace(cyclic(), align=Align(Preference(SoftmaxDPO(), Pairs(path))))  # S-DPO takes any number
    path.write_text('{"history": ["1"], "chosen": "2", "rejected": ["3"]}\n', encoding="utf-8")
    replace(cyclic(), align=Align(Preference(loss, Pairs(path))))


@dataclass(frozen=True)
class NeedsDevice:
    """A sampler plug-in that checks the data."""

    def build(self, context: SamplerContext) -> Draw:
        return Uniform().build(context)

    def check_context(self, context: SamplerContext) -> None:
        if "device" not in context.interactions:
            raise InputError("NeedsDevice needs a column device")


@dataclass(frozen=True)
class Builds:
    """An objective whose `TrainingStep` has other values in the fields of `change`."""

    change: tuple[tuple[str, object], ...]

    def build_step(self, context: ObjectiveContext) -> TrainingStep:
        def loss(batch: SequenceBatch, step: int) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
            return -context.policy.log_prob(batch.history, batch.target.unsqueeze(1)).mean(), {}

        return TrainingStep(**{"examples": context.source.prefixes(), "loss": loss} | dict(self.change))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("modules", nn.Linear(1, 1), r"must be a tuple of torch\.nn\.Module, got one Linear; write modules=\(module,\), with a comma"),
        (
            "modules",
            (nn.Parameter(torch.zeros(1)),),
            r"must be a tuple of torch\.nn\.Module, got a torch\.nn\.Parameter at place 0",
        ),
        ("modules", [nn.Linear(1, 1)], r"must be a tuple of torch\.nn\.Module, got a list"),
        ("modules", (nn.Linear(1, 1), 3), r"must be a tuple of torch\.nn\.Module, got a int at place 1"),
        ("examples", None, r"must have len\(\) and batch\(index\), such as context\.source\.prefixes\(\), got None"),
        ("loss", 3, r"must be a function of a batch and a step, got a int"),
        ("measure", {}, r"must be a function or None, got a dict"),
        ("watchers", (3,), r"must be a tuple of functions, got a tuple"),
        ("state", {}, r"must have tensors\(\) and restore\(saved\), or be None, got a dict"),
    ],
)
def test_a_wrong_field_of_a_training_step_is_named_with_the_class_of_the_objective(
    field: str, value: object, message: str, tmp_path: Path
) -> None:
    objective = Builds(((field, value),))
    named = rf"^Builds \(.*test_early_refusals\.py:\d+\): TrainingStep\.{field} {message}"
    with pytest.raises(InputError, match=rf"{named}.*; test it alone with 'genrec check "):
        build_step(objective, objective_world())
    with pytest.raises(ContractError, match=named):
        check_objective(objective)
    with pytest.raises(InputError, match=named):
        build_step(Rounds(objectives=(objective, Builds(())), steps=(1, 1)), objective_world())


def test_an_objective_is_built_before_sft(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GENREC_HOME", str(tmp_path))
    align = Align(Builds((("modules", "margin"),)), **ONE_STEP)  # type: ignore[arg-type]
    built: list[str] = []
    with pytest.raises(InputError, match=r"Builds \(.*\): TrainingStep\.modules must be a tuple"):
        run(replace(cyclic(), sft=SFT(**ONE_STEP), align=align), on_artifact=lambda each: built.append(each.stage))  # type: ignore[arg-type]
    assert built == ["data", "embed", "tokenize"]


def test_a_reference_that_would_never_be_refreshed_is_refused_with_its_flags() -> None:
    """The steps are 0 to 39, so a refresh every 40 steps would come after the last one, and one every 39 steps before it."""
    forty = Align(Preference(), optimization=Optimization(max_steps=40, batch_size=8, learning_rate=1e-3))
    message = (
        r"cyclic: align\.refresh_reference is 40 steps, but the stage has 40, so the reference would never be refreshed; set "
        r"--align\.refresh-reference to less than 40, or to 0 .*, or --align\.optimization\.max-steps to more than 40"
    )
    with pytest.raises(UsageError, match=message):
        replace(cyclic(), align=replace(forty, refresh_reference=40))
    for refresh in (0, 1, 39):
        replace(cyclic(), align=replace(forty, refresh_reference=refresh))
    with pytest.raises(UsageError, match=r"align\.1\.refresh_reference is 900 .*; set --align\.1\.refresh-reference to less than 40"):
        replace(cyclic(), align=(forty, replace(forty, refresh_reference=900)))


def test_a_plug_in_checks_the_data_before_sft(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GENREC_HOME", str(tmp_path))
    experiment = replace(
        cyclic(), align=stage(negatives=Filtered(NeedsDevice(), (NearDuplicates(),)), loss=Anchored(DPO()), num_negatives=1)
    )
    called = []
    monkeypatch.setattr(stages, "validation_score", lambda *_: called.append(1))
    with pytest.raises(InputError, match="needs a column device"):
        run(experiment)
    assert not called


def test_valid_settings_are_still_accepted() -> None:
    Experiment(
        name="shop",
        source=Shop(),
        policy=TINY,
        evaluate=Evaluate(cutoffs=(1, 10), scoring="exact"),
        align=stage(loss=Anchored(SoftmaxDPO()), negatives=Mix((FaissNeighbors(), Disliked()), (2, 1)), normalize="children"),
    )


@pytest.mark.parametrize("loss", [GBCE(), SampledSoftmax(in_batch=1.0)])
def test_losses_with_negatives_refuse_a_catalog_of_one_item_after_the_data_stage(
    loss: ItemLoss, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The number of items is known when the data are read; no later stage begins."""
    monkeypatch.setenv("GENREC_HOME", str(tmp_path))
    events = DataFrame({"user": ["a"] * 4 + ["b"] * 4, "item": ["only"] * 8, "time": range(8)})
    source = Frames(events, DataFrame({"item": ["only"], "text": ["the only item"]}))
    one_item = Experiment(
        name="one", source=source, split=LeaveOneOut(core=0), tokenize=None, policy=SASRec(loss=loss), align=stage(negatives=Uniform())
    )
    with pytest.raises(UsageError, match=r"a catalog of 1 item\(s\) has none; set policy\.loss to None \(--policy\.loss None\)"):
        run(one_item)
    assert [path.name for path in (tmp_path / "artifacts").iterdir()] == ["data"]


def test_as_many_negatives_as_items_are_refused_after_the_data_stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A row of 40 items has 39 at most: the positive is no negative."""
    monkeypatch.setenv("GENREC_HOME", str(tmp_path))
    message = (
        r"^Sampled\.num_negatives must be below the number of items, 40, got 40: .*; lower it to at most 39, .* by "
        r"--align\.num-negatives, or --sft\.num-negatives in SFT$"
    )
    with pytest.raises(UsageError, match=message):
        run(replace(cyclic(), align=stage(num_negatives=40)))
    assert [path.name for path in (tmp_path / "artifacts").iterdir()] == ["data"]
    Sampled(num_negatives=39).check_catalog(40)
