"""The contrast of views: NT-Xent by hand, its gradient and symmetries, training in SFT and in alignment, resuming, refusals."""

from __future__ import annotations

import math
import os
import signal
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import pandas as pd
import pytest
import torch
from torch import Tensor
from trainings import RECIPE, constant, fine_tune, policy, training_examples
from worlds import cyclic

from genrec import pipeline
from genrec.baselines import GRU4Rec, Popularity, SASRec
from genrec.errors import InputError, Stopped, UsageError
from genrec.experiment import Align, Experiment, Optimization, Validation
from genrec.model import RPG, Gpt, Tiger
from genrec.objectives import Augmentations, Preference, Rounds, SameTarget, Supervised, ViewContrast
from genrec.objectives.view_contrast import PreparedViews, drawn_rows, false_negatives, nt_xent
from genrec.preference.schedules import Linear
from genrec.randomness import PartOfStep
from genrec.testing import check_history_views, objective_world
from genrec.types import SequenceBatch, TwoViews, WindowBatch

FIRST = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.5, 0.5]])
SECOND = torch.tensor([[0.8, 0.2], [0.1, 0.9], [0.6, 0.3]])


@pytest.mark.parametrize(
    ("similarity", "temperature", "expected"),
    [("dot", 1.0, 1.352108977), ("cosine", 1.0, 1.317134181), ("cosine", 0.1, 0.521421670)],
)
def test_published_vectors(similarity: Any, temperature: float, expected: float) -> None:
    assert float(nt_xent(FIRST, SECOND, temperature=temperature, similarity=similarity)) == pytest.approx(expected, abs=1e-6)


def test_two_histories_by_hand() -> None:
    """Views (1), (0) and (2), (1): dot products 2, 0 of the partners and 0, 1, 0, 2 of the others.

    View 1: exp 2 of exp 2 + exp 0 + exp 1; its partner 2 has 2 with 1, 0 with (0) and 2 with (1): exp 2 of 2 exp 2 + 1. View (0) has
    0 with all: 1 of 3. Its partner (1) has 0 with it, 1 with (1) and 2 with (2): 1 of 1 + exp 1 + exp 2.
    """
    losses = [
        -math.log(math.exp(2) / (math.exp(2) + 1 + math.e)),
        -math.log(1 / 3),
        -math.log(math.exp(2) / (2 * math.exp(2) + 1)),
        -math.log(1 / (1 + math.e + math.exp(2))),
    ]
    found = nt_xent(torch.tensor([[1.0], [0.0]]), torch.tensor([[2.0], [1.0]]))
    assert float(found) == pytest.approx(sum(losses) / 4, abs=1e-6)


@pytest.mark.parametrize("size", [1, 2, 3, 10])
def test_equal_views_have_the_loss_of_a_guess(size: int) -> None:
    """log(2B - 1), which is 1.609437912 for B = 3, and 0 for one history, which has no negative."""
    views = torch.full((size, 4), 0.7)
    assert float(nt_xent(views, views)) == pytest.approx(math.log(2 * size - 1), abs=1e-6)


def test_the_loss_is_symmetric_in_views_and_in_histories() -> None:
    excluded = torch.eye(3, dtype=torch.bool)
    excluded[0, 2] = excluded[2, 0] = True
    order = torch.tensor([2, 0, 1])
    expected = nt_xent(FIRST, SECOND, excluded)
    torch.testing.assert_close(nt_xent(SECOND, FIRST, excluded), expected)
    torch.testing.assert_close(nt_xent(FIRST[order], SECOND[order], excluded[order][:, order]), expected)


def test_excluded_rows_are_no_negatives() -> None:
    """Rows 0 and 2 do not see each other. Row 1 sees all; without row 1, they would have no negative and the loss 0."""
    excluded = torch.eye(3, dtype=torch.bool)
    excluded[0, 2] = excluded[2, 0] = True
    z = torch.cat([FIRST, SECOND])
    total = 0.0
    for view in range(6):
        row, partner = view % 3, (view + 3) % 6
        seen = [other for other in range(6) if other not in (view, partner) and not excluded[row, other % 3]]
        scores = torch.stack([z[view] @ z[other] for other in [partner, *seen]])
        total -= float(scores.log_softmax(0)[0])
    assert float(nt_xent(FIRST, SECOND, excluded)) == pytest.approx(total / 6, abs=1e-6)
    pair = torch.ones(2, 2, dtype=torch.bool)
    alone = FIRST[:2].clone().requires_grad_()
    loss = nt_xent(alone, SECOND[:2], pair)
    loss.backward()
    assert float(loss.detach()) == 0
    assert alone.grad is not None
    assert (alone.grad == 0).all()


@pytest.mark.parametrize("similarity", ["dot", "cosine"])
def test_the_gradient_is_that_of_finite_differences(similarity: Any) -> None:
    draw = torch.Generator().manual_seed(0)
    views = [torch.randn(4, 3, dtype=torch.float64, generator=draw, requires_grad=True) for _ in range(2)]
    excluded = torch.eye(4, dtype=torch.bool)
    excluded[1, 3] = excluded[3, 1] = True
    assert torch.autograd.gradcheck(lambda *each: nt_xent(*each, excluded, 0.7, similarity), views)


def test_rows_of_one_target_or_one_user_are_false_negatives() -> None:
    rows = SequenceBatch(torch.tensor([1, 2, 1, 3]), torch.ones(4, 1, dtype=torch.int64), torch.tensor([5, 5, 6, 7]))
    assert false_negatives(rows).int().tolist() == [[1, 1, 1, 0], [1, 1, 0, 0], [1, 0, 1, 0], [0, 0, 0, 1]]


def test_a_row_of_a_window_is_the_history_before_one_of_its_targets() -> None:
    """In the second window the sequence 4, 5 is repeated after a 0: each row reads one copy."""
    windows = WindowBatch(
        torch.tensor([1, 2]),
        torch.tensor([[0, 0, 1, 2, 3], [4, 5, 0, 4, 5]]),
        torch.tensor([[0, 0, 0, 3, 9], [5, 6, 0, 5, 6]]),
    )
    drawn = [drawn_rows(windows, torch.Generator().manual_seed(seed)) for seed in range(60)]
    found = [{(tuple(filter(None, rows.history[i].tolist())), int(rows.target[i])) for rows in drawn} for i in range(2)]
    assert found == [{((1, 2), 3), ((1, 2, 3), 9)}, {((4,), 5), ((4, 5), 6)}]
    assert all((rows.history[:, -1] > 0).all() for rows in drawn)


SMALL: dict[str, Any] = {"d_model": 32, "d_ff": 64, "num_heads": 2, "dropout": 0.1}
TIGER = Tiger(**SMALL, d_kv=16, num_encoder_layers=1, num_decoder_layers=1, history="items", num_beams=12)
POLICIES: dict[str, Any] = {
    "tiger": TIGER,
    "tiger-causal": replace(TIGER, encoder="causal"),
    "gpt": Gpt(**SMALL, d_kv=16, num_layers=1, num_beams=12),
    "rpg": RPG(**SMALL, num_layers=1),
    "rpg-digits": RPG(**SMALL, num_layers=1, normalization="digits"),
    "sasrec": SASRec(d_model=32, d_ff=32),
    "gru4rec": GRU4Rec(d_model=16, hidden_size=32),
}


@pytest.fixture(scope="module", autouse=True)
def home(tmp_path_factory: pytest.TempPathFactory) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GENREC_HOME", str(tmp_path_factory.mktemp("views") / "data"))
        yield


def in_sft(steps: int, objective: Any, name: str = "tiger") -> Experiment:
    short = cyclic(steps=steps)
    sft = replace(short.sft, objective=objective, optimization=replace(short.sft.optimization, warmup_steps=0))
    without = {"tokenize": None} if name in ("sasrec", "gru4rec") else {}
    return replace(short, name=f"cyclic-views-{name}", policy=POLICIES[name], sft=sft, align=None, **without)


def curves(experiment: Experiment, stage: str = "sft") -> pd.DataFrame:
    return pd.read_parquet(pipeline.run(experiment)[stage].folder / "curves.parquet")


def weights(experiment: Experiment) -> bytes:
    return (pipeline.run(experiment)["sft"].folder / "policy.safetensors").read_bytes()


@pytest.mark.parametrize("targets", ["one", "all"])
def test_weight_0_is_sft_bit_for_bit(targets: Any) -> None:
    """With dropout: the views of such a step are not encoded."""
    ours, theirs = (
        in_sft(12, each, "tiger-causal") for each in (ViewContrast(weight=0, targets=targets), Supervised(targets=targets))
    )
    assert weights(ours) == weights(theirs)


@pytest.mark.parametrize("name", POLICIES)
def test_every_policy_learns_with_views(name: str) -> None:
    """The contrast falls below that of a guess, log(2B - 1) = 4.84 for 64 histories, while the policy learns the cycle."""
    objective = ViewContrast(weight=0.3, similarity="cosine", temperature=0.2, targets="one" if name == "tiger" else "all")
    found = curves(in_sft(60, objective, name))
    logged = found[found["view_loss"].notna()]
    assert logged["view_loss"].iloc[-1] < 0.8 * math.log(2 * 64 - 1)
    assert logged["view_accuracy"].between(0, 1).all()
    assert logged["likelihood_loss"].iloc[-1] < logged["likelihood_loss"].iloc[0]


def test_views_of_one_history_come_closer_than_views_of_others() -> None:
    """The known answer: after training, cropped, masked and reordered views of a history are its nearest ones; before, few are."""

    def accuracy(weight: float) -> float:
        context = objective_world()
        made = ViewContrast(weight=weight, similarity="cosine", temperature=0.2).build_step(context)
        assert made.prepare is not None
        module: Any = context.policy
        optimizer = torch.optim.Adam(module.parameters(), lr=0.03)
        for step in range(60):
            torch.manual_seed(step)
            index = torch.randperm(len(made.examples), generator=torch.Generator().manual_seed(step))[:48]
            loss, _ = made.loss(made.prepare(made.examples.batch(index), step), step)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        fixed = replace(ViewContrast(), similarity="cosine", temperature=0.2).build_step(context)
        assert fixed.prepare is not None
        index = torch.arange(0, len(fixed.examples), 4)
        return float(fixed.loss(fixed.prepare(fixed.examples.batch(index), 10_000), 10_000)[1]["view_accuracy"])

    with_views, without = accuracy(1.0), accuracy(0.0)
    assert with_views > without + 0.1


def test_histories_with_the_same_target_come_closer() -> None:
    """In the cycle the target follows the last item, so users with one target have one state: the contrast can be solved."""
    objective = ViewContrast(views=SameTarget(), weight=0.5, similarity="cosine", temperature=0.2)
    logged = curves(in_sft(80, objective))["view_accuracy"].dropna()
    assert logged.iloc[-1] > logged.iloc[0] + 0.2


def test_views_are_a_function_of_the_seed_the_step_and_the_part() -> None:
    context = objective_world()
    batch = context.source.prefixes().batch(torch.arange(16))

    def views(seed: int, step: int) -> Tensor:
        made = ViewContrast().build_step(context._replace(seed=seed))
        assert made.prepare is not None
        prepared: PreparedViews = made.prepare(batch, step)
        return prepared.histories

    assert torch.equal(views(0, 3), views(0, 3))
    assert not torch.equal(views(0, 3), views(0, 4))
    assert not torch.equal(views(0, 3), views(1, 3))
    assert not torch.equal(views(0, PartOfStep(3, 0)), views(0, PartOfStep(3, 1)))


@pytest.mark.parametrize("views", [Augmentations(), SameTarget()])
def test_a_resumed_training_gives_the_same_weights(views: Any, tmp_path: Path) -> None:
    """Stopped at a validation in the middle, with dropout, two parts a step and a scheduled weight."""
    objective = ViewContrast(views=views, weight=Linear(start=0.5, end=0.1, steps=20))
    recipe = replace(
        RECIPE, objective=objective, optimization=replace(RECIPE.optimization, max_steps=24, accumulate=2),
        validation=replace(RECIPE.validation, every=8),
    )  # fmt: skip

    def trained(folder: str, validate: Callable[[], dict[str, float]]) -> dict[str, Tensor]:
        built = policy()
        fine_tune(built, training_examples(), recipe, 5, tmp_path / folder, validate)
        return built.state_dict()

    calls: list[int] = []

    def terminated() -> dict[str, float]:
        calls.append(0)
        if len(calls) == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return constant()

    with pytest.raises(Stopped, match="checkpoint saved"):
        trained("cut", terminated)
    resumed, whole = trained("cut", constant), trained("whole", constant)
    for name, value in whole.items():
        assert torch.equal(value, resumed[name]), name


def test_an_alignment_and_rounds_take_it() -> None:
    align = Align(
        Rounds(objectives=(ViewContrast(), Preference()), steps=(3, 2)), keep="last",
        optimization=Optimization(max_steps=10, batch_size=32, learning_rate=1e-3), validation=Validation(every=10),
    )  # fmt: skip
    found = curves(replace(in_sft(10, Supervised()), name="cyclic-views-aligned", align=align), "align")
    assert found["view_loss"].notna().any()
    assert found["margin"].notna().any()


@dataclass(frozen=True)
class Stateless:
    """TIGER without the method that gives states."""

    causal: ClassVar[bool] = False

    def build(self, semantic_ids: Any) -> Any:
        return TIGER.build(semantic_ids)


def test_a_policy_without_states_is_refused_before_any_stage() -> None:
    """A baseline in the place of the policy has no SFT, and stays allowed."""
    experiment = in_sft(1, ViewContrast())
    message = r"cyclic-views-tiger: ViewContrast compares states of histories, which Stateless .*does not give; choose Tiger"
    with pytest.raises(UsageError, match=message):
        replace(experiment, policy=Stateless())
    aligned = Align(ViewContrast(), optimization=Optimization(max_steps=5, batch_size=8, learning_rate=1e-3))
    with pytest.raises(UsageError, match=message):
        replace(in_sft(1, Supervised()), policy=Stateless(), align=aligned)
    assert replace(experiment, policy=Popularity()).policy == Popularity()


def test_windows_need_a_causal_policy_and_a_step_two_histories() -> None:
    with pytest.raises(UsageError, match=r"ViewContrast\.targets 'all' needs a causal policy"):
        in_sft(1, ViewContrast(targets="all"))
    with pytest.raises(UsageError, match=r"a part of a step has one; raise optimization\.batch_size"):
        ViewContrast().build_step(objective_world()._replace(parts=16))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"weight": -1.0}, "weight must be"),
        ({"temperature": 0.0}, "temperature must be above 0"),
        ({"similarity": "euclidean"}, r"similarity must be one of 'dot', 'cosine'"),
        ({"views": SameTarget}, r"views must be Augmentations\(\), SameTarget\(\) or your own"),
        ({"padding": "repeat"}, r"padding 'repeat' pads windows, which need targets 'all'"),
    ],
)
def test_settings_without_meaning_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        ViewContrast(**change)


@dataclass(frozen=True)
class Own:
    """Views that are made by a function of the rows."""

    made: Any

    def build_views(self, context: object, examples: object) -> Any:
        return lambda rows, generator: self.made(rows)


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (lambda rows: (rows.history, rows.history), r"must be genrec\.types\.TwoViews\(first, second\), got a tuple"),
        (lambda rows: TwoViews(rows.history, rows.history.float()), r"TwoViews\.second must be int64 \[16, T\]"),
        (lambda rows: TwoViews(rows.history[1:], rows.history), r"TwoViews\.first must be int64 \[16, T\]"),
        (lambda rows: TwoViews(rows.history, rows.history.flip(1)), r"TwoViews\.second must have an item.* in the last place"),
    ],
)
def test_views_of_another_form_are_reported_with_their_class(made: Any, message: str) -> None:
    context = objective_world()
    step = ViewContrast(views=Own(made)).build_step(context)
    assert step.prepare is not None
    with pytest.raises(InputError, match=f"Own.*{message}"):
        step.prepare(context.source.prefixes().batch(torch.arange(16)), 0)
    with pytest.raises(Exception, match=message):
        check_history_views(Own(made))
