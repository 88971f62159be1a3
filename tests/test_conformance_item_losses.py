"""check_item_loss and the check of sequence_loss: correct losses pass, and each broken one raises the message of its rule."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from stable_ids import stable_id
from torch import Tensor
from torch.nn.functional import softplus

from genrec import check_command
from genrec.__main__ import main
from genrec.baselines import GBCE, GRU4Rec, SampledSoftmax, SASRec
from genrec.baselines.item_losses import uniform_negatives
from genrec.semantic_ids import SemanticIds
from genrec.testing import ContractError, check_item_loss, check_policy
from genrec.types import ItemLoss, Policy


def drawn(targets: Tensor, num_items: int, generator: torch.Generator) -> Tensor:
    return uniform_negatives(targets, 4, num_items, generator)


def pairwise(positive: Tensor, negatives: Tensor, num_items: int) -> Tensor:
    return softplus(negatives - positive.unsqueeze(1)).mean(1)


@dataclass(frozen=True)
class Mine:
    """A correct loss as a user would write it, or a broken one with another function."""

    draw: Any = drawn
    loss: Any = pairwise

    def draw_items(self, targets: Tensor, num_items: int, generator: torch.Generator) -> Tensor:
        return self.draw(targets, num_items, generator)

    def item_loss(self, positive: Tensor, negatives: Tensor, num_items: int) -> Tensor:
        return self.loss(positive, negatives, num_items)


@pytest.fixture(autouse=True)
def described(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """Skip the description, which losses made of functions do not have, except in the test of the description."""
    if "description" not in request.node.name:
        for module in ("item_loss_checks", "policy_checks"):
            monkeypatch.setattr(f"genrec.testing.{module}.describe", lambda *arguments: None)


@pytest.mark.parametrize(
    "loss",
    [GBCE(), GBCE(num_negatives=3, t=0.0), GBCE(num_negatives=300, t=1.0), SampledSoftmax(), SampledSoftmax(8, in_batch=0.5),
     SampledSoftmax(8, in_batch=1.0), SampledSoftmax(8, log_q=True), SampledSoftmax(60, in_batch=0.9, log_q=True), Mine()],
    ids=stable_id,
)  # fmt: skip
def test_correct_losses_pass(loss: ItemLoss) -> None:
    states = torch.get_rng_state()
    check_item_loss(loss)
    assert torch.equal(states, torch.get_rng_state())


def modified(targets: Tensor, num_items: int, generator: torch.Generator) -> Tensor:
    found = drawn(targets, num_items, generator)
    targets += 1
    return found


def global_draw(targets: Tensor, num_items: int, generator: torch.Generator) -> Tensor:
    return drawn(targets, num_items, generator) + 0 * torch.randint(2, (1,))


def counting() -> Callable[..., Tensor]:
    """Return a draw that depends on the number of calls."""
    calls: list[int] = []

    def draw(targets: Tensor, num_items: int, generator: torch.Generator) -> Tensor:
        calls.append(0)
        return ((targets - 1 + len(calls)) % num_items + 1).unsqueeze(1)

    return draw


def stateful() -> Callable[..., Tensor]:
    """Return a loss that depends on the number of calls."""
    calls: list[int] = []

    def loss(positive: Tensor, negatives: Tensor, num_items: int) -> Tensor:
        calls.append(0)
        return pairwise(positive, negatives, num_items) + 0.001 * len(calls)

    return loss


def in_place(positive: Tensor, negatives: Tensor, num_items: int) -> Tensor:
    found = pairwise(positive, negatives, num_items)
    with torch.no_grad():
        negatives += 1
    return found


def noisy(positive: Tensor, negatives: Tensor, num_items: int) -> Tensor:
    return pairwise(positive, negatives, num_items) + torch.rand(1)


def overflowing(positive: Tensor, negatives: Tensor, num_items: int) -> Tensor:
    return (1 + (negatives - positive.unsqueeze(1)).exp()).log().mean(1)


def subtracted(positive: Tensor, negatives: Tensor, num_items: int) -> Tensor:
    """Give -inf minus -inf in rows without a negative."""
    best = negatives.max(1).values
    return softplus(negatives - best.unsqueeze(1)).mean(1) + softplus(best - positive)


def whole_batch(positive: Tensor, negatives: Tensor, num_items: int) -> Tensor:
    return pairwise(positive, negatives, num_items) + positive.mean().detach()


BROKEN: dict[str, tuple[Any, str]] = {
    "class": (GBCE, r"GBCE does not implement ItemLoss: pass an instance, such as GBCE\(\), with draw_items"),
    "description": (Mine(), "Mine.draw|has no stable description"),
    "float": (Mine(lambda t, n, g: drawn(t, n, g).float()), r"draw_items must return int64 \[24, K\], got float32 \[24, 4\]"),
    "shape": (Mine(lambda t, n, g: drawn(t, n, g)[:, 0]), r"draw_items must return int64 \[24, K\], got int64 \[24\]"),
    "rows": (Mine(lambda t, n, g: drawn(t, n, g)[:3]), r"draw_items must return int64 \[24, K\], got int64 \[3, 4\]"),
    "one row": (Mine(lambda t, n, g: drawn(t, n, g).expand(max(2, len(t)), -1)), r"must return int64 \[1, K\], got int64 \[2, 4\]"),
    "no negatives": (Mine(lambda t, n, g: drawn(t, n, g)[:, :0]), "draw_items returned no negatives"),
    "unreal": (Mine(lambda t, n, g: drawn(t, n, g) + n), r"draw_items returned items \d+..\d+; items are 1..40, and 0 is none"),
    "own": (Mine(lambda t, n, g: t.unsqueeze(1).expand(-1, 4)), "draw_items returned target 1 as its own negative"),
    "draw raises": (Mine(lambda t, n, g: 1 / 0), "draw_items.* raised ZeroDivisionError"),
    "targets modified": (Mine(modified), "draw_items modified the targets in place"),
    "global draw": (Mine(global_draw), "torch's global generator was drawn from or seeded; draw from the generator that draw_items"),
    "draws by call": (Mine(counting()), "draw_items returns other negatives for a generator in the same state"),
    "reduced": (Mine(loss=lambda p, m, n: pairwise(p, m, n).mean()), r"float32 \[24\], one loss per target.*got float32 \[\]"),
    "double": (Mine(loss=lambda p, m, n: pairwise(p, m, n).double()), r"must return float32 \[24\].*got float64 \[24\]"),
    "none": (Mine(loss=lambda p, m, n: None), r"must return float32 \[24\].*got NoneType"),
    "loss raises": (Mine(loss=lambda p, m, n: 1 / 0), "item_loss.* raised ZeroDivisionError"),
    "scores modified": (Mine(loss=in_place), "item_loss modified the scores"),
    "noisy": (Mine(loss=noisy), "item_loss must be pure: draw in draw_items"),
    "detached": (Mine(loss=lambda p, m, n: pairwise(p, m, n).detach()), "the loss has no gradient; do not detach the scores"),
    "overflow": (Mine(loss=overflowing), "the loss is not finite for scores of -10000 for targets"),
    "subtracted": (Mine(loss=subtracted), "is not finite for scores with rows without a negative"),
    "gradient of none": (Mine(loss=lambda p, m, n: _pass_gradient(p, m)), r"a negative of none .* must be 0"),
    "state": (Mine(loss=stateful()), "a second call of item_loss with the same scores gives another loss"),
    "batch": (Mine(loss=whole_batch), "target 1 has the loss .* in a batch of 24 and .* alone"),
    "sign": (Mine(loss=lambda p, m, n: -pairwise(p, m.clamp(min=-99), n)), "at equal scores a descent step must raise the target"),
}  # fmt: skip


class _PassGradient(torch.autograd.Function):
    """The identity on finite values, -9 for -inf, with a gradient of 1 everywhere."""

    @staticmethod
    def forward(ctx: Any, scores: Tensor) -> Tensor:
        return scores.clamp(min=-9.0)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # type: ignore[override]
        return gradient


def _pass_gradient(positive: Tensor, negatives: Tensor) -> Tensor:
    return softplus(_PassGradient.apply(negatives) - positive.unsqueeze(1)).mean(1)


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_loss_raises(name: str) -> None:
    loss, message = BROKEN[name]
    with pytest.raises(ContractError, match=message):
        check_item_loss(loss)


@dataclass(frozen=True)
class Corrected(Mine):
    """A loss with a correction of its scores: 4 uniform negatives, and by default their probability."""

    inclusion: Any = lambda targets, items, num_items: SampledSoftmax(4, log_q=True).log_inclusion(targets, items, num_items)

    def log_inclusion(self, targets: Tensor, items: Tensor, num_items: int) -> Tensor | None:
        return self.inclusion(targets, items, num_items)


def shifted(targets: Tensor, items: Tensor, num_items: int) -> Tensor:
    targets += 1
    return torch.zeros(items.shape)


def random_inclusion(targets: Tensor, items: Tensor, num_items: int) -> Tensor:
    return -torch.rand(items.shape)


def changing() -> Callable[..., Tensor]:
    """Return a correction that depends on the number of calls."""
    calls: list[int] = []

    def inclusion(targets: Tensor, items: Tensor, num_items: int) -> Tensor:
        calls.append(0)
        return torch.full(items.shape, -2.2 - 0.01 * len(calls))

    return inclusion


def test_correct_corrections_pass() -> None:
    check_item_loss(Corrected())
    check_item_loss(Corrected(inclusion=lambda targets, items, num_items: None))


@pytest.mark.parametrize(
    ("inclusion", "message"),
    [
        (shifted, "log_inclusion modified its input in place"),
        (random_inclusion, "log_inclusion must be pure: draw in draw_items"),
        (changing(), "a second call of log_inclusion with the same items gives other values"),
        (lambda t, i, n: torch.zeros(i.shape).double(), r"must return None or float32 \[24, 41\], got float64 \[24, 41\]"),
        (lambda t, i, n: torch.zeros(len(t)), r"must return None or float32 \[24, 41\], got float32 \[24\]"),
        (lambda t, i, n: torch.zeros(i.shape).masked_fill(i == 0, -torch.inf), "returned values from -inf to 0; logarithms of prob"),
        (lambda t, i, n: torch.ones(i.shape), "returned values from 1 to 1; logarithms of probabilities are finite and at most 0"),
        (lambda t, i, n: torch.full(i.shape, -2.0), r"hold item \d+ at 2\.\d+ places, but .* add up to 3\.\d+; return the logarithm"),
        (lambda t, i, n: 1 / 0, "log_inclusion.* raised ZeroDivisionError"),
    ],
    ids=["modified", "draws", "state", "double", "shape", "infinite", "positive", "wrong", "raises"],
)
def test_a_broken_correction_raises(inclusion: Any, message: str) -> None:
    with pytest.raises(ContractError, match=message):
        check_item_loss(Corrected(inclusion=inclusion))


def test_the_command_checks_item_losses(capsys: pytest.CaptureFixture[str], tmp_path: Any) -> None:
    assert main(["check", "genrec.baselines:GBCE"]) == 0
    assert "GBCE(num_negatives=256, t=0.75) keeps its contract" in capsys.readouterr().out
    assert check_command.check(SampledSoftmax(), tmp_path) == [
        "SampledSoftmax(num_negatives=256, in_batch=0.0, log_q=False) keeps its contract"
    ]


# --- sequence_loss of a policy ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Trained:
    """SASRec with another `sequence_loss`, which gets the original one as its first argument."""

    own: Any
    causal: bool = True

    def has_history_states(self) -> bool:
        return True

    def build(self, semantic_ids: SemanticIds) -> Policy:
        policy = SASRec(d_model=8, d_ff=8, num_heads=1, dropout=0.2, loss=GBCE(num_negatives=4)).build(semantic_ids)
        original = policy.sequence_loss
        policy.sequence_loss = lambda *arguments: self.own(original, *arguments)  # type: ignore[method-assign, assignment]
        return policy


def own(original: Any, history: Tensor, targets: Tensor, generator: torch.Generator) -> Tensor | None:
    found: Tensor | None = original(history, targets, generator)
    return found


def sometimes(original: Any, history: Tensor, targets: Tensor, generator: torch.Generator) -> Tensor | None:
    return None if int((targets > 0).sum()) > len(targets) else own(original, history, targets, generator)


def by_global(original: Any, history: Tensor, targets: Tensor, generator: torch.Generator) -> Tensor | None:
    return original(history, targets, torch.default_generator)


def by_other_seed(original: Any, history: Tensor, targets: Tensor, generator: torch.Generator) -> Tensor | None:
    other = torch.Generator()
    other.seed()
    return original(history, targets, other)


def changes_history(original: Any, history: Tensor, targets: Tensor, generator: torch.Generator) -> Tensor | None:
    found = own(original, history, targets, generator)
    history[:, 0] = 0
    history[:, -1] = 1
    return found


def reads_ahead(original: Any, history: Tensor, targets: Tensor, generator: torch.Generator) -> Tensor | None:
    return original(history, targets, generator) + 0.01 * history[:, -1].float().mean()


def divides(original: Any, history: Tensor, targets: Tensor, generator: torch.Generator) -> Tensor | None:
    return original(history, targets, generator) / (targets[:, 0] > 0).sum()


def root(original: Any, history: Tensor, targets: Tensor, generator: torch.Generator) -> Tensor | None:
    found = original(history, targets, generator)
    return found + (found * 0).sqrt()


OWN: dict[str, tuple[Any, str]] = {
    "vector": (lambda f, *a: own(f, *a).unsqueeze(0), r"must return a scalar float32 \[\].*got float32 \[1\] with one target per"),  # type: ignore[union-attr]
    "double": (lambda f, *a: own(f, *a).double(), r"must return a scalar float32 \[\].*got float64 \[\]"),  # type: ignore[union-attr]
    "number": (lambda f, *a: 1.0, r"must return a scalar float32 \[\].*got float with"),
    "raises": (lambda f, *a: 1 / 0, "sequence_loss with one target per history raised ZeroDivisionError"),
    "not finite": (divides, "sequence_loss returned inf with one target per history; leave out places with the target 0"),
    "sometimes none": (sometimes, "sequence_loss returned None with a target after every item, and a loss otherwise"),
    "global": (by_global, "torch's global generator was drawn from or seeded; draw from the generator that sequence_loss gets"),
    "other seed": (by_other_seed, "sequence_loss returns another loss for a generator in the same state"),
    "in place": (changes_history, "sequence_loss modified its input in place"),
    "ahead": (reads_ahead, "sequence_loss of a target depends on items after its place"),
    "detached": (lambda f, *a: own(f, *a).detach(), "sequence_loss has no gradient in training mode"),  # type: ignore[union-attr]
    "gradient": (root, "sequence_loss gives .* a gradient that is not finite"),
}  # fmt: skip


@pytest.mark.parametrize("name", OWN)
def test_a_broken_sequence_loss_raises(name: str) -> None:
    loss, message = OWN[name]
    with pytest.raises(ContractError, match=message):
        check_policy(Trained(loss))


@pytest.mark.parametrize(
    "policy",
    [Trained(own), Trained(lambda *arguments: None), SASRec(d_model=8, d_ff=8, loss=SampledSoftmax(4, in_batch=0.5)),
     GRU4Rec(d_model=8, hidden_size=8, loss=GBCE(num_negatives=4))],
    ids=["same", "none", "sasrec", "gru4rec"],
)  # fmt: skip
def test_policies_with_a_correct_sequence_loss_pass(policy: Any) -> None:
    check_policy(policy)
