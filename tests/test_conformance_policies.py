"""The checks of policies: correct policies pass, and each broken policy gets a message that names the violated rule."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import pytest
import torch
from stable_ids import stable_id
from torch import Tensor, nn

from genrec.__main__ import main
from genrec.baselines import GBCE, GRU4Rec, SASRec
from genrec.errors import UsageError
from genrec.item_rows import prefixes
from genrec.model import RPG, Gpt, Tiger
from genrec.preference.negatives import Uniform
from genrec.semantic_ids import SemanticIds
from genrec.testing import ContractError, check_policy
from genrec.testing.component_checks import builds_policy
from genrec.types import Policy, Ranking, SequencePolicy

DIGITS: dict[str, Any] = {"d_model": 16, "d_ff": 32, "num_heads": 2, "num_layers": 1}
SMALL = {"d_model": 16, "d_ff": 32, "num_heads": 2, "d_kv": 8}


class LastItem(nn.Module):
    """A correct policy in a few lines: a softmax over each level's codes, from the last two items."""

    def __init__(self, semantic_ids: SemanticIds) -> None:
        super().__init__()
        self.semantic_ids, self.items = semantic_ids, semantic_ids.items
        self.last = nn.Embedding(self.items + 1, 8)
        self.heads = nn.ModuleList(nn.Linear(8, size) for size in semantic_ids.level_sizes)
        self.register_buffer("codes", nn.functional.pad(semantic_ids.codes, (0, 0, 1, 0)), persistent=False)

    def states(self, history: Tensor) -> Tensor:
        padded = nn.functional.pad(history, (1, 0))
        return self.last(padded[:, -1]) + 0.5 * self.last(padded[:, -2])

    def level_log_prob(self, history: Tensor, items: Tensor) -> Tensor:
        levels = [head(self.states(history)).log_softmax(-1) for head in self.heads]
        codes = self.codes[items]
        found = torch.stack([each.gather(1, codes[..., level]) for level, each in enumerate(levels)], -1)
        return found.masked_fill((items == 0).unsqueeze(-1), -torch.inf)

    def log_prob(self, history: Tensor, items: Tensor) -> Tensor:
        return self.level_log_prob(history, items).sum(-1)

    @torch.no_grad()
    def recommend(self, history: Tensor, n: int, exclude: Tensor | None = None) -> Ranking:
        scores = self.log_prob(history, torch.arange(self.items + 1).expand(len(history), -1))
        if exclude is not None:
            scores = scores.scatter(1, exclude, -torch.inf)
        scores, items = scores.sort(dim=1, descending=True, stable=True)
        return Ranking(items[:, :n].masked_fill(scores[:, :n] == -torch.inf, 0), scores[:, :n])


class Sequences(LastItem):
    """LastItem as a `SequencePolicy`."""

    def sequence_log_prob(self, history: Tensor, targets: Tensor) -> Tensor:
        places = range(history.shape[1])
        return torch.cat([self.level_log_prob(history[:, : t + 1], targets[:, t : t + 1]) for t in places], 1)


class Windows(LastItem):
    """LastItem as a `WindowPolicy` and, on one level, a `CatalogPolicy`."""

    def place_level_log_prob(self, history: Tensor, places: Tensor, items: Tensor) -> Tensor:
        return self.level_log_prob(prefixes(history, places), items)

    def catalog_log_prob(self, history: Tensor, places: Tensor) -> Tensor:
        return self.heads[0](self.states(prefixes(history, places))).log_softmax(-1)


class Exact(LastItem):
    def recommend_exactly(self, history: Tensor, n: int, exclude: Tensor | None = None) -> Ranking:
        return self.recommend(history, n, exclude)


@dataclass(frozen=True)
class Made:
    """A specification that builds `policy_class` and replaces `methods`; a replacement gets the policy and the original method."""

    policy_class: Any = LastItem
    methods: Any = ()

    def build(self, semantic_ids: SemanticIds) -> Policy:
        policy = self.policy_class(semantic_ids)
        for name, method in self.methods:
            original = getattr(policy, name)
            setattr(policy, name, lambda *arguments, f=original, method=method, policy=policy: method(policy, f, *arguments))
        return policy


@dataclass(frozen=True)
class MadeCausal(Made):
    policy_class: Any = Sequences
    causal: ClassVar[bool] = True


@dataclass(frozen=True)
class Atomic(Made):
    """Refuses Semantic IDs of several levels."""

    def build(self, semantic_ids: SemanticIds) -> Policy:
        if semantic_ids.levels > 1:
            raise UsageError("one level only")
        return super().build(semantic_ids)


@dataclass(frozen=True)
class Window(Made):
    """Builds a `Windows` policy of one level, so that its catalog is a softmax over all items."""

    policy_class: Any = Windows

    def build(self, semantic_ids: SemanticIds) -> Policy:
        if semantic_ids.levels > 1:
            raise UsageError("one level only")
        return super().build(semantic_ids)


@dataclass(frozen=True)
class Whole(Made):
    """Says that its policy scores an item as one code."""

    def scores_whole_items(self) -> bool:
        return True


@pytest.mark.parametrize(
    "specification",
    [
        Tiger(**SMALL, num_encoder_layers=1, num_decoder_layers=1),
        Tiger(**SMALL, num_encoder_layers=1, num_decoder_layers=1, history="items"),
        SASRec(d_model=16, d_ff=16), SASRec(d_model=16, d_ff=16, loss=GBCE(num_negatives=4)),
        GRU4Rec(d_model=16, hidden_size=24), GRU4Rec(d_model=16, hidden_size=24, num_layers=2, tied=False),
        Gpt(**SMALL, num_layers=2), Gpt(**SMALL, num_layers=1, recency_positions=0), Made(), MadeCausal(), Made(Exact), Atomic(),
        Window(), RPG(**DIGITS), RPG(**DIGITS, item_embedding=True), RPG(**DIGITS, loss=GBCE(num_negatives=4)),
        RPG(**DIGITS, normalization="digits", temperature=0.3), RPG(**DIGITS, repeat_score=True),
        SASRec(d_model=16, d_ff=16, repeat_score=True),
    ],
    ids=stable_id,
)  # fmt: skip
def test_correct_policies_pass(specification: Any) -> None:
    states = torch.get_rng_state()
    check_policy(specification)
    assert torch.equal(states, torch.get_rng_state())


def test_semantic_ids_of_your_own() -> None:
    check_policy(Gpt(**SMALL, num_layers=1), SemanticIds(torch.cartesian_prod(torch.arange(5), torch.arange(6))))


Method = Callable[..., Any]


def broken(**methods: Method) -> Made:
    return Made(methods=tuple(methods.items()))


def with_items(change: Callable[[Tensor], Tensor]) -> Method:
    """Return a `recommend` with changed items."""
    return lambda policy, original, *a: original(*a)._replace(items=change(original(*a).items))


def with_log_prob(level_log_prob: Method) -> Made:
    """Replace `level_log_prob`; the other methods follow from it."""
    return broken(level_log_prob=level_log_prob)


def without_exclude(policy: Any, original: Method, history: Tensor, n: int, exclude: Tensor | None = None) -> Ranking:
    return original(history, n)


def mask_of_first_row(policy: Any, original: Method, history: Tensor, items: Tensor) -> Tensor:
    """Use the padding mask of the first row for all rows."""
    return original(history, items) - 0.1 * (history[0] == 0).sum()


def normalized_over_candidates(policy: Any, original: Method, history: Tensor, items: Tensor) -> Tensor:
    """Normalize over the given candidates."""
    return original(history, items) - 0.01 * items.shape[1]


def in_place(policy: Any, original: Method, history: Tensor, items: Tensor) -> Tensor:
    found = original(history, items)
    history[:, 0] = 0
    return found


def noisy(policy: Any, original: Method, history: Tensor, items: Tensor) -> Tensor:
    """Like dropout that stays on in evaluation."""
    return original(history, items) - torch.rand(()).item()


def not_a_distribution(policy: Any, original: Method, history: Tensor, items: Tensor) -> Tensor:
    return original(history, items) / 3


def nan_gradient(policy: Any, original: Method, history: Tensor, items: Tensor) -> Tensor:
    """The root of a masked value: 0, with a gradient of infinity times 0."""
    return original(history, items) + (policy.last.weight[0, 0] * 0).sqrt()


def without_causal_mask(policy: Any, original: Method, history: Tensor, targets: Tensor) -> Tensor:
    """Use the whole history at each place, as without a causal mask."""
    return policy.level_log_prob(history, targets)


def only_next(policy: Any, original: Method, history: Tensor, targets: Tensor) -> Tensor:
    """Ignore the targets and score the next items of the history."""
    return original(history, torch.cat([history[:, 1:], targets[:, -1:]], 1).masked_fill(targets == 0, 0))


class OutsideStateDict(LastItem):
    """Has a random value outside the state dict."""

    def __init__(self, semantic_ids: SemanticIds) -> None:
        super().__init__(semantic_ids)
        self.temperature = 1 + torch.rand(())

    def states(self, history: Tensor) -> Tensor:
        return super().states(history) * self.temperature


class Unseeded(LastItem):
    def __init__(self, semantic_ids: SemanticIds) -> None:
        super().__init__(semantic_ids)
        nn.init.normal_(self.last.weight, generator=torch.Generator().manual_seed(torch.seed()))


class Pruned(Exact):
    """Exact, except that the best item is missing."""

    def recommend_exactly(self, history: Tensor, n: int, exclude: Tensor | None = None) -> Ranking:
        longer = self.recommend(history, n + 1, exclude)
        return Ranking(longer.items[:, 1:], longer.scores[:, 1:])


def whole_window(policy: Any, original: Method, history: Tensor, places: Tensor, items: Tensor) -> Tensor:
    """Score after the end of the window instead of after the place."""
    return policy.level_log_prob(history[places[:, 0]], items)


def sorted_places(policy: Any, original: Method, history: Tensor, places: Tensor, items: Tensor) -> Tensor:
    """Score the places in the order of the windows."""
    return original(history, places[places[:, 0].argsort(stable=True)], items)


def broken_window(**methods: Method) -> Window:
    return Window(methods=tuple(methods.items()))


BROKEN: dict[str, tuple[Any, str]] = {
    "function": (Uniform, "Uniform does not implement PolicySpecification: pass an instance"),
    "not a policy": (Made(lambda ids: nn.Linear(2, 2)), r"build must return a torch.nn.Module with level_log_prob.*got Linear"),
    "build raises": (Made(lambda ids: 1 / 0), "build raised ZeroDivisionError"),
    "unseeded": (Made(Unseeded), "two policies built with the same torch seed differ in last.weight"),
    "hidden state": (Made(OutsideStateDict), "that has loaded this one's state_dict gives other log-probabilities"),
    "undescribed": (Made(methods=(("log_prob", object()),)), "has no stable description"),
    "shape": (with_log_prob(lambda p, r, *a: r(*a).sum(-1)), r"must return a tensor float32 \[6, 41, 3\], got float32 \[6, 41\]"),
    "type": (with_log_prob(lambda p, r, *a: r(*a).double()), r"must return a tensor float32 \[6, 41, 3\], got float64"),
    "none": (with_log_prob(lambda p, r, *a: r(*a).clamp(min=-9)), "candidate 0 .none. must be -inf on every level, got .-9.0, "),
    "positive": (with_log_prob(lambda p, r, *a: r(*a) + 9), "must be at most 0 and not NaN"),
    "more than 1": (with_log_prob(not_a_distribution), r"the probabilities of all 40 items add up to [\d.]+, which is more than 1"),
    "mean": (broken(log_prob=lambda p, r, *a: r(*a) / 3), "log_prob is not the sum of level_log_prob over levels"),
    "empty": (
        with_log_prob(lambda p, r, h, i: r(h, i) - (h > 0).sum(1)[:, None, None].float() ** -1),
        "an empty history .all 0. must have finite log-probabilities",
    ),
    "padding": (with_log_prob(lambda p, r, h, i: r(h, i) - 0.01 * h.shape[1]), "alone than padded to 6 in a batch of longer ones"),
    "batch": (with_log_prob(mask_of_first_row), "alone than padded to 6 in a batch of longer ones"),
    "candidates": (with_log_prob(normalized_over_candidates), "a candidate has other log-probabilities when other candidates change"),
    "in place": (with_log_prob(in_place), "level_log_prob modified its input"),
    "noisy": (with_log_prob(noisy), "log_prob is not the sum|level_log_prob returns other values when it is called again"),
    "detached": (with_log_prob(lambda p, r, *a: r(*a).detach()), "log-probabilities have no gradient"),
    "NaN gradient": (with_log_prob(nan_gradient), "the gradient of last.weight is not finite in a row with a candidate 0"),
    "tuple": (broken(recommend=lambda p, r, *a: tuple(r(*a))), "recommend must return a genrec.types.Ranking .*got tuple"),
    "list type": (broken(recommend=with_items(Tensor.int)), "recommend must return a genrec.types.Ranking .*got int32"),
    "unreal": (broken(recommend=with_items(lambda i: i + 40)), r"recommend returned items \d+..\d+; items are 1..40"),
    "twice": (broken(recommend=with_items(lambda i: i[:, :1].expand(-1, 10))), "returned an item twice in one list"),
    "unsorted": (
        broken(recommend=lambda p, r, *a: Ranking(r(*a).items.flip(1), r(*a).scores.flip(1))), "must return the best item first",
    ),
    "excluded": (broken(recommend=without_exclude), r"returned item \d+, which `exclude` contains"),
    "scores": (broken(recommend=lambda p, r, *a: r(*a)._replace(scores=r(*a).scores / 3)), "score of an item must be its log_prob"),
    "short": (broken(recommend=lambda p, r, h, n, e: r(h, n - 1, e)), r"scores float32 \[6, 10\], got int64 \[6, 9\]"),
    "not exact": (Made(Pruned), "recommend_exactly must return the best of all items"),
    "window": (broken_window(place_level_log_prob=whole_window), "place_level_log_prob is not the score of every prefix"),
    "order of places": (broken_window(place_level_log_prob=sorted_places), "place_level_log_prob is not the score of every prefix"),
    "window detached": (
        broken_window(place_level_log_prob=lambda p, r, *a: r(*a).detach()), "place_level_log_prob has no gradient",
    ),
    "window gradient": (
        broken_window(place_level_log_prob=lambda p, r, *a: r(*a) + (p.heads[0].bias - p.heads[0].bias.detach()).sum()),
        "place_level_log_prob has other gradients than the scores of every prefix",
    ),
    "window shape": (
        broken_window(place_level_log_prob=lambda p, r, *a: r(*a).sum(-1)),
        r"place_level_log_prob must return float32 \[24, 3, 1\], got float32 \[24, 3\]",
    ),
    "catalog": (broken_window(catalog_log_prob=lambda p, r, *a: r(*a).flip(1)), "catalog_log_prob is not the score of every prefix"),
    "catalog of codes": (
        Made(Windows), r"the policy has catalog_log_prob, so scores_whole_items\(\) of its specification must return True",
    ),
    "no catalog": (Whole(), r"the policy has no catalog_log_prob, so scores_whole_items\(\) of its specification must return False"),
    "levels of a catalog": (
        Whole(Windows), r"level_log_prob must return a tensor float32 \[6, 41, 1\], got float32 \[6, 41, 3\]",
    ),
    "causal missing": (Made(Sequences), "give its specification a class variable causal = True"),
    "not causal": (MadeCausal(LastItem), "causal is true, but the policy has no sequence_log_prob"),
    "future": (MadeCausal(methods=(("sequence_log_prob", without_causal_mask),)), "next items as targets is not level_log_prob"),
    "next only": (MadeCausal(methods=(("sequence_log_prob", only_next),)), "with arbitrary targets is not level_log_prob"),
}  # fmt: skip


@pytest.fixture(autouse=True)
def described(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """Skip the description, which policies made of functions do not have, except in the test of the description."""
    if "undescribed" not in request.node.name:
        monkeypatch.setattr("genrec.testing.policy_checks.describe", lambda *arguments: None)


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_policy_raises(name: str) -> None:
    specification, message = BROKEN[name]
    with pytest.raises(ContractError, match=message):
        check_policy(specification)


def test_the_unbroken_policies_fill_their_protocols() -> None:
    assert isinstance(LastItem(SemanticIds(torch.arange(4)[:, None])), Policy)
    assert isinstance(Sequences(SemanticIds(torch.arange(4)[:, None])), SequencePolicy)


def test_the_command_line_checks_policies(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "genrec.model:Tiger"]) == 0
    assert "Tiger(d_model=None, " in capsys.readouterr().out
    assert main(["check", "genrec.experiment:Evaluate"]) == 2
    assert "implements none of the protocols that genrec can check" in capsys.readouterr().err


@pytest.mark.slow
def test_the_command_line_checks_the_default_size_of_gpt(capsys: pytest.CaptureFixture[str]) -> None:
    """A small one is checked in `test_correct_policies_pass`."""
    assert main(["check", "genrec.model:Gpt"]) == 0
    assert "Gpt(d_model=128, " in capsys.readouterr().out


def test_builds_policy_distinguishes_policies_from_samplers() -> None:
    assert builds_policy(Gpt())
    assert not builds_policy(Uniform())
