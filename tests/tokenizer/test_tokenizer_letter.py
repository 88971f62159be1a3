"""LETTER: its terms by vectors and by hand, clusters of codes, what it learns, what it leaves unchanged, and errors."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import exp, log
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from pandas import DataFrame
from sklearn.metrics import normalized_mutual_info_score
from worlds import cyclic

from genrec import overrides, pipeline
from genrec.data.corpus import Corpus
from genrec.embeddings import Collaborative, Item2Vec, TfidfSvd
from genrec.errors import InputError, UsageError
from genrec.tokenizer import LETTER, RQVAE, Tokenize, autoencoder_training, extend, load_tokenized, save_tokenized, tokenize
from genrec.tokenizer.letter_loss import CodeClusters, LetterTerms, alignment_loss, diversity_loss
from genrec.types import InteractionQuantizer, Quantizer

SMALL = RQVAE(num_levels=2, codebook_size=8, hidden_dims=(32,), latent_dim=8, epochs=4, batch_size=128, codebook_update="gradient")
NEW = 40  # last items of `two_views`, without interactions


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def catalog(count: int) -> DataFrame:
    return DataFrame({"item_id": [f"i{item}" for item in range(count)], "text": ["a word"] * count})


@dataclass(frozen=True)
class Fixed:
    """An item encoder with given vectors, a row for each item."""

    vectors: Any

    def encode(self, items: DataFrame, interactions: DataFrame) -> np.ndarray:
        return np.asarray(self.vectors, dtype=np.float32)[: len(items)]


@dataclass(frozen=True)
class Views:
    vectors: np.ndarray  # float32 [N, D]
    look: np.ndarray  # int64 [N]  group of which the vectors tell much
    taste: np.ndarray  # int64 [N]  group of which the vectors tell little, and the interactions all
    interactions: DataFrame


def two_views(items: int = 400, users: int = 300, events: int = 12) -> Views:
    """Return items of eight looks and, independently, four tastes. Each user has one taste and takes none of the last `NEW` items."""
    random = np.random.default_rng(0)
    look, taste = random.integers(0, 8, items), random.integers(0, 4, items)
    strong, weak = 3 * random.normal(size=(8, 12)), 0.6 * random.normal(size=(4, 12))
    vectors = strong[look] + weak[taste] + 0.3 * random.normal(size=(items, 12))
    known = [np.flatnonzero(taste[:-NEW] == group) + 1 for group in range(4)]
    taken = np.concatenate([random.choice(known[user % 4], events, replace=False) for user in range(users)])
    user = np.repeat(np.arange(1, users + 1), events)
    return Views(vectors.astype(np.float32), look, taste, DataFrame({"user": user, "item": taken, "time": np.arange(len(user))}))


def fit(specification: LETTER, views: Views, seed: int = 0) -> Any:
    return specification.fit_interactions(views.vectors, catalog(len(views.vectors)), views.interactions, seeded(seed))


@pytest.fixture(scope="module")
def views() -> Views:
    return two_views()


def test_alignment_by_vector_and_by_hand() -> None:
    """The first row of z1 z2' is (.8, .1, .6): log(e^.8 + e^.1 + e^.6) - .8; the second (.2, .9, .3), the third (.5, .5, .45)."""
    quantized, collaborative = torch.tensor([[1.0, 0], [0, 1], [0.5, 0.5]]), torch.tensor([[0.8, 0.2], [0.1, 0.9], [0.6, 0.3]])
    rows = [((0.8, 0.1, 0.6), 0.8), ((0.2, 0.9, 0.3), 0.9), ((0.5, 0.5, 0.45), 0.45)]
    by_hand = sum(log(sum(map(exp, scores))) - target for scores, target in rows) / 3
    found = alignment_loss(quantized.double(), collaborative.double()).item()
    assert found == pytest.approx(by_hand, abs=1e-7)
    assert found == pytest.approx(0.895786638, abs=1e-6)


def test_diversity_by_vector_and_by_hand() -> None:
    """Scores of (1, .5): (1.25, 1.1, -1, -.5). The first is the item's own code, so the loss is log(e^1.1 + e^-1 + e^-.5) - 1.1."""
    codebook = torch.tensor([[1, 0.5], [0.9, 0.4], [-1, 0], [0, -1]], dtype=torch.float64)
    loss = diversity_loss(codebook[:1], codebook, torch.tensor([0]), torch.tensor([1]))
    assert float(loss) == pytest.approx(log(exp(1.1) + exp(-1) + exp(-0.5)) - 1.1, abs=1e-12)
    assert float(loss) == pytest.approx(0.280923998, abs=1e-8)


def test_a_code_without_another_in_its_cluster_counts_zero() -> None:
    codebook = torch.tensor([[1.0, 0.5], [0.9, 0.4], [-1, 0]], requires_grad=True)
    codes = torch.tensor([0, 2])
    both = diversity_loss(codebook[codes], codebook, codes, torch.tensor([1, -1]))
    alone = diversity_loss(codebook[:1], codebook, codes[:1], torch.tensor([1]))
    assert both.item() == pytest.approx(alone.item() / 2)
    none = diversity_loss(codebook[codes], codebook, codes, torch.tensor([-1, -1]))
    none.backward()
    assert none.item() == 0
    assert codebook.grad is not None
    assert not codebook.grad.any()


def test_gradients_against_finite_differences() -> None:
    quantized, collaborative = (torch.randn(5, 3, dtype=torch.float64, generator=seeded(place)) for place in (0, 1))
    codebook, codes, positives = torch.randn(4, 3, dtype=torch.float64, generator=seeded(2)), torch.tensor([0, 1, 3]), [2, 0, -1]
    assert torch.autograd.gradcheck(lambda z: alignment_loss(z, collaborative), quantized.requires_grad_())
    assert torch.autograd.gradcheck(
        lambda table: diversity_loss(table[codes], table, codes, torch.tensor(positives)), codebook.requires_grad_()
    )


def test_clusters_are_balanced_and_follow_the_codebook() -> None:
    """Two far groups of 10 and 30 codes: three clusters of 13 or 14 codes, also after the codebook has moved."""
    groups, clusters, source = torch.tensor([[-5.0, 0]] * 10 + [[5, 0]] * 30), CodeClusters(3), seeded()
    codebook = groups + torch.randn(40, 2, generator=seeded(1))
    for moved in (codebook, codebook + 0.2 * torch.randn(40, 2, generator=seeded(2)), codebook.flip(0)):
        clusters.update(moved, source)
        assert clusters.size.min() >= 12
        assert clusters.size.max() <= 15


def test_positives_are_uniform_among_the_other_codes_of_the_cluster() -> None:
    clusters = CodeClusters(2)
    clusters.update(torch.tensor([[0.0], [10], [1], [11], [2], [12]]), seeded())  # clusters {0, 2, 4} and {1, 3, 5}
    drawn = clusters.positives(torch.arange(6).repeat(3_000), seeded(1)).view(-1, 6)
    for code, (one, other) in enumerate([(2, 4), (3, 5), (0, 4), (1, 5), (0, 2), (1, 3)]):
        share = (drawn[:, code] == one).double().mean()
        assert set(drawn[:, code].tolist()) == {one, other}
        assert float(share) == pytest.approx(0.5, abs=0.05)
    alone = CodeClusters(1)
    alone.update(torch.tensor([[0.0]]), seeded())
    assert alone.positives(torch.tensor([0, 0]), seeded()).tolist() == [-1, -1]


def test_satisfies_the_protocols() -> None:
    letter = LETTER(Collaborative())
    assert isinstance(letter, Quantizer)
    assert isinstance(letter, InteractionQuantizer)
    assert not isinstance(RQVAE(), InteractionQuantizer)
    assert letter.for_items(1_000).level_sizes() == (64, 64, 64)
    assert (letter.alignment_weight, letter.diversity_weight, letter.num_clusters) == (0.01, 1e-4, 10)  # train_tokenizer.sh
    with pytest.raises(UsageError, match="call fit_interactions"):
        letter.fit(np.zeros((3, 2), dtype=np.float32), seeded())


def test_without_weights_it_is_the_rqvae_bit_for_bit(views: Views) -> None:
    plain = SMALL.fit(views.vectors, seeded())
    letter = fit(LETTER(Collaborative(dim=8), SMALL, alignment_weight=0, diversity_weight=0), views)
    assert plain.training_curves() == letter.training_curves()
    for name, array in plain.state().items():
        np.testing.assert_array_equal(letter.state()[name], array)


@pytest.mark.parametrize("weights", [(0.01, 0.0), (0.0, 1e-4), (0.01, 1e-4)])
def test_depends_on_the_generator_only(views: Views, weights: tuple[float, float]) -> None:
    letter, before = LETTER(Collaborative(dim=8), SMALL, *weights), torch.get_rng_state()
    first, again, other = (fit(letter, views, seed).state() for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before)
    for name, array in first.items():
        np.testing.assert_array_equal(array, again[name])
    assert (first["codebooks"] != other["codebooks"]).any()
    assert (first["codebooks"] != SMALL.fit(views.vectors, seeded(1)).state()["codebooks"]).any()


def test_the_curves_have_the_terms(views: Views) -> None:
    rows = fit(LETTER(Collaborative(dim=8), SMALL), views).training_curves()
    assert all(0 < row["alignment"] < log(128) + 0.5 and row["diversity"] > 0 for row in rows)
    assert "diversity" not in fit(LETTER(Collaborative(dim=8), SMALL, diversity_weight=0), views).training_curves()[0]


def test_codes_follow_the_interactions_more_than_those_of_an_rqvae(views: Views) -> None:
    """First codes agree with the tastes, also of items without interactions, which have the codes of their vectors alone."""
    longer = replace(SMALL, epochs=60)
    plain = longer.fit(views.vectors, seeded()).encode(views.vectors)[:, 0]
    letter = fit(LETTER(Collaborative(dim=8), longer, alignment_weight=3), views).encode(views.vectors)[:, 0]
    for rows in (slice(None, -NEW), slice(-NEW, None)):
        of_plain, of_letter = (normalized_mutual_info_score(views.taste[rows], codes[rows]) for codes in (plain, letter))
        assert of_letter > of_plain + 0.2


@pytest.mark.parametrize("seed", range(3))
def test_each_weight_lowers_its_term(views: Views, seed: int) -> None:
    """The terms that a training ends with, by the weight; weights of 1e-9 record a term without training it."""
    none = LETTER(Collaborative(dim=8), replace(SMALL, epochs=40), alignment_weight=1e-9, diversity_weight=1e-9)
    rows = fit(none, views, seed).training_curves()
    for term in ("alignment", "diversity"):
        trained = fit(replace(none, **{f"{term}_weight": 1.0}), views, seed).training_curves()
        assert trained[-1][term] < rows[-1][term] - 0.3


def test_items_without_interactions_are_no_part_of_the_alignment(views: Views) -> None:
    given = np.random.default_rng(1).normal(size=(400, 8)).astype(np.float32)
    changed, other = given.copy(), given.copy()
    changed[-NEW:] += 5
    other[0] += 5
    first, same, moved = (fit(LETTER(Fixed(each), SMALL), views).state()["codebooks"] for each in (given, changed, other))
    np.testing.assert_array_equal(first, same)
    assert (first != moved).any()


def test_a_batch_without_interactions_has_no_alignment() -> None:
    losses = autoencoder_training.Losses(*[torch.zeros(())] * 5, torch.ones(2, 3))
    terms = LetterTerms(torch.ones(4, 3), torch.tensor([True, False, False, True]), 1.0, 0.0, 10, seeded())
    terms.begin_epoch(torch.zeros(1, 4, 3))
    assert terms.loss(torch.tensor([1, 2]), losses, torch.zeros(1, 4, 3)).item() == 0
    assert terms.loss(torch.tensor([0, 3]), losses, torch.zeros(1, 4, 3)).item() == pytest.approx(log(2))
    assert terms.figures() == {"alignment": pytest.approx(log(2) / 2)}


def test_narrower_vectors_are_padded_and_wider_ones_refused(views: Views) -> None:
    """Latents beyond the width of the vectors of interactions are free: zeros add nothing to a dot product."""
    narrow = Collaborative(dim=3).encode(catalog(400), views.interactions)
    padded = np.pad(narrow, ((0, 0), (0, 5)))
    ours, by_hand = (fit(LETTER(Fixed(each), SMALL), views).state()["codebooks"] for each in (narrow, padded))
    np.testing.assert_array_equal(ours, by_hand)
    with pytest.raises(UsageError, match=r"Collaborative gives vectors of width 9, .*latent_dim to at least 9"):
        fit(LETTER(Collaborative(dim=9), SMALL), views)
    for wrong in (narrow[:10], narrow[:, 0], np.where(narrow > 0, np.nan, narrow)):
        with pytest.raises(InputError, match=r"Fixed must return finite vectors \[400, D\] to LETTER"):
            fit(LETTER(Fixed(wrong), SMALL), views)


def test_the_items_that_it_is_fitted_on_keep_their_interactions(views: Views) -> None:
    """With fit_on="trained" the fitted items are numbered anew; the items without interactions get codes of their vectors."""
    letter, items = LETTER(Item2Vec(dim=8, epochs=1), SMALL), catalog(400)
    order = np.concatenate([np.arange(400 - NEW, 400), np.arange(400 - NEW)])  # items without interactions first
    later = views.interactions.assign(item=views.interactions["item"] + NEW)
    made = tokenize(views.vectors[order], Tokenize(letter, fit_on="trained", min_usage=0), items, later, warn=False)
    trained = np.unique(views.interactions["item"])
    known = views.interactions.assign(item=np.searchsorted(trained, views.interactions["item"]) + 1)
    alone = letter.fit_interactions(views.vectors[trained - 1], catalog(len(trained)), known, seeded())
    for name, array in alone.state().items():
        np.testing.assert_array_equal(made.quantizer.state()[name], array)


def test_later_items_get_codes_of_their_vectors(tmp_path: Path, views: Views) -> None:
    specification = Tokenize(LETTER(Collaborative(dim=8), SMALL), collisions="keep", min_usage=0)
    made = tokenize(views.vectors[:-NEW], specification, catalog(400 - NEW), views.interactions, warn=False)
    save_tokenized(made, tmp_path)
    extended = extend(load_tokenized(tmp_path, specification), specification, views.vectors[-NEW:])
    np.testing.assert_array_equal(extended.codes[-NEW:], made.quantizer.encode(views.vectors[-NEW:]))


def test_the_stage_passes_training_interactions_and_its_key_follows_the_encoder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GENREC_HOME", str(tmp_path))
    seen: list[tuple[DataFrame, DataFrame]] = []
    encode = Collaborative.encode
    monkeypatch.setattr(Collaborative, "encode", lambda self, *tables: seen.append(tables) or encode(self, *tables))
    autoencoder = replace(SMALL, epochs=2, codebook_size=4)
    row = replace(cyclic(steps=1), embed=TfidfSvd(dim=8), tokenize=Tokenize(LETTER(Collaborative(dim=4), autoencoder), min_usage=0))
    made = pipeline.run(row, last="tokenize")
    assert {"alignment", "diversity"} <= set(pd.read_parquet(made["tokenize"].folder / "curves.parquet"))
    corpus = Corpus.load(made["data"].folder)
    ((items, interactions),) = seen
    assert items["item_id"].tolist() == corpus.items["item_id"].tolist()
    pd.testing.assert_frame_equal(interactions, corpus.part("train"))
    (other,) = overrides.override([row], ["--tokenize.quantizer.collaborative.dim", "3"])
    keys, others = ({step.stage: step.key for step in pipeline.plan(each)} for each in (row, other))
    assert [stage for stage in keys if keys[stage] == others[stage]] == ["data", "embed"]


def test_it_is_chosen_on_the_command_line() -> None:
    flags = ["--tokenize.quantizer", "LETTER", "--tokenize.quantizer.collaborative", "Item2Vec"]
    (row,) = overrides.override([cyclic(steps=1)], [*flags, "--tokenize.quantizer.autoencoder.epochs", "7"])
    assert row.tokenize is not None
    assert row.tokenize.quantizer == LETTER(Item2Vec(), RQVAE(latent_dim=64, codebook_update="gradient", epochs=7))
    with pytest.raises(UsageError, match=r"--tokenize\.quantizer\.collaborative CLASS"):
        overrides.override([cyclic(steps=1)], flags[:2])


def test_tokenize_needs_the_interactions(views: Views) -> None:
    with pytest.raises(UsageError, match="LETTER reads training interactions: pass items and interactions to tokenize"):
        tokenize(views.vectors, Tokenize(LETTER(Collaborative(dim=8), SMALL)), catalog(400))
    with pytest.raises(UsageError, match="a vector for each of 9 items, got 400 vectors"):
        LETTER(Collaborative(dim=8), SMALL).fit_interactions(views.vectors, catalog(9), views.interactions, seeded())


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"collaborative": Collaborative}, r"LETTER\.collaborative must be an item encoder, .* got the class Collaborative"),
        ({"collaborative": "sasrec"}, r"LETTER\.collaborative must be an item encoder"),
        ({"autoencoder": None}, r"LETTER\.autoencoder must be RQVAE\(\.\.\.\), got None"),
        ({"alignment_weight": -1.0}, r"LETTER\.alignment_weight must be at least 0 and finite, got -1\.0"),
        ({"diversity_weight": float("inf")}, r"LETTER\.diversity_weight must be at least 0 and finite, got inf"),
        ({"num_clusters": 0}, r"LETTER\.num_clusters must be at least 1, got 0"),
        ({"autoencoder": RQVAE()}, r"diversity_weight has no effect on codebooks that are moving averages"),
    ],
)
def test_wrong_settings_are_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        LETTER(**({"collaborative": Collaborative()} | fields))
