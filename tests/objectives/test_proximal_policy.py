"""PPO: the loss by hand, the optimum of the divergence, copies that draw, resumption, and what is refused."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field, replace
from typing import Any

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file
from test_policy_gradient import CODES, Source, Tabular, Values, row
from torch import Tensor
from worlds import cyclic

from genrec import pipeline
from genrec.baselines import SASRec
from genrec.errors import UsageError
from genrec.experiment import SFT, Align, Experiment, Optimization, Validation
from genrec.model import RPG
from genrec.objective_state import FixedTensors
from genrec.objectives import ProximalPolicy, Rounds, Supervised
from genrec.objectives.frozen_policy import FrozenCopy
from genrec.objectives.value_function import ValueFunction
from genrec.preference.candidates.policy_scores import CatalogScores
from genrec.preference.policy_gradient.advantage_estimation import clipped_value_loss, generalized_advantages
from genrec.preference.rewards import Similarity
from genrec.tokenizer import ProductQuantizer, Tokenize
from genrec.types import ItemSample, ObjectiveContext, SamplerContext, SequenceBatch, TrainingStep


class Drawing(Tabular):
    """The tabular policy, which also draws items and constrains its codes; every code sequence is an item."""

    def sample_items(self, history: Tensor, n: int, exclude: Tensor | None, generator: torch.Generator) -> ItemSample:
        catalog = torch.arange(1, self.semantic_ids.items + 1).expand(len(history), -1)
        with torch.no_grad():
            return CatalogScores(self.log_prob(history, catalog)).sample(n, exclude, generator)

    def constrained_level_log_prob(self, history: Tensor, items: Tensor) -> Tensor:
        return self.level_log_prob(history, items)


@dataclass(frozen=True)
class World:
    """A policy, its reference and the objective built on both."""

    objective: ProximalPolicy
    policy: Drawing
    reference: Drawing
    copies: list[FrozenCopy] = field(default_factory=list)  # further copies of the policy, which the checkpoint of a stage holds

    def frozen_copy(self, name: str) -> FrozenCopy:
        self.copies.append(FrozenCopy(self.policy, kept=True))
        return self.copies[-1]

    def build(self) -> TrainingStep:
        count = self.policy.semantic_ids.items
        vectors = torch.cat([torch.zeros(1, count), torch.eye(count)])
        events = pd.DataFrame({"user": [1], "item": [1], "time": [0]})
        data = SamplerContext(count, events, torch.zeros(count + 1), vectors, self.policy.semantic_ids)
        context = ObjectiveContext(
            policy=self.policy,
            reference=FrozenCopy(self.reference),
            source=Source(count),
            data=lambda: data,
            frozen_copy=self.frozen_copy,
            normalize="children",
            steps=100,
            batch_size=count,
            seed=0,
        )
        return self.objective.build_step(context)


def world(codes: list[list[int]] = CODES, **fields: Any) -> World:
    policy, reference = Drawing(codes, 0.5), Drawing(codes, 0.5)
    with torch.no_grad():
        for table in policy.tables:
            table += 0.3 * torch.randn(table.shape, generator=torch.Generator().manual_seed(7))
    return World(ProximalPolicy(**({"reward": Values((1.0, 0.0, 0.5, -1.0)[: len(codes)])} | fields)), policy, reference)


def loss_of(step: TrainingStep, batch: SequenceBatch, number: int = 0) -> tuple[Tensor, dict[str, Tensor]]:
    if step.begin is not None:
        step.begin(number)
    assert step.prepare is not None
    return step.loss(step.prepare(batch, number), number)


def all_rows(count: int) -> SequenceBatch:
    examples = Source(count).prefixes()
    batch: SequenceBatch = examples.batch(torch.arange(len(examples)))
    return batch


def test_the_first_loss_and_its_gradient_by_hand() -> None:
    """With values of 0 the advantages are discounted sums of r_t; on policy the gradient at a code's log-probability is -A / n."""
    made = world(samples=3, kl=0.2, whiten=False, gae_lambda=0.9)
    step = made.build()
    drawn: list[Tensor] = []
    original = made.policy.sample_items

    def noted(history: Tensor, n: int, exclude: Tensor | None, generator: torch.Generator) -> ItemSample:
        found = original(history, n, exclude, generator)
        drawn.append(found.items)
        return found

    made.policy.sample_items = noted  # type: ignore[method-assign]
    loss, logs = loss_of(step, row())
    items = torch.cat(drawn, 1)
    assert items.shape == (1, 3)
    with torch.no_grad():
        lp, lr = (each.level_log_prob(row().history, items) for each in (made.policy, made.reference))
    reward = torch.tensor([0.0, 1.0, 0.0, 0.5, -1.0])[items]
    r1, r2 = -0.2 * (lp - lr)[..., 0], -0.2 * (lp - lr)[..., 1] + reward
    advantages = torch.stack([r1 + 0.9 * r2, r2], 2)
    torch.testing.assert_close(logs["policy_loss"], -advantages.mean())
    torch.testing.assert_close(logs["value_loss"], 0.5 * advantages.square().mean())
    torch.testing.assert_close(loss.detach(), logs["policy_loss"] + 0.1 * logs["value_loss"])
    found = torch.autograd.grad(loss, list(made.policy.tables))
    expected = torch.autograd.grad(-(advantages * made.policy.level_log_prob(row().history, items)).mean(), list(made.policy.tables))
    for each, other in zip(found, expected, strict=True):
        torch.testing.assert_close(each, other)
    assert float(logs["clip_share"]) == 0.0
    assert "gradient_share" not in logs  # every row has a gradient, so the table has no note on their share
    torch.testing.assert_close(logs["reward"], reward.mean())


def train(made: World, steps: int, rate: float) -> TrainingStep:
    step = made.build()
    parameters = [*made.policy.parameters(), *(each for module in step.modules for each in module.parameters())]
    optimizer, batch = torch.optim.Adam(parameters, rate), all_rows(made.policy.semantic_ids.items)
    for number in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = rate * (1 - number / steps)
        optimizer.zero_grad()
        loss, _ = loss_of(step, batch, number)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    return step


@pytest.mark.parametrize("refresh", [1, 4])
def test_training_reaches_the_optimum_of_the_divergence(refresh: int) -> None:
    """Three items with the reference .5, .3, .2, the rewards 0, 1, .5 and beta .5: p = ref exp(r / beta) / Z = .1534, .6799, .1667."""
    fields = {"reward": Values((0.0, 1.0, 0.5)), "kl": 0.5, "samples": 64, "whiten": False, "refresh": refresh, "value_weight": 1.0}
    made = world([[0], [1], [2]], **fields)
    with torch.no_grad():
        for policy in (made.policy, made.reference):
            policy.tables[0][:] = torch.tensor([0.5, 0.3, 0.2]).log()
    train(made, 400, 0.05)
    for last in (1, 2, 3):
        assert made.policy.probabilities(last).tolist() == pytest.approx([0.153356677, 0.679896655, 0.166746668], abs=0.02)


def test_the_value_function_learns_the_expected_reward_of_each_prefix() -> None:
    """Items 00, 01, 10 and 11 of a policy that stays as it is: V of the empty prefix and of the two first codes."""
    made = world(reward=Values((1.0, 0.0, 0.5, -1.0)), samples=64, kl=0, weight=1.0, value_weight=1.0, gae_lambda=1.0, value_clip=10.0)
    made.policy.requires_grad_(False)
    step = made.build()
    value = step.modules[0]
    assert isinstance(value, ValueFunction)
    optimizer, batch = torch.optim.Adam(value.parameters(), 0.02), all_rows(4)
    for number in range(300):
        optimizer.param_groups[0]["lr"] = 0.02 * (1 - number / 300)
        optimizer.zero_grad()
        loss, logs = loss_of(step, batch, number)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    with torch.no_grad():
        codes, probability = torch.tensor(CODES), torch.stack([made.policy.probabilities(last) for last in (1, 2, 3, 4)])
        found = value(batch.history, codes.expand(4, -1, -1))  # [4, 4, 2]
    reward = torch.tensor([1.0, 0.0, 0.5, -1.0])
    whole = (probability * reward).sum(1)
    halves = [(probability * reward)[:, at].sum(1) / probability[:, at].sum(1) for at in (slice(0, 2), slice(2, 4))]
    torch.testing.assert_close(found[:, 0, 0], whole, atol=0.1, rtol=0)
    torch.testing.assert_close(found[:, 0, 1], halves[0], atol=0.1, rtol=0)
    torch.testing.assert_close(found[:, 3, 1], halves[1], atol=0.1, rtol=0)
    assert float(logs["explained_variance"]) > 0.2


def test_codes_after_a_prefix_do_not_change_its_value() -> None:
    value = ValueFunction(torch.eye(5), (2, 3, 4), 8)
    with torch.no_grad():
        value.output.weight.normal_(generator=torch.Generator().manual_seed(0))
    history, codes = torch.tensor([[0, 1, 2]]), torch.tensor([[[0, 1, 2], [0, 1, 3], [0, 2, 2], [1, 1, 2]]])
    found = value(history, codes)[0]
    assert torch.equal(found[0], found[1])  # the last code has no value after it
    assert torch.equal(found[0, :2], found[2, :2])
    assert found[0, 2] != found[2, 2]
    assert found[0, 0] == found[3, 0]
    assert found[0, 1] != found[3, 1]
    assert torch.equal(value(torch.tensor([[1, 2]]), codes)[0], found)  # padding changes nothing


def test_a_copy_draws_for_several_steps_and_clips_bound_the_policy() -> None:
    """With refresh 3 the ratio is 1 in steps 0 and 3 alone; values of the draw are those of step 0 until step 3."""
    made = world(refresh=3, samples=4, reward=Values((5.0, 0.0, 0.0, -5.0)), kl=0)
    step = made.build()
    optimizer = torch.optim.SGD([*made.policy.parameters(), *step.modules[0].parameters()], 20.0)
    clipped = []
    for number in range(4):
        loss, logs = loss_of(step, all_rows(4), number)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        clipped.append(float(logs["clip_share"]))
    assert clipped[0] == clipped[3] == 0.0
    assert clipped[1] > 0.0


@pytest.mark.parametrize("refresh", [1, 3])
def test_a_resumed_training_continues_bit_for_bit(refresh: int) -> None:
    made = world(refresh=refresh, samples=2)
    step, batch = made.build(), all_rows(4)

    def take(step: TrainingStep, policy: Drawing, numbers: range) -> list[float]:
        parameters, losses = [*policy.parameters(), *step.modules[0].parameters()], []
        for number in numbers:
            loss, _ = loss_of(step, batch, number)
            gradients = torch.autograd.grad(loss, parameters, allow_unused=True, materialize_grads=True)
            with torch.no_grad():
                for parameter, gradient in zip(parameters, gradients, strict=True):
                    parameter -= 0.5 * gradient
            losses.append(loss.item())
        return losses

    take(step, made.policy, range(2))
    saved = copy.deepcopy((made.policy.state_dict(), step.modules[0].state_dict()))
    state = {} if step.state is None else {name: each.clone() for name, each in step.state.tensors().items()}
    assert bool(state) == (refresh > 1)
    copies = [{name: value.clone() for name, value in each.tensors().items()} for each in made.copies]
    rest = take(step, made.policy, range(2, 6))
    again = world(refresh=refresh, samples=2)
    resumed = again.build()
    again.policy.load_state_dict(saved[0])
    resumed.modules[0].load_state_dict(saved[1])
    for each, kept in zip(again.copies, copies, strict=True):
        FixedTensors(each.tensors()).restore(kept)
    if resumed.state is not None:
        resumed.state.restore(state)
    assert take(resumed, again.policy, range(2, 6)) == rest


def short(objective: object, **fields: Any) -> Align:
    optimization = Optimization(max_steps=4, batch_size=8, learning_rate=1e-3, warmup_steps=1)
    return Align(objective=objective, optimization=optimization, validation=Validation(every=2), **fields)  # type: ignore[arg-type]


def policies() -> dict[str, Experiment]:
    base = cyclic(steps=2)
    whole = Tokenize(quantizer=ProductQuantizer(num_levels=4, codebook_size=8))
    rpg = RPG(d_model=16, d_ff=16, num_layers=1, num_heads=2)
    return {
        "tiger": base,
        "sasrec": replace(base, tokenize=None, policy=SASRec(d_model=8, d_ff=8)),
        "rpg": replace(base, tokenize=whole, policy=rpg),
    }


@pytest.mark.parametrize("name", ["tiger", "sasrec", "rpg"])
@pytest.mark.parametrize("refresh", [1, 2])
def test_every_kind_of_policy_trains_and_repeats_bit_for_bit(
    name: str, refresh: int, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tiger with two codes an item, SASRec and RPG with one; the artifact is equal when it is built again."""
    found = []
    for home in ("first", "second"):
        monkeypatch.setenv("GENREC_HOME", str(tmp_path / home))
        objective = ProximalPolicy(reward=Similarity(), samples=2, refresh=refresh, targets="all" if name != "tiger" else "one")
        align = short(objective, normalize="children" if name == "tiger" else "codes", keep="last")
        made = pipeline.run(replace(policies()[name], align=align), last="align")
        found.append(load_file(made["align"].folder / "policy.safetensors"))
        sft = load_file(made["sft"].folder / "policy.safetensors")
    assert all(torch.equal(found[0][key], found[1][key]) for key in found[0])
    assert any(not torch.equal(found[0][key], sft[key]) for key in sft)


def test_whitening_leaves_the_returns_as_they_are() -> None:
    """The value loss is the same with and without it; only the policy's loss is scaled."""
    plain, white = (loss_of(world(whiten=each, samples=8).build(), all_rows(4))[1] for each in (False, True))
    assert torch.equal(plain["value_loss"], white["value_loss"])
    assert not torch.equal(plain["policy_loss"], white["policy_loss"])
    assert generalized_advantages(torch.ones(1), torch.zeros(1)).tolist() == [1.0]
    assert clipped_value_loss(torch.zeros(1), torch.zeros(1), torch.ones(1)).tolist() == [0.5]


def test_what_an_experiment_lacks_is_refused() -> None:
    base = cyclic(steps=2)
    with pytest.raises(UsageError, match=r"ProximalPolicy needs probabilities of items that add up to 1"):
        replace(base, align=Align(ProximalPolicy()))
    with pytest.raises(UsageError, match=r"ProximalPolicy\.kl 0\.05 needs a reference, which SFT has not"):
        replace(policies()["sasrec"], sft=SFT(objective=ProximalPolicy()))
    assert replace(policies()["sasrec"], align=Align(Rounds(objectives=(Supervised(), ProximalPolicy()), steps=(50, 50))))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"samples": 0}, r"ProximalPolicy\.samples must be at least 1, got 0"),
        ({"refresh": 0}, r"ProximalPolicy\.refresh must be at least 1, got 0"),
        ({"clip": 1.0}, r"ProximalPolicy\.clip must be in \(0, 1\), got 1\.0"),
        ({"gae_lambda": 1.5}, r"ProximalPolicy\.gae_lambda must be in \[0, 1\], got 1\.5"),
        ({"discount": 0.0}, r"ProximalPolicy\.discount must be in \(0, 1\], got 0\.0"),
        ({"reward": "hit"}, r"ProximalPolicy\.reward must be a genrec\.types\.Reward"),
    ],
)
def test_values_out_of_range_are_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        ProximalPolicy(**fields)
