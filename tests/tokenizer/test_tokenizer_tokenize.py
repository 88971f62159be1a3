"""The tokenize stage: treatments of collisions, collapse, new items, saving and loading, plug-in quantizers."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import save_file

from genrec.errors import ArtifactError, InputError, NumericsError, UsageError
from genrec.semantic_ids import SemanticIds
from genrec.tokenizer import (
    RQVAE,
    ProductQuantizer,
    RandomCodes,
    RQKMeans,
    Tokenize,
    Tokenized,
    extend,
    load_tokenized,
    save_tokenized,
    tokenize,
)
from genrec.types import Quantizer


@dataclass(frozen=True)
class Given:
    """A plug-in quantizer with fixed codes; every reconstruction is the mean of the vectors."""

    codes: tuple[tuple[float, ...], ...]
    sizes: tuple[int, ...]

    def level_sizes(self) -> tuple[int, ...]:
        return self.sizes

    def fit(self, vectors: np.ndarray, generator: torch.Generator) -> FittedGiven:
        return FittedGiven(np.array(self.codes), vectors.mean(0))

    def restore(self, state: dict[str, np.ndarray]) -> FittedGiven:
        return FittedGiven(state["codes"], state["mean"])


@dataclass
class FittedGiven:
    codes: np.ndarray
    mean: np.ndarray

    def encode(self, vectors: np.ndarray) -> np.ndarray:
        return self.codes

    def reconstruct(self, codes: np.ndarray) -> np.ndarray:
        return np.tile(self.mean, (len(codes), 1))

    def state(self) -> dict[str, np.ndarray]:
        return {"codes": self.codes, "mean": self.mean}


FOUR = np.array([[0, 0], [2, 0], [0, 2], [2, 2]], dtype=np.float32)


def normal(items: int = 500, width: int = 8) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((items, width)).astype(np.float32)


def test_an_appended_level_separates_collisions() -> None:
    """Two codes and twelve different items: the appended level is as large as the largest group."""
    vectors = normal(12)
    ids, quantizer, figures = tokenize(vectors, Tokenize(RQKMeans(num_levels=1, codebook_size=2)))
    assert ids.levels == 2
    assert ids.collided == 0
    assert ids.level_sizes == (2, figures["largest_group_before_separation"])
    np.testing.assert_array_equal(quantizer.encode(vectors), ids.codes[:, :1].numpy())
    assert figures["collided_before_separation"] == 12
    assert figures["collided"] == 0
    assert figures["quantized_levels"] == 1


def test_equal_vectors_collide_and_are_separated_in_item_order() -> None:
    vectors = normal(300)
    vectors[[20, 150, 299]] = vectors[7]
    ids = tokenize(vectors, Tokenize(RQKMeans(num_levels=3, codebook_size=32))).semantic_ids
    assert (ids.codes[[7, 20, 150, 299], :3] == ids.codes[7, :3]).all()
    last = ids.codes[[7, 20, 150, 299], 3].tolist()
    assert last == sorted(last)
    assert ids.collided == 0


def test_kept_collisions_give_a_warning() -> None:
    with pytest.warns(UserWarning, match="12 of 12 items share their Semantic ID"):
        ids = tokenize(normal(12), Tokenize(RQKMeans(num_levels=1, codebook_size=2), collisions="keep")).semantic_ids
    assert (ids.levels, ids.level_sizes) == (1, (2,))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert tokenize(normal(12), Tokenize(RQKMeans(num_levels=1, codebook_size=12), collisions="keep")).semantic_ids.collided == 0


@pytest.mark.parametrize(
    "quantizer",
    [
        RQKMeans(num_levels=2, codebook_size=16),
        RQVAE(num_levels=2, codebook_size=16, hidden_dims=(16,), latent_dim=4, epochs=3, batch_size=64),
        ProductQuantizer(2, 16),
    ],
    ids=lambda each: type(each).__name__,
)
def test_reassigned_items_keep_their_prefix_and_share_no_semantic_id(quantizer: Quantizer) -> None:
    vectors = normal(100)
    kept, soft, exact = (
        without_warnings(vectors, Tokenize(quantizer, collisions=how, min_usage=0)) for how in ("keep", "sinkhorn", "reassign")
    )
    assert kept.semantic_ids.collided > soft.semantic_ids.collided >= exact.semantic_ids.collided == 0
    for each in (soft, exact):
        assert each.semantic_ids.level_sizes == quantizer.level_sizes()
        assert torch.equal(each.semantic_ids.codes[:, :-1], kept.semantic_ids.codes[:, :-1])
        assert each.health["moved"] == int((each.semantic_ids.codes != kept.semantic_ids.codes).any(1).sum()) > 0
        assert each.health["collided_before_separation"] == kept.semantic_ids.collided


def test_reassigning_needs_a_quantizer_with_costs() -> None:
    with pytest.raises(UsageError, match=r"needs a quantizer with last_level_costs, got Given; use 'append' or 'keep'"):
        tokenize(FOUR, Tokenize(Given(((0,), (0,), (1,), (2,)), (5,)), collisions="reassign"))
    with pytest.raises(UsageError, match=r"needs a quantizer with last_level_costs, got RandomCodes"):
        Tokenize(RandomCodes(), collisions="sinkhorn")


def test_more_items_on_a_prefix_than_the_last_level_holds() -> None:
    """One level of two codes, twelve items."""
    with pytest.raises(InputError, match="12") as error:
        tokenize(normal(12), Tokenize(RQKMeans(num_levels=1, codebook_size=2), collisions="reassign"))
    assert error.value.exit_code == 3


def without_warnings(vectors: np.ndarray, specification: Tokenize, **catalog: pd.DataFrame) -> Tokenized:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return tokenize(vectors, specification, **catalog)


TRAINED = np.r_[0:150, 170:300]  # rows of items with training interactions; 20 items have none


@pytest.mark.parametrize("how", ["append", "sinkhorn", "reassign", "keep"])
def test_items_without_training_interactions_are_added_as_new_items(how: str) -> None:
    """The other items have the same Semantic IDs as in a catalog without the new items."""
    vectors = normal(300)
    interactions = pd.DataFrame({"user": 1, "item": TRAINED + 1})
    specification = Tokenize(RQKMeans(num_levels=2, codebook_size=32), collisions=how, fit_on="trained")  # type: ignore[arg-type]
    whole = without_warnings(vectors, specification, interactions=interactions)
    alone = without_warnings(vectors[TRAINED], replace(specification, fit_on="all"))
    assert torch.equal(whole.semantic_ids.codes[TRAINED], alone.semantic_ids.codes)
    assert whole.health["items_fitted"] == 280
    new = np.setdiff1d(np.arange(300), TRAINED)
    grown = extend(alone, specification, vectors[new])
    assert torch.equal(grown.codes[280:], whole.semantic_ids.codes[new])
    assert grown.extends(alone.semantic_ids)
    if how in ("append", "reassign"):
        assert whole.semantic_ids.collided == grown.collided == 0


def test_fitting_on_trained_items_needs_training_interactions() -> None:
    with pytest.raises(InputError, match="needs training interactions"):
        tokenize(normal(), Tokenize(fit_on="trained"))


def test_extending_a_catalog_twice() -> None:
    made = tokenize(normal(300)[:200], Tokenize(RQKMeans(num_levels=2, codebook_size=16)))
    once = extend(made, Tokenize(RQKMeans(num_levels=2, codebook_size=16)), normal(300)[200:])
    twice = extend(made, Tokenize(RQKMeans(num_levels=2, codebook_size=16)), normal(300)[200:250])
    twice = extend(made._replace(semantic_ids=twice), Tokenize(RQKMeans(num_levels=2, codebook_size=16)), normal(300)[250:])
    assert once.fingerprint == twice.fingerprint
    assert once.collided == 0


def test_save_and_load(tmp_path: Path) -> None:
    specification = Tokenize(RQKMeans(num_levels=2, codebook_size=16))
    made = tokenize(normal(), specification)
    save_tokenized(made, tmp_path)
    read = load_tokenized(tmp_path, specification, normal())
    assert read.semantic_ids.fingerprint == made.semantic_ids.fingerprint
    assert read.semantic_ids.level_sizes == made.semantic_ids.level_sizes
    assert read.health == made.health
    new = normal(600)[500:]
    assert extend(read, specification, new).fingerprint == extend(made, specification, new).fingerprint


def test_other_vectors_or_other_codes_raise(tmp_path: Path) -> None:
    """The message has both fingerprints."""
    specification = Tokenize(RQKMeans(num_levels=2, codebook_size=16))
    made = tokenize(normal(), specification)
    save_tokenized(made, tmp_path)
    changed = normal()
    changed[3, 3] += 1e-3
    with pytest.raises(ArtifactError, match=f"fingerprint [0-9a-f]{{16}}, expected {made.health['vectors']}") as error:
        load_tokenized(tmp_path, specification, changed)
    assert error.value.exit_code == 4
    SemanticIds(made.semantic_ids.codes.flip(0)).save(tmp_path / "codes.safetensors")
    with pytest.raises(ArtifactError, match=f"expected {made.semantic_ids.fingerprint}"):
        load_tokenized(tmp_path, specification)


@pytest.mark.parametrize("content", [None, b"", b"[]", b"{"])
@pytest.mark.parametrize("name", ["quantizer.safetensors", "health.json"])
def test_damaged_files_raise(tmp_path: Path, name: str, content: bytes | None) -> None:
    specification = Tokenize(RQKMeans(num_levels=2, codebook_size=16))
    save_tokenized(tokenize(normal(), specification), tmp_path)
    if content is None:
        (tmp_path / name).unlink()
    else:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(ArtifactError, match=name) as error:
        load_tokenized(tmp_path, specification)
    assert error.value.exit_code == 4


def test_another_quantizer_or_specification_raises(tmp_path: Path) -> None:
    specification = Tokenize(RQKMeans(num_levels=2, codebook_size=16))
    made = tokenize(normal(), specification)
    save_tokenized(made, tmp_path)
    for other in (Tokenize(RQKMeans(num_levels=2, codebook_size=32)), replace(specification, collisions="keep")):
        with pytest.raises(ArtifactError, match="pass the specification that made them"):
            load_tokenized(tmp_path, other)
    codebooks = made.quantizer.state()["codebooks"]
    save_file({"codebooks": torch.zeros_like(torch.from_numpy(codebooks))}, tmp_path / "quantizer.safetensors")
    with pytest.raises(ArtifactError, match=f"expected {made.health['quantizer']}"):
        load_tokenized(tmp_path, specification)


def test_all_zero_vectors_of_new_items_raise() -> None:
    specification = Tokenize(RQKMeans(num_levels=2, codebook_size=16))
    new = normal(10)
    new[[3, 5]] = 0
    with pytest.raises(InputError, match="2 of 10 vectors of new items are all-zero, the first in row 3"):
        extend(tokenize(normal(), specification), specification, new)


def test_new_items_of_a_full_prefix_share_with_sinkhorn() -> None:
    specification = Tokenize(RQKMeans(num_levels=2, codebook_size=4), collisions="sinkhorn")
    with warnings.catch_warnings(record=True) as recorded:
        warnings.simplefilter("always")
        grown = extend(tokenize(normal(100), specification), specification, normal(150)[100:])
    assert grown.items == 150
    assert any("of 50 new items share their Semantic ID" in str(each.message) for each in recorded)


def test_level_sizes_are_the_quantizers_if_the_largest_code_is_unused() -> None:
    ids = tokenize(FOUR, Tokenize(Given(((0, 0), (1, 0), (2, 0), (3, 0)), (5, 9)))).semantic_ids
    assert ids.level_sizes == (5, 9, 1)


def test_semantic_ids_depend_on_the_seed() -> None:
    specifications = [Tokenize(RQKMeans(codebook_size=16), seed=seed) for seed in (3, 3, 4)]
    first, same, other = (tokenize(normal(), each).semantic_ids.fingerprint for each in specifications)
    assert first == same != other


def test_rqvae_as_the_quantizer() -> None:
    quantizer = RQVAE(num_levels=2, codebook_size=8, hidden_dims=(16,), latent_dim=4, epochs=3, batch_size=64)
    ids, fitted, figures = tokenize(normal(), Tokenize(quantizer))
    assert ids.collided == 0
    assert len(figures["levels"]) == 3
    np.testing.assert_array_equal(quantizer.restore(fitted.state()).encode(normal()), ids.codes[:, :2].numpy())


def test_collapse_raises_unless_allowed() -> None:
    collapsed = Given(((0,), (0,), (1,), (0,)), (8,))
    with pytest.raises(NumericsError, match=r"level 1 uses 2 of 4 codes \(50\.0%\), less than the 60\.0%.*lower min_usage") as error:
        tokenize(FOUR, Tokenize(collapsed, min_usage=0.6))
    assert error.value.exit_code == 6
    assert tokenize(FOUR, Tokenize(collapsed, min_usage=0.5)).health["levels"][0]["used"] == 2
    assert tokenize(FOUR, Tokenize(collapsed, min_usage=0)).semantic_ids.collided == 0


def test_equal_vectors_are_a_collapse() -> None:
    with pytest.raises(NumericsError, match=r"level 1 uses 1 of 16 codes \(6\.2%\)"):
        tokenize(np.ones((50, 4), dtype=np.float32), Tokenize(RQKMeans(codebook_size=16)))


def test_fewer_items_than_codes_are_no_collapse_with_shrink() -> None:
    ids = tokenize(normal(10), Tokenize(RQKMeans(codebook_size=256, shrink=True))).semantic_ids
    assert ids.level_sizes == (256, 256, 256, 1)


@pytest.mark.parametrize("codes", [((0,), (1,), (2,)), ((0, 0), (1, 0), (2, 0), (3, 0)), ((0.0,), (1.0,), (2.0,), (3.0,))])
def test_codes_of_another_shape_or_type_raise(codes: tuple[tuple[float, ...], ...]) -> None:
    with pytest.raises(InputError, match=r"Given must encode 4 vectors to codes int64 \[4, 1\], got"):
        tokenize(FOUR, Tokenize(Given(codes, (4,))))


def test_codes_outside_their_level_raise() -> None:
    with pytest.raises(InputError, match=r"level 1 must lie in 0\.\.2, got 0\.\.3"):
        tokenize(FOUR, Tokenize(Given(((0,), (1,), (2,), (3,)), (3,))))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("quantizer", "rqvae"),
        ("min_usage", -0.1),
        ("min_usage", math.nan),
        ("min_usage", 2),
        ("seed", -1),
        ("collisions", "separate"),
        ("fit_on", "train"),
    ],
)
def test_fields_out_of_range_raise(name: str, value: object) -> None:
    with pytest.raises(UsageError, match=rf"Tokenize\.{name} must .*, got"):
        Tokenize(**{name: value})  # type: ignore[arg-type]


def test_listed_codes_have_no_reconstruction_error_and_a_collapse_is_a_warning() -> None:
    """Listed codes are not fitted, so a collapse is not an error."""
    with pytest.warns(UserWarning, match=r"level 1 uses .* have collapsed"):
        made = tokenize(normal(20), Tokenize(RandomCodes(num_levels=2, codebook_size=64), min_usage=1.0))
    assert made.health["reconstruction"] is None
    assert made.semantic_ids.collided == 0


@pytest.mark.parametrize(
    "quantizer",
    [RQKMeans(num_levels=3, codebook_size=8), RQKMeans(num_levels=3, codebook_size=8, balanced=True)],
    ids=["plain", "balanced"],
)
def test_equal_vectors_always_collide(quantizer: Quantizer) -> None:
    """With fewer distinct vectors than codes, later levels see rounding noise, which must not separate equal items."""
    vectors = normal(5, 6)[np.random.default_rng(0).integers(0, 5, 125)]
    made = without_warnings(vectors, Tokenize(quantizer, collisions="keep", min_usage=0))
    assert made.semantic_ids.distinct == len(np.unique(vectors, axis=0)) == 5


@pytest.mark.parametrize(
    "quantizer", [RQKMeans(codebook_size=8), RQKMeans(codebook_size=8, engine="faiss"), ProductQuantizer(codebook_size=8)], ids=str
)
def test_vectors_that_are_too_large_raise(quantizer: Quantizer) -> None:
    with pytest.raises(InputError, match=r"entries of up to 1e\+20"):
        quantizer.fit(np.full((20, 4), 1e20, dtype=np.float32), torch.Generator())


def test_codebook_sizes_must_be_integers() -> None:
    with pytest.raises(UsageError, match=r"RQKMeans\.codebook_size must be an integer, got 64\.5"):
        RQKMeans(codebook_size=64.5)  # type: ignore[arg-type]
