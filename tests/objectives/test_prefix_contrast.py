"""The contrast of prefixes (APAO): its losses and weights by hand, its training in SFT and in alignment, and what it refuses."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor
from worlds import cyclic

from genrec import pipeline
from genrec.data.splits import LeaveOneOut
from genrec.errors import UsageError
from genrec.evaluation.evaluate import Evaluate
from genrec.experiment import Align, Experiment, Optimization, Tokenize, Validation
from genrec.model import RPG, Tiger
from genrec.objectives import PrefixContrast, Supervised
from genrec.objectives.prefix_contrast import prefix_counts, prefix_losses, prefix_weights
from genrec.overrides import override
from genrec.preference.candidates import InvalidIds, Rollouts, Sampled, TopItems
from genrec.preference.negatives import Uniform
from genrec.testing import Cyclic
from genrec.tokenizer import RQKMeans

TARGET = torch.tensor([[-0.5, -0.9, -0.4, -0.1]])
NEGATIVES = torch.tensor([[[-0.5, -1.6, -0.2, -0.3], [-2.0, -0.3, -0.6, -0.2]]])  # the first one shares code 1
DIFFERS = torch.tensor([[[False, True, True, True], [True, True, True, True]]])


def test_losses_and_weights_of_the_published_code() -> None:
    """Level 1 has one negative: -log(e^-.5 / (e^-.5 + e^-2)) = .2014."""
    losses = prefix_losses(TARGET, NEGATIVES, DIFFERS)
    torch.testing.assert_close(losses, torch.tensor([0.201413278, 0.321756508, 0.220793182, 0.146638075]))
    assert float((prefix_weights(losses, 0) * losses).sum()) == pytest.approx(0.240676692)
    assert float((prefix_weights(losses, 1) * losses).sum()) == pytest.approx(0.244970065)


def test_different_prefixes_are_counted() -> None:
    assert prefix_counts(torch.tensor([[0, 1, 2], [0, 1, 3], [0, 2, 2], [1, 1, 2], [1, 1, 2]])) == [2, 3, 4]


def test_the_negatives_stand_for_all_prefixes() -> None:
    """Two negatives at level 2 of 7 prefixes: (7 - 1) / (1 + 2) = 2 times their sum; one at level 1 of 3: (3 - 1) / (1 + 1) = 1."""
    losses = prefix_losses(TARGET[:, :2], NEGATIVES[..., :2], DIFFERS[..., :2], [3, 7])
    chosen, others = math.exp(-1.4), 2 * (math.exp(-2.1) + math.exp(-2.3))
    expected = [0.201413278, -math.log(chosen / (chosen + others)) / 2]
    torch.testing.assert_close(losses, torch.tensor(expected))


def test_rows_without_a_negative_add_0_and_have_a_finite_gradient() -> None:
    target = TARGET.repeat(2, 1).requires_grad_()
    masked = torch.full_like(NEGATIVES, -torch.inf)
    negatives = torch.cat([NEGATIVES, masked]).requires_grad_()
    losses = prefix_losses(target, negatives, torch.cat([DIFFERS, torch.zeros_like(DIFFERS)]), [1, 2, 3, 4])
    alone = prefix_losses(TARGET, NEGATIVES, DIFFERS, [1, 2, 3, 4])
    torch.testing.assert_close(losses, alone / 2)
    losses.sum().backward()
    for each in (target, negatives):
        assert each.grad is not None
        assert each.grad.isfinite().all()
        assert (each.grad[1] == 0).all()


def test_shared_prefixes_have_no_gradient() -> None:
    negatives = NEGATIVES.clone().requires_grad_()
    prefix_losses(TARGET, negatives, DIFFERS)[0].backward()
    assert negatives.grad is not None
    assert negatives.grad[0, 0].tolist() == [0, 0, 0, 0]
    assert negatives.grad[0, 1, 0] > 0


def test_the_gradient_is_that_of_finite_differences() -> None:
    draw = torch.Generator().manual_seed(0)
    target = torch.randn(3, 4, dtype=torch.float64, generator=draw, requires_grad=True)
    negatives = torch.randn(3, 2, 4, dtype=torch.float64, generator=draw, requires_grad=True)
    assert torch.autograd.gradcheck(lambda *each: prefix_losses(*each, DIFFERS.expand(3, 2, 4), [3, 5, 7, 9]), (target, negatives))


def test_weights_of_equal_and_of_vanished_losses() -> None:
    def rounded(weights: Tensor) -> list[float]:
        return [round(float(each), 4) for each in weights]

    assert rounded(prefix_weights(torch.tensor([0.2, 0.2]), 3)) == [0.5, 0.5]
    assert rounded(prefix_weights(torch.zeros(4), 1)) == [0.25] * 4
    assert rounded(prefix_weights(torch.tensor([0.0, 500.0]), 1)) == [0.0, 1.0]


SMALL: dict[str, Any] = {"d_model": 32, "d_ff": 64, "num_heads": 2, "d_kv": 16, "dropout": 0.0, "num_beams": 12}
TIGER = Tiger(**SMALL, num_encoder_layers=1, num_decoder_layers=1, history="items", encoder="causal")


@pytest.fixture(scope="module", autouse=True)
def home(tmp_path_factory: pytest.TempPathFactory) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GENREC_HOME", str(tmp_path_factory.mktemp("prefixes") / "data"))
        yield


def curves(experiment: Experiment, stage: str) -> pd.DataFrame:
    return pd.read_parquet(pipeline.run(experiment)[stage].folder / "curves.parquet")


def in_sft(steps: int, objective: Any) -> Experiment:
    short = cyclic(steps=steps)
    sft = replace(short.sft, objective=objective, optimization=replace(short.sft.optimization, warmup_steps=0))
    return replace(short, name="cyclic-prefixes", policy=TIGER, sft=sft, align=None)


def test_sft_with_weight_0_is_the_likelihood() -> None:
    """Bit for bit, without dropout: the candidates' pass gives the target the same log-probabilities."""
    ours, theirs = (in_sft(12, each) for each in (PrefixContrast(weight=0, candidates=Sampled(Uniform(), 4)), Supervised()))
    rows = [curves(each, "sft")["validation_ndcg@10"].dropna().tolist() for each in (ours, theirs)]
    assert rows[0] == pytest.approx(rows[1], abs=1e-6)


def test_the_vectors_are_a_part_of_what_sft_reads() -> None:
    """An objective may read the training data, so its artifact depends on all of them; that of the likelihood does not."""
    for objective, parents in ((PrefixContrast(), {"data", "embed", "tokenize"}), (Supervised(), {"data", "tokenize"})):
        (step,) = (each for each in pipeline.plan(in_sft(1, objective)) if each.stage == "sft")
        assert set(step.parents) == parents


@pytest.mark.parametrize("targets", ["one", "all"])
def test_prefixes_win_in_sft(targets: Any) -> None:
    found = curves(in_sft(60, PrefixContrast(weight=1.0, candidates=Sampled(Uniform(), 16), targets=targets)), "sft")
    logged = found[found["prefix_loss"].notna()]
    assert logged["prefix_loss"].iloc[-1] < 0.7 * logged["prefix_loss"].iloc[0]
    assert logged["prefix_loss_1"].notna().all()
    assert found["validation_ndcg@10"].dropna().iloc[-1] > 0.2


def ten_items(objective: PrefixContrast) -> Experiment:
    """Return SFT on 10 items, of which the history holds 5 at most; 2 codes of 4 and a third one tell them apart."""
    source, ids = Cyclic(num_items=10, num_users=40, length=8), Tokenize(quantizer=RQKMeans(num_levels=2, codebook_size=4))
    short = in_sft(3, objective)
    return replace(short, name="ten", source=source, split=LeaveOneOut(core=0), tokenize=ids, evaluate=Evaluate(cutoffs=(1, 5)))


def test_a_catalog_of_10_items_needs_fewer_negatives_than_the_default() -> None:
    """The default of 100 is refused after the data stage, with the flag of SFT, which sets it."""
    built: list[str] = []
    with pytest.raises(UsageError, match=r"number of items, 10, got 100: .* at most 9, .* --sft\.num-negatives in SFT$"):
        pipeline.run(ten_items(PrefixContrast()), on_artifact=lambda artifact: built.append(artifact.stage))
    assert built == [], "no artifact is handed on, not even that of the data"
    (lowered,) = override([ten_items(PrefixContrast())], ["--sft.num-negatives", "9"])
    assert lowered == ten_items(PrefixContrast(candidates=Sampled(Uniform(), 9)))
    logged = curves(lowered, "sft").filter(like="prefix_loss").dropna()
    assert len(logged) > 0
    assert np.isfinite(logged).all(axis=None)


@pytest.mark.parametrize("candidates", [TopItems(size=8), Rollouts(size=8)])
def test_an_alignment_takes_candidates_of_the_policy(candidates: Any) -> None:
    """The target first, or wherever the policy lists it: it is compared with all others."""
    short = cyclic(steps=10)
    align = Align(
        PrefixContrast(weight=1.0, candidates=candidates), keep="last",
        optimization=Optimization(max_steps=20, batch_size=32, learning_rate=2e-3), validation=Validation(every=10),
    )  # fmt: skip
    found = curves(replace(short, name="cyclic-prefixes-aligned", policy=TIGER, align=align), "align")
    scores = found["validation_ndcg@10"].dropna()
    assert scores.iloc[-1] > scores.iloc[0]


def test_a_policy_without_levels_is_refused() -> None:
    experiment = in_sft(1, PrefixContrast())
    with pytest.raises(UsageError, match="PrefixContrast needs the log-probabilities of prefixes"):
        replace(experiment, policy=RPG(d_model=32, num_layers=1))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"weight": -1.0}, "weight must be"),
        ({"eta": -1.0}, "eta must be"),
        ({"candidates": Uniform()}, "candidates must be a proposer, such as Sampled"),
        ({"candidates": InvalidIds()}, "candidates must be items for the rows of the training data"),
    ],
)
def test_settings_without_meaning_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        PrefixContrast(**change)
