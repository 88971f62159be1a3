"""Codebook sizes by the number of items: the rule, every quantizer, and what reads the sizes afterwards."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.numpy import load_file
from worlds import TINY

from genrec import pipeline
from genrec.data.sources import Frames
from genrec.errors import InputError, UsageError
from genrec.experiment import Experiment
from genrec.overrides import override
from genrec.semantic_ids import SemanticIds
from genrec.testing import Shop
from genrec.testing.quantizer_checks import example_vectors
from genrec.tokenizer import (
    RQVAE,
    ProductQuantizer,
    RandomCodes,
    RQKMeans,
    Tokenize,
    extend,
    load_tokenized,
    save_tokenized,
    tokenize,
)
from genrec.tokenizer.residual_quantization import automatic_size
from genrec.types import AdaptiveQuantizer

SMALL_RQVAE = RQVAE(hidden_dims=(16,), latent_dim=4, epochs=2)
ADAPTIVE: dict[str, Any] = {
    "rqkmeans": RQKMeans(),
    "balanced": RQKMeans(balanced=True),
    "rqvae": SMALL_RQVAE,
    "product": ProductQuantizer(rounds=2),
    "random": RandomCodes(),
}


def vectors_of(count: int) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(count, 8)).astype(np.float32)


@pytest.mark.parametrize(
    ("items", "codes"),
    [(1, 1), (3, 3), (4, 4), (10, 4), (63, 4), (64, 8), (120, 8), (128, 16), (1000, 64), (2047, 128), (2048, 256), (10**6, 256)],
)
def test_the_size_is_a_power_of_two_up_to_an_eighth_of_the_items_from_4_to_256(items: int, codes: int) -> None:
    """120 / 8 = 15, so 8; 1000 / 8 = 125, so 64; 2047 / 8 < 256, so 128; fewer than 4 items get a code each."""
    assert automatic_size(items) == codes


@pytest.mark.parametrize("name", ADAPTIVE)
def test_an_automatic_size_gives_the_codes_of_the_explicit_one(name: str) -> None:
    """120 vectors have 8 codes: codes, state and level sizes equal those of codebook_size=8."""
    automatic, vectors = ADAPTIVE[name], vectors_of(120)
    assert isinstance(automatic, AdaptiveQuantizer)
    explicit = replace(automatic, codebook_size=8)
    assert automatic.for_items(120) == explicit
    assert explicit.for_items(3) is explicit
    made = [tokenize(vectors, Tokenize(each, min_usage=0), warn=False) for each in (automatic, explicit)]
    assert torch.equal(made[0].semantic_ids.codes, made[1].semantic_ids.codes)
    assert made[0].semantic_ids.level_sizes == made[1].semantic_ids.level_sizes
    assert made[0].semantic_ids.level_sizes[:-1] == (8,) * automatic.num_levels
    assert made[0].health == made[1].health
    assert [level["size"] for level in made[0].health["encoded_levels"]] == [8] * automatic.num_levels


@pytest.mark.parametrize("name", ADAPTIVE)
def test_stored_codes_are_loaded_and_extended_with_the_sizes_of_the_fit(name: str, tmp_path: Path) -> None:
    """The quantizer is fitted on 120 items, and 100 items are added, for which the rule alone would give 16 codes."""
    specification, vectors = Tokenize(ADAPTIVE[name], min_usage=0), vectors_of(120)
    made = tokenize(vectors, specification, warn=False)
    save_tokenized(made, tmp_path)
    loaded = load_tokenized(tmp_path, specification, vectors)
    extended = extend(loaded, specification, vectors_of(220)[120:])
    assert extended.items == 220
    assert extended.level_sizes[:-1] == (8,) * ADAPTIVE[name].num_levels


def test_items_without_training_interactions_do_not_count() -> None:
    """Of 160 items 100 have training interactions: 100 / 8 gives 8 codes, 160 / 8 would give 16."""
    interactions = pd.DataFrame({"user": 1, "item": np.arange(1, 101), "time": 0})
    made = tokenize(vectors_of(160), Tokenize(RQKMeans(), fit_on="trained"), interactions=interactions, warn=False)
    assert made.semantic_ids.level_sizes[:3] == (8, 8, 8)
    assert made.semantic_ids.items == 160


def test_2048_items_or_more_have_256_codes_as_before() -> None:
    vectors = example_vectors((1000,))[:2048]
    automatic, explicit = (each.fit(vectors, torch.Generator().manual_seed(0)) for each in (RQKMeans(), RQKMeans(codebook_size=256)))
    np.testing.assert_array_equal(automatic.state()["codebooks"], explicit.state()["codebooks"])
    assert automatic.state()["codebooks"].shape[1] == 256


def test_sizes_that_are_not_known_yet_and_sizes_that_are_too_large_are_refused() -> None:
    with pytest.raises(UsageError, match=r"RQKMeans\.codebook_size is None, .*: call for_items\(items\) first, or set codebook_size"):
        RQKMeans().level_sizes()
    for quantizer in (RQKMeans(codebook_size=200), ProductQuantizer(codebook_size=200), replace(SMALL_RQVAE, codebook_size=200)):
        with pytest.raises(InputError, match=r"cannot fill codebooks of 200 codes: set codebook_size to at most 120, .* 8 codes"):
            quantizer.fit(vectors_of(120), torch.Generator().manual_seed(0))
    for kind in (RQKMeans, RQVAE, ProductQuantizer, RandomCodes):
        with pytest.raises(UsageError, match=rf"{kind.__name__}\.codebook_size must be at least 1, got 0"):
            kind(codebook_size=0)
    with pytest.raises(UsageError, match=r"RQVAE\.batch_size must be at least 256, got 64"):
        RQVAE(batch_size=64)
    assert RQVAE(batch_size=64, codebook_size=32).batch_size == 64


def test_the_command_line_sets_and_clears_the_size() -> None:
    base = Experiment(name="mine", source=Shop())
    assert base.tokenize is not None
    assert base.tokenize.quantizer == RQKMeans(codebook_size=None)
    (fixed,) = override([base], ["--tokenize.quantizer.codebook-size", "32"])
    assert fixed.tokenize == Tokenize(RQKMeans(codebook_size=32))
    (cleared,) = override([fixed], ["--tokenize.quantizer.codebook-size", "None"])
    assert cleared.tokenize == base.tokenize


@pytest.mark.parametrize("with_items", [True, False])
def test_an_experiment_on_small_tables_needs_no_sizes(with_items: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """3,073 events and 120 items, with and without a table of items: `Experiment(name, source)` gets Semantic IDs of 3 x 8 codes."""
    monkeypatch.setenv("GENREC_HOME", str(tmp_path / "home"))
    tables = Shop(num_items=120, num_users=150, max_length=32).load(Path())
    tables.interactions.to_csv(tmp_path / "events.csv", index=False)
    tables.items.to_csv(tmp_path / "items.csv", index=False)
    source = Frames(tmp_path / "events.csv", tmp_path / "items.csv" if with_items else None)
    artifacts = pipeline.run(Experiment(name="mine", source=source), last="tokenize")
    semantic_ids = SemanticIds.load(artifacts["tokenize"].folder / "codes.safetensors")
    assert semantic_ids.items == 120
    assert semantic_ids.level_sizes[:3] == (8, 8, 8)
    assert not semantic_ids.collided
    assert load_file(artifacts["embed"].folder / "vectors.safetensors")["vectors"].shape == (120, 64)
    health = json.loads((artifacts["tokenize"].folder / "health.json").read_text())
    assert all(level["used"] == 8 for level in health["encoded_levels"])
    assert TINY.build(semantic_ids).level_log_prob(torch.tensor([[1]]), torch.tensor([[2]])).shape == (1, 1, 4)
